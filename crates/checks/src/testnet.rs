//! `cascade-sequencer`'s module of this name, as far as its configuration needs it.

#[allow(dead_code)]
#[path = "../../sequencer/src/testnet/accounts.rs"]
pub(crate) mod accounts;
