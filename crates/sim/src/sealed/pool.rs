//! Envelopes that wait for a block, and blocks that carry them.

use std::collections::BTreeSet;

use cascade_consensus::{Bugs, BuildRequest, BuiltBlock, Verdict};
use cascade_primitives::{Bytes, Decode as _, SealedBlock};

use super::{
    Kit, Out, Party,
    items::name,
    liar::{Habit, Liar},
};
use crate::{
    app,
    economy::{Chooser, Shown},
};

/// Envelopes that one block takes.
const MOST_PER_BLOCK: usize = 6;
/// Envelopes that are offered to the others again at a time.
const MOST_AGAIN: usize = 10;

impl<B: Bugs> Party<B> {
    /// Takes up an envelope; answers whether it is new and of use.
    pub(crate) fn admit(&mut self, raw: &Bytes, kit: &mut Kit<'_, B>) -> bool {
        let name = name(raw);
        if self.done.contains(&name) || self.pool.contains_key(&name) {
            return false;
        }
        let epoch = match cascade_primitives::Item::from_shared(raw) {
            Ok(cascade_primitives::Item::Envelope(envelope)) => envelope.epoch,
            _ => return false,
        };
        let Some(holder) = self.agreed(epoch) else { return false };
        let key = holder.keys.decryption.encryption_key();
        let Ok(checked) = kit.items.check(raw, &key) else { return false };
        let expired = checked.envelope.valid_until <= self.head.1;
        if expired && self.liar.is_none() || epoch < self.head.0 {
            return false;
        }
        if let Some(liar) = &mut self.liar
            && let Some(stolen) = liar.steal(&checked.envelope, &kit.items.context)
        {
            self.lied(Some(Habit::Steals));
            self.emit(Out::Offer(stolen));
        }
        self.pool.insert(name, checked);
        true
    }

    /// Envelopes that a block carries wait no longer, nor do those that no block can carry any more.
    pub(super) fn drop_ordered(&mut self, block: &SealedBlock) {
        for raw in &block.body.transactions {
            self.pool.remove(&name(raw));
            self.done.insert(name(raw));
        }
        if let Some(again) = self.liar.as_mut().and_then(|liar| liar.replay(block)) {
            self.lied(Some(Habit::Replays));
            self.emit(Out::Offer(again));
        }
        let (epoch, height) = (self.head.0, self.head.1);
        let lawless = self.liar.is_some();
        self.pool
            .retain(|_, checked| checked.envelope.epoch >= epoch && (lawless || checked.envelope.valid_until > height));
    }

    /// Whether a block could carry something.
    pub(crate) fn has_work(&self) -> bool {
        !self.offers.is_empty() || self.pool.values().any(|checked| checked.envelope.epoch == self.head.0)
    }

    /// What still waits, to be offered to the others again.
    pub(crate) fn waiting_envelopes(&self) -> Vec<Bytes> {
        self.pool.values().take(MOST_AGAIN).map(|checked| checked.envelope.raw().clone()).collect()
    }

    /// The content of a block.
    pub(crate) fn build(
        &mut self,
        request: &BuildRequest,
        kit: &Kit<'_, B>,
        choose: Option<Chooser<'_>>,
    ) -> BuiltBlock {
        let reveals = Self::due_reveals(request, kit.vault);
        let mut built = BuiltBlock { base_fee: request.parent.base_fee, reveals, ..BuiltBlock::default() };
        if request.may_carry_content {
            built.system = request.key_items(self.offers.values());
            let expired = self.liar.as_mut().is_some_and(Liar::takes_expired);
            let taken: BTreeSet<_> =
                request.ancestors.iter().flat_map(|block| &block.body.transactions).map(name).collect();
            let fit = self.pool.iter().filter(|(name, checked)| {
                let lawful = kit.items.may_stand(checked, request.epoch, request.height).is_ok();
                !taken.contains(*name) && (lawful || expired && checked.envelope.epoch == request.epoch)
            });
            let fit: Vec<_> = fit.map(|(_, checked)| &checked.envelope).collect();
            let chosen = match choose {
                Some(choose) => choose(&fit.iter().map(|envelope| Shown::Sealed(envelope)).collect::<Vec<_>>()),
                None => (0..fit.len().min(MOST_PER_BLOCK)).collect(),
            };
            built.transactions = chosen.into_iter().map(|place| fit[place].raw().clone()).collect();
            if expired {
                self.lied(Some(Habit::Expired));
            }
            built.transactions.extend(self.liar.as_mut().and_then(Liar::contraband));
            built.ordered_gas = built.transactions.len() as u64;
        }
        built.da = app::commitment(&built.body(&request.frame, request.may_carry_content));
        built
    }

    /// Whether a block's content is valid; none while it cannot be told.
    pub(crate) fn judge(&self, block: &SealedBlock, request: &BuildRequest, kit: &mut Kit<'_, B>) -> Option<Verdict> {
        if block.header.base_fee != request.parent.base_fee {
            return Some(Verdict::Invalid("base fee".to_owned()));
        }
        if block.header.ordered_gas != block.body.transactions.len() as u64 {
            return Some(Verdict::Invalid("ordered gas".to_owned()));
        }
        let envelopes = match self.envelopes_of(block, !block.body.transactions.is_empty(), kit)? {
            Ok(envelopes) => envelopes.unwrap_or_default(),
            Err(why) => return Some(Verdict::Invalid(why)),
        };
        let names: BTreeSet<_> = envelopes.iter().map(|checked| checked.envelope.hash()).collect();
        if names.len() != envelopes.len() {
            return Some(Verdict::Invalid("one envelope twice".to_owned()));
        }
        let stand = |checked| kit.items.may_stand(checked, block.header.epoch, block.header.height);
        match envelopes.iter().try_for_each(|checked| stand(checked.as_ref())) {
            Ok(()) => Some(Verdict::Valid),
            Err(why) => Some(Verdict::Invalid(why)),
        }
    }
}
