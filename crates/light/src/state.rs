//! State, receipts and old headers, checked against what the chain proves.
//!
//! A final header carries the roots of state and receipts of some height below it ([`Client::results`]). What is proved
//! against such a root needs no trust in who sent it. The proofs of the state tree are code of the execution crate and
//! know how that tree hashes; here is what a proof has to be able to do, so that this crate depends on neither tree
//! nor EVM.

use cascade_primitives::{B256, Header, Height, ResultEntry, merkle, merkle::MountainProof};
use thiserror::Error;

use crate::{
    chain::{ChainError, prove_ancestor},
    client::Client,
};

/// A proof of something about the state with a given root: `cascade_execution`'s `StateProof` with its key is one.
pub trait StateEvidence {
    /// What it proves.
    type Value;
    /// Why it may prove nothing.
    type Error: std::error::Error;

    /// What it proves about the state with this root.
    ///
    /// # Errors
    /// If it proves nothing.
    fn verify(&self, root: &B256) -> Result<Self::Value, Self::Error>;
}

/// Why a value is not proved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError<E: std::error::Error> {
    /// No final header that this client followed carries the results of the height.
    #[error("the results of block {height} are not known here; the newest known are those of {newest:?}")]
    Unknown {
        /// The height.
        height: Height,
        /// The newest height whose results are known.
        newest: Option<Height>,
    },
    /// The proof proves nothing.
    #[error("the proof does not hold at block {height}: {error}")]
    Proof {
        /// The height.
        height: Height,
        /// What is wrong with it.
        error: E,
    },
}

/// The path of a receipt does not lead to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the receipt is not number {index} of {count} under root {root}")]
pub struct ReceiptError {
    /// Its place.
    pub index: usize,
    /// Receipts in the block.
    pub count: usize,
    /// The root.
    pub root: B256,
}

impl Client {
    fn results_at<E: std::error::Error>(&self, height: Height) -> Result<&ResultEntry, StateError<E>> {
        let newest = self.newest_results().map(|entry| entry.height);
        self.results(height).ok_or(StateError::Unknown { height, newest })
    }

    /// What a proof proves about the state after a block.
    ///
    /// # Errors
    /// [`StateError`] if the block's state root is not known here, or the proof does not lead to it.
    pub fn verify_state<P: StateEvidence>(&self, height: Height, proof: &P) -> Result<P::Value, StateError<P::Error>> {
        let root = self.results_at(height)?.state_root;
        proof.verify(&root).map_err(|error| StateError::Proof { height, error })
    }

    /// Checks that a receipt, by the hash of its leaf, is the one at `index` of the `count` receipts of a block.
    ///
    /// # Errors
    /// [`StateError`] if the block's root is not known here, or the path does not lead to it.
    pub fn verify_receipt(
        &self,
        height: Height,
        leaf: &B256,
        (index, count): (usize, usize),
        path: &[B256],
    ) -> Result<(), StateError<ReceiptError>> {
        let root = self.results_at(height)?.receipts_root;
        if merkle::verify(&root, leaf, index, count, path) {
            Ok(())
        } else {
            Err(StateError::Proof { height, error: ReceiptError { index, count, root } })
        }
    }

    /// Checks that a header is that of a block below the tip. It then proves the body, the data commitment and the
    /// results that it carries.
    ///
    /// # Errors
    /// [`ChainError::History`] if the path does not show it; so too while nothing is known of the chain.
    pub fn verify_header(&self, header: &Header, proof: &MountainProof) -> Result<(), ChainError> {
        let unknown = ChainError::History { height: Height(0), ancestor: header.height };
        let tip = self.chain().ok_or(unknown)?.tip();
        prove_ancestor(tip, (header.height, header.hash()), proof)
    }
}
