//! What becomes of an item that is sent to the node.

use alloy_primitives::Bytes;
use jsonrpsee::types::ErrorObjectOwned;

use crate::cli::{Client, ClientError};

/// Why something was not admitted.
pub enum Unsent {
    /// The payer's nonce is used.
    NonceTooLow,
    /// Something is missing below the payer's nonce.
    NonceTooHigh,
    /// Something with this nonce waits and offers as much.
    Underpriced,
    /// The key or the validity is of the past.
    Stale,
    /// The node refused it for another reason.
    Refused(ErrorObjectOwned),
    /// The node may or may not have it.
    Unanswered(ClientError),
}

impl From<ClientError> for Unsent {
    fn from(error: ClientError) -> Self {
        let ClientError::Refused { message, code, .. } = &error else { return Self::Unanswered(error) };
        let has = |text: &str| message.contains(text);
        if has("nonce too low") {
            Self::NonceTooLow
        } else if has("nonce too high") {
            Self::NonceTooHigh
        } else if has("replacement transaction underpriced") {
            Self::Underpriced
        } else if has("which this node does not have") || has("valid until block") {
            Self::Stale
        } else {
            Self::Refused(ErrorObjectOwned::owned(*code, message.clone(), None::<()>))
        }
    }
}

/// The error that a wallet gets for one of the node.
pub fn refused(error: ClientError) -> ErrorObjectOwned {
    match error {
        ClientError::Refused { message, code, .. } => ErrorObjectOwned::owned(code, message, None::<()>),
        other => ErrorObjectOwned::owned(-32603, other.to_string(), None::<()>),
    }
}

/// Sends an item; one that the node has already is no error.
pub async fn send(client: &Client, raw: &Bytes) -> Result<(), Unsent> {
    match client.send_item(raw).await {
        Ok(_) => Ok(()),
        Err(ClientError::Refused { message, .. }) if message.contains("already known") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::backend::SubmitError;
    use cascade_mempool::AdmissionError;

    /// The words of a node are what this goes by.
    #[test]
    fn refusals_of_a_node_are_told_apart() {
        let unsent = |reason: SubmitError| {
            let object = ErrorObjectOwned::from(reason);
            Unsent::from(ClientError::Refused {
                method: "l2_sendEnvelope".to_owned(),
                message: object.message().to_owned(),
                code: object.code(),
            })
        };
        assert!(matches!(unsent(AdmissionError::NonceTooLow { next: 2, nonce: 1 }.into()), Unsent::NonceTooLow));
        let high = AdmissionError::NonceTooHigh { next: 2, nonce: 9, limit: 5 };
        assert!(matches!(unsent(high.into()), Unsent::NonceTooHigh));
        assert!(matches!(unsent(AdmissionError::ReplacementUnderpriced.into()), Unsent::Underpriced));
        for stale in [
            SubmitError::NoKey { epoch: 3 },
            SubmitError::Expired { valid_until: 3, next: 4 },
            SubmitError::ValidTooLong { valid_until: 9, limit: 4 },
        ] {
            assert!(matches!(unsent(stale), Unsent::Stale));
        }
        assert!(matches!(unsent(AdmissionError::Full.into()), Unsent::Refused(_)));
    }
}
