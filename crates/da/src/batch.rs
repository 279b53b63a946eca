//! What is published so that anybody can rebuild the chain's state.
//!
//! Every N blocks (`ChainParams::anchor_interval`) make a batch: all that is needed to execute them again on the state
//! before the first one.
//!
//! ```text
//!  blocks first .. last --length, bytes--> raw stream --zstd--> pieces 0 .. n-1
//!                                              |                   | SHA-256, tagged
//!  manifest: chain, first, last, state root before, content hash, pieces' hashes, seal
//!                                                                       |
//!  seal: a final header above `last` that carries the results of `last`, its certificate, and the proof that its
//!        history contains `last`
//! ```
//!
//! A batch holds whole blocks, with the certificates in their bodies (some 350 bytes a block with four members, which do
//! not compress), because only then does each body lead to its header's body root and each header to the next: whoever
//! rebuilds needs to trust nothing but the chain's committees. There is no dictionary trained on other blocks: a batch is
//! one stream, and after its first blocks it is its own dictionary. A trained one saves 1.5% of a batch of nearly empty
//! blocks and makes fuller ones 1 to 2% larger (figures in benches/README.md).
//!
//! The raw stream is canonical. Its compression is not, since zstd versions differ; so the content hash, which L1 anchors
//! by [`Manifest::anchor`], is over the raw stream, and the pieces' hashes only tell which piece was damaged.
//!
//! Reading is streaming and bounded: a piece is hashed before it is decompressed, output is produced 128 KiB at a time, the
//! window is at most 8 MiB, a block at most [`MAX_BLOCK_BYTES`], the whole no more than the manifest says, and the manifest
//! no more than [`MAX_RAW_BYTES`]; the pieces together have hardly more bytes than that. What is missing or damaged is named.

use cascade_primitives::{
    B256, Block, BlockHash, Certificate, Decode, DecodeError, Encode, Header, Height, Reader, ResultEntry, Reveal,
    SigningContext, VoteTarget,
    block::{HeaderKind, MAX_BLOCK_BYTES, MAX_FILLER_HEADERS},
    codec::encode_list,
    domain, hash,
    merkle::MountainProof,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// Level of compression. Level 9 saves 2 to 9% of the bytes for four to six times the time (`examples/batch_sizes.rs`).
const LEVEL: i32 = 3;
/// Largest window of the compression: 8 MiB.
const WINDOW_LOG: u32 = 23;
/// Bytes that are decompressed at once.
const STEP: usize = 128 << 10;
/// Most bytes of a batch before compression.
pub const MAX_RAW_BYTES: u64 = 4 << 30;
/// Most blocks in a batch.
pub const MAX_BLOCKS: u64 = 10_000;
/// Most bytes in a piece.
pub const MAX_PIECE_BYTES: usize = 4 << 20;
/// Most reveals in a seal.
pub const MAX_REVEALS: usize = 1024;
/// Most pieces of a batch.
pub const MAX_PIECES: usize = 1 << 16;

/// Where a batch stands: what must be known before its first block is executed, or after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The block before the batch.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// The state root after it.
    pub state_root: B256,
}

/// One piece of a compressed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its hash.
    pub hash: B256,
    /// Its bytes.
    pub bytes: u32,
}

/// The header that closes a batch, with what makes it final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// A header above the batch's last block that carries that block's results.
    pub header: Header,
    /// A commit certificate of it, or of the last filler.
    pub certificate: Certificate,
    /// The fillers between, if it is an epoch's last block.
    pub fillers: Vec<Header>,
    /// That its history contains the batch's last block.
    pub ancestry: MountainProof,
    /// What opened the envelopes of the batch's last blocks: it stands in bodies above the batch. A wrong one gives another
    /// state root than the header carries.
    pub reveals: Vec<Reveal>,
}

/// What a batch is, without its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The chain.
    pub chain: SigningContext,
    /// What the batch stands on.
    pub before: Position,
    /// Its last block. The first is the one after `before`.
    pub last: Height,
    /// Hash of its last block.
    pub last_hash: BlockHash,
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// Hash over them.
    pub content: B256,
    /// The pieces, in order.
    pub pieces: Vec<Piece>,
    /// What closes it.
    pub seal: Seal,
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The manifest contradicts itself or a limit.
    #[error("batch {first} to {last}: {what}")]
    Manifest {
        /// Its first block.
        first: Height,
        /// Its last block.
        last: Height,
        /// What is wrong.
        what: &'static str,
    },
    /// The batch does not stand on the one before it: there is one missing, or one of another history.
    #[error(
        "batch {found} to {last} does not follow: the blocks from {expected} on are missing, or its {what} differs"
    )]
    Gap {
        /// The first height that is needed.
        expected: Height,
        /// The batch's first height.
        found: Height,
        /// Its last height.
        last: Height,
        /// What differs.
        what: &'static str,
    },
    /// A piece was left out.
    #[error("piece {missing} of batch {first} is missing")]
    PieceMissing {
        /// The batch's first block.
        first: Height,
        /// The piece.
        missing: usize,
    },
    /// A piece is not the one that the manifest names.
    #[error("piece {index} of batch {first} is damaged: its hash is {found}, expected {expected}")]
    PieceDamaged {
        /// The batch's first block.
        first: Height,
        /// The piece.
        index: usize,
        /// Its hash.
        found: B256,
        /// The hash in the manifest.
        expected: B256,
    },
    /// The pieces are what the manifest names, and not a compressed stream of the size it names.
    #[error("batch {first}: {what} (in piece {piece})")]
    Stream {
        /// The batch's first block.
        first: Height,
        /// The piece.
        piece: usize,
        /// What is wrong.
        what: String,
    },
    /// A block is not what it has to be at its place.
    #[error("block {height}: {what}")]
    Block {
        /// Its height.
        height: Height,
        /// What is wrong.
        what: String,
    },
}

impl Manifest {
    /// The first block.
    #[must_use]
    pub const fn first(&self) -> Height {
        self.before.height.next()
    }

    const fn error(&self, what: &'static str) -> BatchError {
        BatchError::Manifest { first: self.first(), last: self.last, what }
    }

    /// What L1 anchors: a hash over everything but the compression and the seal.
    #[must_use]
    pub fn anchor(&self) -> B256 {
        let mut bytes = Vec::with_capacity(256);
        self.chain.chain_id.encode(&mut bytes);
        self.chain.genesis_hash.encode(&mut bytes);
        self.chain.fork.encode(&mut bytes);
        self.before.encode(&mut bytes);
        self.last.encode(&mut bytes);
        self.last_hash.encode(&mut bytes);
        self.raw_bytes.encode(&mut bytes);
        self.content.encode(&mut bytes);
        hash::tagged(domain::DA_BATCH, &[&[1], &bytes])
    }

    /// Checks limits and the seal, all but the certificate's signatures: `certified` says whether the committee of the
    /// header's epoch signed the certificate.
    ///
    /// # Errors
    /// [`BatchError::Manifest`].
    pub fn check(&self, certified: impl FnOnce(&Header, &Certificate) -> bool) -> Result<&ResultEntry, BatchError> {
        let blocks = self.last.0.checked_sub(self.before.height.0);
        if !blocks.is_some_and(|blocks| (1..=MAX_BLOCKS).contains(&blocks)) {
            return Err(self.error("no blocks, or too many"));
        }
        if self.raw_bytes > MAX_RAW_BYTES {
            return Err(self.error("too many bytes"));
        }
        let fits = |piece: &Piece| (1..=MAX_PIECE_BYTES).contains(&(piece.bytes as usize));
        let compressed: u64 = self.pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        if self.pieces.len() > MAX_PIECES
            || !self.pieces.iter().all(fits)
            || compressed > most_compressed(self.raw_bytes)
        {
            return Err(self.error("too many pieces, or of other sizes than its content can have"));
        }
        let seal = &self.seal;
        let (mut reached, mut view) = (seal.header.hash(), seal.header.view);
        for filler in &seal.fillers {
            if filler.parent != reached || filler.kind != HeaderKind::Filler || filler.epoch != seal.header.epoch {
                return Err(self.error("the seal's fillers do not stand on its header"));
            }
            (reached, view) = (filler.hash(), filler.view);
        }
        let of_chain = (seal.header.chain_id, seal.header.genesis_hash, seal.header.fork);
        if of_chain != (self.chain.chain_id, self.chain.genesis_hash, self.chain.fork) {
            return Err(self.error("the seal is of another chain"));
        }
        if seal.certificate.target != VoteTarget::commit(seal.header.epoch, view, reached) {
            return Err(self.error("the seal's certificate is not about its header"));
        }
        if !seal.reveals.is_sorted_by_key(|reveal| reveal.height)
            || seal.reveals.iter().any(|reveal| reveal.height <= self.before.height || reveal.height > self.last)
        {
            return Err(self.error("the seal opens blocks that are not the batch's"));
        }
        if !seal.ancestry.verify(&seal.header.history_root, &self.last_hash.into(), self.last.0) {
            return Err(self.error("the seal's history does not contain the last block"));
        }
        let result = seal.header.results.iter().find(|result| result.height == self.last);
        let result = result.ok_or_else(|| self.error("the seal does not carry the results of the last block"))?;
        if !certified(&seal.header, &seal.certificate) {
            return Err(self.error("the seal's certificate does not hold"));
        }
        Ok(result)
    }

    /// Checks that the batch stands on what was rebuilt so far.
    ///
    /// # Errors
    /// [`BatchError::Gap`] names what is missing.
    pub fn check_follows(&self, position: &Position) -> Result<(), BatchError> {
        let same = [
            ("first height", self.before.height == position.height),
            ("parent", self.before.hash == position.hash),
            ("state root", self.before.state_root == position.state_root),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((what, _)) => {
                Err(BatchError::Gap { expected: position.height.next(), found: self.first(), last: self.last, what })
            }
            None => Ok(()),
        }
    }
}

/// Most bytes that so many become, which do not compress: zstd adds 3 to each 128 KiB, and a header and an end.
const fn most_compressed(raw_bytes: u64) -> u64 {
    raw_bytes + raw_bytes / 1024 + 1024
}

/// A piece's hash.
fn piece_hash(bytes: &[u8]) -> B256 {
    hash::tagged(domain::DA_BATCH, &[&[0], bytes])
}

fn content_hasher() -> Sha256 {
    let mut hasher = Sha256::new();
    let tag = domain::DA_BATCH.as_bytes();
    hasher.update([tag.len() as u8]);
    hasher.update(tag);
    hasher.update([2]);
    hasher
}

/// Makes a batch, block by block.
pub struct BatchWriter {
    chain: SigningContext,
    before: Position,
    last: Height,
    last_hash: BlockHash,
    encoder: Encoder<'static>,
    content: Sha256,
    raw_bytes: u64,
    piece_bytes: usize,
    pieces: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for BatchWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BatchWriter({} to {})", self.before.height.next(), self.last)
    }
}

impl BatchWriter {
    /// A writer for the blocks after `before`, in pieces of `piece_bytes` (`ChainParams::batch_piece_bytes`).
    ///
    /// # Panics
    /// If `piece_bytes` is zero or above [`MAX_PIECE_BYTES`].
    #[must_use]
    pub fn new(chain: SigningContext, before: Position, piece_bytes: usize) -> Self {
        assert!((1..=MAX_PIECE_BYTES).contains(&piece_bytes), "a piece has 1 to {MAX_PIECE_BYTES} bytes");
        let mut encoder = Encoder::new(LEVEL).expect("the level is one that zstd has");
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG)).expect("zstd has windows of this size");
        Self {
            chain,
            before,
            last: before.height,
            last_hash: before.hash,
            encoder,
            content: content_hasher(),
            raw_bytes: 0,
            piece_bytes,
            pieces: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Adds the next block.
    ///
    /// # Errors
    /// [`BatchError::Block`] if it is not the next one.
    pub fn push(&mut self, block: &Block) -> Result<(), BatchError> {
        let header = &block.header;
        if header.height != self.last.next() || header.parent != self.last_hash {
            let what = format!("does not stand on block {}", self.last);
            return Err(BatchError::Block { height: header.height, what });
        }
        let mut raw = vec![0; 4];
        block.encode(&mut raw);
        let length = u32::try_from(raw.len() - 4).expect("a block is smaller than 4 GiB");
        raw[..4].copy_from_slice(&length.to_le_bytes());
        self.content.update(&raw);
        self.raw_bytes += raw.len() as u64;
        (self.last, self.last_hash) = (header.height, header.hash());
        let mut input = InBuffer::around(&raw);
        while input.pos() < raw.len() {
            let encoder = &mut self.encoder;
            let written = run(|output| encoder.run(&mut input, output).map(|_| ()), &mut self.buffer);
            written.expect("zstd compresses whatever fits its buffers");
        }
        self.cut(false);
        Ok(())
    }

    /// Bytes of the blocks so far, before compression.
    #[must_use]
    pub const fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    fn cut(&mut self, all: bool) {
        while self.buffer.len() >= self.piece_bytes {
            let rest = self.buffer.split_off(self.piece_bytes);
            self.pieces.push(std::mem::replace(&mut self.buffer, rest));
        }
        if all && !self.buffer.is_empty() {
            self.pieces.push(std::mem::take(&mut self.buffer));
        }
    }

    /// Closes the batch.
    #[must_use]
    pub fn finish(mut self, seal: Seal) -> (Manifest, Vec<Vec<u8>>) {
        loop {
            let (encoder, mut left) = (&mut self.encoder, 0);
            let written = run(|output| encoder.finish(output, true).map(|more| left = more), &mut self.buffer);
            written.expect("zstd ends a frame it began");
            if left == 0 {
                break;
            }
        }
        self.cut(true);
        let manifest = Manifest {
            chain: self.chain,
            before: self.before,
            last: self.last,
            last_hash: self.last_hash,
            raw_bytes: self.raw_bytes,
            content: B256::from(<[u8; 32]>::from(self.content.finalize())),
            pieces: self.pieces.iter().map(|p| Piece { hash: piece_hash(p), bytes: p.len() as u32 }).collect(),
            seal,
        };
        (manifest, self.pieces)
    }
}

/// Lets zstd write up to [`STEP`] bytes behind what the buffer holds.
fn run(
    work: impl FnOnce(&mut OutBuffer<'_, [u8]>) -> std::io::Result<()>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<usize> {
    let start = buffer.len();
    buffer.resize(start + STEP, 0);
    let mut output = OutBuffer::around(&mut buffer[start..]);
    let outcome = work(&mut output);
    let written = output.pos();
    buffer.truncate(start + written);
    outcome.map(|()| written)
}

/// Reads a batch, piece by piece.
pub struct BatchReader<'a> {
    manifest: &'a Manifest,
    decoder: Decoder<'static>,
    content: Sha256,
    next_piece: usize,
    last: Height,
    last_hash: BlockHash,
    raw_bytes: u64,
    ended: bool,
    pending: Vec<u8>,
}

impl std::fmt::Debug for BatchReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BatchReader({} to {}, at {})", self.manifest.first(), self.manifest.last, self.last)
    }
}

impl<'a> BatchReader<'a> {
    /// A reader for a batch whose manifest was checked.
    ///
    /// # Panics
    /// If zstd has no memory for a decoder.
    #[must_use]
    pub fn new(manifest: &'a Manifest) -> Self {
        let mut decoder = Decoder::new().expect("zstd gets memory for a decoder");
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).expect("zstd has windows of this size");
        Self {
            manifest,
            decoder,
            content: content_hasher(),
            next_piece: 0,
            last: manifest.before.height,
            last_hash: manifest.before.hash,
            raw_bytes: 0,
            ended: false,
            pending: Vec::new(),
        }
    }

    fn stream(&self, what: impl Into<String>) -> BatchError {
        BatchError::Stream { first: self.manifest.first(), piece: self.next_piece, what: what.into() }
    }

    /// Takes the piece at `index`, which must be the next one, and hands out the blocks that it completes, one by one: a
    /// piece of a few bytes may decompress to as much as a whole batch may have.
    ///
    /// # Errors
    /// [`BatchError`] names the piece or block that is missing or wrong, or what `each` answers; the reader is then of no more use. What was
    /// handed out before is right as far as the chain's links go, and proved by the seal only once
    /// [`BatchReader::finish`] agrees.
    pub fn push<E: From<BatchError>>(
        &mut self,
        index: usize,
        bytes: &[u8],
        mut each: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_piece(index, bytes)?;
        let mut input = InBuffer::around(bytes);
        loop {
            if self.ended {
                if input.pos() < bytes.len() {
                    return Err(self.stream("bytes follow the end of the stream").into());
                }
                break;
            }
            let (start, decoder, mut left) = (self.pending.len(), &mut self.decoder, 1);
            let outcome = run(|output| decoder.run(&mut input, output).map(|more| left = more), &mut self.pending);
            let written = outcome.map_err(|error| self.stream(format!("zstd: {error}")))?;
            self.ended = left == 0;
            self.take(start)?;
            self.blocks(&mut each)?;
            // A full buffer may mean that there is more to come without any more input.
            if !self.ended && input.pos() == bytes.len() && written < STEP {
                break;
            }
        }
        self.next_piece += 1;
        Ok(())
    }

    fn check_piece(&self, index: usize, bytes: &[u8]) -> Result<(), BatchError> {
        let first = self.manifest.first();
        let Some(piece) = self.manifest.pieces.get(index) else {
            return Err(self.manifest.error("it has no piece of this number"));
        };
        if index != self.next_piece {
            return Err(BatchError::PieceMissing { first, missing: self.next_piece });
        }
        let found = piece_hash(bytes);
        if found != piece.hash || bytes.len() != piece.bytes as usize {
            return Err(BatchError::PieceDamaged { first, index, found, expected: piece.hash });
        }
        Ok(())
    }

    /// Counts and hashes what was decompressed behind `start`.
    fn take(&mut self, start: usize) -> Result<(), BatchError> {
        let new = &self.pending[start..];
        self.content.update(new);
        self.raw_bytes += new.len() as u64;
        if self.raw_bytes > self.manifest.raw_bytes {
            return Err(self.stream(format!("more than the {} bytes that the manifest names", self.manifest.raw_bytes)));
        }
        Ok(())
    }

    fn blocks<E: From<BatchError>>(&mut self, each: &mut impl FnMut(Block) -> Result<(), E>) -> Result<(), E> {
        let mut at = 0;
        while let Some(length) = self.pending[at..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > MAX_BLOCK_BYTES {
                let what = format!("a block of {length} bytes, the limit is {MAX_BLOCK_BYTES}");
                return Err(self.stream(what).into());
            }
            let Some(bytes) = self.pending.get(at + 4..at + 4 + length) else { break };
            let block = self.block(bytes)?;
            (self.last, self.last_hash) = (block.header.height, block.header.hash());
            each(block)?;
            at += 4 + length;
        }
        self.pending.drain(..at);
        Ok(())
    }

    fn block(&self, bytes: &[u8]) -> Result<Block, BatchError> {
        let height = self.last.next();
        let wrong = |what: &str| BatchError::Block { height, what: what.to_owned() };
        let block = Block::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let (header, chain) = (&block.header, &self.manifest.chain);
        let rules = [
            ("is of another chain", header.chain_id == chain.chain_id && header.genesis_hash == chain.genesis_hash),
            ("is of another fork", header.fork == chain.fork),
            ("has another height", header.height == height && height <= self.manifest.last),
            ("does not stand on the block before it", header.parent == self.last_hash),
            ("is a filler", header.kind == HeaderKind::Block),
            ("has another body than its header says", block.body.root() == header.body_root),
        ];
        match rules.iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(wrong(what)),
            None => Ok(block),
        }
    }

    /// Agrees that everything came and is what the manifest names.
    ///
    /// # Errors
    /// [`BatchError`] names what is missing.
    pub fn finish(self) -> Result<(), BatchError> {
        if self.next_piece < self.manifest.pieces.len() {
            return Err(BatchError::PieceMissing { first: self.manifest.first(), missing: self.next_piece });
        }
        if !self.ended || !self.pending.is_empty() || self.raw_bytes != self.manifest.raw_bytes {
            return Err(self.stream("the stream ends early"));
        }
        if (self.last, self.last_hash) != (self.manifest.last, self.manifest.last_hash) {
            return Err(self.manifest.error("its last block is not the one that the manifest names"));
        }
        if B256::from(<[u8; 32]>::from(self.content.finalize())) != self.manifest.content {
            return Err(self.manifest.error("its content is not the one that the manifest names"));
        }
        Ok(())
    }
}

impl Encode for Position {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        self.hash.encode(out);
        self.state_root.encode(out);
    }
}

impl Decode for Position {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("position of a batch");
        Ok(Self { height: Height::decode(r)?, hash: BlockHash::decode(r)?, state_root: B256::decode(r)? })
    }
}

impl Encode for Piece {
    fn encode(&self, out: &mut Vec<u8>) {
        self.hash.encode(out);
        self.bytes.encode(out);
    }
}

impl Decode for Piece {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { hash: B256::decode(r)?, bytes: u32::decode(r)? })
    }
}

impl Encode for Manifest {
    fn encode(&self, out: &mut Vec<u8>) {
        self.chain.chain_id.encode(out);
        self.chain.genesis_hash.encode(out);
        self.chain.fork.encode(out);
        self.before.encode(out);
        self.last.encode(out);
        self.last_hash.encode(out);
        self.raw_bytes.encode(out);
        self.content.encode(out);
        encode_list(&self.pieces, out);
        self.seal.header.encode(out);
        self.seal.certificate.encode(out);
        encode_list(&self.seal.fillers, out);
        self.seal.ancestry.encode(out);
        encode_list(&self.seal.reveals, out);
    }
}

impl Decode for Manifest {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("manifest of a batch");
        Ok(Self {
            chain: SigningContext {
                chain_id: Decode::decode(r)?,
                genesis_hash: B256::decode(r)?,
                fork: Decode::decode(r)?,
            },
            before: Position::decode(r)?,
            last: Height::decode(r)?,
            last_hash: BlockHash::decode(r)?,
            raw_bytes: u64::decode(r)?,
            content: B256::decode(r)?,
            pieces: r.field("pieces of a batch").list(MAX_PIECES)?,
            seal: Seal {
                header: Header::decode(r)?,
                certificate: Certificate::decode(r)?,
                fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)?,
                ancestry: MountainProof::decode(r)?,
                reveals: r.field("reveals above a batch").list(MAX_REVEALS)?,
            },
        })
    }
}
