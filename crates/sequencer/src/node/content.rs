//! The content actor: what goes into blocks, and whether what others put there is valid.
//!
//! A thin shell around the pool ([`super::pool`]), which the RPC reads beside it: tells consensus whether there is work,
//! gossips what is fresh, and puts the data commitment beside what the pool built or judged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, AsyncContext, Context, Handler, Supervised};
use cascade_consensus::Verdict;
use cascade_mempool::{Source, gossip::encode_gossip};
use cascade_network::{Channel, Network};
use cascade_primitives::{B256, DaCommitment};

use super::{
    clock::Clock,
    consensus::ConsensusActor,
    hub::Hub,
    judge,
    mail::Addr,
    messages::{Admit, Build, Built, Offers, Ordered, StateAdvanced, Validate, Validated, Work},
    metrics::Metrics,
    pool::SharedPool,
    squares::Squares,
};

/// How long fresh transactions are collected before they are gossiped.
const GOSSIP_DELAY: Duration = Duration::from_millis(2);
/// The same after a batch of at least so many: each message costs every peer a few wake-ups, whatever it holds.
const BUSY_GOSSIP_DELAY: Duration = Duration::from_millis(8);
const BUSY_GOSSIP: usize = 8;
/// How often the pool drops what is too old and looks whether it still has work.
const POOL_TICK: Duration = Duration::from_millis(250);

/// The content actor.
pub struct ContentActor {
    shared: SharedPool,
    network: Network,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    squares: Arc<Squares>,
    consensus: Option<Addr<ConsensusActor>>,
    work: bool,
    gossip_scheduled: bool,
    /// Transactions that were gossiped the last time.
    gossiped: usize,
}

/// To content: where consensus is. Sent once, before anything else.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct SetConsensus(pub Addr<ConsensusActor>);

impl Actor for ContentActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        ctx.run_interval(POOL_TICK, |actor, ctx| actor.tick(ctx));
    }
}

impl Supervised for ContentActor {}

impl ContentActor {
    /// An actor around a pool.
    #[must_use]
    pub const fn new(
        shared: SharedPool,
        network: Network,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        clock: Clock,
        squares: Arc<Squares>,
    ) -> Self {
        Self {
            shared,
            network,
            hub,
            metrics,
            clock,
            squares,
            consensus: None,
            work: false,
            gossip_scheduled: false,
            gossiped: 0,
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let (len, work) = self.shared.lock().tick(self.clock.now());
        self.metrics.mempool_transactions.set(i64::try_from(len).unwrap_or(i64::MAX));
        self.set_work(work);
        self.schedule_gossip(ctx);
    }

    fn set_work(&mut self, work: bool) {
        if work != self.work {
            self.work = work;
            if let Some(consensus) = &self.consensus {
                consensus.do_send(Work(work));
            }
        }
    }

    fn schedule_gossip(&mut self, ctx: &mut Context<Self>) {
        if !self.gossip_scheduled {
            self.gossip_scheduled = true;
            let delay = if self.gossiped < BUSY_GOSSIP { GOSSIP_DELAY } else { BUSY_GOSSIP_DELAY };
            ctx.run_later(delay, |actor, _| actor.gossip());
        }
    }

    /// Gives fresh transactions to all peers, in messages of bounded size.
    fn gossip(&mut self) {
        self.gossip_scheduled = false;
        self.gossiped = 0;
        loop {
            let batch = self.shared.lock().take_fresh();
            if batch.is_empty() {
                return;
            }
            self.gossiped += batch.len();
            // A peer that cannot take it misses it; the leader's block brings it all the same.
            let _ = self.network.broadcast(Channel::Mempool, &encode_gossip(&batch));
        }
    }
}

impl Handler<SetConsensus> for ContentActor {
    type Result = ();

    fn handle(&mut self, message: SetConsensus, _: &mut Self::Context) {
        self.consensus = Some(message.0);
    }
}

impl Handler<Build> for ContentActor {
    type Result = ();

    fn handle(&mut self, Build(request): Build, _: &mut Self::Context) {
        let started = Instant::now();
        let loads = judge::loads(&self.shared, &request.ancestors);
        let built = self.shared.lock().build(&request, loads.as_deref());
        self.metrics.build_seconds.observe(started.elapsed().as_secs_f64());
        let committed = built.and_then(|mut content| {
            content.da = self.squares.commit(&content.body(&request.frame, request.may_carry_content))?;
            Some(content)
        });
        if let (Some(content), Some(consensus)) = (committed, &self.consensus) {
            consensus.do_send(Built { view: request.view, parent: request.parent.hash, content });
        }
    }
}

impl Handler<Validate> for ContentActor {
    type Result = ();

    fn handle(&mut self, Validate(block, request): Validate, _: &mut Self::Context) {
        let started = Instant::now();
        let verdict = judge::judge(&self.shared, &block, &request);
        self.metrics.validate_seconds.observe(started.elapsed().as_secs_f64());
        let Some(mut verdict) = verdict else { return };
        let da = match &verdict {
            Verdict::Valid => self.squares.expected(&block.body, &block.header.da),
            Verdict::Invalid(_) => Some(DaCommitment::default()),
        };
        if da.is_none() {
            verdict = Verdict::Invalid("no square holds its body".to_owned());
        }
        if let Some(consensus) = &self.consensus {
            consensus.do_send(Validated { hash: block.hash(), verdict, da: da.unwrap_or_default() });
        }
    }
}

impl Handler<Offers> for ContentActor {
    type Result = ();

    fn handle(&mut self, offers: Offers, _: &mut Self::Context) {
        let work = !offers.items.is_empty();
        self.shared.lock().on_offers(offers);
        if work {
            self.set_work(true);
        }
    }
}

impl Handler<Ordered> for ContentActor {
    type Result = ();

    fn handle(&mut self, Ordered(block): Ordered, _: &mut Self::Context) {
        self.squares.finalized(&block.header);
        self.shared.lock().on_ordered(block);
    }
}

impl Handler<StateAdvanced> for ContentActor {
    type Result = ();

    fn handle(&mut self, StateAdvanced(height, block): StateAdvanced, _: &mut Self::Context) {
        let load = judge::loads(&self.shared, std::slice::from_ref(&block)).and_then(|mut loads| loads.pop());
        self.shared.lock().on_executed(height, &block, load.as_deref());
    }
}

impl Handler<Admit> for ContentActor {
    type Result = actix::MessageResult<Admit>;

    fn handle(&mut self, Admit { candidates, source }: Admit, ctx: &mut Self::Context) -> Self::Result {
        let (results, work) = self.shared.lock().admit(self.clock.now(), candidates, source);
        let taken: Vec<B256> = results.iter().filter_map(|r| r.as_ref().ok()).copied().collect();
        self.metrics.mempool_admitted.inc_by(taken.len() as u64);
        self.metrics.mempool_refused.inc_by((results.len() - taken.len()) as u64);
        if work {
            self.set_work(true);
        }
        if source == Source::Local && !taken.is_empty() {
            self.hub.submitted(taken);
            self.schedule_gossip(ctx);
        }
        actix::MessageResult(results)
    }
}
