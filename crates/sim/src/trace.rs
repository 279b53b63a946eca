//! The trace of a run: one hash over everything that was delivered and done, in order; and the same in words.

use cascade_consensus::{Effect, Input, Message, SyncEffect};
use cascade_primitives::{B256, Vote, VoteTarget};
use sha2::{Digest, Sha256};

/// Collects what happens.
pub(crate) struct Trace<'a> {
    hasher: Sha256,
    words: Option<&'a mut dyn FnMut(String)>,
}

impl std::fmt::Debug for Trace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trace")
    }
}

fn target(t: &VoteTarget) -> String {
    format!("{:?} e{} v{} {:?}", t.kind, t.epoch, t.view, t.block)
}

fn vote(v: &Vote) -> String {
    format!("{} by {}", target(&v.target), v.signer)
}

pub(crate) fn message(m: &Message) -> String {
    match m {
        Message::Proposal(block, v) => {
            let h = &block.header;
            format!(
                "Proposal {:?} h{} e{} v{} on {:?} ({:?})",
                block.hash(),
                h.height,
                h.epoch,
                h.view,
                h.parent,
                v.signer
            )
        }
        Message::Vote(v, reason) => format!("Vote {} {reason:?}", vote(v)),
        Message::Certificate(c) => format!("Certificate {}", target(&c.target)),
        Message::EpochEnd(c, fillers) => format!("EpochEnd {} over {} fillers", target(&c.target), fillers.len()),
        Message::Ready(r) => format!("Ready for e{}", r.epoch),
        Message::GetBlock(hash) => format!("GetBlock {hash:?}"),
        Message::Block(block) => format!("Block {:?} h{} v{}", block.hash(), block.header.height, block.header.view),
        Message::Status(s) => format!("Status e{} v{} h{}", s.epoch, s.view, s.height),
    }
}

pub(crate) fn effect(e: &Effect) -> String {
    match e {
        Effect::Persist { records, .. } => format!("persist {} records", records.len()),
        Effect::Broadcast(m) => format!("broadcast {}", message(m)),
        Effect::Send(_, m) => format!("send {}", message(m)),
        Effect::Build(r) => format!("build h{} v{} on {:?}, state {}", r.height, r.view, r.parent.hash, r.state_height),
        Effect::Validate(b, _) => format!("validate {:?}", b.hash()),
        Effect::Finalized(f) => {
            let h = &f.block.header;
            format!(
                "FINAL h{} e{} v{} {:?} by {}",
                h.height,
                h.epoch,
                h.view,
                f.block.hash(),
                target(&f.finality.certificate.target)
            )
        }
        Effect::Evidence(e) => format!("EVIDENCE {} and {}", vote(&e.first), vote(&e.second)),
        Effect::Misbehaved(_, what) => format!("misbehaved: {what}"),
        Effect::PeerStatus(_, s) => format!("peer at h{}", s.height),
        Effect::Behind(_) => "behind".to_owned(),
        Effect::EnteredView(e, v) => format!("enters e{e} v{v}"),
        Effect::Skipped(v, reason) => format!("skips v{v}: {reason:?}"),
        Effect::Fatal(text) => format!("FATAL {text}"),
    }
}

fn input(i: &Input) -> String {
    match i {
        Input::Message { message: m, .. } => message(m),
        Input::Connected(_) => "connected".to_owned(),
        Input::Tick => "tick".to_owned(),
        Input::Work(w) => format!("work {w}"),
        Input::Executed(r) => format!("executed h{}", r.height),
        Input::KeysReady { epoch, .. } => format!("keys of e{epoch} ready"),
        Input::Built { view, content, .. } => format!("built v{view} {} txs", content.transactions.len()),
        Input::Validated { hash, verdict, .. } => format!("validated {hash:?} {verdict:?}"),
        Input::FinalRange { blocks, .. } => format!("final range of {}", blocks.len()),
    }
}

/// The bytes by which a message enters the hash.
fn digest_message(h: &mut Sha256, m: &Message) {
    let mut t = |tag: u8, t: &VoteTarget, signer: u16| {
        h.update([tag, t.kind as u8]);
        h.update(t.epoch.0.to_le_bytes());
        h.update(t.view.0.to_le_bytes());
        h.update(t.block.0);
        h.update(signer.to_le_bytes());
    };
    match m {
        Message::Proposal(_, v) => t(1, &v.target, v.signer.0),
        Message::Vote(v, _) => t(2, &v.target, v.signer.0),
        Message::Certificate(c) => t(3, &c.target, c.signers.len() as u16),
        Message::EpochEnd(c, f) => t(4, &c.target, f.len() as u16),
        Message::Ready(r) => {
            h.update([5]);
            h.update(r.epoch.0.to_le_bytes());
        }
        Message::GetBlock(hash) => {
            h.update([6]);
            h.update(hash.0);
        }
        Message::Block(b) => {
            h.update([7]);
            h.update(b.hash().0);
        }
        Message::Status(s) => {
            h.update([8]);
            h.update(s.view.0.to_le_bytes());
            h.update(s.hash.0);
        }
    }
}

impl<'a> Trace<'a> {
    pub(crate) fn new(words: Option<&'a mut dyn FnMut(String)>) -> Self {
        Self { hasher: Sha256::new(), words }
    }

    fn place(&mut self, tag: u8, now: u64, node: usize) {
        self.hasher.update([tag, node as u8]);
        self.hasher.update(now.to_le_bytes());
    }

    pub(crate) fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        if let Some(words) = &mut self.words {
            words(format!("{:>8} ms     {}", now, what()));
        }
    }

    pub(crate) fn input(&mut self, now: u64, node: usize, from: Option<usize>, i: &Input) {
        self.place(1, now, node);
        match i {
            Input::Message { message, .. } => digest_message(&mut self.hasher, message),
            Input::Connected(peer) => self.hasher.update(peer.0),
            Input::Tick => self.hasher.update([11]),
            Input::Work(work) => self.hasher.update([12, u8::from(*work)]),
            Input::Executed(result) => self.hasher.update(result.state_root),
            Input::KeysReady { epoch, members_root, keys } => {
                self.hasher.update(epoch.0.to_le_bytes());
                self.hasher.update(members_root);
                self.hasher.update(keys.0.unwrap_or_default());
            }
            Input::Built { parent, content, .. } => {
                self.hasher.update(parent.0);
                self.hasher.update((content.transactions.len() as u64).to_le_bytes());
            }
            Input::Validated { hash, .. } => self.hasher.update(hash.0),
            Input::FinalRange { blocks, .. } => blocks.iter().for_each(|b| self.hasher.update(b.hash().0)),
        }
        if let Some(words) = &mut self.words {
            let from = from.map_or(String::new(), |f| format!(" <- {f}"));
            words(format!("{now:>8} ms {node:>2}{from}  {}", input(i)));
        }
    }

    pub(crate) fn effect(&mut self, now: u64, node: usize, e: &Effect) {
        self.place(2, now, node);
        match e {
            Effect::Persist { records, .. } => self.hasher.update([21, records.len() as u8]),
            Effect::Broadcast(m) | Effect::Send(_, m) => digest_message(&mut self.hasher, m),
            Effect::Build(r) => self.hasher.update(r.parent.hash.0),
            Effect::Validate(b, _) => self.hasher.update(b.hash().0),
            Effect::Finalized(f) => self.hasher.update(f.block.hash().0),
            Effect::Evidence(e) => self.hasher.update(e.node.0),
            Effect::Misbehaved(peer, what) => {
                self.hasher.update(peer.0);
                self.hasher.update(what.as_bytes());
            }
            Effect::PeerStatus(peer, _) | Effect::Behind(peer) => self.hasher.update(peer.0),
            Effect::EnteredView(_, view) | Effect::Skipped(view, _) => self.hasher.update(view.0.to_le_bytes()),
            Effect::Fatal(text) => self.hasher.update(text.as_bytes()),
        }
        if let Some(words) = &mut self.words {
            words(format!("{now:>8} ms {node:>2}       -> {}", effect(e)));
        }
    }

    pub(crate) fn sync(&mut self, now: u64, node: usize, e: &SyncEffect) {
        self.place(3, now, node);
        let text = match e {
            SyncEffect::Request { request, .. } => format!("asks for {request:?}"),
            SyncEffect::Deliver { blocks, .. } => format!("caught up by {} blocks", blocks.len()),
            SyncEffect::Misbehaved(_, what) => format!("peer lied: {what}"),
        };
        self.hasher.update(text.as_bytes());
        if let Some(words) = &mut self.words {
            words(format!("{now:>8} ms {node:>2}       => {text}"));
        }
    }

    /// Something about keys or reveals happens at a node: its bytes, and the same in words.
    pub(crate) fn sealed(&mut self, now: u64, node: usize, bytes: &[u8], what: impl FnOnce() -> String) {
        self.place(4, now, node);
        self.hasher.update(bytes);
        if let Some(words) = &mut self.words {
            words(format!("{now:>8} ms {node:>2}       ~> {}", what()));
        }
    }

    /// Something about chunks happens at a node: what identifies it, and the same in words.
    pub(crate) fn carried(&mut self, now: u64, node: usize, bytes: &[u8], what: impl FnOnce() -> String) {
        self.place(5, now, node);
        self.hasher.update(bytes);
        if let Some(words) = &mut self.words {
            words(format!("{now:>8} ms {node:>2}       +> {}", what()));
        }
    }

    pub(crate) fn finish(&self) -> B256 {
        B256::from(<[u8; 32]>::from(self.hasher.clone().finalize()))
    }
}
