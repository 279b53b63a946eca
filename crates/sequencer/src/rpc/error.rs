//! Codes and texts of errors, which are geth's where geth has one: libraries match them and users search for them.
//!
//! | code | when |
//! |---|---|
//! | 3 | execution reverted; `data` is what the contract returned |
//! | -32000 | refused by the pool, unknown filter or block, state that is not there |
//! | -32004 | a method that this chain's transactions do not allow |
//! | -32005 | a limit; the text names it and its value |
//! | -32601, -32602, -32700 | unknown method, wrong parameters, no JSON |
//! | -32603 | the node failed; its log says how |

use std::fmt::Display;

use alloy_primitives::hex;
use cascade_execution::{CallError, EstimateError};
use cascade_primitives::TransactionError;
use jsonrpsee::types::ErrorObjectOwned;

use super::backend::{BackendError, SubmitError};

/// What a method answers.
pub(crate) type Answer<T> = Result<T, ErrorObjectOwned>;

const REVERTED: i32 = 3;
pub(super) const SERVER: i32 = -32000;
pub(super) const UNSUPPORTED: i32 = -32004;
pub(super) const LIMIT: i32 = -32005;
pub(super) const METHOD: i32 = -32601;
pub(super) const PARAMS: i32 = -32602;
pub(super) const INTERNAL: i32 = -32603;

fn error(code: i32, message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, None::<()>)
}

/// An error that has no code of its own.
pub(crate) fn server(message: impl Into<String>) -> ErrorObjectOwned {
    error(SERVER, message)
}

/// Parameters that are not what the method takes.
pub(crate) fn params(message: impl Into<String>) -> ErrorObjectOwned {
    error(PARAMS, message)
}

/// More than a limit allows.
pub(crate) fn limit(what: &str, found: impl Display, limit: impl Display) -> ErrorObjectOwned {
    error(LIMIT, format!("limit exceeded: {what}: {found}, limit {limit}"))
}

/// More logs than one answer may hold, in the words that indexers look for.
pub(super) fn too_many_logs(limit: u32) -> ErrorObjectOwned {
    error(LIMIT, format!("query returned more than {limit} results"))
}

/// A method that does not exist.
pub(crate) fn method(name: &str, more: &str) -> ErrorObjectOwned {
    let name: String = name.chars().take(64).collect();
    error(METHOD, format!("the method {name} does not exist/is not available{more}"))
}

/// A method that this chain does not support.
pub(crate) fn unsupported(message: impl Into<String>) -> ErrorObjectOwned {
    error(UNSUPPORTED, message)
}

/// A failure of the node itself. The text goes to the log, since it may tell more than a stranger should know.
pub(super) fn internal(reason: impl Display) -> ErrorObjectOwned {
    tracing::error!(%reason, "an RPC request failed");
    error(INTERNAL, "internal error")
}

impl From<BackendError> for ErrorObjectOwned {
    fn from(reason: BackendError) -> Self {
        match reason {
            BackendError::State(cascade_execution::StateError::Store(reason)) => internal(reason),
            BackendError::State(reason) => server(reason.to_string()),
            BackendError::Store(reason) => internal(reason),
            BackendError::Internal(reason) => internal(reason),
        }
    }
}

/// The text of a refusal, as geth words it.
pub(super) fn refusal(reason: &SubmitError) -> String {
    match reason {
        SubmitError::Transaction(TransactionError::Signature) => {
            "invalid sender: invalid transaction v, r, s values".to_owned()
        }
        SubmitError::Transaction(TransactionError::ChainId { have, want }) => {
            format!("invalid sender: invalid chain id for signer: have {have} want {want}")
        }
        SubmitError::Transaction(reason) => reason.to_string(),
        SubmitError::Admission(reason) => reason.to_string(),
        SubmitError::Opaque(reason) => reason.to_string(),
        SubmitError::Item(reason) => reason.to_string(),
        reason @ (SubmitError::NoKey { .. }
        | SubmitError::PastEpoch { .. }
        | SubmitError::Expired { .. }
        | SubmitError::ValidTooLong { .. }
        | SubmitError::Suspect) => reason.to_string(),
        SubmitError::Unavailable(reason) => reason.clone(),
    }
}

impl From<SubmitError> for ErrorObjectOwned {
    fn from(reason: SubmitError) -> Self {
        server(refusal(&reason))
    }
}

/// "execution reverted" with what the contract returned, and its text if it is `Error(string)` or `Panic(uint256)`.
pub(super) fn reverted(output: &[u8]) -> ErrorObjectOwned {
    let message = match revert_reason(output) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".to_owned(),
    };
    ErrorObjectOwned::owned(REVERTED, message, Some(hex::encode_prefixed(output)))
}

/// Why a call could not be tried.
pub(super) fn call(reason: CallError) -> ErrorObjectOwned {
    match reason {
        CallError::Store(reason) => internal(reason),
        refused => server(refused.to_string()),
    }
}

/// Why there is no estimate.
pub(super) fn estimate(reason: EstimateError) -> ErrorObjectOwned {
    match reason {
        EstimateError::Call(reason) => call(reason),
        EstimateError::Reverted(output) => reverted(&output),
        failed => server(failed.to_string()),
    }
}

/// Decodes the Solidity ABI's `Error(string)` and `Panic(uint256)`. The text is cut to 1 KiB and made printable.
fn revert_reason(output: &[u8]) -> Option<String> {
    let (selector, data) = output.split_at_checked(4)?;
    match selector {
        [0x08, 0xc3, 0x79, 0xa0] => {
            let offset = word(data, 0)?;
            let length = word(data, offset)?;
            let start = offset.checked_add(32)?;
            let text = data.get(start..start.checked_add(length)?)?;
            let text = String::from_utf8_lossy(&text[..text.len().min(1024)]);
            Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
        }
        [0x4e, 0x48, 0x7b, 0x71] => {
            let code = word(data, 0)?;
            Some(match panic_text(code) {
                Some(text) => format!("{text} ({code:#04x})"),
                None => format!("unknown panic code: {code:#x}"),
            })
        }
        _ => None,
    }
}

/// The 32-byte word at a byte offset, if it is there and fits.
fn word(data: &[u8], at: usize) -> Option<usize> {
    let word = data.get(at..at.checked_add(32)?)?;
    let (high, low) = word.split_at(24);
    let low = u64::from_be_bytes(low.try_into().expect("8 of 32 bytes"));
    if high.iter().any(|&b| b != 0) { None } else { usize::try_from(low).ok() }
}

/// Solidity's documentation, "Panic via assert and Error via require", in geth's words.
const fn panic_text(code: usize) -> Option<&'static str> {
    Some(match code {
        0x00 => "generic panic",
        0x01 => "assert(false)",
        0x11 => "arithmetic underflow or overflow",
        0x12 => "division or modulo by zero",
        0x21 => "enum overflow",
        0x22 => "invalid encoded storage byte array accessed",
        0x31 => "out-of-bounds array access; popping on an empty array",
        0x32 => "out-of-bounds access of an array or bytesN",
        0x41 => "out of memory",
        0x51 => "uninitialized function",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::hex;
    use cascade_mempool::AdmissionError;

    use super::*;

    fn abi_error(text: &str) -> Vec<u8> {
        let mut out = hex!("08c379a0").to_vec();
        let mut word = [0_u8; 32];
        word[31] = 32;
        out.extend(word);
        word[31] = text.len() as u8;
        out.extend(word);
        out.extend(text.as_bytes());
        out.resize(4 + 64 + text.len().div_ceil(32) * 32, 0);
        out
    }

    #[test]
    fn revert_texts_are_decoded() {
        let error = reverted(&abi_error("TestToken: allowance too low"));
        assert_eq!((error.code(), error.message()), (3, "execution reverted: TestToken: allowance too low"));
        assert!(error.data().unwrap().get().starts_with("\"0x08c379a0"));
        let mut panic = hex!("4e487b71").to_vec();
        panic.extend([0; 31]);
        panic.push(0x11);
        assert_eq!(reverted(&panic).message(), "execution reverted: arithmetic underflow or overflow (0x11)");
        assert_eq!(reverted(&hex!("db42144d")).message(), "execution reverted");
        assert_eq!(reverted(&[]).data().unwrap().get(), "\"0x\"");
    }

    #[test]
    fn a_lying_revert_text_is_no_text() {
        let whole = abi_error("abc");
        for length in 0..whole.len() {
            let _ = revert_reason(&whole[..length]);
        }
        let mut huge = whole.clone();
        huge[4..36].fill(0xff);
        assert_eq!(revert_reason(&huge), None);
        let mut long = whole;
        long[36 + 24..36 + 32].fill(0xff);
        assert_eq!(revert_reason(&long), None);
    }

    #[test]
    fn refusals_are_worded_as_geth_words_them() {
        let text = |reason: SubmitError| refusal(&reason);
        assert_eq!(
            text(TransactionError::ChainId { have: 1, want: 7 }.into()),
            "invalid sender: invalid chain id for signer: have 1 want 7"
        );
        assert_eq!(text(TransactionError::Signature.into()), "invalid sender: invalid transaction v, r, s values");
        assert_eq!(text(AdmissionError::AlreadyKnown.into()), "already known");
        assert_eq!(
            text(AdmissionError::NonceTooLow { next: 5, nonce: 4 }.into()),
            "nonce too low: next nonce 5, tx nonce 4"
        );
        assert_eq!(
            text(TransactionError::Oversized { size: 131_195, limit: 131_072 }.into()),
            "oversized data: transaction size 131195, limit 131072"
        );
    }
}
