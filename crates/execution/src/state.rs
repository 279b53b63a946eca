//! The state at a height, for execution, RPC and admission.
//!
//! [`State`] is shared: it holds the store and the caches in front of it. [`StateView`] is the state at one version and
//! never changes; reads at the newest version and a few below it are normally answered from memory.
//!
//! ```text
//!  store writes version h  -->  State::committed(changes of h)      (in this order, from one thread)
//!  store reverts to h      -->  State::reverted()
//!  anybody, any time       -->  State::at(h) -> StateView
//! ```

use std::{fmt, sync::Arc};

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use cascade_primitives::{Decode, Height};
use revm::{bytecode::Bytecode, primitives::KECCAK_EMPTY};
use thiserror::Error;

use crate::{
    cache::{CodeCache, NodeCache, ValueCache},
    keys::{Account, account_key, decode_slot, slot_key},
    proof::StateProof,
    store::{StateChanges, StateKey, StateStore, StoreError, ValueChange},
    tree::{Tree, TreeUpdate},
};

/// How much the caches may hold. Local to a node; the answers do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// Accounts and slots; about 300 bytes each.
    pub values: usize,
    /// Pages of the tree; up to 1.7 KB each, most of a large tree about 0.3 KB.
    pub nodes: usize,
    /// Contracts; up to 48 KB each.
    pub codes: usize,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self { values: 200_000, nodes: 60_000, codes: 512 }
    }
}

/// Why there is no state at a height.
#[derive(Debug, Error)]
pub enum StateError {
    /// The block has not been executed yet.
    #[error("state at height {asked} does not exist yet, the newest executed block is {newest}")]
    NotYet {
        /// The height asked for.
        asked: Height,
        /// The newest executed block.
        newest: Height,
    },
    /// The version was pruned.
    #[error("state at height {asked} was pruned, the oldest kept is {oldest}")]
    Pruned {
        /// The height asked for.
        asked: Height,
        /// The oldest version kept.
        oldest: Height,
    },
    /// Not even genesis is there.
    #[error("there is no state yet")]
    Empty,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Shared {
    store: Arc<dyn StateStore>,
    values: ValueCache,
    nodes: NodeCache,
    codes: CodeCache,
}

/// All versions of the state, with the caches in front of the store. Cheap to clone.
#[derive(Clone)]
pub struct State(Arc<Shared>);

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("State").field(&self.0.store.versions()).finish()
    }
}

impl State {
    /// The state in a store, which may be empty.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(store: Arc<dyn StateStore>, sizes: CacheSizes) -> Result<Self, StoreError> {
        let newest = store.versions()?.map(|versions| *versions.end());
        let values = ValueCache::new(sizes.values);
        values.reset(newest);
        let (nodes, codes) = (NodeCache::new(sizes.nodes), CodeCache::new(sizes.codes));
        Ok(Self(Arc::new(Shared { store, values, nodes, codes })))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.0.store
    }

    /// The newest version; `None` before genesis.
    ///
    /// # Errors
    /// If the store fails.
    pub fn newest(&self) -> Result<Option<Height>, StoreError> {
        Ok(self.0.store.versions()?.map(|versions| *versions.end()))
    }

    /// The state after the block at `height`.
    ///
    /// # Errors
    /// If it does not exist yet, was pruned, or the store fails.
    pub fn at(&self, height: Height) -> Result<StateView, StateError> {
        let versions = self.0.store.versions()?.ok_or(StateError::Empty)?;
        let (oldest, newest) = versions.into_inner();
        if height > newest {
            return Err(StateError::NotYet { asked: height, newest });
        }
        if height < oldest {
            return Err(StateError::Pruned { asked: height, oldest });
        }
        Ok(StateView { shared: Arc::clone(&self.0), version: height })
    }

    /// The state after the newest executed block.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub fn latest(&self) -> Result<StateView, StateError> {
        self.at(self.newest()?.ok_or(StateError::Empty)?)
    }

    /// Tells the caches that the store has written `changes`.
    pub fn committed(&self, changes: &StateChanges) {
        self.0.values.apply(changes);
        self.0.nodes.apply(changes);
    }

    /// Tells the caches that the store has reverted or was changed in any other way than [`Self::committed`] says.
    ///
    /// # Errors
    /// If the store fails.
    pub fn reverted(&self) -> Result<(), StoreError> {
        self.0.nodes.clear();
        self.0.values.reset(self.newest()?);
        Ok(())
    }
}

/// The state after one block. Never changes; reads fail once the store has pruned or reverted its version.
#[derive(Clone)]
pub struct StateView {
    shared: Arc<Shared>,
    version: Height,
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateView").field(&self.version).finish()
    }
}

impl StateView {
    /// The height of the block whose state this is.
    #[must_use]
    pub const fn version(&self) -> Height {
        self.version
    }

    /// Root of the state tree.
    ///
    /// # Errors
    /// If the store fails.
    pub fn root(&self) -> Result<B256, StoreError> {
        self.tree().root(self.version)
    }

    /// An account, or `None` if it is not there.
    ///
    /// # Errors
    /// If the store fails or holds something else.
    pub fn account(&self, address: &Address) -> Result<Option<Account>, StoreError> {
        let value = self.value(account_key(address))?;
        let account = value.as_deref().map(Account::from_slice).transpose();
        account.map_err(|error| StoreError::new("read account", format!("{address}: {error}")))
    }

    /// A storage slot; zero if it is not there.
    ///
    /// # Errors
    /// If the store fails or holds something else.
    pub fn storage(&self, address: &Address, slot: &U256) -> Result<U256, StoreError> {
        let Some(value) = self.value(slot_key(address, slot))? else { return Ok(U256::ZERO) };
        decode_slot(&value).map_err(|error| StoreError::new("read slot", format!("{address} {slot}: {error}")))
    }

    /// The code of an account; empty if it has none.
    ///
    /// # Errors
    /// If the store fails.
    pub fn code(&self, address: &Address) -> Result<Bytes, StoreError> {
        match self.account(address)? {
            Some(account) if account.has_code() => Ok(self.bytecode(&account.code_hash)?.original_bytes().0),
            _ => Ok(Bytes::new()),
        }
    }

    /// Proves what stands, or does not stand, at a key.
    ///
    /// # Errors
    /// If the store fails.
    pub fn prove(&self, key: &StateKey) -> Result<StateProof, StoreError> {
        self.tree().prove(self.version, key)
    }

    /// Proves an account or its absence.
    ///
    /// # Errors
    /// If the store fails.
    pub fn prove_account(&self, address: &Address) -> Result<StateProof, StoreError> {
        self.prove(&account_key(address))
    }

    /// Proves a storage slot, or that it is zero.
    ///
    /// # Errors
    /// If the store fails.
    pub fn prove_slot(&self, address: &Address, slot: &U256) -> Result<StateProof, StoreError> {
        self.prove(&slot_key(address, slot))
    }

    pub(crate) fn bytecode(&self, hash: &B256) -> Result<Bytecode, StoreError> {
        if *hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        if let Some(code) = self.shared.codes.get(hash) {
            return Ok(code);
        }
        let raw = self.shared.store.code(hash)?.ok_or_else(|| StoreError::new("read code", format!("{hash}")))?;
        let code = Bytecode::new_raw_checked(raw.into()).map_err(|error| StoreError::new("read code", error))?;
        self.shared.codes.insert(*hash, code.clone());
        Ok(code)
    }

    /// What the next version adds to the tree.
    pub(crate) fn update(&self, changes: &[ValueChange]) -> Result<TreeUpdate, StoreError> {
        self.tree().update(self.version.next(), changes)
    }

    fn tree(&self) -> Tree<'_> {
        Tree::new(&*self.shared.store, &self.shared.nodes)
    }

    fn value(&self, key: StateKey) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.shared.values.get(&key, self.version) {
            return Ok(value);
        }
        let record = self.shared.store.value(&key, self.version)?;
        let value = record.as_ref().and_then(|record| record.value.clone());
        self.shared.values.loaded(key, self.version, record);
        Ok(value)
    }
}
