//! Probes: one transfer a second, and how long each took to be final.
//!
//! A probe's time runs from just before it is sent to a node until that node reports, as an event, that the block which
//! holds it has a commit certificate. Execution is not waited for. On an encrypted chain probes are sealed, and a block does
//! not show what is in it; the node then says of each probe whether it is ordered.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{ChainParams, TransactionRule};

use super::{accounts, watch::Seen};
use crate::{
    cli::{Client, ClientError},
    home::unix_ms,
    sealing::{Seal, SealingError},
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};

/// Blocks for which a sealed probe is valid.
const VALID_FOR: u64 = 200;

/// A probe that is not final by then is given up.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Times that are kept for the live view.
pub const KEPT: usize = 100;
/// 1000 gwei a gas: enough under any load on regtest, and 0.021 CAS in all.
const FEES: Fees = Fees { max: 1_000_000_000_000, tip: 1 };

/// Sends probes and measures their finality.
#[derive(Debug)]
pub struct Probes {
    clients: Vec<Client>,
    params: ChainParams,
    wallet: Wallet,
    /// None: ask the node.
    nonce: Option<u64>,
    /// The payer's nonce on an encrypted chain; none: ask the node.
    payer_nonce: Option<u64>,
    sent: u64,
    waiting: HashMap<B256, (usize, Instant)>,
    /// All times since the start, the newest last.
    times: Vec<Duration>,
    recent: VecDeque<Duration>,
}

impl Probes {
    /// Probes through these nodes in turn.
    #[must_use]
    pub fn new(clients: Vec<Client>, params: ChainParams) -> Self {
        Self {
            clients,
            params,
            wallet: accounts::probe_account(),
            nonce: None,
            payer_nonce: None,
            sent: 0,
            waiting: HashMap::new(),
            times: Vec::new(),
            recent: VecDeque::with_capacity(KEPT + 1),
        }
    }

    /// All times so far.
    #[must_use]
    pub fn times(&self) -> &[Duration] {
        &self.times
    }

    /// The last [`KEPT`] times.
    pub fn recent(&self) -> impl Iterator<Item = Duration> + '_ {
        self.recent.iter().copied()
    }

    /// Whether a probe is on its way.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a node of an encrypted chain has the key that transactions are sealed to now.
    pub async fn can_seal(&self, node: usize) -> bool {
        self.clients[node].epoch_keys().await.is_ok_and(|keys| Seal::of(&keys, VALID_FOR).is_ok())
    }

    /// Sends a probe to the next node that is up.
    pub async fn send(&mut self, is_up: impl Fn(usize) -> bool) {
        let count = self.clients.len();
        let Some(node) = (0..count).map(|i| (self.sent as usize + i) % count).find(|node| is_up(*node)) else { return };
        self.sent += 1;
        self.waiting.retain(|_, (_, at)| at.elapsed() < LOST_AFTER);
        match self.send_to(node).await {
            Ok((hash, at)) => {
                self.waiting.insert(hash, (node, at));
            }
            // The next probe asks for its nonce again: this one may or may not have arrived.
            Err(error) => {
                (self.nonce, self.payer_nonce) = (None, None);
                tracing::debug!(%error, "a probe could not be sent");
            }
        }
    }

    async fn send_to(&mut self, node: usize) -> Result<(B256, Instant), ClientError> {
        let client = &self.clients[node];
        if self.params.transactions == TransactionRule::Opaque {
            let payload = format!("cascade probe {} {}", unix_ms(), self.sent);
            let at = Instant::now();
            return Ok((client.send_opaque(payload.as_bytes()).await?, at));
        }
        let nonce = match self.nonce {
            Some(nonce) => nonce,
            None => client.next_nonce(self.wallet.address()).await?,
        };
        let transfer = Transfer {
            chain: self.params.chain_id,
            nonce,
            to: Address::repeat_byte(0xca),
            value: U256::from(1),
            data: Bytes::new(),
            gas: TRANSFER_GAS,
            fees: FEES,
        };
        let (hash, raw) = self.wallet.sign(&transfer);
        if self.params.transactions == TransactionRule::Encrypted {
            return self.send_sealed(node, &raw.into(), nonce).await;
        }
        let at = Instant::now();
        client.send_raw(&raw).await?;
        self.nonce = Some(nonce + 1);
        Ok((hash, at))
    }

    async fn send_sealed(&mut self, node: usize, raw: &Bytes, nonce: u64) -> Result<(B256, Instant), ClientError> {
        let client = &self.clients[node];
        let not_yet = |error: &SealingError| ClientError::Refused {
            method: "l2_epochKey".to_owned(),
            message: error.to_string(),
            code: 0,
        };
        let seal = Seal::of(&client.epoch_keys().await?, VALID_FOR).map_err(|error| not_yet(&error))?;
        let payer_nonce = match self.payer_nonce {
            Some(nonce) => nonce,
            None => client.payer(self.wallet.address()).await?.next_nonce,
        };
        let at = Instant::now();
        let sealed = seal.transaction(raw, self.wallet.signing_key(), payer_nonce, &self.params);
        let name = client.send_item(sealed.map_err(|error| not_yet(&error))?.raw()).await?;
        (self.nonce, self.payer_nonce) = (Some(nonce + 1), Some(payer_nonce + 1));
        Ok((name, at))
    }

    /// Takes note of a final block.
    pub async fn observe(&mut self, seen: &Seen) {
        if !self.waiting.values().any(|(node, _)| *node == seen.node) {
            return;
        }
        for hash in self.final_probes(seen).await {
            if let Some((node, at)) = self.waiting.get(&hash).copied()
                && node == seen.node
            {
                self.waiting.remove(&hash);
                let time = seen.at.saturating_duration_since(at);
                self.times.push(time);
                self.recent.push_back(time);
                if self.recent.len() > KEPT {
                    self.recent.pop_front();
                }
            }
        }
    }

    /// What a node has in its final order, probes that wait among it.
    async fn final_probes(&self, seen: &Seen) -> Vec<B256> {
        let client = &self.clients[seen.node];
        if self.params.transactions != TransactionRule::Encrypted {
            let block = client.block(seen.block.height.0).await;
            return block.ok().flatten().and_then(|block| block.transactions).unwrap_or_default();
        }
        let mut found = Vec::new();
        for (name, _) in self.waiting.iter().filter(|(_, (node, _))| *node == seen.node) {
            let status = client.envelope_status(*name).await.ok().flatten();
            // One that a later block holds is found when that block is seen.
            if status.and_then(|status| status.height).is_some_and(|height| height <= seen.block.height) {
                found.push(*name);
            }
        }
        found
    }
}
