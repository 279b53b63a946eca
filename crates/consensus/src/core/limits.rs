//! What peers may cost: answers that they ask for, and signatures that they make this node verify.

use super::*;

/// Bytes of blocks that one peer is sent within a window; the last block may exceed it.
const SERVED_BYTES: usize = 8 << 20;
/// Bytes that an answer counts for at least.
const LEAST_ANSWER: usize = 16 << 10;
/// Wrong signatures of one peer outside of the committee, within a window, after which nothing more of it is verified.
const WRONG_OF_ONE: u32 = 4;
/// Of all peers outside of the committee together.
const WRONG_OF_ALL: u32 = 64;

/// Blocks that peers were sent lately.
#[derive(Debug, Default)]
pub(super) struct Served {
    peers: BTreeMap<NodeId, Serving>,
}

#[derive(Debug)]
struct Serving {
    since: TimestampMs,
    bytes: usize,
    blocks: BTreeSet<BlockHash>,
}

impl Served {
    /// Whether a peer may be sent this block now, and takes note of it: each block once in a window, and no further one
    /// after so many bytes.
    pub(super) fn allows(
        &mut self,
        peer: NodeId,
        hash: BlockHash,
        bytes: usize,
        now: TimestampMs,
        window: u64,
    ) -> bool {
        self.peers.retain(|_, serving| serving.since.plus(window) > now);
        let fresh = || Serving { since: now, bytes: 0, blocks: BTreeSet::new() };
        let serving = self.peers.entry(peer).or_insert_with(fresh);
        if serving.bytes >= SERVED_BYTES || !serving.blocks.insert(hash) {
            return false;
        }
        serving.bytes += bytes.max(LEAST_ANSWER);
        true
    }
}

/// Wrong signatures from peers outside of the committee. What is right can only be made by a quorum or by whom it names,
/// and is remembered; so it is enough to count what is wrong. Members are blamed, and need no limit: they are few.
#[derive(Debug, Default)]
pub(super) struct Outsiders {
    since: TimestampMs,
    wrong: BTreeMap<NodeId, u32>,
    all: u32,
}

impl Outsiders {
    /// Whether something of this peer may be verified.
    pub(super) fn may_ask(&mut self, peer: &NodeId, now: TimestampMs, window: u64) -> bool {
        if self.since.plus(window) <= now {
            *self = Self { since: now, ..Self::default() };
        }
        self.all < WRONG_OF_ALL && self.wrong.get(peer).is_none_or(|wrong| *wrong < WRONG_OF_ONE)
    }

    /// It was wrong.
    pub(super) fn was_wrong(&mut self, peer: NodeId) {
        *self.wrong.entry(peer).or_default() += 1;
        self.all += 1;
    }
}

impl<B: Bugs> Core<B> {
    /// Whether the signatures in what a peer sent are right, as `verify` finds. Blames the peer if not, and does not even
    /// look if it is outside of the committee and was wrong too often.
    pub(super) fn proves(&mut self, from: NodeId, what: &'static str, verify: impl FnOnce(&mut Self) -> bool) -> bool {
        self.is_right(from, Some(what), verify)
    }

    /// The same for what an honest peer may get wrong too, if there is nothing to blame it for.
    pub(super) fn is_right(
        &mut self,
        from: NodeId,
        blame: Option<&'static str>,
        verify: impl FnOnce(&mut Self) -> bool,
    ) -> bool {
        let outsider = self.epoch.committee.index_of(&from).is_none();
        let window = self.config.rules.params().leader_timeout_ms;
        if outsider && !self.outsiders.may_ask(&from, self.now, window) {
            return false;
        }
        let right = verify(self);
        if !right {
            if outsider {
                self.outsiders.was_wrong(from);
            }
            if let Some(what) = blame {
                self.misbehaved(from, what);
            }
        }
        right
    }
}
