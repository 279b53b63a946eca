//! An encrypted chain: keys made by the nodes themselves, envelopes ordered and then opened, restarts at any point.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_consensus::seats::scheduled_committee;
use cascade_crypto::{BlsScheme, threshold::BlockShares, verify_certificate};
use cascade_mempool::{gossip::encode_gossip, reveal::RevealMessage};
use cascade_network::Channel;
use cascade_primitives::{
    Certificate, Decode as _, Deposit, Encode as _, Genesis, GenesisAccount, Height, Item, NodeId, RecoveredEnvelope,
    SigningContext, TransactionRule, VoteKind,
};
use cascade_sequencer::{
    cli::Client,
    rpc::types::{EnvelopeState, EnvelopeStatus},
    sealing::Seal,
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};

use jsonrpsee::{
    core::client::{Subscription, SubscriptionClientT as _},
    rpc_params,
    ws_client::WsClientBuilder,
};

use crate::{
    cluster::{Cluster, funded, wait_for},
    metrics::scrape,
};

const FEES: Fees = Fees { max: 1_000_000_000, tip: 1 };
const TO: Address = Address::repeat_byte(0x77);

/// The payer of every test: an account of the fee ledger alone.
pub fn payer() -> Wallet {
    Wallet::public("integration test payer", 0)
}

pub fn encrypted(genesis: &mut Genesis) {
    genesis.params.transactions = TransactionRule::Encrypted;
    let fees = U256::from(10).pow(U256::from(24));
    for payer in [payer(), Wallet::public("integration test payer", 1)] {
        genesis.alloc.insert(payer.address(), GenesisAccount { fees, ..GenesisAccount::default() });
    }
}

/// An encrypted chain; nothing runs yet.
pub fn new(nodes: usize, change: impl FnOnce(&mut Genesis)) -> Cluster {
    Cluster::new(nodes, |genesis, _| {
        encrypted(genesis);
        change(genesis);
    })
}

pub fn start(nodes: usize, change: impl FnOnce(&mut Genesis)) -> Cluster {
    let mut cluster = new(nodes, change);
    cluster.start_all();
    cluster
}

fn context(cluster: &Cluster) -> SigningContext {
    cluster.genesis.signing_context()
}

/// Waits until envelopes can be sealed to an epoch at or above `epoch`, and answers what with.
pub fn wait_key(cluster: &Cluster, node: usize, epoch: u64) -> Seal {
    wait_for(&format!("node {node} has the key of epoch {epoch}"), || {
        let keys = cluster.runtime.block_on(cluster.client(node).epoch_keys()).ok()?;
        let seal = Seal::of(&keys, 200).ok()?;
        (seal.epoch.0 >= epoch).then_some(seal)
    })
}

pub fn transfer(cluster: &Cluster, from: &Wallet, nonce: u64, value: u64) -> (B256, Bytes) {
    let (hash, raw) = from.sign(&Transfer {
        chain: cluster.genesis.params.chain_id,
        nonce,
        to: TO,
        value: U256::from(value),
        data: Bytes::new(),
        gas: TRANSFER_GAS,
        fees: FEES,
    });
    (hash, raw.into())
}

/// Seals and sends a transaction; answers the envelope's hash.
pub fn send(cluster: &Cluster, node: usize, seal: &Seal, raw: &Bytes, nonce: u64) -> B256 {
    let envelope =
        seal.transaction(raw, payer().signing_key(), nonce, &cluster.genesis.params).expect("it can be sealed");
    let sent = cluster.runtime.block_on(cluster.client(node).send_item(envelope.raw())).expect("it is admitted");
    assert_eq!(sent, envelope.hash());
    sent
}

pub fn wait_done(cluster: &Cluster, node: usize, hash: B256) -> EnvelopeStatus {
    let client: Client = cluster.client(node);
    wait_for("an envelope is executed", || {
        let status = cluster.runtime.block_on(client.envelope_status(hash)).ok()??;
        matches!(status.status, EnvelopeState::Executed | EnvelopeState::Failed).then_some(status)
    })
}

fn balance(cluster: &Cluster, node: usize, address: Address) -> U256 {
    cluster.runtime.block_on(cluster.client(node).balance(address)).expect("it runs")
}

#[test]
fn envelopes_are_ordered_then_opened_and_executed() {
    let cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let mut sent = Vec::new();
    for i in 0..8 {
        let (inner, raw) = transfer(&cluster, &funded(i), 0, 1);
        sent.push((inner, send(&cluster, i as usize % 4, &seal, &raw, i)));
    }
    for (inner, envelope) in &sent {
        let status = wait_done(&cluster, 1, *envelope);
        assert_eq!((status.status, status.transaction), (EnvelopeState::Executed, Some(*inner)), "{status:?}");
        assert_eq!(wait_done(&cluster, 2, *inner).height, status.height, "found by the hash of what is inside too");
        // The nodes that are asked below may be behind.
        for node in [0, 3] {
            wait_done(&cluster, node, *envelope);
        }
    }
    assert_eq!(balance(&cluster, 3, TO), U256::from(8));
    // A wallet pays for nothing but what it sends.
    let left = U256::from(10).pow(U256::from(24)) - U256::from(1);
    assert_eq!(balance(&cluster, 3, funded(0).address()), left);
    assert_eq!(cluster.runtime.block_on(cluster.client(0).payer(payer().address())).unwrap().nonce, 8);
    // A second envelope around what ran already is charged, and says why nothing ran.
    let (_, raw) = transfer(&cluster, &funded(0), 0, 1);
    let again = wait_done(&cluster, 0, send(&cluster, 0, &seal, &raw, 8));
    assert_eq!(again.status, EnvelopeState::Failed);
    assert!(again.reason.as_deref().is_some_and(|reason| reason.contains("nonce too low")), "{again:?}");
    cluster.assert_agree();
}

/// Follows an envelope over a WebSocket, and says what it was told.
fn follow(cluster: &Cluster, socket: &str, hash: B256) -> tokio::task::JoinHandle<Vec<EnvelopeStatus>> {
    let (socket, (ready, subscribed)) = (socket.to_owned(), std::sync::mpsc::channel());
    let task = cluster.runtime.spawn(async move {
        let client = WsClientBuilder::default().build(&socket).await.expect("it serves WebSockets");
        let mut feed: Subscription<EnvelopeStatus> = client
            .subscribe("eth_subscribe", rpc_params!["l2_envelopeStatus", hash], "eth_unsubscribe")
            .await
            .expect("a subscription");
        ready.send(()).expect("the test waits");
        let mut told: Vec<EnvelopeStatus> = Vec::new();
        while !told.last().is_some_and(|status| status.status.is_last()) {
            told.push(feed.next().await.expect("a state").expect("JSON"));
        }
        told
    });
    subscribed.recv().expect("subscribed");
    task
}

fn states(told: &[EnvelopeStatus]) -> Vec<EnvelopeState> {
    told.iter().map(|status| status.status).collect()
}

#[test]
fn whoever_subscribes_is_told_each_state_of_an_envelope_and_of_one_that_expires() {
    let cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let socket = |node: usize| cluster.nodes[node].file.as_ref().expect("it runs").rpc_ws.clone();
    let seal_it = |seal: &Seal, i, nonce| {
        let (_, raw) = transfer(&cluster, &funded(i), 0, 1);
        seal.transaction(&raw, payer().signing_key(), nonce, &cluster.genesis.params).expect("it can be sealed")
    };
    let send = |envelope: &RecoveredEnvelope| {
        cluster.runtime.block_on(cluster.client(0).send_item(envelope.raw())).expect("it is admitted")
    };

    let first = seal_it(&seal, 0, 0);
    let (at_first, at_other) = (follow(&cluster, &socket(0), first.hash()), follow(&cluster, &socket(1), first.hash()));
    send(&first);
    let told = cluster.runtime.block_on(at_first).expect("it ended");
    assert_eq!(told[0].status, EnvelopeState::Pending);
    for told in [told, cluster.runtime.block_on(at_other).expect("it ended")] {
        let (states, last) = (states(&told), told.last().expect("some"));
        let order = [EnvelopeState::Pending, EnvelopeState::Ordered, EnvelopeState::Revealed, EnvelopeState::Executed];
        assert!(states.is_sorted_by_key(|state| order.iter().position(|known| known == state)), "{states:?}");
        assert!(states.windows(2).all(|two| two[0] != two[1]), "{states:?}");
        assert_eq!((last.status, last.reason.as_deref()), (EnvelopeState::Executed, None));
    }

    // Behind a gap in its payer's nonces no block can carry it; once it is too late, that is final.
    let keys = cluster.runtime.block_on(cluster.client(0).epoch_keys()).expect("it runs");
    let late = seal_it(&Seal::of(&keys, 2).expect("a key"), 1, 2);
    let told = follow(&cluster, &socket(0), late.hash());
    send(&late);
    let told = cluster.runtime.block_on(told).expect("it ended");
    assert_eq!(states(&told), [EnvelopeState::Pending, EnvelopeState::Expired]);
    let until = format!("not ordered up to block {}, until which it was valid", late.valid_until.0);
    assert_eq!(told[1].reason.as_deref(), Some(until.as_str()));
    assert!(cluster.height(0) >= late.valid_until.0);
    // It costs nothing, and its payer's nonces are what they were.
    let filler = seal_it(&wait_key(&cluster, 0, 1), 2, 1);
    send(&filler);
    assert_eq!(wait_done(&cluster, 0, filler.hash()).status, EnvelopeState::Executed);
    let account = cluster.runtime.block_on(cluster.client(0).payer(payer().address())).expect("it runs");
    assert_eq!((account.nonce, account.next_nonce), (2, 2));
}

#[test]
fn what_is_not_sealed_is_refused_with_the_proxys_name() {
    let cluster = start(4, |_| ());
    let (_, transfer) = transfer(&cluster, &funded(0), 0, 1);
    let refused = cluster.runtime.block_on(cluster.client(0).send_raw(&transfer)).unwrap_err().to_string();
    assert!(refused.contains("cascade proxy"), "{refused}");
    // Somebody else's ciphertext under another payer.
    let seal = wait_key(&cluster, 0, 1);
    let envelope = seal.transaction(&transfer, payer().signing_key(), 0, &cluster.genesis.params).unwrap();
    let mut stolen = cascade_primitives::Envelope::clone(&envelope);
    // With money of its own: who cannot pay is refused before that.
    let thief = Wallet::public("integration test payer", 1);
    stolen.signature = cascade_crypto::ecdsa::sign_digest(thief.signing_key(), &stolen.digest(&context(&cluster)));
    let raw = cascade_primitives::Encode::to_bytes(&Item::Envelope(stolen));
    let refused = cluster.runtime.block_on(cluster.client(0).send_item(&raw)).unwrap_err().to_string();
    assert!(refused.contains("proof does not hold"), "{refused}");
    // Whoever signed it is not looked at for a while, and everybody else is.
    let submit = |wallet: &Wallet| {
        let envelope = seal.transaction(&transfer, wallet.signing_key(), 0, &cluster.genesis.params).expect("sealed");
        cluster.runtime.block_on(cluster.client(0).send_item(envelope.raw()))
    };
    let refused = submit(&thief).unwrap_err().to_string();
    assert!(refused.contains("not looked at for some seconds"), "{refused}");
    assert_eq!(wait_done(&cluster, 1, submit(&payer()).expect("it is right")).status, EnvelopeState::Executed);
}

#[test]
fn an_envelope_whose_payer_cannot_pay_costs_no_check_of_its_proof() {
    let mut cluster = new(4, |_| ());
    cluster.nodes[0].more = vec!["--metrics-listen".to_owned(), "127.0.0.1:0".to_owned()];
    cluster.start_all();
    let seal = wait_key(&cluster, 0, 1);
    let proofs = || {
        let file = cluster.nodes[0].file.as_ref().expect("it runs");
        let text = scrape(file.metrics.as_deref().expect("it has metrics"));
        let line =
            text.lines().find_map(|line| line.strip_prefix("cascade_mempool_proofs_total ")).expect("it is counted");
        line.parse::<u64>().expect("a number")
    };
    let submit = |wallet: &Wallet, nonce| {
        let (_, raw) = transfer(&cluster, &funded(0), 0, 1);
        let envelope = seal.transaction(&raw, wallet.signing_key(), nonce, &cluster.genesis.params).expect("sealed");
        cluster.runtime.block_on(cluster.client(0).send_item(envelope.raw())).map_err(|error| error.to_string())
    };
    for i in 0..20 {
        let refused = submit(&Wallet::public("poor payer", i), 0).expect_err("it has nothing");
        assert!(refused.contains("insufficient funds"), "{refused}");
    }
    let refused = submit(&payer(), 100_000).expect_err("far above its nonces");
    assert!(refused.contains("nonce too high"), "{refused}");
    assert_eq!(proofs(), 0);
    let taken = submit(&payer(), 0).expect("it can pay");
    assert_eq!(wait_done(&cluster, 1, taken).status, EnvelopeState::Executed);
    assert_eq!(proofs(), 1);
}

#[test]
fn a_wallet_funds_a_payer_once() {
    let cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let (user, fresh) = (funded(3), Wallet::public("fresh payer", 0));
    let (hash, raw) = user.sign(&Transfer {
        chain: cluster.genesis.params.chain_id,
        nonce: 0,
        to: fresh.address(),
        value: U256::from(10).pow(U256::from(18)),
        data: Bytes::new(),
        gas: TRANSFER_GAS,
        fees: FEES,
    });
    let consent = cascade_crypto::ecdsa::sign_digest(fresh.signing_key(), &Deposit::digest(&context(&cluster), &hash));
    let item = Item::Deposit(Deposit { transaction: raw.into(), consent });
    let sent = cluster.runtime.block_on(cluster.client(0).send_item(&cascade_primitives::Encode::to_bytes(&item)));
    assert_eq!(sent.expect("a deposit is admitted"), hash);
    assert_eq!(wait_done(&cluster, 0, hash).status, EnvelopeState::Executed);
    let account = cluster.runtime.block_on(cluster.client(0).payer(fresh.address())).unwrap();
    assert_eq!((account.balance, account.nonce), (U256::from(10).pow(U256::from(18)), 0));
    wait_for("another node has executed the deposit", || {
        let account = cluster.runtime.block_on(cluster.client(1).payer(fresh.address())).ok()?;
        (account.balance > U256::ZERO).then_some(())
    });
    let (_, raw) = transfer(&cluster, &user, 1, 5);
    let envelope = seal.transaction(&raw, fresh.signing_key(), 0, &cluster.genesis.params).unwrap();
    cluster.runtime.block_on(cluster.client(1).send_item(envelope.raw())).expect("it pays");
    assert_eq!(wait_done(&cluster, 1, envelope.hash()).status, EnvelopeState::Executed);
}

#[test]
fn every_epoch_has_a_key_of_its_own_and_a_killed_node_misses_nothing() {
    let mut cluster = start(4, |genesis| genesis.params.epoch_length = 40);
    let mut last = None;
    for (nonce, epoch) in (1..=3).enumerate() {
        let nonce = nonce as u64;
        let seal = wait_key(&cluster, 0, epoch);
        let (_, raw) = transfer(&cluster, &funded(0), nonce, 1);
        let hash = send(&cluster, 0, &seal, &raw, nonce);
        // One node is away whenever the keys of the epoch after are made, and back for the one after that.
        cluster.kill(3);
        assert_eq!(wait_done(&cluster, 0, hash).status, EnvelopeState::Executed);
        cluster.start_node(3);
        last = Some(hash);
    }
    let last = last.expect("three were sent");
    assert_eq!(wait_done(&cluster, 3, last).status, EnvelopeState::Executed);
    cluster.assert_agree();
}

#[test]
fn a_stranger_that_gossips_damaged_envelopes_is_cut_off_and_others_are_served() {
    let cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let node = cluster.nodes[0].file.as_ref().unwrap();
    cluster.runtime.block_on(async {
        let (network, mut receivers) = cluster.stranger(&[0]).await;
        let mut sent = 0;
        for nonce in 0.. {
            let (_, raw) = transfer(&cluster, &funded(1), nonce, 1);
            let sealed = seal.transaction(&raw, payer().signing_key(), nonce, &cluster.genesis.params).unwrap();
            let mut bytes = sealed.raw().to_vec();
            // Within the ciphertext: it decodes, and its payer has not signed it.
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            if network.send(node.node_id, Channel::Mempool, encode_gossip(&[bytes.into()])).is_err() {
                break;
            }
            sent += 1;
            assert!(sent <= 64, "damaged envelopes are taken from a stranger for ever");
            // Either the next look at the peer's connection, or news that it is gone.
            let _ = tokio::time::timeout(Duration::from_millis(250), receivers.events.recv()).await;
        }
        network.shutdown().await;
    });
    let (_, raw) = transfer(&cluster, &funded(0), 0, 1);
    let hash = send(&cluster, 0, &seal, &raw, 0);
    assert_eq!(wait_done(&cluster, 3, hash).status, EnvelopeState::Executed);
}

/// How nodes wire the core of reveals, which believes what it is told of final blocks: a peer that listens to all nodes, and
/// asks them for what is not final yet, gets no share without a right commit certificate of its block or one above it.
#[test]
fn every_share_that_leaves_a_node_comes_with_a_commit_certificate() {
    const BLOCKS: usize = 3;
    let cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let (network, mut receivers) = cluster.runtime.block_on(cluster.stranger(&[0, 1, 2, 3]));
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.file.as_ref().expect("it runs").node_id).collect();
    let mut heard: BTreeMap<Height, BTreeSet<NodeId>> = BTreeMap::new();
    let mut certificates = Vec::new();
    for nonce in 0.. {
        let head = cluster.height(0);
        for (node, ahead) in nodes.iter().flat_map(|node| (0..8).map(move |ahead| (node, ahead))) {
            let asked = RevealMessage::Request(Height(head + ahead)).to_bytes();
            let _ = network.send(*node, Channel::Data, asked.into());
        }
        let (_, raw) = transfer(&cluster, &funded(0), nonce, 1);
        wait_done(&cluster, 0, send(&cluster, 0, &seal, &raw, nonce));
        while let Ok(message) = receivers.data.try_recv() {
            let said = RevealMessage::from_slice(&message.payload).expect("nodes say what can be read");
            if let RevealMessage::Shares(shares, certificate) = said {
                heard.entry(shares.height).or_default().insert(message.peer);
                certificates.push((shares, certificate));
            }
        }
        if heard.values().filter(|from| from.len() == nodes.len()).count() >= BLOCKS {
            break;
        }
        assert!(nonce < 60, "shares of few blocks are heard of: {heard:?}");
    }
    certificates.iter().for_each(|(shares, certificate)| assert_certified(&cluster, shares, certificate));
    cluster.runtime.block_on(network.shutdown());
}

/// Panics unless shares that somebody gave out are of a final block, by a right commit certificate of it or of one above it.
pub fn assert_certified(cluster: &Cluster, shares: &BlockShares, certificate: &Certificate) {
    let (target, height) = (&certificate.target, shares.height.0);
    assert_eq!((target.kind, target.epoch), (VoteKind::Commit, shares.epoch), "block {height}");
    let hash_at = |height| cluster.runtime.block_on(cluster.client(0).block(height)).unwrap().map(|block| block.hash);
    assert_eq!(hash_at(height), Some(shares.block), "block {height} is final");
    let covers = (height..height + 8).any(|height| hash_at(height) == Some(target.block));
    assert!(covers, "block {height} is shared by a certificate of {target:?}");
    let committee = scheduled_committee(&cluster.genesis, shares.epoch).expect("the schedule is right");
    let right = verify_certificate(&BlsScheme::default(), &context(cluster), &committee, certificate);
    assert!(right.is_ok(), "block {height}: {right:?}");
}

#[test]
fn an_envelope_that_no_block_can_carry_holds_up_nobody() {
    // Idle blocks come every two seconds, so the next epoch is a minute away at the most.
    let cluster = start(4, |genesis| genesis.params.epoch_length = 25);
    let seal = wait_key(&cluster, 0, 1);
    // Sealed to the next epoch, with the highest tip and all of a block's gas: nobody can carry it yet.
    let rich = Wallet::public("integration test payer", 1);
    let next = wait_for("the next epoch's key", || {
        let keys = cluster.runtime.block_on(cluster.client(0).epoch_keys()).ok()?;
        keys.keys.iter().any(|key| key.epoch.0 == seal.epoch.0 + 1).then_some(())?;
        let ahead = cascade_sequencer::rpc::types::EpochKeys { epoch: seal.epoch.next(), ..keys };
        Seal::of(&ahead, 200).ok()
    });
    let (_, greedy) = rich.sign(&Transfer {
        chain: cluster.genesis.params.chain_id,
        nonce: 0,
        to: TO,
        value: U256::ZERO,
        data: Bytes::new(),
        gas: cluster.genesis.params.block_gas_limit,
        fees: Fees { max: 1_000_000_000, tip: 1_000_000_000 },
    });
    let greedy = next.transaction(&greedy.into(), rich.signing_key(), 0, &cluster.genesis.params).unwrap();
    cluster.runtime.block_on(cluster.client(0).send_item(greedy.raw())).expect("it is admitted");
    let now = wait_key(&cluster, 0, seal.epoch.0);
    if now.epoch == seal.epoch {
        let (_, raw) = transfer(&cluster, &funded(0), 0, 1);
        let hash = send(&cluster, 0, &now, &raw, 0);
        let status = wait_for("the ordinary one is ordered, or its epoch is over", || {
            let status = cluster.runtime.block_on(cluster.client(0).envelope_status(hash)).ok()?;
            let over = || cluster.runtime.block_on(cluster.client(0).epoch_keys()).is_ok_and(|k| k.epoch > seal.epoch);
            match status {
                Some(status) if status.status != EnvelopeState::Pending => Some(Some(status)),
                _ => over().then_some(None),
            }
        });
        assert!(status.is_some(), "one envelope for later must not keep others out of this epoch's blocks");
    }
    // In its own epoch it is carried like any other.
    assert!(matches!(wait_done(&cluster, 1, greedy.hash()).status, EnvelopeState::Executed | EnvelopeState::Failed));
}

#[test]
fn a_node_that_was_away_for_epochs_opens_them_all_and_may_be_killed_meanwhile() {
    let mut cluster = start(4, |genesis| genesis.params.epoch_length = 25);
    cluster.kill(3);
    let mut last = None;
    for (nonce, epoch) in (1..=3).enumerate() {
        let seal = wait_key(&cluster, 0, epoch);
        let (_, raw) = transfer(&cluster, &funded(0), nonce as u64, 1);
        last = Some(send(&cluster, 0, &seal, &raw, nonce as u64));
        // The epoch may end before it is ordered; then the next one's takes its nonce.
        if wait_for("it is executed, or too late", || {
            let status = cluster.runtime.block_on(cluster.client(0).envelope_status(last?)).ok()?;
            let over = cluster.runtime.block_on(cluster.client(0).epoch_keys()).is_ok_and(|k| k.epoch > seal.epoch);
            match status {
                Some(s) if matches!(s.status, EnvelopeState::Executed | EnvelopeState::Failed) => Some(true),
                None if over => Some(false),
                _ => None,
            }
        }) {
            continue;
        }
        panic!("an envelope that was admitted at the start of an epoch was not ordered in it");
    }
    let target = cluster.height(0);
    cluster.start_node(3);
    // Killed in the middle of catching up, at whatever it does.
    for part in [4, 2] {
        wait_for("it catches up for a while", || (cluster.height(3) >= target / part).then_some(()));
        cluster.kill(3);
        cluster.start_node(3);
    }
    assert_eq!(wait_done(&cluster, 3, last.expect("three were sent")).status, EnvelopeState::Executed);
    cluster.assert_agree();
}

#[test]
fn a_chain_that_lost_its_quorum_opens_what_was_final_when_it_is_back() {
    let mut cluster = start(4, |_| ());
    let seal = wait_key(&cluster, 0, 1);
    let before = cluster.runtime.block_on(cluster.client(0).epoch_keys()).unwrap().keys;
    let mut hashes = Vec::new();
    for i in 0..4 {
        let (_, raw) = transfer(&cluster, &funded(i), 0, 1);
        hashes.push(send(&cluster, 0, &seal, &raw, i));
    }
    // At whatever point of order and reveal they are.
    for node in 0..4 {
        cluster.kill(node);
    }
    cluster.start_all();
    let after = wait_key(&cluster, 0, 1);
    assert_eq!(after.epoch, seal.epoch, "the same key");
    assert_eq!(cluster.runtime.block_on(cluster.client(0).epoch_keys()).unwrap().keys[0], before[0]);
    // What was not final when all died is gone with the pools; the payer's nonce says where to go on.
    let payer_nonce = || cluster.runtime.block_on(cluster.client(0).payer(payer().address())).map(|p| p.next_nonce);
    for (i, hash) in (0..).zip(&hashes) {
        let known = cluster.runtime.block_on(cluster.client(0).envelope_status(*hash)).unwrap();
        if known.is_none() && payer_nonce().unwrap() <= i {
            let (_, raw) = transfer(&cluster, &funded(i), 0, 1);
            send(&cluster, 0, &after, &raw, i);
        }
    }
    wait_for("all four ran", || (balance(&cluster, 1, TO) == U256::from(4)).then_some(()));
    cluster.assert_agree();
}
