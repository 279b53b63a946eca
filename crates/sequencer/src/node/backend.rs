//! The RPC's view of the node: reads from the database and the hub, submissions to the content actor.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use alloy_primitives::Bloom;
use bytes::Bytes;
use cascade_consensus::{context::Rules, election::Leaders};
use cascade_da::serve::Asker;
use cascade_execution::{Receipt, State, StateView};
use cascade_network::{Direction, Network};
use cascade_primitives::{
    Address, B256, BlockHash, ChainParams, Committee, Epoch, Header, Height, NodeId, RecoveredTransaction, Transaction,
    TransactionRule, View,
};
use cascade_storage::{ChainDb, StorageError};
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{
    execution::{opened_items, randao_of},
    hub::Hub,
    items::ItemBlocks,
    keyring::Keyring,
    light::LightDoor,
    messages::Candidate,
    pool::SharedPool,
    submitter::Submitter,
};
use crate::rpc::backend::{
    Backend, BackendError, BlockData, BlockResult, ChainEvent, EpochKeysView, FinalityProof, Heads, Location,
    NodeStatus, PeerInfo, SubmitError,
};

/// Blocks that are kept decoded, and bytes of the transactions in them. One block is kept whatever its size.
const CACHED_BLOCKS: usize = 128;
const CACHED_BYTES: usize = 64 << 20;
/// Headers between a block and the certificate that covers it. Finality normally lags by one block.
const PROOF_HEADERS: u64 = 4096;

/// Epochs whose leaders are kept.
const KNOWN_EPOCHS: usize = 4;

/// Who produced a block: the leader of its view.
#[derive(Debug)]
pub struct Producers {
    rules: Arc<Rules>,
    db: Arc<ChainDb>,
    epochs: Mutex<BTreeMap<Epoch, (Arc<Committee>, Leaders)>>,
}

impl Producers {
    /// Reads committees from a database.
    #[must_use]
    pub const fn new(rules: Arc<Rules>, db: Arc<ChainDb>) -> Self {
        Self { rules, db, epochs: Mutex::new(BTreeMap::new()) }
    }

    /// Where the fees of a block go.
    ///
    /// # Errors
    /// If the database fails or does not know the epoch's committee.
    pub fn of(&self, header: &Header) -> Result<Address, StorageError> {
        // Genesis has no producer.
        if header.view == View(0) {
            return Ok(Address::ZERO);
        }
        let mut epochs = self.epochs.lock();
        let (committee, leaders) = match epochs.entry(header.epoch) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let start = self.db.epoch(header.epoch)?.ok_or_else(|| StorageError::Order {
                    path: self.db.path().to_owned(),
                    what: format!("the committee of epoch {} is not stored", header.epoch),
                })?;
                let leaders = Leaders::new(start.seed, &start.committee, self.rules.params().views_per_term);
                place.insert((Arc::new(start.committee), leaders))
            }
        };
        let address = committee.members()[leaders.of_view(header.view).index()].address;
        while epochs.len() > KNOWN_EPOCHS {
            epochs.pop_first();
        }
        Ok(address)
    }
}

/// Decoded blocks, the lowest of which go when there are too many or too large ones.
#[derive(Default)]
pub struct BlockCache {
    blocks: BTreeMap<Height, Arc<BlockData>>,
    bytes: usize,
}

impl BlockCache {
    fn get(&self, height: Height) -> Option<Arc<BlockData>> {
        self.blocks.get(&height).cloned()
    }

    fn cost(data: &BlockData) -> usize {
        let body = &data.block.body;
        body.transaction_bytes() + body.transactions.len() * size_of::<Bytes>()
    }

    fn insert(&mut self, height: Height, data: Arc<BlockData>) {
        self.bytes += Self::cost(&data);
        if let Some(before) = self.blocks.insert(height, data) {
            self.bytes -= Self::cost(&before);
        }
        while self.blocks.len() > CACHED_BLOCKS || self.bytes > CACHED_BYTES && self.blocks.len() > 1 {
            let Some((_, lowest)) = self.blocks.pop_first() else { return };
            self.bytes -= Self::cost(&lowest);
        }
    }
}

/// The node as the RPC sees it.
pub struct NodeBackend {
    /// The chain.
    pub rules: Arc<Rules>,
    /// The database.
    pub db: Arc<ChainDb>,
    /// The state in it.
    pub state: State,
    /// The pool.
    pub pool: SharedPool,
    /// The network.
    pub network: Network,
    /// Heads, health, counters, events.
    pub hub: Arc<Hub>,
    /// Who produced a block.
    pub producers: Arc<Producers>,
    /// Where submissions go.
    pub submitter: Submitter,
    /// Blocks read lately.
    pub blocks: Mutex<BlockCache>,
    /// Keys of epochs.
    pub keyring: Keyring,
    /// Items of recent blocks.
    pub items: ItemBlocks,
    /// What light clients ask.
    pub light: Arc<LightDoor>,
}

fn internal(error: StorageError) -> BackendError {
    BackendError::Internal(error.to_string())
}

impl Backend for NodeBackend {
    fn params(&self) -> &ChainParams {
        self.rules.params()
    }

    fn genesis_hash(&self) -> B256 {
        self.rules.signing.genesis_hash
    }

    fn heads(&self) -> Heads {
        self.hub.heads()
    }

    fn block(&self, height: Height) -> Result<Option<Arc<BlockData>>, BackendError> {
        if height > self.hub.heads().ordered {
            return Ok(None);
        }
        if let Some(data) = self.blocks.lock().get(height)
            && data.result.is_some()
        {
            return Ok(Some(data));
        }
        let Some(block) = self.db.block(height).map_err(internal)? else { return Ok(None) };
        let executed = self.db.executed(height).map_err(internal)?;
        let data = Arc::new(BlockData {
            producer: self.producers.of(&block.header).map_err(internal)?,
            prev_randao: randao_of(&block, executed.as_ref().map(|record| &record.result)),
            opened: match &executed {
                Some(_) => opened_items(&self.db, self.rules.params().transactions, height).map_err(internal)?,
                None => None,
            },
            result: executed.map(|record| BlockResult { entry: record.result, bloom: record.bloom }),
            block: Arc::new(block),
        });
        self.blocks.lock().insert(height, Arc::clone(&data));
        Ok(Some(data))
    }

    fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>, BackendError> {
        self.db.height_of(hash).map_err(internal)
    }

    fn block_hash(&self, height: Height) -> Result<Option<BlockHash>, BackendError> {
        self.db.hash_at(height).map_err(internal)
    }

    fn bloom(&self, height: Height) -> Result<Option<Bloom>, BackendError> {
        Ok(self.db.executed(height).map_err(internal)?.map(|record| record.bloom))
    }

    fn receipts(&self, height: Height) -> Result<Option<Arc<Vec<Receipt>>>, BackendError> {
        Ok(self.db.receipts(height).map_err(internal)?.map(Arc::new))
    }

    fn location(&self, hash: &B256) -> Result<Option<Location>, BackendError> {
        let place = self.db.transaction_place(hash).map_err(internal)?;
        Ok(place.map(|place| Location { height: place.height, index: place.index }))
    }

    fn pool_transaction(&self, hash: &B256) -> Option<Arc<RecoveredTransaction>> {
        self.pool.lock().get(hash)
    }

    fn pool_contains(&self, hash: &B256) -> bool {
        self.pool.lock().contains(hash)
    }

    fn pending_nonce(&self, sender: &Address) -> Result<u64, BackendError> {
        Ok(self.pool.lock().pending_nonce(sender))
    }

    fn state(&self, height: Height) -> Result<StateView, BackendError> {
        Ok(self.state.at(height)?)
    }

    fn finality(&self, height: Height) -> Result<Option<FinalityProof>, BackendError> {
        let Some(hash) = self.db.hash_at(height).map_err(internal)? else { return Ok(None) };
        let Some(finality) = self.db.finality(height).map_err(internal)? else { return Ok(None) };
        let target = finality.certificate.target.block;
        let last = finality.fillers.first().map_or(target, |filler| filler.parent);
        let mut headers = Vec::new();
        let (mut at, mut above) = (hash, height.next());
        while at != last {
            let Some((hash, header)) = self.db.header(above).map_err(internal)? else { return Ok(None) };
            if above.0 > height.0 + PROOF_HEADERS {
                return Ok(None);
            }
            headers.push(header);
            (at, above) = (hash, above.next());
        }
        headers.extend(finality.fillers);
        let Some(committee) = self.committee(finality.certificate.target.epoch)? else { return Ok(None) };
        Ok(Some(FinalityProof { certificate: Arc::new(finality.certificate), headers, committee }))
    }

    fn committee(&self, epoch: Epoch) -> Result<Option<Arc<Committee>>, BackendError> {
        if let Some(view) = self.hub.consensus() {
            if view.committee.epoch() == epoch {
                return Ok(Some(view.committee));
            }
            if view.next_committee.epoch() == epoch {
                return Ok(Some(view.next_committee));
            }
        }
        Ok(self.db.committee(epoch).map_err(internal)?.map(Arc::new))
    }

    fn leaders(&self, count: u64) -> Vec<(View, NodeId)> {
        let Some(view) = self.hub.consensus() else { return Vec::new() };
        let mut leaders = Vec::new();
        let starts = view.leaders.iter().map(|(first, _)| first.0).skip(1).chain([u64::MAX]);
        for (&(first, node), end) in view.leaders.iter().zip(starts) {
            let room = count - leaders.len() as u64;
            leaders.extend((first.0..end.min(first.0.saturating_add(room))).map(|v| (View(v), node)));
            if leaders.len() as u64 >= count || end == u64::MAX {
                break;
            }
        }
        leaders
    }

    fn status(&self) -> NodeStatus {
        let peers = self.network.peers().into_iter().map(|peer| PeerInfo {
            node: peer.node,
            address: peer.address,
            inbound: peer.direction == Direction::Inbound,
        });
        let health = self.hub.consensus().map(|view| view.health);
        NodeStatus {
            node: self.network.node_id(),
            health: health.expect("the RPC starts after the first step of consensus"),
            sync: self.hub.sync(),
            peers: peers.collect(),
            pool: self.pool.lock().counts(),
            counters: self.hub.counters(),
        }
    }

    fn light(&self, host: IpAddr, ask: &Bytes) -> Option<Bytes> {
        self.light.answer(Asker::Host(host), ask)
    }

    fn epoch_keys(&self) -> EpochKeysView {
        let epoch = self.hub.consensus().map_or(Epoch(0), |view| view.committee.epoch());
        let keys = self.keyring.agreed_from(epoch).into_iter();
        EpochKeysView {
            epoch,
            keys: keys.map(|holder| (holder.keys.public(), holder.committee.members_root())).collect(),
            progress: self.keyring.progress(),
        }
    }

    fn payer_nonce(&self, payer: &Address) -> Option<u64> {
        self.pool.lock().payer_nonce(payer)
    }

    fn ordered_item(&self, name: &B256) -> Option<(Height, bool)> {
        let heads = self.hub.heads();
        self.items.find(name, heads.executed, heads.ordered, |height, hash| {
            self.db.hash_at(height).is_ok_and(|found| found.as_ref() == Some(hash))
        })
    }

    fn envelope_end(&self, name: &B256) -> Option<(Epoch, Height)> {
        self.pool.lock().envelope_end(name)
    }

    fn events(&self) -> broadcast::Receiver<ChainEvent> {
        self.hub.subscribe()
    }

    fn submit(&self, raw: Vec<Bytes>) -> BoxFuture<'static, Vec<Result<B256, SubmitError>>> {
        let params = self.rules.params();
        let (rule, chain, limit) = (params.transactions, params.chain_id, params.max_tx_bytes as usize);
        let decoded: Vec<Result<Candidate, SubmitError>> = raw
            .into_iter()
            .map(|bytes| match rule {
                TransactionRule::Opaque => Ok(Candidate::Opaque(bytes)),
                TransactionRule::Encrypted => Ok(Candidate::Item(bytes)),
                TransactionRule::Plain => Ok(Candidate::Plain(Box::new(Transaction::decode(bytes, chain, limit)?))),
            })
            .collect();
        let submitter = self.submitter.clone();
        async move {
            let (mut results, mut candidates) = (Vec::with_capacity(decoded.len()), Vec::with_capacity(decoded.len()));
            for item in decoded {
                results.push(item.map(|candidate| candidates.push(candidate)));
            }
            let mut answers = submitter.submit(candidates).await.into_iter();
            let mut answer = || answers.next().expect("there is one answer for each candidate");
            results.into_iter().map(|result| result.and_then(|()| answer())).collect()
        }
        .boxed()
    }
}
