//! `cascade send`.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{ChainId, ChainParams, Network};
use clap::{ArgGroup, Args};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Client, ClientError, Failure, block_on, output, units};
use crate::{
    config::keys::{KeyError, parse_secret, read_secret},
    rpc::types::FinalityStatus,
    testnet::accounts,
    wallet::{Fees, Transfer, Wallet},
};

/// How often finality is asked for.
const POLL: Duration = Duration::from_millis(20);
/// A transfer without data offers at least this much, in wei per gas.
const LEAST_TIP: u128 = 1;

/// What to do about refusals of the pool, by what their texts hold.
const REMEDIES: [(&str, &str); 9] = [
    ("nonce too low", "leave --nonce away, or give the next one"),
    ("nonce too high", "send the transactions below it first, or leave --nonce away"),
    ("insufficient funds", "send less, or fund the account first"),
    ("replacement transaction underpriced", "one with this nonce waits already: offer more with --tip and --max-fee"),
    ("transaction underpriced", "offer more with --max-fee"),
    ("intrinsic gas too low", "raise --gas, or leave it away"),
    ("insufficient gas", "raise --gas, or leave it away"),
    ("account limit exceeded", "wait until earlier transactions of this account are final"),
    ("txpool is full", "wait a while, or send through another node"),
];

/// Sends a transfer, a call, or a signed transaction, and waits until it is final and executed.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("source").required(true).args(["key", "key_file", "account", "raw"])),
    after_help = "Examples:\n  cascade send --account 0 --to 0x000000000000000000000000000000000000dEaD --value 1\n  \
                  cascade send --rpc http://127.0.0.1:8545 --key-file me.key --to 0x... --value 0.25 --json\n  \
                  cascade send --raw 0x02f8..."
)]
pub struct SendArgs {
    /// The node's JSON-RPC.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545", env = "CASCADE_RPC")]
    rpc: String,
    /// The sender's private key, 32 bytes of hex. Other users of this machine can see it; --key-file hides it.
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
    /// A file with the sender's private key, mode 600.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// An account of the public development mnemonic, 0-19. Only on regtest.
    #[arg(long, value_name = "N")]
    account: Option<usize>,
    /// A signed transaction, sent as it is.
    #[arg(long, value_name = "HEX", conflicts_with_all = ["to", "value", "data"])]
    raw: Option<Bytes>,
    /// The receiver.
    #[arg(long, value_name = "ADDRESS", value_parser = units::parse_address, required_unless_present = "raw")]
    to: Option<Address>,
    /// Amount in CAS.
    #[arg(long, value_name = "CAS", default_value = "0", value_parser = units::parse_cas)]
    value: U256,
    /// Call data.
    #[arg(long, value_name = "HEX", default_value = "0x")]
    data: Bytes,
    /// Gas limit; estimated by default.
    #[arg(long, value_name = "GAS")]
    gas: Option<u64>,
    /// Most wei per gas; by default twice the base fee and the tip.
    #[arg(long, value_name = "WEI")]
    max_fee: Option<u128>,
    /// Wei per gas for the producer; by default what the node suggests.
    #[arg(long, value_name = "WEI")]
    tip: Option<u128>,
    /// The sender's nonce; by default the next one.
    #[arg(long, value_name = "NONCE")]
    nonce: Option<u64>,
    /// Do not wait.
    #[arg(long)]
    no_wait: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<B256>,
    /// From sending to the news of its finality.
    #[serde(skip_serializing_if = "Option::is_none")]
    finality_ms: Option<u64>,
    /// Whether its execution succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
}

/// Runs the command.
pub fn run(args: SendArgs) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(&args.rpc)?;
        let raw = match &args.raw {
            Some(raw) => raw.to_vec(),
            None => sign(&args, &client).await?,
        };
        let sent = Instant::now();
        let hash = client.send_raw(&raw).await.map_err(explain)?;
        if args.no_wait {
            return report(&args, &Outcome { hash, height: None, block: None, finality_ms: None, success: None });
        }
        output::note(&format!("sent {hash}"));
        let outcome = wait(&args, &client, hash, sent).await?;
        report(&args, &outcome)?;
        match outcome.success {
            Some(false) => Err(Failure::new("the transaction is final, but its execution failed")),
            _ => Ok(()),
        }
    })
}

/// Adds what to do to a refusal whose text says only what is wrong.
fn explain(error: ClientError) -> Failure {
    let remedy = match &error {
        ClientError::Refused { message, .. } => REMEDIES.iter().find(|(text, _)| message.contains(text)),
        _ => None,
    };
    let mut failure = Failure::from(error);
    if let Some((_, remedy)) = remedy {
        failure.message = format!("{}; {remedy}", failure.message);
    }
    failure
}

async fn sign(args: &SendArgs, client: &Client) -> Result<Vec<u8>, Failure> {
    let chain = ChainId(client.chain_id().await?);
    let wallet = wallet(args, chain)?;
    let to = args.to.ok_or_else(|| Failure::usage("--to is missing"))?;
    let nonce = nonce(args, client, wallet.address()).await?;
    let tip = match args.tip {
        Some(tip) => tip,
        None => client.tip().await?.max(LEAST_TIP),
    };
    let max = match args.max_fee {
        Some(max) => max,
        None => 2 * u128::from(client.status().await?.next_base_fee) + tip,
    };
    let balance = client.balance(wallet.address()).await?;
    afford(wallet.address(), balance, args.value, U256::ZERO)?;
    let gas = match args.gas {
        Some(gas) => gas,
        None => client.estimate_gas(wallet.address(), to, args.value, &args.data).await?,
    };
    afford(wallet.address(), balance, args.value, U256::from(gas).saturating_mul(U256::from(max)))?;
    let fees = Fees { max, tip: tip.min(max) };
    let transfer = Transfer { chain, nonce, to, value: args.value, data: args.data.clone(), gas, fees };
    Ok(wallet.sign(&transfer).1)
}

/// Refuses what an account cannot pay: `gas` is the most that the gas may cost. All in wei.
fn afford(account: Address, balance: U256, value: U256, gas: U256) -> Result<(), Failure> {
    if value.checked_add(gas).is_some_and(|cost| cost <= balance) {
        return Ok(());
    }
    let gas =
        if gas.is_zero() { "the gas".to_owned() } else { format!("up to {} CAS for gas", units::format_cas(gas)) };
    Err(Failure::new(format!(
        "insufficient funds: {account} has {} CAS and would need {} CAS and {gas}; send less, or fund the account first",
        units::format_cas(balance),
        units::format_cas(value)
    )))
}

/// The nonce to use: the one that was given, else the next. One that a waiting transaction has replaces that one; the
/// node judges it.
async fn nonce(args: &SendArgs, client: &Client, account: Address) -> Result<u64, Failure> {
    let next = client.next_nonce(account).await?;
    let nonce = args.nonce.unwrap_or(next);
    if nonce > next {
        output::note(&format!("{}; send those first, or leave --nonce away", gap(account, nonce, next)));
    }
    Ok(nonce)
}

/// Says that a transaction waits for others.
fn gap(account: Address, nonce: u64, next: u64) -> String {
    let missing = if next + 1 == nonce { format!("nonce {next}") } else { format!("nonces {next} to {}", nonce - 1) };
    format!("nonce {nonce} of {account} waits in the pool until {missing} arrived")
}

fn wallet(args: &SendArgs, chain: ChainId) -> Result<Wallet, Failure> {
    if let Some(index) = args.account {
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
    let secret: Zeroizing<[u8; 32]> = match (&args.key, &args.key_file) {
        (Some(key), _) => parse_secret(key).ok_or_else(|| Failure::usage("--key: expected 32 bytes of hex"))?,
        (None, Some(file)) => read_key_file(file)?,
        (None, None) => return Err(Failure::usage("one of --key, --key-file, --account and --raw is needed")),
    };
    Wallet::new(*secret)
        .ok_or_else(|| Failure::usage("the private key is no key: zero, or not below the group's order"))
}

fn read_key_file(file: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
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

async fn wait(args: &SendArgs, client: &Client, hash: B256, sent: Instant) -> Result<Outcome, Failure> {
    let deadline = sent + Duration::from_secs(args.timeout);
    let mut outcome = Outcome { hash, height: None, block: None, finality_ms: None, success: None };
    loop {
        let finality = client.finality(hash).await?;
        if let Some(finality) = finality.filter(|finality| finality.status >= FinalityStatus::Final) {
            if outcome.finality_ms.is_none() {
                let ms = sent.elapsed().as_millis() as u64;
                outcome.finality_ms = Some(ms);
                outcome.height = finality.height.map(|height| height.0);
                outcome.block = finality.block.map(B256::from);
                output::note(&format!("final after {ms} ms"));
            }
            if finality.status >= FinalityStatus::Executed {
                outcome.success = client.succeeded(hash).await?;
                return Ok(outcome);
            }
        }
        if Instant::now() > deadline {
            let what = if outcome.finality_ms.is_some() { "executed" } else { "final" };
            return Err(Failure::new(format!(
                "{hash} is not {what} after {} s and may still become so: it waits if its nonce leaves a gap, if it \
                 offers less than the base fee, or if blocks do not become final (cascade status)",
                args.timeout
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn report(args: &SendArgs, outcome: &Outcome) -> Result<(), Failure> {
    if args.json {
        return output::json(outcome);
    }
    output::line(&format!("transaction  {}", outcome.hash))?;
    if let (Some(height), Some(ms)) = (outcome.height, outcome.finality_ms) {
        output::line(&format!("block        {height}, final after {ms} ms"))?;
    }
    match outcome.success {
        Some(success) => output::line(&format!("execution    {}", if success { "succeeded" } else { "failed" })),
        None => Ok(()),
    }
}
