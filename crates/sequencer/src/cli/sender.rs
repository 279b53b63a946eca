//! Who signs what a command sends.

use std::path::{Path, PathBuf};

use cascade_primitives::{ChainId, ChainParams, Network};
use clap::Args;
use zeroize::Zeroizing;

use super::Failure;
use crate::{
    config::keys::{KeyError, parse_secret, read_secret},
    testnet::accounts,
    wallet::Wallet,
};

/// The flags that name an account.
#[derive(Debug, Args)]
pub struct SenderArgs {
    /// The sender's private key, 32 bytes of hex. Other users of this machine can see it; --key-file hides it.
    #[arg(long, value_name = "HEX")]
    pub key: Option<String>,
    /// A file with the sender's private key, mode 600.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// An account of the public development mnemonic, 0-19. Only on regtest.
    #[arg(long, value_name = "N")]
    pub account: Option<usize>,
}

impl SenderArgs {
    /// The account.
    ///
    /// # Errors
    /// If none or a wrong one is named.
    pub fn wallet(&self, chain: ChainId) -> Result<Wallet, Failure> {
        if let Some(index) = self.account {
            if chain != ChainParams::of(Network::Regtest).chain_id {
                return Err(Failure::usage(format!(
                    "--account is for regtest alone: everybody knows its keys, and this node is on chain {chain}"
                )));
            }
            let accounts = accounts::dev_accounts();
            return accounts
                .get(index)
                .cloned()
                .ok_or_else(|| Failure::usage(format!("--account {index}: there are 0 to {}", accounts.len() - 1)));
        }
        let secret: Zeroizing<[u8; 32]> = match (&self.key, &self.key_file) {
            (Some(key), _) => parse_secret(key).ok_or_else(|| Failure::usage("--key: expected 32 bytes of hex"))?,
            (None, Some(file)) => read_key_file(file)?,
            (None, None) => return Err(Failure::usage("one of --key, --key-file, --account and --raw is needed")),
        };
        Wallet::new(*secret)
            .ok_or_else(|| Failure::usage("the private key is no key: zero, or not below the group's order"))
    }
}

/// The secret in a file that --key-file, or a flag like it, names.
pub(super) fn read_key_file(file: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    read_secret(file).map_err(|error| {
        let message = match &error {
            KeyError::Missing { path } => format!(
                "--key-file: {} is not there; give a file with the account's private key, 64 hex digits, mode 600",
                path.display()
            ),
            KeyError::Malformed { path, what } => {
                format!("--key-file: {} holds no private key: {what}", path.display())
            }
            other => format!("--key-file: {other}"),
        };
        Failure { code: error.exit_code(), message }
    })
}
