//! A block on its way from its leader to the committee, in coded chunks.
//!
//! Plain broadcast costs the leader n-1 times the block. Instead it may cut the block into d chunks, code them to one
//! chunk per seat, and send every other member its own; they pass theirs on to all others. Any d chunks give the block.
//!
//! ```text
//!  leader:  block --code--> chunk 0 .. S-1 --each to its seat's member-->  member i: all others but the leader
//!  member:  d chunks under one root --decode, encode, compare the root--> block --body root--> vote
//!                                                              d = f + 1, f = (S-1)/3
//! ```
//!
//! `d = f + 1`: of the 3f chunks or more that others than the leader get, f may stay with members that pass nothing on, and
//! 2f are still enough; so the leader keeps its own. The price is `S / (f + 1)`, about three blocks' worth of chunks in
//! all; what the leader itself sends falls from n-1 blocks to three, whatever n. docs/simulator.md has what that saves.
//!
//! The root over the chunks is bound to the block by what the leader signs (`cascade_consensus::carriage`, which decides
//! who sends and takes what); it proves nothing about the code. So whoever rebuilds a block encodes it again and compares
//! all chunks: either everybody who holds d chunks of a root gets the same block, or everybody finds the same lie. What is
//! rebuilt must then have the header's body root. Voters still need the whole block before they vote *prepare* (decision 16
//! of the architecture); the leader's full block remains the fallback for who does not get d chunks.

use bytes::Bytes;
use cascade_primitives::{
    B256, Decode, DecodeError, DecodeErrorKind, Encode, Reader,
    block::MAX_BLOCK_BYTES,
    codec::{encode_byte_string, encode_list},
    domain, hash, merkle,
};
use reed_solomon_erasure::galois_8::ReedSolomon;
use thiserror::Error;

/// Most chunks that the code allows: GF(2^8). Committees with more seats use plain broadcast.
pub const MAX_CHUNKS: usize = 256;

/// Most hashes in a chunk's path.
const MAX_PATH: usize = MAX_CHUNKS.ilog2() as usize;

/// How a block is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    chunks: usize,
    data: usize,
    size: usize,
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DispersalError {
    /// More seats than the code has chunks, or none.
    #[error("{0} seats, coded chunks are for 1 to {MAX_CHUNKS}")]
    Seats(usize),
    /// More bytes than a block may have, or none.
    #[error("{0} bytes, a block has 1 to {MAX_BLOCK_BYTES}")]
    Size(usize),
    /// A chunk's path does not lead to the root, or its size is not that of the plan.
    #[error("chunk {0} is not one of this root")]
    Chunk(u16),
    /// Fewer chunks than the block needs.
    #[error("{found} chunks of {needed}")]
    Missing {
        /// Chunks at hand.
        found: usize,
        /// Chunks needed.
        needed: usize,
    },
    /// The chunks under this root are not the code of any block: whoever signed the root lied.
    #[error("the chunks under root {0} are not the code of a block")]
    BadCode(B256),
}

impl Plan {
    /// The plan for a block of `size` bytes and a committee with `seats`.
    ///
    /// # Errors
    /// [`DispersalError::Seats`] and [`DispersalError::Size`].
    pub const fn new(seats: usize, size: usize) -> Result<Self, DispersalError> {
        if seats == 0 || seats > MAX_CHUNKS {
            return Err(DispersalError::Seats(seats));
        }
        if size == 0 || size > MAX_BLOCK_BYTES {
            return Err(DispersalError::Size(size));
        }
        Ok(Self { chunks: seats, data: (seats - 1) / 3 + 1, size })
    }

    /// Chunks in all: one per seat.
    #[must_use]
    pub const fn chunks(&self) -> usize {
        self.chunks
    }

    /// Chunks that give the block.
    #[must_use]
    pub const fn needed(&self) -> usize {
        self.data
    }

    /// Bytes in a chunk.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        self.size.div_ceil(self.data)
    }

    /// Bytes of the block.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Bytes of an encoded [`Chunk`], at most.
    #[must_use]
    pub const fn message_bytes(&self) -> usize {
        32 + 4 + 2 + 2 + 4 + self.chunk_bytes() + 4 + 32 * (usize::BITS - (self.chunks - 1).leading_zeros()) as usize
    }

    fn codec(&self) -> Option<ReedSolomon> {
        // With one chunk there is nothing to code.
        (self.chunks > self.data).then(|| {
            ReedSolomon::new(self.data, self.chunks - self.data).expect("1 to 256 chunks, more than those with data")
        })
    }

    fn shards(&self, block: &[u8]) -> Vec<Vec<u8>> {
        let size = self.chunk_bytes();
        let mut shards: Vec<Vec<u8>> = (0..self.chunks)
            .map(|i| {
                let part = block.get(i * size..).unwrap_or_default();
                let mut shard = if i < self.data { part[..part.len().min(size)].to_vec() } else { Vec::new() };
                shard.resize(size, 0);
                shard
            })
            .collect();
        if let Some(codec) = self.codec() {
            codec.encode(&mut shards).expect("all shards have one size");
        }
        shards
    }

    fn commit(&self, shards: Vec<Vec<u8>>) -> Vec<Chunk> {
        let leaves: Vec<B256> = shards.iter().map(|shard| merkle::leaf(shard)).collect();
        let root = self.root(&leaves);
        let chunk = |(i, shard): (usize, Vec<u8>)| Chunk {
            root,
            size: self.size as u32,
            chunks: self.chunks as u16,
            index: i as u16,
            path: merkle::proof(&leaves, i),
            bytes: shard.into(),
        };
        shards.into_iter().enumerate().map(chunk).collect()
    }

    fn root(&self, leaves: &[B256]) -> B256 {
        let mut bytes = Vec::with_capacity(48);
        (self.size as u32).encode(&mut bytes);
        (self.chunks as u16).encode(&mut bytes);
        merkle::root(leaves).encode(&mut bytes);
        hash::tagged(domain::DA_CHUNKS, &[&bytes])
    }

    /// What each member sends and receives, in bytes, for a committee of `nodes` with one seat each.
    #[must_use]
    pub fn costs(&self) -> Costs {
        let nodes = self.chunks as u64;
        let (others, message, block) = (nodes - 1, self.message_bytes() as u64, self.size as u64);
        Costs {
            plain_leader: others * block,
            coded_leader: others * message,
            coded_member_sends: others.saturating_sub(1) * message,
            coded_member_receives: others * message,
        }
    }
}

/// Bytes on the wire for one block, at most. See [`Plan::costs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// What a leader sends by plain broadcast.
    pub plain_leader: u64,
    /// What a leader sends in coded chunks: each other member's own.
    pub coded_leader: u64,
    /// What another member sends: its chunk, to all but the leader and itself.
    pub coded_member_sends: u64,
    /// What another member receives: its chunk, and those of all others but the leader.
    pub coded_member_receives: u64,
}

/// One coded chunk of a block, with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The root over all chunks of the block.
    pub root: B256,
    /// Bytes of the block.
    pub size: u32,
    /// Chunks of the block.
    pub chunks: u16,
    /// Its place.
    pub index: u16,
    /// The chunk.
    pub bytes: Bytes,
    /// The siblings up to the root, in the order of `cascade_primitives::merkle`.
    pub path: Vec<B256>,
}

impl Chunk {
    /// Bytes of its encoding.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        32 + 4 + 2 + 2 + 4 + self.bytes.len() + 4 + 32 * self.path.len()
    }
}

/// Cuts and codes a block: one chunk for each seat, all under the root in each of them.
///
/// # Errors
/// [`DispersalError::Seats`] and [`DispersalError::Size`].
pub fn disperse(block: &[u8], seats: usize) -> Result<Vec<Chunk>, DispersalError> {
    let plan = Plan::new(seats, block.len())?;
    Ok(plan.commit(plan.shards(block)))
}

/// Puts a root over chunks that a block of `size` bytes would have, whatever they are: what a leader can do that lies. For
/// tests.
///
/// # Errors
/// [`DispersalError::Seats`] and [`DispersalError::Size`]; [`DispersalError::Chunk`] for the first one that is not as long
/// as the plan says.
pub fn commit_unchecked(shards: Vec<Vec<u8>>, size: usize) -> Result<Vec<Chunk>, DispersalError> {
    let plan = Plan::new(shards.len(), size)?;
    if let Some(odd) = shards.iter().position(|shard| shard.len() != plan.chunk_bytes()) {
        return Err(DispersalError::Chunk(odd as u16));
    }
    Ok(plan.commit(shards))
}

/// Collects the chunks of one root.
#[derive(Clone, Debug)]
pub struct Assembler {
    plan: Plan,
    root: B256,
    chunks: Vec<Option<Bytes>>,
}

impl Assembler {
    /// An assembler for what a leader signed: root, size and a committee's seats.
    ///
    /// # Errors
    /// [`DispersalError::Seats`] and [`DispersalError::Size`].
    pub fn new(root: B256, size: usize, seats: usize) -> Result<Self, DispersalError> {
        let plan = Plan::new(seats, size)?;
        Ok(Self { plan, root, chunks: vec![None; plan.chunks] })
    }

    /// Takes a chunk. Answers whether the block can now be rebuilt.
    ///
    /// # Errors
    /// [`DispersalError::Chunk`]: whoever sent it lied.
    pub fn insert(&mut self, chunk: &Chunk) -> Result<bool, DispersalError> {
        self.check(chunk)?;
        Ok(self.insert_checked(chunk))
    }

    /// Takes a chunk for which [`Assembler::check`] found nothing wrong. Answers whether the block can now be rebuilt.
    ///
    /// # Panics
    /// If there is no place for it, which the check finds.
    pub fn insert_checked(&mut self, chunk: &Chunk) -> bool {
        self.chunks[usize::from(chunk.index)] = Some(chunk.bytes.clone());
        self.found() >= self.plan.data
    }

    /// Whether a chunk is one of this root, at its place.
    ///
    /// # Errors
    /// [`DispersalError::Chunk`]: whoever sent it lied.
    pub fn check(&self, chunk: &Chunk) -> Result<(), DispersalError> {
        let refused = DispersalError::Chunk(chunk.index);
        let plan = &self.plan;
        let index = usize::from(chunk.index);
        let stated = (chunk.size as usize, usize::from(chunk.chunks), chunk.root);
        if stated != (plan.size, plan.chunks, self.root)
            || index >= plan.chunks
            || chunk.bytes.len() != plan.chunk_bytes()
        {
            return Err(refused);
        }
        let top = merkle::climb(&merkle::leaf(&chunk.bytes), index, plan.chunks, &chunk.path).ok_or(refused)?;
        if plan.root(&[top]) == self.root { Ok(()) } else { Err(refused) }
    }

    /// Forgets the chunks. What comes can still be checked.
    pub fn clear(&mut self) {
        self.chunks.fill(None);
    }

    /// How the block is cut.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Chunks at hand.
    #[must_use]
    pub fn found(&self) -> usize {
        self.chunks.iter().flatten().count()
    }

    /// The block.
    ///
    /// # Errors
    /// [`DispersalError::Missing`]; [`DispersalError::BadCode`] if the root is over something that is not the code of a
    /// block, which everybody who rebuilds it finds.
    pub fn rebuild(&self) -> Result<Vec<u8>, DispersalError> {
        let plan = &self.plan;
        if self.found() < plan.data {
            return Err(DispersalError::Missing { found: self.found(), needed: plan.data });
        }
        let mut shards: Vec<Option<Vec<u8>>> =
            self.chunks.iter().map(|chunk| chunk.as_ref().map(|bytes| bytes.to_vec())).collect();
        if let Some(codec) = plan.codec() {
            codec.reconstruct_data(&mut shards).expect("enough shards of one size are known");
        }
        let mut block: Vec<u8> = shards.into_iter().take(plan.data).flatten().flatten().collect();
        let padded = block[plan.size..].iter().all(|&byte| byte == 0);
        block.truncate(plan.size);
        let leaves: Vec<B256> = plan.shards(&block).iter().map(|shard| merkle::leaf(shard)).collect();
        if padded && plan.root(&leaves) == self.root { Ok(block) } else { Err(DispersalError::BadCode(self.root)) }
    }
}

impl Encode for Chunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.root.encode(out);
        self.size.encode(out);
        self.chunks.encode(out);
        self.index.encode(out);
        encode_byte_string(&self.bytes, out);
        encode_list(&self.path, out);
    }
}

impl Decode for Chunk {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let root = B256::decode(r.field("chunk"))?;
        let (size, chunks, index) = (u32::decode(r)?, u16::decode(r)?, u16::decode(r)?);
        let Ok(plan) = Plan::new(usize::from(chunks), size as usize) else {
            return Err(r.error(DecodeErrorKind::NotCanonical("no block of this size has so many chunks")));
        };
        let bytes = r.field("bytes of a chunk").byte_string(plan.chunk_bytes())?;
        Ok(Self { root, size, chunks, index, bytes, path: r.field("path of a chunk").list(MAX_PATH)? })
    }
}
