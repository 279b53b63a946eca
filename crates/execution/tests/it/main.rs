//! Tests of the execution core through its public interface.

mod asm;
mod chain;
mod determinism;
mod fees;
mod items;
mod no_op;
mod ordering;
mod ordering_items;
mod proofs;
mod simulate;
mod vectors;
mod versions;
mod withdrawals;
