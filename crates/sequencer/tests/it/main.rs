//! Integration tests: real processes.

mod alloy;
mod cli;
mod cluster;
mod crash;
mod metrics;
mod rpc;
mod testnet;
