//! What an operator can set about the RPC server. Nothing here is part of the chain: nodes need not agree.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The RPC server's section of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcConfig {
    /// Address and port for HTTP and WebSocket. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Origins (`https://app.example`) whose web pages may use the server; `*` allows all. HTTP answers them with CORS
    /// headers, and a WebSocket with another `Origin` is refused. Programs that send no `Origin` are not concerned.
    pub cors_origins: Vec<String>,
    /// Names that a request's `Host` header may have, with any port; `*` allows all. A web page that rebinds its own name
    /// to this machine is refused by this. Numeric addresses need not be listed.
    pub allowed_hosts: Vec<String>,
    /// Largest request body or WebSocket message, in bytes.
    pub max_request_bytes: u32,
    /// Largest response, in bytes.
    pub max_response_bytes: u32,
    /// Most HTTP connections at once, and as many WebSockets besides.
    pub max_connections: u32,
    /// Most subscriptions of one WebSocket.
    pub max_subscriptions: u32,
    /// Most requests in one batch.
    pub max_batch: u32,
    /// Most blocks that one `eth_getLogs` or log filter poll may cover.
    pub max_log_blocks: u64,
    /// Most logs that one answer may hold.
    pub max_logs: u32,
    /// Most gas that an `eth_call` or `eth_estimateGas` may use.
    pub call_gas_cap: u64,
    /// Most requests at once that read much or run the EVM; others wait in line.
    pub max_heavy_requests: u32,
    /// Most filters (`eth_newFilter` and the like) of all clients together.
    pub max_filters: u32,
    /// How long a filter lives without being polled, in ms.
    pub filter_lifetime_ms: u64,
    /// Most blocks in one `eth_feeHistory`; more are cut to this, as geth does.
    pub max_fee_history: u64,
    /// Most storage slots in one `l2_getProof`.
    pub max_proof_slots: u32,
    /// Most payloads in one `l2_sendOpaqueBatch`.
    pub max_opaque_batch: u32,
    /// Longest time that `eth_sendRawTransactionSync` waits for a receipt, in ms.
    pub max_send_wait_ms: u64,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8545)),
            cors_origins: Vec::new(),
            allowed_hosts: vec!["localhost".to_owned()],
            max_request_bytes: 16 << 20,
            max_response_bytes: 32 << 20,
            max_connections: 1_000,
            max_subscriptions: 64,
            max_batch: 1_000,
            max_log_blocks: 10_000,
            max_logs: 10_000,
            call_gas_cap: 50_000_000,
            max_heavy_requests: 8,
            max_filters: 1_000,
            filter_lifetime_ms: 300_000,
            max_fee_history: 1_024,
            max_proof_slots: 256,
            max_opaque_batch: 20_000,
            max_send_wait_ms: 20_000,
        }
    }
}

/// A value or relation that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key} = {value} {rule}")]
pub struct RpcConfigError {
    /// The key, below the RPC section.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub rule: &'static str,
}

impl RpcConfig {
    /// Checks values and relations; `max_tx_bytes` is the chain's.
    ///
    /// # Errors
    /// The first key that breaks a rule.
    pub fn check(&self, max_tx_bytes: u32) -> Result<(), RpcConfigError> {
        let least_one = [
            ("max_response_bytes", u64::from(self.max_response_bytes)),
            ("max_connections", u64::from(self.max_connections)),
            ("max_subscriptions", u64::from(self.max_subscriptions)),
            ("max_batch", u64::from(self.max_batch)),
            ("max_log_blocks", self.max_log_blocks),
            ("max_logs", u64::from(self.max_logs)),
            ("max_heavy_requests", u64::from(self.max_heavy_requests)),
            ("max_filters", u64::from(self.max_filters)),
            ("max_fee_history", self.max_fee_history),
            ("max_opaque_batch", u64::from(self.max_opaque_batch)),
        ];
        if let Some((key, value)) = least_one.iter().find(|(_, value)| *value == 0) {
            return Err(RpcConfigError { key, value: value.to_string(), rule: "must be at least 1" });
        }
        let fail = |key, value: &dyn ToString, rule| Err(RpcConfigError { key, value: value.to_string(), rule });
        if u64::from(self.max_request_bytes) < 2 * u64::from(max_tx_bytes) + 1024 {
            let rule = "must hold the largest transaction in hex: 2 * max_tx_bytes + 1024 at least";
            return fail("max_request_bytes", &self.max_request_bytes, rule);
        }
        if self.call_gas_cap < 21_000 {
            return fail("call_gas_cap", &self.call_gas_cap, "must be at least 21000, the gas of a transfer");
        }
        if self.filter_lifetime_ms < 1_000 {
            return fail("filter_lifetime_ms", &self.filter_lifetime_ms, "must be at least 1000");
        }
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            return fail("cors_origins", origin, "must be * or scheme://host[:port] without a path");
        }
        if let Some(host) = self.allowed_hosts.iter().find(|host| !is_host(host)) {
            return fail("allowed_hosts", host, "must be * or a host name without a port");
        }
        Ok(())
    }
}

fn is_origin(origin: &str) -> bool {
    let printable = origin.bytes().all(|b| b.is_ascii_graphic());
    origin == "*"
        || printable
            && origin.split_once("://").is_some_and(|(s, h)| !s.is_empty() && !h.is_empty() && !h.contains('/'))
}

fn is_host(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    host == "*" || !host.is_empty() && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut RpcConfig)) -> &'static str {
        let mut config = RpcConfig::default();
        change(&mut config);
        config.check(128 << 10).unwrap_err().key
    }

    #[test]
    fn the_defaults_hold_and_a_broken_relation_names_its_key() {
        assert_eq!(RpcConfig::default().check(128 << 10), Ok(()));
        assert_eq!(broken(|c| c.max_batch = 0), "max_batch");
        assert_eq!(broken(|c| c.max_request_bytes = 1000), "max_request_bytes");
        assert_eq!(broken(|c| c.call_gas_cap = 20_999), "call_gas_cap");
        assert_eq!(broken(|c| c.cors_origins = vec!["example.com".to_owned()]), "cors_origins");
        assert_eq!(broken(|c| c.cors_origins = vec!["https://a.b/path".to_owned()]), "cors_origins");
        assert_eq!(broken(|c| c.allowed_hosts = vec!["localhost:80".to_owned()]), "allowed_hosts");
        assert_eq!(broken(|c| c.allowed_hosts = vec![String::new()]), "allowed_hosts");
    }

    #[test]
    fn unknown_keys_are_refused_and_absent_ones_have_defaults() {
        let config: RpcConfig = toml::from_str("max_batch = 7\ncors_origins = [\"*\"]").unwrap();
        assert_eq!(config, RpcConfig { max_batch: 7, cors_origins: vec!["*".to_owned()], ..RpcConfig::default() });
        assert!(toml::from_str::<RpcConfig>("max_bach = 7").unwrap_err().to_string().contains("max_bach"));
    }
}
