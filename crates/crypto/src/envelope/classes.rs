//! Gas limits that envelopes show in the clear: few, so that they say little of what is inside.
//!
//! An envelope's gas limit must be at least that of the transaction inside, and may be more. A wallet estimates the limit
//! for the very call that it signs, so that limit can tell a purchase from a sale on the same exchange; who knows the
//! direction trades ahead of it. So whoever seals rounds up to a *class*:
//!
//! ```text
//!   21,000      a transfer to an account without code
//!   300,000     what wallets send most: token transfers and approvals (they use 30,000 to 65,000 gas), trades on one
//!               pool (100,000 to 190,000), with the half as much again that wallets put on top
//!   1,200,000   trades through several pools, small deployments
//!   4,800,000   deployments
//!   above       as it is: so few are that large that none hides among others
//! ```
//!
//! It is paid for, since half of what is reserved is charged at the least (decision 14 of the architecture): a token
//! transfer is charged 150,000 gas in place of 50,000, a trade that uses more than 150,000 no more than without classes,
//! and no transaction more than twice its own limit above 300,000 (a class is at most four times the one below). The first
//! class stands alone because a transfer of coins would cost seven times as much in the second; that it *is* a transfer
//! is seen then, and nothing else of it.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// The classes of those who say nothing else.
const DEFAULT: [u64; 4] = [21_000, 300_000, 1_200_000, 4_800_000];

/// Most classes that can be given.
const MAX_CLASSES: usize = 16;

/// Gas limits that an envelope may have in the clear, ascending. None: each envelope has the least that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GasClasses(Vec<u64>);

/// Why a list of classes is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GasClassesError {
    /// A part is no number.
    #[error("{0:?} is no gas limit; give numbers with commas between them, or none")]
    Number(String),
    /// No envelope has so little.
    #[error("{0} is less than the 21000 gas that every envelope has")]
    Small(u64),
    /// They do not ascend.
    #[error("{0} does not come before {1}: gas limits ascend")]
    Order(u64, u64),
    /// Too many; then they would hide nothing.
    #[error("{0} classes; {MAX_CLASSES} are the most")]
    Count(usize),
}

impl GasClasses {
    /// No classes: every envelope shows what the transaction inside needs.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// The gas limit to show for an envelope that needs `least`: the smallest class that has room and is not above
    /// `most`, the chain's block gas limit. `least` itself if there is none.
    #[must_use]
    pub fn round(&self, least: u64, most: u64) -> u64 {
        self.0.iter().copied().find(|class| *class >= least).filter(|class| *class <= most).unwrap_or(least)
    }
}

impl Default for GasClasses {
    fn default() -> Self {
        Self(DEFAULT.to_vec())
    }
}

impl fmt::Display for GasClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let texts: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl FromStr for GasClasses {
    type Err = GasClassesError;

    fn from_str(text: &str) -> Result<Self, GasClassesError> {
        if text.trim() == "none" {
            return Ok(Self::none());
        }
        let number = |part: &str| {
            let digits = part.trim().replace('_', "");
            digits.parse().map_err(|_| GasClassesError::Number(part.trim().to_owned()))
        };
        let count = text.split(',').count();
        if count > MAX_CLASSES {
            return Err(GasClassesError::Count(count));
        }
        let classes: Vec<u64> = text.split(',').map(number).collect::<Result<_, _>>()?;
        if let Some(small) = classes.iter().find(|class| **class < cascade_primitives::envelope::envelope_gas(0)) {
            return Err(GasClassesError::Small(*small));
        }
        match classes.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => Err(GasClassesError::Order(pair[0], pair[1])),
            None => Ok(Self(classes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_is_rounded_up_to_the_next_class() {
        let classes = GasClasses::default();
        let round = |least| classes.round(least, 30_000_000);
        assert_eq!([21_000, 21_001, 78_000, 300_000].map(round), [21_000, 300_000, 300_000, 300_000]);
        assert_eq!([300_001, 1_200_001].map(round), [1_200_000, 4_800_000]);
        assert_eq!(round(4_800_001), 4_800_001, "as it is above the last");
        assert_eq!(classes.round(90_000, 299_999), 90_000, "no envelope is larger than a block");
        assert_eq!(GasClasses::none().round(78_123, 30_000_000), 78_123);
    }

    #[test]
    fn lists_are_read_and_what_is_wrong_is_named() {
        let read = |text: &str| text.parse::<GasClasses>();
        assert_eq!(read("21000, 300_000,1200000,4800000"), Ok(GasClasses::default()));
        assert_eq!(read(&GasClasses::default().to_string()), Ok(GasClasses::default()));
        assert_eq!(read("none"), Ok(GasClasses::none()));
        assert_eq!(read(&GasClasses::none().to_string()), Ok(GasClasses::none()));
        assert_eq!(read("21000,x"), Err(GasClassesError::Number("x".to_owned())));
        assert_eq!(read(""), Err(GasClassesError::Number(String::new())));
        assert_eq!(read("20999"), Err(GasClassesError::Small(20_999)));
        assert_eq!(read("300000,300000"), Err(GasClassesError::Order(300_000, 300_000)));
        assert_eq!(read(&["21000"; 17].join(",")), Err(GasClassesError::Count(17)));
    }

    proptest! {
        #[test]
        fn no_envelope_has_less_than_it_needs_nor_more_than_a_block(least in 21_000u64..30_000_000, most in 21_000u64..) {
            let rounded = GasClasses::default().round(least, most);
            prop_assert!(rounded >= least && (rounded == least || rounded <= most));
            // What is charged at the least is no more than twice what is needed, but for the smallest ones.
            prop_assert!(rounded.div_ceil(2) <= (2 * least).max(150_000));
        }
    }
}
