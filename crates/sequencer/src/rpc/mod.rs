//! JSON-RPC over HTTP and WebSocket.

pub mod backend;
pub mod config;
pub mod types;
