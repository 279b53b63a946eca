//! A real cluster through alloy, as a Rust program would use it: transfer, deploy, call, estimate, logs, fee history,
//! nonces, and the refusals that such programs rely on.

use std::time::Duration;

use alloy::{
    eips::BlockNumberOrTag,
    network::{EthereumWallet, TransactionBuilder as _},
    primitives::{Address, Bytes, U256, address},
    providers::{Provider, ProviderBuilder},
    rpc::types::{Filter, TransactionRequest},
    signers::local::PrivateKeySigner,
    sol,
    sol_types::{SolEvent as _, SolValue as _},
};

use crate::cluster::{Cluster, funded, wait_for};

sol! {
    #[sol(rpc)]
    contract Token {
        event Transfer(address indexed from, address indexed to, uint256 value);
        function transfer(address to, uint256 value) external returns (bool);
        function balanceOf(address account) external view returns (uint256);
    }
}

const RECEIVER: Address = address!("000000000000000000000000000000000000dEaD");

fn token_bytecode() -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testnet/contracts/TestToken.json");
    let text = std::fs::read_to_string(path).expect("the compiled contract is in the repository");
    let json: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    json["bytecode"].as_str().expect("it has bytecode").parse().expect("bytecode is hex")
}

#[test]
fn alloy_transfers_deploys_calls_and_reads_logs() {
    let cluster = Cluster::start(4);
    for i in 0..4 {
        cluster.wait_height(i, 1);
    }
    // Written at one node, read at another.
    let url = |i: usize| cluster.nodes[i].file.as_ref().expect("it runs").rpc_http.clone();
    exercise(&cluster, &url(0), &url(1));
    cluster.assert_agree();
}

/// What a Rust program does with a chain, whatever stands between: sends at one URL, reads at another.
pub fn exercise(cluster: &Cluster, url: &str, other: &str) {
    let wallet = funded(20);
    let signer = PrivateKeySigner::from_bytes(&wallet.secret()).expect("a key");
    let provider =
        ProviderBuilder::new().wallet(EthereumWallet::from(signer)).connect_http(url.parse().expect("a URL"));
    provider.client().set_poll_interval(Duration::from_millis(50));
    let other = ProviderBuilder::new().connect_http(other.parse().expect("a URL"));
    cluster.runtime.block_on(async {
        assert_eq!(provider.get_chain_id().await.unwrap(), 20252);

        let request = TransactionRequest::default().with_to(RECEIVER).with_value(U256::from(5));
        assert_eq!(provider.estimate_gas(request.clone().with_from(wallet.address())).await.unwrap(), 21_000);
        let receipt = provider.send_transaction(request).await.unwrap().get_receipt().await.unwrap();
        assert!(receipt.status());
        assert_eq!(receipt.from, wallet.address());

        let deploy = TransactionRequest::default().with_deploy_code(deploy_code());
        let receipt = provider.send_transaction(deploy).await.unwrap().get_receipt().await.unwrap();
        assert!(receipt.status());
        let token = Token::new(receipt.contract_address.expect("a contract was made"), &provider);
        let sent = token.transfer(RECEIVER, U256::from(7)).send().await.unwrap().get_receipt().await.unwrap();
        assert!(sent.status());
        assert_eq!(token.balanceOf(RECEIVER).call().await.unwrap(), U256::from(7));
        let block = sent.block_number.expect("it is in a block");
        let filter = Filter::new()
            .address(*token.address())
            .event_signature(Token::Transfer::SIGNATURE_HASH)
            .from_block(block)
            .to_block(block);
        let logs = provider.get_logs(&filter).await.unwrap();
        assert_eq!(logs.len(), 1);
        assert_eq!(logs[0].log_decode::<Token::Transfer>().unwrap().inner.value, U256::from(7));

        let history = provider.get_fee_history(4, BlockNumberOrTag::Latest, &[50.0]).await.unwrap();
        assert_eq!(history.base_fee_per_gas.len(), history.gas_used_ratio.len() + 1);
        assert_eq!(provider.get_transaction_count(wallet.address()).await.unwrap(), 3);
        let refused = provider
            .send_transaction(TransactionRequest::default().with_to(RECEIVER).with_nonce(0).with_gas_limit(21_000))
            .await
            .expect_err("an old nonce is refused");
        assert!(refused.to_string().contains("nonce too low: next nonce 3, tx nonce 0"), "{refused}");
    });
    wait_for("the other node has executed it too", || {
        let balance = cluster.runtime.block_on(other.get_balance(RECEIVER).into_future()).ok()?;
        (balance == U256::from(5)).then_some(())
    });
}

/// The token's creation code with its constructor's arguments.
fn deploy_code() -> Bytes {
    let arguments = ("Test", "TST", U256::from(1_000_000)).abi_encode_params();
    [token_bytecode().to_vec(), arguments].concat().into()
}
