//! What carriage says on the wire: coded chunks with what their leader signed, and requests for the whole.

use cascade_crypto::{VoteScheme, VoteSigner};
use cascade_da::dispersal::Chunk;
use cascade_primitives::{
    B256, BlockHash, BlsPublicKey, BlsSignature, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, Reader,
    SigningContext, View, domain, hash,
};

/// The lowest tag of a message of carriage. It shares a channel with messages whose tags are below.
const FIRST_TAG: u8 = 16;
/// The tag of a request.
const ASK_TAG: u8 = FIRST_TAG + 1;

/// What a leader signs of a proposal that it sends in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The epoch.
    pub epoch: Epoch,
    /// The view that it is proposed in.
    pub view: View,
    /// The block.
    pub block: BlockHash,
    /// The root over the chunks of the encoded proposal.
    pub root: B256,
    /// Bytes of the encoded proposal.
    pub size: u32,
    /// How many chunks there are: one for each seat.
    pub chunks: u16,
}

impl Manifest {
    /// What is signed. The tag is that of manifests alone, so no signature over one is a vote, nor the other way round.
    #[must_use]
    pub fn digest(&self, context: &SigningContext) -> B256 {
        let mut bytes = Vec::with_capacity(144);
        context.chain_id.encode(&mut bytes);
        context.genesis_hash.encode(&mut bytes);
        context.fork.encode(&mut bytes);
        self.epoch.encode(&mut bytes);
        self.view.encode(&mut bytes);
        self.block.encode(&mut bytes);
        self.root.encode(&mut bytes);
        self.size.encode(&mut bytes);
        self.chunks.encode(&mut bytes);
        hash::tagged(domain::MANIFEST, &[&bytes])
    }

    /// Signs it.
    #[must_use]
    pub fn sign(&self, context: &SigningContext, signer: &dyn VoteSigner) -> BlsSignature {
        signer.sign(&self.digest(context))
    }

    /// Whether the holder of this key signed it.
    #[must_use]
    pub fn is_signed(
        &self,
        context: &SigningContext,
        scheme: &dyn VoteScheme,
        key: &BlsPublicKey,
        signature: &BlsSignature,
    ) -> bool {
        scheme.verify(key, &self.digest(context), signature)
    }
}

/// A chunk, with what makes it one of a leader's proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The epoch.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// The block.
    pub block: BlockHash,
    /// The leader's signature over [`Piece::manifest`].
    pub signature: BlsSignature,
    /// The chunk, which says the rest of the manifest.
    pub chunk: Chunk,
}

impl Piece {
    /// What the leader signed.
    #[must_use]
    pub const fn manifest(&self) -> Manifest {
        Manifest {
            epoch: self.epoch,
            view: self.view,
            block: self.block,
            root: self.chunk.root,
            size: self.chunk.size,
            chunks: self.chunk.chunks,
        }
    }
}

/// A message of carriage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A chunk, from the leader or from the member whose seat it belongs to.
    Piece(Box<Piece>),
    /// Asks a leader for all of the proposal that it sent under this manifest.
    Ask {
        /// The epoch.
        epoch: Epoch,
        /// The view.
        view: View,
        /// The manifest's digest.
        manifest: B256,
    },
}

impl Carried {
    /// Bytes of its encoding.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        match self {
            Self::Piece(piece) => 1 + 8 + 8 + 32 + 96 + piece.chunk.message_bytes(),
            Self::Ask { .. } => 1 + 8 + 8 + 32,
        }
    }

    /// Whether a message on the shared channel is one of carriage.
    #[must_use]
    pub fn is_in(payload: &[u8]) -> bool {
        payload.first().is_some_and(|tag| *tag >= FIRST_TAG)
    }
}

impl Encode for Carried {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Piece(piece) => {
                out.push(FIRST_TAG);
                piece.epoch.encode(out);
                piece.view.encode(out);
                piece.block.encode(out);
                piece.signature.encode(out);
                piece.chunk.encode(out);
            }
            Self::Ask { epoch, view, manifest } => {
                out.push(ASK_TAG);
                epoch.encode(out);
                view.encode(out);
                manifest.encode(out);
            }
        }
    }
}

impl Decode for Carried {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r.field("carriage message"))? {
            FIRST_TAG => {
                let (epoch, view) = (Epoch::decode(r.field("piece"))?, View::decode(r)?);
                let (block, signature) = (BlockHash::decode(r)?, BlsSignature::decode(r)?);
                let chunk = Chunk::decode(r)?;
                Ok(Self::Piece(Box::new(Piece { epoch, view, block, signature, chunk })))
            }
            ASK_TAG => {
                let (epoch, view) = (Epoch::decode(r.field("request for a proposal"))?, View::decode(r)?);
                Ok(Self::Ask { epoch, view, manifest: B256::decode(r)? })
            }
            tag => Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        }
    }
}
