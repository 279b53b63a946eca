//! `cascade send`.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_primitives::{ChainId, ChainParams, TransactionRule};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{Client, ClientError, Failure, block_on, output, proxy::GasClassesArgs, sender::SenderArgs, units};
use crate::{
    rpc::types::{EnvelopeState, FinalityStatus, Payer},
    sealing::Seal,
    wallet::{Fees, Transfer, Wallet},
};

/// Blocks for which an envelope is valid, unless the chain allows fewer.
pub(super) const VALID_FOR: u64 = 200;
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
///
/// On an encrypted chain it is sealed here, and the sender's own account in the fee ledger pays (see `cascade deposit`);
/// without money there, or with --raw, a `cascade proxy` at --rpc seals and pays.
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
    #[command(flatten)]
    sender: SenderArgs,
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
    #[command(flatten)]
    classes: GasClassesArgs,
    /// Where it is sealed here, blocks within which it has to be ordered, or nothing comes of it and nothing is charged; 200 by
    /// default, and no more than the chain allows. Fewer for a trade, whose limit goes out of date while it is left out.
    #[arg(long, value_name = "BLOCKS", conflicts_with = "raw")]
    valid_for: Option<NonZeroU64>,
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

#[derive(Debug, Default, Serialize)]
struct Outcome {
    hash: B256,
    /// On an encrypted chain, the envelope around it, if it was sealed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<B256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<B256>,
    /// From sending to the news of its finality.
    #[serde(skip_serializing_if = "Option::is_none")]
    finality_ms: Option<u64>,
    /// On an encrypted chain, from sending to the news of its execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_ms: Option<u64>,
    /// Whether its execution succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    /// Why nothing ran in its envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Runs the command.
pub fn run(args: SendArgs) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(&args.rpc)?;
        let params = client.params().await?;
        let is_encrypted = params.transactions == TransactionRule::Encrypted;
        let payer = if is_encrypted { payer(&args, &client, &params).await? } else { None };
        let raw: Bytes = match &args.raw {
            Some(raw) => raw.clone(),
            None => sign(&args, &client, is_encrypted).await?.into(),
        };
        let sent = Instant::now();
        let (hash, envelope) = match &payer {
            Some(payer) => {
                let blocks = args.valid_for.map_or(VALID_FOR, NonZeroU64::get);
                let seal = Seal::of(&client.epoch_keys().await?, blocks).map_err(Failure::new)?;
                send_sealed(&client, &params, &seal.with_classes(&args.classes.gas_classes), payer, &raw).await?
            }
            None if args.valid_for.is_some() => {
                return Err(Failure::usage(
                    "--valid-for is for what is sealed here, with the sender's own account in the fee ledger (cascade deposit): \
                     a proxy seals what is not ordered in its time again, and on a chain in the clear nothing is sealed",
                ));
            }
            None => (client.send_raw(&raw).await.map_err(explain)?, None),
        };
        let outcome = Outcome { hash, envelope, ..Outcome::default() };
        if args.no_wait {
            return report(&args, &outcome);
        }
        output::note(&format!("sent {hash}"));
        let outcome = match is_encrypted {
            true => wait_sealed(&args, &client, outcome, sent).await?,
            false => wait(&args, &client, outcome, sent).await?,
        };
        report(&args, &outcome)?;
        match (outcome.success, &outcome.reason) {
            (Some(false), Some(reason)) => {
                Err(Failure::new(format!("the envelope is final and charged, but nothing ran in it: {reason}")))
            }
            (Some(false), None) => Err(Failure::new("the transaction is final, but its execution failed")),
            _ => Ok(()),
        }
    })
}

/// Who pays for an envelope, on an encrypted chain: the sender's own account in the fee ledger; none where a proxy seals.
async fn payer(args: &SendArgs, client: &Client, params: &ChainParams) -> Result<Option<(Wallet, Payer)>, Failure> {
    if args.raw.is_some() {
        // Whoever signed it is not here to pay. A proxy takes it; a node says so.
        return Ok(None);
    }
    let wallet = args.sender.wallet(params.chain_id)?;
    let account = client.payer(wallet.address()).await?;
    if !account.balance.is_zero() {
        return Ok(Some((wallet, account)));
    }
    if client.proxy().await?.is_some() {
        return Ok(None);
    }
    Err(Failure::new(format!(
        "this chain is encrypted, and {} has nothing in its fee ledger to pay an envelope with; `cascade deposit` with this \
         account puts some of its CAS there, or send through a `cascade proxy`, which pays",
        wallet.address()
    )))
}

/// Seals and sends a transaction: its hash and its envelope's.
async fn send_sealed(
    client: &Client,
    params: &ChainParams,
    seal: &Seal,
    (wallet, account): &(Wallet, Payer),
    raw: &Bytes,
) -> Result<(B256, Option<B256>), Failure> {
    let envelope = seal.transaction(raw, wallet.signing_key(), account.next_nonce, params).map_err(Failure::new)?;
    let cost = envelope.max_cost();
    if cost > account.balance {
        return Err(Failure::new(format!(
            "insufficient funds: {} has {} CAS in the fee ledger and the envelope may cost {} CAS; `cascade deposit` puts \
             more there",
            wallet.address(),
            units::format_cas(account.balance),
            units::format_cas(cost)
        )));
    }
    let name = client.send_item(envelope.raw()).await.map_err(explain)?;
    Ok((alloy_primitives::keccak256(raw), Some(name)))
}

/// Adds what to do to a refusal whose text says only what is wrong.
pub(super) fn explain(error: ClientError) -> Failure {
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

/// Signs the transaction. What is sealed has its gas paid by the envelope's payer.
async fn sign(args: &SendArgs, client: &Client, is_sealed: bool) -> Result<Vec<u8>, Failure> {
    let chain = ChainId(client.chain_id().await?);
    let wallet = args.sender.wallet(chain)?;
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
    if !is_sealed {
        afford(wallet.address(), balance, args.value, U256::from(gas).saturating_mul(U256::from(max)))?;
    }
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

/// Waits for a transaction that went out sealed, by its envelope or, where a proxy made that, by its own hash.
async fn wait_sealed(
    args: &SendArgs,
    client: &Client,
    mut outcome: Outcome,
    sent: Instant,
) -> Result<Outcome, Failure> {
    let deadline = sent + Duration::from_secs(args.timeout);
    loop {
        let status = client.envelope_status(outcome.envelope.unwrap_or(outcome.hash)).await?;
        if let Some(status) = status.as_ref().filter(|status| status.status == EnvelopeState::Expired) {
            return Err(Failure::new(format!(
                "{} is {}; nothing was charged, send it again",
                outcome.hash,
                status.reason.as_deref().unwrap_or("not ordered in its time")
            )));
        }
        if let Some(status) = status.filter(|status| status.status.is_ordered()) {
            let ms = sent.elapsed().as_millis() as u64;
            if outcome.finality_ms.is_none() {
                (outcome.finality_ms, outcome.height) = (Some(ms), status.height.map(|height| height.0));
                output::note(&format!("final after {ms} ms"));
            }
            if matches!(status.status, EnvelopeState::Executed | EnvelopeState::Failed) {
                outcome.executed_ms = Some(ms);
                outcome.block = match status.height {
                    Some(height) => client.block(height.0).await?.map(|block| B256::from(block.hash)),
                    None => None,
                };
                outcome.reason = status.reason;
                outcome.success = match status.status {
                    EnvelopeState::Failed => Some(false),
                    _ => client.succeeded(outcome.hash).await?,
                };
                return Ok(outcome);
            }
        }
        if Instant::now() > deadline {
            return Err(late(args, &outcome));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn late(args: &SendArgs, outcome: &Outcome) -> Failure {
    let what = if outcome.finality_ms.is_some() { "executed" } else { "final" };
    Failure::new(format!(
        "{} is not {what} after {} s and may still become so: it waits if its nonce leaves a gap, if it offers less than \
         the base fee, or if blocks do not become final (cascade status)",
        outcome.hash, args.timeout
    ))
}

async fn wait(args: &SendArgs, client: &Client, mut outcome: Outcome, sent: Instant) -> Result<Outcome, Failure> {
    let deadline = sent + Duration::from_secs(args.timeout);
    let hash = outcome.hash;
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
            return Err(late(args, &outcome));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn report(args: &SendArgs, outcome: &Outcome) -> Result<(), Failure> {
    if args.json {
        return output::json(outcome);
    }
    output::line(&format!("transaction  {}", outcome.hash))?;
    if let Some(envelope) = outcome.envelope {
        output::line(&format!("envelope     {envelope}"))?;
    }
    if let (Some(height), Some(ms)) = (outcome.height, outcome.finality_ms) {
        output::line(&format!("block        {height}, final after {ms} ms"))?;
    }
    match outcome.success {
        Some(success) => output::line(&format!("execution    {}", if success { "succeeded" } else { "failed" })),
        None => Ok(()),
    }
}
