//! `eth_call` and `eth_estimateGas`.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes as HexBytes, TxKind, U64};
use alloy_rpc_types_eth::TransactionRequest;
use cascade_execution::{BlockEnv, CallRequest, Outcome, StateView, StoreError, call, estimate_gas};
use cascade_primitives::Height;
use serde_json::Value;

use super::{
    Methods, Rpc,
    backend::{Backend, BlockData},
    error::{self, Answer},
    params::Args,
};

pub(super) fn register(methods: &mut Methods) {
    methods.heavy("eth_call", 4, |rpc, args| {
        let setting = Setting::new(rpc, args)?;
        let outcome = setting.with_env(|view, env| call(view, env, &setting.request, rpc.config.call_gas_cap));
        let outcome = outcome.map_err(error::call)?;
        match outcome.outcome {
            Outcome::Success => Ok(HexBytes(outcome.output)),
            Outcome::Reverted => Err(error::reverted(&outcome.output)),
            failed @ (Outcome::Halted(_) | Outcome::NoOp(_) | Outcome::Charged(_)) => {
                Err(error::server(failed.to_string()))
            }
        }
    });
    methods.heavy("eth_estimateGas", 4, |rpc, args| {
        let setting = Setting::new(rpc, args)?;
        let gas = setting.with_env(|view, env| estimate_gas(view, env, &setting.request, rpc.config.call_gas_cap));
        gas.map(U64::from).map_err(error::estimate)
    });
}

/// A call and the state and block that it runs on.
struct Setting {
    backend: Arc<dyn Backend>,
    request: CallRequest,
    view: StateView,
    block: Arc<BlockData>,
}

impl Setting {
    fn new(rpc: &Rpc, args: &Args<'_>) -> Answer<Self> {
        rpc.plain()?;
        let request = request(rpc, args.get(0)?)?;
        let height = rpc.state_height(args.optional(1)?)?;
        for (index, what) in [(2, "state overrides"), (3, "block overrides")] {
            match args.optional::<Value>(index)? {
                Some(Value::Object(map)) if map.is_empty() => {}
                Some(_) => return Err(error::params(format!("invalid argument {index}: {what} are not supported"))),
                None => {}
            }
        }
        let (view, block) = (rpc.backend.state(height)?, rpc.data(height)?);
        Ok(Self { backend: Arc::clone(&rpc.backend), request, view, block })
    }

    fn with_env<T>(&self, run: impl FnOnce(&StateView, &BlockEnv<'_>) -> T) -> T {
        let backend = &self.backend;
        let hashes = |height: Height| -> Result<Option<B256>, StoreError> {
            let hash = backend.block_hash(height).map_err(|reason| StoreError::new("read block hash", reason))?;
            Ok(hash.map(B256::from))
        };
        let header = &self.block.block.header;
        let env = BlockEnv::new(
            backend.params(),
            header.height,
            header.timestamp,
            header.base_fee,
            self.block.producer,
            self.block.prev_randao,
            &hashes,
        );
        run(&self.view, &env)
    }
}

/// What geth accepts, without what this chain does not have.
fn request(rpc: &Rpc, request: TransactionRequest) -> Answer<CallRequest> {
    let chain = rpc.backend.params().chain_id.0;
    if let Some(have) = request.chain_id.filter(|have| *have != chain) {
        return Err(error::params(format!("chainId does not match node's (have={have}, want={chain})")));
    }
    let blobs = request.blob_versioned_hashes.is_some_and(|hashes| !hashes.is_empty())
        || request.max_fee_per_blob_gas.is_some_and(|fee| fee > 0);
    if blobs || request.authorization_list.is_some_and(|list| !list.is_empty()) {
        return Err(error::server("transaction type not supported"));
    }
    if request.gas_price.is_some() && (request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some())
    {
        return Err(error::params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
    }
    if let (Some(max), Some(tip)) = (request.max_fee_per_gas, request.max_priority_fee_per_gas)
        && tip > max
    {
        return Err(error::server(format!("maxFeePerGas ({max}) < maxPriorityFeePerGas ({tip})")));
    }
    let data = request.input.try_into_unique_input().map_err(|_| {
        error::params(
            r#"both "data" and "input" are set and not equal. Please use "input" to pass transaction call data"#,
        )
    })?;
    let to = match request.to {
        Some(TxKind::Call(to)) => Some(to),
        Some(TxKind::Create) | None => None,
    };
    Ok(CallRequest {
        from: request.from.unwrap_or_default(),
        to,
        value: request.value.unwrap_or_default(),
        data: data.unwrap_or_default().0,
        gas: request.gas,
        max_fee_per_gas: request.gas_price.or(request.max_fee_per_gas),
        max_priority_fee_per_gas: request.max_fee_per_gas.and(request.max_priority_fee_per_gas),
        access_list: request.access_list.unwrap_or_default(),
    })
}
