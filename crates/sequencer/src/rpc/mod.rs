//! JSON-RPC over HTTP and WebSocket, on one port.
//!
//! ```text
//!  TCP --> connection limit --> host list --> origins of WebSockets --> CORS --> jsonrpsee (body and response limits)
//!                                                                                    |
//!      registered methods  <--  batches, metrics, unknown methods (middleware)  <----+
//!        |  cheap: on the spot   heavy: blocking thread, one of `max_heavy_requests`
//!        v
//!      Backend (a node)
//! ```
//!
//! - `eth_`, `net_`, `web3_` as Ethereum wallets and libraries know them, errors in geth's words (module `error`);
//! - `l2_` for what Ethereum has no name for: finality, certificates, sequencers, proofs of Cascade's state tree
//!   ([`types`]);
//! - `docs/rpc.md` lists all of them.
//!
//! `eth_` methods show only executed blocks, and what they show never changes: heads grow, nothing is reorganised. The
//! tag `pending` alone shows the newest final order, which may wait for its execution.
//!
//! All raw transactions of one batch go to the node as one call, so that their signers are recovered together.

pub mod backend;
mod chain;
pub mod config;
pub(crate) mod convert;
mod door;
pub(crate) mod error;
mod fees;
mod filters;
pub(crate) mod gate;
mod l2;
mod logs;
mod middleware;
pub(crate) mod params;
mod sealed;
mod server;
mod simulate;
mod submit;
pub(crate) mod subscribe;
pub mod types;

use std::{sync::Arc, time::Instant};

use alloy_eips::{BlockId, BlockNumberOrTag};
use cascade_primitives::{Height, TransactionRule};
use jsonrpsee::{Extensions, IntoResponse, RpcModule, server::RegisterMethodError, types::Params};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use backend::Backend;
pub use config::{RpcConfig, RpcConfigError};
pub use middleware::RpcMetrics;
pub use server::{RpcServer, RpcServerError};

use backend::{BlockData, Heads};
use error::Answer;
use filters::Filters;
pub(crate) use middleware::InnerService;
use params::{Args, BlockRef};

use crate::node::SEALED_ONLY;

/// What `web3_clientVersion` answers.
pub const CLIENT_VERSION: &str = concat!("cascade/", env!("CARGO_PKG_VERSION"));

/// Serves RPC on `listener`, which is non-blocking already, and adds the server's metrics to `registry`.
///
/// # Errors
/// If a setting makes no sense, the listener cannot be used, or the registry has metrics of the same names.
pub async fn start(
    config: &RpcConfig,
    listener: std::net::TcpListener,
    backend: Arc<dyn Backend>,
    registry: &prometheus::Registry,
) -> std::io::Result<RpcServer> {
    let metrics = RpcMetrics::new();
    metrics.register(registry).map_err(std::io::Error::other)?;
    RpcServer::start(config, listener, backend, metrics).map_err(|reason| match reason {
        RpcServerError::Listen { reason, .. } => reason,
        RpcServerError::Config(reason) => std::io::Error::new(std::io::ErrorKind::InvalidInput, reason.to_string()),
    })
}

/// A block in the form of `eth_getBlockByNumber`.
pub(crate) fn block_json(
    data: &BlockData,
    params: &cascade_primitives::ChainParams,
    receipts: &[cascade_execution::Receipt],
    full: bool,
) -> Result<serde_json::Value, String> {
    let block = if full {
        convert::block_with_transactions(data, params, Some(receipts)).map_err(|error| error.message().to_owned())?
    } else {
        convert::block_with_hashes(data, params)
    };
    serde_json::to_value(block).map_err(|error| error.to_string())
}

/// A receipt in the form of `eth_getTransactionReceipt`.
pub(crate) fn receipt_json(
    data: &BlockData,
    receipt: &cascade_execution::Receipt,
    index: usize,
) -> Result<serde_json::Value, String> {
    serde_json::to_value(convert::receipt(data, receipt, index)).map_err(|error| error.to_string())
}

/// What methods work with.
struct Rpc {
    backend: Arc<dyn Backend>,
    config: RpcConfig,
    filters: Filters,
    heavy: Arc<Semaphore>,
    /// The last suggested tip and the height that it was computed at.
    tip: Mutex<Option<(Height, u128)>>,
    started: Instant,
}

impl Rpc {
    fn new(backend: Arc<dyn Backend>, config: RpcConfig) -> Self {
        let heavy = Arc::new(Semaphore::new(config.max_heavy_requests as usize));
        let filters = Filters::new(config.max_filters, config.filter_lifetime_ms);
        Self { backend, config, filters, heavy, tip: Mutex::new(None), started: Instant::now() }
    }

    fn heads(&self) -> Heads {
        self.backend.heads()
    }

    /// The height that a tag or a number stands for; none above what is executed, except for `pending`.
    fn height_of(&self, number: BlockNumberOrTag) -> Option<Height> {
        let heads = self.heads();
        match number {
            BlockNumberOrTag::Latest => Some(heads.executed),
            BlockNumberOrTag::Safe => Some(heads.safe),
            BlockNumberOrTag::Finalized => Some(heads.finalized),
            BlockNumberOrTag::Pending => Some(heads.ordered),
            BlockNumberOrTag::Earliest => Some(Height(0)),
            BlockNumberOrTag::Number(height) => Some(Height(height)).filter(|height| *height <= heads.executed),
        }
    }

    /// The height that a request is about.
    fn resolve(&self, block: BlockRef) -> Answer<Option<Height>> {
        match block.0 {
            BlockId::Number(number) => Ok(self.height_of(number)),
            BlockId::Hash(hash) => {
                let height = self.backend.height_of(&hash.block_hash.into())?;
                Ok(height.filter(|height| *height <= self.heads().executed))
            }
        }
    }

    /// The height whose state a request is about: `pending` is what is executed of it.
    fn state_height(&self, block: Option<BlockRef>) -> Answer<Height> {
        let height = self.resolve(block.unwrap_or(BlockRef::LATEST))?;
        let height = height.ok_or_else(|| error::server("header not found"))?;
        Ok(height.min(self.heads().executed))
    }

    fn data(&self, height: Height) -> Answer<Arc<BlockData>> {
        let missing = || error::internal(format!("block {height} is below the head and is not there"));
        self.backend.block(height)?.ok_or_else(missing)
    }

    /// Refuses what a chain of opaque payloads cannot answer.
    fn plain(&self) -> Answer<()> {
        match self.backend.params().transactions {
            TransactionRule::Plain | TransactionRule::Encrypted => Ok(()),
            TransactionRule::Opaque => Err(error::unsupported(
                "this chain orders opaque payloads and executes nothing: use l2_sendOpaque, l2_opaqueStatus and l2_block",
            )),
        }
    }

    /// Refuses transactions in the clear on a chain that orders envelopes.
    fn clear(&self) -> Answer<()> {
        self.plain()?;
        match self.backend.params().transactions {
            TransactionRule::Encrypted => Err(error::unsupported(format!("this chain orders {SEALED_ONLY}"))),
            TransactionRule::Plain | TransactionRule::Opaque => Ok(()),
        }
    }

    /// Refuses what only a chain of envelopes can answer.
    fn sealed(&self) -> Answer<()> {
        match self.backend.params().transactions {
            TransactionRule::Encrypted => Ok(()),
            TransactionRule::Plain | TransactionRule::Opaque => {
                Err(error::unsupported("this chain orders no envelopes: l2_chainParams tells what it orders"))
            }
        }
    }

    /// Refuses what only a chain of opaque payloads can answer.
    fn opaque(&self) -> Answer<()> {
        match self.backend.params().transactions {
            TransactionRule::Opaque => Ok(()),
            TransactionRule::Plain | TransactionRule::Encrypted => {
                Err(error::unsupported("this chain orders Ethereum transactions: use eth_sendRawTransaction"))
            }
        }
    }
}

/// The methods being registered.
struct Methods {
    module: RpcModule<Rpc>,
}

impl Methods {
    /// A method that answers at once.
    fn cheap<R>(&mut self, name: &'static str, most: usize, method: fn(&Rpc, &Args<'_>) -> Answer<R>)
    where
        Answer<R>: IntoResponse + 'static,
        R: 'static,
    {
        let run = move |params: Params<'_>, rpc: &Rpc, _: &Extensions| method(rpc, &Args::new(&params, most)?);
        registered(self.module.register_method(name, run).map(drop));
    }

    /// A method that reads much or runs the EVM: it takes a permit and a blocking thread.
    fn heavy<R>(&mut self, name: &'static str, most: usize, method: fn(&Rpc, &Args<'_>) -> Answer<R>)
    where
        Answer<R>: IntoResponse + 'static,
        R: Send + 'static,
    {
        let run = move |params: Params<'static>, rpc: Arc<Rpc>, _: Extensions| async move {
            let permit = Arc::clone(&rpc.heavy).acquire_owned().await.map_err(error::internal)?;
            let done = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                method(&rpc, &Args::new(&params, most)?)
            });
            done.await.map_err(error::internal)?
        };
        registered(self.module.register_async_method(name, run).map(drop));
    }
}

fn registered(result: Result<(), RegisterMethodError>) {
    result.expect("every method is registered once");
}

/// All methods over a node.
fn methods(rpc: Rpc) -> RpcModule<Rpc> {
    let mut methods = Methods { module: RpcModule::new(rpc) };
    chain::register(&mut methods);
    fees::register(&mut methods);
    simulate::register(&mut methods);
    submit::register(&mut methods);
    logs::register(&mut methods);
    filters::register(&mut methods);
    subscribe::register(&mut methods);
    l2::register(&mut methods);
    sealed::register(&mut methods);
    methods.module
}
