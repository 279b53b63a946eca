//! The keys actor: makes the next epoch's keys with the others, through the final log.
//!
//! A thin shell around [`KeyBook`]. It reads each final block after it is stored, announces this node's encryption key,
//! deals when it is time, checks the dealings of others when they come by gossip (so that the log's costs nothing), and
//! derives this node's shares when the keys are complete. Secrets are on disk before anything that depends on them is
//! announced. Checking and dealing take a second and more in a large committee, on this actor's own thread.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler};
use cascade_consensus::{ChainContext, Finalized, Input, Rules};
use cascade_crypto::{
    BlsScheme, BlsSecretKey,
    dkg::{Dealing, DealingError, KeyGeneration, RecipientSecret, VerifiedDealing, dealing},
    threshold::store,
};
use cascade_mempool::{
    gossip::{encode_gossip, encode_system_item},
    keybook::{KeyBook, KeyEvent, Offer},
    reveal::Holder,
};
use cascade_network::{Channel, Misbehaviour, Network};
use cascade_primitives::{
    B256, Committee, Encode as _, Epoch, Height, NodeId, SealedBlock, SystemItem, ThresholdKeys, domain, hash,
};
use cascade_storage::{ChainDb, KeyKind};

use super::{
    consensus::ConsensusActor,
    content::ContentActor,
    keyring::Keyring,
    mail::Addr,
    messages::{EraseBefore, Final, KeyItem, KeysReady, NewKeys, Offers},
    reveal::RevealActor,
    stop::{Cause, Stop},
};

/// How often items that the log does not have yet are given out again.
const REPEAT: Duration = Duration::from_secs(1);
/// Rounds of that after which dealings, which are large, are given out again.
const DEALING_ROUNDS: u64 = 5;
/// Dealings whose check is remembered.
const REMEMBERED: usize = 1024;

/// What the actor is made with.
pub struct KeysConfig {
    /// The chain.
    pub rules: Arc<Rules>,
    /// The database.
    pub db: Arc<ChainDb>,
    /// This node's voting key; none on a node that only follows.
    pub signer: Option<Arc<BlsSecretKey>>,
    /// This node.
    pub node: NodeId,
    /// Keys, for all to see.
    pub keyring: Keyring,
    /// The network.
    pub network: Network,
    /// Where items wait for a block.
    pub content: Addr<ContentActor>,
    /// Who needs the keys.
    pub reveal: Addr<RevealActor>,
    /// Stops the node.
    pub stop: Stop,
}

/// The keys actor.
pub struct KeysActor {
    config: KeysConfig,
    book: KeyBook,
    /// The chain when the node started.
    context: ChainContext,
    consensus: Option<Addr<ConsensusActor>>,
    verdicts: HashMap<B256, Result<VerifiedDealing, DealingError>>,
    offers: BTreeMap<B256, SystemItem>,
    /// The committee root for which this node has dealt.
    dealt_for: Option<B256>,
    recipient: Option<RecipientSecret>,
    /// The newest epoch and committee whose keys are complete.
    ready: Option<Complete>,
    /// The epoch before which this node's secrets are erased.
    erased: Epoch,
    /// Rounds of giving out own items.
    rounds: u64,
    own: Vec<SystemItem>,
}

/// Keys that are complete.
#[derive(Clone, Copy)]
struct Complete {
    epoch: Epoch,
    members_root: B256,
    keys: ThresholdKeys,
    /// Whether this node has its shares of them.
    can_serve: bool,
}

/// To keys: where consensus is.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

fn verify(
    verdicts: &mut HashMap<B256, Result<VerifiedDealing, DealingError>>,
    generation: &KeyGeneration,
    item: &Dealing,
) -> Result<VerifiedDealing, DealingError> {
    // The committee's root is part of what a dealing is bound to, so the dealing's digest names the question.
    let key = hash::tagged(domain::DEALING, &[item.digest(generation.parameters()).as_slice(), &item.signature.0]);
    if let Some(verdict) = verdicts.get(&key) {
        return verdict.clone();
    }
    let verdict = generation.verify(item, &BlsScheme::default(), &mut rand::rng());
    if verdicts.len() >= REMEMBERED {
        verdicts.clear();
    }
    verdicts.insert(key, verdict.clone());
    verdict
}

impl KeysActor {
    /// An actor that reads the stored blocks of the epoch when it starts.
    #[must_use]
    pub fn new(config: KeysConfig, context: ChainContext) -> Self {
        let rules = Arc::clone(&config.rules);
        let book = KeyBook::new(
            rules.signing,
            rules.params(),
            Arc::new(BlsScheme::default()),
            context.height,
            Arc::clone(&context.committee),
            Arc::clone(&context.next_committee),
        );
        Self {
            config,
            book,
            context,
            consensus: None,
            verdicts: HashMap::new(),
            offers: BTreeMap::new(),
            dealt_for: None,
            recipient: None,
            ready: None,
            erased: Epoch(0),
            rounds: 0,
            own: Vec::new(),
        }
    }

    /// Reads the stored blocks of the epoch, and makes up for keys of earlier epochs that were complete in the log when
    /// this node stopped and not stored yet.
    fn read_stored(&mut self) -> Result<(), Cause> {
        let (db, context) = (Arc::clone(&self.config.db), self.context.clone());
        let oldest = db.heads().executed.unwrap_or(Height::ZERO).next().min(context.height);
        let oldest = db.header(oldest)?.map_or(context.epoch, |(_, header)| header.epoch);
        for epoch in (oldest.0.max(1)..=context.epoch.0).map(Epoch) {
            if self.config.keyring.get(epoch).is_some() {
                continue;
            }
            let recipients = if epoch == context.epoch {
                Some(Arc::clone(&context.committee))
            } else {
                db.committee(epoch)?.map(Arc::new)
            };
            let dealers = db.committee(epoch.minus(1))?.map(Arc::new);
            if let (Some(dealers), Some(recipients)) = (dealers, recipients) {
                let end = first_of_epoch(&db, epoch, context.height)?;
                let book = self.read_epoch(dealers, recipients, end)?;
                if let Some(holder) = self.store_keys(&book)? {
                    tracing::info!(%epoch, "keys that were not stored yet are made up for");
                    self.config.keyring.insert(holder.clone());
                    self.config.reveal.do_send(NewKeys(holder));
                }
            }
        }
        let (dealers, next) = (Arc::clone(&context.committee), Arc::clone(&context.next_committee));
        self.book = self.read_epoch(dealers, next, context.height.next())?;
        Ok(())
    }

    /// The book of an epoch's blocks below `end`.
    fn read_epoch(
        &mut self,
        dealers: Arc<Committee>,
        recipients: Arc<Committee>,
        end: Height,
    ) -> Result<KeyBook, Cause> {
        let (db, rules) = (Arc::clone(&self.config.db), Arc::clone(&self.config.rules));
        let epoch = dealers.epoch();
        let first = first_of_epoch(&db, epoch, end)?;
        let scheme = Arc::new(BlsScheme::default());
        let pair = (&dealers, &recipients);
        let mut book =
            KeyBook::new(rules.signing, rules.params(), scheme, first, Arc::clone(pair.0), Arc::clone(pair.1));
        for height in (first.0..end.0).map(Height) {
            if let Some(block) = db.block(height)?.filter(|block| block.header.epoch == epoch) {
                let verdicts = &mut self.verdicts;
                book.on_final(&block, pair, &mut |generation, dealing| verify(verdicts, generation, dealing));
            }
        }
        Ok(book)
    }

    /// Stores a book's complete keys, and this node's shares of them.
    fn store_keys(&self, book: &KeyBook) -> Result<Option<Holder>, Cause> {
        let Some(keys) = book.generation().and_then(KeyGeneration::keys) else { return Ok(None) };
        let (db, epoch, root) = (&self.config.db, book.epoch(), book.recipients().members_root());
        db.put_key(KeyKind::Public, epoch, &root, &keys.to_bytes())?;
        let mut secret = None;
        if let Some(signer) = &self.config.signer
            && let Some(record) = db.key(KeyKind::Recipient, epoch, &root)?
            && let Ok(recipient) = store::open_recipient(signer, epoch, &record)
            && let Some(shares) = book.shares(&self.config.node, &recipient)
        {
            db.put_key(KeyKind::Shares, epoch, &root, &store::seal_shares(signer, &shares, &mut rand::rng()))?;
            secret = Some(Arc::new(shares));
        }
        Ok(Some(Holder { keys: Arc::new(keys.clone()), committee: Arc::clone(book.recipients()), secret }))
    }

    fn read(&mut self, block: &SealedBlock, context: &ChainContext) -> Vec<KeyEvent> {
        let verdicts = &mut self.verdicts;
        self.book.on_final(block, (&context.committee, &context.next_committee), &mut |generation, dealing| {
            verify(verdicts, generation, dealing)
        })
    }

    fn on_final(&mut self, finalized: &Finalized) -> Result<(), Cause> {
        let context = &finalized.context;
        let before = (self.book.epoch(), self.book.recipients().members_root());
        self.read(&finalized.block, context);
        if self.book.epoch() != before.0 {
            tracing::info!(epoch = %context.epoch, "epoch begins");
            self.compare(context)?;
            self.start_over();
        } else if self.book.recipients().members_root() != before.1 {
            tracing::warn!(epoch = %before.0, "the next committee is made anew, and so are its keys");
            self.start_over();
            self.ready = None;
            self.config.keyring.remove(before.0);
            self.config.content.do_send(Offers { items: Vec::new(), forget: Some(before.0) });
        }
        let kept = self.config.rules.params().old_keys_kept;
        if self.erased < context.epoch && finalized.block.header.height >= self.book.first().plus(kept) {
            self.erased = context.epoch;
            self.config.keyring.erase_secrets_before(context.epoch);
            self.config.reveal.do_send(EraseBefore(context.epoch));
            self.config.db.erase_secrets_before(context.epoch)?;
        }
        self.pursue()
    }

    /// The keys that the chain agreed on are those that this node read from it, or more than f seats lie.
    fn compare(&self, context: &ChainContext) -> Result<(), Cause> {
        let named = context.committee.threshold_keys();
        match self.ready.filter(|ready| ready.epoch == context.epoch) {
            Some(Complete { keys, .. }) if keys != *named => Err(Cause::Diverged(format!(
                "a quorum names other keys of epoch {} than those that key generation made: made are {keys:?}, named are \
                 {named:?}",
                context.epoch
            ))),
            _ => Ok(()),
        }
    }

    fn start_over(&mut self) {
        self.verdicts.clear();
        self.offers.clear();
        self.own.clear();
        self.dealt_for = None;
        self.recipient = None;
    }

    /// Does what is next for this node.
    fn pursue(&mut self) -> Result<(), Cause> {
        self.announce()?;
        self.deal();
        self.complete()?;
        self.config.keyring.set_progress(self.book.epoch(), self.book.progress());
        let wanted: BTreeMap<_, _> =
            self.offers.iter().filter(|(_, item)| self.book.wants(item)).map(|(k, v)| (*k, v.clone())).collect();
        self.own.retain(|item| self.book.wants(item));
        if wanted.len() != self.offers.len() {
            self.offers = wanted;
            self.offer();
        }
        Ok(())
    }

    fn announce(&mut self) -> Result<(), Cause> {
        let (node, epoch, root) = (self.config.node, self.book.epoch(), self.book.recipients().members_root());
        let Some(signer) = self.config.signer.clone() else { return Ok(()) };
        let recipients = Arc::clone(self.book.recipients());
        let Some(me) = recipients.index_of(&node) else { return Ok(()) };
        if self.recipient.is_none() {
            self.recipient = match self.config.db.key(KeyKind::Recipient, epoch, &root)? {
                Some(record) => store::open_recipient(&signer, epoch, &record).ok(),
                None => None,
            };
        }
        let open = !self.book.has_announced(&node);
        if !open || recipients.members()[me.index()].bls_key != cascade_crypto::VoteSigner::public_key(&*signer) {
            return Ok(());
        }
        if self.own.iter().any(|item| matches!(item, SystemItem::RecipientKey(_))) {
            return Ok(());
        }
        let mut rng = rand::rng();
        if self.recipient.is_none() {
            let secret = RecipientSecret::generate(epoch, &mut rng);
            // On disk before it is announced: what is dealt to a lost key is lost.
            let record = store::seal_recipient(&signer, &secret, &mut rng);
            self.config.db.put_key(KeyKind::Recipient, epoch, &root, &record)?;
            self.recipient = Some(secret);
        }
        let Some(secret) = &self.recipient else { return Ok(()) };
        let item = secret.announce(&self.config.rules.signing, node, &*signer, &mut rng);
        self.put_forward(SystemItem::RecipientKey(item.to_bytes().into()));
        Ok(())
    }

    fn deal(&mut self) {
        let Some(signer) = self.config.signer.clone() else { return };
        let Some(me) = self.book.may_deal(&self.config.node) else { return };
        let root = self.book.recipients().members_root();
        if self.dealt_for == Some(root) {
            return;
        }
        let Some(generation) = self.book.generation() else { return };
        self.dealt_for = Some(root);
        let dealing = dealing::deal(generation.parameters(), me, &*signer, &mut rand::rng());
        tracing::debug!(epoch = %self.book.epoch(), "dealt");
        self.put_forward(SystemItem::Dealing(dealing.to_bytes().into()));
    }

    /// Once the keys are complete: stores them and this node's shares, and says that it is ready.
    fn complete(&mut self) -> Result<(), Cause> {
        let (epoch, root) = (self.book.epoch(), self.book.recipients().members_root());
        if self.ready.is_some_and(|ready| (ready.epoch, ready.members_root) == (epoch, root)) {
            return Ok(());
        }
        let Some(holder) = self.store_keys(&self.book)? else { return Ok(()) };
        let can_serve = holder.secret.is_some();
        self.ready = Some(Complete { epoch, members_root: root, keys: holder.keys.commitment(), can_serve });
        let member = self.book.recipients().index_of(&self.config.node).is_some();
        if member && !can_serve && self.config.signer.is_some() {
            tracing::warn!(%epoch, "this node has no share of the epoch's keys: its encryption key was not announced in \
                time, or was lost with its data; it votes, and helps to open envelopes again in the epoch after");
        }
        tracing::info!(%epoch, shares = can_serve, "the keys of the next epoch are complete");
        self.config.keyring.insert(holder.clone());
        self.config.reveal.do_send(NewKeys(holder));
        self.tell_ready();
        Ok(())
    }

    fn tell_ready(&self) {
        if let (Some(ready), Some(consensus)) = (self.ready.filter(|ready| ready.can_serve), &self.consensus) {
            let Complete { epoch, members_root, keys, .. } = ready;
            consensus.do_send(KeysReady { epoch, members_root, keys });
        }
    }

    /// An item of this node: to the leader of whatever view, which is anybody.
    fn put_forward(&mut self, item: SystemItem) {
        self.own.push(item.clone());
        self.spread(std::slice::from_ref(&item));
        self.take(item);
    }

    fn spread(&self, items: &[SystemItem]) {
        for item in items {
            let _ = self.config.network.broadcast(Channel::Mempool, &encode_gossip(&[encode_system_item(item)]));
        }
    }

    fn take(&mut self, item: SystemItem) {
        let key = hash::of(domain::SYSTEM_ITEM, &item);
        if self.offers.insert(key, item).is_none() {
            self.offer();
        }
    }

    fn offer(&self) {
        let items = self.offers.values().cloned().collect();
        self.config.content.do_send(Offers { items, forget: None });
    }

    fn on_item(&mut self, from: NodeId, item: SystemItem) {
        let (book, verdicts) = (&self.book, &mut self.verdicts);
        let mut check = |generation: &KeyGeneration, dealing: &Dealing| verify(verdicts, generation, dealing);
        match book.on_offer(&from, &item, self.offers.values(), &mut check) {
            Offer::Waits => self.take(item),
            Offer::Useless => {}
            Offer::Dishonest(what) => {
                tracing::debug!(peer = %from, what, "refused");
                self.config.network.report(from, Misbehaviour::InvalidContent);
            }
        }
    }
}

/// The height of the first block of an epoch, at or below `end`, by bisection: epochs only rise.
fn first_of_epoch(db: &ChainDb, epoch: Epoch, end: Height) -> Result<Height, Cause> {
    let (mut low, mut high) = (0, end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let below = db.header(Height(middle))?.is_some_and(|(_, header)| header.epoch < epoch);
        if below {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Height(low))
}

impl Actor for KeysActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Err(cause) = self.read_stored() {
            self.config.stop.fail(cause);
        }
        ctx.run_interval(REPEAT, |actor, _| {
            actor.rounds += 1;
            let all = actor.rounds.is_multiple_of(DEALING_ROUNDS);
            let due = actor.own.iter().filter(|item| all || !matches!(item, SystemItem::Dealing(_))).cloned();
            actor.spread(&due.collect::<Vec<_>>());
        });
    }
}

impl Handler<SetConsensus> for KeysActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
        self.tell_ready();
        if let Err(cause) = self.pursue() {
            self.config.stop.fail(cause);
        }
    }
}

impl Handler<Final> for KeysActor {
    type Result = ();

    fn handle(&mut self, Final(finalized): Final, _: &mut Self::Context) {
        if let Err(cause) = self.on_final(&finalized) {
            self.config.stop.fail(cause);
        }
    }
}

impl Handler<KeyItem> for KeysActor {
    type Result = ();

    fn handle(&mut self, KeyItem { from, item }: KeyItem, _: &mut Self::Context) {
        self.on_item(from, item);
    }
}

impl Handler<KeysReady> for ConsensusActor {
    type Result = ();

    fn handle(&mut self, KeysReady { epoch, members_root, keys }: KeysReady, ctx: &mut Self::Context) {
        self.step(Input::KeysReady { epoch, members_root, keys }, ctx);
    }
}
