//! `cascade proxy`.

use std::{net::SocketAddr, path::PathBuf};

use cascade_crypto::envelope::GasClasses;
use clap::Args;

use super::{Failure, block_on_threads, output};
use crate::{
    config::{LogFormat, LogSection},
    logging,
    proxy::{PayerKey, Proxy, ProxyConfig},
    testnet::Ends,
};

/// Seals the transactions of wallets that know nothing of encryption, on the user's own machine.
///
/// Wallets use it in place of a node. It seals what they send to the epoch's key and signs the envelope with a payer key of
/// its own, whose account you fund once: send some CAS to the printed address in your wallet. Everything else passes through
/// to the node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade proxy --rpc http://127.0.0.1:8545\n  \
                        cascade proxy --rpc http://node.example:8545 --data ~/.cascade-proxy --listen 127.0.0.1:8547\n\n\
                        In MetaMask: add a network with the RPC URL http://127.0.0.1:8546 and the chain's id.")]
pub struct ProxyArgs {
    /// The node's JSON-RPC.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545", env = "CASCADE_RPC")]
    rpc: String,
    /// The JSON-RPC of a light client (cascade light --rpc-listen). The node's keys then count only if the light client
    /// proved the same ones from the chain's headers, and senders' accounts are asked for there. Best one with other nodes
    /// than --rpc.
    #[arg(long, value_name = "URL")]
    light: Option<String>,
    /// Where wallets find the proxy.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8546")]
    listen: SocketAddr,
    /// Listen on another address than loopback: whoever reaches the proxy can spend the payer's money on fees.
    #[arg(long)]
    allow_remote: bool,
    /// Where the payer's key and what is pending are kept.
    #[arg(long, value_name = "DIR", default_value = "cascade-proxy")]
    data: PathBuf,
    /// The payer's private key, made if it is not there [default: DIR/payer.key].
    #[arg(long, value_name = "FILE", conflicts_with = "public_payer")]
    payer_key_file: Option<PathBuf>,
    /// The public payer of testnets. Only on regtest: everybody knows its key.
    #[arg(long)]
    public_payer: bool,
    /// An origin whose web pages may use the proxy; * allows all. Wallets need none.
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    #[command(flatten)]
    gas: GasClassesArgs,
    /// Log filter.
    #[arg(long, value_name = "FILTER", default_value = "cascade_sequencer=info,warn")]
    log_level: String,
    /// One line of JSON on stdout at the start: url, ws, payer.
    #[arg(long)]
    json: bool,
}

/// What envelopes show of a gas limit.
#[derive(Debug, Args)]
pub struct GasClassesArgs {
    /// Gas limits that envelopes show: that of the transaction is rounded up to one of them, so that it does not tell what
    /// is inside; at least half of it is charged. `none` shows the transaction's own.
    #[arg(long, value_name = "LIST", default_value_t, env = "CASCADE_GAS_CLASSES")]
    pub gas_classes: GasClasses,
}

/// Runs the command until it is told to end.
pub fn run(args: ProxyArgs) -> Result<(), Failure> {
    logging::parse_filter(&args.log_level)
        .map_err(|error| Failure::usage(format!("--log-level {}: {error}", args.log_level)))?;
    logging::init(&LogSection { level: args.log_level, format: LogFormat::Text });
    let payer = match (&args.payer_key_file, args.public_payer) {
        (_, true) => PayerKey::Public,
        (Some(file), _) => PayerKey::File(file.clone()),
        (None, _) => PayerKey::File(args.data.join("payer.key")),
    };
    let config = ProxyConfig {
        node: args.rpc,
        light: args.light,
        listen: args.listen,
        allow_remote: args.allow_remote,
        data: args.data,
        payer,
        cors_origins: args.cors_origin,
        gas_classes: args.gas.gas_classes,
    };
    block_on_threads(async {
        let mut ends = Ends::new()?;
        let proxy = tokio::select! {
            proxy = Proxy::start(&config) => proxy?,
            () = ends.wait() => return Ok(()),
        };
        if args.json {
            let payer = proxy.payer();
            output::json(&serde_json::json!({ "url": proxy.url(), "ws": proxy.ws_url(), "payer": payer }))?;
        } else {
            output::line(&format!("proxy {}   {}   for {}", proxy.url(), proxy.ws_url(), config.node))?;
            output::line(&proxy.words())?;
        }
        ends.wait().await;
        Ok(())
    })
}
