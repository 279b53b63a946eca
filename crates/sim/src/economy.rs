//! An application in a run: it takes the place of the simulator's own users and of its mock of execution.
//!
//! ```text
//!            users           overheard: the attacker answers at once
//!              |                ^   |
//!              v                |   v
//!   on an encrypted chain: sealed to the epoch's key, under the payer that the offer names
//!              |                        |
//!              v                        v
//!   one honest node --> gossip --> pools --> select: what a leader's block holds, in which order --> consensus
//!                                                       (the attacker's nodes by its will)              |
//!   executed at the first node, once: execute <-- opened <-- final <------------------------------------+
//!                                        |
//!                                        +--> a root of the state, which headers carry; more of the attacker's offers
//! ```
//!
//! Clients give what is not final after [`AGAIN_MS`] to a node again; on an encrypted chain they seal it anew, under the
//! same payer and nonce, once its epoch or its last height is over, so that it cannot be ordered twice. The attacker runs
//! up to f seats, chosen by the seed: its nodes keep to the protocol of consensus, but for what its application chooses and
//! for what [`Trading`] says. It hears an offer when it is made, wherever, and its nodes have it then; what it sends itself
//! goes through one of its nodes and reaches others as gossip does.
//!
//! Nodes vote for no block that the application finds unlawful. It is one for all nodes. That they agree on what it is given is what the checker checks; its root says so
//! once more.

use std::fmt::Debug;

use cascade_crypto::{ecdsa::SecretKey, envelope::Terms};
use cascade_primitives::{B256, Bytes, ChainParams, Epoch, Height, RecoveredEnvelope, SigningContext};

/// Ms after which a client gives what is not final to a node again.
pub const AGAIN_MS: u64 = 2000;

/// How a run with an application is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trading {
    /// Mean ms between two times at which users are asked.
    pub every_ms: u64,
    /// Heights of an epoch. An encrypted chain's must be longer than its key window, which is 8 at the most.
    pub epoch_length: u64,
    /// Whether the attacker's nodes keep their shares to themselves.
    pub withholds: bool,
    /// Whether they put every ciphertext that they hear into an envelope of their own and send envelopes again that were
    /// ordered, now and then in their own blocks.
    pub steals: bool,
}

/// Something that a user or the attacker wants to run.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What shall run.
    pub payload: Bytes,
    /// On an encrypted chain who pays for the envelope, and its terms; epoch and last height are filled in when it is
    /// sealed.
    pub cover: Option<(SecretKey, Terms)>,
}

/// What everybody sees of an offer.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// Its payload.
    Clear(&'a Bytes),
    /// Its envelope.
    Sealed(&'a RecoveredEnvelope),
}

/// Chooses from what waits.
pub(crate) type Chooser<'c> = &'c mut dyn FnMut(&[Shown<'_>]) -> Vec<usize>;

/// What a leader chooses from.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// Whether the attacker leads.
    pub attacker: bool,
    /// The blocks below.
    pub place: Place<'a>,
    /// What waits at the leader's node and may stand in its block. In the clear in the order in which it was first offered.
    pub waiting: &'a [Shown<'a>],
}

/// What a block that is not final stands on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The newest height whose result its chain carries; it has been executed.
    pub state: Height,
    /// What the blocks above that carry, in order.
    pub above: &'a [Shown<'a>],
}

/// A final block.
#[derive(Clone, Debug)]
pub struct Ordered<'a> {
    /// Its height.
    pub height: Height,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether the attacker made it.
    pub attacker: bool,
    /// What it carries, in the order of the block.
    pub items: Vec<Shown<'a>>,
    /// Of each item what runs, if anything can be made of it; on an encrypted chain the salt of the sealed payload has been
    /// taken off.
    pub payloads: Vec<Option<Bytes>>,
    /// Its beacon; zero if nothing in it had to be opened.
    pub beacon: B256,
}

/// The application. What it answers may depend on nothing but what it was given.
pub trait Economy: Debug {
    /// The chain that it runs on. Called once, before anything else.
    fn begin(&mut self, params: &ChainParams, context: &SigningContext);

    /// What users send now, if anything.
    fn users(&mut self) -> Vec<Offer>;

    /// The attacker hears a user's offer, and one that is sealed anew again: what it sends at once.
    fn overheard(&mut self, shown: Shown<'_>) -> Vec<Offer>;

    /// The places, among what waits, of what a leader's block holds, in its order.
    fn select(&mut self, choice: &Choice<'_>) -> Vec<usize>;

    /// Whether a block may carry these items, in this order: every node asks before it votes.
    fn is_lawful(&self, place: Place<'_>, items: &[Shown<'_>]) -> bool;

    /// Executes a final block; called once for each, in order. Answers a root of the state after it and what the attacker
    /// sends, now that it knows that state.
    fn execute(&mut self, block: &Ordered<'_>) -> (B256, Vec<Offer>);
}
