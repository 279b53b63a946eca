//! Reads of blocks, results and receipts.

use alloy_primitives::Bloom;
use bytes::Bytes;
use cascade_execution::Receipt;
use cascade_primitives::{
    B256, BlockHash, Body, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Header, Height, Reader, ResultEntry,
    SealedBlock, U256, block::Block,
};

use super::{
    ChainDb, Finality,
    schema::{self, Family},
};
use crate::error::Result;

/// A final block as it is stored, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// Its canonical encoding.
    pub bytes: Bytes,
}

/// A run of final blocks that proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The blocks, in order of height without a gap, all of one epoch.
    pub blocks: Vec<StoredBlock>,
    /// What makes the last one final, and with it all of them.
    pub finality: Finality,
}

/// What executing a block gave, without receipts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutedRecord {
    /// What a later header carries.
    pub result: ResultEntry,
    /// Bloom filter over all logs.
    pub bloom: Bloom,
    /// Wei burned as base fee.
    pub burned: U256,
    /// Wei paid to the producer as tips.
    pub tips: U256,
}

impl Encode for ExecutedRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        self.result.encode(out);
        out.extend_from_slice(self.bloom.as_slice());
        self.burned.encode(out);
        self.tips.encode(out);
    }
}

impl Decode for ExecutedRecord {
    fn decode(r: &mut Reader<'_>) -> std::result::Result<Self, DecodeError> {
        Ok(Self {
            result: ResultEntry::decode(r)?,
            bloom: Bloom::from(r.field("logs bloom").array::<256>()?),
            burned: U256::decode(r)?,
            tips: U256::decode(r)?,
        })
    }
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionPlace {
    /// Its block.
    pub height: Height,
    /// Its place in the block.
    pub index: u32,
}

impl ChainDb {
    /// What consensus kept with the newest final block.
    ///
    /// # Errors
    /// What the system reports.
    pub fn context(&self) -> Result<Option<Vec<u8>>> {
        self.get(Family::Meta, schema::CONTEXT)
    }

    /// The hash of the final block at a height.
    ///
    /// # Errors
    /// What the system reports; so do all reads here.
    pub fn hash_at(&self, height: Height) -> Result<Option<BlockHash>> {
        Ok(self.header_record(height)?.map(|(hash, _)| hash))
    }

    /// The height of a final block.
    ///
    /// # Errors
    /// What the system reports.
    pub fn height_of(&self, hash: &BlockHash) -> Result<Option<Height>> {
        let Some(bytes) = self.get(Family::Heights, hash.as_bytes())? else { return Ok(None) };
        let height = schema::of_number(&bytes).ok_or_else(|| self.damaged("height", &"wrong length"))?;
        Ok(Some(Height(height)))
    }

    fn header_record(&self, height: Height) -> Result<Option<(BlockHash, Bytes)>> {
        let Some(bytes) = self.get(Family::Headers, schema::number(height.0))?.map(Bytes::from) else {
            return Ok(None);
        };
        let (hash, header) = schema::split_header(&bytes).ok_or_else(|| self.damaged("header", &"too short"))?;
        Ok(Some((hash, bytes.slice_ref(header))))
    }

    /// The hash and header of the final block at a height, without its body.
    ///
    /// # Errors
    /// What the system reports.
    pub fn header(&self, height: Height) -> Result<Option<(BlockHash, Header)>> {
        let Some((hash, bytes)) = self.header_record(height)? else { return Ok(None) };
        let header = Header::from_slice(&bytes).map_err(|error| self.damaged("header", &error))?;
        Ok(Some((hash, header)))
    }

    /// The final block at a height.
    ///
    /// # Errors
    /// What the system reports.
    pub fn block(&self, height: Height) -> Result<Option<SealedBlock>> {
        let Some((_, header)) = self.header(height)? else { return Ok(None) };
        let Some(body) = self.get(Family::Bodies, schema::number(height.0))? else {
            return Err(self.damaged("body", &format!("that of block {height} is missing")));
        };
        let body = Body::from_shared(&Bytes::from(body)).map_err(|error| self.damaged("body", &error))?;
        Ok(Some(SealedBlock::new(Block { header, body })))
    }

    /// The final block with a hash.
    ///
    /// # Errors
    /// What the system reports.
    pub fn block_by_hash(&self, hash: &BlockHash) -> Result<Option<SealedBlock>> {
        match self.height_of(hash)? {
            Some(height) => self.block(height),
            None => Ok(None),
        }
    }

    /// The final block at a height as it goes over the wire.
    ///
    /// # Errors
    /// What the system reports.
    pub fn stored_block(&self, height: Height) -> Result<Option<StoredBlock>> {
        let Some((hash, header)) = self.header_record(height)? else { return Ok(None) };
        let Some(body) = self.get(Family::Bodies, schema::number(height.0))? else {
            return Err(self.damaged("body", &format!("that of block {height} is missing")));
        };
        let mut bytes = Vec::with_capacity(header.len() + body.len());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&body);
        Ok(Some(StoredBlock { height, hash, bytes: bytes.into() }))
    }

    /// What made the block at a height final; none for genesis.
    ///
    /// # Errors
    /// What the system reports.
    pub fn finality(&self, height: Height) -> Result<Option<Finality>> {
        self.get(Family::Finality, schema::number(height.0))?
            .map(|bytes| Finality::from_slice(&bytes).map_err(|error| self.damaged("finality", &error)))
            .transpose()
    }

    /// Final blocks from a height on for a node that catches up: of one epoch, and ending with one that its own proof
    /// makes final. None if there is no block at that height.
    ///
    /// As many as fit into `bytes` and `count`; if none of these carries its own proof, as many more as it takes.
    ///
    /// # Errors
    /// What the system reports.
    pub fn block_range(&self, from: Height, bytes: usize, count: usize) -> Result<Option<BlockRange>> {
        let mut blocks: Vec<StoredBlock> = Vec::new();
        let mut proven: Option<(usize, Finality)> = None;
        let (mut left, mut epoch): (_, Option<Epoch>) = (bytes, None);
        let last = self.heads().last_final.map_or(Height::ZERO, |(height, _)| height);
        for height in (from.0..=last.0).map(Height) {
            let Some((_, header)) = self.header(height)? else { break };
            if *epoch.get_or_insert(header.epoch) != header.epoch {
                break;
            }
            let Some(block) = self.stored_block(height)? else { break };
            if proven.is_some() && (block.bytes.len() > left || blocks.len() >= count) {
                break;
            }
            left = left.saturating_sub(block.bytes.len());
            let hash = block.hash;
            blocks.push(block);
            if let Some(finality) = self.finality(height)?.filter(|finality| finality.certifies(&hash)) {
                proven = Some((blocks.len(), finality));
            }
        }
        Ok(proven.map(|(length, finality)| {
            blocks.truncate(length);
            BlockRange { blocks, finality }
        }))
    }

    /// Where a transaction of a final block stands.
    ///
    /// # Errors
    /// What the system reports.
    pub fn transaction_place(&self, hash: &B256) -> Result<Option<TransactionPlace>> {
        let Some(bytes) = self.get(Family::Transactions, hash)? else { return Ok(None) };
        let (height, index) =
            schema::decode_place(&bytes).ok_or_else(|| self.damaged("transaction index", &"wrong length"))?;
        Ok(Some(TransactionPlace { height, index }))
    }

    /// What executing the block at a height gave.
    ///
    /// # Errors
    /// What the system reports.
    pub fn executed(&self, height: Height) -> Result<Option<ExecutedRecord>> {
        self.get(Family::Results, schema::number(height.0))?
            .map(|bytes| ExecutedRecord::from_slice(&bytes).map_err(|error| self.damaged("result", &error)))
            .transpose()
    }

    /// What a header carries of the block at a height.
    ///
    /// # Errors
    /// What the system reports.
    pub fn result(&self, height: Height) -> Result<Option<ResultEntry>> {
        Ok(self.executed(height)?.map(|record| record.result))
    }

    /// The receipts of an executed block, in order of its transactions.
    ///
    /// # Errors
    /// What the system reports.
    pub fn receipts(&self, height: Height) -> Result<Option<Vec<Receipt>>> {
        let Some(bytes) = self.get(Family::Receipts, schema::number(height.0))? else { return Ok(None) };
        let damaged = |error: DecodeError| self.damaged("receipts", &error);
        let table = ReceiptTable::new(&bytes).map_err(damaged)?;
        (0..table.count()).map(|index| table.receipt(index).map_err(damaged)).collect::<Result<_>>().map(Some)
    }

    /// One receipt of an executed block.
    ///
    /// # Errors
    /// What the system reports.
    pub fn receipt(&self, place: TransactionPlace) -> Result<Option<Receipt>> {
        let Some(bytes) = self.get(Family::Receipts, schema::number(place.height.0))? else { return Ok(None) };
        let damaged = |error: DecodeError| self.damaged("receipts", &error);
        let table = ReceiptTable::new(&bytes).map_err(damaged)?;
        let index = place.index as usize;
        if index < table.count() { table.receipt(index).map(Some).map_err(damaged) } else { Ok(None) }
    }
}

/// The receipts of a block as they are stored.
struct ReceiptTable<'a> {
    ends: &'a [u8],
    content: &'a [u8],
}

impl<'a> ReceiptTable<'a> {
    fn new(bytes: &'a [u8]) -> std::result::Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let count = u32::decode(r.field("number of receipts"))? as usize;
        let ends = r.field("ends of receipts").take(count.saturating_mul(4))?;
        let content = r.take(r.left())?;
        Ok(Self { ends, content })
    }

    fn count(&self) -> usize {
        self.ends.len() / 4
    }

    fn end(&self, index: usize) -> usize {
        u32::from_le_bytes(self.ends[4 * index..4 * index + 4].try_into().expect("4 bytes")) as usize
    }

    fn receipt(&self, index: usize) -> std::result::Result<Receipt, DecodeError> {
        let start = if index == 0 { 0 } else { self.end(index - 1) };
        let bytes = self.content.get(start..self.end(index)).ok_or(DecodeError {
            what: "receipt",
            offset: start,
            kind: DecodeErrorKind::UnexpectedEnd { needed: self.end(index), left: self.content.len() },
        })?;
        Receipt::from_slice(bytes)
    }
}
