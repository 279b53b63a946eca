//! The Cascade node: thin actors around the cores, JSON-RPC, metrics, configuration, and the `cascade` command.

pub mod batches;
pub mod cli;
pub mod config;
pub mod exit;
pub mod home;
pub mod light;
pub mod load;
pub mod logging;
pub mod metrics_http;
pub mod node;
pub mod proxy;
pub mod rpc;
pub mod sealing;
pub mod testnet;
pub mod version;
pub mod wallet;
