//! Tests of the consensus crate from outside. Whole clusters run in `cascade-sim`.

mod carriage;
mod chain;
mod codec;
mod context;
mod core;
mod flood;
mod hostile;
mod keys;
mod seeds;
mod settled;
mod sync;
