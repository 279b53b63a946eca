//! Items of blocks of an encrypted chain, with all that checking them gave, so that nobody does it twice.

use std::{collections::BTreeMap, sync::Arc};

use cascade_crypto::{
    ecdsa::{self, ItemError},
    envelope::{self, EnvelopeError, Sealed},
    threshold::EncryptionKey,
};
use cascade_execution::BlockLoad;
use cascade_primitives::{
    B256, BlockHash, Bytes, ChainParams, Epoch, Height, RecoveredEnvelope, RecoveredItem, SealedBlock, SigningContext,
};
use parking_lot::Mutex;
use thiserror::Error;

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
}

/// Checks items one batch at a time: signatures, then ciphertexts. `key` answers for the epoch of an envelope, or says
/// why its ciphertext is not worth a look. The answers stand in the order of the input.
pub fn check_all<E: From<CheckError>>(
    raw: Vec<Bytes>,
    context: &SigningContext,
    params: &ChainParams,
    key: impl Fn(&RecoveredEnvelope) -> Result<EncryptionKey, E>,
) -> Vec<Result<CheckedItem, E>> {
    let recovered = ecdsa::recover_items(raw, context, params);
    let mut answers: Vec<Result<CheckedItem, E>> = Vec::with_capacity(recovered.len());
    let mut by_key: Vec<(EncryptionKey, Vec<usize>)> = Vec::new();
    for item in recovered {
        let place = answers.len();
        answers.push(item.map(|item| CheckedItem { item, sealed: None }).map_err(|e| CheckError::from(e).into()));
        let found = match &answers[place] {
            Ok(CheckedItem { item: RecoveredItem::Envelope(envelope), .. }) => key(envelope),
            _ => continue,
        };
        match found {
            Ok(key) => match by_key.iter_mut().find(|(known, _)| *known == key) {
                Some((_, places)) => places.push(place),
                None => by_key.push((key, vec![place])),
            },
            Err(error) => answers[place] = Err(error),
        }
    }
    for (key, places) in by_key {
        let envelopes: Vec<_> = places
            .iter()
            .map(|&place| match &answers[place] {
                Ok(CheckedItem { item: RecoveredItem::Envelope(envelope), .. }) => envelope.as_ref(),
                _ => unreachable!("these places hold envelopes"),
            })
            .collect();
        let sealed = envelope::check(&key, context, &envelopes, &mut rand::rng());
        for (place, sealed) in places.into_iter().zip(sealed) {
            match (sealed, &mut answers[place]) {
                (Ok(sealed), Ok(checked)) => checked.sealed = Some(sealed),
                (Err(error), answer) => *answer = Err(CheckError::from(error).into()),
                (Ok(_), Err(_)) => {}
            }
        }
    }
    answers
}

/// Blocks whose items are kept.
const MOST_BLOCKS: usize = 256;

#[derive(Debug, Default)]
struct Recent {
    blocks: BTreeMap<(Height, BlockHash), Arc<ItemContent>>,
    opened: Height,
}

/// The items of recent blocks.
#[derive(Clone, Debug, Default)]
pub struct ItemBlocks(Arc<Mutex<Recent>>);

impl ItemBlocks {
    /// A block's items if they are known.
    #[must_use]
    pub fn get(&self, block: &SealedBlock) -> Option<Arc<ItemContent>> {
        self.0.lock().blocks.get(&(block.header.height, block.hash())).cloned()
    }

    /// Drops blocks of an epoch whose keys are made anew.
    pub fn forget_epoch(&self, epoch: Epoch) {
        self.0.lock().blocks.retain(|_, content| content.epoch != epoch);
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
        let recent = self.0.lock();
        let mut above =
            recent.blocks.range((from.next(), BlockHash::ZERO)..).take_while(|((height, _), _)| *height <= to);
        above
            .find(|((height, hash), content)| {
                is_final(*height, hash) && content.items.iter().any(|item| item.hash() == *name)
            })
            .map(|((height, _), _)| (*height, *height <= recent.opened))
    }

    /// The final block at a height is opened, and so are all below it.
    pub fn set_opened(&self, height: Height) {
        self.0.lock().opened = height;
    }

    /// Drops blocks up to a height.
    pub fn drop_up_to(&self, height: Height) {
        let blocks = &mut self.0.lock().blocks;
        *blocks = blocks.split_off(&(height.next(), BlockHash::ZERO));
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
        let epoch = block.header.epoch;
        let mut places: Vec<Option<CheckedItem>> = block.body.transactions.iter().map(known).collect();
        let unknown: Vec<usize> = (0..places.len()).filter(|&i| places[i].is_none()).collect();
        let raw = unknown.iter().map(|&i| block.body.transactions[i].clone()).collect();
        let checked = check_all(raw, context, params, |envelope| {
            if envelope.epoch == epoch {
                Ok(*key)
            } else {
                Err(CheckError::Epoch { found: envelope.epoch.0, epoch: epoch.0 })
            }
        });
        for (place, checked) in unknown.into_iter().zip(checked) {
            places[place] = Some(checked?);
        }
        let (items, sealed): (Vec<_>, Vec<_>) = places.into_iter().flatten().map(|c| (c.item, c.sealed)).unzip();
        let load = Arc::new(BlockLoad::of_items(&items));
        let content = Arc::new(ItemContent { items, sealed, load, epoch });
        let blocks = &mut self.0.lock().blocks;
        blocks.insert((block.header.height, block.hash()), Arc::clone(&content));
        // While nothing becomes final, proposals pile up.
        if blocks.len() > MOST_BLOCKS {
            blocks.pop_first();
        }
        Ok(content)
    }
}
