//! The light client of Cascade.
//!
//! It makes sure, without trusting a sequencer, that the chain it is shown is certified by the committees that follow
//! from what its user trusts, and that the data behind each block is there.
//!
//! - [`chain`]: what makes a header final: certificates, one handover per epoch, the history root.
//! - [`client`]: the core: `step(now, input) -> effects`, from a checkpoint to confidence per height; [`api`] are its
//!   inputs and effects.
//! - [`ask`]: the envelope of all requests to a node.
//! - [`sampler`]: the samples of one height.  [`wire`]: what is asked of nodes about the chain.
//! - [`state`]: state, receipts and old headers against the roots that the chain proves.
//!
//! What it assumes: that of each committee on the way at most f seats lied while their stake was at risk, that one of
//! its peers is honest, and that enough clients sample for their samples to make up a square. It does no I/O, reads no
//! clock, takes its randomness as an input and builds for wasm32.

pub mod api;
pub mod ask;
pub mod chain;
pub mod client;
pub mod sampler;
pub mod state;
pub mod wire;

pub use api::{
    Answer, Condemned, Config, Effect, Failure, Input, Report, Request, RequestId, Start, Stats, Stop, Unsampled,
};
pub use ask::{Ask, Reply};
pub use cascade_crypto::{BlsScheme, VoteScheme};
pub use chain::{CertificateError, Chain, ChainError, Checkpoint, Finality, Handover, KeyError};
pub use client::Client;
pub use sampler::{Availability, sampling_seed};
pub use state::{StateError, StateEvidence};
pub use wire::{ChainAnswer, ChainRequest, Head};
