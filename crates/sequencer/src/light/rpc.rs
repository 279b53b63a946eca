//! JSON-RPC on this machine whose answers are proved: a wallet can use it in place of a node.
//!
//! | method | checked against |
//! |---|---|
//! | `eth_chainId`, `net_version` | the genesis file |
//! | `eth_blockNumber` | the newest height whose results a followed header carries |
//! | `eth_getBalance`, `eth_getTransactionCount`, `eth_getCode`, `eth_getStorageAt` | the state root in these results |
//! | `eth_getBlockByNumber` | the followed header: its hash, the body's root, the results |
//! | `eth_getBlockReceipts`, `eth_getTransactionReceipt` | the receipts root in the results |
//! | `l2_epochKey` | the committee roots in the newest followed header; the rest of the answer follows from it |
//!
//! Tags mean the newest proved height, `pending` too: what is not final cannot be proved. Heights that were not followed, or
//! long ago, are refused rather than answered unproved. What a node answers and does not check is dropped, and the next node
//! is asked. Blocks and receipts of encrypted chains are refused: what their envelopes held is proved by the state alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bloom, Bytes, U64, U256, keccak256};
use cascade_consensus::election::{Leaders, epoch_seed};
use cascade_execution::{Receipt, StateProof, next_base_fee, receipts_root};
use cascade_light::{Ask, Chain, Client as LightClient, KeyError, Reply};
use cascade_primitives::{
    BlockHash, ChainParams, Committee, Decode as _, Epoch, Height, ResultEntry, SealedBlock, SigningContext,
    TransactionRule, View,
};
use jsonrpsee::{
    RpcModule,
    server::{Server, ServerConfig, ServerHandle},
    types::{ErrorObjectOwned, Params},
};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::{Peer, http};
use crate::{
    cli::{Client, Failure},
    node::randao_of,
    rpc::{
        backend::{BlockData, BlockResult},
        block_json, receipt_json,
        types::{EpochKey, EpochKeys},
    },
};

/// Heights whose results and hashes are kept.
const KEPT: usize = 4096;
/// Connections at once: it is for this machine.
const CONNECTIONS: u32 = 64;
/// Longest request, in bytes.
const REQUEST_BYTES: u32 = 64 << 10;
/// Server error.
const FAILED: i32 = -32000;
/// Invalid parameters.
const PARAMS: i32 = -32602;

/// What the client has proved.
#[derive(Debug, Default)]
pub struct Proven {
    results: BTreeMap<Height, ResultEntry>,
    hashes: BTreeMap<Height, BlockHash>,
    committees: BTreeMap<Epoch, Arc<Committee>>,
    /// The newest header, and the committee that makes the next ones final.
    chain: Option<Chain>,
}

impl Proven {
    /// Takes up what is new.
    pub fn update(&mut self, client: &LightClient, header: Option<(Height, BlockHash)>) {
        if let Some((height, hash)) = header {
            self.hashes.insert(height, hash);
        }
        if let Some(newest) = client.newest_results() {
            let known = self.results.last_key_value().map_or(newest.height.0, |(height, _)| height.0 + 1);
            for height in (known.min(newest.height.0)..=newest.height.0).map(Height) {
                if let Some(entry) = client.results(height) {
                    self.results.insert(height, *entry);
                }
            }
        }
        if let Some(chain) = client.chain() {
            let committee = chain.committee();
            self.committees.entry(committee.epoch()).or_insert_with(|| Arc::new(committee.clone()));
            if self.chain.as_ref().is_none_or(|known| known.hash() != chain.hash() || known.committee() != committee) {
                self.chain = Some(chain.clone());
            }
        }
        while self.results.len() > KEPT {
            self.results.pop_first();
        }
        while self.hashes.len() > KEPT {
            self.hashes.pop_first();
        }
        while self.committees.len() > 8 {
            self.committees.pop_first();
        }
    }
}

struct Shared {
    params: ChainParams,
    signing: SigningContext,
    proven: Arc<RwLock<Proven>>,
    peers: Vec<(Peer, Client)>,
    /// Places of peers that lied.
    liars: Mutex<BTreeSet<usize>>,
}

type Answer<T> = Result<T, ErrorObjectOwned>;

fn failed(what: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(FAILED, what.into(), None::<()>)
}

/// Serves on an address. The handle stops it when it is dropped.
///
/// # Errors
/// If the address cannot be listened on, or a peer's URL is none.
pub async fn serve(
    listen: SocketAddr,
    params: ChainParams,
    signing: SigningContext,
    peers: &[Peer],
    proven: Arc<RwLock<Proven>>,
) -> Result<(SocketAddr, ServerHandle), Failure> {
    let with_client = |peer: &Peer| Ok((peer.clone(), Client::new(&format!("http://{}", peer.authority))?));
    let peers = peers.iter().map(with_client).collect::<Result<_, Failure>>()?;
    let shared = Shared { params, signing, proven, peers, liars: Mutex::default() };
    let config = ServerConfig::builder().max_connections(CONNECTIONS).max_request_body_size(REQUEST_BYTES).build();
    let server = Server::builder().set_config(config).build(listen).await;
    let server = server.map_err(|error| Failure::io(format!("--rpc-listen {listen}"), &error))?;
    let address = server.local_addr().map_err(|error| Failure::io(format!("--rpc-listen {listen}"), &error))?;
    Ok((address, server.start(methods(shared))))
}

fn methods(shared: Shared) -> RpcModule<Shared> {
    let once = "every method is registered once";
    let mut module = RpcModule::new(shared);
    module.register_method("eth_chainId", |_, shared, _| Answer::Ok(U64::from(shared.params.chain_id.0))).expect(once);
    module.register_method("net_version", |_, shared, _| Answer::Ok(shared.params.chain_id.0.to_string())).expect(once);
    module
        .register_method("eth_blockNumber", |_, shared, _| shared.newest().map(|entry| U64::from(entry.height.0)))
        .expect(once);
    module
        .register_async_method("eth_getBalance", |params, shared, _| async move {
            let (address, block): (Address, Option<Value>) = two(&params)?;
            Ok::<_, ErrorObjectOwned>(shared.account(address, block).await?.map_or(U256::ZERO, |found| found.1))
        })
        .expect(once);
    module
        .register_async_method("eth_getTransactionCount", |params, shared, _| async move {
            let (address, block): (Address, Option<Value>) = two(&params)?;
            let nonce = shared.account(address, block).await?.map_or(0, |found| found.0);
            Ok::<_, ErrorObjectOwned>(U64::from(nonce))
        })
        .expect(once);
    module
        .register_async_method("eth_getCode", |params, shared, _| async move {
            let (address, block): (Address, Option<Value>) = two(&params)?;
            shared.code(address, block).await
        })
        .expect(once);
    module
        .register_async_method("eth_getStorageAt", |params, shared, _| async move {
            let mut all = params.sequence();
            let (address, slot): (Address, U256) = (next(&mut all)?, next(&mut all)?);
            let block: Option<Value> = all.optional_next()?;
            shared.slot(address, slot, block).await.map(B256::from)
        })
        .expect(once);
    module
        .register_async_method("eth_getBlockByNumber", |params, shared, _| async move {
            let mut all = params.sequence();
            let (block, full): (Option<Value>, Option<bool>) = (all.optional_next()?, all.optional_next()?);
            let entry = shared.height(block)?;
            let (data, receipts) = shared.content(entry).await?;
            block_json(&data, &shared.params, &receipts, full.unwrap_or(false)).map_err(failed)
        })
        .expect(once);
    module
        .register_async_method("eth_getBlockReceipts", |params, shared, _| async move {
            let entry = shared.height(params.sequence().optional_next()?)?;
            let (data, receipts) = shared.content(entry).await?;
            let all = receipts.iter().enumerate().map(|(index, receipt)| receipt_json(&data, receipt, index));
            all.collect::<Result<Vec<_>, _>>().map_err(failed)
        })
        .expect(once);
    module
        .register_async_method("eth_getTransactionReceipt", |params, shared, _| async move {
            let hash: B256 = next(&mut params.sequence())?;
            shared.receipt(hash).await
        })
        .expect(once);
    module.register_async_method("l2_epochKey", |_, shared, _| async move { shared.epoch_keys().await }).expect(once);
    module
}

fn next<'a, T: serde::Deserialize<'a>>(all: &mut jsonrpsee::types::ParamsSequence<'a>) -> Answer<T> {
    all.next()
}

fn two<T: for<'a> serde::Deserialize<'a>>(params: &Params<'_>) -> Answer<(T, Option<Value>)> {
    let mut all = params.sequence();
    Ok((all.next()?, all.optional_next()?))
}

impl Shared {
    fn newest(&self) -> Answer<ResultEntry> {
        let newest = self.proven.read().results.last_key_value().map(|(_, entry)| *entry);
        newest.ok_or_else(|| failed("nothing is proved yet: the client still catches up"))
    }

    /// The results of the height that a tag or number stands for.
    fn height(&self, block: Option<Value>) -> Answer<ResultEntry> {
        let height = match &block {
            None | Some(Value::Null) => return self.newest(),
            Some(Value::String(tag)) if matches!(tag.as_str(), "latest" | "safe" | "finalized" | "pending") => {
                return self.newest();
            }
            Some(value) => serde_json::from_value::<U64>(value.clone())
                .map_err(|_| ErrorObjectOwned::owned(PARAMS, format!("{value} is no tag or height"), None::<()>))?,
        };
        let height = Height(height.to());
        let proven = self.proven.read();
        proven.results.get(&height).copied().ok_or_else(|| {
            let range = proven.results.keys().next().zip(proven.results.keys().next_back());
            failed(match range {
                Some((first, last)) => {
                    format!("the results of block {height} are not proved here; those of {first} to {last} are")
                }
                None => "nothing is proved yet: the client still catches up".to_owned(),
            })
        })
    }

    /// Peers that have not lied, each with its place.
    fn honest(&self) -> Vec<usize> {
        let liars = self.liars.lock();
        (0..self.peers.len()).filter(|place| !liars.contains(place)).collect()
    }

    fn convict(&self, place: usize, what: &str) {
        tracing::warn!(peer = %self.peers[place].0.authority, what, "a node's answer does not check");
        crate::cli::output::note(&format!("light: dropped {}: {what}", self.peers[place].0.authority));
        self.liars.lock().insert(place);
    }

    /// Proofs of an account and slots at a proved height, from the first node whose proofs hold.
    async fn state<T>(
        &self,
        address: Address,
        slots: &[U256],
        entry: &ResultEntry,
        check: impl Fn(&crate::rpc::types::AccountProof) -> Result<T, String>,
    ) -> Answer<T> {
        let mut last = "no node is left to ask".to_owned();
        for place in self.honest() {
            match self.peers[place].1.proof(address, slots, entry.height.0).await {
                Ok(proof) => match check(&proof) {
                    Ok(value) => return Ok(value),
                    Err(what) => {
                        self.convict(place, &format!("state proof at block {}: {what}", entry.height));
                        last = what;
                    }
                },
                Err(error) => last = error.to_string(),
            }
        }
        Err(failed(format!("no node proved it: {last}")))
    }

    /// Nonce, balance and hash of code.
    async fn account(&self, address: Address, block: Option<Value>) -> Answer<Option<(u64, U256, B256)>> {
        let entry = self.height(block)?;
        self.account_at(address, &entry).await
    }

    async fn account_at(&self, address: Address, entry: &ResultEntry) -> Answer<Option<(u64, U256, B256)>> {
        self.state(address, &[], entry, |proof| {
            let proof = StateProof::from_slice(&proof.proof).map_err(|error| error.to_string())?;
            let found = proof.verify_account(&entry.state_root, &address).map_err(|error| error.to_string())?;
            Ok(found.map(|account| (account.nonce, account.balance, account.code_hash)))
        })
        .await
    }

    async fn slot(&self, address: Address, slot: U256, block: Option<Value>) -> Answer<U256> {
        let entry = self.height(block)?;
        self.state(address, &[slot], &entry, |proof| {
            let [found] = proof.storage.as_slice() else { return Err("not one slot".to_owned()) };
            let proof = StateProof::from_slice(&found.proof).map_err(|error| error.to_string())?;
            proof.verify_slot(&entry.state_root, &address, &slot).map_err(|error| error.to_string())
        })
        .await
    }

    async fn code(&self, address: Address, block: Option<Value>) -> Answer<Bytes> {
        let entry = self.height(block)?;
        let Some((_, _, hash)) = self.account_at(address, &entry).await? else { return Ok(Bytes::new()) };
        if hash == keccak256([]) || hash.is_zero() {
            return Ok(Bytes::new());
        }
        for place in self.honest() {
            match self.peers[place].1.code(address, entry.height.0).await {
                Ok(code) if keccak256(&code) == hash => return Ok(code),
                Ok(_) => self.convict(place, "code with another hash than the account's"),
                Err(_) => {}
            }
        }
        Err(failed("no node gave the code whose hash is proved"))
    }

    /// A block with its receipts, checked against the followed header and the results.
    async fn content(&self, entry: ResultEntry) -> Answer<(BlockData, Vec<Receipt>)> {
        if self.params.transactions != TransactionRule::Plain {
            return Err(failed("blocks and receipts are proved on chains of plain transactions alone"));
        }
        let height = entry.height;
        let hash = self.proven.read().hashes.get(&height).copied();
        let hash = hash.ok_or_else(|| failed(format!("the header of block {height} was not followed")))?;
        for place in self.honest() {
            let authority = &self.peers[place].0.authority;
            let block = match http::ask(authority, &Ask::Block { height }).await {
                Ok((Reply::Block(Some(block)), _)) => SealedBlock::new(*block),
                _ => continue,
            };
            if block.hash() != hash || block.body.root() != block.header.body_root {
                self.convict(place, &format!("another block than the final one at {height}"));
                continue;
            }
            let receipts = match http::ask(authority, &Ask::Receipts { height }).await {
                Ok((Reply::Receipts(Some(receipts)), _)) => receipts,
                _ => continue,
            };
            let receipts: Result<Vec<Receipt>, _> = receipts.iter().map(|bytes| Receipt::from_slice(bytes)).collect();
            match receipts {
                Ok(receipts) if receipts_root(&receipts) == entry.receipts_root => {
                    return Ok((self.data(block, entry, &receipts)?, receipts));
                }
                _ => self.convict(place, &format!("other receipts than those of block {height}")),
            }
        }
        Err(failed(format!("no node gave block {height} with receipts that check")))
    }

    fn data(&self, block: SealedBlock, entry: ResultEntry, receipts: &[Receipt]) -> Answer<BlockData> {
        let header = &block.header;
        let committee = self.proven.read().committees.get(&header.epoch).cloned();
        let committee = committee.filter(|committee| committee.root() == header.committee_root);
        let producer = match committee {
            _ if header.view == View(0) => Address::ZERO,
            Some(committee) => {
                // Only plain chains come here, and these have no beacon.
                let seed = epoch_seed(&self.signing.genesis_hash, header.epoch, &B256::ZERO);
                let mut leaders = Leaders::new(seed, &committee, self.params.views_per_term);
                committee.members()[leaders.of_view(header.view).index()].address
            }
            None => return Err(failed(format!("the committee of epoch {} is not known here any more", header.epoch))),
        };
        let bloom = receipts.iter().fold(Bloom::ZERO, |all, receipt| all | receipt.bloom());
        Ok(BlockData {
            producer,
            prev_randao: randao_of(&block, Some(&entry)),
            result: Some(BlockResult { entry, bloom }),
            block: Arc::new(block),
            opened: None,
        })
    }

    /// The keys that transactions can be sealed to. A node gives them, the followed headers bind them; what else the answer
    /// says is read off these headers.
    async fn epoch_keys(&self) -> Answer<EpochKeys> {
        if self.params.transactions != TransactionRule::Encrypted {
            return Err(failed("the chain does not take sealed transactions"));
        }
        let chain = self.proven.read().chain.clone();
        let chain = chain.ok_or_else(|| failed("nothing is proved yet: the client still catches up"))?;
        let (tip, epoch) = (chain.tip(), chain.committee().epoch());
        let mut keys = Vec::new();
        for place in self.honest().into_iter().filter(|_| chain.committee().threshold_keys().0.is_some()) {
            let Ok(given) = self.peers[place].1.epoch_keys().await else { continue };
            let check = |key: &EpochKey| {
                key.public().map_or(Err(KeyError::Wrong(key.epoch)), |keys| chain.verify_keys(&keys, &key.members_root))
            };
            if given.keys.iter().any(|key| matches!(check(key), Err(KeyError::Wrong(_)))) {
                self.convict(place, "a key that the chain's headers do not bind");
                continue;
            }
            keys = given.keys.into_iter().filter(|key| check(key).is_ok()).collect();
            if keys.iter().any(|key| key.epoch == epoch) {
                break;
            }
        }
        if chain.committee().threshold_keys().0.is_some() && !keys.iter().any(|key| key.epoch == epoch) {
            return Err(failed(format!("no node gave the key of epoch {}, which the chain's headers bind", epoch.0)));
        }
        Ok(EpochKeys {
            chain_id: self.params.chain_id,
            genesis_hash: self.signing.genesis_hash,
            fork: self.signing.fork,
            epoch,
            height: tip.height,
            max_validity: self.params.max_validity,
            base_fee: next_base_fee(tip.base_fee, tip.ordered_gas, &self.params),
            keys,
            progress: None,
        })
    }

    /// A receipt. Where its transaction stands a node says; that it stands there is proved.
    async fn receipt(&self, hash: B256) -> Answer<Value> {
        for place in self.honest() {
            let Ok(Some(height)) = self.peers[place].1.block_of(hash).await else { continue };
            let entry = self.height(Some(Value::String(format!("{height:#x}"))))?;
            let (data, receipts) = self.content(entry).await?;
            let found = receipts.iter().enumerate().find(|(_, receipt)| receipt.transaction_hash == hash);
            match found {
                Some((index, receipt)) => return receipt_json(&data, receipt, index).map_err(failed),
                None => self.convict(place, &format!("transaction {hash} does not stand in block {height}")),
            }
        }
        Ok(Value::Null)
    }
}
