//! `l2_` methods of an encrypted chain: keys to seal to, payers, and what became of envelopes.

use alloy_primitives::{Address, B256};
use cascade_execution::{Outcome, fee_account};
use cascade_mempool::keybook::KeyProgress;
use cascade_primitives::{Epoch, Height};

use super::{
    Methods, Rpc,
    backend::Location,
    error::{self, Answer},
    fees::base_fee_above,
    params::Args,
    types::{EnvelopeState, EnvelopeStatus, EpochKey, EpochKeys, KeyState, Payer},
};

pub(super) fn register(methods: &mut Methods) {
    methods.cheap("l2_epochKey", 0, |rpc, _| epoch_key(rpc));
    methods.cheap("l2_payer", 1, payer);
    methods.cheap("l2_envelopeStatus", 1, |rpc, args| status(rpc, args.get(0)?));
}

fn key_state(epoch: Epoch, progress: KeyProgress) -> KeyState {
    match progress {
        KeyProgress::Announcing { announced, needed } => KeyState::Announcing { epoch, announced, needed },
        KeyProgress::Dealing(progress) => KeyState::Dealing { epoch, dealt: progress.dealt, needed: progress.needed },
        KeyProgress::Complete => KeyState::Complete { epoch },
    }
}

/// The keys that envelopes can be sealed to now, and how far the next one is.
fn epoch_key(rpc: &Rpc) -> Answer<EpochKeys> {
    rpc.sealed()?;
    let (view, heads) = (rpc.backend.epoch_keys(), rpc.heads());
    let head = rpc.data(heads.ordered)?;
    Ok(EpochKeys {
        chain_id: rpc.backend.params().chain_id,
        genesis_hash: rpc.backend.genesis_hash(),
        fork: head.block.header.fork,
        epoch: view.epoch,
        height: heads.ordered,
        max_validity: rpc.backend.params().max_validity,
        base_fee: base_fee_above(rpc, &head.block.header),
        keys: view.keys.iter().map(|(keys, members_root)| EpochKey::new(keys, *members_root)).collect(),
        progress: view.progress.map(|(epoch, progress)| key_state(epoch, progress)),
        proved: false,
    })
}

fn payer(rpc: &Rpc, args: &Args<'_>) -> Answer<Payer> {
    rpc.sealed()?;
    let address: Address = args.get(0)?;
    let view = rpc.backend.state(rpc.heads().executed)?;
    let account = fee_account(&view, &address).map_err(error::internal)?;
    Ok(Payer {
        address,
        balance: account.balance,
        nonce: account.nonce,
        next_nonce: rpc.backend.payer_nonce(&address).unwrap_or(account.nonce),
    })
}

/// How far an envelope has come, by its own hash or by that of the transaction inside. None for what this node does not
/// know: it never came here, or was dropped.
pub(super) fn status(rpc: &Rpc, hash: B256) -> Answer<Option<EnvelopeStatus>> {
    rpc.sealed()?;
    let state =
        |state| EnvelopeStatus { hash, status: state, height: None, index: None, transaction: None, reason: None };
    // In the order of its life, so that what leaves one place in between is found in the next one. What expires is not in
    // any block up to `executed`, which is read before blocks are.
    let (pooled, end) = (rpc.backend.pool_contains(&hash), rpc.backend.envelope_end(&hash));
    let executed = rpc.heads().executed;
    let ordered = rpc.backend.ordered_item(&hash);
    if let Some(place) = rpc.backend.location(&hash)? {
        return done(rpc, hash, place).map(Some);
    }
    if let Some((height, opened)) = ordered {
        let found = state(if opened { EnvelopeState::Revealed } else { EnvelopeState::Ordered });
        return Ok(Some(EnvelopeStatus { height: Some(height), ..found }));
    }
    if let Some(reason) = end.map(|end| expiry(rpc, executed, end)).transpose()?.flatten() {
        return Ok(Some(EnvelopeStatus { reason: Some(reason), ..state(EnvelopeState::Expired) }));
    }
    Ok(pooled.then(|| state(EnvelopeState::Pending)))
}

/// What became of an item of an executed block.
fn done(rpc: &Rpc, hash: B256, place: Location) -> Answer<EnvelopeStatus> {
    let data = rpc.data(place.height)?;
    let receipts = rpc.backend.receipts(place.height)?;
    let receipt = receipts.as_ref().and_then(|all| all.get(place.index as usize));
    let item = data.opened.as_ref().and_then(|opened| opened.get(place.index as usize));
    let reason = receipt.and_then(|receipt| match receipt.outcome {
        Outcome::Charged(reason) => Some(reason.to_string()),
        Outcome::NoOp(reason) => Some(reason.to_string()),
        _ => None,
    });
    Ok(EnvelopeStatus {
        hash,
        status: if reason.is_some() { EnvelopeState::Failed } else { EnvelopeState::Executed },
        height: Some(place.height),
        index: Some(place.index),
        transaction: item.and_then(cascade_storage::OpenedItem::transaction_hash),
        reason,
    })
}

/// Why no block above an executed one can carry an envelope, if none can.
fn expiry(rpc: &Rpc, executed: Height, (epoch, last): (Epoch, Height)) -> Answer<Option<String>> {
    let now = rpc.data(executed)?.block.header.epoch;
    if now > epoch {
        return Ok(Some(format!("not ordered before epoch {} ended, whose key it is sealed to", epoch.0)));
    }
    Ok((executed >= last).then(|| format!("not ordered up to block {}, until which it was valid", last.0)))
}
