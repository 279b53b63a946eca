//! The genesis file: what all nodes of a chain start from.
//!
//! Until an L1 registry exists, stake, scores and committees come from here: `committees` may schedule another
//! committee for any epoch, so that joining, leaving and changing weights are exercised from the start.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    block::{Block, Body, DaCommitment, Header, HeaderKind, L1Origin, PROTOCOL_VERSION, ResultEntry},
    certificate::{MAX_MEMBERS, SigningContext},
    codec::{Encode, encode_byte_string, encode_list},
    domain, hash,
    ids::{BlockHash, BlsPublicKey, BlsSignature, Epoch, Fork, Height, NodeId, TimestampMs, View},
    params::{ChainParams, ParamsError},
};

/// A sequencer as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequencerSpec {
    /// Its identity on the network.
    pub node: NodeId,
    /// The key of its votes.
    pub bls_key: BlsPublicKey,
    /// Proof that it holds the secret key of `bls_key`.
    pub bls_proof: BlsSignature,
    /// The L2 address that its fees go to.
    pub address: Address,
    /// Its stake in whole CAS.
    pub stake: u64,
    /// Its HAT score, 0-100.
    pub hat: u8,
}

impl Encode for SequencerSpec {
    fn encode(&self, out: &mut Vec<u8>) {
        self.node.encode(out);
        self.bls_key.encode(out);
        self.bls_proof.encode(out);
        self.address.encode(out);
        self.stake.encode(out);
        self.hat.encode(out);
    }
}

/// The sequencers from some epoch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduledCommittee {
    /// The first epoch that they vote in.
    pub from_epoch: Epoch,
    /// Who they are.
    pub sequencers: Vec<SequencerSpec>,
}

impl Encode for ScheduledCommittee {
    fn encode(&self, out: &mut Vec<u8>) {
        self.from_epoch.encode(out);
        encode_list(&self.sequencers, out);
    }
}

/// An account that exists from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// Balance in wei.
    #[serde(default)]
    pub balance: U256,
    /// Nonce.
    #[serde(default)]
    pub nonce: u64,
    /// Contract code.
    #[serde(default)]
    pub code: Bytes,
    /// Contract storage.
    #[serde(default)]
    pub storage: BTreeMap<B256, B256>,
    /// Balance in the fee ledger of an encrypted chain, in wei ([`crate::envelope`]). Zero on other chains.
    #[serde(default)]
    pub fees: U256,
}

impl Encode for GenesisAccount {
    fn encode(&self, out: &mut Vec<u8>) {
        self.balance.encode(out);
        self.nonce.encode(out);
        encode_byte_string(&self.code, out);
        u32::try_from(self.storage.len()).expect("a genesis file has fewer than 2^32 slots").encode(out);
        for (slot, value) in &self.storage {
            slot.encode(out);
            value.encode(out);
        }
        self.fees.encode(out);
    }
}

/// What all nodes of a chain start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Constants.
    pub params: ChainParams,
    /// Time of the genesis block.
    pub timestamp: TimestampMs,
    /// Committees, by the epoch that they start in. The first starts in epoch 0.
    pub committees: Vec<ScheduledCommittee>,
    /// Accounts that exist from the start.
    pub alloc: BTreeMap<Address, GenesisAccount>,
}

/// Why a genesis file was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// A constant breaks a relation.
    #[error("params: {0}")]
    Params(#[from] ParamsError),
    /// No committee for epoch 0, or not in order.
    #[error("committees: the first must start in epoch 0 and each must start later than the one before it")]
    Schedule,
    /// A committee's size is out of range.
    #[error("committees[{index}]: has {found} sequencers, allowed are {least} to {MAX_MEMBERS}")]
    CommitteeSize {
        /// Its place in the list.
        index: usize,
        /// How many it has.
        found: usize,
        /// The chain's `min_sequencers`.
        least: u32,
    },
    /// A sequencer does not qualify.
    #[error(
        "committees[{index}]: sequencer {node} has stake {stake} CAS and HAT {hat}; needed are {min_stake} and {min_hat}, at most 100"
    )]
    NotQualified {
        /// Place of its committee in the list.
        index: usize,
        /// The sequencer.
        node: NodeId,
        /// Its stake in CAS.
        stake: u64,
        /// Its score.
        hat: u8,
        /// Least stake in CAS.
        min_stake: u64,
        /// Least score.
        min_hat: u8,
    },
}

impl Genesis {
    /// Checks everything that needs no cryptography. Proofs of possession are checked where the keys are loaded.
    ///
    /// # Errors
    /// The first rule that the file breaks, with its key.
    pub fn check(&self) -> Result<(), GenesisError> {
        self.params.check()?;
        let starts: Vec<_> = self.committees.iter().map(|c| c.from_epoch).collect();
        if starts.first() != Some(&Epoch(0)) || starts.windows(2).any(|w| w[0] >= w[1]) {
            return Err(GenesisError::Schedule);
        }
        for (index, committee) in self.committees.iter().enumerate() {
            let found = committee.sequencers.len();
            if found < self.params.min_sequencers as usize || found > MAX_MEMBERS {
                return Err(GenesisError::CommitteeSize { index, found, least: self.params.min_sequencers });
            }
            for s in &committee.sequencers {
                if s.stake < self.params.min_stake || s.hat < self.params.min_hat || s.hat > 100 {
                    return Err(GenesisError::NotQualified {
                        index,
                        node: s.node,
                        stake: s.stake,
                        hat: s.hat,
                        min_stake: self.params.min_stake,
                        min_hat: self.params.min_hat,
                    });
                }
            }
        }
        Ok(())
    }

    /// The hash that all nodes of the chain compare.
    #[must_use]
    pub fn hash(&self) -> B256 {
        hash::of(domain::GENESIS, self)
    }

    /// The sequencers scheduled for an epoch.
    ///
    /// # Panics
    /// If [`Genesis::check`] would refuse the schedule.
    #[must_use]
    pub fn sequencers(&self, epoch: Epoch) -> &[SequencerSpec] {
        let at = self.committees.partition_point(|c| c.from_epoch <= epoch);
        &self.committees[at.checked_sub(1).expect("a checked schedule starts in epoch 0")].sequencers
    }

    /// What signatures of the chain's first history are bound to.
    #[must_use]
    pub fn signing_context(&self) -> SigningContext {
        SigningContext { chain_id: self.params.chain_id, genesis_hash: self.hash(), fork: Fork(0) }
    }

    /// The block at height 0. It is final by definition and carries its own result.
    #[must_use]
    pub fn block(&self, state_root: B256, committee_root: B256, next_committee_root: B256) -> Block {
        let body = Body::default();
        let header = Header {
            version: PROTOCOL_VERSION,
            kind: HeaderKind::Block,
            chain_id: self.params.chain_id,
            genesis_hash: self.hash(),
            fork: Fork(0),
            epoch: Epoch(0),
            view: View(0),
            height: Height(0),
            parent: BlockHash::ZERO,
            timestamp: self.timestamp,
            l1_origin: L1Origin::default(),
            committee_root,
            next_committee_root,
            history_root: B256::ZERO,
            da: DaCommitment::default(),
            body_root: body.root(),
            base_fee: self.params.base_fee_floor,
            ordered_gas: 0,
            results: vec![ResultEntry { height: Height(0), state_root, ..ResultEntry::default() }],
        };
        Block { header, body }
    }
}

impl Encode for Genesis {
    fn encode(&self, out: &mut Vec<u8>) {
        self.params.encode(out);
        self.timestamp.encode(out);
        encode_list(&self.committees, out);
        u32::try_from(self.alloc.len()).expect("a genesis file has fewer than 2^32 accounts").encode(out);
        for (address, account) in &self.alloc {
            address.encode(out);
            account.encode(out);
        }
    }
}
