//! JSON-RPC over HTTP and WebSocket.

pub mod backend;
