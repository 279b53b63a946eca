//! `cascade withdraw`.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes, U256};
use cascade_crypto::envelope::GasClasses;
use cascade_execution::{FEE_LEDGER, Withdrawal};
use cascade_primitives::{ChainParams, RecoveredEnvelope};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{
    Client, Failure, block_on, output,
    send::{VALID_FOR, explain},
    sender::SenderArgs,
    units,
};
use crate::{
    rpc::types::{EnvelopeState, EpochKeys, Payer},
    sealing::{Offer, OfferError, Seal},
    wallet::{Fees, Transfer, Wallet},
};

/// How often the node is asked.
const POLL: Duration = Duration::from_millis(50);

/// Takes money of a payer out of the fee ledger of an encrypted chain.
///
/// The payer signs both the envelope and the withdrawal inside, so its key is needed: that of a `cascade proxy` is in
/// its payer.key. Without --value all that is there goes, but for the fee and less than 0.000000000000024 CAS. What the
/// amount needs is reserved by a high fee cap; the price is that of any other envelope.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("source").required(true).args(["key", "key_file", "account"])),
    after_help = "Examples:\n  cascade withdraw --key-file cascade-proxy/payer.key --to 0x000000000000000000000000000000000000dEaD\n  \
                  cascade withdraw --account 3 --value 1.5 --to 0x000000000000000000000000000000000000dEaD --json"
)]
pub struct WithdrawArgs {
    /// The node's JSON-RPC.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545", env = "CASCADE_RPC")]
    rpc: String,
    #[command(flatten)]
    payer: SenderArgs,
    /// Whose account gets it.
    #[arg(long, value_name = "ADDRESS", value_parser = units::parse_address)]
    to: Address,
    /// Amount in CAS; by default all.
    #[arg(long, value_name = "CAS", value_parser = units::parse_cas)]
    value: Option<U256>,
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
    envelope: B256,
    payer: Address,
    to: Address,
    /// What `to` got, in wei.
    amount: U256,
    /// The payer's balance afterwards, in wei.
    balance: U256,
    executed_ms: u64,
}

/// Runs the command.
pub fn run(args: WithdrawArgs) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(&args.rpc)?;
        let params = client.ledger_params().await?;
        let wallet = args.payer.wallet(params.chain_id)?;
        let deadline = Instant::now() + Duration::from_secs(args.timeout);
        let account = account(&args, &client, wallet.address(), deadline).await?;
        let keys = client.epoch_keys().await?;
        let tip = client.tip().await?.max(1);
        let price = 2 * u128::from(keys.base_fee) + tip;
        let offer = Offer::of(args.value, account.balance, price).map_err(insufficient)?;
        let nonce = client.next_nonce(wallet.address()).await?;
        let transfer = Transfer {
            chain: params.chain_id,
            nonce,
            to: FEE_LEDGER,
            value: U256::ZERO,
            data: Withdrawal { to: args.to, amount: args.value }.call_data().into(),
            gas: offer.gas,
            fees: Fees { max: offer.max_fee.into(), tip },
        };
        let (hash, envelope) = seal(&wallet, &transfer, &keys, account.next_nonce, &params)?;
        let sent = Instant::now();
        client.send_item(envelope.raw()).await.map_err(explain)?;
        wait(&args, &client, envelope.hash(), deadline).await?;
        let executed_ms = sent.elapsed().as_millis() as u64;
        let amount = client.withdrawn(hash).await?;
        let amount =
            amount.ok_or_else(|| Failure::new(format!("the node has no withdrawal in the receipt of {hash}")))?;
        let payer = client.payer(wallet.address()).await?;
        let (envelope, balance) = (envelope.hash(), payer.balance);
        let outcome = Outcome { hash, envelope, payer: payer.address, to: args.to, amount, balance, executed_ms };
        if args.json {
            return output::json(&outcome);
        }
        output::line(&format!("transaction  {hash}"))?;
        output::line(&format!("withdrawn    {} CAS to {}", units::format_cas(amount), args.to))?;
        output::line(&format!("payer        {}, {} CAS", outcome.payer, units::format_cas(balance)))
    })
}

fn insufficient(OfferError { balance, needed }: OfferError) -> Failure {
    Failure::new(format!(
        "insufficient funds: the payer has {} CAS in the fee ledger and would need {} CAS with the gas",
        units::format_cas(balance),
        units::format_cas(needed)
    ))
}

/// The payer's account. Who withdraws all waits until nothing of it is under way, since what that may cost is unknown here.
async fn account(args: &WithdrawArgs, client: &Client, payer: Address, deadline: Instant) -> Result<Payer, Failure> {
    loop {
        let account = client.payer(payer).await?;
        if args.value.is_some() || account.next_nonce == account.nonce {
            return Ok(account);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "{} envelopes of {payer} are still under way after {} s; stop the proxy that uses this key, or give --value",
                account.next_nonce - account.nonce,
                args.timeout
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The transaction's hash, and the envelope around it.
fn seal(
    payer: &Wallet,
    transfer: &Transfer,
    keys: &EpochKeys,
    nonce: u64,
    params: &ChainParams,
) -> Result<(B256, RecoveredEnvelope), Failure> {
    let (hash, raw) = payer.sign(transfer);
    // Its fee cap shows what it is; so its gas limit need not hide it.
    let seal = Seal::of(keys, VALID_FOR).map_err(Failure::new)?.with_classes(&GasClasses::none());
    let envelope = seal.transaction(&Bytes::from(raw), payer.signing_key(), nonce, params).map_err(Failure::new)?;
    Ok((hash, envelope))
}

async fn wait(args: &WithdrawArgs, client: &Client, envelope: B256, deadline: Instant) -> Result<(), Failure> {
    loop {
        if let Some(status) = client.envelope_status(envelope).await? {
            let reason = status.reason.unwrap_or_default();
            match status.status {
                EnvelopeState::Executed => return Ok(()),
                EnvelopeState::Failed => {
                    return Err(Failure::new(format!("the envelope was charged, and nothing withdrawn: {reason}")));
                }
                EnvelopeState::Expired => {
                    return Err(Failure::new(format!("nothing was charged; withdraw again: the envelope is {reason}")));
                }
                EnvelopeState::Pending | EnvelopeState::Ordered | EnvelopeState::Revealed => {}
            }
        }
        if Instant::now() > deadline {
            let seconds = args.timeout;
            return Err(Failure::new(format!("{envelope} is not executed after {seconds} s and may still become so")));
        }
        tokio::time::sleep(POLL).await;
    }
}
