//! Submitting transactions and payloads.

use std::sync::atomic::Ordering;

use alloy_primitives::{Address, B256, U256, hex};
use cascade_mempool::OpaquePool;
use cascade_primitives::TransactionRule;
use serde_json::{Value, json};

use super::{
    client::Server,
    mock::{Mock, Tx, params},
};

const TO: Address = Address::repeat_byte(0x70);

fn raw(tx: &Tx) -> String {
    hex::encode_prefixed(tx.raw(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_geths_code_and_words() {
    let server = Server::start(Mock::plain());
    let want = params().chain_id.0;
    server.node.produce(vec![Tx::new(0, TO).raw(0)]);
    let waiting = Tx::new(1, TO);
    assert_eq!(server.ok("eth_sendRawTransaction", json!([raw(&waiting)])).await, json!(waiting.hash(0)));
    let high_s = {
        // The transaction ends in a list item of 32 bytes, s; N - s is the other valid one, and refused.
        let mut bytes = waiting.raw(0).to_vec();
        let at = bytes.len() - 32;
        let n: U256 = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse().unwrap();
        let s = U256::from_be_slice(&bytes[at..]);
        bytes[at..].copy_from_slice(&(n - s).to_be_bytes::<32>());
        hex::encode_prefixed(bytes)
    };
    for (transaction, message) in [
        (
            raw(&Tx { chain_id: 1, ..Tx::new(2, TO) }),
            format!("invalid sender: invalid chain id for signer: have 1 want {want}"),
        ),
        (high_s, "invalid sender: invalid transaction v, r, s values".to_owned()),
        (raw(&Tx::new(0, TO)), "nonce too low: next nonce 1, tx nonce 0".to_owned()),
        (raw(&waiting), "already known".to_owned()),
        (format!("0x05{}", "00".repeat(50)), "transaction type not supported".to_owned()),
    ] {
        let error = server.error("eth_sendRawTransaction", json!([transaction])).await;
        assert_eq!(error, (-32000, message));
    }
    let large = raw(&Tx { data: vec![0; 131_072], ..Tx::new(2, TO) });
    let (code, message) = server.error("eth_sendRawTransaction", json!([large])).await;
    assert!(code == -32000 && message.starts_with("oversized data: transaction size "), "{message}");
    for nothing in ["0x", "0x02", "0xc0", &format!("0x{}", "ab".repeat(40))] {
        let (code, message) = server.error("eth_sendRawTransaction", json!([nothing])).await;
        assert!([-32000, -32602].contains(&code), "{nothing}: {code} {message}");
    }
    for wrong in
        [json!([]), json!([1]), json!(["zz"]), json!(["0x1"]), json!([["0x"]]), json!(["0x", 1]), json!({"tx": "0x"})]
    {
        assert_eq!(server.error("eth_sendRawTransaction", wrong.clone()).await.0, -32602, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transactions_of_a_batch_reach_the_node_together() {
    let server = Server::start(Mock::plain());
    let mut batch: Vec<Value> = (0..300_u64)
        .map(|nonce| json!({"jsonrpc": "2.0", "id": nonce, "method": "eth_sendRawTransaction", "params": [raw(&Tx::new(nonce, TO))]}))
        .collect();
    batch.insert(7, json!({"jsonrpc": "2.0", "id": "chain", "method": "eth_chainId"}));
    batch.insert(9, json!({"jsonrpc": "2.0", "id": "bad", "method": "eth_sendRawTransaction", "params": ["0xz"]}));
    batch.insert(11, json!({"jsonrpc": "2.0", "id": "unknown", "method": "eth_nothing"}));
    batch.insert(13, json!({"jsonrpc": "2.0", "method": "eth_chainId"}));
    batch.insert(15, json!(7));
    batch.push(batch[0].clone());
    let answers = server.post(&Value::from(batch).to_string()).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(server.node.submissions.load(Ordering::Relaxed), 1);
    assert_eq!(answers.len(), 305, "one answer for each but the notification");
    let by_id = |id: Value| answers.iter().find(|answer| answer["id"] == id).unwrap();
    for nonce in [1_u64, 150, 299] {
        assert_eq!(by_id(json!(nonce))["result"], json!(Tx::new(nonce, TO).hash(0)));
    }
    assert!(by_id(json!("chain"))["result"].is_string());
    assert_eq!(by_id(json!("bad"))["error"]["code"], -32602);
    assert_eq!(by_id(json!("unknown"))["error"]["code"], -32601);
    assert_eq!(by_id(Value::Null)["error"]["code"], -32600);
    assert_eq!(answers.last().unwrap()["error"]["message"], "already known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_sync_answers_with_the_receipt_or_says_that_it_took_too_long() {
    let server = Server::start(Mock::new(TransactionRule::Plain, true));
    let receipt = server.ok("eth_sendRawTransactionSync", json!([raw(&Tx::new(0, TO))])).await;
    assert_eq!(receipt["transactionHash"], json!(Tx::new(0, TO).hash(0)));
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(server.error("eth_sendRawTransactionSync", json!([raw(&Tx::new(0, TO))])).await.0, -32000);

    let lazy = Server::start(Mock::plain());
    let (code, message, data) = lazy.fails("eth_sendRawTransactionSync", json!([raw(&Tx::new(0, TO)), "0x1"])).await;
    assert_eq!((code, data), (4, json!(Tx::new(0, TO).hash(0))));
    assert!(message.contains("1ms"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_payloads_takes_payloads_and_says_what_it_cannot_do() {
    let server = Server::start(Mock::new(TransactionRule::Opaque, false));
    let payload = |i: u8| hex::encode_prefixed([i; 512]);
    let key = |i: u8| json!(OpaquePool::key(&[i; 512]));
    assert_eq!(server.ok("l2_sendOpaque", json!([payload(1)])).await, key(1));
    let batch = json!([[payload(2), "0x", payload(3)]]);
    let outcome = server.ok("l2_sendOpaqueBatch", batch).await;
    assert_eq!(outcome, json!({"accepted": 2, "refused": [{"index": 1, "error": "empty payload"}]}));
    assert_eq!(server.node.submissions.load(Ordering::Relaxed), 2);
    let status = server.ok("l2_opaqueStatus", json!([key(2)])).await;
    assert_eq!((&status["status"], &status["height"]), (&json!("pending"), &Value::Null));
    assert_eq!(server.ok("l2_opaqueStatus", json!([B256::ZERO])).await, Value::Null);

    server.node.order([1_u8, 2, 3].map(|i| vec![i; 512].into()).to_vec());
    let status = server.ok("l2_opaqueStatus", json!([key(2)])).await;
    assert_eq!((&status["status"], &status["height"], &status["index"]), (&json!("final"), &json!(1), &json!(1)));
    let block = server.ok("l2_block", json!([1, true])).await;
    assert_eq!(block["transactions"], json!([key(1), key(2), key(3)]));
    assert_eq!((&block["transactionBytes"], &block["transactionCount"]), (&json!(1536), &json!(3)));
    server.node.execute();
    let block = server.ok("eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!(block["transactions"], json!([key(1), key(2), key(3)]));

    for (method, params) in [
        ("eth_sendRawTransaction", json!(["0x00"])),
        ("eth_call", json!([{}])),
        ("eth_estimateGas", json!([{}])),
        ("eth_getTransactionByHash", json!([key(1)])),
        ("eth_getTransactionReceipt", json!([key(1)])),
        ("eth_getBlockReceipts", json!(["latest"])),
        ("eth_getLogs", json!([{}])),
        ("eth_newFilter", json!([{}])),
        ("eth_getBlockByNumber", json!(["latest", true])),
    ] {
        let (code, message) = server.error(method, params).await;
        assert!(code == -32004 && message.contains("opaque"), "{method}: {code} {message}");
    }
    let plain = Server::start(Mock::plain());
    assert_eq!(plain.error("l2_sendOpaque", json!(["0x00"])).await.0, -32004);
    assert_eq!(plain.error("l2_sendOpaqueBatch", json!([["0x00"]])).await.0, -32004);
}
