//! Integration tests: real processes.

mod cli;
mod cluster;
mod crash;
mod rpc;
mod testnet;
