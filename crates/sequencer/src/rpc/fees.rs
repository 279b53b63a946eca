//! What fees to pay: suggestions and history.
//!
//! The base fee of the next block follows from the newest final header alone (see [`cascade_execution::next_base_fee`]).
//! Tips are suggested as geth does: of the newest blocks, the lowest tips that were taken, and of those the 60th
//! percentile; 1 wei where blocks are empty.

use alloy_primitives::{U64, U128};
use alloy_rpc_types_eth::{BlockId, BlockNumberOrTag, FeeHistory};
use cascade_execution::{Receipt, next_base_fee};
use cascade_primitives::{Header, Height};

use super::{
    Methods, Rpc,
    error::{self, Answer},
    params::{Args, BlockRef, Number},
};

/// Blocks that a suggestion looks at.
const SUGGEST_BLOCKS: u64 = 20;

/// Lowest tips that it takes from each.
const SUGGEST_PER_BLOCK: usize = 3;

/// Which part of these are lower, in percent.
const SUGGEST_PERCENTILE: usize = 60;

/// What is suggested where nothing can be learned.
const LEAST_TIP: u128 = 1;

/// Most percentiles that `eth_feeHistory` takes, as in geth.
const MAX_PERCENTILES: usize = 100;

pub(super) fn register(methods: &mut Methods) {
    methods.heavy("eth_gasPrice", 0, |rpc, _| {
        let head = rpc.data(rpc.heads().ordered)?;
        Ok(U128::from(suggested_tip(rpc)?.saturating_add(u128::from(base_fee_above(rpc, &head.block.header)))))
    });
    methods.heavy("eth_maxPriorityFeePerGas", 0, |rpc, _| Ok(U128::from(suggested_tip(rpc)?)));
    methods.heavy("eth_feeHistory", 3, fee_history);
    methods.cheap("eth_blobBaseFee", 0, |_, _| -> Answer<U64> {
        Err(error::method("eth_blobBaseFee", ": the chain has no blobs"))
    });
}

/// Base fee of the block above this one, in wei per gas.
pub(super) fn base_fee_above(rpc: &Rpc, header: &Header) -> u64 {
    next_base_fee(header.base_fee, header.ordered_gas, rpc.backend.params())
}

fn suggested_tip(rpc: &Rpc) -> Answer<u128> {
    let head = rpc.heads().executed;
    if let Some((height, tip)) = *rpc.tip.lock()
        && height == head
    {
        return Ok(tip);
    }
    let mut tips = Vec::new();
    for height in head.minus(SUGGEST_BLOCKS - 1).0.max(1)..=head.0 {
        let Some(receipts) = rpc.backend.receipts(Height(height))? else { continue };
        if receipts.is_empty() {
            continue;
        }
        let base_fee = rpc.data(Height(height))?.block.header.base_fee;
        let mut paid: Vec<u128> =
            receipts.iter().filter(|r| r.gas_used > 0).map(|r| tip(r, base_fee)).filter(|tip| *tip > 0).collect();
        paid.sort_unstable();
        tips.extend(paid.into_iter().take(SUGGEST_PER_BLOCK));
    }
    tips.sort_unstable();
    let at = tips.len().saturating_sub(1) * SUGGEST_PERCENTILE / 100;
    let tip = tips.get(at).copied().unwrap_or(LEAST_TIP).max(LEAST_TIP);
    *rpc.tip.lock() = Some((head, tip));
    Ok(tip)
}

fn tip(receipt: &Receipt, base_fee: u64) -> u128 {
    receipt.effective_gas_price.saturating_sub(u128::from(base_fee))
}

fn fee_history(rpc: &Rpc, args: &Args<'_>) -> Answer<FeeHistory> {
    let Number(count) = args.get(0)?;
    let newest = args.optional::<BlockRef>(1)?.unwrap_or(BlockRef::LATEST);
    let percentiles = args.optional::<Vec<f64>>(2)?;
    if let Some(percentiles) = &percentiles {
        check_percentiles(percentiles)?;
    }
    let newest = match newest.0 {
        // The fee of what is not executed yet is known, its tips are not.
        BlockId::Number(BlockNumberOrTag::Pending) => Some(rpc.heads().executed),
        _ => rpc.resolve(newest)?,
    };
    let newest = newest.ok_or_else(|| error::server("request beyond head block"))?;
    let count = count.min(rpc.config.max_fee_history).min(newest.0 + 1);
    if count == 0 {
        return Ok(FeeHistory::default());
    }
    let oldest = newest.0 + 1 - count;
    let mut history = FeeHistory { oldest_block: oldest, ..FeeHistory::default() };
    let mut rewards = Vec::new();
    for height in oldest..=newest.0 {
        let data = rpc.data(Height(height))?;
        let header = &data.block.header;
        let gas_used = data.result.map_or(0, |result| result.entry.gas_used);
        history.base_fee_per_gas.push(header.base_fee.into());
        history.gas_used_ratio.push(gas_used as f64 / rpc.backend.params().block_gas_limit as f64);
        if let Some(percentiles) = &percentiles {
            let receipts = rpc.backend.receipts(Height(height))?.unwrap_or_default();
            rewards.push(block_rewards(&receipts, header.base_fee, gas_used, percentiles));
        }
        if height == newest.0 {
            history.base_fee_per_gas.push(base_fee_above(rpc, header).into());
        }
    }
    history.reward = percentiles.map(|_| rewards);
    Ok(history)
}

fn check_percentiles(percentiles: &[f64]) -> Answer<()> {
    if percentiles.len() > MAX_PERCENTILES {
        return Err(error::limit("reward percentiles", percentiles.len(), MAX_PERCENTILES));
    }
    if let Some(bad) = percentiles.iter().find(|p| !(0.0..=100.0).contains(*p)) {
        return Err(error::params(format!("invalid reward percentile: {bad}")));
    }
    match percentiles.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => Err(error::params(format!("invalid reward percentile: {} after {}", pair[1], pair[0]))),
        None => Ok(()),
    }
}

/// The tips at these percentiles of a block's gas, cheapest first; zeros for an empty block.
fn block_rewards(receipts: &[Receipt], base_fee: u64, gas_used: u64, percentiles: &[f64]) -> Vec<u128> {
    let mut paid: Vec<(u128, u64)> = receipts.iter().map(|r| (tip(r, base_fee), r.gas_used)).collect();
    paid.sort_unstable();
    let mut paid = paid.into_iter();
    let Some((mut reward, mut sum)) = paid.next() else { return vec![0; percentiles.len()] };
    let at = |percentile: &f64| {
        let threshold = (gas_used as f64 * percentile / 100.0) as u64;
        while sum < threshold {
            let Some((next, gas)) = paid.next() else { break };
            reward = next;
            sum += gas;
        }
        reward
    };
    percentiles.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256};
    use cascade_execution::Outcome;

    use super::*;

    fn receipt(price: u128, gas_used: u64) -> Receipt {
        Receipt {
            transaction_hash: B256::ZERO,
            transaction_type: 2,
            from: Address::ZERO,
            to: None,
            outcome: Outcome::Success,
            gas_used,
            evm_gas_used: gas_used,
            cumulative_gas_used: 0,
            effective_gas_price: price,
            contract_address: None,
            first_log_index: 0,
            logs: Vec::new(),
        }
    }

    #[test]
    fn percentiles_go_by_gas_and_not_by_number() {
        let receipts = [receipt(110, 10), receipt(103, 80), receipt(150, 10)];
        assert_eq!(block_rewards(&receipts, 100, 100, &[0.0, 50.0, 80.0, 81.0, 100.0]), [3, 3, 3, 10, 50]);
        assert_eq!(block_rewards(&[], 100, 0, &[1.0, 2.0]), [0, 0]);
    }

    #[test]
    fn percentiles_must_rise_between_0_and_100() {
        assert!(check_percentiles(&[0.0, 50.0, 100.0]).is_ok());
        for bad in [&[-1.0][..], &[100.1], &[50.0, 49.0], &[f64::NAN]] {
            assert_eq!(check_percentiles(bad).unwrap_err().code(), error::PARAMS);
        }
        let error = check_percentiles(&[1.0; 101]).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (error::LIMIT, "limit exceeded: reward percentiles: 101, limit 100")
        );
    }
}
