//! Integration tests: real processes.

mod alloy;
mod attacker;
mod bucket;
mod carriage;
mod cli;
mod cluster;
mod crash;
mod fake;
mod http_server;
mod kills;
mod light;
mod load;
mod metrics;
mod misencoding;
mod partition;
mod payer;
mod proxy;
mod proxy_alone;
mod rebuild;
mod rpc;
mod sealed;
mod testnet;
