//! The Cascade node: thin actors around the cores, JSON-RPC, metrics, configuration, and the `cascade` command.

pub mod config;
pub mod exit;
pub mod logging;
pub mod rpc;
pub mod testnet;
pub mod wallet;
