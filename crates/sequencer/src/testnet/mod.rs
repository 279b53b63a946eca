//! `cascade testnet`: a local cluster of sequencers.

pub mod accounts;
