//! What must hold, checked at every step and by definitions of its own.
//!
//! The checker sees everything that honest nodes do: each vote that leaves a machine, each block that becomes final,
//! each result. It knows the chain that came first to be final and compares everything else with it. Nothing here
//! uses the checks of the core; where both check the same rule, they are written apart.

mod epochs;
mod rules;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use cascade_consensus::{ChainContext, Effect, Finality, Finalized, Message, Record, Rules, election::Leaders};
use cascade_crypto::VoteScheme;
use cascade_primitives::{
    Address, B256, BlockHash, Certificate, Committee, Encode, Epoch, HeaderKind, Height, NodeId, ResultEntry,
    SealedBlock, Term, TimestampMs, TransactionRule, View, Vote, VoteKind, VoteTarget, block::MAX_RESULTS_PER_HEADER,
    domain, hash,
};

use crate::{app, scheme, sealed::Opened};
use epochs::Epochs;

/// Violations that are kept of one run; more say nothing new.
const MOST_VIOLATIONS: usize = 8;

/// A final block and what follows from it.
#[derive(Debug)]
struct Known {
    block: Arc<SealedBlock>,
    /// Height of the newest commit certificate that the chain carries.
    carried: Height,
    /// Last height whose result the chain carries.
    last_result: Height,
    /// Where the fees of who must have made it go.
    producer: Address,
    /// Whether it must be opened before it is executed.
    is_opened: bool,
    /// None while no honest node has opened it.
    result: Option<ResultEntry>,
    /// When it first was final anywhere, in ms.
    at: u64,
    /// When it last became final anywhere, in ms.
    everywhere: u64,
}

/// What one key has said, to see contradictions.
#[derive(Debug, Default)]
struct VoteBook {
    said: BTreeMap<(Epoch, View, VoteKind), BlockHash>,
    lowest_skip: BTreeMap<(Epoch, Term), View>,
    highest_commit: BTreeMap<(Epoch, Term), View>,
}

/// Where a node stands.
#[derive(Debug, Default)]
struct Standing {
    height: Height,
    /// Certificates of blocks that became final in this step and that must lead to one of them.
    open: Vec<Finality>,
}

#[derive(Debug)]
pub(crate) struct Checker {
    rules: Arc<Rules>,
    scheme: Arc<dyn VoteScheme>,
    nodes: BTreeMap<NodeId, usize>,
    honest: Vec<bool>,
    chain: Vec<Known>,
    committees: BTreeMap<Epoch, Arc<Committee>>,
    epochs: Epochs,
    /// Who leads in the epoch.
    leaders: Leaders,
    books: Vec<VoteBook>,
    standings: Vec<Standing>,
    /// Blocks that Byzantine leaders made and that break a rule.
    invalid: HashSet<BlockHash>,
    proved: HashSet<Certificate>,
    /// What was in the envelopes of blocks, as the first honest node says that opened them.
    opened: BTreeMap<Height, Option<Arc<Opened>>>,
    /// Roots of an application's state, where one runs.
    roots: Option<BTreeMap<Height, B256>>,
    violations: Vec<String>,
}

/// Who leads in a committee's epoch, with the beacon that its seed is made of.
fn leaders(rules: &Rules, committee: &Committee, beacon: &B256) -> Leaders {
    let parts = [rules.signing.genesis_hash.as_slice(), &committee.epoch().to_bytes(), beacon.as_slice()];
    let seed = hash::tagged(domain::EPOCH_SEED, &parts);
    Leaders::new(seed, committee, rules.params().views_per_term)
}

impl Checker {
    pub(crate) fn new(
        rules: Arc<Rules>,
        scheme: Arc<dyn VoteScheme>,
        ids: &[NodeId],
        honest: Vec<bool>,
        genesis: Arc<SealedBlock>,
        committee: Arc<Committee>,
    ) -> Self {
        let result = genesis.header.results[0];
        let epochs = Epochs::new(&rules, Arc::clone(&committee));
        let leaders = leaders(&rules, &committee, &B256::ZERO);
        let known = Known {
            block: genesis,
            carried: Height(0),
            last_result: Height(0),
            producer: Address::ZERO,
            is_opened: false,
            result: Some(result),
            at: 0,
            everywhere: 0,
        };
        Self {
            rules,
            scheme,
            nodes: ids.iter().enumerate().map(|(i, id)| (*id, i)).collect(),
            books: ids.iter().map(|_| VoteBook::default()).collect(),
            standings: ids.iter().map(|_| Standing::default()).collect(),
            honest,
            chain: vec![known],
            committees: BTreeMap::from([(Epoch(0), committee)]),
            epochs,
            leaders,
            invalid: HashSet::new(),
            proved: HashSet::new(),
            opened: BTreeMap::new(),
            roots: None,
            violations: Vec::new(),
        }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn violation(&mut self, what: String) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(what);
        }
    }

    /// The highest block that is final anywhere.
    pub(crate) fn height(&self) -> Height {
        Height(self.chain.len() as u64 - 1)
    }

    /// The chain that is final anywhere, and when each block first was.
    pub(crate) fn chain(&self) -> impl Iterator<Item = (u64, &Arc<SealedBlock>)> {
        self.chain.iter().map(|k| (k.at, &k.block))
    }

    /// Of every block of the chain, its time and when it last became final anywhere.
    pub(crate) fn times(&self) -> impl Iterator<Item = (TimestampMs, u64)> {
        self.chain.iter().map(|k| (k.block.header.timestamp, k.everywhere))
    }

    /// How often one epoch followed another.
    pub(crate) fn epochs_begun(&self) -> u64 {
        self.committees.len() as u64 - 1
    }

    /// How often candidates who were not ready were dropped from a next committee.
    pub(crate) fn dropped(&self) -> u64 {
        self.epochs.dropped
    }

    /// The newest epoch that has begun.
    pub(crate) fn epoch(&self) -> Epoch {
        *self.committees.keys().next_back().expect("epoch 0 has begun")
    }

    /// The committee of an epoch that has begun.
    pub(crate) fn committee(&self, epoch: Epoch) -> Option<&Arc<Committee>> {
        self.committees.get(&epoch)
    }

    /// The committee of the next epoch, as far as final blocks settle it.
    pub(crate) const fn next_committee(&self) -> &Arc<Committee> {
        &self.epochs.next
    }

    /// A node opened a block.
    pub(crate) fn opened(&mut self, node: usize, height: Height, opened: Option<&Arc<Opened>>) {
        if self.honest[node] {
            self.opened.entry(height).or_insert_with(|| opened.cloned());
            self.fill_results();
        }
    }

    /// Results rest on an application's roots from now on.
    pub(crate) fn waits_for_roots(&mut self) {
        self.roots = Some(BTreeMap::new());
    }

    /// The root of an application's state after a block.
    pub(crate) fn root(&mut self, height: Height, root: B256) {
        if let Some(roots) = &mut self.roots {
            roots.insert(height, root);
            self.fill_results();
        }
    }

    /// Computes the results that have become known.
    fn fill_results(&mut self) {
        let first = self.chain.iter().rposition(|known| known.result.is_some()).expect("genesis has one") + 1;
        for at in first..self.chain.len() {
            let opened = if self.is_encrypted() { self.opened.get(&Height(at as u64)) } else { Some(&None) };
            let mocked = !self.is_encrypted();
            let root = self.roots.as_ref().map(|roots| roots.get(&Height(at as u64)).copied());
            let (Some(parent), Some(opened)) = (self.chain[at - 1].result, opened) else { return };
            if root == Some(None) {
                return;
            }
            let (block, opened) = (&self.chain[at].block, opened.as_deref());
            self.chain[at].result = Some(app::execute(&parent, block, opened, mocked, root.flatten()));
        }
    }

    fn is_encrypted(&self) -> bool {
        self.rules.params().transactions == TransactionRule::Encrypted
    }

    pub(crate) fn is_honest(&self, node: usize) -> bool {
        self.honest[node]
    }

    pub(crate) fn invalid_block(&mut self, hash: BlockHash) {
        self.invalid.insert(hash);
    }

    /// A node that starts again from its disk.
    pub(crate) fn restarted(&mut self, node: usize, head: &SealedBlock) {
        let height = head.header.height;
        if self.honest[node] && self.chain.get(height.0 as usize).is_none_or(|k| k.block.hash() != head.hash()) {
            self.violation(format!("node {node} starts from a block at {height} that is not final"));
        }
        self.standings[node] = Standing { height, open: Vec::new() };
    }

    /// An effect that reports something.
    pub(crate) fn report(&mut self, node: usize, effect: &Effect) {
        if !self.honest[node] {
            return;
        }
        match effect {
            Effect::Fatal(text) => self.violation(format!("node {node} must stop: {text}")),
            Effect::Evidence(evidence) if self.honest_peer(&evidence.node) => {
                self.violation(format!("node {node} accuses an honest sequencer: {evidence:?}"));
            }
            Effect::Misbehaved(peer, what) if self.honest_peer(peer) => {
                self.violation(format!("node {node} says that honest {} sent {what}", self.nodes[peer]));
            }
            _ => {}
        }
    }

    /// A node holds more than it may.
    pub(crate) fn overgrown(&mut self, node: usize, what: &str) {
        self.violation(format!("node {node} holds too much: {what}"));
    }

    /// The catch-up says that a peer lied.
    pub(crate) fn sync_lied(&mut self, node: usize, peer: &NodeId, what: &str) {
        if self.honest[node] && self.honest_peer(peer) {
            self.violation(format!("node {node} says that honest {} lied in catch-up: {what}", self.nodes[peer]));
        }
    }

    fn honest_peer(&self, peer: &NodeId) -> bool {
        self.nodes.get(peer).is_some_and(|&i| self.honest[i])
    }

    /// A message leaves a machine; `log` is what that machine's disk would give back after a crash.
    pub(crate) fn sent(&mut self, node: usize, message: &Message, log: &[Record]) {
        if !self.honest[node] {
            return;
        }
        let (Message::Vote(vote, _) | Message::Proposal(_, vote)) = message else { return };
        self.voted(node, vote, log);
    }

    fn voted(&mut self, node: usize, vote: &Vote, log: &[Record]) {
        let VoteTarget { epoch, view, kind, block } = vote.target;
        let book = &mut self.books[node];
        match book.said.get(&(epoch, view, kind)) {
            Some(said) if *said == block => return,
            Some(_) => {
                self.violation(format!("node {node} signed two {kind:?} in epoch {epoch} view {view}"));
                return;
            }
            None => {}
        }
        book.said.insert((epoch, view, kind), block);
        // The term's rule, written out: views 1..=k are the first term.
        let term = (epoch, Term((view.0 - 1) / self.rules.params().views_per_term));
        let contradicted = match kind {
            VoteKind::Prepare => None,
            VoteKind::Commit => {
                let highest = book.highest_commit.entry(term).or_insert(view);
                *highest = (*highest).max(view);
                book.lowest_skip.get(&term).filter(|skip| **skip <= view).copied()
            }
            VoteKind::Skip => {
                let lowest = book.lowest_skip.entry(term).or_insert(view);
                *lowest = (*lowest).min(view);
                book.highest_commit.get(&term).filter(|commit| view <= **commit).copied()
            }
        };
        if let Some(other) = contradicted {
            self.violation(format!(
                "node {node}: {kind:?} in epoch {epoch} view {view} contradicts its vote in {other}"
            ));
        }
        if !log.iter().rev().any(|r| matches!(r, Record::Vote(v) if v == vote)) {
            self.violation(format!("node {node} sent {kind:?} of epoch {epoch} view {view} before it was on disk"));
        }
        if kind != VoteKind::Skip && self.invalid.contains(&block) {
            self.violation(format!("node {node} signed {kind:?} for an invalid block in epoch {epoch} view {view}"));
        }
    }

    /// A block became final at a node.
    pub(crate) fn finalized(&mut self, node: usize, finalized: &Finalized, now: u64) {
        if !self.honest[node] {
            return;
        }
        let block = &finalized.block;
        let (height, hash) = (block.header.height, block.hash());
        let standing = &mut self.standings[node];
        if height != standing.height.next() {
            let at = standing.height;
            self.violation(format!("node {node} makes height {height} final after {at}"));
            return;
        }
        standing.height = height;
        standing.open.push(finalized.finality.clone());
        match self.chain.get_mut(height.0 as usize) {
            Some(known) if known.block.hash() == hash => known.everywhere = now,
            Some(known) => {
                let other = known.block.hash();
                self.violation(format!("two final blocks at height {height}: {other:?}, and {hash:?} at node {node}"));
            }
            None => self.extend(block, now),
        }
        let known = self.chain.get(height.0 as usize).filter(|known| known.block.hash() == hash);
        if let Some(producer) = known.map(|known| known.producer).filter(|due| *due != finalized.producer) {
            self.violation(format!("node {node}: block {height} is not of {producer}, who leads its view"));
        }
    }

    /// Whether a final block must be opened before it is executed.
    pub(crate) fn is_opened(&self, height: Height) -> bool {
        self.chain.get(height.0 as usize).is_some_and(|known| known.is_opened)
    }

    /// At the end of a step: every certificate by which a block became final is right, and of a block that became
    /// final with it or of a filler above.
    pub(crate) fn settled(&mut self, node: usize) {
        let open = std::mem::take(&mut self.standings[node].open);
        let Some(last) = open.last() else { return };
        let head = &self.chain[self.standings[node].height.0.min(self.height().0) as usize].block;
        let (hash, epoch) = (head.hash(), head.header.epoch);
        let mut reached = hash;
        for filler in &last.fillers {
            if filler.parent != reached || filler.kind != HeaderKind::Filler || filler.epoch != epoch {
                self.violation(format!("node {node}: filler headers do not chain"));
                return;
            }
            reached = filler.hash();
        }
        let target = last.certificate.target;
        if target.kind != VoteKind::Commit || target.block != reached {
            self.violation(format!("node {node} is final up to {hash:?} by a certificate of {target:?}"));
            return;
        }
        for finality in &open {
            if let Err(why) = self.proves(&finality.certificate) {
                self.violation(format!("node {node}: certificate of finality: {why}"));
                return;
            }
        }
    }

    fn proves(&mut self, certificate: &Certificate) -> Result<(), String> {
        if self.proved.contains(certificate) {
            return Ok(());
        }
        let committee = self.committees.get(&certificate.target.epoch).ok_or("of an epoch without committee")?;
        scheme::proves(self.scheme.as_ref(), &self.rules, committee, certificate)?;
        self.proved.insert(certificate.clone());
        Ok(())
    }

    /// A result that a node computed.
    pub(crate) fn executed(&mut self, node: usize, result: &ResultEntry) {
        let Some(known) = self.chain.get(result.height.0 as usize) else { return };
        if self.honest[node] && known.result != Some(*result) {
            self.violation(format!("P11: node {node} has another result of height {}", result.height));
        }
    }
}
