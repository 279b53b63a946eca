//! The vocabulary of Cascade.
//!
//! Everything that two crates, two nodes or two versions must agree on is defined here and nowhere
//! else: newtypes for what could be swapped by mistake, blocks, votes, certificates, committees,
//! chain parameters, the genesis file, and one canonical binary codec with bounds.
//!
//! Nothing here does I/O, reads a clock or uses a float. Hashes are SHA-256 (FIPS 180-4) over a
//! domain tag from [`domain`] and the canonical encoding, so that an L1 with nothing but the SHA-256
//! precompile can check them.

pub mod block;
pub mod certificate;
pub mod codec;
pub mod committee;
pub mod domain;
pub mod envelope;
pub mod genesis;
pub mod hash;
pub mod ids;
pub mod merkle;
pub mod params;
pub mod system;
pub mod transaction;

pub use alloy_primitives::{Address, B256, U256, keccak256};
pub use block::{
    Block, Body, BodySections, Certificates, DaCommitment, Header, HeaderKind, L1Origin, ResultEntry, SealedBlock,
};
pub use bytes::Bytes;
pub use certificate::{Certificate, SignerSet, SigningContext, Vote, VoteKind, VoteTarget};
pub use codec::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};
pub use committee::{Committee, CommitteeError, Member, PublicKeys, ThresholdKeys, committee_root};
pub use envelope::{
    Deposit, EcdsaSignature, Envelope, Item, RecoveredDeposit, RecoveredEnvelope, RecoveredItem, Reveal,
};
pub use genesis::{Genesis, GenesisAccount, GenesisError, ScheduledCommittee, SequencerSpec};
pub use ids::{
    BlockHash, BlsPublicKey, BlsSignature, ChainId, Epoch, Fork, Height, MemberIndex, NodeId, Seats, Term, TimestampMs,
    View,
};
pub use params::{ChainParams, Network, ParamsError, TransactionRule};
pub use system::{Ready, SystemItem};
pub use transaction::{RecoveredTransaction, Transaction, TransactionError};
