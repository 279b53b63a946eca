//! What an attacker makes of somebody else's envelope, through all that stands between it and a block: signature, proof of
//! the ciphertext, pool, the chain's ordering rules. The envelope itself passes; nothing that is made of it does.

use std::sync::Arc;

use cascade_crypto::{
    ecdsa::{SecretKey, public_address, recover_item, sign_digest},
    envelope::{self, EnvelopeError, Terms},
    threshold::CiphertextError,
};
use cascade_execution::{
    BlockLoad, InFlight, ItemCheck, MemoryStore, PushError, Refusal, State, StateStoreMut as _, StateView, fee_account,
    genesis_changes, state::CacheSizes,
};
use cascade_mempool::{AccountState, Admission, AdmissionError, CheckedEnvelope, Pool, PoolLimits, Source};
use cascade_primitives::{
    Address, B256, ChainId, ChainParams, Encode as _, Envelope, Epoch, Fork, Genesis, GenesisAccount, Height, Item,
    Network, RecoveredEnvelope, RecoveredItem, SigningContext, TimestampMs, TransactionRule, U256,
};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{keys::context, reveals::chain};

fn key(byte: u8) -> SecretKey {
    SecretKey::from_byte_array([byte; 32]).unwrap()
}

fn victim() -> SecretKey {
    key(1)
}

fn thief() -> SecretKey {
    key(2)
}

fn params() -> ChainParams {
    ChainParams { transactions: TransactionRule::Encrypted, ..ChainParams::of(Network::Regtest) }
}

/// Why something that an attacker made comes to nothing.
#[derive(Debug, PartialEq)]
enum Fails {
    /// It is no envelope of this chain and fork.
    Unreadable,
    /// Its ciphertext was made for another one.
    Proof,
    Pool(AdmissionError),
    Block(Refusal),
}

/// A node with one payer's envelope.
struct Node {
    view: StateView,
    pool: Pool<CheckedEnvelope>,
    rng: StdRng,
}

impl Node {
    fn new() -> Self {
        let fees = U256::from(10).pow(U256::from(20));
        let account = GenesisAccount { fees, ..GenesisAccount::default() };
        let alloc = [victim(), thief()].map(|key| (public_address(&key), account.clone())).into();
        let genesis = Genesis { params: params(), timestamp: TimestampMs(1), committees: Vec::new(), alloc };
        let store = MemoryStore::new();
        store.apply(&genesis_changes(&genesis).unwrap()).unwrap();
        let view = State::open(Arc::new(store), CacheSizes::default()).unwrap().latest().unwrap();
        Self { view, pool: Pool::new(PoolLimits::of(&params())), rng: StdRng::seed_from_u64(5) }
    }

    fn sealed(&mut self) -> RecoveredEnvelope {
        let terms = Terms {
            epoch: Epoch(1),
            nonce: 0,
            gas_limit: 100_000,
            max_fee_per_gas: 1_000_000_000,
            max_priority_fee_per_gas: 1,
            valid_until: Height(100),
        };
        let key = chain().keys.decryption.encryption_key();
        envelope::seal(&key, &context(), &terms, b"whatever is inside", &victim(), &mut self.rng).unwrap()
    }

    /// Takes an envelope all the way into a block of an epoch on top of what is in flight.
    fn take(
        &mut self,
        raw: Vec<u8>,
        (context, epoch): (&SigningContext, Epoch),
        in_flight: &InFlight,
    ) -> Result<BlockLoad, Fails> {
        let item = recover_item(raw.into(), context, &params()).map_err(|_| Fails::Unreadable)?;
        let RecoveredItem::Envelope(envelope) = &item else { return Err(Fails::Unreadable) };
        let key = chain().keys.decryption.encryption_key();
        let sealed = match envelope::check(&key, context, &[envelope], &mut self.rng).remove(0) {
            Ok(sealed) => sealed,
            Err(EnvelopeError::Ciphertext(CiphertextError::Proof)) => return Err(Fails::Proof),
            Err(other) => panic!("{other}"),
        };
        let accounts = |payer: &Address| {
            let (account, load) = (fee_account(&self.view, payer).unwrap(), in_flight.payer(payer));
            AccountState {
                nonce: account.nonce,
                balance: account.balance,
                in_flight: load.count,
                in_flight_cost: load.cost,
                is_contract: false,
            }
        };
        let checked = CheckedEnvelope { envelope: envelope.as_ref().clone(), sealed };
        let admitted = self.pool.admit(TimestampMs(1), checked, Source::Peer, &accounts).map_err(Fails::Pool)?;
        assert_eq!(admitted, Admission::New { executable: true });
        let (params, base_fee, height) = (params(), params().base_fee_floor, in_flight.tip().next());
        let mut check = ItemCheck::new(&params, base_fee, height, epoch, &self.view, in_flight).unwrap();
        match check.push(&item) {
            Ok(()) => Ok(check.finish().1),
            Err(PushError::Refused(refusal)) => Err(Fails::Block(refusal)),
            Err(PushError::Store(error)) => panic!("{error}"),
        }
    }

    fn take_now(&mut self, raw: Vec<u8>) -> Result<BlockLoad, Fails> {
        self.take(raw, (&context(), Epoch(1)), &InFlight::empty(Height(0)))
    }

    /// What becomes of the envelope with other terms, as the thief signs it and as the victim itself would.
    fn changed(&mut self, change: impl Fn(&mut Envelope), on: &SigningContext, epoch: Epoch) -> [Option<Fails>; 2] {
        let mut envelope = Envelope::clone(&self.sealed());
        change(&mut envelope);
        [thief(), victim()].map(|signer| {
            envelope.signature = sign_digest(&signer, &envelope.digest(on));
            let raw = Item::Envelope(envelope.clone()).to_bytes();
            self.take(raw, (on, epoch), &InFlight::empty(Height(0))).err()
        })
    }
}

const PROOF: [Option<Fails>; 2] = [Some(Fails::Proof), Some(Fails::Proof)];

#[test]
fn an_envelope_passes_once_and_is_refused_when_it_is_sent_again() {
    let mut node = Node::new();
    let raw = node.sealed().raw().to_vec();
    let load = node.take_now(raw.clone()).expect("it is the victim's own");
    assert_eq!(node.take_now(raw.clone()), Err(Fails::Pool(AdmissionError::AlreadyKnown)));
    // Another node that never heard of it, after a block that holds it.
    let ordered = InFlight::empty(Height(0)).with_block(Arc::new(load));
    let late = Node::new().take(raw.clone(), (&context(), Epoch(1)), &ordered);
    assert_eq!(late, Err(Fails::Pool(AdmissionError::NonceTooLow { next: 1, nonce: 0 })));
    // And a proposer that puts it there all the same.
    let item = recover_item(raw.into(), &context(), &params()).unwrap();
    let (params, view) = (params(), Node::new().view);
    let mut check = ItemCheck::new(&params, 1, Height(2), Epoch(1), &view, &ordered).unwrap();
    let refused = check.push(&item).unwrap_err();
    assert!(matches!(refused, PushError::Refused(Refusal::Nonce { found: 0, due: 1 })), "{refused}");
}

#[test]
fn a_ciphertext_copied_under_another_payer_is_refused() {
    let mut node = Node::new();
    let mut copy = Envelope::clone(&node.sealed());
    copy.signature = sign_digest(&thief(), &copy.digest(&context()));
    assert_eq!(node.take_now(Item::Envelope(copy).to_bytes()), Err(Fails::Proof));
}

#[test]
fn an_envelope_replayed_in_another_epoch_is_refused() {
    let mut node = Node::new();
    assert_eq!(node.changed(|envelope| envelope.epoch = Epoch(2), &context(), Epoch(2)), PROOF);
    let raw = node.sealed().raw().to_vec();
    let later = node.take(raw, (&context(), Epoch(2)), &InFlight::empty(Height(0)));
    assert_eq!(later, Err(Fails::Block(Refusal::Epoch { found: Epoch(1), epoch: Epoch(2) })), "as it is");
}

#[test]
fn an_envelope_replayed_on_another_fork_is_refused() {
    let mut node = Node::new();
    let fork = SigningContext { fork: Fork(1), ..context() };
    assert_eq!(node.changed(|envelope| envelope.fork = Fork(1), &fork, Epoch(1)), PROOF);
    let raw = node.sealed().raw().to_vec();
    let as_it_is = node.take(raw, (&fork, Epoch(1)), &InFlight::empty(Height(0)));
    assert_eq!(as_it_is, Err(Fails::Unreadable));
}

#[test]
fn an_envelope_replayed_on_another_chain_is_refused() {
    let mut node = Node::new();
    let twin = SigningContext { genesis_hash: B256::repeat_byte(8), ..context() };
    assert_eq!(node.changed(|_| (), &twin, Epoch(1)), PROOF, "of the same number, from another genesis");
    let raw = node.sealed().raw().to_vec();
    assert_eq!(node.take(raw.clone(), (&twin, Epoch(1)), &InFlight::empty(Height(0))), Err(Fails::Proof), "as it is");
    let other = SigningContext { chain_id: ChainId(1), ..context() };
    assert_eq!(node.take(raw, (&other, Epoch(1)), &InFlight::empty(Height(0))), Err(Fails::Unreadable));
}

#[test]
fn an_envelope_replayed_with_another_nonce_is_refused() {
    assert_eq!(Node::new().changed(|envelope| envelope.nonce = 1, &context(), Epoch(1)), PROOF);
}
