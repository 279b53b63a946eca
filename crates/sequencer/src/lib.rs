//! The Cascade node: thin actors around the cores, JSON-RPC, metrics, configuration, and the `cascade` command.

pub mod rpc;
