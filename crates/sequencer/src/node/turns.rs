//! Whose turn it is, among many who wait, and who did something lately.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// Things of several owners, taken from each in turn: who has many waits longer, and nobody else does.
#[derive(Debug)]
pub(super) struct Turns<K, T> {
    things: HashMap<K, VecDeque<T>>,
    order: VecDeque<K>,
    count: usize,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self { things: HashMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn push(&mut self, owner: K, thing: T) {
        self.count += 1;
        let own = self.things.entry(owner.clone()).or_default();
        if own.is_empty() {
            self.order.push_back(owner);
        }
        own.push_back(thing);
    }

    /// One thing of whose turn it is.
    pub(super) fn next(&mut self) -> Option<T> {
        let owner = self.order.pop_front()?;
        let own = self.things.get_mut(&owner)?;
        let thing = own.pop_front()?;
        self.count -= 1;
        if own.is_empty() {
            self.things.remove(&owner);
        } else {
            self.order.push_back(owner);
        }
        Some(thing)
    }

    /// All that one has.
    pub(super) fn drain(&mut self, owner: &K) -> VecDeque<T> {
        let own = self.things.remove(owner).unwrap_or_default();
        if !own.is_empty() {
            self.order.retain(|other| other != owner);
        }
        self.count -= own.len();
        own
    }
}

/// Two lines: members of the committee are served first, but while others wait, a quarter of each round is theirs.
#[derive(Debug)]
pub(super) struct Lines<K, T> {
    members: Turns<K, T>,
    others: Turns<K, T>,
}

/// Of how many that are taken one is somebody's who is no member.
const OTHERS: usize = 4;

impl<K, T> Default for Lines<K, T> {
    fn default() -> Self {
        Self { members: Turns::default(), others: Turns::default() }
    }
}

impl<K: Clone + Eq + Hash, T> Lines<K, T> {
    pub(super) const fn len(&self) -> usize {
        self.members.len() + self.others.len()
    }

    pub(super) fn push(&mut self, is_member: bool, owner: K, thing: T) {
        if is_member { self.members.push(owner, thing) } else { self.others.push(owner, thing) }
    }

    /// The next ones, so many at the most.
    pub(super) fn take(&mut self, most: usize) -> Vec<T> {
        let of_others = self.others.len().min(most / OTHERS);
        let mut taken: Vec<T> = std::iter::from_fn(|| self.members.next()).take(most - of_others).collect();
        let left = most - taken.len();
        taken.extend(std::iter::from_fn(|| self.others.next()).take(left));
        taken
    }

    /// All that one has in both.
    pub(super) fn drain(&mut self, owner: &K) -> impl Iterator<Item = T> {
        self.members.drain(owner).into_iter().chain(self.others.drain(owner))
    }
}

/// Who is remembered by a [`Lately`] at the most.
pub(super) const MOST_REMEMBERED: usize = 1024;

/// Who did something within a time. Those that did it while too many are remembered are not.
#[derive(Clone, Debug)]
pub(super) struct Lately<K> {
    time: Duration,
    at: HashMap<K, Instant>,
}

impl<K: Eq + Hash> Lately<K> {
    pub(super) fn new(time: Duration) -> Self {
        Self { time, at: HashMap::new() }
    }

    pub(super) fn contains(&self, now: Instant, who: &K) -> bool {
        self.at.get(who).is_some_and(|at| now.duration_since(*at) < self.time)
    }

    /// Notes that somebody does it now; answers whether there was room for that.
    pub(super) fn insert(&mut self, now: Instant, who: K) -> bool {
        if self.at.len() >= MOST_REMEMBERED {
            self.at.retain(|_, at| now.duration_since(*at) < self.time);
        }
        if self.at.len() >= MOST_REMEMBERED && !self.at.contains_key(&who) {
            return false;
        }
        self.at.insert(who, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_turn_before_anybody_gets_the_next() {
        let mut turns = Turns::default();
        for i in 0..5 {
            turns.push('a', ('a', i));
        }
        turns.push('b', ('b', 0));
        turns.push('c', ('c', 0));
        turns.push('b', ('b', 1));
        assert_eq!(turns.drain(&'x').len(), 0);
        let first: Vec<_> = std::iter::from_fn(|| turns.next()).take(5).collect();
        assert_eq!(first, [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('b', 1)]);
        turns.push('b', ('b', 2));
        assert_eq!(turns.drain(&'a'), [('a', 2), ('a', 3), ('a', 4)]);
        assert_eq!((turns.len(), turns.next(), turns.next(), turns.len()), (1, Some(('b', 2)), None, 0));
    }

    #[test]
    fn members_come_first_and_leave_others_a_quarter() {
        let mut lines = Lines::default();
        for i in 0..10 {
            lines.push(false, 0, ("other", i));
            lines.push(true, 0, ("member", i));
        }
        let members = |taken: &[(&str, i32)]| taken.iter().filter(|(who, _)| *who == "member").count();
        assert_eq!(members(&lines.take(8)), 6);
        assert_eq!(members(&lines.take(8)), 4, "as many as there are");
        assert_eq!((lines.take(8).len(), lines.len()), (4, 0));
    }

    #[test]
    fn so_many_are_remembered_for_so_long() {
        let (mut lately, start, second) = (Lately::new(Duration::from_secs(1)), Instant::now(), Duration::from_secs(1));
        assert!((0..MOST_REMEMBERED).all(|i| lately.insert(start, i)) && !lately.insert(start, MOST_REMEMBERED));
        assert!(lately.contains(start + second / 2, &0) && !lately.contains(start + second, &0));
        assert!(lately.insert(start, 0), "who is remembered already takes no room");
        assert!(lately.insert(start + second, MOST_REMEMBERED), "there is room again");
    }
}
