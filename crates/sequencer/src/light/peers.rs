//! The nodes that the verified RPC asks: one after the other, without waiting long for anybody.
//!
//! ```text
//!   question --> 1st ----------------------- silent --> end of the queue
//!                 | `PATIENCE`, or it has nothing
//!                 +--> 2nd ---- answers, and it checks --> front of the queue, the answer
//!                 |  ...
//!                 `WITHIN` in all, then there is no answer
//! ```
//!
//! Not all at once, although that would be quicker: whoever is asked for an account learns that somebody wants to know of it.
//! Whoever asks this RPC waits for longer than [`WITHIN`]. Who lied is told the client that follows the chain, and the other
//! way round ([`Dropped`]): neither asks it again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;

use super::Peer;
use crate::cli::{Client, Failure, output};

/// The next node is asked when the one before has said nothing for so long.
const PATIENCE: Duration = Duration::from_millis(750);
/// A question has no answer after this.
pub(super) const WITHIN: Duration = Duration::from_secs(6);
/// Longest answer, in bytes: what is asked for is an account with its proof, or the code of a contract (24 KiB), in hex.
const MAX_ANSWER_BYTES: u32 = 1 << 20;

/// Nodes that lied, by authority.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<Mutex<BTreeSet<String>>>);

impl Dropped {
    /// Whether this one did.
    #[must_use]
    pub fn contains(&self, authority: &str) -> bool {
        self.0.lock().contains(authority)
    }

    /// This one did. Answers whether that is new.
    pub fn insert(&self, authority: &str) -> bool {
        self.0.lock().insert(authority.to_owned())
    }
}

/// Why a node's answer is none.
#[derive(Debug)]
pub(super) enum Wanting {
    /// It has nothing, or did not answer: the next one may.
    Nothing(String),
    /// What it gave does not check. It is not asked again.
    Lie(String),
}

/// Nodes, and the order in which they are asked.
pub(super) struct Peers {
    all: Vec<(Peer, Client)>,
    /// Places of those that have not lied: who answered last stands first, who kept silent last.
    queue: Mutex<Vec<usize>>,
    dropped: Dropped,
    patience: Duration,
    within: Duration,
}

impl Peers {
    pub(super) fn new(peers: &[Peer], dropped: Dropped) -> Result<Self, Failure> {
        let with_client = |peer: &Peer| {
            let client = Client::wary(&format!("http://{}", peer.authority), WITHIN, MAX_ANSWER_BYTES)?;
            Ok((peer.clone(), client))
        };
        let all: Vec<_> = peers.iter().map(with_client).collect::<Result<_, Failure>>()?;
        let queue = Mutex::new((0..all.len()).collect());
        Ok(Self { all, queue, dropped, patience: PATIENCE, within: WITHIN })
    }

    /// The first answer that checks, with the place of who gave it. The error is what the last one said.
    pub(super) async fn ask<T, F>(&self, question: impl Fn(Peer, Client) -> F) -> Result<(usize, T), String>
    where
        F: Future<Output = Result<T, Wanting>>,
    {
        let mut left = self.left().into_iter();
        let mut last = "no node is left to ask".to_owned();
        let (mut asked, mut silent) = (FuturesUnordered::new(), Vec::new());
        let end = tokio::time::sleep(self.within);
        tokio::pin!(end);
        let put = |place: usize| {
            let (peer, client) = self.all[place].clone();
            let answer = question(peer, client);
            async move { (place, answer.await) }
        };
        let found = loop {
            if let Some(place) = left.next() {
                silent.push(place);
                asked.push(put(place));
            }
            tokio::select! {
                answered = asked.next() => match answered {
                    None => break Err(last),
                    Some((place, answer)) => {
                        silent.retain(|other| *other != place);
                        match answer {
                            Ok(value) => break Ok((place, value)),
                            Err(Wanting::Lie(what)) => {
                                self.convict(place, &what);
                                last = what;
                            }
                            Err(Wanting::Nothing(what)) => last = what,
                        }
                    }
                },
                () = tokio::time::sleep(self.patience), if left.len() > 0 => {}
                () = &mut end => break Err(format!("nobody answered within {:?}", self.within)),
            }
        };
        self.remember(found.as_ref().ok().map(|(place, _)| *place), &silent);
        found
    }

    /// Places of those that are asked, in order.
    fn left(&self) -> Vec<usize> {
        let mut queue = self.queue.lock();
        queue.retain(|place| !self.dropped.contains(&self.all[*place].0.authority));
        queue.clone()
    }

    /// Whoever answered is asked first from now on; whoever kept silent while others were asked, last.
    fn remember(&self, answered: Option<usize>, silent: &[usize]) {
        let mut queue = self.queue.lock();
        let rank = |place: &usize| match Some(*place) == answered {
            true => 0,
            false => 1 + u8::from(silent.contains(place)),
        };
        queue.sort_by_key(rank);
    }

    /// Drops a node that lied, and says so.
    pub(super) fn convict(&self, place: usize, what: &str) {
        let authority = &self.all[place].0.authority;
        if self.dropped.insert(authority) {
            tracing::warn!(peer = %authority, what, "a node's answer does not check");
            output::note(&format!("light: dropped {authority}: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What a node does when it is asked.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Answers,
        Silent,
        Empty,
        Lies,
    }

    /// Nodes that do this, and who was asked.
    struct World {
        peers: Peers,
        ways: Vec<Way>,
        asked: Arc<Mutex<Vec<usize>>>,
    }

    impl World {
        fn new(ways: &[Way]) -> Self {
            let url = |place: usize| Peer::of_url(&format!("http://127.0.0.1:{}", place + 1)).unwrap();
            let all: Vec<Peer> = (0..ways.len()).map(url).collect();
            let peers = Peers { patience: Duration::from_millis(20), ..Peers::new(&all, Dropped::default()).unwrap() };
            Self { peers, ways: ways.to_vec(), asked: Arc::default() }
        }

        /// Who answered, and who was asked.
        async fn ask(&self) -> (Result<usize, String>, Vec<usize>) {
            self.asked.lock().clear();
            let answer = self.peers.ask(|peer, _| async move {
                let place: usize = peer.authority.rsplit(':').next().unwrap().parse::<usize>().unwrap() - 1;
                self.asked.lock().push(place);
                match self.ways[place] {
                    Way::Answers => Ok(()),
                    Way::Silent => std::future::pending().await,
                    Way::Empty => Err(Wanting::Nothing("it has nothing".to_owned())),
                    Way::Lies => Err(Wanting::Lie("it lies".to_owned())),
                }
            });
            let answer = answer.await.map(|(place, ())| place);
            (answer, self.asked.lock().clone())
        }
    }

    #[tokio::test]
    async fn who_keeps_silent_is_waited_for_once_and_who_answers_is_asked_first() {
        let mut world = World::new(&[Way::Silent, Way::Silent, Way::Answers, Way::Answers]);
        assert_eq!(world.ask().await, (Ok(2), vec![0, 1, 2]));
        assert_eq!(world.ask().await, (Ok(2), vec![2]), "nobody else has to know");
        // It says no more: the other one that may answer is asked before those that never did.
        world.ways[2] = Way::Silent;
        assert_eq!(world.ask().await, (Ok(3), vec![2, 3]));
    }

    #[tokio::test]
    async fn who_has_nothing_is_passed_over_at_once_and_who_lies_is_never_asked_again() {
        let world = World::new(&[Way::Lies, Way::Empty, Way::Answers]);
        assert_eq!(world.ask().await, (Ok(2), vec![0, 1, 2]));
        let world = World::new(&[Way::Lies, Way::Empty]);
        assert_eq!(world.ask().await, (Err("it has nothing".to_owned()), vec![0, 1]));
        assert_eq!(world.ask().await.1, [1]);
        let world = World::new(&[Way::Lies]);
        world.ask().await.0.unwrap_err();
        assert_eq!(world.ask().await.0, Err("no node is left to ask".to_owned()));
        // Who lied to the client that follows is not asked here either.
        let world = World::new(&[Way::Answers, Way::Answers]);
        world.peers.dropped.insert(&world.peers.all[0].0.authority);
        assert_eq!(world.ask().await, (Ok(1), vec![1]));
    }

    #[tokio::test]
    async fn where_nobody_answers_a_question_ends_in_time_and_the_next_one_goes_to_others_first() {
        let mut world = World::new(&[Way::Silent; 13]);
        world.peers.within = Duration::from_millis(210);
        let (answer, first) = world.ask().await;
        assert!(answer.is_err() && !first.contains(&12), "{answer:?} {first:?}");
        let (_, second) = world.ask().await;
        assert!(!first.contains(&second[0]), "{first:?} {second:?}");
    }
}
