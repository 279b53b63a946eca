//! Where the proxy asks: its node, and a light client beside it that vouches for what the node says.
//!
//! ```text
//!   node ---- key of epoch e ----> same? ----> seal
//!   light client -- key of e, ------^
//!                   from headers
//! ```
//!
//! A key that was proved once in its epoch is proved for good, so the light client is asked once an epoch, and for accounts.
//! Its own questions to nodes end after 6 s; it is waited for `WITHIN`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, Bytes};
use cascade_primitives::{Epoch, Height};
use jsonrpsee::types::ErrorObjectOwned;
use thiserror::Error;

use super::{checks::Sender, sending::refused};
use crate::{
    cli::{Client, ClientError, Failure},
    exit::ExitCode,
    rpc::{error::server, types::EpochKeys},
};

/// How long the light client is waited for.
const WITHIN: Duration = Duration::from_secs(10);
/// The code with which a light client says that it has proved nothing.
const UNPROVED: i32 = -32000;
/// Keys that are remembered.
const KEPT: usize = 4;
/// For so long after the light client did not catch up in time nothing waits for it.
const TIRED: Duration = Duration::from_secs(10);

/// Why nothing can be sealed beside a light client.
#[derive(Debug, Error)]
pub enum NotProved {
    /// The node's key is another than the headers bind.
    #[error(
        "the node {node} gives a key of epoch {epoch} that is FALSE: the light client {light} proved another one from the \
         chain's headers. Whoever made it could read the transaction, so nothing is sealed to it; use another node"
    )]
    False {
        /// The node.
        node: String,
        /// The light client.
        light: String,
        /// The epoch.
        epoch: Epoch,
    },
    /// It follows another chain.
    #[error(
        "the light client {light} follows another chain than the node {node} (chain id, genesis or fork): {theirs}, the \
         node's {ours}; nothing is sealed"
    )]
    OtherChain {
        /// The node.
        node: String,
        /// The light client.
        light: String,
        /// What it follows.
        theirs: String,
        /// What the node is of.
        ours: String,
    },
    /// It has not come so far.
    #[error(
        "the light client {light} is behind: at block {height} of epoch {epoch}, and the node's key is of epoch {wanted}. \
         Nothing is sealed before it has caught up; send it again in a moment"
    )]
    Behind {
        /// The light client.
        light: String,
        /// Its epoch.
        epoch: Epoch,
        /// Its height.
        height: Height,
        /// The epoch of the node's key.
        wanted: Epoch,
    },
    /// The node has not come so far.
    #[error(
        "the node {node} is behind: it gives the key of epoch {given}, and the light client {light} is in epoch {epoch}, at \
         block {height}. Nothing is sealed before it has caught up; send it again in a moment, or use another node"
    )]
    NodeBehind {
        /// The node.
        node: String,
        /// The light client.
        light: String,
        /// Its epoch.
        epoch: Epoch,
        /// Its height.
        height: Height,
        /// The epoch of the node's key.
        given: Epoch,
    },
    /// It says why it proves nothing.
    #[error("the light client {light} proves no key, so nothing is sealed: {what}")]
    Refused {
        /// The light client.
        light: String,
        /// Its words.
        what: String,
    },
    /// It says nothing.
    #[error("the light client {light} does not answer, so nothing is sealed: {what}")]
    Silent {
        /// The light client.
        light: String,
        /// What the transport says.
        what: String,
    },
    /// It is a node.
    #[error(
        "--light {light} is not a light client: its answer is not proved, as a node's is not. Give the URL that \
         `cascade light --rpc-listen IP:PORT` prints"
    )]
    NoLightClient {
        /// The URL.
        light: String,
    },
}

impl NotProved {
    /// Whether a block or two may mend it.
    const fn passes(&self) -> bool {
        matches!(self, Self::Behind { .. } | Self::NodeBehind { .. })
    }
}

/// A light client.
pub struct Light {
    client: Client,
    /// Keys that it proved in their own epochs.
    proved: BTreeMap<Epoch, Bytes>,
    /// When it was last waited for in vain.
    in_vain: Option<Instant>,
    /// What was last said of a lie, so that it is said once.
    said: String,
}

fn chain(keys: &EpochKeys) -> String {
    format!("chain id {}, genesis {}, fork {}", keys.chain_id.0, keys.genesis_hash, keys.fork.0)
}

impl Light {
    /// The light client of this URL, for keys of the node's chain. One that has proved nothing yet will do.
    ///
    /// # Errors
    /// If it does not answer, is none, or follows another chain.
    pub async fn connect(url: &str, node: &Client) -> Result<Self, Failure> {
        let client = Client::patient(url, WITHIN)?;
        let light = Self { client, proved: BTreeMap::new(), in_vain: None, said: String::new() };
        let keys = node.epoch_keys().await?;
        match light.keys(node, &keys).await {
            Ok(proved) => tracing::info!(
                light = url,
                height = proved.height.0,
                epoch = proved.epoch.0,
                "keys are proved by the light client; what it has proved so far ends at this block"
            ),
            Err(error @ NotProved::Refused { .. }) => tracing::warn!("{error}; going on, since it may yet"),
            Err(error) => {
                let code = match &error {
                    NotProved::OtherChain { .. } => ExitCode::Foreign,
                    NotProved::Silent { .. } => ExitCode::Unreachable,
                    _ => ExitCode::Usage,
                };
                return Err(Failure { code, message: error.to_string() });
            }
        }
        Ok(light)
    }

    /// What it has proved of the node's chain.
    async fn keys(&self, node: &Client, keys: &EpochKeys) -> Result<EpochKeys, NotProved> {
        let light = || self.client.url().to_owned();
        let proved = self.client.epoch_keys().await.map_err(|error| match error {
            ClientError::Refused { message, code: UNPROVED, .. } => {
                NotProved::Refused { light: light(), what: message }
            }
            ClientError::Refused { .. } => NotProved::NoLightClient { light: light() },
            other => NotProved::Silent { light: light(), what: other.to_string() },
        })?;
        if !proved.proved {
            return Err(NotProved::NoLightClient { light: light() });
        }
        let of = |keys: &EpochKeys| (keys.chain_id, keys.genesis_hash, keys.fork);
        if of(&proved) != of(keys) {
            let (theirs, ours) = (chain(&proved), chain(keys));
            return Err(NotProved::OtherChain { node: node.url().to_owned(), light: light(), theirs, ours });
        }
        Ok(proved)
    }

    async fn prove(&mut self, node: &Client, keys: &EpochKeys) -> Result<(), NotProved> {
        let Some(given) = keys.keys.iter().find(|key| key.epoch == keys.epoch) else { return Ok(()) };
        let light = || self.client.url().to_owned();
        let node_url = || node.url().to_owned();
        let wrong = || NotProved::False { node: node_url(), light: light(), epoch: given.epoch };
        if let Some(right) = self.proved.get(&given.epoch) {
            return if *right == given.key { Ok(()) } else { Err(wrong()) };
        }
        let proved = self.keys(node, keys).await?;
        let (epoch, height, wanted) = (proved.epoch, proved.height, given.epoch);
        match proved.keys.iter().find(|right| right.epoch == given.epoch) {
            Some(right) if right.key == given.key => {
                // Until its epoch begins, a key can be that of a committee that never comes to be.
                if epoch == wanted {
                    self.proved.insert(wanted, given.key.clone());
                    while self.proved.len() > KEPT {
                        self.proved.pop_first();
                    }
                }
                Ok(())
            }
            Some(_) if epoch == wanted => Err(wrong()),
            _ if epoch > wanted => {
                Err(NotProved::NodeBehind { node: node_url(), light: light(), epoch, height, given: wanted })
            }
            _ => Err(NotProved::Behind { light: light(), epoch, height, wanted }),
        }
    }
}

/// The node and the light client.
pub struct Source {
    /// The node that takes envelopes.
    pub node: Client,
    /// A light client, if there is one.
    pub light: Option<Light>,
}

impl Source {
    /// Whether envelopes may be sealed to the node's key of its epoch. Without a light client the node is believed.
    ///
    /// # Errors
    /// Why not. The flag says that it may pass within a moment, and that waiting for it was not in vain just before.
    pub async fn prove(&mut self, keys: &EpochKeys) -> Result<(), (NotProved, bool)> {
        let Some(light) = &mut self.light else { return Ok(()) };
        let result = light.prove(&self.node, keys).await;
        if let Err(error @ (NotProved::False { .. } | NotProved::OtherChain { .. })) = &result {
            let text = error.to_string();
            if light.said != text {
                tracing::error!("{text}");
            }
            light.said = text;
        }
        result.map_err(|error| {
            let waits = error.passes() && light.in_vain.is_none_or(|at| at.elapsed() > TIRED);
            (error, waits)
        })
    }

    /// Remembers that the light client did not catch up while it was waited for.
    pub fn waited_in_vain(&mut self) {
        if let Some(light) = &mut self.light {
            light.in_vain = Some(Instant::now());
        }
    }

    /// Where accounts are asked for.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        match &self.light {
            Some(light) => Accounts { client: light.client.clone(), proved: true },
            None => Accounts { client: self.node.clone(), proved: false },
        }
    }
}

/// What senders have: proved by the light client, so that the node is not asked for a sender right before its envelope comes; as
/// the node says where there is none. What is proved is some blocks old.
#[derive(Clone)]
pub struct Accounts {
    client: Client,
    proved: bool,
}

impl Accounts {
    /// A sender's executed nonce and balance.
    ///
    /// # Errors
    /// What a wallet is told.
    pub async fn sender(&self, address: Address) -> Result<Sender, ErrorObjectOwned> {
        let found = tokio::try_join!(self.client.executed_nonce(address), self.client.balance(address));
        match found {
            Ok((next, balance)) => Ok(Sender { next, balance }),
            Err(ClientError::Refused { message, .. }) if self.proved => {
                let light = self.client.url();
                Err(server(format!("the light client {light} does not prove the sender's account: {message}")))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// A sender's executed nonce.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn executed_nonce(&self, address: Address) -> Result<u64, ClientError> {
        self.client.executed_nonce(address).await
    }
}
