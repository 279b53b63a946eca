//! Votes and certificates: one vote, and the assembly and check of a certificate of 4, 32 and 100 members with a seat each.

use std::hint::black_box;

use cascade_crypto::{BlsScheme, BlsSecretKey, VoteScheme, VoteSigner, verify_certificate};
use cascade_primitives::{
    Address, B256, BlockHash, Certificate, ChainId, Committee, Epoch, Fork, Member, MemberIndex, NodeId, Seats,
    SignerSet, SigningContext, ThresholdKeys, View, VoteTarget,
};
use criterion::{Criterion, criterion_group, criterion_main};

const CONTEXT: SigningContext = SigningContext { chain_id: ChainId(1), genesis_hash: B256::ZERO, fork: Fork(0) };

fn committee(keys: &[BlsSecretKey]) -> Committee {
    let member = |(n, key): (usize, &BlsSecretKey)| Member {
        node: NodeId([n as u8; 32]),
        bls_key: key.public_key(),
        address: Address::with_last_byte(n as u8),
        seats: Seats(1),
        lead_weight: 1,
    };
    let members = keys.iter().enumerate().map(member).collect();
    Committee::new(Epoch(0), members, ThresholdKeys::default()).expect("distinct members")
}

fn votes(c: &mut Criterion) {
    let mut group = c.benchmark_group("votes");
    let keys: Vec<_> = (0..100_u8).map(|n| BlsSecretKey::derive(&[n; 32]).expect("enough material")).collect();
    let target = VoteTarget::prepare(Epoch(0), View(1), BlockHash::from(B256::repeat_byte(7)));
    let digest = target.digest(&CONTEXT);
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(&digest)).collect();
    group.bench_function("sign a vote", |b| b.iter(|| keys[0].sign(black_box(&digest))));
    // Keys are decoded once and remembered, as in a node.
    let scheme = BlsScheme::default();
    let public = keys[0].public_key();
    group.bench_function("verify a vote", |b| {
        b.iter(|| assert!(scheme.verify(black_box(&public), &digest, &signatures[0])));
    });
    for seats in [4, 32, 100] {
        let committee = committee(&keys[..seats]);
        let quorum = committee.quorum().0 as usize;
        let assemble = || {
            let mut signers = SignerSet::new(seats);
            for index in 0..quorum {
                signers.insert(MemberIndex(index as u16));
            }
            let signature = scheme.aggregate(&signatures[..quorum]).expect("signatures are points");
            Certificate { target, signers, signature }
        };
        group.bench_function(format!("assemble a certificate of {seats} seats"), |b| b.iter(assemble));
        let certificate = assemble();
        group.bench_function(format!("check a certificate of {seats} seats"), |b| {
            b.iter(|| verify_certificate(&scheme, &CONTEXT, &committee, black_box(&certificate)).expect("a quorum"));
        });
    }
    group.finish();
}

criterion_group!(benches, votes);
criterion_main!(benches);
