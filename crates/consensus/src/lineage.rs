//! The blocks of a chain from the newest commit certificate that it carries up to its tip.
//!
//! The contexts of a branch share what lies below, so a chain that is prepared for hours without becoming final takes
//! memory for each block once:
//!
//! ```text
//!   oldest <-- a <-- b <-- c        tip of one context
//!                     ^-- d         tip of another
//! ```

use std::{fmt, sync::Arc};

use cascade_primitives::{
    BlockHash, Decode, DecodeError, DecodeErrorKind, Encode, Epoch, HeaderKind, Height, Reader, View,
    codec::encode_list,
};

/// Blocks of one lineage that a decoder takes.
const MAX_BLOCKS: usize = 1 << 20;

/// A block above the newest commit certificate that its chain carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) epoch: Epoch,
    pub(crate) view: View,
    pub(crate) height: Height,
    pub(crate) hash: BlockHash,
    pub(crate) kind: HeaderKind,
}

/// A block and all below it down to the oldest.
struct Link {
    ancestor: Ancestor,
    below: Option<Arc<Self>>,
}

impl Drop for Link {
    /// One by one: a chain of hundreds of thousands would overflow the stack.
    fn drop(&mut self) {
        let mut below = self.below.take();
        while let Some(mut link) = below.and_then(Arc::into_inner) {
            below = link.below.take();
        }
    }
}

/// At least one block.
#[derive(Clone)]
pub(crate) struct Lineage {
    oldest: Ancestor,
    tip: Arc<Link>,
}

impl Lineage {
    pub(crate) fn new(only: Ancestor) -> Self {
        Self { oldest: only, tip: Arc::new(Link { ancestor: only, below: None }) }
    }

    /// The block that the newest commit certificate carried is for.
    pub(crate) const fn oldest(&self) -> &Ancestor {
        &self.oldest
    }

    pub(crate) fn tip(&self) -> &Ancestor {
        &self.tip.ancestor
    }

    /// From the tip down.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ancestor> {
        std::iter::successors(Some(self.tip.as_ref()), |link| link.below.as_deref()).map(|link| &link.ancestor)
    }

    pub(crate) fn find(&self, hash: &BlockHash) -> Option<&Ancestor> {
        self.iter().find(|ancestor| ancestor.hash == *hash)
    }

    /// The part from this block on; none if the block is not in it.
    pub(crate) fn from(&self, hash: &BlockHash) -> Option<Self> {
        let mut kept = Vec::new();
        for ancestor in self.iter() {
            kept.push(*ancestor);
            if ancestor.hash == *hash {
                return Self::of(kept.into_iter().rev());
            }
        }
        None
    }

    /// With one more block on top.
    pub(crate) fn push(&self, ancestor: Ancestor) -> Self {
        let below = Some(Arc::clone(&self.tip));
        Self { oldest: self.oldest, tip: Arc::new(Link { ancestor, below }) }
    }

    /// Of blocks from the oldest up; none of no blocks.
    fn of(mut blocks: impl Iterator<Item = Ancestor>) -> Option<Self> {
        let first = Self::new(blocks.next()?);
        Some(blocks.fold(first, |lineage, next| lineage.push(next)))
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Lineage {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Lineage {}

impl Encode for Ancestor {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.view.encode(out);
        self.height.encode(out);
        self.hash.encode(out);
        self.kind.encode(out);
    }
}

impl Decode for Ancestor {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            epoch: Epoch::decode(r.field("ancestor"))?,
            view: View::decode(r)?,
            height: Height::decode(r)?,
            hash: BlockHash::decode(r)?,
            kind: HeaderKind::decode(r)?,
        })
    }
}

impl Encode for Lineage {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut blocks: Vec<Ancestor> = self.iter().copied().collect();
        blocks.reverse();
        encode_list(&blocks, out);
    }
}

impl Decode for Lineage {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let blocks: Vec<Ancestor> = r.field("lineage").list(MAX_BLOCKS)?;
        Self::of(blocks.into_iter())
            .ok_or_else(|| r.error(DecodeErrorKind::NotCanonical("a lineage has at least one block")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(height: u64) -> Ancestor {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&height.to_le_bytes());
        Ancestor {
            epoch: Epoch(0),
            view: View(height),
            height: Height(height),
            hash: BlockHash(hash),
            kind: HeaderKind::Block,
        }
    }

    #[test]
    fn a_chain_without_finality_is_shared_and_dropped_whatever_its_length() {
        let mut contexts = vec![Lineage::new(block(0))];
        for height in 1..300_000 {
            contexts.push(contexts[contexts.len() - 1].push(block(height)));
        }
        assert_eq!(contexts[1000].iter().count(), 1001);
        assert_eq!(Arc::strong_count(&contexts[1000].tip), 2, "the one above holds it, nothing is copied");
        let cut = contexts[299_999].from(&block(299_990).hash).expect("it is in it");
        assert_eq!((cut.oldest().height, cut.tip().height, cut.iter().count()), (Height(299_990), Height(299_999), 10));
        assert!(cut.find(&block(299_989).hash).is_none() && cut.from(&block(1).hash).is_none());
        let last = contexts.pop();
        drop(contexts);
        drop(last);
    }

    #[test]
    fn it_reads_back_and_is_never_empty() {
        let lineage = (1..5).fold(Lineage::new(block(0)), |l, h| l.push(block(h)));
        assert_eq!(Lineage::from_slice(&lineage.to_bytes()).unwrap(), lineage);
        let mut none = Vec::new();
        encode_list::<Ancestor>(&[], &mut none);
        assert!(Lineage::from_slice(&none).is_err());
    }
}
