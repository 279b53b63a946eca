//! The table of keys: the one place that says what a key is called, means and holds by default.

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A path. A relative one from the table or a file is relative to `data`; from elsewhere to the working directory.
    Path,
    /// IP:PORT.
    Address,
    /// An account of the chain: 0x and 40 hex digits.
    Account,
    /// A number, at most this.
    Count(u64),
    /// `true` or `false`.
    Switch,
    /// A list of texts; in the environment and in flags separated by commas.
    Texts,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A text that is not empty.
    Text,
    /// A log filter.
    Filter,
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in a file: `section.key`.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as it would stand in a file; none if it is absent by default.
    pub default: Option<&'static str>,
    /// Its unit; empty where it has none.
    pub unit: &'static str,
    /// Whether all nodes of a chain must agree on it.
    pub agree: bool,
    /// Its flag of `cascade node`, if it has one.
    pub flag: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

impl Key {
    /// The name of its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("CASCADE_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The key with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    unit: &'static str,
    flag: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { name, kind, default, unit, agree: false, flag, help }
}

const U32: u64 = u32::MAX as u64;

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key(
        "data",
        Kind::Path,
        None,
        "",
        Some("--data"),
        "The node's home: chain data, and by default configuration, genesis and keys. Default: $HOME/.cascade. In a \
         file it is relative to that file, and only allowed in one that was named with --config.",
    ),
    Key {
        agree: true,
        ..key(
            "genesis",
            Kind::Path,
            Some("\"genesis.json\""),
            "",
            Some("--genesis"),
            "The genesis file. Every constant that nodes must agree on stands there; nodes compare its hash.",
        )
    },
    key(
        "role",
        Kind::Choice(&["sequencer", "full"]),
        Some("\"full\""),
        "",
        Some("--role"),
        "`sequencer` votes whenever its key is in the committee; `full` follows, checks and serves the chain and never \
         signs.",
    ),
    key(
        "keys.node",
        Kind::Path,
        Some("\"keys/node.key\""),
        "",
        Some("--node-key"),
        "Ed25519 seed (32 bytes of hex), mode 600: who the node is on the network. Each node has its own.",
    ),
    key(
        "keys.bls",
        Kind::Path,
        Some("\"keys/bls.key\""),
        "",
        Some("--bls-key"),
        "BLS secret key (32 bytes of hex), mode 600: the key of its votes. Needed by sequencers; each has its own.",
    ),
    key(
        "keys.sign_state",
        Kind::Path,
        Some("\"keys/bls.sign-state\""),
        "",
        Some("--sign-state"),
        "Sign-state of the BLS key: what it signed last. Keep it with the key; never restore an old copy.",
    ),
    key(
        "network.listen",
        Kind::Address,
        Some("\"0.0.0.0:30330\""),
        "IP:PORT (UDP)",
        Some("--listen"),
        "Where other nodes reach this one. Port 0 picks a free one.",
    ),
    key(
        "network.external",
        Kind::Address,
        None,
        "IP:PORT (UDP)",
        Some("--external"),
        "The address that is announced, where it is not `network.listen` (behind NAT, in a container).",
    ),
    key(
        "network.bootstrap",
        Kind::Texts,
        Some("[]"),
        "HOST:PORT",
        Some("--bootstrap"),
        "Nodes to dial for as long as this one runs; one that works is enough, the rest is discovered.",
    ),
    key("network.max_peers", Kind::Count(4096), Some("128"), "peers", Some("--max-peers"), "Connected peers at most."),
    key(
        "network.target_peers",
        Kind::Count(4096),
        Some("48"),
        "peers",
        None,
        "Peers that are dialled for. At most `network.max_peers`.",
    ),
    key(
        "network.allow_private",
        Kind::Switch,
        Some("false"),
        "",
        None,
        "Dial announced addresses of private networks and of this machine. For clusters inside one network.",
    ),
    key(
        "network.proposals",
        Kind::Choice(&["auto", "whole", "chunks"]),
        Some("\"auto\""),
        "",
        None,
        "How the blocks that this sequencer proposes go out: whole to everybody, in coded chunks that members pass on to each \
         other, or in chunks where that is faster as far as it can tell (from 6 members on, the larger the committee the \
         smaller the blocks). What comes in is taken either way.",
    ),
    key(
        "rpc.listen",
        Kind::Address,
        Some("\"127.0.0.1:8545\""),
        "IP:PORT (TCP)",
        Some("--rpc-listen"),
        "JSON-RPC over HTTP and WebSocket. Port 0 picks a free one.",
    ),
    key(
        "rpc.cors_origins",
        Kind::Texts,
        Some("[]"),
        "origins",
        Some("--rpc-cors"),
        "Origins whose web pages may use the server, such as https://wallet.example; `*` is any.",
    ),
    key(
        "rpc.allowed_hosts",
        Kind::Texts,
        Some("[\"localhost\"]"),
        "host names",
        Some("--rpc-hosts"),
        "Names that a request's Host header may have, with any port; `*` is any. Keeps web pages from reaching a local \
         node by rebinding their name. A node that serves others lists its own names; numeric addresses need no entry.",
    ),
    key(
        "rpc.max_request_bytes",
        Kind::Count(U32),
        Some("16777216"),
        "bytes",
        None,
        "A request body or WebSocket message. At least 263168, so that the largest transactions fit.",
    ),
    key("rpc.max_response_bytes", Kind::Count(U32), Some("33554432"), "bytes", None, "A response."),
    key(
        "rpc.max_connections",
        Kind::Count(U32),
        Some("1000"),
        "connections",
        None,
        "Connections at once, HTTP and WebSocket together.",
    ),
    key("rpc.max_subscriptions", Kind::Count(U32), Some("64"), "", None, "Subscriptions of one WebSocket."),
    key("rpc.max_batch", Kind::Count(U32), Some("1000"), "requests", None, "Requests in one batch."),
    key(
        "rpc.max_log_blocks",
        Kind::Count(u64::MAX),
        Some("10000"),
        "blocks",
        None,
        "Blocks that one eth_getLogs or filter poll may cover.",
    ),
    key("rpc.max_logs", Kind::Count(U32), Some("10000"), "logs", None, "Logs that one answer may hold."),
    key(
        "rpc.call_gas_cap",
        Kind::Count(u64::MAX),
        Some("50000000"),
        "gas",
        None,
        "Gas that an eth_call or eth_estimateGas may use. At least 21000.",
    ),
    key(
        "rpc.max_heavy_requests",
        Kind::Count(U32),
        Some("8"),
        "requests",
        None,
        "Requests at once that read much or run the EVM; others wait in line.",
    ),
    key("rpc.max_filters", Kind::Count(U32), Some("1000"), "filters", None, "Filters of all clients together."),
    key(
        "rpc.filter_lifetime_ms",
        Kind::Count(u64::MAX),
        Some("300000"),
        "ms",
        None,
        "How long a filter lives without being polled. At least 1000.",
    ),
    key(
        "rpc.max_fee_history",
        Kind::Count(u64::MAX),
        Some("1024"),
        "blocks",
        None,
        "Blocks in one eth_feeHistory; more are cut to this.",
    ),
    key("rpc.max_proof_slots", Kind::Count(U32), Some("256"), "slots", None, "Storage slots in one l2_getProof."),
    key(
        "rpc.max_opaque_batch",
        Kind::Count(U32),
        Some("20000"),
        "payloads",
        None,
        "Payloads in one l2_sendOpaqueBatch.",
    ),
    key(
        "rpc.max_send_wait_ms",
        Kind::Count(u64::MAX),
        Some("20000"),
        "ms",
        None,
        "How long eth_sendRawTransactionSync waits for a receipt.",
    ),
    key(
        "pool.favour",
        Kind::Account,
        None,
        "",
        None,
        "For tests of what a sequencer can take from users: as a leader, order what this sender (on an encrypted chain: payer) \
         has waiting around one transaction of somebody else, and leave all others out. Refused by any node whose chain is not a \
         regtest one.",
    ),
    key(
        "shares.withhold",
        Kind::Switch,
        Some("false"),
        "",
        None,
        "For tests: tell nobody this node's shares of blocks, neither for opening envelopes nor for the beacon. Refused by any \
         node whose chain is not a regtest one.",
    ),
    key(
        "squares.memory_mib",
        Kind::Count(1 << 20),
        Some("256"),
        "MiB",
        None,
        "Memory for the squares of blocks encoded lately. Others are encoded again when somebody asks for them.",
    ),
    key(
        "squares.kib_per_second",
        Kind::Count(U32),
        Some("4096"),
        "KiB/s",
        None,
        "What one peer or host may have of shares, and of what light clients ask about the chain.",
    ),
    key("squares.burst_kib", Kind::Count(U32), Some("65536"), "KiB", None, "What it may have at once. At least 32768."),
    key(
        "squares.withhold",
        Kind::Choice(&["none", "corner", "all"]),
        Some("\"none\""),
        "",
        None,
        "For tests of light clients: withhold the corner of shares without which a square cannot be repaired, or all shares. \
         Refused by any node whose chain is not a regtest one.",
    ),
    key(
        "squares.misencode",
        Kind::Switch,
        Some("false"),
        "",
        None,
        "For tests: as a leader, commit to squares with a wrong share, and vote for such squares of other leaders. Refused by \
         any node whose chain is not a regtest one.",
    ),
    key(
        "batches.dir",
        Kind::Path,
        None,
        "",
        None,
        "Publish batches here: what `cascade rebuild` needs to rebuild the chain's state. One node writes to one directory. \
         Absent means none.",
    ),
    key(
        "batches.url",
        Kind::Text,
        None,
        "",
        None,
        "Publish them in an S3-compatible bucket instead: s3://BUCKET or s3://BUCKET/PREFIX. AWS_ENDPOINT_URL (of a store that is \
         not Amazon's), AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN are read from the \
         environment alone.",
    ),
    key(
        "metrics.listen",
        Kind::Address,
        None,
        "IP:PORT (TCP)",
        Some("--metrics-listen"),
        "Prometheus metrics at GET /metrics. Port 0 picks a free one; absent means none.",
    ),
    key(
        "log.level",
        Kind::Filter,
        Some("\"info\""),
        "",
        Some("--log-level"),
        "off, error, warn, info, debug, trace, or directives such as info,cascade_network=debug.",
    ),
    key(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Some("\"text\""),
        "",
        Some("--log-format"),
        "The form of log lines.",
    ),
];
