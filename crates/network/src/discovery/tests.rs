use cascade_primitives::ChainId;

use super::*;
use crate::announce::tests::{NETWORK, announcement};

const NOW: TimestampMs = TimestampMs(10_000_000);

fn id(seed: u8) -> NodeId {
    Identity::from_seed(&[seed; 32]).node_id()
}

fn core(seed: u8, max_entries: usize) -> Discovery {
    let config = DiscoveryConfig { max_entries, allow_private: true, ..DiscoveryConfig::new(NETWORK) };
    Discovery::new(config, Identity::from_seed(&[seed; 32]), [seed; 32])
}

fn with_peers(seed: u8, max_entries: usize, peers: impl IntoIterator<Item = u8>) -> Discovery {
    let mut core = core(seed, max_entries);
    core.step(NOW, Input::Peers(peers.into_iter().map(id).collect()));
    core
}

fn deliver(core: &mut Discovery, now: TimestampMs, from: u8, list: Vec<Announcement>) -> Vec<Effect> {
    let payload = encode(&DiscoveryMessage::Announcements(list));
    core.step(now, Input::Message { from: id(from), payload })
}

fn sent(effects: &[Effect]) -> Vec<(&Vec<NodeId>, DiscoveryMessage)> {
    let message = |payload: &Bytes| DiscoveryMessage::from_slice(payload).unwrap();
    effects
        .iter()
        .filter_map(|e| if let Effect::Send { to, payload } = e { Some((to, message(payload))) } else { None })
        .collect()
}

#[test]
fn a_new_announcement_is_kept_reported_and_forwarded_once_but_not_back() {
    let mut core = with_peers(1, 100, 10..14);
    let news = announcement(2, NOW.0);
    let effects = deliver(&mut core, NOW, 10, vec![news.clone()]);
    assert_eq!(core.get(NOW, id(2)), Some(&news));
    assert!(effects.contains(&Effect::Found(Box::new(news.clone()))));
    let messages = sent(&effects);
    assert_eq!(messages.len(), 1);
    let mut expected = vec![id(11), id(12), id(13)];
    expected.sort_unstable();
    assert_eq!(messages[0].0, &expected);
    assert_eq!(deliver(&mut core, NOW, 11, vec![news]), []);
}

#[test]
fn the_fanout_is_bounded() {
    let mut core = with_peers(1, 100, 10..40);
    let effects = deliver(&mut core, NOW, 10, vec![announcement(2, NOW.0)]);
    assert_eq!(sent(&effects)[0].0.len(), core.config.fanout);
}

#[test]
fn an_older_or_hasty_announcement_never_replaces_a_newer_one() {
    let mut core = with_peers(1, 100, [10, 11]);
    let newer = announcement(2, NOW.0);
    deliver(&mut core, NOW, 10, vec![newer.clone()]);
    for issued_at in [NOW.0 - 5000, NOW.0 - 1, NOW.0, NOW.0 + MIN_INTERVAL_MS - 1] {
        assert_eq!(deliver(&mut core, NOW, 11, vec![announcement(2, issued_at)]), []);
        assert_eq!(core.get(NOW, id(2)), Some(&newer));
    }
    let next = announcement(2, NOW.0 + MIN_INTERVAL_MS);
    deliver(&mut core, NOW, 11, vec![next.clone()]);
    assert_eq!(core.get(NOW, id(2)), Some(&next));
}

#[test]
fn forgery_and_other_chains_are_misbehaviour_and_clocks_are_not() {
    let mut core = with_peers(1, 100, [10, 11]);
    let mut forged = announcement(2, NOW.0);
    forged.body.claims.stake += 1;
    let effects = deliver(&mut core, NOW, 10, vec![forged]);
    assert_eq!(effects, [Effect::Misbehaved(id(10), Misbehaviour::InvalidSignature)]);

    let mut foreign = announcement(2, NOW.0).body;
    foreign.network.chain_id = ChainId(99);
    let effects = deliver(&mut core, NOW, 10, vec![foreign.sign(&Identity::from_seed(&[2; 32]))]);
    assert_eq!(effects, [Effect::Misbehaved(id(10), Misbehaviour::InvalidContent)]);

    let late = announcement(2, NOW.0 - 4_000_000);
    let early = announcement(3, NOW.0 + MAX_SKEW_MS + 1);
    assert_eq!(deliver(&mut core, NOW, 10, vec![late, early]), []);
    assert!(core.is_empty());
    let garbage = core.step(NOW, Input::Message { from: id(10), payload: Bytes::from_static(&[7]) });
    assert_eq!(garbage, [Effect::Misbehaved(id(10), Misbehaviour::Undecodable)]);
}

#[test]
fn expired_entries_are_neither_shown_nor_handed_out_and_go_at_a_tick() {
    let mut core = with_peers(1, 100, [10]);
    deliver(&mut core, NOW, 10, vec![announcement(2, NOW.0)]);
    let later = NOW.plus(3_600_000);
    assert_eq!(core.announcements(later).count(), 0);
    let pull = Input::Message { from: id(10), payload: encode(&DiscoveryMessage::Pull) };
    assert_eq!(core.step(later, pull), []);
    assert_eq!(core.len(), 1);
    core.step(later, Input::Tick);
    assert!(core.is_empty());
}

#[test]
fn a_flooding_peer_displaces_its_own_entries_only() {
    let mut core = with_peers(1, 40, [100, 101]);
    core.step(NOW, Input::Committee([id(90)].into()));
    let old = NOW.minus(60_000).0;
    deliver(&mut core, NOW, 100, vec![announcement(90, old)]);
    deliver(&mut core, NOW, 101, (50..60).map(|s| announcement(s, old)).collect());
    core.step(NOW, Input::Announce { endpoints: vec![], claims: Claims::FOLLOWER });
    for seeds in [110..160, 160..210] {
        deliver(&mut core, NOW, 100, seeds.map(|s| announcement(s, NOW.0)).collect());
        assert!(core.len() <= 40);
    }
    for seed in (50..60).chain([1, 90]) {
        assert!(core.get(NOW, id(seed)).is_some(), "{seed}");
    }
}

#[test]
fn a_newcomer_pulls_gets_a_bounded_part_and_the_committee_first() {
    let mut core = with_peers(1, 1000, [100]);
    let mut seeds = 0u16;
    while core.len() < 600 {
        let batch = (0..60).map(|_| {
            seeds += 1;
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&seeds.to_le_bytes());
            let body = announcement(1, NOW.0).body;
            body.sign(&Identity::from_seed(&seed))
        });
        let batch = batch.collect();
        deliver(&mut core, NOW, 100, batch);
    }
    let committee: BTreeSet<NodeId> = core.table.keys().copied().step_by(60).collect();
    core.step(NOW, Input::Committee(committee.clone()));
    let effects = core.step(NOW, Input::Peers([id(100), id(101)].into()));
    assert_eq!(sent(&effects), [(&vec![id(101)], DiscoveryMessage::Pull)]);
    let pull = Input::Message { from: id(101), payload: encode(&DiscoveryMessage::Pull) };
    let effects = core.step(NOW, pull.clone());
    let mut got = BTreeSet::new();
    for (to, message) in sent(&effects) {
        assert_eq!(to, &vec![id(101)]);
        let DiscoveryMessage::Announcements(list) = message else { panic!("{message:?}") };
        got.extend(list.iter().map(|a| a.body.node));
    }
    assert_eq!(got.len(), MAX_PER_MESSAGE * MESSAGES_PER_PULL);
    assert!(committee.is_subset(&got));
    assert_eq!(core.step(NOW, pull), [Effect::Misbehaved(id(101), Misbehaviour::Spam)]);
}

#[test]
fn the_own_announcement_is_renewed_and_outbids_one_from_before_a_restart() {
    let mut core = with_peers(2, 100, [10]);
    let own = Input::Announce { endpoints: vec![], claims: Claims::FOLLOWER };
    let first = core.step(NOW, own.clone());
    assert_eq!(sent(&first).len(), 1);
    assert_eq!(core.step(NOW, own), []);
    let third = NOW.plus(core.config.lifetime_ms / 3);
    core.step(NOW, Input::Tick);
    assert_eq!(core.step(third.minus(1), Input::Tick).len(), 1, "only a pull");
    let renewed = core.step(third, Input::Tick);
    assert_eq!(sent(&renewed).len(), 1);
    let ahead = announcement(2, third.0 + 10_000);
    deliver(&mut core, third, 10, vec![ahead.clone()]);
    let now_own = core.get(third, id(2)).unwrap();
    assert!(now_own.body.issued_at >= ahead.body.issued_at.plus(MIN_INTERVAL_MS));
    assert_eq!(now_own.verify(), Ok(()));
}

#[test]
fn gossip_over_a_random_sparse_graph_reaches_everyone() {
    const N: u8 = 30;
    let mut cores: Vec<Discovery> = (0..N).map(|i| core(i, 100)).collect();
    let index: BTreeMap<NodeId, usize> = (0..N).map(|i| (id(i), usize::from(i))).collect();
    let mut mail = Vec::new();
    for i in 0..N {
        let neighbours = [1, 2, 7].iter().flat_map(|d| [(i + d) % N, (i + N - d) % N]);
        let core = &mut cores[usize::from(i)];
        mail.extend(core.step(NOW, Input::Peers(neighbours.map(id).collect())).into_iter().map(|e| (id(i), e)));
        let own = Input::Announce { endpoints: vec![], claims: Claims::FOLLOWER };
        mail.extend(core.step(NOW, own).into_iter().map(|e| (id(i), e)));
    }
    while let Some((from, effect)) = mail.pop() {
        match effect {
            Effect::Send { to, payload } => {
                for peer in to {
                    let message = Input::Message { from, payload: payload.clone() };
                    mail.extend(cores[index[&peer]].step(NOW, message).into_iter().map(|e| (peer, e)));
                }
            }
            Effect::Misbehaved(..) => panic!("{effect:?}"),
            Effect::Found(_) => {}
        }
    }
    for core in &cores {
        assert_eq!(core.len(), usize::from(N));
    }
}
