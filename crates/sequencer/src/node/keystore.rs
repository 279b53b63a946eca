//! What the database and the log hold of an epoch's keys: making them from stored blocks, and storing them.
//!
//! ```text
//!   announce            Recipient record, synced ---> announcement goes out
//!   keys complete       Public and Shares in one batch, synced ---> ready
//!   start               Public with Shares (or nobody's): as it is
//!                       none, or Recipient without Shares: read again from the epoch's blocks
//! ```
//!
//! The stored chain runs ahead of the actor that reads it, so a node may stop with a chain that is in an epoch whose keys it
//! has not stored. The log still has them, and the Recipient record opens what was dealt to this node.

use std::{collections::HashMap, sync::Arc};

use cascade_consensus::{ChainContext, Rules};
use cascade_crypto::{
    BlsScheme, BlsSecretKey,
    dkg::{Dealing, DealingError, KeyGeneration, VerifiedDealing},
    threshold::store,
};
use cascade_mempool::{keybook::KeyBook, reveal::Holder};
use cascade_primitives::{B256, Committee, Encode as _, Epoch, Height, NodeId, domain, hash};
use cascade_storage::{ChainDb, KeyKind};

use super::{keyring::Keyring, stop::Cause};

/// Dealings whose check is remembered.
const REMEMBERED: usize = 1024;

/// Verdicts on dealings.
#[derive(Debug, Default)]
pub(super) struct Verdicts(HashMap<B256, Result<VerifiedDealing, DealingError>>);

impl Verdicts {
    /// [`KeyGeneration::verify`], once for each dealing.
    pub(super) fn verify(
        &mut self,
        generation: &KeyGeneration,
        item: &Dealing,
    ) -> Result<VerifiedDealing, DealingError> {
        // The recipients' keys are part of what a dealing is bound to, so the dealing's digest names the question.
        let key = hash::tagged(domain::DEALING, &[item.digest(generation.parameters()).as_slice(), &item.signature.0]);
        if let Some(verdict) = self.0.get(&key) {
            return verdict.clone();
        }
        let verdict = generation.verify(item, &BlsScheme::default(), &mut rand::rng());
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(key, verdict.clone());
        verdict
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Where keys are read from and stored.
#[derive(Clone)]
pub(super) struct KeyStore {
    /// The chain.
    pub(super) rules: Arc<Rules>,
    /// The database.
    pub(super) db: Arc<ChainDb>,
    /// This node's voting key; none on a node that only follows.
    pub(super) signer: Option<Arc<BlsSecretKey>>,
    /// This node.
    pub(super) node: NodeId,
}

impl KeyStore {
    /// Makes up for keys of epochs up to the newest block's that were complete in the log when this node stopped and not
    /// stored yet, or not with its shares. Answers those that are new.
    ///
    /// # Errors
    /// If the database fails, or the log makes other keys than the chain agreed on.
    pub(super) fn make_up(
        &self,
        context: &ChainContext,
        keyring: &Keyring,
        verdicts: &mut Verdicts,
    ) -> Result<Vec<Holder>, Cause> {
        let db = &self.db;
        let oldest = db.heads().executed.unwrap_or(Height::ZERO).next().min(context.height);
        let oldest = db.header(oldest)?.map_or(context.epoch, |(_, header)| header.epoch);
        let mut made = Vec::new();
        for epoch in (oldest.0.max(1)..=context.epoch.0).map(Epoch) {
            let recipients = if epoch == context.epoch {
                Some(Arc::clone(&context.committee))
            } else {
                db.committee(epoch)?.map(Arc::new)
            };
            let dealers = db.committee(epoch.minus(1))?.map(Arc::new);
            let (Some(dealers), Some(recipients)) = (dealers, recipients) else { continue };
            let stored = keyring.of_committee(&recipients);
            if stored.as_ref().is_some_and(|holder| holder.secret.is_some()) {
                continue;
            }
            if stored.is_some() && db.key(KeyKind::Recipient, epoch, &recipients.members_root())?.is_none() {
                continue;
            }
            let end = self.first_of_epoch(epoch, context.height)?;
            let book = self.read_epoch(dealers, recipients, end, verdicts)?;
            let found = self.store(&book)?;
            made.extend(found.filter(|holder| stored.is_none() || holder.secret.is_some()));
        }
        Ok(made)
    }

    /// The book of an epoch's blocks below `end`.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) fn read_epoch(
        &self,
        dealers: Arc<Committee>,
        recipients: Arc<Committee>,
        end: Height,
        verdicts: &mut Verdicts,
    ) -> Result<KeyBook, Cause> {
        let (db, rules) = (&self.db, &self.rules);
        let epoch = dealers.epoch();
        let first = self.first_of_epoch(epoch, end)?;
        let scheme = Arc::new(BlsScheme::default());
        let pair = (&dealers, &recipients);
        let mut book =
            KeyBook::new(rules.signing, rules.params(), scheme, first, Arc::clone(pair.0), Arc::clone(pair.1));
        for height in (first.0..end.0).map(Height) {
            if let Some(block) = db.block(height)?.filter(|block| block.header.epoch == epoch) {
                book.on_final(&block, pair, &mut |generation, dealing| verdicts.verify(generation, dealing));
            }
        }
        Ok(book)
    }

    /// Stores a book's complete keys and this node's shares of them, in one batch; none while they are not complete.
    ///
    /// # Errors
    /// If the database fails, or the chain has agreed on other keys.
    pub(super) fn store(&self, book: &KeyBook) -> Result<Option<Holder>, Cause> {
        let Some(keys) = book.generation().and_then(KeyGeneration::keys) else { return Ok(None) };
        let (db, epoch, root) = (&self.db, book.epoch(), book.recipients().members_root());
        let mut holder = Holder::new(Arc::new(keys.clone()), Arc::clone(book.recipients()), None);
        compare(&holder, book.recipients())?;
        let public = keys.to_bytes();
        let mut sealed = None;
        if let Some(signer) = &self.signer
            && let Some(record) = db.key(KeyKind::Recipient, epoch, &root)?
            && let Ok(recipient) = store::open_recipient(signer, epoch, &record)
            && let Some(shares) = book.shares(&self.node, &recipient)
        {
            sealed = Some(store::seal_shares(signer, &shares, &mut rand::rng()));
            holder.secret = Some(Arc::new(shares));
        }
        // All at once: a node that stops between two writes would know the keys and never look for its shares again.
        let mut records = vec![(KeyKind::Public, public.as_slice())];
        records.extend(sealed.as_ref().map(|sealed| (KeyKind::Shares, sealed.as_slice())));
        db.put_keys(epoch, &root, &records)?;
        Ok(Some(holder))
    }

    /// The height of the first block of an epoch, at or below `end`, by bisection: epochs only rise.
    fn first_of_epoch(&self, epoch: Epoch, end: Height) -> Result<Height, Cause> {
        let (mut low, mut high) = (0, end.0);
        while low < high {
            let middle = low + (high - low) / 2;
            let below = self.db.header(Height(middle))?.is_some_and(|(_, header)| header.epoch < epoch);
            if below {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Height(low))
    }
}

/// The keys that the chain agreed on are those that this node read from it, or more than f seats lie.
///
/// # Errors
/// [`Cause::Diverged`] if a committee's keys are agreed on, and are others than these.
pub(super) fn compare(holder: &Holder, agreed: &Committee) -> Result<(), Cause> {
    let named = agreed.threshold_keys();
    let same_attempt = holder.committee.members_root() == agreed.members_root();
    if !same_attempt || named.0.is_none() || holder.committee_root() == agreed.root() {
        return Ok(());
    }
    let (epoch, made) = (agreed.epoch(), holder.keys.commitment());
    Err(Cause::Diverged(format!(
        "a quorum names other keys of epoch {epoch} than those that key generation made: made are {made:?}, named are \
         {named:?}"
    )))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cascade_crypto::{
        VoteSigner as _,
        dkg::{RecipientSecret, dealing},
    };
    use cascade_primitives::{
        Address, Block, BlsSignature, Body, ChainParams, Genesis, Header, MemberIndex, Network, ScheduledCommittee,
        SealedBlock, SequencerSpec, SystemItem, ThresholdKeys, TimestampMs, TransactionRule, View,
    };
    use cascade_storage::{ChainDbOptions, EpochStart, FinalBlock};
    use rand::{SeedableRng as _, rngs::StdRng};
    use tempfile::TempDir;

    use super::*;
    use crate::node::{
        items::ItemBlocks,
        replay::opening_key,
        sealed::{SealedSources, Unjudged},
    };

    const NODE: NodeId = NodeId([1; 32]);

    /// One sequencer, and a chain in epoch 1: the log of epoch 0 made the keys.
    struct World {
        _dir: TempDir,
        store: KeyStore,
        context: ChainContext,
        /// The committee of epoch 1 with its keys.
        committee: Arc<Committee>,
        record: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let mut rng = StdRng::seed_from_u64(1);
            let dir = TempDir::new().unwrap();
            let signer = Arc::new(BlsSecretKey::derive(&[5; 32]).unwrap());
            let spec = SequencerSpec {
                node: NODE,
                bls_key: signer.public_key(),
                bls_proof: BlsSignature::ZERO,
                address: Address::ZERO,
                stake: 100,
                hat: 80,
            };
            let params = ChainParams { transactions: TransactionRule::Encrypted, ..ChainParams::of(Network::Regtest) };
            let committees = vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: vec![spec] }];
            let genesis = Genesis { params, timestamp: TimestampMs(1), committees, alloc: Default::default() };
            let rules = Arc::new(Rules::new(genesis));
            let db = Arc::new(ChainDb::open(dir.path().join("db"), ChainDbOptions::default()).unwrap());
            let store = KeyStore { rules: Arc::clone(&rules), db, signer: Some(Arc::clone(&signer)), node: NODE };
            let (mut context, first) = ChainContext::genesis(&rules, B256::ZERO).unwrap();
            let (dealers, next) = (Arc::clone(&context.committee), Arc::clone(&context.next_committee));
            let mut blocks = vec![Arc::new(first)];
            let secret = RecipientSecret::generate(Epoch(1), &mut rng);
            let key = secret.announce(&rules.signing, (next.members_root(), NODE), &*signer, &mut rng);
            append(&mut blocks, Epoch(0), (&dealers, &next), vec![SystemItem::RecipientKey(key.to_bytes().into())]);
            let scheme = Arc::new(BlsScheme::default());
            let mut book =
                KeyBook::new(rules.signing, rules.params(), scheme, Height(0), Arc::clone(&dealers), Arc::clone(&next));
            for block in &blocks {
                book.on_final(block, (&dealers, &next), &mut |_, _| unreachable!("nobody has dealt"));
            }
            let parameters = book.generation().expect("all have announced").parameters();
            let dealt = dealing::deal(parameters, MemberIndex(0), &*signer, &mut rng);
            append(&mut blocks, Epoch(0), (&dealers, &next), vec![SystemItem::Dealing(dealt.to_bytes().into())]);
            let mut verdicts = Verdicts::default();
            let last = blocks.last().unwrap();
            book.on_final(last, (&dealers, &next), &mut |generation, dealing| verdicts.verify(generation, dealing));
            let keys = book.generation().unwrap().keys().expect("its dealer has dealt").commitment();
            let committee = Arc::new(next.with_keys(keys));
            append(&mut blocks, Epoch(1), (&committee, &next), Vec::new());
            let blocks: Vec<_> = blocks.into_iter().map(stored).collect();
            store.db.append_final(&blocks).unwrap();
            for committee in [&dealers, &committee] {
                let start = EpochStart { committee: committee.as_ref().clone(), seed: B256::ZERO };
                store.db.put_epoch(&start).unwrap();
            }
            context.epoch = Epoch(1);
            context.height = Height(3);
            context.committee = Arc::clone(&committee);
            let members = committee.members().to_vec();
            let after = Committee::new(Epoch(2), members, ThresholdKeys::default()).expect("as today");
            context.next_committee = Arc::new(after);
            let record = store::seal_recipient(&signer, &secret, &mut rng);
            Self { _dir: dir, store, context, committee, record }
        }

        fn root(&self) -> B256 {
            self.committee.members_root()
        }

        fn put_recipient(&self) {
            self.store.db.put_key(KeyKind::Recipient, Epoch(1), &self.root(), &self.record).unwrap();
        }

        /// What a node knows of keys after a start, before and after it made up for what is not stored.
        fn start(&self) -> (Option<Holder>, Result<Vec<Holder>, Cause>) {
            let (db, owner) = (&self.store.db, self.store.signer.as_deref());
            let ring = Keyring::load(db, &self.context, Height(0), owner).unwrap();
            let loaded = ring.of_committee(&self.committee);
            (loaded, self.store.make_up(&self.context, &ring, &mut Verdicts::default()))
        }

        fn holder(&self) -> Holder {
            self.start().1.unwrap().pop().expect("the log has the keys")
        }
    }

    fn stored(block: Arc<SealedBlock>) -> FinalBlock {
        FinalBlock { block, finality: None, transactions: Vec::new() }
    }

    fn append(
        blocks: &mut Vec<Arc<SealedBlock>>,
        epoch: Epoch,
        (committee, next): (&Committee, &Committee),
        system: Vec<SystemItem>,
    ) {
        let below = blocks.last().unwrap();
        let body = Body { system, ..Body::default() };
        let header = Header {
            epoch,
            view: View(1),
            height: below.header.height.next(),
            parent: below.hash(),
            committee_root: committee.root(),
            next_committee_root: next.root(),
            body_root: body.root(),
            results: Vec::new(),
            ..below.header.clone()
        };
        blocks.push(Arc::new(SealedBlock::new(Block { header, body })));
    }

    #[test]
    fn shares_that_were_not_stored_with_their_keys_are_made_up_for() {
        let world = World::new();
        world.put_recipient();
        let made = world.holder();
        // As after a stop between the two writes of one that writes them one after the other.
        let other = World::new();
        other.put_recipient();
        other.store.db.put_key(KeyKind::Public, Epoch(1), &other.root(), &made.keys.to_bytes()).unwrap();
        let (loaded, made) = other.start();
        assert!(loaded.expect("it knows the keys").secret.is_none(), "and has no shares");
        assert!(made.unwrap().pop().is_some_and(|holder| holder.secret.is_some()), "the log has them");
        let (loaded, made) = other.start();
        assert!(loaded.unwrap().secret.is_some() && made.unwrap().is_empty(), "they are stored now");
    }

    #[test]
    fn keys_and_shares_are_stored_together_and_who_was_dealt_nothing_is_not_asked_again() {
        let world = World::new();
        world.put_recipient();
        let (loaded, made) = world.start();
        assert!(loaded.is_none() && made.unwrap().iter().all(|holder| holder.secret.is_some()));
        for kind in [KeyKind::Public, KeyKind::Shares] {
            assert!(world.store.db.key(kind, Epoch(1), &world.root()).unwrap().is_some(), "{kind:?}");
        }
        let without = World::new();
        let (_, made) = without.start();
        assert!(made.unwrap().iter().all(|holder| holder.secret.is_none()), "no encryption key of its own");
        assert!(without.store.db.key(KeyKind::Shares, Epoch(1), &without.root()).unwrap().is_none());
        let (loaded, made) = without.start();
        assert!(loaded.is_some() && made.unwrap().is_empty());
    }

    #[test]
    fn stored_keys_are_compared_with_those_that_the_chain_agreed_on() {
        let world = World::new();
        let right = world.holder();
        // Those of another generation, whole and of this committee's epoch, lie where the right ones should.
        let mut rng = StdRng::seed_from_u64(7);
        let parameters = {
            let secret = RecipientSecret::generate(Epoch(1), &mut rng);
            let seats = cascade_crypto::threshold::SeatMap::of(&world.committee).unwrap();
            let pair = (seats.clone(), vec![world.committee.members()[0].bls_key]);
            cascade_crypto::dkg::Parameters::new(
                world.store.rules.signing,
                Epoch(1),
                pair,
                (seats, vec![secret.public_key()]),
            )
            .unwrap()
        };
        let signer = world.store.signer.clone().unwrap();
        let dealt = dealing::deal(&parameters, MemberIndex(0), &*signer, &mut rng);
        let mut generation = KeyGeneration::new(parameters);
        let _ = generation.apply(&dealt, &BlsScheme::default(), &mut rng);
        let wrong = generation.keys().expect("its dealer has dealt").clone();
        assert_ne!(wrong.commitment(), right.keys.commitment());
        world.store.db.put_key(KeyKind::Public, Epoch(1), &world.root(), &wrong.to_bytes()).unwrap();
        let (loaded, made) = world.start();
        assert!(loaded.is_none(), "they are not taken");
        assert_eq!(made.unwrap().pop().map(|holder| holder.committee_root()), Some(world.committee.root()));
        // And if the log itself makes others than a quorum names, the node stops.
        let named = ThresholdKeys(Some(wrong.commitment().0.unwrap()));
        let mut lied = World::new();
        lied.committee = Arc::new(lied.committee.with_keys(named));
        lied.context.committee = Arc::clone(&lied.committee);
        assert!(matches!(lied.start().1, Err(Cause::Diverged(_))));
        assert!(matches!(compare(&right, &lied.committee), Err(Cause::Diverged(_))));
        assert!(compare(&right, &world.committee).is_ok());
    }

    #[test]
    fn keys_of_another_committee_are_unknown() {
        let world = World::new();
        let (holder, ring) = (world.holder(), Keyring::default());
        let again = world.committee.as_ref().clone().with_attempt(1);
        let header = |committee: &Committee| {
            let (_, mut header) = world.store.db.header(Height(3)).unwrap().unwrap();
            header.committee_root = committee.root();
            header
        };
        ring.insert(holder.clone());
        assert!(ring.of_block(&header(&world.committee)).is_some() && ring.of_committee(&world.committee).is_some());
        assert!(ring.of_block(&header(&again)).is_none() && ring.of_committee(&again).is_none());
        // Users' envelopes are taken for keys that nothing replaces any more.
        assert!(ring.agreed(Epoch(1)).is_none());
        ring.set_agreed(&again);
        assert!(ring.agreed(Epoch(1)).is_none(), "agreed on, and not those that are known here");
        ring.set_agreed(&world.committee);
        assert!(ring.agreed(Epoch(1)).is_some() && ring.agreed(Epoch(2)).is_none());

        let sources = SealedSources {
            context: world.store.rules.signing,
            keyring: ring,
            blocks: ItemBlocks::default(),
            db: Arc::clone(&world.store.db),
        };
        let body = Body { transactions: vec![Bytes::from_static(b"none")], ..Body::default() };
        let judged = |committee: &Committee| {
            let header = Header { body_root: body.root(), ..header(committee) };
            let block = SealedBlock::new(Block { header, body: body.clone() });
            sources.content_of(&block, world.store.rules.params(), |_| None).err()
        };
        assert!(matches!(judged(&world.committee), Some(Unjudged::Invalid(_))), "it is none under the right keys");
        assert!(matches!(judged(&again), Some(Unjudged::Unknown)), "and under others nothing can be said");

        let known = [(Epoch(1), holder)].into();
        assert!(opening_key(&known, &header(&world.committee)).is_ok());
        assert!(opening_key(&known, &header(&again)).is_err(), "a chain that is made again from its blocks stops");
    }
}
