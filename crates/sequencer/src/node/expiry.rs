//! Until when envelopes that came here could be ordered, so that their senders can be told that it did not happen.
//!
//! The pool drops what no block can carry any more. What is remembered here outlives that, bounded by count: of more than
//! [`MOST`] envelopes the oldest is forgotten.

use std::collections::{BTreeSet, HashMap, VecDeque};

use cascade_primitives::{B256, Epoch, Height};

/// Envelopes that are remembered, more than a pool holds. Each takes some 200 bytes.
const MOST: usize = 1 << 16;

/// Ends of envelopes by their names.
#[derive(Debug)]
pub struct Ends {
    most: usize,
    ends: HashMap<B256, (Epoch, Height)>,
    /// The same names, in the order in which they came.
    order: VecDeque<B256>,
    /// Those that are valid still, the next to end first.
    due: BTreeSet<(Height, B256)>,
}

impl Default for Ends {
    fn default() -> Self {
        Self { most: MOST, ends: HashMap::new(), order: VecDeque::new(), due: BTreeSet::new() }
    }
}

impl Ends {
    /// Remembers the epoch and the last height whose block may carry an envelope.
    pub fn insert(&mut self, name: B256, end: (Epoch, Height)) {
        if self.ends.insert(name, end).is_some() {
            return;
        }
        self.order.push_back(name);
        self.due.insert((end.1, name));
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
            && let Some((_, last)) = self.ends.remove(&oldest)
        {
            self.due.remove(&(last, oldest));
        }
    }

    /// Those that no block above a height can carry and that were not given out yet.
    pub fn take_due(&mut self, height: Height) -> Vec<B256> {
        let mut taken = Vec::new();
        while let Some((last, name)) = self.due.first().copied().filter(|(last, _)| *last <= height) {
            self.due.remove(&(last, name));
            taken.push(name);
        }
        taken
    }

    /// The end of an envelope.
    #[must_use]
    pub fn get(&self, name: &B256) -> Option<(Epoch, Height)> {
        self.ends.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut ends = Ends { most: 3, ..Ends::default() };
        let name = |i: u64| B256::left_padding_from(&i.to_be_bytes());
        for i in 0..100 {
            // Twice, as when it was dropped and sent again: it takes one place.
            ends.insert(name(i), (Epoch(i), Height(i)));
            ends.insert(name(i), (Epoch(i), Height(i)));
            let known: Vec<_> = (0..100).filter(|i| ends.get(&name(*i)).is_some()).collect();
            assert_eq!(known, (i.saturating_sub(2)..=i).collect::<Vec<_>>());
            assert_eq!((ends.ends.len(), ends.order.len(), ends.due.len()), (known.len(), known.len(), known.len()));
        }
        let of = |taken: Vec<B256>| taken.iter().map(|name| name.0[31]).collect::<Vec<_>>();
        assert_eq!((of(ends.take_due(Height(96))), of(ends.take_due(Height(98)))), (vec![], vec![97, 98]));
        assert_eq!(of(ends.take_due(Height(99))), [99]);
        assert_eq!(ends.get(&name(99)), Some((Epoch(99), Height(99))));
    }
}
