//! Integration tests: real processes.

mod alloy;
mod cli;
mod cluster;
mod crash;
mod kills;
mod metrics;
mod partition;
mod rpc;
mod testnet;
