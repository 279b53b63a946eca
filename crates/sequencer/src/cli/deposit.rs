//! `cascade deposit`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::SigningContext;
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{
    Client, Failure, block_on, output,
    send::explain,
    sender::{SenderArgs, read_key_file},
    units,
};
use crate::{
    rpc::types::EnvelopeState,
    sealing,
    wallet::{Fees, TRANSFER_GAS, Transfer, Wallet},
};

/// How often the node is asked.
const POLL: Duration = Duration::from_millis(50);

/// Puts money of an account into the fee ledger of an encrypted chain, from which envelopes are paid.
///
/// The transfer goes out in the clear and shows who funds which payer. By default the account is its own payer.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("source").required(true).args(["key", "key_file", "account"])),
    after_help = "Examples:\n  cascade deposit --account 3 --value 5\n  \
                  cascade deposit --key-file me.key --value 1 --payer-key-file cascade-proxy/payer.key"
)]
pub struct DepositArgs {
    /// The node's JSON-RPC.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545", env = "CASCADE_RPC")]
    rpc: String,
    #[command(flatten)]
    sender: SenderArgs,
    /// Amount in CAS.
    #[arg(long, value_name = "CAS", value_parser = units::parse_cas)]
    value: U256,
    /// A file with the payer's private key, mode 600: it consents to the deposit [default: the sender's].
    #[arg(long, value_name = "FILE")]
    payer_key_file: Option<PathBuf>,
    /// Give up waiting after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    hash: B256,
    payer: Address,
    /// The payer's balance afterwards, in wei.
    balance: U256,
    executed_ms: u64,
}

/// Runs the command.
pub fn run(args: DepositArgs) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(&args.rpc)?;
        let params = client.ledger_params().await?;
        let wallet = args.sender.wallet(params.chain_id)?;
        let payer = match &args.payer_key_file {
            Some(file) => Wallet::new(*read_key_file(file)?).ok_or_else(|| {
                Failure::usage("the payer's private key is no key: zero, or not below the group's order")
            })?,
            None => wallet.clone(),
        };
        let keys = client.epoch_keys().await?;
        let context = SigningContext { chain_id: keys.chain_id, genesis_hash: keys.genesis_hash, fork: keys.fork };
        let tip = client.tip().await?.max(1);
        let raw: Bytes = wallet
            .sign(&Transfer {
                chain: params.chain_id,
                nonce: client.next_nonce(wallet.address()).await?,
                to: payer.address(),
                value: args.value,
                data: Bytes::new(),
                gas: TRANSFER_GAS,
                fees: Fees { max: 2 * u128::from(keys.base_fee) + tip, tip },
            })
            .1
            .into();
        let (hash, item) = sealing::deposit(&raw, payer.signing_key(), &context).map_err(Failure::new)?;
        let sent = Instant::now();
        client.send_item(&item).await.map_err(explain)?;
        wait(&args, &client, hash, sent).await?;
        let executed_ms = sent.elapsed().as_millis() as u64;
        let balance = client.payer(payer.address()).await?.balance;
        let outcome = Outcome { hash, payer: payer.address(), balance, executed_ms };
        if args.json {
            return output::json(&outcome);
        }
        output::line(&format!("transaction  {hash}"))?;
        output::line(&format!("payer        {}, {} CAS", outcome.payer, units::format_cas(balance)))
    })
}

async fn wait(args: &DepositArgs, client: &Client, hash: B256, sent: Instant) -> Result<(), Failure> {
    let deadline = sent + Duration::from_secs(args.timeout);
    loop {
        if let Some(status) = client.envelope_status(hash).await? {
            match (status.status, status.reason) {
                (EnvelopeState::Executed, _) => return Ok(()),
                (EnvelopeState::Failed, reason) => {
                    return Err(Failure::new(format!("the deposit failed: {}", reason.unwrap_or_default())));
                }
                _ => {}
            }
        }
        if Instant::now() > deadline {
            let seconds = args.timeout;
            return Err(Failure::new(format!("{hash} is not executed after {seconds} s and may still become so")));
        }
        tokio::time::sleep(POLL).await;
    }
}
