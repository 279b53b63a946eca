//! Which requests the proxy passes on to its node as they are.
//!
//! What a node does not know it refuses, but it has read it by then: a signed transaction in the parameters of a method that
//! nobody here has heard of would be in the clear. So only methods that are known to carry none are passed on.

use jsonrpsee::types::ErrorObjectOwned;

use crate::rpc::error::{Answer, method, unsupported};

/// Methods that are passed on: all that a node answers but those that take transactions in the clear.
const PASSED: [&str; 58] = [
    "eth_accounts",
    "eth_blobBaseFee",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_getLogs",
    "eth_getProof",
    "eth_getRawTransactionByHash",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_getUncleByBlockHashAndIndex",
    "eth_getUncleByBlockNumberAndIndex",
    "eth_getUncleCountByBlockHash",
    "eth_getUncleCountByBlockNumber",
    "eth_maxPriorityFeePerGas",
    "eth_newBlockFilter",
    "eth_newFilter",
    "eth_newPendingTransactionFilter",
    "eth_syncing",
    "eth_uninstallFilter",
    "l2_block",
    "l2_certificate",
    "l2_chainParams",
    "l2_envelopeStatus",
    "l2_epochKey",
    "l2_finality",
    "l2_genesisHash",
    "l2_getProof",
    "l2_health",
    "l2_leader",
    "l2_nextLeaders",
    "l2_opaqueStatus",
    "l2_payer",
    "l2_sendDeposit",
    "l2_sendEnvelope",
    "l2_sequencers",
    "l2_status",
    "net_listening",
    "net_peerCount",
    "net_version",
    "web3_clientVersion",
    "web3_sha3",
];
/// What the names of methods that take transactions have in them.
const SENDING: [&str; 8] = ["send", "submit", "bundle", "sign", "relay", "useroperation", "privatetransaction", "mev_"];

/// Whether a request is passed on.
///
/// # Errors
/// What its sender is told instead: that it would have shown a transaction, or that nobody knows the method.
pub fn passes(name: &str) -> Answer<()> {
    if PASSED.contains(&name) {
        return Ok(());
    }
    Err(refusal(name))
}

fn refusal(name: &str) -> ErrorObjectOwned {
    let lower = name.to_ascii_lowercase();
    if !SENDING.iter().any(|part| lower.contains(part)) {
        return method(name, "");
    }
    let name: String = name.chars().take(64).collect();
    unsupported(format!(
        "{name} is not passed on: it would show the transaction to the node in the clear; send it with \
         eth_sendRawTransaction, which this proxy seals"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_carry_a_transaction_is_not_passed_on() {
        for name in [
            "eth_sendTransaction",
            "eth_sendPrivateTransaction",
            "eth_sendPrivateRawTransaction",
            "eth_sendRawTransactionConditional",
            "eth_sendBundle",
            "eth_callBundle",
            "eth_sendUserOperation",
            "eth_signTransaction",
            "mev_sendBundle",
            "mev_simBundle",
            "l2_sendOpaque",
            "personal_sendTransaction",
            "foo_SubmitTx",
        ] {
            let refused = passes(name).unwrap_err();
            assert_eq!(refused.code(), -32004, "{name}");
            assert!(refused.message().contains("in the clear"), "{refused}");
        }
        assert_eq!(passes("eth_nonsense").unwrap_err().code(), -32601);
        assert!(passes("eth_call").is_ok() && passes("l2_sendEnvelope").is_ok());
    }
}
