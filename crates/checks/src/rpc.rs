//! `cascade-sequencer`'s parameters of requests, and what must hold of them.

use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_eth::{Filter, TransactionRequest};
use jsonrpsee::types::Params;

#[allow(dead_code)]
#[path = "../../sequencer/src/rpc/config.rs"]
pub(crate) mod config;
#[allow(dead_code, clippy::redundant_pub_crate)]
#[path = "../../sequencer/src/rpc/params.rs"]
mod params;

/// As much of that crate's errors as its parameters need; the rest speaks of the EVM and the backend.
mod error {
    use jsonrpsee::types::ErrorObjectOwned;

    pub(super) const PARAMS: i32 = -32602;

    pub(super) type Answer<T> = Result<T, ErrorObjectOwned>;

    pub(super) fn params(reason: impl Into<String>) -> ErrorObjectOwned {
        ErrorObjectOwned::owned(PARAMS, reason.into(), None::<()>)
    }
}

use params::{Args, BlockRef, Data, Number, Slot, Subject};

/// Longest text of an error: what a client sent is not sent back at length.
const LONGEST_ERROR: usize = 1000;

/// Reads the parameters of a request as every type that a method takes.
///
/// # Panics
/// If a rule is broken.
pub(crate) fn check_params(text: &str, most: usize) {
    let params = Params::new(Some(text));
    let args = match Args::new(&params, most) {
        Ok(args) => args,
        Err(error) => return assert!(error.message().len() <= LONGEST_ERROR, "{}", error.message()),
    };
    for index in 0..=most {
        if let Ok(Number(number)) = args.get(index) {
            let again = format!("[\"{number:#x}\"]");
            let again = Params::new(Some(&again));
            let read: Number = Args::new(&again, 1).and_then(|a| a.get(0)).expect("its own form is read");
            assert_eq!(read.0, number);
        }
        if let Ok(Data(data)) = args.get(index) {
            assert!(data.len() <= text.len() / 2);
            assert_eq!(args.bytes(index).expect("it was read before"), data);
        }
        if let Ok(Slot(slot)) = args.get(index) {
            let again = format!("[\"{slot:#x}\"]");
            let again = Params::new(Some(&again));
            let read: Slot = Args::new(&again, 1).and_then(|a| a.get(0)).expect("its own form is read");
            assert_eq!(read.0, slot);
        }
        refused_shortly(&args.get::<Subject>(index));
        refused_shortly(&args.get::<BlockRef>(index));
        refused_shortly(&args.get::<Address>(index));
        refused_shortly(&args.get::<B256>(index));
        refused_shortly(&args.get::<U256>(index));
        refused_shortly(&args.get::<bool>(index));
        refused_shortly(&args.get::<Vec<f64>>(index));
        refused_shortly(&args.get::<Vec<Slot>>(index));
        refused_shortly(&args.get::<Vec<Data>>(index));
        refused_shortly(&args.get::<Filter>(index));
        refused_shortly(&args.get::<TransactionRequest>(index));
        refused_shortly(&args.get::<serde_json::Value>(index));
    }
}

fn refused_shortly<T>(answer: &error::Answer<T>) {
    if let Err(error) = answer {
        assert!(error.message().len() <= LONGEST_ERROR, "{}", error.message());
    }
}
