//! Runs with an application in place of users and execution.

use std::collections::{BTreeMap, BTreeSet};

use cascade_crypto::{ecdsa::SecretKey, envelope::Terms};
use cascade_primitives::{B256, Bytes, ChainParams, Epoch, Height, SigningContext, keccak256};
use cascade_sim::{
    Fault, Faults, SeedReport, SimConfig,
    economy::{Choice, Economy, Offer, Ordered, Place, Shown, Trading},
    run_seed_with_economy,
};

const TRADING: Trading = Trading { every_ms: 500, epoch_length: 40, withholds: false, steals: false };

/// What the network does in rough weather.
fn rough() -> Faults {
    use Fault::{Clock, Crash, Delay, Duplication, Jitter, Loss, OneWay, Partition, Pause, Reordering, SlowExecution};
    let network = [Delay, Jitter, Loss, Duplication, Reordering, Partition, OneWay];
    network.into_iter().chain([Pause, Crash, Clock, SlowExecution]).collect()
}

/// Takes notes of all that it is asked and told.
#[derive(Debug, Default)]
struct Clerk {
    encrypted: bool,
    /// Mixed into its roots.
    salt: u8,
    sent: BTreeMap<Bytes, u64>,
    answers: u64,
    heard: BTreeSet<B256>,
    ran: Vec<(Bytes, Height)>,
    ordered: BTreeMap<B256, Height>,
    /// Orders that were chosen, by whether the attacker did.
    chosen: BTreeSet<(bool, Vec<B256>)>,
    height: Height,
    attackers_blocks: u64,
    root: B256,
}

fn name(shown: &Shown<'_>) -> B256 {
    match shown {
        Shown::Clear(payload) => keccak256(payload),
        Shown::Sealed(envelope) => envelope.hash(),
    }
}

impl Clerk {
    fn new(encrypted: bool) -> Self {
        Self { encrypted, ..Self::default() }
    }

    /// Every offer has a payer of its own.
    fn offer(&mut self, text: &str) -> Offer {
        let number = self.sent.len() as u64;
        let payload: Bytes = format!("{text} {number}").into_bytes().into();
        self.sent.insert(payload.clone(), number);
        let terms = Terms {
            epoch: Epoch(0),
            nonce: 0,
            gas_limit: 100_000,
            max_fee_per_gas: 10,
            max_priority_fee_per_gas: 1,
            valid_until: Height(0),
        };
        let payer = SecretKey::from_byte_array(keccak256(&payload).0).expect("a hash is a key");
        Offer { payload, cover: self.encrypted.then_some((payer, terms)) }
    }
}

impl Economy for Clerk {
    fn begin(&mut self, _: &ChainParams, _: &SigningContext) {}

    fn users(&mut self) -> Vec<Offer> {
        vec![self.offer("user")]
    }

    fn overheard(&mut self, shown: Shown<'_>) -> Vec<Offer> {
        assert_eq!(matches!(shown, Shown::Sealed(_)), self.encrypted);
        assert!(self.heard.insert(name(&shown)), "it hears each once");
        self.answers += 1;
        vec![self.offer("attacker")]
    }

    fn select(&mut self, choice: &Choice<'_>) -> Vec<usize> {
        let waiting: Vec<B256> = choice.waiting.iter().map(name).collect();
        assert!(choice.place.state <= self.height, "what blocks stand on is executed");
        assert!(
            !choice.place.above.iter().any(|above| waiting.contains(&name(above))),
            "what is ordered waits no longer"
        );
        let count = waiting.len().min(12);
        // The attacker leaves the first out, and turns the others round.
        let places: Vec<usize> = if choice.attacker { (1..count).rev().collect() } else { (0..count).collect() };
        self.chosen.insert((choice.attacker, places.iter().map(|&place| waiting[place]).collect()));
        places
    }

    fn is_lawful(&self, place: Place<'_>, items: &[Shown<'_>]) -> bool {
        let names: BTreeSet<B256> = items.iter().map(name).collect();
        let ordered = self.ordered.iter().filter(|(_, height)| **height <= place.state).map(|(name, _)| *name);
        names.len() == items.len() && !ordered.chain(place.above.iter().map(name)).any(|known| names.contains(&known))
    }

    fn execute(&mut self, block: &Ordered<'_>) -> (B256, Vec<Offer>) {
        assert_eq!(block.height, self.height.next(), "once each, in order");
        self.height = block.height;
        let order: Vec<B256> = block.items.iter().map(name).collect();
        self.ordered.extend(order.iter().map(|name| (*name, block.height)));
        assert!(order.is_empty() || self.chosen.contains(&(block.attacker, order)), "a block is what its leader chose");
        assert_eq!(self.encrypted && !block.items.is_empty(), !block.beacon.is_zero());
        self.attackers_blocks += u64::from(block.attacker);
        for payload in &block.payloads {
            self.ran.push((payload.clone().expect("all were sealed honestly"), block.height));
        }
        self.root = keccak256([self.root.as_slice(), &[self.salt], &block.height.0.to_be_bytes()].concat());
        (self.root, Vec::new())
    }
}

fn config(encrypted: bool, faults: Faults, trading: Trading) -> SimConfig {
    SimConfig { trading: Some(trading), ..SimConfig::of(encrypted, 4, faults) }
}

/// Runs a seed, which must hold; whatever was sent is executed at most once.
fn run(config: &SimConfig, seed: u64) -> (SeedReport, Clerk) {
    let mut clerk = Clerk::new(config.encrypted);
    let report = run_seed_with_economy(config, seed, &mut clerk);
    assert!(report.is_clean(), "seed {seed}: {:?} {:?}", report.violations, report.stalls);
    let ran: BTreeSet<&Bytes> = clerk.ran.iter().map(|(payload, _)| payload).collect();
    assert_eq!(ran.len(), clerk.ran.len(), "seed {seed}: something ran twice");
    assert!(ran.iter().all(|payload| clerk.sent.contains_key(*payload)), "seed {seed}: nobody sent it");
    (report, clerk)
}

#[test]
fn what_users_and_the_attacker_send_is_executed_in_the_order_that_leaders_choose() {
    for encrypted in [false, true] {
        let mut led = 0;
        for seed in 0..3 {
            let (report, clerk) = run(&config(encrypted, Faults::NONE, TRADING), seed);
            assert!(report.virtual_ms >= 45_000 && clerk.ran.len() > 60, "{} ran", clerk.ran.len());
            led += clerk.attackers_blocks;
            // What the attacker leaves out in a view of its own, others take up in theirs.
            let late = clerk.sent.iter().filter(|(sent, _)| !clerk.ran.iter().any(|(ran, _)| ran == *sent));
            let first_late = late.map(|(_, number)| *number).min().unwrap_or(u64::MAX);
            assert!(first_late > clerk.sent.len() as u64 - 40, "{first_late} of {}", clerk.sent.len());
        }
        assert!(led > 0, "the attacker leads now and then");
    }
}

#[test]
fn under_faults_nothing_is_executed_twice_and_nothing_that_nobody_sent() {
    let slow = crate::hunt::slow();
    for seed in 0..if slow { 200 } else { 12 } {
        run(&config(false, rough(), TRADING), seed);
    }
    let (mut again, mut lost) = (0, 0);
    for seed in 0..if slow { 60 } else { 4 } {
        let (report, clerk) = run(&config(true, rough(), TRADING), seed);
        // Each answer is to an envelope that was heard, a user's or one that was sealed anew.
        let users = clerk.sent.keys().filter(|payload| payload.starts_with(b"user")).count() as u64;
        again += clerk.answers - users.min(clerk.answers);
        lost += report.faults.of(Fault::Loss) + report.faults.of(Fault::Crash);
    }
    assert!(again > 0 && lost > 0, "epochs end before all is ordered: {again}, {lost}");
}

#[test]
fn a_run_with_an_application_is_one_trace_and_its_roots_are_in_the_headers() {
    for encrypted in [false, true] {
        let config = config(encrypted, rough(), TRADING);
        let trace = |salt| {
            let mut clerk = Clerk { salt, ..Clerk::new(encrypted) };
            run_seed_with_economy(&config, 5, &mut clerk).trace
        };
        assert_eq!(trace(0), trace(0));
        assert_ne!(trace(0), trace(1));
    }
}

#[test]
fn an_attacker_that_withholds_its_shares_stops_nothing_and_what_it_steals_nobody_takes() {
    let trading = Trading { withholds: true, ..TRADING };
    let (report, clerk) = run(&config(true, Faults::NONE, trading), 1);
    assert!(report.revealed.lies["withheld-shares"] > 20 && clerk.ran.len() > 60, "{:?}", report.revealed);
    let trading = Trading { steals: true, ..TRADING };
    for seed in 1..5 {
        // That a stolen ciphertext is in a block, or that shares of it are made, would be violations; that an envelope is
        // in a second block, the clerk would see.
        let (report, clerk) = run(&config(true, Faults::NONE, trading), seed);
        let tried = |what| report.revealed.lies.get(what).copied().unwrap_or_default();
        assert!(tried("stolen-ciphertext") > 100 && tried("replayed-envelope") > 20, "{:?}", report.revealed);
        assert!(clerk.ran.len() > 60, "seed {seed}: {}", clerk.ran.len());
    }
}
