//! What enters the database, and what a revert takes out.

use std::{collections::HashSet, sync::Arc};

use cascade_execution::{ExecutedBlock, Outcome, Receipt, StateChanges};
use cascade_primitives::{
    Address, B256, BlockHash, Bytes, Certificate, Committee, Decode, DecodeError, Encode, Epoch, Header, Height,
    Reader, ResultEntry, Reveal, SealedBlock,
    block::{MAX_FILLER_HEADERS, MAX_TRANSACTION_BYTES, MAX_TRANSACTIONS_PER_BLOCK},
    codec::{encode_byte_string, encode_list},
    keccak256,
};
use rocksdb::WriteBatch;

use super::{
    ChainDb, Heads,
    read::ExecutedRecord,
    schema::{self, Family},
};
use crate::error::Result;

/// What the receipt of a transfer takes, about.
const RECEIPT_BYTES: usize = 200;

/// What made a block final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finality {
    /// A commit certificate of the block, of a descendant, or of a filler above it.
    pub certificate: Certificate,
    /// For the last block of an epoch: the headers from it up to the filler that the certificate is for.
    pub fillers: Vec<Header>,
}

impl Finality {
    /// Whether it shows by itself, without further blocks, that a block is final.
    #[must_use]
    pub fn certifies(&self, block: &BlockHash) -> bool {
        self.certificate.target.block == *block || !self.fillers.is_empty()
    }
}

impl Encode for Finality {
    fn encode(&self, out: &mut Vec<u8>) {
        self.certificate.encode(out);
        encode_list(&self.fillers, out);
    }
}

impl Decode for Finality {
    fn decode(r: &mut Reader<'_>) -> std::result::Result<Self, DecodeError> {
        Ok(Self { certificate: Certificate::decode(r)?, fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)? })
    }
}

/// A block that became final.
#[derive(Clone, Debug)]
pub struct FinalBlock {
    /// The block.
    pub block: Arc<SealedBlock>,
    /// What made it final; none for genesis.
    pub finality: Option<Finality>,
    /// The hashes of its transactions, in order, by which they are found. Empty to leave them out of the index, which an
    /// opaque chain under load does.
    pub transactions: Vec<B256>,
}

/// An item of a block of an encrypted chain, once it is known what was inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedItem {
    /// Its name: an envelope's hash, or that of the transfer in a deposit.
    pub name: B256,
    /// Who paid.
    pub payer: Address,
    /// The transaction that ran, EIP-2718 encoded; empty if none did.
    pub transaction: Bytes,
}

impl OpenedItem {
    /// The hash of the transaction that ran.
    #[must_use]
    pub fn transaction_hash(&self) -> Option<B256> {
        (!self.transaction.is_empty()).then(|| keccak256(&self.transaction))
    }
}

impl Encode for OpenedItem {
    fn encode(&self, out: &mut Vec<u8>) {
        self.name.encode(out);
        self.payer.encode(out);
        encode_byte_string(&self.transaction, out);
    }
}

impl Decode for OpenedItem {
    fn decode(r: &mut Reader<'_>) -> std::result::Result<Self, DecodeError> {
        Ok(Self {
            name: B256::decode(r.field("opened item"))?,
            payer: Address::decode(r)?,
            transaction: r.byte_string(MAX_TRANSACTION_BYTES)?,
        })
    }
}

/// What opened a block's envelopes, and what was inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedBlock {
    /// What opened them.
    pub reveal: Reveal,
    /// The items in the order in which they ran.
    pub items: Vec<OpenedItem>,
}

impl Encode for OpenedBlock {
    fn encode(&self, out: &mut Vec<u8>) {
        self.reveal.encode(out);
        encode_list(&self.items, out);
    }
}

impl Decode for OpenedBlock {
    fn decode(r: &mut Reader<'_>) -> std::result::Result<Self, DecodeError> {
        Ok(Self { reveal: Reveal::decode(r)?, items: r.field("opened items").list(MAX_TRANSACTIONS_PER_BLOCK)? })
    }
}

/// What an epoch begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// Who votes in it.
    pub committee: Committee,
    /// The seed of its leaders.
    pub seed: B256,
}

impl Encode for EpochStart {
    fn encode(&self, out: &mut Vec<u8>) {
        self.committee.encode(out);
        self.seed.encode(out);
    }
}

impl Decode for EpochStart {
    fn decode(r: &mut Reader<'_>) -> std::result::Result<Self, DecodeError> {
        Ok(Self { committee: Committee::decode(r.field("start of an epoch"))?, seed: B256::decode(r)? })
    }
}

/// What is kept of an epoch's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// The public keys.
    Public = 1,
    /// This node's shares, sealed.
    Shares = 2,
    /// The encryption key to which this node's shares are dealt, sealed.
    Recipient = 3,
}

impl ChainDb {
    /// Keeps a record of an epoch's keys, durably: a secret that is announced before it is on disk may be lost. `owner` is
    /// the committee that the keys are made for: should it be made anew, its keys are too.
    ///
    /// # Errors
    /// What the system reports.
    pub fn put_key(&self, kind: KeyKind, epoch: Epoch, owner: &B256, record: &[u8]) -> Result<()> {
        self.put_keys(epoch, owner, &[(kind, record)])
    }

    /// Keeps several records of an epoch's keys, durably, all of them or none: see [`ChainDb::put_key`].
    ///
    /// # Errors
    /// What the system reports.
    pub fn put_keys(&self, epoch: Epoch, owner: &B256, records: &[(KeyKind, &[u8])]) -> Result<()> {
        let _writer = self.lock_writer();
        let mut batch = WriteBatch::default();
        for (kind, record) in records {
            let record = [owner.as_slice(), record].concat();
            batch.put_cf(self.family(Family::Keys), schema::key_record(*kind as u8, epoch), record);
        }
        self.write(batch, true, self.heads())
    }

    /// A record of an epoch's keys; none if what is there was made for another committee.
    ///
    /// # Errors
    /// What the system reports.
    pub fn key(&self, kind: KeyKind, epoch: Epoch, owner: &B256) -> Result<Option<Vec<u8>>> {
        let record = self.get(Family::Keys, schema::key_record(kind as u8, epoch))?;
        Ok(record.and_then(|record| record.strip_prefix(owner.as_slice()).map(<[u8]>::to_vec)))
    }

    /// What opened the block at a height, without what was inside; none if it has no items or is not executed.
    ///
    /// # Errors
    /// What the system reports.
    pub fn reveal(&self, height: Height) -> Result<Option<Reveal>> {
        self.get(Family::Opened, schema::number(height.0))?
            .map(|bytes| Reveal::decode(&mut Reader::new(&bytes)).map_err(|error| self.damaged("reveal", &error)))
            .transpose()
    }

    /// Erases this node's secrets of epochs before this one. Their bytes leave the disk when the database next compacts
    /// them, which is asked for at once.
    ///
    /// # Errors
    /// What the system reports.
    pub fn erase_secrets_before(&self, epoch: Epoch) -> Result<()> {
        let _writer = self.lock_writer();
        let mut batch = WriteBatch::default();
        for kind in [KeyKind::Shares, KeyKind::Recipient] {
            let (first, end) = (schema::key_record(kind as u8, Epoch(0)), schema::key_record(kind as u8, epoch));
            batch.delete_range_cf(self.family(Family::Keys), &first[..], &end[..]);
        }
        self.write(batch, true, self.heads())?;
        self.db.compact_range_cf(self.family(Family::Keys), None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// What opened the block at a height; none if it has no items or is not executed.
    ///
    /// # Errors
    /// What the system reports.
    pub fn opened(&self, height: Height) -> Result<Option<OpenedBlock>> {
        self.get(Family::Opened, schema::number(height.0))?
            .map(|bytes| OpenedBlock::from_slice(&bytes).map_err(|error| self.damaged("opened block", &error)))
            .transpose()
    }

    /// Adds final blocks, in order of height, in one batch. Those that it has already are passed over. Returns how many
    /// are new.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if one does not follow the newest final block or differs from
    /// the one that is final at its height; and what the system reports.
    pub fn append_final(&self, blocks: &[FinalBlock]) -> Result<usize> {
        self.append_final_with_context(blocks, &[])
    }

    /// Like [`ChainDb::append_final`], and keeps with it what consensus needs to go on from the last of the blocks:
    /// bytes that mean nothing here, in place of those kept before. Nothing is kept if no block is new or there are none.
    ///
    /// # Errors
    /// As [`ChainDb::append_final`].
    pub fn append_final_with_context(&self, blocks: &[FinalBlock], context: &[u8]) -> Result<usize> {
        let _writer = self.lock_writer();
        let mut heads = self.heads();
        let mut batch = WriteBatch::default();
        let mut added = 0;
        for block in blocks {
            if !self.is_new(&heads, block)? {
                continue;
            }
            self.put_final(&mut batch, block);
            heads.last_final = Some((block.block.header.height, block.block.hash()));
            added += 1;
        }
        if added > 0 {
            if !context.is_empty() {
                batch.put_cf(self.family(Family::Meta), schema::CONTEXT, context);
            }
            self.write(batch, self.options.sync_final, heads)?;
        }
        Ok(added)
    }

    /// Begins the chain with its genesis block, that block's result and the state that it stands for, in one batch.
    /// Passes over a genesis that is there already. Returns whether it was new.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if the database began with another genesis, the block is none or
    /// the state is not its own; and what the system reports.
    pub fn init_genesis(&self, block: &Arc<SealedBlock>, changes: &StateChanges) -> Result<bool> {
        let _writer = self.lock_writer();
        let genesis = FinalBlock { block: Arc::clone(block), finality: None, transactions: Vec::new() };
        if !self.is_new(&self.heads(), &genesis)? {
            return Ok(false);
        }
        let result = match block.header.results.as_slice() {
            [result] if result.height == Height::ZERO && result.state_root == changes.root() => *result,
            results => {
                return self.order(format!("genesis with the results {results:?}, its state is {}", changes.root()));
            }
        };
        let mut batch = WriteBatch::default();
        self.put_final(&mut batch, &genesis);
        let record = ExecutedRecord { result, ..ExecutedRecord::default() };
        batch.put_cf(self.family(Family::Results), schema::number(0), record.to_bytes());
        batch.put_cf(self.family(Family::Receipts), schema::number(0), encode_receipts(&[]));
        self.put_state(&mut batch, changes);
        let heads = Heads {
            last_final: Some((Height::ZERO, block.hash())),
            executed: Some(Height::ZERO),
            state: Some((Height::ZERO, Height::ZERO)),
        };
        self.write(batch, true, heads)?;
        Ok(true)
    }

    fn is_new(&self, heads: &Heads, block: &FinalBlock) -> Result<bool> {
        let (height, hash) = (block.block.header.height, block.block.hash());
        let Some((last, last_hash)) = heads.last_final else {
            return if height == Height::ZERO {
                Ok(true)
            } else {
                self.order(format!("block {height} before genesis"))
            };
        };
        if height <= last {
            return match if height == last { Some(last_hash) } else { self.hash_at(height)? } {
                Some(known) if known == hash => Ok(false),
                Some(known) => self.order(format!("block {hash} at height {height}, where {known} is final")),
                None => self.order(format!("block {height} below the oldest kept")),
            };
        }
        if height != last.next() || block.block.header.parent != last_hash {
            let parent = block.block.header.parent;
            return self.order(format!("block {height} on parent {parent} does not follow block {last} {last_hash}"));
        }
        Ok(true)
    }

    fn put_final(&self, batch: &mut WriteBatch, block: &FinalBlock) {
        let (sealed, key) = (&block.block, schema::number(block.block.header.height.0));
        let hash = sealed.hash();
        let mut header = hash.as_bytes().to_vec();
        sealed.header.encode(&mut header);
        batch.put_cf(self.family(Family::Headers), key, header);
        batch.put_cf(self.family(Family::Bodies), key, sealed.body.to_bytes());
        batch.put_cf(self.family(Family::Heights), hash.as_bytes(), key);
        if let Some(finality) = &block.finality {
            batch.put_cf(self.family(Family::Finality), key, finality.to_bytes());
        }
        for (index, tx) in (0..).zip(&block.transactions) {
            batch.put_cf(self.family(Family::Transactions), tx, schema::encode_place(sealed.header.height, index));
        }
    }

    /// Replaces what is kept as proof of a final block, for example by a certificate of the block itself.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if the block is not final; and what the system reports.
    pub fn put_finality(&self, height: Height, finality: &Finality) -> Result<()> {
        let _writer = self.lock_writer();
        let heads = self.heads();
        if heads.last_final.is_none_or(|(last, _)| height > last) {
            return self.order(format!("proof for block {height}, which is not final"));
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(Family::Finality), schema::number(height.0), finality.to_bytes());
        self.write(batch, false, heads)
    }

    /// Adds what executing the next final block gave: result, receipts and state, in one batch.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if the block is not the next one or not final, or the state
    /// is not the one below it; and what the system reports.
    pub fn commit_executed(&self, executed: &ExecutedBlock) -> Result<()> {
        self.commit_opened(executed, None)
    }

    /// As [`ChainDb::commit_executed`] for a block with items: also adds what opened it, and finds each item under its own
    /// name and under the hash of what was inside, at its place in the order in which they ran. An item that did nothing is
    /// found only if nothing else has its name: a deposit is named like the same transfer in an envelope, which may have run.
    ///
    /// # Errors
    /// As [`ChainDb::commit_executed`].
    pub fn commit_opened(&self, executed: &ExecutedBlock, opened: Option<&OpenedBlock>) -> Result<()> {
        let _writer = self.lock_writer();
        let mut heads = self.heads();
        let height = executed.result.height;
        self.check_next_executed(&heads, height)?;
        if executed.changes.version() != height || heads.state.is_some_and(|(_, newest)| newest.next() != height) {
            let version = executed.changes.version();
            return self.order(format!("state {version} of block {height} on state {:?}", heads.state));
        }
        let mut batch = WriteBatch::default();
        let record = ExecutedRecord {
            result: executed.result,
            bloom: executed.bloom,
            burned: executed.burned,
            tips: executed.tips,
        };
        batch.put_cf(self.family(Family::Results), schema::number(height.0), record.to_bytes());
        let receipts = encode_receipts(&executed.receipts);
        batch.put_cf(self.family(Family::Receipts), schema::number(height.0), receipts);
        if let Some(opened) = opened {
            batch.put_cf(self.family(Family::Opened), schema::number(height.0), opened.to_bytes());
            self.put_places(&mut batch, height, &opened.items, &executed.receipts)?;
        }
        self.put_state(&mut batch, &executed.changes);
        heads.state = Some((heads.state.map_or(height, |(oldest, _)| oldest), height));
        heads.executed = Some(height);
        self.write(batch, self.options.sync_executed, heads)
    }

    fn put_places(
        &self,
        batch: &mut WriteBatch,
        height: Height,
        items: &[OpenedItem],
        receipts: &[Receipt],
    ) -> Result<()> {
        let mut ran = HashSet::new();
        let (idle, busy): (Vec<_>, Vec<_>) =
            (0..).zip(items.iter().zip(receipts)).partition(|(_, (_, r))| matches!(r.outcome, Outcome::NoOp(_)));
        for (index, (item, _)) in busy {
            let place = schema::encode_place(height, index);
            for hash in [Some(item.name), item.transaction_hash()].into_iter().flatten() {
                ran.insert(hash);
                batch.put_cf(self.family(Family::Transactions), hash, place);
            }
        }
        for (index, (item, _)) in idle {
            if ran.insert(item.name) && self.transaction_place(&item.name)?.is_none() {
                batch.put_cf(self.family(Family::Transactions), item.name, schema::encode_place(height, index));
            }
        }
        Ok(())
    }

    /// Adds the result of the next final block on a chain that executes nothing. The state stays what it was.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if the block is not the next one or not final; and what the
    /// system reports.
    pub fn commit_result(&self, result: &ResultEntry) -> Result<()> {
        let _writer = self.lock_writer();
        let mut heads = self.heads();
        self.check_next_executed(&heads, result.height)?;
        let record = ExecutedRecord { result: *result, ..ExecutedRecord::default() };
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(Family::Results), schema::number(result.height.0), record.to_bytes());
        heads.executed = Some(result.height);
        self.write(batch, self.options.sync_executed, heads)
    }

    fn check_next_executed(&self, heads: &Heads, height: Height) -> Result<()> {
        let next = heads.executed.map_or(Height::ZERO, Height::next);
        if height != next {
            return self.order(format!("result of block {height}, due is that of block {next}"));
        }
        if heads.last_final.is_none_or(|(last, _)| height > last) {
            return self.order(format!("result of block {height}, which is not final"));
        }
        Ok(())
    }

    /// Keeps what an epoch begins with.
    ///
    /// # Errors
    /// What the system reports.
    pub fn put_epoch(&self, start: &EpochStart) -> Result<()> {
        let _writer = self.lock_writer();
        let mut batch = WriteBatch::default();
        let key = schema::number(start.committee.epoch().0);
        batch.put_cf(self.family(Family::Committees), key, start.to_bytes());
        self.write(batch, false, self.heads())
    }

    /// What an epoch begins with; none if it has not begun.
    ///
    /// # Errors
    /// What the system reports.
    pub fn epoch(&self, epoch: Epoch) -> Result<Option<EpochStart>> {
        self.get(Family::Committees, schema::number(epoch.0))?
            .map(|bytes| EpochStart::from_slice(&bytes).map_err(|error| self.damaged("epoch", &error)))
            .transpose()
    }

    /// The committee of an epoch.
    ///
    /// # Errors
    /// What the system reports.
    pub fn committee(&self, epoch: Epoch) -> Result<Option<Committee>> {
        Ok(self.epoch(epoch)?.map(|start| start.committee))
    }

    /// Takes back the results and the state of every block above `height`; the blocks stay final.
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if the state at `height` is not kept; and what the system
    /// reports.
    pub fn revert_executed(&self, height: Height) -> Result<()> {
        let _writer = self.lock_writer();
        let (mut batch, mut heads) = (WriteBatch::default(), self.heads());
        self.take_back_executed(&mut batch, &mut heads, height)?;
        self.write(batch, true, heads)
    }

    /// Takes back everything above `height`: blocks too, as only an L1-proven revert does (decision 8 of the
    /// architecture).
    ///
    /// # Errors
    /// [`StorageError::Order`](crate::StorageError::Order) if `height` is not final, or its state is not kept; and what the
    /// system reports.
    pub fn revert_to(&self, height: Height) -> Result<()> {
        let _writer = self.lock_writer();
        let (mut batch, mut heads) = (WriteBatch::default(), self.heads());
        let (Some((last, _)), Some(hash)) = (heads.last_final, self.hash_at(height)?) else {
            return self.order(format!("revert to block {height}, which is not final"));
        };
        if heads.executed.is_some_and(|executed| executed > height) {
            self.take_back_executed(&mut batch, &mut heads, height)?;
        }
        for above in height.0 + 1..=last.0 {
            if let Some(hash) = self.hash_at(Height(above))? {
                batch.delete_cf(self.family(Family::Heights), hash.as_bytes());
            }
        }
        // The index is not in order of height, and an L1-proven revert is rare enough to visit all of it.
        for entry in self.db.iterator_cf(self.family(Family::Transactions), rocksdb::IteratorMode::Start) {
            let (hash, place) = entry.map_err(|error| super::db_error(&self.path, "read", &error))?;
            if schema::decode_place(&place).is_none_or(|(at, _)| at > height) {
                batch.delete_cf(self.family(Family::Transactions), hash);
            }
        }
        for family in [Family::Headers, Family::Bodies, Family::Finality] {
            self.delete_above(&mut batch, family, height);
        }
        heads.last_final = Some((height, hash));
        self.write(batch, true, heads)
    }

    fn take_back_executed(&self, batch: &mut WriteBatch, heads: &mut Heads, height: Height) -> Result<()> {
        if heads.executed.is_none_or(|executed| height > executed) {
            return self.order(format!("revert to the result of block {height}, which is not executed"));
        }
        if let Some((oldest, newest)) = heads.state.filter(|(_, newest)| *newest > height) {
            if height < oldest {
                return self.order(format!("revert to state {height}, the oldest kept is {oldest}"));
            }
            self.take_back_state(batch, height, newest)?;
            heads.state = Some((oldest, height));
        }
        for family in [Family::Results, Family::Receipts, Family::Opened] {
            self.delete_above(batch, family, height);
        }
        heads.executed = Some(height);
        Ok(())
    }

    pub(super) fn delete_above(&self, batch: &mut WriteBatch, family: Family, height: Height) {
        batch.delete_range_cf(self.family(family), &schema::number(height.0 + 1)[..], &[u8::MAX; 9][..]);
    }
}

/// Count, then where each ends, then the receipts: one of them is read without the others.
fn encode_receipts(receipts: &[Receipt]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + receipts.len() * (4 + RECEIPT_BYTES));
    u32::try_from(receipts.len()).expect("bounded by MAX_TRANSACTIONS_PER_BLOCK").encode(&mut out);
    let content = 4 + 4 * receipts.len();
    out.resize(content, 0);
    for (i, receipt) in receipts.iter().enumerate() {
        receipt.encode(&mut out);
        let end = u32::try_from(out.len() - content).expect("a block's gas keeps its receipts under 4 GiB");
        out[4 + 4 * i..8 + 4 * i].copy_from_slice(&end.to_le_bytes());
    }
    out
}
