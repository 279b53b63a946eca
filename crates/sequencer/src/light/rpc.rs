//! JSON-RPC on this machine whose answers are proved: a wallet can use it in place of a node.
//!
//! | method | checked against |
//! |---|---|
//! | `eth_chainId`, `net_version` | the genesis file |
//! | `eth_blockNumber` | the newest height whose results a followed header carries |
//! | `eth_getBalance`, `eth_getTransactionCount`, `eth_getCode`, `eth_getStorageAt` | the state root in these results |
//! | `eth_getBlockByNumber` | the followed header: its hash, the body's root, the results |
//! | `eth_getBlockReceipts`, `eth_getTransactionReceipt` | the receipts root in the results |
//! | `l2_epochKey` | the committee roots in the newest followed header, each key with its `membersRoot`; the rest of the answer is that header's, and `proved` is true |
//!
//! Tags mean the newest proved height, `pending` too: what is not final cannot be proved. If the newest followed header is older
//! than a minute, they are refused, since the client may have lost the chain: an old balance must not pass for the newest;
//! `eth_syncing` says so. Answers do not wait for samples of their block: where data is withheld, the client stops, and this RPC
//! with it. Heights that were not followed, or long ago, are refused rather than answered unproved; of heights to come there is
//! nothing yet, as at a node. A node whose answer does not check is dropped, and the next one is asked;
//! so it is, without waiting long, where one keeps silent (module `peers`). Blocks and receipts of encrypted chains are refused: what their envelopes held is proved by the state alone.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use alloy_primitives::{Address, B256, Bloom, Bytes, U64, U256, keccak256};
use cascade_consensus::election::{Leaders, epoch_seed};
use cascade_execution::{Receipt, StateProof, receipts_root};
use cascade_light::{Ask, Chain, Client as LightClient, Reply};
use cascade_primitives::{
    BlockHash, ChainParams, Committee, Decode as _, Epoch, Height, ResultEntry, SealedBlock, SigningContext,
    TimestampMs, TransactionRule, View,
};
use jsonrpsee::{
    RpcModule,
    server::{Server, ServerConfig, ServerHandle},
    types::{ErrorObjectOwned, Params},
};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};

use super::{
    Peer, http,
    keys::Known,
    peers::{Dropped, Peers, Wanting},
};
use crate::{
    cli::{Client, Failure},
    home::unix_ms,
    node::randao_of,
    rpc::{
        backend::{BlockData, BlockResult},
        block_json, receipt_json,
    },
};

/// Heights whose results and hashes are kept.
const KEPT: usize = 4096;
/// Connections at once: it is for this machine.
const CONNECTIONS: u32 = 64;
/// Longest request, in bytes.
const REQUEST_BYTES: u32 = 64 << 10;
/// Age of the newest followed header, by this machine's clock, beyond which nothing passes for the newest.
const MAX_AGE_MS: u64 = 60_000;
/// Server error.
const FAILED: i32 = -32000;
/// Invalid parameters.
const PARAMS: i32 = -32602;

/// What the client has proved.
#[derive(Debug, Default)]
pub struct Proven {
    /// Nodes that lied.
    pub dropped: Dropped,
    results: BTreeMap<Height, ResultEntry>,
    hashes: BTreeMap<Height, BlockHash>,
    committees: BTreeMap<Epoch, Arc<Committee>>,
    /// The newest header, and the committee that makes the next ones final.
    pub(super) chain: Option<Chain>,
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

pub(super) struct Shared {
    pub(super) params: ChainParams,
    pub(super) signing: SigningContext,
    pub(super) proven: Arc<RwLock<Proven>>,
    pub(super) peers: Peers,
    pub(super) keys: Known,
}

pub(super) type Answer<T> = Result<T, ErrorObjectOwned>;

pub(super) fn failed(what: impl Into<String>) -> ErrorObjectOwned {
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
    let peers = Peers::new(peers, proven.read().dropped.clone())?;
    let shared = Shared { params, signing, proven, peers, keys: Known::default() };
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
        .register_method("eth_syncing", |_, shared, _| match shared.newest() {
            Ok(_) => json!(false),
            Err(_) => {
                let height = shared.proven.read().chain.as_ref().map_or(0, |chain| chain.tip().height.0);
                json!({ "startingBlock": "0x0", "currentBlock": U64::from(height), "highestBlock": U64::from(height) })
            }
        })
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
            let Some(entry) = shared.height_if_there(block)? else { return Ok(Value::Null) };
            let (data, receipts) = shared.content(entry).await?;
            block_json(&data, &shared.params, &receipts, full.unwrap_or(false)).map_err(failed)
        })
        .expect(once);
    module
        .register_async_method("eth_getBlockReceipts", |params, shared, _| async move {
            let entry = shared.height_if_there(params.sequence().optional_next()?)?;
            let Some(entry) = entry else { return Ok(Value::Null) };
            let (data, receipts) = shared.content(entry).await?;
            let all = receipts.iter().enumerate().map(|(index, receipt)| receipt_json(&data, receipt, index));
            all.collect::<Result<Vec<_>, _>>().map(Value::from).map_err(failed)
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

/// The height in a parameter; none for a tag.
fn number(block: Option<&Value>) -> Answer<Option<Height>> {
    match block {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(tag)) if matches!(tag.as_str(), "latest" | "safe" | "finalized" | "pending") => Ok(None),
        Some(value) => serde_json::from_value::<U64>(value.clone())
            .map(|height| Some(Height(height.to())))
            .map_err(|_| ErrorObjectOwned::owned(PARAMS, format!("{value} is no tag or height"), None::<()>)),
    }
}

/// Why nothing passes for the newest, if the newest header has this time.
fn too_old(newest: TimestampMs, now: u64) -> Option<String> {
    let age = now.saturating_sub(newest.0);
    (age > MAX_AGE_MS).then(|| {
        format!(
            "the newest proved block is {} s old by this machine's clock: the client still catches up, no node gives newer \
             ones, or the clock is fast; heights that are proved are answered by number",
            age / 1000
        )
    })
}

impl Shared {
    fn newest(&self) -> Answer<ResultEntry> {
        let proven = self.proven.read();
        let newest = proven.results.last_key_value().map(|(_, entry)| *entry).zip(proven.chain.as_ref());
        let (entry, chain) = newest.ok_or_else(|| failed("nothing is proved yet: the client still catches up"))?;
        match too_old(chain.tip().timestamp, unix_ms()) {
            Some(what) => Err(failed(what)),
            None => Ok(entry),
        }
    }

    /// The results of the height that a tag or number stands for; none if it is above all that are proved.
    fn height_if_there(&self, block: Option<Value>) -> Answer<Option<ResultEntry>> {
        let above = number(block.as_ref())?.is_some_and(|height| self.is_to_come(height));
        if above { Ok(None) } else { self.height(block).map(Some) }
    }

    /// Whether a height is above all that are proved.
    fn is_to_come(&self, height: Height) -> bool {
        self.proven.read().results.last_key_value().is_some_and(|(newest, _)| height > *newest)
    }

    /// The results of the height that a tag or number stands for.
    fn height(&self, block: Option<Value>) -> Answer<ResultEntry> {
        number(block.as_ref())?.map_or_else(|| self.newest(), |height| self.results(height))
    }

    fn results(&self, height: Height) -> Answer<ResultEntry> {
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

    /// Proofs of an account and slots at a proved height, from the first node whose proofs hold.
    async fn state<T>(
        &self,
        address: Address,
        slots: &[U256],
        entry: &ResultEntry,
        check: impl Fn(&crate::rpc::types::AccountProof) -> Result<T, String>,
    ) -> Answer<T> {
        let check = &check;
        let question = |_, client: Client| async move {
            let proof = client.proof(address, slots, entry.height.0).await;
            let proof = proof.map_err(|error| Wanting::Nothing(error.to_string()))?;
            check(&proof).map_err(|what| Wanting::Lie(format!("state proof at block {}: {what}", entry.height)))
        };
        let found = self.peers.ask(question).await;
        found.map(|(_, value)| value).map_err(|last| failed(format!("no node proved it: {last}")))
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
        let question = |_, client: Client| async move {
            let code = client.code(address, entry.height.0).await;
            let code = code.map_err(|error| Wanting::Nothing(error.to_string()))?;
            match keccak256(&code) == hash {
                true => Ok(code),
                false => Err(Wanting::Lie("code with another hash than the account's".to_owned())),
            }
        };
        let found = self.peers.ask(question).await;
        found
            .map(|(_, code)| code)
            .map_err(|last| failed(format!("no node gave the code whose hash is proved: {last}")))
    }

    /// A block with its receipts, checked against the followed header and the results.
    async fn content(&self, entry: ResultEntry) -> Answer<(BlockData, Vec<Receipt>)> {
        if self.params.transactions != TransactionRule::Plain {
            return Err(failed("blocks and receipts are proved on chains of plain transactions alone"));
        }
        let height = entry.height;
        let hash = self.proven.read().hashes.get(&height).copied();
        let hash = hash.ok_or_else(|| failed(format!("the header of block {height} was not followed")))?;
        let question = |peer: Peer, _| async move {
            let ask = async |ask: Ask| {
                let answer = http::ask(&peer.authority, &ask).await;
                answer.map(|(reply, _)| reply).map_err(|error| Wanting::Nothing(error.to_string()))
            };
            let Reply::Block(Some(block)) = ask(Ask::Block { height }).await? else {
                return Err(Wanting::Nothing("it does not have the block".to_owned()));
            };
            let block = SealedBlock::new(*block);
            if block.hash() != hash || block.body.root() != block.header.body_root {
                return Err(Wanting::Lie(format!("another block than the final one at {height}")));
            }
            let Reply::Receipts(Some(receipts)) = ask(Ask::Receipts { height }).await? else {
                return Err(Wanting::Nothing("it does not have the receipts".to_owned()));
            };
            let receipts: Result<Vec<Receipt>, _> = receipts.iter().map(|bytes| Receipt::from_slice(bytes)).collect();
            match receipts {
                Ok(receipts) if receipts_root(&receipts) == entry.receipts_root => Ok((block, receipts)),
                _ => Err(Wanting::Lie(format!("other receipts than those of block {height}"))),
            }
        };
        let (_, (block, receipts)) = self
            .peers
            .ask(question)
            .await
            .map_err(|last| failed(format!("no node gave block {height} with receipts that check: {last}")))?;
        Ok((self.data(block, entry, &receipts)?, receipts))
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

    /// A receipt. Where its transaction stands a node says; that it stands there is proved.
    async fn receipt(&self, hash: B256) -> Answer<Value> {
        loop {
            // A height that somebody named and that is not proved here. It may be a lie: others are asked.
            let unproved = Mutex::new(None);
            let question = |_, client: Client| {
                let unproved = &unproved;
                async move {
                    let height = client.block_of(hash).await.map_err(|error| Wanting::Nothing(error.to_string()))?;
                    let height = height.ok_or_else(|| Wanting::Nothing("it knows no such transaction".to_owned()))?;
                    self.results(Height(height)).map_err(|error| {
                        *unproved.lock() = Some((Height(height), error.clone()));
                        Wanting::Nothing(error.message().to_owned())
                    })
                }
            };
            let (place, entry) = match self.peers.ask(question).await {
                Ok(found) => found,
                // One that ran just now is proved a moment later.
                Err(_) => match unproved.into_inner() {
                    Some((height, error)) if !self.is_to_come(height) => return Err(error),
                    _ => return Ok(Value::Null),
                },
            };
            let height = entry.height;
            let (data, receipts) = self.content(entry).await?;
            let found = receipts.iter().enumerate().find(|(_, receipt)| receipt.transaction_hash == hash);
            match found {
                Some((index, receipt)) => return receipt_json(&data, receipt, index).map_err(failed),
                // One less to ask, each time.
                None => self.peers.convict(place, &format!("transaction {hash} does not stand in block {height}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_block_does_not_pass_for_the_newest() {
        let now = 1_000_000_000;
        assert_eq!(too_old(TimestampMs(now - MAX_AGE_MS), now), None);
        assert_eq!(too_old(TimestampMs(now + 5000), now), None, "another machine's clock is ahead");
        assert!(too_old(TimestampMs(now - MAX_AGE_MS - 1), now).unwrap().contains("60 s old"));
    }

    #[test]
    fn tags_and_heights_are_told_apart() {
        for tag in [None, Some(json!(null)), Some(json!("latest")), Some(json!("pending"))] {
            assert_eq!(number(tag.as_ref()), Ok(None));
        }
        assert_eq!(number(Some(&json!("0x10"))), Ok(Some(Height(16))));
        for wrong in [json!("newest"), json!(-1), json!({}), json!("0x10000000000000000")] {
            assert_eq!(number(Some(&wrong)).unwrap_err().code(), PARAMS, "{wrong}");
        }
    }
}
