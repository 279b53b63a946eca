//! What the pool needs to know about a sender.

use cascade_primitives::{Address, U256};

/// A sender at the last result, and what of its transactions is ordered above that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    /// Nonce at the last result.
    pub nonce: u64,
    /// Balance in wei at the last result.
    pub balance: U256,
    /// Transactions that are ordered but not part of the last result. Each takes one nonce.
    pub in_flight: u64,
    /// Sum of the most that these can cost, in wei.
    pub in_flight_cost: U256,
    /// Whether it has code: then nobody signs for it (EIP-3607).
    pub is_contract: bool,
}

impl AccountState {
    /// The nonce that the sender's next transaction must have.
    #[must_use]
    pub const fn next_nonce(&self) -> u64 {
        self.nonce.saturating_add(self.in_flight)
    }

    /// What is left of the balance for transactions that are not ordered yet, in wei.
    #[must_use]
    pub fn available(&self) -> U256 {
        self.balance.saturating_sub(self.in_flight_cost)
    }
}

/// Reads accounts on the branch that the next block extends.
pub trait AccountReader {
    /// A sender's account; the default for an address that does not exist.
    fn account(&self, address: &Address) -> AccountState;
}

impl<F: Fn(&Address) -> AccountState> AccountReader for F {
    fn account(&self, address: &Address) -> AccountState {
        self(address)
    }
}
