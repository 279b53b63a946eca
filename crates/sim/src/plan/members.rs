//! Who is there: committees of all epochs, and which of their members are Byzantine, are on two nodes, or never start.

use cascade_consensus::seats::committee_of;
use cascade_primitives::{Epoch, ScheduledCommittee};

use super::*;

/// Epochs for which committees are scheduled.
const SCHEDULED_EPOCHS: u64 = 12;
/// Keys that are on two nodes, at most: every copy costs as much as a node.
const MOST_TWINS: usize = 2;
/// What Byzantine sequencers do.
const KINDS: [Fault; 12] = [
    Fault::Silence,
    Fault::SilentLeader,
    Fault::Equivocation,
    Fault::DoubleVotes,
    Fault::InvalidBlocks,
    Fault::Forgery,
    Fault::Stale,
    Fault::Withholding,
    Fault::OtherBody,
    Fault::Selective,
    Fault::LyingSync,
    Fault::Twins,
];

/// Everybody.
pub(super) struct Members {
    pub(super) nodes: usize,
    pub(super) committees: Vec<ScheduledCommittee>,
    pub(super) byzantine: BTreeMap<usize, Character>,
    pub(super) twins: Vec<usize>,
    pub(super) absent: BTreeSet<usize>,
}

/// Who of the joiners never starts.
enum Absence {
    Nobody,
    /// One, whom every committee can spare.
    One,
    /// More than a committee can spare: the epoch before is extended as often as it may be, then they are dropped.
    Many,
}

pub(super) fn choose(
    config: &SimConfig,
    keys: &Keys,
    params: &mut ChainParams,
    chain: Option<&mut Rng>,
    rng: &mut Rng,
) -> Members {
    let own = &mut *rng;
    let of_chain: &mut Rng = chain.unwrap_or(own);
    let epochs = config.faults.has(Fault::Epochs);
    let absence = if !(epochs && config.faults.has(Fault::Absent)) {
        Absence::Nobody
    } else {
        match of_chain.below(10) {
            0 if config.nodes <= MOST_FOR_ABSENCE => Absence::Many,
            1..3 => Absence::One,
            _ => Absence::Nobody,
        }
    };
    let joiners = match absence {
        _ if !epochs => 0,
        Absence::Many => (config.nodes - 1) / 3 + 1,
        Absence::Nobody | Absence::One => JOINERS,
    };
    let nodes = config.nodes + joiners.min(keys.signers.len() - config.nodes);
    let absent: BTreeSet<usize> = match absence {
        Absence::Nobody => BTreeSet::new(),
        Absence::One => BTreeSet::from([config.nodes]),
        Absence::Many => (config.nodes..nodes).collect(),
    };
    if matches!(absence, Absence::Many) {
        params.epoch_extensions_max = of_chain.between(1, 2);
        let committees = crowded(config, keys, nodes, of_chain);
        return Members { nodes, committees, byzantine: BTreeMap::new(), twins: Vec::new(), absent };
    }
    let committees = committees(config, keys, nodes, of_chain);
    let byzantine = byzantine(config, &committees, params, &absent, rng);
    let on_two = byzantine.iter().filter(|(_, character)| character.has(Fault::Twins)).map(|(node, _)| *node);
    let twins = on_two.take(MOST_TWINS).collect();
    Members { nodes, committees, byzantine, twins, absent }
}

/// Now and then everybody is in the committee, also those who never start.
fn crowded(config: &SimConfig, keys: &Keys, nodes: usize, rng: &mut Rng) -> Vec<ScheduledCommittee> {
    let of = |count: usize| (0..count).map(|i| spec(keys, i, 100, 80)).collect();
    let mut schedule = vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: of(config.nodes) }];
    let from = rng.between(1, 2);
    schedule.push(ScheduledCommittee { from_epoch: Epoch(from), sequencers: of(nodes) });
    schedule.push(ScheduledCommittee { from_epoch: Epoch(from + rng.between(1, 2)), sequencers: of(config.nodes) });
    schedule
}

fn committees(config: &SimConfig, keys: &Keys, nodes: usize, rng: &mut Rng) -> Vec<ScheduledCommittee> {
    let spec = |node: usize, stake: u64, hat: u8| spec(keys, node, stake, hat);
    let mut members: Vec<usize> = (0..config.nodes).collect();
    let first = members.iter().map(|&i| spec(i, 100, 80)).collect();
    let mut schedule = vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: first }];
    if !config.faults.has(Fault::Epochs) {
        return schedule;
    }
    let mut weighted = false;
    for epoch in 1..SCHEDULED_EPOCHS {
        if !rng.permille(700) {
            continue;
        }
        let outside: Vec<usize> = (0..nodes).filter(|i| !members.contains(i)).collect();
        match rng.below(3) {
            0 if !outside.is_empty() => members.push(*rng.pick(&outside)),
            1 if members.len() > config.nodes.max(4) => {
                members.remove(rng.below(members.len() as u64) as usize);
            }
            1 if !outside.is_empty() => {
                let at = rng.below(members.len() as u64) as usize;
                members[at] = *rng.pick(&outside);
            }
            _ => weighted = !weighted,
        }
        let stakes = members.iter().map(|&i| {
            let stake = if weighted { rng.between(100, 400) } else { 100 };
            spec(i, stake, rng.between(50, 100) as u8)
        });
        schedule.push(ScheduledCommittee { from_epoch: Epoch(epoch), sequencers: stakes.collect() });
    }
    schedule
}

/// Seats of these sequencers in a scheduled committee, and how many of its seats may be faulty.
fn seats_of(scheduled: &ScheduledCommittee, params: &ChainParams, who: impl Fn(usize) -> bool) -> (u32, u32) {
    let committee = committee_of(&scheduled.sequencers, scheduled.from_epoch, params.seats)
        .expect("the simulator's schedules are right");
    let place = |id: &NodeId| u64::from_be_bytes(id.0[..8].try_into().expect("eight bytes")) as usize;
    let seats = committee.members().iter().filter(|m| who(place(&m.node))).map(|m| m.seats.0).sum();
    (seats, committee.faulty_seats().0)
}

/// Who is Byzantine: with those who never start at most f seats in every committee of the schedule.
fn byzantine(
    config: &SimConfig,
    committees: &[ScheduledCommittee],
    params: &ChainParams,
    absent: &BTreeSet<usize>,
    rng: &mut Rng,
) -> BTreeMap<usize, Character> {
    let kinds: Vec<Fault> = KINDS.into_iter().filter(|f| config.faults.has(*f)).collect();
    let mut chosen: BTreeMap<usize, Character> = BTreeMap::new();
    let trades = config.trading.is_some();
    if !trades && kinds.is_empty() || (kinds.len() == KINDS.len() && rng.permille(250)) {
        return chosen;
    }
    let mut candidates: Vec<usize> = (0..config.nodes).collect();
    rng.shuffle(&mut candidates);
    for candidate in candidates {
        chosen.insert(candidate, Character::default());
        let faulty = |i: usize| chosen.contains_key(&i) || absent.contains(&i);
        let tolerated = committees.iter().all(|scheduled| {
            let (seats, most) = seats_of(scheduled, params, faulty);
            seats <= most
        });
        if !tolerated {
            chosen.remove(&candidate);
        }
    }
    if trades {
        // An application's attacker, who follows the protocol of consensus.
        return chosen;
    }
    for character in chosen.values_mut() {
        let chance = |f: Fault| match f {
            Fault::Silence => 60,
            Fault::Twins => 200,
            _ => 400,
        };
        character.faults = kinds.iter().copied().filter(|f| rng.permille(chance(*f))).collect();
        if character.faults.is_empty() {
            character.faults.push(*rng.pick(&kinds));
        }
        if character.has(Fault::Twins) && rng.permille(700) {
            // Both nodes of a copied key may well be honest in all they do.
            character.faults = vec![Fault::Twins];
        }
    }
    chosen
}
