//! Drives a client: its requests over the network, its timer, its reports to whoever shows them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cascade_light::{
    Answer, Ask, Availability, BlsScheme, Checkpoint, Client, Config, Effect, Failure as Failed, Input, Reply, Report,
    Request, RequestId, Start, Stop, Unsampled,
};
use cascade_primitives::{Height, NodeId, TimestampMs};
use parking_lot::RwLock;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    LightReport, Peer,
    http::{self, AskError},
    rpc::Proven,
    store::Store,
};
use crate::{
    cli::{Failure, output},
    exit::ExitCode,
    home::unix_ms,
};

/// What is known of the chain is saved this often.
const SAVE_EVERY_MS: u64 = 10_000;
/// Answers that wait to be looked at.
const ANSWERS: usize = 256;
/// A request is given up after this long; the client has given it up long before.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);
/// Proofs get this long to reach other nodes when the client stops.
const PASS_WITHIN: Duration = Duration::from_secs(10);

/// What a view shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Counts, and the newest final height.
    pub heights: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Heights that were followed and not sampled.
    pub unsampled: u64,
    /// The least confidence.
    pub min_confidence: Option<f64>,
    /// Samples verified.
    pub samples: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// The newest final height.
    pub head: u64,
    /// Peers that are asked.
    pub peers: usize,
    /// None of them answers.
    pub unreachable: bool,
    /// The newest height whose data is known to be there, with the confidence.
    pub newest: Option<(u64, f64)>,
}

/// A light client with its connections.
pub struct Follower {
    client: Client,
    checkpoint: Checkpoint,
    peers: BTreeMap<NodeId, String>,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    store: Option<Store>,
    saved_at: u64,
    wake: Option<TimestampMs>,
    newest: Option<(u64, f64)>,
    unreachable: bool,
    /// The last height that was told to be unsampled, and why.
    told_unsampled: Option<(Height, Unsampled)>,
    /// Bad-encoding proofs on their way to other nodes.
    passing: JoinSet<()>,
    /// Why the client stopped, until all of them are there.
    stopped: Option<Failure>,
    /// What the verified RPC answers from.
    proven: Arc<RwLock<Proven>>,
    /// Prints what happens for people.
    verbose: bool,
}

fn now() -> TimestampMs {
    TimestampMs(unix_ms())
}

impl Follower {
    /// A client that asks these peers. Nothing is sent yet. Must be driven on a tokio runtime.
    #[must_use]
    pub fn new(config: Config, peers: Vec<Peer>, store: Option<Store>, verbose: bool) -> Self {
        let checkpoint = match &config.start {
            Start::Genesis(checkpoint) | Start::Checkpoint(checkpoint) | Start::Saved(_, checkpoint) => *checkpoint,
        };
        let (sender, inputs) = mpsc::channel(ANSWERS);
        Self {
            client: Client::new(config, Box::new(BlsScheme::default())),
            checkpoint,
            peers: peers.into_iter().map(|peer| (peer.id, peer.authority)).collect(),
            inputs,
            sender,
            store,
            saved_at: 0,
            wake: None,
            newest: None,
            unreachable: false,
            told_unsampled: None,
            passing: JoinSet::new(),
            stopped: None,
            proven: Arc::default(),
            verbose,
        }
    }

    /// What the client has proved, kept up to date.
    #[must_use]
    pub const fn proven(&self) -> &Arc<RwLock<Proven>> {
        &self.proven
    }

    /// The client, for what it has proved.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Makes all peers known to the client.
    ///
    /// # Errors
    /// If the client stopped at once.
    pub fn start(&mut self) -> Result<(), Failure> {
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        peers.into_iter().try_for_each(|peer| self.step(Input::PeerUp(peer)))
    }

    /// Waits for the next answer or timer and takes it. May be dropped at any time.
    ///
    /// # Errors
    /// Why the client stopped, or that its state cannot be saved.
    pub async fn advance(&mut self) -> Result<(), Failure> {
        if self.stopped.is_none() {
            let wait =
                self.wake.map_or(Duration::from_secs(1), |at| Duration::from_millis(at.0.saturating_sub(now().0)));
            let input = tokio::select! {
                input = self.inputs.recv() => input.unwrap_or(Input::Tick),
                () = tokio::time::sleep(wait) => Input::Tick,
            };
            self.stopped = self.step(input).err();
            self.part_with_liars();
        }
        if self.stopped.is_some() {
            // A proof that convinced this client has to get out before its process ends.
            let passed = async { while self.passing.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(PASS_WITHIN, passed).await;
            return Err(self.stopped.take().expect("it was just looked at"));
        }
        if now().0 >= self.saved_at + SAVE_EVERY_MS {
            self.save()?;
        }
        Ok(())
    }

    /// Asks nobody any more who lied to the verified RPC.
    fn part_with_liars(&mut self) {
        let dropped = self.proven.read().dropped.clone();
        let liars: Vec<NodeId> =
            self.peers.extract_if(.., |_, authority| dropped.contains(authority)).map(|(peer, _)| peer).collect();
        for peer in liars {
            self.stopped = self.stopped.take().or(self.step(Input::PeerDown(peer)).err());
        }
    }

    /// Saves what is known of the chain and may be relied on, if there is a place for it, and what may not be.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&mut self) -> Result<(), Failure> {
        self.saved_at = now().0;
        let (Some(store), Some(_)) = (&self.store, self.client.chain()) else { return Ok(()) };
        if let Some(condemned) = self.client.condemned() {
            store.condemn(condemned)?;
        }
        match self.client.saveable() {
            Some(chain) => store.save(&self.checkpoint, chain),
            None => store.forget(),
        }
    }

    /// What a view shows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let LightReport { heights, failed, min_confidence, samples, bytes_received, head, unsampled, .. } =
            self.report();
        let (peers, unreachable, newest) = (self.client.peers(), self.unreachable, self.newest);
        Snapshot {
            heights,
            failed,
            unsampled,
            min_confidence,
            samples,
            bytes_received,
            head,
            peers,
            unreachable,
            newest,
        }
    }

    /// What `--json` reports.
    #[must_use]
    pub fn report(&self) -> LightReport {
        let stats = self.client.stats();
        LightReport {
            heights: stats.heights,
            failed: stats.failed,
            min_confidence: stats.min_confidence,
            samples: stats.samples,
            bytes_received: stats.bytes_received,
            head: self.client.chain().map_or(0, |chain| chain.tip().height.0),
            followed: self.client.followed(),
            unsampled: stats.unsampled,
            sampling: self.client.sampling() as u64,
        }
    }

    fn step(&mut self, input: Input) -> Result<(), Failure> {
        let effects = self.client.step(now(), input);
        self.wake = None;
        let mut stop = None;
        for effect in effects {
            match effect {
                Effect::Ask { id, peer, request, alone: _ } => self.ask(id, peer, request),
                Effect::PassOn { peer, height, proof } => {
                    if let Some(authority) = self.peers.get(&peer).cloned() {
                        self.passing.spawn(async move {
                            // Who does not take it is told by somebody else.
                            let _ = http::ask(&authority, &Ask::Fraud { height, proof }).await;
                        });
                    }
                }
                Effect::Drop { peer, why } => {
                    let authority = self.peers.remove(&peer).unwrap_or_default();
                    if self.proven.read().dropped.insert(&authority) {
                        output::note(&format!("light: dropped {authority}: {why}"));
                    }
                }
                Effect::Report(report) => self.tell(report),
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Stop(why) => stop = Some(why),
            }
        }
        match stop {
            Some(why) => {
                if let Err(error) = self.save() {
                    output::note(&format!("light: the next run will not know it: {}", error.message));
                }
                Err(failure(&why))
            }
            None => Ok(()),
        }
    }

    /// Sends a request in a task of its own, which brings the answer back as an input.
    fn ask(&self, id: RequestId, peer: NodeId, request: Request) {
        let (sender, authority) = (self.sender.clone(), self.peers.get(&peer).cloned());
        tokio::spawn(async move {
            let Some(authority) = authority else { return };
            let ask = match &request {
                Request::Chain(request) => Ask::Chain(*request),
                Request::Data(request) => Ask::Data(request.clone()),
                Request::Frauds { from } => Ask::Frauds { from: *from },
            };
            let read = Arc::new(AtomicU64::new(0));
            let answer = match tokio::time::timeout(REQUEST_WITHIN, http::ask_counted(&authority, &ask, &read)).await {
                Ok(answer) => answer,
                Err(_) => Err(AskError::Transport("no answer in time".to_owned())),
            };
            let bytes = read.load(Ordering::Relaxed);
            let answered = |answer| Input::Answered { id, answer, bytes };
            let failed = |why| Input::Failed { id, why, bytes };
            let input = match (answer, request) {
                (Ok(Reply::Chain(answer)), Request::Chain(_)) => answered(Answer::Chain(answer)),
                (Ok(Reply::Data(answer)), Request::Data(_)) => answered(Answer::Data(answer)),
                (Ok(Reply::Frauds(heights)), Request::Frauds { .. }) => answered(Answer::Frauds(heights)),
                (Ok(Reply::Busy { .. }) | Err(AskError::Refused(_)), _) => failed(Failed::Busy),
                (Err(AskError::Transport(_) | AskError::Foreign(_)), _) => failed(Failed::Silent),
                (Ok(_) | Err(AskError::Hostile(_)), _) => failed(Failed::Hostile),
            };
            // Once the follower is gone nobody waits for answers.
            let _ = sender.send(input).await;
        });
    }

    fn tell(&mut self, report: Report) {
        let header = match report {
            Report::Header { height, hash } => Some((height, hash)),
            _ => None,
        };
        self.proven.write().update(&self.client, header);
        if let Report::Data { height, availability: Availability::Available { confidence } } = report
            && self.newest.is_none_or(|(newest, _)| newest < height.0)
        {
            self.newest = Some((height.0, confidence));
        }
        match report {
            Report::Unreachable { .. } => self.unreachable = true,
            Report::Reached => self.unreachable = false,
            _ => {}
        }
        if !self.verbose {
            return;
        }
        match report {
            Report::CaughtUp { height, hash } => output::note(&format!("light: caught up with block {height} {hash}")),
            Report::OldGenesis => output::note(
                "light: the genesis block is older than the unstaking delay; a recent checkpoint (--checkpoint) from \
                 somebody you trust would be safer",
            ),
            Report::Header { .. } => {}
            Report::Data { height, availability } => self.tell_data(height, availability),
            Report::Unsampled { from, to, why } => self.tell_unsampled(from, to, why),
            Report::Behind { age_ms } => output::note(&format!(
                "light: the newest final block is {} s old by this machine's clock: the clock is fast, or the chain stands \
                 still, or its clocks are slow",
                age_ms / 1000
            )),
            Report::Unreachable { for_ms, peers } => output::note(&format!(
                "light: none of {peers} nodes has answered for {} s; nothing is concluded from that, and they are asked on",
                for_ms / 1000
            )),
            Report::Reached => output::note("light: a node answers again"),
        }
    }

    /// Says why heights are not sampled, once for each run of them.
    fn tell_unsampled(&mut self, from: Height, to: Height, why: Unsampled) {
        let goes_on = self.told_unsampled.is_some_and(|(last, told)| last.next() == from && told == why);
        self.told_unsampled = Some((to, why));
        if goes_on {
            return;
        }
        let because = match why {
            Unsampled::NoSquare => "this chain has no squares",
            Unsampled::Old => "by this machine's clock they are so old that nodes need not have their data",
            Unsampled::JumpedOver => {
                "they were missed while this client was away, or no node could prove them one by one"
            }
            Unsampled::Evicted => "their samples had no answer yet, and too many newer blocks wait",
        };
        output::note(&format!("light: blocks from {from} to {to} (and on) are not sampled: {because}"));
    }

    fn tell_data(&self, height: Height, availability: Availability) {
        match availability {
            Availability::Withheld { missing } => {
                output::note(&format!("light: block {height} is withheld: {missing} samples have no answer"));
            }
            Availability::BadEncoding => output::note(&format!("light: block {height} is badly encoded")),
            Availability::Available { .. }
            | Availability::NoSquare
            | Availability::NotLive
            | Availability::Sampling => {}
        }
    }
}

fn failure(why: &Stop) -> Failure {
    let code = match why {
        Stop::TooOld { .. } => ExitCode::TooOld,
        Stop::NoPeers { .. } => ExitCode::Unreachable,
        Stop::Withheld { .. } | Stop::Impossible { .. } | Stop::BadEncoding { .. } => ExitCode::Unavailable,
    };
    Failure { code, message: why.to_string() }
}
