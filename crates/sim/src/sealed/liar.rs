//! What Byzantine nodes do about keys, ciphertexts and shares.
//!
//! A Byzantine node runs an ordinary party, so it knows what it should say. A liar has a few habits, drawn once, and
//! bends by them what the party says. It has nobody's secrets but its own.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
};

use cascade_consensus::Bugs;
use cascade_crypto::{
    VoteSigner,
    curve::{G1, G1Affine, Scalar},
    dkg::{Dealing, Parameters, RecipientKey},
    ecdsa,
    threshold::BlockShares,
};
use cascade_mempool::reveal::RevealMessage;
use cascade_primitives::{
    B256, Bytes, Decode as _, Encode as _, Envelope, Item, MemberIndex, Reveal, SealedBlock, SigningContext,
    SystemItem, ThresholdKeys,
};

use super::{Out, Party, users::payer};
use crate::{economy::Trading, rng::Rng};

/// Shares of others that it remembers.
const MEMORY: usize = 16;
/// Envelopes of its own that it tries to get into blocks.
const CONTRABAND: usize = 8;

habits! {
    pub(crate) enum Habit
    /// Keeps its shares to itself, and answers nobody.
    Withheld = "withheld-shares",
    /// Shares that are points, and wrong.
    Wrong = "wrong-shares",
    /// Right shares with a point outside of the subgroup added.
    Torsion = "torsion",
    /// Another member's shares for its own.
    Others = "others-shares",
    /// Shares of an earlier block for this one's.
    Stale = "stale-shares",
    /// Its shares again and again.
    Repeated = "repeated-shares",
    /// Its shares to some alone.
    Selective = "selective-shares",
    /// Values that open nothing.
    Values = "wrong-values",
    /// Asks for shares of blocks that are not final.
    Early = "early-requests",
    /// A dealing that leaves one recipient without its shares.
    Cheats = "cheating-dealing",
    /// Two dealings.
    Twice = "two-dealings",
    /// Another dealer's dealing under its own name.
    CopiesDealing = "copied-dealing",
    /// Does not announce an encryption key.
    Keyless = "no-encryption-key",
    /// Another recipient's encryption key under its own name.
    CopiesKey = "copied-encryption-key",
    /// A user's ciphertext in an envelope of its own.
    Steals = "stolen-ciphertext",
    /// Envelopes past their last height in its blocks.
    Expired = "expired-envelopes",
    /// Says that it is ready with keys that nobody made.
    NamesKeys = "wrong-keys-named",
    /// Envelopes that were ordered, again; of an application's attacker alone, since nothing else keeps a ledger here.
    Replays = "replayed-envelope",
}

#[derive(Debug)]
pub(crate) struct Liar {
    habits: Vec<Habit>,
    /// Whether it follows its habits whenever it can.
    always: bool,
    rng: Rng,
    /// Shares of others.
    heard: VecDeque<Arc<BlockShares>>,
    /// Its own shares of the block before.
    before: Option<Arc<BlockShares>>,
    /// Envelopes that no honest node takes up.
    contraband: VecDeque<Bytes>,
}

impl Liar {
    /// `silent`: it says nothing in consensus either. An application's attacker has the habits that it is said to have.
    pub(crate) fn new(seed: u64, node: usize, life: u32, silent: bool, trading: Option<Trading>) -> Self {
        let mut rng = Rng::new(seed, 3000 + node as u64);
        let mut habits: Vec<Habit> = Habit::ALL.iter().copied().filter(|_| rng.permille(250)).collect();
        habits.retain(|habit| *habit != Habit::Replays);
        if silent {
            habits = vec![Habit::Withheld];
        }
        if let Some(trading) = trading {
            let steals = [Habit::Steals, Habit::Replays].into_iter().filter(|_| trading.steals);
            habits = steals.chain(trading.withholds.then_some(Habit::Withheld)).collect();
        }
        let rng = Rng::new(seed, 100_000 + 1000 * u64::from(life) + node as u64);
        Self {
            habits,
            always: trading.is_some(),
            rng,
            heard: VecDeque::new(),
            before: None,
            contraband: VecDeque::new(),
        }
    }

    fn does(&mut self, habit: Habit, permille: u64) -> bool {
        self.habits.contains(&habit) && (self.always || self.rng.permille(permille))
    }

    /// The keys that it names in place of those that were made.
    pub(super) fn bend_commitment(&mut self, right: ThresholdKeys) -> (ThresholdKeys, Option<Habit>) {
        if !self.does(Habit::NamesKeys, 800) {
            return (right, None);
        }
        let wrong = right.0.map(|commitment| commitment ^ B256::repeat_byte(self.rng.below(255) as u8 + 1));
        (ThresholdKeys(wrong), Some(Habit::NamesKeys))
    }

    pub(super) fn hears(&mut self, shares: &Arc<BlockShares>) {
        self.heard.push_back(Arc::clone(shares));
        if self.heard.len() > MEMORY {
            self.heard.pop_front();
        }
    }

    /// What it says in place of its shares.
    fn bend_shares(&mut self, right: &Arc<BlockShares>) -> (Vec<Arc<BlockShares>>, Option<Habit>) {
        let before = self.before.replace(Arc::clone(right));
        let other = self.heard.iter().rev().find(|s| s.height == right.height).or(self.heard.back()).cloned();
        let chosen: Vec<Habit> = self.habits.clone();
        for habit in chosen {
            let bent = match habit {
                _ if !self.always && !self.rng.permille(700) => continue,
                Habit::Withheld => return (Vec::new(), Some(habit)),
                Habit::Repeated => return (vec![Arc::clone(right); 3], Some(habit)),
                Habit::Wrong => self.wrong(right),
                Habit::Torsion => with_torsion(right, self.rng.permille(500)),
                Habit::Others => {
                    let Some(other) = other.clone() else { continue };
                    let member = if self.rng.permille(500) { right.member } else { other.member };
                    BlockShares { member, ..other.as_ref().clone() }
                }
                Habit::Stale => {
                    let Some(before) = before.clone() else { continue };
                    let claimed = BlockShares { height: right.height, block: right.block, ..before.as_ref().clone() };
                    if self.rng.permille(500) {
                        claimed
                    } else {
                        BlockShares { height: right.height, ..before.as_ref().clone() }
                    }
                }
                _ => continue,
            };
            return (vec![Arc::new(bent)], Some(habit));
        }
        (vec![Arc::clone(right)], None)
    }

    fn wrong(&mut self, right: &BlockShares) -> BlockShares {
        let mut point = || G1::generator().times(&Scalar::from_u64(1 + self.rng.below(1 << 40))).to_affine();
        let mut points =
            |count: usize| -> Bytes { (0..count).flat_map(|_| point().to_uncompressed()).collect::<Vec<u8>>().into() };
        let (beacon, decryption) = (points(right.beacon.len() / 96), points(right.decryption.len() / 96));
        match self.rng.below(3) {
            0 => BlockShares { beacon, ..right.clone() },
            1 if !right.decryption.is_empty() => BlockShares { decryption, ..right.clone() },
            _ => BlockShares { beacon, decryption, ..right.clone() },
        }
    }

    fn bend_values(&mut self, right: &Reveal) -> Option<Reveal> {
        if !self.does(Habit::Values, 700) {
            return None;
        }
        let wrong = G1::generator().times(&Scalar::from_u64(2 + self.rng.below(1000))).to_affine().to_compressed();
        let mut bent = right.clone();
        match bent.values.first_mut() {
            Some(value) if self.rng.permille(700) => *value = wrong,
            _ => bent.beacon = wrong,
        }
        Some(bent)
    }

    /// Whether it deals only when it knows another dealer's dealing.
    pub(super) fn waits_for_dealings(&self) -> bool {
        self.habits.contains(&Habit::CopiesDealing)
    }

    /// The dealings that it gives out in place of the right one.
    pub(super) fn bend_dealing(
        &mut self,
        right: Dealing,
        another: impl FnOnce() -> Dealing,
        others: Option<Dealing>,
        (parameters, signer): (&Parameters, &dyn VoteSigner),
    ) -> (Vec<Dealing>, Option<Habit>) {
        if self.does(Habit::Cheats, 800) {
            let victim = MemberIndex(self.rng.below(parameters.recipients.members() as u64) as u16);
            if let Some(bent) = cheating(&right, victim, parameters, signer) {
                return (vec![bent], Some(Habit::Cheats));
            }
        }
        if self.does(Habit::Twice, 800) {
            return (vec![right, another()], Some(Habit::Twice));
        }
        if let Some(others) = others
            && self.does(Habit::CopiesDealing, 800)
        {
            let mut copied = others;
            copied.dealer = right.dealer;
            copied.signature = signer.sign(&copied.digest(parameters));
            return (vec![copied], Some(Habit::CopiesDealing));
        }
        (vec![right], None)
    }

    /// What it announces in place of its encryption key.
    pub(super) fn bend_key(
        &mut self,
        right: RecipientKey,
        others: Option<RecipientKey>,
        (context, signer): (&SigningContext, &dyn VoteSigner),
    ) -> (Option<RecipientKey>, Option<Habit>) {
        if self.does(Habit::Keyless, 800) {
            return (None, Some(Habit::Keyless));
        }
        if let Some(others) = others
            && self.does(Habit::CopiesKey, 800)
        {
            let mut copied = others;
            copied.node = right.node;
            copied.signature = signer.sign(&copied.digest(context));
            return (Some(copied), Some(Habit::CopiesKey));
        }
        (Some(right), None)
    }

    /// A user's envelope came by: perhaps it uses the ciphertext for itself. Answers what it made.
    pub(super) fn steal(&mut self, envelope: &Envelope, context: &SigningContext) -> Option<Bytes> {
        if !self.does(Habit::Steals, 500) {
            return None;
        }
        let thief = payer(100 + self.rng.below(3));
        let mut stolen = envelope.clone();
        if self.rng.permille(500) {
            stolen.nonce = self.rng.below(1000);
        }
        stolen.signature = ecdsa::sign_digest(&thief, &stolen.digest(context));
        let raw: Bytes = Item::Envelope(stolen).to_bytes().into();
        self.contraband.push_back(raw.clone());
        if self.contraband.len() > CONTRABAND {
            self.contraband.pop_front();
        }
        Some(raw)
    }

    /// A block was ordered: perhaps it sends something of it again. Answers what.
    pub(super) fn replay(&mut self, block: &SealedBlock) -> Option<Bytes> {
        let raw = block.body.transactions.first().filter(|_| self.habits.contains(&Habit::Replays))?;
        if self.rng.permille(500) {
            // Before the many that it has stolen.
            self.contraband.push_front(raw.clone());
            self.contraband.truncate(CONTRABAND);
        }
        Some(raw.clone())
    }

    /// Envelopes for its own block that no honest leader takes.
    pub(super) fn contraband(&mut self) -> Option<Bytes> {
        if self.rng.permille(400) { self.contraband.pop_front() } else { None }
    }

    /// Whether its block carries what has expired.
    pub(super) fn takes_expired(&mut self) -> bool {
        self.does(Habit::Expired, 600)
    }
}

/// A point of the curve outside of the subgroup whose multiple by the subgroup's order is another one: (r-1) P + P.
static TORSION: LazyLock<G1Affine> = LazyLock::new(|| {
    let mut bytes = [0; 48];
    bytes[0] = 0x80;
    let points = (1..=u8::MAX).filter_map(|x| {
        bytes[47] = x;
        G1Affine::on_curve_compressed(&bytes)
    });
    let mut torsion = points.map(|point| G1::from(point).times(&-Scalar::from_u64(1)).plus(&point).to_affine());
    torsion.find(|point| !point.is_infinity()).expect("half of all x are on the curve, few of those in the subgroup")
});

/// The right shares with a point outside of the subgroup added to the first, which no pairing sees.
fn with_torsion(right: &BlockShares, of_beacon: bool) -> BlockShares {
    let torsion = *TORSION;
    let moved = |shares: &Bytes| -> Bytes {
        let Some((first, rest)) = shares.split_first_chunk::<96>() else { return shares.clone() };
        let share = G1Affine::on_curve_uncompressed(first).expect("a party makes points");
        [G1::from(share).plus(&torsion).to_affine().to_uncompressed().as_slice(), rest].concat().into()
    };
    if of_beacon || right.decryption.is_empty() {
        BlockShares { beacon: moved(&right.beacon), ..right.clone() }
    } else {
        BlockShares { decryption: moved(&right.decryption), ..right.clone() }
    }
}

/// The dealing with other bytes in place of one recipient's padded shares, in every instance that stays sealed; signed.
///
/// ```text
///   ... | 30 x ( ephemeral key 48 | salt 32 | count 4 | for each seat two padded shares of 32 bytes ) | signature 96
/// ```
fn cheating(right: &Dealing, victim: MemberIndex, parameters: &Parameters, signer: &dyn VoteSigner) -> Option<Dealing> {
    let mut bytes = right.to_bytes();
    let instance = 48 + 32 + 4 + 64 * parameters.recipients.total() as usize;
    let first = bytes.len().checked_sub(96 + 30 * instance)?;
    for sealed in bytes[first..].chunks_exact_mut(instance).take(30) {
        for seat in parameters.recipients.seats(victim) {
            let at = 84 + 64 * seat as usize;
            sealed[at..at + 64].fill(0);
            (sealed[at + 15], sealed[at + 47]) = (1, 2);
        }
    }
    let mut bent = Dealing::from_slice(&bytes).ok()?;
    bent.signature = signer.sign(&bent.digest(parameters));
    Some(bent)
}

impl<B: Bugs> Party<B> {
    /// Says something to one peer or to all, bent if this node lies.
    pub(super) fn tell(&mut self, to: Option<cascade_primitives::NodeId>, message: RevealMessage) {
        let Some(mut liar) = self.liar.take() else {
            self.emit(Out::Tell(to, message));
            return;
        };
        match message {
            RevealMessage::Shares(right, certificate) => {
                self.emit(Out::Holds(Arc::clone(&right)));
                let (said, habit) = liar.bend_shares(&right);
                self.lied(habit);
                let some = liar.does(Habit::Selective, 700);
                for shares in said {
                    let message = RevealMessage::Shares(shares, Arc::clone(&certificate));
                    if some && to.is_none() {
                        self.lied(Some(Habit::Selective));
                        let members = self.book.dealers().members().iter().map(|member| member.node);
                        let some: Vec<_> = members.filter(|_| liar.rng.permille(400)).collect();
                        some.into_iter().for_each(|node| self.emit(Out::Tell(Some(node), message.clone())));
                    } else {
                        self.emit(Out::Tell(to, message));
                    }
                }
            }
            RevealMessage::Reveal(right) => match liar.bend_values(&right) {
                _ if liar.does(Habit::Withheld, 900) => self.lied(Some(Habit::Withheld)),
                Some(bent) => {
                    self.lied(Some(Habit::Values));
                    self.emit(Out::Tell(to, RevealMessage::Reveal(Arc::new(bent))));
                }
                None => self.emit(Out::Tell(to, RevealMessage::Reveal(right))),
            },
            RevealMessage::Request(height) => self.emit(Out::Tell(to, RevealMessage::Request(height))),
        }
        self.liar = Some(liar);
    }

    /// Asks for shares of what is not final yet.
    pub(super) fn ask_early(&mut self) {
        let ahead = self.head.1.next();
        if self.liar.as_mut().is_some_and(|liar| liar.does(Habit::Early, 300)) {
            self.lied(Some(Habit::Early));
            self.emit(Out::Tell(None, RevealMessage::Request(ahead)));
            self.emit(Out::Tell(None, RevealMessage::Request(ahead.next())));
        }
    }

    pub(super) fn lied(&mut self, habit: Option<Habit>) {
        if let Some(habit) = habit {
            self.emit(Out::Lied(habit.name()));
        }
    }

    /// Another dealer's dealing that waits for a block.
    pub(super) fn others_dealing(&self, me: MemberIndex) -> Option<Dealing> {
        let dealing = |item: &SystemItem| match item {
            SystemItem::Dealing(bytes) => Dealing::from_slice(bytes).ok(),
            _ => None,
        };
        self.offers.values().filter_map(dealing).find(|dealing| dealing.dealer != me)
    }

    /// Another recipient's encryption key that waits for a block.
    pub(super) fn others_key(&self) -> Option<RecipientKey> {
        let key = |item: &SystemItem| match item {
            SystemItem::RecipientKey(bytes) => RecipientKey::from_slice(bytes).ok(),
            _ => None,
        };
        self.offers.values().filter_map(key).find(|key| key.node != self.who.node)
    }
}
