//! The keys actor: makes the next epoch's keys with the others, through the final log.
//!
//! A thin shell around [`KeyBook`]. It reads each final block after it is stored, announces this node's encryption key,
//! deals when it is time, checks the dealings of others when they come by gossip (so that the log's costs nothing), and
//! derives this node's shares when the keys are complete. Secrets are on disk before anything that depends on them is
//! announced. Checking and dealing take a second and more in a large committee, on this actor's own thread.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler};
use cascade_consensus::{ChainContext, Finalized, Input, Rules};
use cascade_crypto::{
    BlsScheme, BlsSecretKey,
    dkg::{Dealing, KeyGeneration, RecipientSecret, dealing},
    threshold::store,
};
use cascade_mempool::{
    gossip::{encode_gossip, encode_system_item},
    keybook::{KeyBook, KeyEvent, Offer},
};
use cascade_network::{Channel, Misbehaviour, Network};
use cascade_primitives::{B256, Encode as _, Epoch, NodeId, SealedBlock, SystemItem, ThresholdKeys, domain, hash};
use cascade_storage::{ChainDb, KeyKind};

use super::{
    consensus::ConsensusActor,
    content::ContentActor,
    keyring::Keyring,
    keystore::{KeyStore, Verdicts, compare},
    mail::Addr,
    messages::{EraseBefore, Final, KeyItem, KeysReady, NewKeys, Offers},
    reveal::RevealActor,
    stop::{Cause, Stop},
};

/// How often items that the log does not have yet are given out again.
const REPEAT: Duration = Duration::from_secs(1);
/// Rounds of that after which dealings, which are large, are given out again.
const DEALING_ROUNDS: u64 = 5;

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
    store: KeyStore,
    verdicts: Verdicts,
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
        let store = KeyStore { rules, db: Arc::clone(&config.db), signer: config.signer.clone(), node: config.node };
        Self {
            config,
            book,
            context,
            consensus: None,
            store,
            verdicts: Verdicts::default(),
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
        let context = self.context.clone();
        for holder in self.store.make_up(&context, &self.config.keyring, &mut self.verdicts)? {
            tracing::info!(epoch = %holder.keys.epoch, "keys that were not stored yet are made up for");
            self.config.keyring.insert(holder.clone());
            self.config.reveal.do_send(NewKeys(holder));
        }
        let (dealers, next) = (Arc::clone(&context.committee), Arc::clone(&context.next_committee));
        self.book = self.store.read_epoch(dealers, next, context.height.next(), &mut self.verdicts)?;
        Ok(())
    }

    fn read(&mut self, block: &SealedBlock, context: &ChainContext) -> Vec<KeyEvent> {
        let verdicts = &mut self.verdicts;
        self.book.on_final(block, (&context.committee, &context.next_committee), &mut |generation, dealing| {
            verdicts.verify(generation, dealing)
        })
    }

    fn on_final(&mut self, finalized: &Finalized) -> Result<(), Cause> {
        let context = &finalized.context;
        let before = (self.book.epoch(), self.book.recipients().members_root());
        self.read(&finalized.block, context);
        self.agree(context)?;
        if self.book.epoch() != before.0 {
            tracing::info!(epoch = %context.epoch, "epoch begins");
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

    /// What a final block says of keys that are agreed on.
    fn agree(&self, context: &ChainContext) -> Result<(), Cause> {
        for committee in [&context.committee, &context.next_committee] {
            if let Some(holder) = self.config.keyring.of_committee(committee) {
                compare(&holder, committee)?;
            }
            self.config.keyring.set_agreed(committee);
        }
        Ok(())
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
            self.offers.iter().filter(|(_, item)| self.book.is_open(item)).map(|(k, v)| (*k, v.clone())).collect();
        self.own.retain(|item| self.book.is_open(item));
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
        let item = secret.announce(&self.config.rules.signing, (root, node), &*signer, &mut rng);
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
        let Some(holder) = self.store.store(&self.book)? else { return Ok(()) };
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
        let mut check = |generation: &KeyGeneration, dealing: &Dealing| verdicts.verify(generation, dealing);
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
