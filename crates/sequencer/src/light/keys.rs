//! `l2_epochKey` of a light client: keys that the chain's headers bind.

use std::collections::BTreeMap;

use cascade_execution::next_base_fee;
use cascade_light::{Chain, KeyError};
use cascade_primitives::{Epoch, TransactionRule};
use jsonrpsee::types::ErrorObjectOwned;
use parking_lot::Mutex;

use super::{
    peers::Wanting,
    rpc::{Answer, Shared, failed},
};
use crate::rpc::types::{EpochKey, EpochKeys};

/// Keys that were proved, of this epoch and the next. Each is looked at again before it is told: the next committee, and its
/// keys, may still change.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeMap<Epoch, EpochKey>>);

fn check(chain: &Chain, key: &EpochKey) -> Result<(), KeyError> {
    key.public().map_or(Err(KeyError::Wrong(key.epoch)), |keys| chain.verify_keys(&keys, &key.members_root))
}

impl Known {
    fn of(&self, chain: &Chain) -> Vec<EpochKey> {
        let mut known = self.0.lock();
        known.retain(|_, key| check(chain, key).is_ok());
        known.values().cloned().collect()
    }

    fn add(&self, keys: Vec<EpochKey>) {
        self.0.lock().extend(keys.into_iter().map(|key| (key.epoch, key)));
    }
}

impl Shared {
    /// The keys that transactions can be sealed to. A node gives them, the followed headers bind them; what else the answer
    /// says is read off these headers.
    ///
    /// Nodes drop a key as soon as the next epoch votes. A client that is a block behind them has proved the next one by
    /// then, so one of the two is enough.
    pub(super) async fn epoch_keys(&self) -> Answer<EpochKeys> {
        if self.params.transactions != TransactionRule::Encrypted {
            return Err(failed("the chain does not take sealed transactions"));
        }
        let chain = self.chain()?;
        let epoch = chain.committee().epoch();
        let known = self.keys.of(&chain);
        if !known.iter().any(|key| key.epoch == epoch.next()) {
            let asked = self.ask_keys(&chain).await;
            // While the first keys are made, there is none to be had.
            if known.is_empty() && chain.committee().threshold_keys().0.is_some() {
                asked?;
            }
        }
        let chain = self.chain()?;
        let (tip, epoch) = (chain.tip(), chain.committee().epoch());
        Ok(EpochKeys {
            chain_id: self.params.chain_id,
            genesis_hash: self.signing.genesis_hash,
            fork: self.signing.fork,
            epoch,
            height: tip.height,
            max_validity: self.params.max_validity,
            base_fee: next_base_fee(tip.base_fee, tip.ordered_gas, &self.params),
            keys: self.keys.of(&chain),
            progress: None,
            proved: true,
        })
    }

    fn chain(&self) -> Answer<Chain> {
        let chain = self.proven.read().chain.clone();
        chain.ok_or_else(|| failed("nothing is proved yet: the client still catches up"))
    }

    async fn ask_keys(&self, chain: &Chain) -> Result<(), ErrorObjectOwned> {
        let epoch = chain.committee().epoch();
        let question = |_, client: crate::cli::Client| async move {
            let given = client.epoch_keys().await.map_err(|error| Wanting::Nothing(error.to_string()))?;
            if given.keys.iter().any(|key| matches!(check(chain, key), Err(KeyError::Wrong(_)))) {
                return Err(Wanting::Lie("a key that the chain's headers do not bind".to_owned()));
            }
            let right: Vec<_> = given.keys.into_iter().filter(|key| check(chain, key).is_ok()).collect();
            if right.is_empty() {
                return Err(Wanting::Nothing("it has no key that the chain's headers bind".to_owned()));
            }
            Ok(right)
        };
        let (_, keys) = self.peers.ask(question).await.map_err(|last| {
            failed(format!("no node gave a key of epoch {epoch} or the next, which the chain's headers bind: {last}"))
        })?;
        self.keys.add(keys);
        Ok(())
    }
}
