//! `cascade proxy`: an encrypted chain for wallets that know nothing of encryption.
//!
//! ```text
//!   wallet --- eth_sendRawTransaction ---> proxy (user's machine) --- l2_sendEnvelope ---> any node
//!          --- everything else ----------->        |              --- as it came --------->
//!                                             payer's key
//!                                       signs the envelope, pays
//! ```
//!
//! A wallet signs once, the transaction, and shows that one's hash. The envelope around it needs a signature, too, by whoever
//! pays: the *payer*, whose key the proxy holds and whose account in the fee ledger the user funds once. So the wallet
//! stays as it is, and who sends is not known before the envelope is opened.
//!
//! # The first step of a new user
//!
//! The proxy prints its payer's address, and every refusal for want of fees repeats it: *send some CAS to 0x... in your
//! wallet*. A transfer without data to that address is a deposit: the proxy adds the payer's consent and sends it in the
//! clear, since nothing can be gained by running before a transfer. Two blocks later all other transactions can be sealed.
//!
//! # What it reveals
//!
//! - The deposit shows who funds which payer. Who does not want that funds the payer from elsewhere.
//! - Every envelope shows the payer and its nonce, so that one can see how many transactions a proxy sends and when, the fee
//!   caps, and the size up to a factor of two. Once opened, it shows the sender beside the payer.
//! - The gas limit shows in which of few classes the transaction's is (`cascade_crypto::envelope::GasClasses`): a
//!   transfer of coins, an ordinary call, a large one, a deployment. The limit that a wallet estimates, which can tell a
//!   purchase from a sale, is inside. Half of the class is charged at the least. What wallets ask (`eth_estimateGas`) is
//!   answered as the node answers it.
//! - The node that the proxy talks to sees the machine's address, and whatever else wallets ask: balances of which accounts,
//!   calls that estimate gas *with the data of the transaction to come*. Where that matters, it should be one's own node.
//! - Before it seals, the proxy asks for the sender's nonce and balance. So that node can guess whose envelope comes next. A light
//!   client is asked in its place ([`source`]), and asks its own peers, who do not see the envelope.
//! - Methods that nobody here knows are not passed on: they may carry a transaction ([`forward`]).
//! - The node also says what the epoch's key is. One that lies can give a key of its own and read what is sealed to it; with a
//!   light client beside the node ([`ProxyConfig::light`]) nothing is sealed to a key that the chain's headers do not bind.
//! - The transaction itself is in the proxy, in the wallet, and in `proxy.json` (mode 600) until it is executed.
//!
//! # What wallets may rely on
//!
//! - The answer to `eth_sendRawTransaction` is the hash of the wallet's transaction. The same bytes again, pending or
//!   executed, give the same answer and no second envelope.
//! - Refusals come before anything is sealed, in geth's words and codes ([`checks`]): form, signature, chain, size, intrinsic
//!   gas, nonce, value. What the wallet signs as gas fee is not taken from its account; the payer pays it.
//! - Transactions of one sender are sealed in the order of their nonces; one above a gap is held here.
//! - A transaction with the sender and nonce of a pending one and 10% more in both fees replaces it (speed-up, cancel): the new
//!   envelope has the same payer nonce, so at most one of them is ever charged. If the old one was ordered first, the answer
//!   is `nonce too low`.
//! - `eth_getTransactionByHash` and `eth_getTransactionCount(.., "pending")` know what is pending here.
//! - An envelope that is not ordered before its epoch or its validity ends is sealed again for the next, under the same payer
//!   nonce.
//! - A transaction that is charged in its envelope and does not run (its nonce was used elsewhere, its value is no longer
//!   there) has a receipt with status 0 here, the envelope's block and `l2.outcome` with the reason. No node has a receipt by
//!   that hash, and a wallet would wait for ever without one. Its nonce stays free. The same bytes may be sent again, but they
//!   are public by then, and anybody can put them into an envelope once they can run: better sign anew.
//! - All that one proxy sends has one payer, and is ordered by that one's nonces. What offers less than the base fee does not hold
//!   up others for long: the payer offers more ([`keeper`]). What cannot get on has a reason in `l2_envelopeStatus`.
//! - Pending transactions survive a restart ([`store`]).
//!
//! `l2_proxy` answers the payer, its balance, and how much is pending. [`keeper`] has the loop, [`book`] its bookkeeping.

pub mod book;
pub mod checks;
pub mod forward;
pub mod keeper;
pub mod methods;
mod news;
mod sending;
pub mod server;
pub mod source;
pub mod store;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use alloy_primitives::{Address, U256};
use cascade_crypto::envelope::GasClasses;
use cascade_primitives::{ChainParams, Network, TransactionRule};
use jsonrpsee::server::ServerHandle;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    cli::{Client, Failure, units},
    rpc::RpcConfig,
    testnet::accounts,
    wallet::Wallet,
};
use keeper::Keeper;
use methods::Methods;
use news::{LOOK, Seen};
use source::{Light, Source};
use store::Store;

/// Submissions that may wait for the keeper; then requests wait.
const WAITING: usize = 256;

/// How a proxy runs.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's JSON-RPC, over HTTP; its WebSocket is on the same port.
    pub node: String,
    /// A light client's verified JSON-RPC, if there is one: nothing is sealed to a key that it does not give as well.
    pub light: Option<String>,
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Listen elsewhere than on loopback, too: whoever reaches the proxy can spend the payer's money on fees.
    pub allow_remote: bool,
    /// Where the state is kept.
    pub data: PathBuf,
    /// The payer.
    pub payer: PayerKey,
    /// Origins whose web pages may use it.
    pub cors_origins: Vec<String>,
    /// What the gas limits of envelopes are rounded up to.
    pub gas_classes: GasClasses,
}

/// Whose account pays.
#[derive(Clone, Debug)]
pub enum PayerKey {
    /// That of a key file, which is made if it is not there.
    File(PathBuf),
    /// The public account of regtest testnets.
    Public,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    payer: Address,
    balance: U256,
    server: ServerHandle,
    keeper: JoinHandle<()>,
    news: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy of a node that answers.
    ///
    /// # Errors
    /// If the node does not answer or its chain is not encrypted, or the address, the key or the state cannot be used.
    pub async fn start(config: &ProxyConfig) -> Result<Self, Failure> {
        if !config.listen.ip().is_loopback() && !config.allow_remote {
            return Err(Failure::usage(format!(
                "--listen {}: whoever reaches the proxy can spend its payer's money on fees, so it listens on loopback \
                 alone; --allow-remote lifts this",
                config.listen
            )));
        }
        let client = Client::new(&config.node)?;
        let params = client.params().await?;
        if params.transactions != TransactionRule::Encrypted {
            return Err(Failure::usage(format!(
                "the chain of {} does not take encrypted transactions: wallets talk to the node itself",
                config.node
            )));
        }
        let light = match &config.light {
            Some(url) => Some(Light::connect(url, &client).await?),
            None => None,
        };
        let wallet = payer(&config.payer, &params)?;
        let store = Store::open(&config.data, client.genesis_hash().await?)?;
        let book = Arc::new(Mutex::new(store.load(wallet.address(), &params)?));
        let account = client.payer(wallet.address()).await?;
        let listener = TcpListener::bind(config.listen).map_err(|error| Failure::io(config.listen, &error))?;
        let address = listener.local_addr().map_err(|error| Failure::io(config.listen, &error))?;
        let (sender, submissions) = mpsc::channel(WAITING);
        let classes = config.gas_classes.clone();
        let source = Source { node: client.clone(), light };
        let accounts = source.accounts();
        let keeper = Keeper::new(source, wallet.clone(), params.clone(), classes, Arc::clone(&book), store);
        let (seen, news) = watch::channel(Seen::default());
        let methods = Arc::new(Methods { client, accounts, params, book, keeper: sender, news: news.clone() });
        let url = server::websocket_url(&config.node);
        let rpc = RpcConfig {
            listen: address,
            cors_origins: config.cors_origins.clone(),
            max_connections: 200,
            ..RpcConfig::default()
        };
        let server = server::start(&rpc, listener, methods)?;
        let keeper = tokio::spawn(keeper.run(submissions, news));
        let news = tokio::spawn(news::follow(url, LOOK, seen));
        Ok(Self { address, payer: wallet.address(), balance: account.balance, server, keeper, news })
    }

    /// Where wallets find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for WebSockets.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whose account pays.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.payer
    }

    /// What a user is told at the start: who pays, and how to fund it.
    #[must_use]
    pub fn words(&self) -> String {
        if self.balance.is_zero() {
            format!("payer {}, not funded yet: {}", self.payer, checks::remedy(self.payer))
        } else {
            format!("payer {}, {} CAS", self.payer, units::format_cas(self.balance))
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.server.stop();
        self.keeper.abort();
        self.news.abort();
    }
}

fn payer(key: &PayerKey, params: &ChainParams) -> Result<Wallet, Failure> {
    match key {
        PayerKey::File(file) => {
            let (wallet, made) = store::payer(file)?;
            if made {
                tracing::info!(file = %file.display(), address = %wallet.address(), "made the payer's key");
            }
            if params.network != Network::Regtest && accounts::is_public(&wallet.address()) {
                return Err(Failure::usage("the payer's key is one that everybody knows"));
            }
            Ok(wallet)
        }
        PayerKey::Public if params.network == Network::Regtest => Ok(accounts::proxy_account()),
        PayerKey::Public => Err(Failure::usage("--public-payer is for regtest alone: everybody knows its key")),
    }
}
