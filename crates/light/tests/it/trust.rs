//! What a start and a handover have to prove.

use cascade_crypto::scheme::CertificateError as Invalid;
use cascade_light::{
    BlsScheme, CertificateError, Chain, ChainAnswer, ChainError, ChainRequest, Checkpoint, Config, Handover, KeyError,
    Report, Start, Stop,
};
use cascade_primitives::{B256, BlockHash, Encode, Epoch, Height, PublicKeys, ThresholdKeys, VoteTarget};

use super::world::{Kind, TestChain, Voters, World, public_keys, signing};

const DAY: u64 = 86_400_000;

fn bls() -> BlsScheme {
    BlsScheme::default()
}

fn chain(blocks: u64) -> TestChain {
    let mut chain = TestChain::new(4, 10, 500, true);
    for _ in 0..blocks {
        chain.grow(None);
    }
    chain
}

fn started(chain: &TestChain) -> Chain {
    let ChainAnswer::Start(start) = chain.answer(&ChainRequest::Start { height: Height(5) }) else {
        panic!("it is there")
    };
    Chain::start(signing(), &chain.checkpoint(5), start.0, start.1).unwrap()
}

#[test]
fn an_old_checkpoint_is_refused_and_an_old_genesis_is_warned_about() {
    for (age, refused) in [(DAY, false), (DAY + 1, true)] {
        let chain = chain(8);
        let now = chain.headers[&Height(5)].timestamp.0 + age;
        let config = Config::new(signing(), Start::Checkpoint(chain.checkpoint(5)), DAY, [1; 32]);
        let mut world = World::with(chain, config, &[Kind::Honest], now);
        world.run(1000);
        let expected = Stop::TooOld { height: Height(5), age_ms: age + 10, delay_ms: DAY };
        let stopped = world.stopped.is_some();
        assert_eq!(stopped, refused || age + 10 > DAY);
        if let Some(stop) = world.stopped {
            assert_eq!(stop, expected);
        }
    }
    let chain = chain(8);
    let config = Config::new(signing(), Start::Genesis(chain.checkpoint(0)), DAY, [1; 32]);
    let mut world = World::with(chain, config, &[Kind::Honest], 2 * DAY);
    world.run(1000);
    assert_eq!(world.stopped, None);
    assert_eq!(world.reports[0], Report::OldGenesis);
    assert!(matches!(world.reports[1], Report::CaughtUp { height: Height(8), .. }));
}

#[test]
fn a_client_that_slept_longer_than_the_delay_needs_a_new_checkpoint() {
    for (asleep, refused) in [(DAY / 2, false), (DAY + 1, true)] {
        let chain = chain(8);
        let now = chain.tip().timestamp.0;
        let config = Config::new(signing(), Start::Checkpoint(chain.checkpoint(5)), DAY, [1; 32]);
        let mut world = World::with(chain, config, &[Kind::Honest], now);
        world.run(1000);
        assert!(matches!(world.reports[0], Report::CaughtUp { height: Height(8), .. }));
        world.chain.grow(None);
        world.now += asleep;
        world.run(3000);
        let stopped = matches!(world.stopped, Some(Stop::TooOld { height: Height(8), .. }));
        assert_eq!(stopped, refused, "{:?}", world.stopped);
        assert_eq!(world.client.chain().unwrap().tip().height == Height(9), !refused);
    }
}

#[test]
fn a_start_that_is_not_the_checkpoints_is_refused() {
    let chain = chain(8);
    let ChainAnswer::Start(start) = chain.answer(&ChainRequest::Start { height: Height(5) }) else {
        panic!("it is there")
    };
    let (header, committee) = *start;
    let right = chain.checkpoint(5);
    let other = Voters::new(0, 4, 99).committee;
    let refused =
        |checkpoint: Checkpoint, committee| Chain::start(signing(), &checkpoint, header.clone(), committee).is_err();
    assert!(!refused(right, committee.clone()));
    assert!(refused(right, other.clone()));
    assert!(refused(Checkpoint { committee_root: other.root(), ..right }, other));
    assert!(refused(Checkpoint { hash: BlockHash([1; 32]), ..right }, committee.clone()));
    assert!(refused(Checkpoint { height: Height(6), ..right }, committee.clone()));
    let foreign = cascade_primitives::SigningContext { genesis_hash: B256::ZERO, ..signing() };
    assert!(Chain::start(foreign, &right, header, committee).is_err());
}

#[test]
fn a_handover_holds_only_as_a_whole() {
    let chain = chain(25);
    let right = &chain.handovers[0];
    let accepts = |handover: &Handover| started(&chain).hand_over(&bls(), handover);
    assert_eq!(accepts(right), Ok(()));

    let attacker = Voters::new(1, 4, 77);
    let mut forged = right.clone();
    forged.members = Some(attacker.committee.members().to_vec());
    assert!(
        matches!(accepts(&forged), Err(ChainError::Committee { .. })),
        "members that the last header does not name"
    );

    let mut forged = right.clone();
    forged.keys = public_keys(9).commitment();
    assert!(matches!(accepts(&forged), Err(ChainError::Committee { .. })), "keys that the last header does not bind");
    forged.keys = ThresholdKeys::default();
    assert!(matches!(accepts(&forged), Err(ChainError::Committee { .. })), "no keys where it binds some");

    let mut forged = right.clone();
    forged.attempt = 1;
    assert!(
        matches!(accepts(&forged), Err(ChainError::Committee { .. })),
        "another attempt than the last header names"
    );

    // A header that is not the epoch's last one names the same committee; but that committee did not build on it.
    let early = chain.headers[&Height(7)].clone();
    let mut forged = right.clone();
    forged.end = chain.finality(&early);
    forged.last = early;
    assert!(matches!(accepts(&forged), Err(ChainError::Header { .. })));

    let few = &chain.voters[1];
    let mut forged = right.clone();
    forged.opened = few.certify(right.opened.target, few.quorum() - 1);
    assert!(matches!(
        accepts(&forged),
        Err(ChainError::Certificate { error: CertificateError::Invalid(Invalid::Quorum { found: 2, needed: 3 }), .. })
    ));

    let mut forged = right.clone();
    forged.end.certificate = chain.voters[0]
        .certify(VoteTarget::prepare(right.last.epoch, right.last.view, right.last.hash()), chain.voters[0].quorum());
    assert!(
        matches!(accepts(&forged), Err(ChainError::Certificate { error: CertificateError::Target, .. })),
        "a prepare certificate makes nothing final"
    );

    let mut forged = right.clone();
    forged.end.certificate.signature = forged.opened.signature;
    assert!(matches!(
        accepts(&forged),
        Err(ChainError::Certificate { error: CertificateError::Invalid(Invalid::Signature), .. })
    ));

    assert!(started(&chain).hand_over(&bls(), &chain.handovers[1]).is_err(), "epochs cannot be left out");
    let mut twice = started(&chain);
    twice.hand_over(&bls(), right).unwrap();
    assert!(twice.hand_over(&bls(), right).is_err());
    assert_eq!(twice.committee().epoch(), Epoch(1));
    twice.hand_over(&bls(), &chain.handovers[1]).unwrap();
}

#[test]
fn keys_are_believed_only_as_headers_bind_them() {
    let chain = chain(25);
    let mut light = started(&chain);
    let roots: Vec<B256> = chain.voters.iter().map(|voters| voters.committee.members_root()).collect();
    let unknown = |epoch, now| Err(KeyError::Unknown { epoch: Epoch(epoch), now: Epoch(now) });
    assert_eq!(light.verify_keys(&public_keys(0), &roots[0]), Err(KeyError::Wrong(Epoch(0))), "epoch 0 has none");
    light.hand_over(&bls(), &chain.handovers[0]).unwrap();
    assert_eq!(light.verify_keys(&public_keys(1), &roots[1]), Ok(()));
    assert_eq!(light.verify_keys(&public_keys(0), &roots[0]), unknown(0, 1), "over");
    // The tip is the last block of epoch 0, which names epoch 1 as the next.
    assert_eq!(light.verify_keys(&public_keys(2), &roots[2]), unknown(2, 1));
    let right = public_keys(1);
    let mut changed = [right; 4];
    changed[0].encryption[0] ^= 1;
    changed[1].decryption[95] ^= 1;
    changed[2].beacon[50] ^= 1;
    changed[3].key_sets.0[31] ^= 1;
    for wrong in changed {
        assert_eq!(light.verify_keys(&wrong, &roots[1]), Err(KeyError::Wrong(Epoch(1))));
    }
    // The members root is part of what is answered, so it is checked as well as the keys beside it.
    let mut changed = roots[1];
    changed.0[31] ^= 1;
    for wrong in [changed, roots[2], B256::ZERO] {
        assert_eq!(light.verify_keys(&right, &wrong), Err(KeyError::Wrong(Epoch(1))));
    }

    // In epoch 1, once a header of it is known, the next keys are too.
    let run: Vec<_> = chain.headers.values().filter(|header| header.epoch == Epoch(1)).cloned().collect();
    light.extend(&bls(), &run, &chain.finality(run.last().unwrap())).unwrap();
    assert_eq!(light.verify_keys(&public_keys(2), &roots[2]), Ok(()));
    assert_eq!(light.verify_keys(&public_keys(2), &roots[1]), unknown(2, 1), "of other members");
    assert_eq!(light.verify_keys(&PublicKeys { beacon: [9; 96], ..public_keys(2) }, &roots[2]), unknown(2, 1));
    assert_eq!(light.verify_keys(&public_keys(3), &roots[3]), unknown(3, 1));

    // Before the chain agreed on them, the next root is that of the members alone.
    let mut early = run[0].clone();
    early.next_committee_root = chain.voters[2].committee.with_keys(ThresholdKeys::default()).root();
    let checkpoint =
        Checkpoint { height: early.height, hash: early.hash(), committee_root: chain.voters[1].committee.root() };
    let light = Chain::start(signing(), &checkpoint, early, chain.voters[1].committee.clone()).unwrap();
    assert_eq!(light.verify_keys(&public_keys(2), &roots[2]), unknown(2, 1));
    assert_eq!(light.verify_keys(&public_keys(1), &roots[1]), Ok(()));
}

#[test]
fn a_head_has_to_contain_the_checkpoint() {
    let chain = chain(8);
    let ChainAnswer::Head(head) = chain.answer(&ChainRequest::Head { ancestor: Height(5) }) else {
        panic!("it is there")
    };
    let mut light = started(&chain);
    let wrong = (Height(5), BlockHash([9; 32]));
    let refused = light.jump(&bls(), head.header.clone(), &head.finality, wrong, &head.ancestry);
    assert_eq!(refused, Err(ChainError::History { height: Height(8), ancestor: Height(5) }));
    let right = (Height(5), chain.checkpoint(5).hash);
    assert_eq!(light.jump(&bls(), head.header.clone(), &head.finality, right, &head.ancestry), Ok(()));
    assert!(matches!(
        light.jump(&bls(), head.header, &head.finality, right, &head.ancestry),
        Err(ChainError::Old { .. })
    ));
}

#[test]
fn headers_in_a_run_are_linked() {
    let chain = chain(9);
    let run: Vec<_> = (6..=8).map(|h| chain.headers[&Height(h)].clone()).collect();
    let finality = chain.finality(&run[2]);
    assert_eq!(started(&chain).extend(&bls(), &run, &finality), Ok(()));
    for (at, break_it) in [0, 1, 2].into_iter().flat_map(|at| [0, 1, 2].map(|what| (at, what))) {
        let mut broken = run.clone();
        match break_it {
            0 => broken[at].base_fee += 1,
            1 => broken[at].timestamp.0 = 0,
            _ => broken[at].parent = BlockHash::ZERO,
        }
        assert!(started(&chain).extend(&bls(), &broken, &finality).is_err(), "header {at}, change {break_it}");
    }
    assert!(started(&chain).extend(&bls(), &run[1..], &finality).is_err());
    assert!(started(&chain).extend(&bls(), &[], &finality).is_err());
}

#[test]
fn saved_state_that_was_damaged_is_refused() {
    let chain = chain(25);
    let mut light = started(&chain);
    for stage in 0..2 {
        let bytes = light.to_bytes();
        assert_eq!(Chain::restore(signing(), &bytes).as_ref(), Ok(&light));
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(Chain::restore(signing(), &damaged).is_err());
        assert!(Chain::restore(signing(), &bytes[..bytes.len() - 1]).is_err());
        if stage == 0 {
            light.hand_over(&bls(), &chain.handovers[0]).unwrap();
        }
    }
}
