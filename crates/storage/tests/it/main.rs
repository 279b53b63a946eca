//! Tests of the chain database with blocks that were really executed.

mod blocks;
mod chain;
mod crash;
mod versions;
