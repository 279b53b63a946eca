//! Reading: blocks, transactions, receipts, state, calls, logs, fees.

use alloy::{
    network::EthereumWallet,
    providers::{Provider, ProviderBuilder},
    rpc::types::TransactionRequest,
};
use alloy_primitives::{Address, B256, U256, hex};
use cascade_primitives::{Encode, Height, TransactionRule};
use cascade_sequencer::rpc::{Backend, types::SyncProgress};
use serde_json::{Value, json};

use super::{
    Token,
    client::Server,
    hex_of,
    mock::{Mock, PRODUCER, Tx, signer},
};

const TO: Address = Address::repeat_byte(0x70);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_says_who_and_where_it_is() {
    let server = Server::start(Mock::plain());
    let chain_id = server.node.params().chain_id.0;
    assert_eq!(server.ok("eth_chainId", json!([])).await, format!("{chain_id:#x}"));
    assert_eq!(server.ok("net_version", json!([])).await, chain_id.to_string());
    assert!(server.ok("web3_clientVersion", json!([])).await.as_str().unwrap().starts_with("cascade/"));
    assert_eq!(server.ok("net_listening", json!([])).await, true);
    assert_eq!(server.ok("net_peerCount", json!([])).await, "0x3");
    assert_eq!(server.ok("eth_accounts", json!([])).await, json!([]));
    let hash = "0x47173285a8d7341e5e972fc677286384f802f8ef42a5ec5f03bbfa254cb01fad";
    assert_eq!(server.ok("web3_sha3", json!(["0x68656c6c6f20776f726c64"])).await, hash);
    assert_eq!(server.ok("eth_syncing", json!([])).await, false);
    server.node.status.lock().sync = Some(SyncProgress { from: Height(3), target: Height(30) });
    let syncing = server.ok("eth_syncing", json!([])).await;
    assert_eq!((&syncing["startingBlock"], &syncing["highestBlock"]), (&json!("0x3"), &json!("0x1e")));
    // Parameters may be left out altogether.
    let bare = server.post(r#"{"jsonrpc":"2.0","id":"x","method":"eth_chainId"}"#).await;
    assert_eq!(bare["id"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_has_every_field_that_clients_read() {
    let server = Server::start(Mock::plain());
    let tx = Tx { gas: 21_000, ..Tx::new(0, TO) };
    let height = server.node.produce(vec![tx.raw(0)]);
    let block = server.ok("eth_getBlockByNumber", json!(["latest", false])).await;
    let data = server.node.block(height).unwrap().unwrap();
    let header = &data.block.header;
    for (key, length) in [
        ("hash", 32),
        ("parentHash", 32),
        ("stateRoot", 32),
        ("transactionsRoot", 32),
        ("receiptsRoot", 32),
        ("sha3Uncles", 32),
        ("mixHash", 32),
        ("logsBloom", 256),
        ("nonce", 8),
        ("miner", 20),
        ("extraData", 0),
    ] {
        assert_eq!(hex::decode(block[key].as_str().unwrap()).unwrap().len(), length, "{key}");
    }
    for (key, value) in [
        ("number", height.0),
        ("timestamp", header.timestamp.0 / 1000),
        ("gasLimit", server.node.params().block_gas_limit),
        ("gasUsed", 21_000),
        ("baseFeePerGas", header.base_fee),
        ("difficulty", 0),
        ("size", data.block.to_bytes().len() as u64),
    ] {
        assert_eq!(block[key], format!("{value:#x}"), "{key}");
    }
    assert_eq!(block["hash"], data.block.hash().to_string());
    assert_eq!(block["miner"], format!("{PRODUCER:?}"));
    assert_eq!(block["transactions"], json!([tx.hash(0)]));
    assert_eq!(block["uncles"], json!([]));
    assert_eq!(block["l2"]["timestampMs"], format!("{:#x}", header.timestamp.0));
    for id in [json!(data.block.hash()), json!(hex_of(height))] {
        let method = if id.as_str().unwrap().len() == 66 { "eth_getBlockByHash" } else { "eth_getBlockByNumber" };
        assert_eq!(server.ok(method, json!([id, false])).await, block);
    }
    let full = server.ok("eth_getBlockByNumber", json!([hex_of(height), true])).await;
    assert_eq!(full["transactions"][0]["hash"], json!(tx.hash(0)));
    assert_eq!(full["hash"], block["hash"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_are_ordered_and_only_pending_shows_what_waits_for_execution() {
    let server = Server::start(Mock::plain());
    for _ in 0..8 {
        server.node.produce(vec![]);
    }
    let waiting = Tx::new(0, TO);
    let ordered = server.node.order(vec![waiting.raw(0)]);
    let mut numbers = Vec::new();
    for tag in ["earliest", "finalized", "safe", "latest", "pending"] {
        let block = server.ok("eth_getBlockByNumber", json!([tag, false])).await;
        numbers.push(u64::from_str_radix(&block["number"].as_str().unwrap()[2..], 16).unwrap());
    }
    assert_eq!(numbers, [0, 6, 6, 8, 9]);
    assert_eq!(server.ok("eth_blockNumber", json!([])).await, "0x8");
    let pending = server.ok("eth_getBlockByNumber", json!(["pending", true])).await;
    assert_eq!(pending["stateRoot"], json!(B256::ZERO));
    assert_eq!(pending["transactions"][0]["from"], format!("{:?}", signer(0).address()));
    // A block that is not executed is not there for who asks by number or hash, and its transaction waits.
    let hash = server.node.block(ordered).unwrap().unwrap().block.hash();
    assert_eq!(server.ok("eth_getBlockByNumber", json!([hex_of(ordered), false])).await, Value::Null);
    assert_eq!(server.ok("eth_getBlockByHash", json!([hash, false])).await, Value::Null);
    let transaction = server.ok("eth_getTransactionByHash", json!([waiting.hash(0)])).await;
    assert_eq!(transaction["hash"], json!(waiting.hash(0)));
    for key in ["blockHash", "blockNumber", "transactionIndex"] {
        assert_eq!(transaction[key], Value::Null, "{key}");
    }
    assert_eq!(server.ok("eth_getTransactionReceipt", json!([waiting.hash(0)])).await, Value::Null);
    server.node.execute();
    assert_eq!(server.ok("eth_getBlockByNumber", json!(["latest", false])).await["number"], "0x9");
    assert_eq!(server.ok("eth_getTransactionReceipt", json!([waiting.hash(0)])).await["status"], "0x1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_null() {
    let server = Server::start(Mock::plain());
    let nothing = B256::repeat_byte(0x11);
    for (method, params) in [
        ("eth_getBlockByHash", json!([nothing, false])),
        ("eth_getBlockByNumber", json!(["0xffffffffff", true])),
        ("eth_getTransactionByHash", json!([nothing])),
        ("eth_getTransactionReceipt", json!([nothing])),
        ("eth_getRawTransactionByHash", json!([nothing])),
        ("eth_getBlockReceipts", json!(["0xff"])),
        ("eth_getTransactionByBlockNumberAndIndex", json!(["latest", "0x0"])),
        ("eth_getTransactionByBlockHashAndIndex", json!([nothing, "0xffffffffffffffff"])),
        ("eth_getBlockTransactionCountByHash", json!([nothing])),
        ("eth_getUncleByBlockNumberAndIndex", json!(["latest", "0x0"])),
        ("eth_getUncleCountByBlockHash", json!([nothing])),
        ("l2_finality", json!([nothing])),
        ("l2_certificate", json!([1000])),
        ("l2_block", json!(["0x3e8"])),
        ("l2_sequencers", json!([7])),
    ] {
        assert_eq!(server.ok(method, params).await, Value::Null, "{method}");
    }
    assert_eq!(server.ok("eth_getUncleCountByBlockNumber", json!(["latest"])).await, "0x0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_all_types_have_their_fields_and_receipts() {
    let server = Server::start(Mock::plain());
    let all: Vec<Tx> = (0..3).map(|kind| Tx { kind, ..Tx::new(u64::from(kind), TO) }).collect();
    let height = server.node.produce(all.iter().map(|tx| tx.raw(0)).collect());
    for (index, tx) in all.iter().enumerate() {
        let (hash, from) = (tx.hash(0), format!("{:?}", signer(0).address()));
        let transaction = server.ok("eth_getTransactionByHash", json!([hash])).await;
        for (key, value) in [
            ("hash", json!(hash)),
            ("type", json!(format!("{:#x}", tx.kind))),
            ("from", json!(from)),
            ("to", json!(format!("{TO:?}"))),
            ("nonce", json!(format!("{index:#x}"))),
            ("value", json!("0x1")),
            ("gas", json!("0x186a0")),
            ("input", json!("0x")),
            ("blockNumber", json!(hex_of(height))),
            ("transactionIndex", json!(format!("{index:#x}"))),
            ("chainId", json!(format!("{:#x}", tx.chain_id))),
        ] {
            assert_eq!(transaction[key], value, "{key} of type {}", tx.kind);
        }
        for key in ["r", "s", "v", "gasPrice", "blockHash"] {
            assert!(transaction[key].is_string(), "{key} of type {}", tx.kind);
        }
        let by_index = server
            .ok("eth_getTransactionByBlockNumberAndIndex", json!([hex_of(height), transaction["transactionIndex"]]))
            .await;
        assert_eq!(by_index, transaction);
        let receipt = server.ok("eth_getTransactionReceipt", json!([hash])).await;
        for (key, value) in [
            ("transactionHash", json!(hash)),
            ("status", json!("0x1")),
            ("type", transaction["type"].clone()),
            ("from", json!(from)),
            ("to", json!(format!("{TO:?}"))),
            // Half of the limit is the least charge.
            ("gasUsed", json!("0xc350")),
            ("cumulativeGasUsed", json!(format!("{:#x}", 50_000 * (index + 1)))),
            ("effectiveGasPrice", transaction["gasPrice"].clone()),
            ("contractAddress", Value::Null),
            ("logs", json!([])),
            ("blockHash", transaction["blockHash"].clone()),
            ("blockNumber", transaction["blockNumber"].clone()),
            ("transactionIndex", transaction["transactionIndex"].clone()),
        ] {
            assert_eq!(receipt[key], value, "{key} of type {}", tx.kind);
        }
        assert_eq!(receipt["l2"], json!({"outcome": "success", "evmGasUsed": "0x5208"}));
        assert_eq!(server.ok("eth_getRawTransactionByHash", json!([hash])).await, hex::encode_prefixed(tx.raw(0)));
    }
    let receipts = server.ok("eth_getBlockReceipts", json!([hex_of(height)])).await;
    assert_eq!(receipts.as_array().unwrap().len(), 3);
    assert_eq!(receipts[2], server.ok("eth_getTransactionReceipt", json!([all[2].hash(0)])).await);
    assert_eq!(server.ok("eth_getBlockTransactionCountByNumber", json!(["latest"])).await, "0x3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_could_not_run_has_a_receipt_with_status_0_and_the_reason() {
    let server = Server::start(Mock::plain());
    let late = Tx::new(5, TO);
    server.node.produce(vec![late.raw(0)]);
    let receipt = server.ok("eth_getTransactionReceipt", json!([late.hash(0)])).await;
    assert_eq!((&receipt["status"], &receipt["gasUsed"]), (&json!("0x0"), &json!("0x0")));
    assert_eq!(receipt["l2"]["outcome"], "not executed: nonce too high");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_read_at_any_height() {
    let server = Server::start(Mock::plain());
    let token = Token::deploy(&server.node, 0);
    let first = server.node.produce(vec![Tx { value: 7, ..Tx::new(1, TO) }.raw(0)]);
    let before = hex_of(Height(first.0 - 1));
    let hash = server.node.block(first).unwrap().unwrap().block.hash();
    let balance = |block: Value| server.ok("eth_getBalance", json!([TO, block]));
    assert_eq!(balance(json!("latest")).await, "0x7");
    assert_eq!(balance(json!("pending")).await, "0x7");
    assert_eq!(balance(json!(before)).await, "0x0");
    assert_eq!(balance(json!({"blockNumber": hex_of(first)})).await, "0x7");
    assert_eq!(balance(json!({"blockHash": hash})).await, "0x7");
    assert_eq!(balance(json!({"blockHash": hash, "requireCanonical": true})).await, "0x7");
    assert_eq!(balance(Value::Null).await, "0x7");
    assert_eq!(server.ok("eth_getBalance", json!([TO])).await, "0x7");
    for block in [json!("0xff"), json!({"blockHash": B256::ZERO})] {
        assert_eq!(server.error("eth_getBalance", json!([TO, block])).await, (-32000, "header not found".to_owned()));
    }
    assert!(server.ok("eth_getCode", json!([token.address, "latest"])).await.as_str().unwrap().len() > 200);
    assert_eq!(server.ok("eth_getCode", json!([token.address, "earliest"])).await, "0x");
    let slot = server.ok("eth_getStorageAt", json!([token.address, "0x0", "latest"])).await;
    assert_eq!(slot.as_str().unwrap().len(), 66);
    assert_ne!(slot, json!(B256::ZERO));
    assert_eq!(server.ok("eth_getTransactionCount", json!([signer(0).address(), "latest"])).await, "0x2");
    server.ok("eth_sendRawTransaction", json!([hex::encode_prefixed(Tx::new(2, TO).raw(0))])).await;
    assert_eq!(server.ok("eth_getTransactionCount", json!([signer(0).address(), "latest"])).await, "0x2");
    assert_eq!(server.ok("eth_getTransactionCount", json!([signer(0).address(), "pending"])).await, "0x3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_answer_reverts_with_code_3_and_their_data() {
    let server = Server::start(Mock::plain());
    let token = Token::deploy(&server.node, 0);
    let (owner, stranger) = (signer(0).address(), Address::repeat_byte(0x55));
    let call =
        |from: Address, data: Vec<u8>| json!({"from": from, "to": token.address, "input": hex::encode_prefixed(data)});
    let supply = server.ok("eth_call", json!([call(owner, token.call("totalSupply()", &())), "latest"])).await;
    assert_eq!(supply, json!(B256::from(U256::from(1000))));
    // `data` is the older name of `input`; the block may be left out.
    let older = json!({"to": token.address, "data": hex::encode_prefixed(token.call("totalSupply()", &()))});
    assert_eq!(server.ok("eth_call", json!([older])).await, supply);

    let transfer = token.call("transfer(address,uint256)", &(owner, U256::from(9)));
    let pull = token.call("transferFrom(address,address,uint256)", &(owner, stranger, U256::from(1)));
    for method in ["eth_call", "eth_estimateGas"] {
        let (code, message, data) = server.fails(method, json!([call(stranger, transfer.clone())])).await;
        assert_eq!((code, message.as_str()), (3, "execution reverted"));
        assert!(data.as_str().unwrap().starts_with("0xdb42144d"), "InsufficientBalance: {data}");
        let (code, message, _) = server.fails(method, json!([call(stranger, pull.clone()), "latest"])).await;
        assert_eq!((code, message.as_str()), (3, "execution reverted: TestToken: allowance too low"));
    }
    let gas = server
        .ok(
            "eth_estimateGas",
            json!([call(owner, token.call("transfer(address,uint256)", &(stranger, U256::from(5))))]),
        )
        .await;
    let gas = u64::from_str_radix(&gas.as_str().unwrap()[2..], 16).unwrap();
    assert!((21_000..100_000).contains(&gas), "{gas}");
    assert_eq!(server.ok("eth_estimateGas", json!([{"from": owner, "to": stranger, "value": "0x1"}])).await, "0x5208");
    // No gas for it: an error that is not a revert.
    let (code, message) =
        server.error("eth_call", json!([{"to": token.address, "input": "0x18160ddd", "gas": "0x5300"}])).await;
    assert_eq!((code, message.as_str()), (-32000, "out of gas"));
    let rich = json!([{"from": stranger, "to": owner, "value": "0xffffffffffffffff"}]);
    assert!(server.error("eth_estimateGas", rich).await.1.starts_with("insufficient funds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_refuse_what_they_would_otherwise_ignore() {
    let server = Server::start(Mock::plain());
    for (call, code, text) in [
        (json!([{"chainId": "0x1"}]), -32602, "chainId does not match node's (have=1, want="),
        (json!([{"gasPrice": "0x1", "maxFeePerGas": "0x1"}]), -32602, "both gasPrice and"),
        (
            json!([{"maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x2"}]),
            -32000,
            "maxFeePerGas (1) < maxPriorityFeePerGas (2)",
        ),
        (json!([{"data": "0x01", "input": "0x02"}]), -32602, "both \"data\" and \"input\""),
        (
            json!([{}, "latest", {"0x0000000000000000000000000000000000000001": {"balance": "0x1"}}]),
            -32602,
            "invalid argument 2: state overrides",
        ),
        (json!([{}, "latest", {}, {"number": "0x1"}]), -32602, "invalid argument 3: block overrides"),
        (json!([{"blobVersionedHashes": [B256::ZERO]}]), -32000, "transaction type not supported"),
    ] {
        let (found, message) = server.error("eth_call", call.clone()).await;
        assert!(found == code && message.starts_with(text), "{call}: {found} {message}");
    }
    let nothing = json!([{"to": TO}, "latest", {}, {}]);
    assert_eq!(server.ok("eth_call", nothing).await, "0x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_found_by_address_topic_range_and_hash() {
    let server = Server::start(Mock::plain());
    let (token, other) = (Token::deploy(&server.node, 0), Token::deploy(&server.node, 1));
    let (a, b) = (Address::repeat_byte(0xa0), Address::repeat_byte(0xb0));
    let first = server.node.produce(vec![token.transfer(2, a, 1).raw(0), other.transfer(3, a, 9).raw(0)]);
    server.node.produce(vec![]);
    let last = server.node.produce(vec![token.transfer(4, b, 2).raw(0)]);
    let logs = async |filter: Value| -> Vec<(Value, Value)> {
        let logs = server.ok("eth_getLogs", json!([filter])).await;
        logs.as_array().unwrap().iter().map(|log| (log["transactionHash"].clone(), log["logIndex"].clone())).collect()
    };
    let (one, two) = (token.transfer(2, a, 1).hash(0), token.transfer(4, b, 2).hash(0));
    let (one, two) = ((json!(one), json!("0x0")), (json!(two), json!("0x0")));
    let only_two = std::slice::from_ref(&two);
    let elsewhere = (json!(other.transfer(3, a, 9).hash(0)), json!("0x1"));
    let range = |more: Value| {
        let mut filter = json!({"fromBlock": hex_of(first), "toBlock": hex_of(last)});
        filter.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        filter
    };
    let topic = |address: Address| json!(address.into_word());
    assert_eq!(logs(range(json!({}))).await, [one.clone(), elsewhere.clone(), two.clone()]);
    assert_eq!(logs(range(json!({"address": token.address}))).await, [one.clone(), two.clone()]);
    assert_eq!(logs(range(json!({"address": [token.address, other.address]}))).await.len(), 3);
    assert_eq!(logs(range(json!({"topics": [null, null, topic(b)]}))).await, only_two);
    assert_eq!(
        logs(range(json!({"topics": [null, null, [topic(a), topic(b)]], "address": token.address}))).await.len(),
        2
    );
    assert_eq!(logs(range(json!({"topics": [topic(b)]}))).await, []);
    assert_eq!(logs(json!({})).await, only_two, "without bounds it is the newest block");
    assert_eq!(logs(json!({"fromBlock": "earliest"})).await.len(), 5);
    assert_eq!(logs(json!({"fromBlock": hex_of(last), "toBlock": "0xffffff"})).await, only_two);
    assert_eq!(logs(json!({"fromBlock": "0xfffffe", "toBlock": "0xffffff"})).await, []);
    let hash = server.node.block(first).unwrap().unwrap().block.hash();
    assert_eq!(logs(json!({"blockHash": hash, "address": token.address})).await, [one]);
    let log = &server.ok("eth_getLogs", json!([{"blockHash": hash}])).await[1];
    for (key, value) in [
        ("address", json!(format!("{:?}", other.address))),
        ("blockHash", json!(hash)),
        ("blockNumber", json!(hex_of(first))),
        ("transactionIndex", json!("0x1")),
        ("logIndex", json!("0x1")),
        ("removed", json!(false)),
    ] {
        assert_eq!(log[key], value, "{key}");
    }
    let error = server.error("eth_getLogs", json!([{"blockHash": B256::ZERO}])).await;
    assert_eq!(error, (-32000, "unknown block".to_owned()));
    let error = server.error("eth_getLogs", json!([{"fromBlock": "0x5", "toBlock": "0x4"}])).await;
    assert_eq!(error, (-32602, "invalid block range params".to_owned()));
    let block = server.ok("eth_getBlockByHash", json!([hash, false])).await;
    let receipt = server.ok("eth_getTransactionReceipt", json!([log["transactionHash"]])).await;
    let bloom = |of: &Value| of["logsBloom"].as_str().unwrap().parse::<alloy_primitives::Bloom>().unwrap();
    assert!(bloom(&block).contains(&bloom(&receipt)) && !bloom(&receipt).is_zero());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fees_follow_the_blocks() {
    let server = Server::start(Mock::plain());
    assert_eq!(server.ok("eth_maxPriorityFeePerGas", json!([])).await, "0x1");
    for nonce in 0..5 {
        server.node.produce(vec![Tx { tip: 3_000_000_000, ..Tx::new(nonce, TO) }.raw(0)]);
    }
    assert_eq!(server.ok("eth_maxPriorityFeePerGas", json!([])).await, format!("{:#x}", 3_000_000_000_u64));
    assert_eq!(server.ok("eth_gasPrice", json!([])).await, format!("{:#x}", 4_000_000_000_u64));
    let history = server.ok("eth_feeHistory", json!(["0x4", "latest", [10, 50.5, 90]])).await;
    assert_eq!(history["oldestBlock"], "0x2");
    assert_eq!(history["baseFeePerGas"].as_array().unwrap().len(), 5);
    assert_eq!(history["gasUsedRatio"].as_array().unwrap().len(), 4);
    assert!(history["gasUsedRatio"].as_array().unwrap().iter().all(|r| (0.0..=1.0).contains(&r.as_f64().unwrap())));
    let tip = format!("{:#x}", 3_000_000_000_u64);
    assert_eq!(history["reward"], json!(vec![[&tip; 3]; 4]));
    // A decimal count, more than there is, no percentiles.
    let all = server.ok("eth_feeHistory", json!([1000, "pending"])).await;
    assert_eq!((all["oldestBlock"].clone(), all["gasUsedRatio"].as_array().unwrap().len()), (json!("0x0"), 6));
    assert!(all.get("reward").is_none_or(Value::is_null));
    assert_eq!(
        server.error("eth_feeHistory", json!(["0x1", "0xff", []])).await,
        (-32000, "request beyond head block".to_owned())
    );
    assert_eq!(server.error("eth_feeHistory", json!(["0x1", "latest", [90, 10]])).await.0, -32602);
    let (code, message) = server.error("eth_blobBaseFee", json!([])).await;
    assert!(code == -32601 && message.contains("no blobs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eth_get_proof_names_its_replacement() {
    let server = Server::start(Mock::plain());
    let (code, message) = server.error("eth_getProof", json!([TO, [], "latest"])).await;
    assert!(code == -32601 && message.contains("l2_getProof"), "{code} {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alloy_sends_a_transaction_and_reads_it_back() {
    let server = Server::start(Mock::new(TransactionRule::Plain, true));
    let url = format!("http://{}", server.address()).parse().unwrap();
    let provider = ProviderBuilder::new().wallet(EthereumWallet::from(signer(0))).connect_http(url);
    let request = TransactionRequest::default().to(TO).value(U256::from(5));
    let receipt = provider.send_transaction(request).await.unwrap().get_receipt().await.unwrap();
    assert!(receipt.status());
    assert_eq!(provider.get_balance(TO).await.unwrap(), U256::from(5));
    let block = provider.get_block(receipt.block_hash.unwrap().into()).full().await.unwrap().unwrap();
    assert_eq!(block.transactions.as_transactions().unwrap()[0].inner.tx_hash(), &receipt.transaction_hash);
    let transaction = provider.get_transaction_by_hash(receipt.transaction_hash).await.unwrap().unwrap();
    assert_eq!(transaction.block_number, receipt.block_number);
    assert_eq!(transaction.inner.signer(), signer(0).address());
}
