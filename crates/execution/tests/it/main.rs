//! Tests of the execution core through its public interface.

mod asm;
mod chain;
mod determinism;
mod fees;
mod no_op;
mod ordering;
mod proofs;
mod simulate;
mod vectors;
mod versions;
