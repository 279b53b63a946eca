//! Items of blocks of an encrypted chain, with all that checking them gave, so that nobody does it twice.
//!
//! Whoever leads may put anything into a block, and who judges it holds up all that waits for the judge. So what the bytes show
//! (how many, how much gas, which epoch) is looked at before any signature, which bounds the number; then come signatures and
//! proofs, some hundred at a time, up to the first that is wrong: a block of garbage costs no more than an honest one.

use std::sync::Arc;

use cascade_crypto::{
    ecdsa::{self, ItemError},
    envelope::{self, EnvelopeError, Sealed},
    threshold::EncryptionKey,
};
use cascade_execution::BlockLoad;
use cascade_primitives::{
    B256, BlockHash, Bytes, ChainParams, Decode as _, Epoch, Height, Item, RecoveredEnvelope, RecoveredItem,
    SealedBlock, SigningContext,
    envelope::{MAX_ENVELOPES_PER_BLOCK, envelope_gas},
};
use parking_lot::Mutex;
use rand::CryptoRng;
use thiserror::Error;

use super::recent::Recent;

/// An item whose signatures hold, and for an envelope its ciphertext, whose proof holds.
#[derive(Clone, Debug)]
pub struct CheckedItem {
    /// The item.
    pub item: RecoveredItem,
    /// The ciphertext; none for a deposit.
    pub sealed: Option<Sealed>,
}

/// A block's items, and what they take of each payer and sender.
#[derive(Debug)]
pub struct ItemContent {
    /// The items in the block's order.
    pub items: Vec<RecoveredItem>,
    /// The ciphertext of each; none for a deposit.
    pub sealed: Vec<Option<Sealed>>,
    /// What each has in the block.
    pub load: Arc<BlockLoad>,
    epoch: Epoch,
}

/// Why bytes are no item that a block may carry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// The item itself.
    #[error(transparent)]
    Item(#[from] ItemError),
    /// The ciphertext.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It is sealed to another epoch than the block's.
    #[error("the envelope is sealed to the key of epoch {found}, the block is of epoch {epoch}")]
    Epoch {
        /// The envelope's.
        found: u64,
        /// The block's.
        epoch: u64,
    },
    /// All of a block, before anybody's signature is looked at.
    #[error(
        "its items reserve more gas than a block has, which is {limit}, or one less than any uses, or they are too many"
    )]
    Gas {
        /// `ChainParams::block_gas_limit`.
        limit: u64,
    },
}

/// Items of a block whose signatures and proofs are checked at once.
const BATCH: usize = 256;

/// Gas of a deposit: a transfer's, no more and no less.
const DEPOSIT_GAS: u64 = 21_000;

/// The items of a block that were checked before, each in its place, if its bytes show nothing that no block may have.
fn weigh(
    items: &[Bytes],
    epoch: Epoch,
    params: &ChainParams,
    known: impl Fn(&Bytes) -> Option<CheckedItem>,
) -> Result<Vec<Option<CheckedItem>>, CheckError> {
    let limit = params.block_gas_limit;
    let (mut left, mut envelopes) = (limit, 0);
    let mut places = Vec::with_capacity(items.len());
    for raw in items {
        let checked = known(raw);
        let (decoded, envelope);
        let found = match &checked {
            Some(CheckedItem { item: RecoveredItem::Envelope(envelope), .. }) => Some(&***envelope),
            Some(CheckedItem { item: RecoveredItem::Deposit(_), .. }) => None,
            None => {
                decoded = Item::from_shared(raw).map_err(ItemError::from)?;
                envelope = match &decoded {
                    Item::Envelope(envelope) => Some(envelope),
                    Item::Deposit(_) => None,
                };
                envelope
            }
        };
        let (gas, least) = match found {
            Some(envelope) => {
                if envelope.epoch != epoch {
                    return Err(CheckError::Epoch { found: envelope.epoch.0, epoch: epoch.0 });
                }
                envelopes += 1;
                (envelope.gas_limit, envelope_gas(envelope.bucket))
            }
            None => (DEPOSIT_GAS, DEPOSIT_GAS),
        };
        let fits = gas >= least && envelopes <= MAX_ENVELOPES_PER_BLOCK;
        left = left.checked_sub(gas).filter(|_| fits).ok_or(CheckError::Gas { limit })?;
        places.push(checked);
    }
    Ok(places)
}

/// Checks items of a block, all sealed to one key, up to the first batch with one that is wrong.
fn check_every(
    raw: &[Bytes],
    context: &SigningContext,
    params: &ChainParams,
    key: &EncryptionKey,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<CheckedItem>, CheckError> {
    let mut checked = Vec::with_capacity(raw.len());
    for batch in raw.chunks(BATCH) {
        let items = ecdsa::recover_items(batch.to_vec(), context, params);
        let items: Vec<RecoveredItem> = items.into_iter().collect::<Result<_, _>>()?;
        let envelopes: Vec<&RecoveredEnvelope> = items
            .iter()
            .filter_map(|item| match item {
                RecoveredItem::Envelope(envelope) => Some(envelope.as_ref()),
                RecoveredItem::Deposit(_) => None,
            })
            .collect();
        let mut sealed = envelope::check_every(key, context, &envelopes, rng)?.into_iter();
        checked.extend(items.into_iter().map(|item| {
            let sealed = matches!(item, RecoveredItem::Envelope(_)).then(|| sealed.next()).flatten();
            CheckedItem { item, sealed }
        }));
    }
    Ok(checked)
}

#[derive(Debug, Default)]
struct Blocks {
    recent: Recent<ItemContent>,
    opened: Height,
}

/// The items of recent blocks.
#[derive(Clone, Debug, Default)]
pub struct ItemBlocks(Arc<Mutex<Blocks>>);

impl ItemBlocks {
    /// A block's items if they are known.
    #[must_use]
    pub fn get(&self, block: &SealedBlock) -> Option<Arc<ItemContent>> {
        self.0.lock().recent.get(block)
    }

    /// Drops blocks of an epoch whose keys are made anew.
    pub fn forget_epoch(&self, epoch: Epoch) {
        self.0.lock().recent.retain(|content| content.epoch != epoch);
    }

    /// The final block above `from`, up to `to`, that holds an item, and whether it is opened: what is executed is dropped
    /// later. `is_final` tells final blocks from others at their heights.
    #[must_use]
    pub fn find(
        &self,
        name: &B256,
        from: Height,
        to: Height,
        is_final: impl Fn(Height, &BlockHash) -> bool,
    ) -> Option<(Height, bool)> {
        let blocks = self.0.lock();
        let mut above = blocks.recent.between(from, to);
        above
            .find(|(height, hash, content)| {
                is_final(*height, hash) && content.items.iter().any(|item| item.hash() == *name)
            })
            .map(|(height, ..)| (height, height <= blocks.opened))
    }

    /// The final block at a height is opened, and so are all below it.
    pub fn set_opened(&self, height: Height) {
        self.0.lock().opened = height;
    }

    /// Drops blocks up to a height.
    pub fn drop_up_to(&self, height: Height) {
        self.0.lock().recent.drop_up_to(height);
    }

    /// A block's items; checks what is not known yet. `key` is that of the block's epoch.
    ///
    /// # Errors
    /// The first item that no block of the epoch may carry.
    pub fn get_or_check(
        &self,
        block: &SealedBlock,
        context: &SigningContext,
        params: &ChainParams,
        key: &EncryptionKey,
        known: impl Fn(&Bytes) -> Option<CheckedItem>,
    ) -> Result<Arc<ItemContent>, CheckError> {
        if let Some(content) = self.get(block) {
            return Ok(content);
        }
        let mut places = weigh(&block.body.transactions, block.header.epoch, params, known)?;
        let unknown: Vec<usize> = (0..places.len()).filter(|&i| places[i].is_none()).collect();
        let raw: Vec<Bytes> = unknown.iter().map(|&i| block.body.transactions[i].clone()).collect();
        let checked = check_every(&raw, context, params, key, &mut rand::rng())?;
        for (place, checked) in unknown.into_iter().zip(checked) {
            places[place] = Some(checked);
        }
        let (items, sealed): (Vec<_>, Vec<_>) = places.into_iter().flatten().map(|c| (c.item, c.sealed)).unzip();
        let load = Arc::new(BlockLoad::of_items(&items));
        let content = Arc::new(ItemContent { items, sealed, load, epoch: block.header.epoch });
        self.0.lock().recent.insert(block, Arc::clone(&content));
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use cascade_crypto::{curve::G1Affine, ecdsa::SecretKey, envelope::Terms, threshold::CiphertextError};
    use cascade_primitives::{EcdsaSignature, Encode as _, Envelope, Fork, Network};
    use rand::RngCore;

    use super::*;

    const EPOCH: Epoch = Epoch(3);

    fn context(params: &ChainParams) -> SigningContext {
        SigningContext { chain_id: params.chain_id, genesis_hash: B256::ZERO, fork: Fork(0) }
    }

    fn key() -> EncryptionKey {
        EncryptionKey::from_bytes(&G1Affine::generator().to_compressed()).expect("it is a point")
    }

    fn wallet() -> SecretKey {
        SecretKey::from_byte_array([7; 32]).expect("it is a key")
    }

    fn sealed(params: &ChainParams, epoch: Epoch, gas_limit: u64) -> RecoveredEnvelope {
        let valid_until = Height(100);
        let terms = Terms { epoch, nonce: 0, gas_limit, max_fee_per_gas: 1, max_priority_fee_per_gas: 0, valid_until };
        envelope::seal(&key(), &context(params), &terms, &[7; 110], &wallet(), &mut rand::rng()).expect("it is small")
    }

    /// As changed, and signed by the payer like that.
    fn with_ciphertext(params: &ChainParams, envelope: &Envelope, change: impl Fn(&mut Vec<u8>)) -> Bytes {
        let mut envelope = envelope.clone();
        let mut ciphertext = envelope.ciphertext.to_vec();
        change(&mut ciphertext);
        envelope.ciphertext = ciphertext.into();
        envelope.signature = ecdsa::sign_digest(&wallet(), &envelope.digest(&context(params)));
        Item::Envelope(envelope).to_bytes().into()
    }

    fn unsigned(envelope: &Envelope) -> Bytes {
        let envelope = Envelope { signature: EcdsaSignature([0xff; 65]), ..envelope.clone() };
        Item::Envelope(envelope).to_bytes().into()
    }

    /// Counts the bytes that it gives.
    struct Counted(usize);

    impl RngCore for Counted {
        fn next_u32(&mut self) -> u32 {
            rand::rng().next_u32()
        }

        fn next_u64(&mut self) -> u64 {
            rand::rng().next_u64()
        }

        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            self.0 += bytes.len();
            rand::rng().fill_bytes(bytes);
        }
    }

    impl CryptoRng for Counted {}

    #[test]
    fn what_the_bytes_show_is_looked_at_before_any_signature() {
        let params = ChainParams { block_gas_limit: 100_000, ..ChainParams::of(Network::Regtest) };
        let items = |gas: &[u64], epoch| -> Vec<Bytes> {
            gas.iter().map(|&gas| unsigned(&sealed(&params, epoch, gas))).collect()
        };
        let weighed = |items: &[Bytes]| weigh(items, EPOCH, &params, |_| None).map(|places| places.len());
        let gas = Err(CheckError::Gas { limit: 100_000 });
        assert_eq!(weighed(&items(&[50_000, 50_000], EPOCH)), Ok(2));
        assert_eq!(weighed(&items(&[50_000, 50_001], EPOCH)), gas);
        assert_eq!(weighed(&items(&[u64::MAX, u64::MAX], EPOCH)), gas);
        assert_eq!(weighed(&items(&[20_999], EPOCH)), gas, "less than any uses");
        assert_eq!(weighed(&items(&[21_000], Epoch(2))), Err(CheckError::Epoch { found: 2, epoch: 3 }));
        assert!(matches!(weighed(&[Bytes::from_static(b"none")]), Err(CheckError::Item(ItemError::Encoding(_)))));
        // What was checked before counts too.
        let known = sealed(&params, EPOCH, 50_001);
        let raw = known.raw().clone();
        let item = CheckedItem { item: RecoveredItem::Envelope(Box::new(known)), sealed: None };
        let weighed = weigh(&[raw.clone(), raw], EPOCH, &params, |_| Some(item.clone()));
        assert_eq!(weighed.map(|_| 0), gas);
    }

    #[test]
    fn a_block_of_false_proofs_costs_one_batch() {
        let params = ChainParams::of(Network::Regtest);
        let right = sealed(&params, EPOCH, 21_000);
        // The last byte of the response.
        let wrong = with_ciphertext(&params, &right, |ciphertext| ciphertext[4 * 48 + 31] ^= 1);
        let check = |items: &[Bytes]| {
            assert_eq!(weigh(items, EPOCH, &params, |_| None).map(|places| places.len()), Ok(items.len()));
            let mut rng = Counted(0);
            let checked = check_every(items, &context(&params), &params, &key(), &mut rng);
            // Two coefficients of 16 bytes for each ciphertext that is summed.
            (checked.map(|checked| checked.iter().filter(|item| item.sealed.is_some()).count()), rng.0 / 32)
        };
        let proof = || Err(CheckError::from(EnvelopeError::from(CiphertextError::Proof)));
        assert_eq!(check(&vec![wrong.clone(); 4 * BATCH]), (proof(), BATCH));
        let mut items = vec![right.raw().clone(); BATCH + 10];
        assert_eq!(check(&items), (Ok(BATCH + 10), BATCH + 10));
        items.push(wrong);
        assert_eq!(check(&items), (proof(), BATCH + 11));
        // A signature that is none: no proof of its batch is looked at.
        items[3] = unsigned(&right);
        assert_eq!(check(&items), (Err(ItemError::Signature.into()), 0));
    }
}
