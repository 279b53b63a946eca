//! How an epoch's seats are dealt to its sequencers (decision 1 of the architecture).
//!
//! With equal stakes every sequencer has one seat. Else `ChainParams::seats` are dealt in proportion to stake, by the
//! method of the largest remainder; with four or more sequencers none may hold more than `f` seats, so that the
//! failure of one is always within what the protocol tolerates, and what is cut off goes to the others. Stake counts
//! in proportion, not by its square root: a square root would pay for splitting a stake. HAT times the square root of
//! the stake weighs who *leads*, not who votes.

use cascade_primitives::{Committee, CommitteeError, Epoch, Genesis, Member, Seats, SequencerSpec, ThresholdKeys};

/// The committee of an epoch as the genesis file schedules it.
///
/// # Errors
/// [`CommitteeError`] if the schedule names a node or key twice.
pub fn scheduled_committee(genesis: &Genesis, epoch: Epoch) -> Result<Committee, CommitteeError> {
    committee_of(genesis.sequencers(epoch), epoch, genesis.params.seats)
}

/// The committee that these sequencers form, in their order.
///
/// # Errors
/// [`CommitteeError`] if one is named twice or the list is empty or too long.
pub fn committee_of(sequencers: &[SequencerSpec], epoch: Epoch, seats: u32) -> Result<Committee, CommitteeError> {
    let stakes: Vec<u64> = sequencers.iter().map(|s| s.stake).collect();
    let dealt = deal(&stakes, seats);
    let members = sequencers
        .iter()
        .zip(dealt)
        .map(|(s, seats)| Member {
            node: s.node,
            bls_key: s.bls_key,
            address: s.address,
            seats: Seats(seats),
            lead_weight: lead_weight(s.hat, s.stake),
        })
        .collect();
    Committee::new(epoch, members, ThresholdKeys::default())
}

/// HAT score times the integer square root of the stake in CAS; at least 1.
#[must_use]
pub fn lead_weight(hat: u8, stake: u64) -> u64 {
    (u64::from(hat) * stake.isqrt()).max(1)
}

/// Deals `seats` in proportion to `stakes`; one each if the stakes are equal. Every sequencer gets at least one.
///
/// Where the cap leaves seats that nobody may have (four sequencers and nine seats: two each), there are fewer seats.
#[must_use]
pub fn deal(stakes: &[u64], seats: u32) -> Vec<u32> {
    let n = stakes.len();
    if n == 0 {
        return Vec::new();
    }
    if stakes.iter().all(|&s| s == stakes[0]) {
        return vec![1; n];
    }
    let seats = seats.max(n as u32);
    // One seat is everybody's; the rest follows stake.
    let cap = if n >= 4 { ((seats - 1) / 3).max(1) } else { seats };
    let mut dealt = vec![1_u32; n];
    let mut open: Vec<usize> = (0..n).filter(|&i| dealt[i] < cap).collect();
    let mut left = seats - n as u32;
    while left > 0 && !open.is_empty() {
        let total: u128 = open.iter().map(|&i| u128::from(stakes[i].max(1))).sum();
        let round = left;
        let mut remainders = Vec::with_capacity(open.len());
        for &i in &open {
            let share = u128::from(round) * u128::from(stakes[i].max(1));
            let whole = u32::try_from(share / total).expect("a share is at most what is dealt");
            let given = whole.min(cap - dealt[i]);
            dealt[i] += given;
            left -= given;
            remainders.push((share % total, i));
        }
        // Largest remainder first; the earlier sequencer wins a tie.
        remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, i) in remainders {
            if left > 0 && dealt[i] < cap {
                dealt[i] += 1;
                left -= 1;
            }
        }
        open.retain(|&i| dealt[i] < cap);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_stakes_have_one_seat_each() {
        assert_eq!(deal(&[5, 5, 5], 32), vec![1, 1, 1]);
    }

    #[test]
    fn seats_follow_stake() {
        assert_eq!(deal(&[100, 300], 16), vec![4 + 1, 11]);
        let dealt = deal(&[1_000_000, 10, 10, 10], 16);
        assert_eq!(dealt[0], 5, "the largest is cut to f");
        assert_eq!(dealt.iter().sum::<u32>(), 16);
    }

    proptest! {
        #[test]
        fn all_seats_are_dealt_and_nobody_exceeds_the_cap(
            stakes in prop::collection::vec(1u64..1_000_000, 1..40), seats in 4u32..200,
        ) {
            let dealt = deal(&stakes, seats);
            prop_assert!(dealt.iter().all(|&s| s >= 1));
            let total: u32 = dealt.iter().sum();
            let equal = stakes.iter().all(|&s| s == stakes[0]);
            let wanted = if equal { stakes.len() as u32 } else { seats.max(stakes.len() as u32) };
            let cap = if stakes.len() >= 4 && !equal { ((wanted - 1) / 3).max(1) } else { wanted };
            prop_assert_eq!(total, wanted.min(stakes.len() as u32 * cap));
            if stakes.len() >= 4 {
                let f = (total - 1) / 3;
                prop_assert!(dealt.iter().all(|&s| s <= f.max(1)));
            }
            prop_assert_eq!(&dealt, &deal(&stakes, seats), "the same input deals the same seats");
        }

        #[test]
        fn more_stake_never_has_fewer_seats(stakes in prop::collection::vec(1u64..1000, 2..20)) {
            let dealt = deal(&stakes, 64);
            for i in 0..stakes.len() {
                for j in 0..stakes.len() {
                    if stakes[i] > stakes[j] {
                        prop_assert!(dealt[i] + 1 >= dealt[j]);
                    }
                }
            }
        }
    }
}
