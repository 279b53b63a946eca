//! Filters that are polled, and subscriptions over a WebSocket.

use alloy_primitives::{Address, B256, hex};
use cascade_sequencer::rpc::{Backend, types::FinalBlock};
use jsonrpsee::{
    core::client::{ClientT, Error, Subscription, SubscriptionClientT},
    rpc_params,
    ws_client::WsClient,
};
use serde_json::{Value, json};

use super::{Token, client::Server, hex_of, mock::Mock};

const TO: Address = Address::repeat_byte(0x70);

async fn subscribe(socket: &WsClient, params: Vec<Value>) -> Result<Subscription<Value>, Error> {
    let mut array = jsonrpsee::core::params::ArrayParams::new();
    for param in params {
        array.insert(param).unwrap();
    }
    socket.subscribe("eth_subscribe", array, "eth_unsubscribe").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_answer_what_is_new_since_the_last_poll() {
    let server = Server::start(Mock::plain());
    let token = Token::deploy(&server.node, 0);
    let blocks = server.ok("eth_newBlockFilter", json!([])).await;
    let logs = server.ok("eth_newFilter", json!([{"address": token.address}])).await;
    let pending = server.ok("eth_newPendingTransactionFilter", json!([])).await;
    let changes = |id: &Value| server.ok("eth_getFilterChanges", json!([id]));
    assert!(blocks.as_str().unwrap().starts_with("0x") && blocks != logs);
    assert_eq!(changes(&blocks).await, json!([]));
    assert_eq!(changes(&logs).await, json!([]), "the deployment's log came before the filter");

    let transfer = token.transfer(1, TO, 4);
    server.ok("eth_sendRawTransaction", json!([hex::encode_prefixed(transfer.raw(0))])).await;
    let height = server.node.produce(vec![transfer.raw(0)]);
    server.node.produce(vec![]);
    let hash = |height| server.node.block_hash(height).unwrap().unwrap();
    assert_eq!(changes(&blocks).await, json!([hash(height), hash(height.next())]));
    assert_eq!(changes(&blocks).await, json!([]));
    assert_eq!(changes(&pending).await, json!([transfer.hash(0)]));
    let new = changes(&logs).await;
    assert_eq!((new.as_array().unwrap().len(), &new[0]["transactionHash"]), (1, &json!(transfer.hash(0))));
    assert_eq!(changes(&logs).await, json!([]));
    assert_eq!(server.ok("eth_getFilterLogs", json!([logs])).await, json!([]), "its range is the newest block");

    let not_found = (-32000, "filter not found".to_owned());
    assert_eq!(server.error("eth_getFilterLogs", json!([blocks])).await, not_found);
    assert_eq!(server.ok("eth_uninstallFilter", json!([blocks])).await, true);
    assert_eq!(server.ok("eth_uninstallFilter", json!([blocks])).await, false);
    for id in [blocks, json!("0x1"), json!("nonsense"), json!(17)] {
        assert_eq!(server.error("eth_getFilterChanges", json!([id])).await, not_found);
    }
    let whole = server.ok("eth_newFilter", json!([{"fromBlock": "earliest", "address": token.address}])).await;
    assert_eq!(server.ok("eth_getFilterLogs", json!([whole])).await.as_array().unwrap().len(), 2);
    assert_eq!(server.error("eth_newFilter", json!([{"blockHash": B256::ZERO}])).await.0, -32602);
    assert_eq!(server.error("eth_newPendingTransactionFilter", json!([true])).await.0, -32602);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_come_in_order_even_if_the_server_falls_behind() {
    let server = Server::start(Mock::plain());
    let socket = server.socket().await;
    let mut heads = subscribe(&socket, vec![json!("newHeads")]).await.unwrap();
    // More blocks than the node's event channel holds, before anything can be sent.
    for _ in 0..200 {
        server.node.produce(vec![]);
    }
    for number in 1..=200_u64 {
        let head = heads.next().await.unwrap().unwrap();
        assert_eq!(head["number"], format!("{number:#x}"));
        let known = server.node.block_hash(number.into()).unwrap().unwrap();
        assert_eq!(head["hash"], known.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_pending_and_final_blocks_are_pushed() {
    let server = Server::start(Mock::plain());
    let (wanted, other) = (Token::deploy(&server.node, 0), Token::deploy(&server.node, 1));
    let socket = server.socket().await;
    let mut logs = subscribe(&socket, vec![json!("logs"), json!({"address": wanted.address})]).await.unwrap();
    let mut pending = subscribe(&socket, vec![json!("newPendingTransactions")]).await.unwrap();
    let mut finals = subscribe(&socket, vec![json!("l2_finalBlocks")]).await.unwrap();
    let first = wanted.transfer(2, TO, 1);
    let sent: B256 =
        socket.request("eth_sendRawTransaction", rpc_params![hex::encode_prefixed(first.raw(0))]).await.unwrap();
    assert_eq!(pending.next().await.unwrap().unwrap(), json!(sent));
    let height = server.node.produce(vec![first.raw(0), other.transfer(3, TO, 1).raw(0)]);
    let last = wanted.transfer(4, TO, 1);
    server.node.produce(vec![last.raw(0)]);
    for expected in [first.hash(0), last.hash(0)] {
        assert_eq!(logs.next().await.unwrap().unwrap()["transactionHash"], json!(expected));
    }
    let block: FinalBlock = serde_json::from_value(finals.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((block.height, block.hash), (height, server.node.block_hash(height).unwrap().unwrap()));
    // Methods answer over the socket as over HTTP.
    let block: Value = socket.request("eth_getBlockByNumber", rpc_params![hex_of(height), false]).await.unwrap();
    assert_eq!(block, server.ok("eth_getBlockByNumber", json!([hex_of(height), false])).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unsubscribed_ends_and_makes_room() {
    let server = Server::with(Mock::plain(), |config| config.max_subscriptions = 2);
    let socket = server.socket().await;
    let heads = subscribe(&socket, vec![json!("newHeads")]).await.unwrap();
    let _other = subscribe(&socket, vec![json!("newHeads")]).await.unwrap();
    let error = subscribe(&socket, vec![json!("newHeads")]).await.unwrap_err();
    assert!(error.to_string().contains("limit") && error.to_string().contains('2'), "{error}");
    heads.unsubscribe().await.unwrap();
    // The permit comes back when the feed has ended, a moment after the answer.
    loop {
        match subscribe(&socket, vec![json!("newHeads")]).await {
            Ok(_) => break,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_make_no_sense_are_refused() {
    let server = Server::start(Mock::plain());
    let socket = server.socket().await;
    for (params, code) in [
        (vec![json!("nonsense")], -32601),
        (vec![], -32602),
        (vec![json!(1)], -32602),
        (vec![json!("logs"), json!({"address": "0x1"})], -32602),
        (vec![json!("newPendingTransactions"), json!(true)], -32602),
    ] {
        match subscribe(&socket, params.clone()).await.unwrap_err() {
            Error::Call(error) => assert_eq!(error.code(), code, "{params:?}"),
            other => panic!("{params:?}: {other}"),
        }
    }
    let (code, message) = server.error("eth_subscribe", json!(["newHeads"])).await;
    assert!(code == -32601 && message.contains("WebSocket"), "{code} {message}");
}
