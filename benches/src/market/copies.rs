//! What else one can try with the envelopes of others: put their ciphertexts into envelopes of one's own, send them again,
//! ask for shares before the time. Each way is tried with every envelope of a market with real keys.

use alloy_primitives::B256;
use cascade_crypto::ecdsa::{recover_item, sign_digest};
use cascade_execution::{InFlight, Outcome, check_block_items};
use cascade_primitives::{Encode as _, Envelope, Epoch, Fork, Item, RecoveredEnvelope, RecoveredItem, SigningContext};

use super::{
    Settings,
    chain::payer,
    cipher::{EPOCH, context},
    round::TIP,
    sealed::Market,
};

/// One way, how often it was tried, and how often it came to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What was tried.
    pub what: &'static str,
    /// How often.
    pub attempts: u64,
    /// How often a node would have taken it, or the transaction would have run.
    pub taken: u64,
}

/// What an attacker makes of an envelope: a change of what is in the clear, and the history that it is meant for.
type Change = (&'static str, fn(&mut Envelope, &mut SigningContext));

const CHANGES: [Change; 5] = [
    ("the ciphertext under another payer", |_, _| ()),
    ("with another nonce", |e, _| e.nonce += 1),
    ("with another epoch", |e, _| e.epoch = Epoch(2)),
    ("on another fork", |e, context| (e.fork, context.fork) = (Fork(1), Fork(1))),
    ("on a chain with another genesis", |_, context| context.genesis_hash = B256::ZERO),
];

/// Tries all with the trades of so many rounds.
///
/// # Panics
/// If the settings are not those of a chain with real keys.
#[must_use]
pub fn copies(settings: &Settings, rounds: usize) -> Vec<Tried> {
    let mut market = Market::new(settings, 0);
    let mut tried: Vec<Tried> = CHANGES.iter().map(|(what, _)| Tried { what, attempts: 0, taken: 0 }).collect();
    let mut again = Tried { what: "an envelope that was in a block, again", attempts: 0, taken: 0 };
    let mut inside =
        Tried { what: "what was inside, once revealed, in an envelope of one's own", attempts: 0, taken: 0 };
    for _ in 0..rounds {
        let pool = market.ground.pool();
        for order in market.ground.users.orders(&pool, market.ground.worth) {
            let params = market.ground.chain.params.clone();
            let call = market.ground.call(&order, TIP);
            let transaction = market.ground.users.all[order.user].wallet.sign(&params, &call);
            let sealed = market.seal_for(order.user, &transaction);
            market.ground.users.all[order.user].waits = false;
            for (entry, (_, change)) in tried.iter_mut().zip(CHANGES) {
                entry.attempts += 1;
                entry.taken += u64::from(stolen(&mut market, &sealed.0, change));
            }
            let block = market.commit(std::slice::from_ref(&sealed), &[]);
            assert!(
                !matches!(block.receipts[0].outcome, Outcome::Charged(_)),
                "the trade itself runs or misses its limit"
            );
            again.attempts += 1;
            again.taken += u64::from(fits(&market, &sealed.0));
            let own = market.seal_own(&transaction);
            let block = market.commit(&[own], &[]);
            inside.attempts += 1;
            inside.taken += u64::from(!matches!(block.receipts[0].outcome, Outcome::Charged(_)));
        }
    }
    tried.extend([again, inside]);
    tried
}

/// Whether an envelope that the attacker makes of another's ciphertext is taken anywhere.
fn stolen(market: &mut Market, victim: &RecoveredEnvelope, change: fn(&mut Envelope, &mut SigningContext)) -> bool {
    let params = &market.ground.chain.params;
    let mut context = context(params.chain_id);
    let mut copy = Envelope::clone(victim);
    change(&mut copy, &mut context);
    copy.signature = sign_digest(&market.ground.payer.key, &copy.digest(&context));
    let raw = Item::Envelope(copy).to_bytes();
    match recover_item(raw.into(), &context, params) {
        Ok(RecoveredItem::Envelope(copy)) => market.cipher.check_on(&context, &copy).is_ok(),
        _ => false,
    }
}

/// Whether a block could carry an envelope next.
fn fits(market: &Market, envelope: &RecoveredEnvelope) -> bool {
    let chain = &market.ground.chain;
    let (view, in_flight) = chain.basis();
    let item = [RecoveredItem::Envelope(Box::new(envelope.clone()))];
    let account = payer(&chain.executed(), &InFlight::empty(chain.height), &envelope.payer());
    let height = chain.height.next();
    let valid = check_block_items(&chain.params, chain.base_fee, height, EPOCH, &view, &in_flight, &item);
    valid.is_ok() || account.next_nonce() <= envelope.nonce
}
