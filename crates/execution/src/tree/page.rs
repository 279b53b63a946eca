//! A page of the state tree: four levels of the binary tree with everything that stands below them.
//!
//! ```text
//!                    o                 hash of the page
//!             o             o
//!          o     o       o     o       inner hashes, kept in memory, not on disk
//!         o o   o o     o o   o o
//!        ................................
//!        0 1 2 3 4 5 6 7 8 9 a b c d e f      children: nothing, a leaf, or the page below
//! ```
//!
//! A leaf stands in the lowest page that has another element beside it, as its key and its hash; it has no record of its
//! own. On disk a page is: which children there are (16 bits, child 0 the lowest), which of them are leaves (16 bits),
//! and for each child, from 0 up, its hash and then a leaf's key (32 bytes) or the version of the page below (8 bytes).

use alloy_primitives::B256;
use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};

use crate::{
    proof::{EMPTY_ROOT, hash_inner},
    store::StateKey,
};

/// What stands below a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    /// Hash of the leaf, or of the page.
    pub(crate) hash: B256,
    pub(crate) kind: ChildKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildKind {
    /// The only element below here.
    Leaf(StateKey),
    /// A page, and the version that wrote it.
    Page(u64),
}

impl Child {
    pub(crate) const fn leaf(key: StateKey, hash: B256) -> Self {
        Self { hash, kind: ChildKind::Leaf(key) }
    }

    const fn is_leaf(&self) -> bool {
        matches!(self.kind, ChildKind::Leaf(_))
    }
}

/// The 15 binary nodes of a page, the top one first, the children of node i at 2i + 1 and 2i + 2. Those of subtrees with at
/// most one leaf are not used.
type Inner = [B256; 15];

/// Four levels of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    present: u16,
    children: Vec<Child>,
    /// Known in pages that an update made, unless they are so small that hashing them again is as cheap.
    inner: Option<Box<Inner>>,
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        (self.present, &self.children) == (other.present, &other.children)
    }
}

impl Eq for Page {}

/// Pages with so few children, all of them leaves, keep no inner hashes.
const SMALL: usize = 4;

impl Page {
    /// An empty page, which only the root can be.
    pub(crate) const EMPTY: Self = Self { present: 0, children: Vec::new(), inner: None };

    /// The child at a place.
    pub(crate) fn child(&self, place: u8) -> Option<&Child> {
        let bit = 1_u16 << place;
        (self.present & bit != 0).then(|| &self.children[(self.present & (bit - 1)).count_ones() as usize])
    }

    /// The page's only child, if that is a leaf.
    pub(crate) fn lone_leaf(&self) -> Option<Child> {
        match self.children[..] {
            [child] if child.is_leaf() => Some(child),
            _ => None,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The page's hash.
    pub(crate) fn hash(&self) -> B256 {
        match &self.inner {
            Some(inner) => inner[0],
            None => self.subtree(0, 16),
        }
    }

    /// The hash of the subtree over `width` places from `start` on: one of the binary nodes, or what stands for it.
    pub(crate) fn subtree(&self, start: u8, width: u8) -> B256 {
        match self.shortcut(start, width) {
            Some(hash) => hash,
            None => {
                let half = width / 2;
                hash_inner(&self.subtree(start, half), &self.subtree(start + half, half))
            }
        }
    }

    /// The only child among `width` places from `start` on, and its place.
    pub(crate) fn only_child(&self, start: u8, width: u8) -> Option<(u8, &Child)> {
        let within = self.present & places(start, width);
        if within.count_ones() != 1 {
            return None;
        }
        let place = within.trailing_zeros() as u8;
        Some((place, self.child(place).expect("its bit is set")))
    }

    /// Whether nothing stands on `width` places from `start` on.
    pub(crate) const fn has_none(&self, start: u8, width: u8) -> bool {
        self.present & places(start, width) == 0
    }

    /// The hash of a subtree that is no binary node of its own: an empty one, or one with a single leaf.
    fn shortcut(&self, start: u8, width: u8) -> Option<B256> {
        if self.has_none(start, width) {
            return Some(EMPTY_ROOT);
        }
        let (_, child) = self.only_child(start, width)?;
        (width == 1 || child.is_leaf()).then_some(child.hash)
    }

    fn keep_inner(&mut self, known: Option<&Inner>, changed: u16) {
        if self.children.len() <= SMALL && self.children.iter().all(Child::is_leaf) {
            return;
        }
        let mut inner = known.map_or_else(|| Box::new([EMPTY_ROOT; 15]), |known| Box::new(*known));
        let changed = if known.is_some() { changed } else { u16::MAX };
        self.rehash(&mut inner, 0, 0, 16, changed);
        self.inner = Some(inner);
    }

    /// Hashes again the binary nodes above changed places. A node that became a shortcut keeps an old hash, which nobody
    /// reads: it is a shortcut until one of its places changes again, and then it is hashed.
    fn rehash(&self, inner: &mut Inner, node: usize, start: u8, width: u8, changed: u16) -> B256 {
        if changed & places(start, width) == 0 && width > 1 && node > 0 {
            return self.shortcut(start, width).unwrap_or(inner[node]);
        }
        let short = self.shortcut(start, width);
        let hash = short.unwrap_or_else(|| {
            let half = width / 2;
            let left = self.rehash(inner, 2 * node + 1, start, half, changed);
            let right = self.rehash(inner, 2 * node + 2, start + half, half, changed);
            hash_inner(&left, &right)
        });
        if width > 1 {
            inner[node] = hash;
        }
        hash
    }

    /// The page as the store holds it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 64 * self.children.len());
        let places = (0..16_u16).filter(|place| self.present >> place & 1 == 1);
        let leaves = places.zip(&self.children).filter(|(_, child)| child.is_leaf());
        let leaves = leaves.fold(0_u16, |mask, (place, _)| mask | 1 << place);
        self.present.encode(&mut out);
        leaves.encode(&mut out);
        for child in &self.children {
            out.extend_from_slice(child.hash.as_slice());
            match &child.kind {
                ChildKind::Leaf(key) => out.extend_from_slice(key.0.as_slice()),
                ChildKind::Page(version) => version.encode(&mut out),
            }
        }
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let present = u16::decode(r.field("tree page"))?;
        let leaves = u16::decode(&mut r)?;
        if leaves & !present != 0 {
            return Err(r.error(DecodeErrorKind::NotCanonical("a leaf is one of the children")));
        }
        let mut children = Vec::with_capacity(present.count_ones() as usize);
        for place in (0..16).filter(|place| present >> place & 1 == 1) {
            let hash = B256::decode(&mut r)?;
            let kind = if leaves >> place & 1 == 1 {
                ChildKind::Leaf(StateKey::decode(&mut r)?)
            } else {
                ChildKind::Page(u64::decode(&mut r)?)
            };
            children.push(Child { hash, kind });
        }
        r.finish()?;
        Ok(Self { present, children, inner: None })
    }
}

const fn places(start: u8, width: u8) -> u16 {
    (((1_u32 << width) - 1) << start) as u16
}

/// A page in the making: children are added from place 0 up.
pub(crate) struct PageBuilder<'a> {
    old: &'a Page,
    page: Page,
    changed: u16,
}

impl<'a> PageBuilder<'a> {
    /// A page that takes the place of `old`.
    pub(crate) fn new(old: &'a Page) -> Self {
        let children = Vec::with_capacity((old.children.len() + 2).min(16));
        Self { old, page: Page { present: 0, children, inner: None }, changed: 0 }
    }

    /// What stands at a place from now on.
    pub(crate) fn put(&mut self, place: u8, child: Option<Child>) {
        debug_assert_eq!(self.page.present >> place, 0, "from place 0 up");
        if child.as_ref() != self.old.child(place) {
            self.changed |= 1 << place;
        }
        if let Some(child) = child {
            self.page.present |= 1 << place;
            self.page.children.push(child);
        }
    }

    /// The page, hashed; `None` if it is the old one.
    pub(crate) fn finish(mut self) -> Option<Page> {
        if self.changed == 0 {
            return None;
        }
        self.page.keep_inner(self.old.inner.as_deref(), self.changed);
        Some(self.page)
    }
}
