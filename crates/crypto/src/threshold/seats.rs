//! Which seats belong to which member of a committee.

use std::ops::Range;

use cascade_primitives::{Committee, MemberIndex};
use thiserror::Error;

/// Seats that a committee with threshold keys may have. Key generation grows with the square of it.
pub const MAX_SEATS: usize = 256;

/// Why seats cannot carry a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SeatError {
    /// No seats, or more than [`MAX_SEATS`].
    #[error("threshold keys need 1 to {MAX_SEATS} seats, not {0}")]
    Total(u64),
    /// A member without a seat.
    #[error("member {0} has no seat")]
    Empty(MemberIndex),
}

/// The seats of a committee, numbered from 0 in the order of its members; seat s holds the key share at s + 1.
///
/// ```text
/// members      A (3 seats)    B (2)     C (1)
/// seats        0   1   2      3   4     5          S = 6, f = 1, q = 5
/// shares at    1   2   3      4   5     6
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatMap {
    ends: Vec<u32>,
}

impl SeatMap {
    /// The map of members with these numbers of seats.
    ///
    /// # Errors
    /// [`SeatError`] if a member has none or there are too many.
    pub fn new(seats: &[u32]) -> Result<Self, SeatError> {
        let total: u64 = seats.iter().map(|&s| u64::from(s)).sum();
        if total == 0 || total > MAX_SEATS as u64 {
            return Err(SeatError::Total(total));
        }
        if let Some(empty) = seats.iter().position(|&s| s == 0) {
            return Err(SeatError::Empty(MemberIndex(empty as u16)));
        }
        let mut end = 0;
        let ends = seats.iter().map(|&s| {
            end += s;
            end
        });
        Ok(Self { ends: ends.collect() })
    }

    /// The map of a committee.
    ///
    /// # Errors
    /// [`SeatError`] if it has too many seats for threshold keys.
    pub fn of(committee: &Committee) -> Result<Self, SeatError> {
        Self::new(&committee.members().iter().map(|m| m.seats.0).collect::<Vec<_>>())
    }

    /// Number of members.
    #[must_use]
    pub fn members(&self) -> usize {
        self.ends.len()
    }

    /// The seats of a member; empty if there is no such member.
    #[must_use]
    pub fn seats(&self, member: MemberIndex) -> Range<u32> {
        let at = member.index();
        match self.ends.get(at) {
            Some(&end) => at.checked_sub(1).map_or(0, |before| self.ends[before])..end,
            None => 0..0,
        }
    }

    /// All seats, S.
    #[must_use]
    pub fn total(&self) -> u32 {
        *self.ends.last().expect("a map has a member")
    }

    /// Seats that may be Byzantine, f = (S-1)/3.
    #[must_use]
    pub fn faulty(&self) -> u32 {
        (self.total() - 1) / 3
    }

    /// Seats that open, q = S - f.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.total() - self.faulty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_dealt_in_order_without_gap() {
        let map = SeatMap::new(&[3, 2, 1]).unwrap();
        assert_eq!((0..4).map(|m| map.seats(MemberIndex(m))).collect::<Vec<_>>(), [0..3, 3..5, 5..6, 0..0]);
        assert_eq!((map.total(), map.faulty(), map.quorum()), (6, 1, 5));
        assert_eq!(SeatMap::new(&[]), Err(SeatError::Total(0)));
        assert_eq!(SeatMap::new(&[u32::MAX, u32::MAX]), Err(SeatError::Total(2 * u64::from(u32::MAX))));
        assert_eq!(SeatMap::new(&[1, 0]), Err(SeatError::Empty(MemberIndex(1))));
    }
}
