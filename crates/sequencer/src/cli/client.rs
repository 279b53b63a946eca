//! The JSON-RPC client of the commands.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use cascade_primitives::{ChainParams, TransactionRule};
use jsonrpsee::{
    core::{
        client::{ClientT as _, Error},
        params::ArrayParams,
        traits::ToRpcParams,
    },
    http_client::{HttpClient, HttpClientBuilder},
    rpc_params,
    types::ErrorObjectOwned,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use thiserror::Error as ThisError;

use super::Failure;
use crate::{
    exit::ExitCode,
    rpc::types::{AccountProof, BlockInfo, EnvelopeStatus, EpochKeys, Finality, Payer, ProxyInfo, Status},
};

/// Why a node did not answer as asked.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// The URL is none.
    #[error("{url} is no URL of a node: {what}; give it as http://HOST:PORT")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The node answered with an error.
    #[error("{method}: {message} (code {code})")]
    Refused {
        /// What was asked.
        method: String,
        /// The node's words.
        message: String,
        /// The JSON-RPC code.
        code: i32,
    },
    /// There was no answer, or none that could be understood.
    #[error(
        "{url} did not answer {method}: {what}; see that a node runs and serves JSON-RPC there, or give its URL with --rpc"
    )]
    Transport {
        /// The URL.
        url: String,
        /// What was asked.
        method: String,
        /// What the transport says.
        what: String,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Url { .. } => Self::usage(error),
            ClientError::Transport { .. } => Self { code: ExitCode::Unreachable, message: error.to_string() },
            ClientError::Refused { .. } => Self::new(error),
        }
    }
}

/// Parameters that somebody else wrote.
pub(crate) struct AsIs<'a>(pub(crate) Option<&'a RawValue>);

impl ToRpcParams for AsIs<'_> {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(self.0.map(RawValue::to_owned))
    }
}

/// One node's JSON-RPC over HTTP.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    http: HttpClient,
}

type Answer<T> = Result<T, ClientError>;

/// Of a log, what is read here.
#[derive(Deserialize)]
struct Log {
    address: Address,
    data: Bytes,
}

impl Client {
    /// A client of this URL. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn new(url: &str) -> Answer<Self> {
        Self::patient(url, Duration::from_secs(20))
    }

    /// A client of somebody who may be hostile: an answer has at most so many bytes.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn wary(url: &str, within: Duration, max_answer: u32) -> Answer<Self> {
        let http = HttpClientBuilder::default()
            .request_timeout(within)
            .max_response_size(max_answer)
            .build(url)
            .map_err(|error| ClientError::Url { url: url.to_owned(), what: error.to_string() })?;
        Ok(Self { url: url.to_owned(), http })
    }

    /// A client that gives a request up after `within`.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn patient(url: &str, within: Duration) -> Answer<Self> {
        Self::wary(url, within, 256 << 20)
    }

    /// Where it asks.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, params: ArrayParams) -> Answer<T> {
        self.http.request(method, params).await.map_err(|error| match error {
            Error::Call(object) => ClientError::Refused {
                method: method.to_owned(),
                message: object.message().to_owned(),
                code: object.code(),
            },
            other => {
                ClientError::Transport { url: self.url.clone(), method: method.to_owned(), what: with_sources(&other) }
            }
        })
    }

    /// Any method with parameters as they are, for a proxy. An error of the node comes back as it is.
    ///
    /// # Errors
    /// The node's own, or one that says that it does not answer.
    pub async fn forward(&self, method: &str, params: Option<&RawValue>) -> Result<Box<RawValue>, ErrorObjectOwned> {
        self.http.request(method, AsIs(params)).await.map_err(|error| match error {
            Error::Call(object) => object,
            other => {
                let text = format!("{} did not answer {method}: {}", self.url, with_sources(&other));
                ErrorObjectOwned::owned(-32603, text, None::<()>)
            }
        })
    }

    /// `l2_status`.
    ///
    /// # Errors
    /// [`ClientError`], as all methods here.
    pub async fn status(&self) -> Answer<Status> {
        self.call("l2_status", rpc_params![]).await
    }

    /// `l2_block`, with the hashes of its transactions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn block(&self, height: u64) -> Answer<Option<BlockInfo>> {
        self.call("l2_block", rpc_params![U64::from(height), true]).await
    }

    /// `l2_finality` of a transaction or payload.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn finality(&self, hash: B256) -> Answer<Option<Finality>> {
        self.call("l2_finality", rpc_params![hash]).await
    }

    /// `l2_epochKey`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn epoch_keys(&self) -> Answer<EpochKeys> {
        self.call("l2_epochKey", rpc_params![]).await
    }

    /// `l2_payer`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payer(&self, address: Address) -> Answer<Payer> {
        self.call("l2_payer", rpc_params![address]).await
    }

    /// `l2_sendEnvelope`, which takes deposits too: the envelope's hash, or that of the transfer in a deposit.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_item(&self, raw: &[u8]) -> Answer<B256> {
        self.call("l2_sendEnvelope", rpc_params![Bytes::copy_from_slice(raw)]).await
    }

    /// `l2_envelopeStatus`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn envelope_status(&self, hash: B256) -> Answer<Option<EnvelopeStatus>> {
        self.call("l2_envelopeStatus", rpc_params![hash]).await
    }

    /// `l2_proxy`; none if this is no proxy.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn proxy(&self) -> Answer<Option<ProxyInfo>> {
        match self.call("l2_proxy", rpc_params![]).await {
            Ok(info) => Ok(Some(info)),
            Err(ClientError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `l2_chainParams`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn params(&self) -> Answer<ChainParams> {
        self.call("l2_chainParams", rpc_params![]).await
    }

    /// [`Client::params`] of a chain that has a fee ledger.
    ///
    /// # Errors
    /// As [`Client::params`], and if the chain has none.
    pub async fn ledger_params(&self) -> Result<ChainParams, Failure> {
        let params = self.params().await?;
        if params.transactions != TransactionRule::Encrypted {
            return Err(Failure::usage("this chain has no fee ledger: it does not take encrypted transactions"));
        }
        Ok(params)
    }

    /// `eth_chainId`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chain_id(&self) -> Answer<u64> {
        self.call("eth_chainId", rpc_params![]).await.map(|id: U64| id.to())
    }

    /// `eth_getTransactionCount`, transactions that wait included.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_nonce(&self, address: Address) -> Answer<u64> {
        self.call("eth_getTransactionCount", rpc_params![address, "pending"]).await.map(|n: U64| n.to())
    }

    /// `eth_getTransactionCount` of the newest executed block.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn executed_nonce(&self, address: Address) -> Answer<u64> {
        self.call("eth_getTransactionCount", rpc_params![address, "latest"]).await.map(|n: U64| n.to())
    }

    /// `l2_genesisHash`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn genesis_hash(&self) -> Answer<B256> {
        self.call("l2_genesisHash", rpc_params![]).await
    }

    /// `eth_getBalance` of the newest executed block, in wei.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn balance(&self, address: Address) -> Answer<U256> {
        self.call("eth_getBalance", rpc_params![address, "latest"]).await
    }

    /// `l2_getProof` of an account and slots after a block.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn proof(&self, address: Address, slots: &[U256], height: u64) -> Answer<AccountProof> {
        self.call("l2_getProof", rpc_params![address, slots, U64::from(height)]).await
    }

    /// `eth_getCode` after a block.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn code(&self, address: Address, height: u64) -> Answer<Bytes> {
        self.call("eth_getCode", rpc_params![address, U64::from(height)]).await
    }

    /// The block of an executed transaction, as the node says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn block_of(&self, hash: B256) -> Answer<Option<u64>> {
        let receipt: Option<serde_json::Value> = self.call("eth_getTransactionReceipt", rpc_params![hash]).await?;
        let number = receipt.and_then(|receipt| serde_json::from_value::<U64>(receipt["blockNumber"].clone()).ok());
        Ok(number.map(|number| number.to()))
    }

    /// `eth_maxPriorityFeePerGas`, in wei.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tip(&self) -> Answer<u128> {
        self.call("eth_maxPriorityFeePerGas", rpc_params![])
            .await
            .map(|fee: U256| u128::try_from(fee).unwrap_or(u128::MAX))
    }

    /// `eth_estimateGas` of a call.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn estimate_gas(&self, from: Address, to: Address, value: U256, data: &Bytes) -> Answer<u64> {
        let call = serde_json::json!({ "from": from, "to": to, "value": value, "data": data });
        self.call("eth_estimateGas", rpc_params![call]).await.map(|gas: U64| gas.to())
    }

    /// `eth_sendRawTransaction`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_raw(&self, raw: &[u8]) -> Answer<B256> {
        self.call("eth_sendRawTransaction", rpc_params![Bytes::copy_from_slice(raw)]).await
    }

    /// `l2_sendOpaque`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_opaque(&self, payload: &[u8]) -> Answer<B256> {
        self.call("l2_sendOpaque", rpc_params![Bytes::copy_from_slice(payload)]).await
    }

    /// Whether an executed transaction succeeded; none while it is not executed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn succeeded(&self, hash: B256) -> Answer<Option<bool>> {
        let receipt: Option<serde_json::Value> = self.call("eth_getTransactionReceipt", rpc_params![hash]).await?;
        Ok(receipt.map(|receipt| receipt["status"] == "0x1"))
    }

    /// What an executed transaction withdrew from the fee ledger, in wei; none if it is not executed or withdrew nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn withdrawn(&self, hash: B256) -> Answer<Option<U256>> {
        let receipt: Option<serde_json::Value> = self.call("eth_getTransactionReceipt", rpc_params![hash]).await?;
        let logs = receipt.and_then(|receipt| serde_json::from_value::<Vec<Log>>(receipt["logs"].clone()).ok());
        let log = logs.into_iter().flatten().find(|log| log.address == cascade_execution::FEE_LEDGER);
        Ok(log.and_then(|log| U256::try_from_be_slice(&log.data)))
    }

    /// The transactions of an executed block that succeeded.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn successes(&self, height: u64) -> Answer<Vec<B256>> {
        let receipts: Option<Vec<serde_json::Value>> =
            self.call("eth_getBlockReceipts", rpc_params![U64::from(height)]).await?;
        let hash = |receipt: &serde_json::Value| receipt["transactionHash"].as_str().and_then(|text| text.parse().ok());
        Ok(receipts.iter().flatten().filter(|receipt| receipt["status"] == "0x1").filter_map(hash).collect())
    }
}

/// An error with what caused it: the outer texts alone say little.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Runs a command's asynchronous part.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", &error))?
        .block_on(work)
}

/// The same on several threads: for what serves others.
pub(crate) fn block_on_threads<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", &error))?
        .block_on(work)
}
