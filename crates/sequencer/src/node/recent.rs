//! What is known of recent blocks, of a bounded number of them.
//!
//! While nothing becomes final proposals pile up, and any leader adds one in each of its views. What the node builds on is
//! asked for again with every block and every batch that it admits; what was abandoned never again. So of more blocks than are
//! kept, that goes which nobody asked for the longest, at whatever height.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use cascade_primitives::{BlockHash, Height, SealedBlock};

/// Blocks that are kept.
const MOST_BLOCKS: usize = 256;

type Place = (Height, BlockHash);

#[derive(Debug)]
struct Known<T> {
    what: Arc<T>,
    asked: u64,
}

/// Something of each recent block.
#[derive(Debug)]
pub struct Recent<T> {
    blocks: BTreeMap<Place, Known<T>>,
    /// Counts what is asked for.
    asked: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), asked: 0 }
    }
}

fn place(block: &SealedBlock) -> Place {
    (block.header.height, block.hash())
}

impl<T> Recent<T> {
    /// What is known of a block.
    pub fn get(&mut self, block: &SealedBlock) -> Option<Arc<T>> {
        self.get_at(&place(block))
    }

    fn get_at(&mut self, place: &Place) -> Option<Arc<T>> {
        self.asked += 1;
        let known = self.blocks.get_mut(place)?;
        known.asked = self.asked;
        Some(Arc::clone(&known.what))
    }

    /// Keeps what is known of a block.
    pub fn insert(&mut self, block: &SealedBlock, what: Arc<T>) {
        self.insert_at(place(block), what);
    }

    fn insert_at(&mut self, place: Place, what: Arc<T>) {
        self.asked += 1;
        self.blocks.insert(place, Known { what, asked: self.asked });
        if self.blocks.len() > MOST_BLOCKS {
            let longest = self.blocks.iter().min_by_key(|(_, known)| known.asked).map(|(place, _)| *place);
            self.blocks.remove(&longest.expect("there are more than none"));
        }
    }

    /// What is known of blocks above a height, up to another one, from below.
    pub fn between(&self, from: Height, to: Height) -> impl Iterator<Item = (Height, &BlockHash, &T)> {
        let above = self.blocks.range((Bound::Included((from.next(), BlockHash::ZERO)), Bound::Unbounded));
        above
            .take_while(move |((height, _), _)| *height <= to)
            .map(|((height, hash), known)| (*height, hash, &*known.what))
    }

    /// Drops blocks up to a height.
    pub fn drop_up_to(&mut self, height: Height) {
        self.blocks = self.blocks.split_off(&(height.next(), BlockHash::ZERO));
    }

    /// Drops all that is not kept by this.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.blocks.retain(|_, known| keep(&known.what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_on_outlives_any_number_of_proposals_above_and_below_it() {
        let mut recent = Recent::default();
        let proposal = |i: u64| {
            let mut hash = [0xff; 32];
            hash[..8].copy_from_slice(&i.to_be_bytes());
            BlockHash(hash)
        };
        let branch: Vec<Place> = (10..14).map(|height| (Height(height), BlockHash([1; 32]))).collect();
        for place in &branch {
            recent.insert_at(*place, Arc::new(0));
        }
        for i in 0..10 * MOST_BLOCKS as u64 {
            recent.insert_at((Height(5 + i % 20), proposal(i)), Arc::new(i));
            assert!(recent.blocks.len() <= MOST_BLOCKS);
            assert!(branch.iter().all(|place| recent.get_at(place).is_some()), "after {i} proposals");
        }
        assert!(recent.get_at(&(Height(5), proposal(0))).is_none(), "what nobody asks for goes");
        recent.drop_up_to(Height(12));
        let left: Vec<_> = recent.between(Height(0), Height(13)).filter(|(_, hash, _)| **hash == branch[0].1).collect();
        assert_eq!(left, [(Height(13), &branch[0].1, &0)]);
    }
}
