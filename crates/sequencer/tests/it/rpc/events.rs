//! Filters that are polled, and subscriptions over a WebSocket.

use alloy_primitives::{Address, B256, hex};
use cascade_primitives::{Epoch, Height, TransactionRule};
use cascade_sequencer::rpc::{
    Backend,
    types::{EnvelopeState, EnvelopeStatus, FinalBlock},
};
use jsonrpsee::{
    core::client::{ClientT, Error, Subscription, SubscriptionClientT},
    rpc_params,
    ws_client::WsClient,
};
use serde_json::{Value, json};

use super::{
    Token,
    client::Server,
    hex_of,
    mock::{Mock, Tx},
};

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

async fn state(feed: &mut Subscription<Value>) -> EnvelopeState {
    let status: EnvelopeStatus = serde_json::from_value(feed.next().await.unwrap().unwrap()).unwrap();
    status.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_of_an_envelope_is_pushed_once_and_the_subscription_ends_after_the_last() {
    let server = Server::with(Mock::new(TransactionRule::Encrypted, false), |config| config.max_subscriptions = 1);
    let socket = server.socket().await;
    // To this server, a transaction in the clear stands for an envelope.
    let tx = Tx::new(0, TO);
    let hash = tx.hash(0);
    // Before anybody has heard of it.
    let mut feed = subscribe(&socket, vec![json!("l2_envelopeStatus"), json!(hash)]).await.unwrap();
    server.node.submit(vec![tx.raw(0)]).await.pop().unwrap().unwrap();
    assert_eq!(state(&mut feed).await, EnvelopeState::Pending);
    // Blocks and transactions of others change nothing.
    server.node.produce(vec![]);
    server.node.submit(vec![Tx::new(1, TO).raw(0)]).await.pop().unwrap().unwrap();

    let height = server.node.heads().ordered.next();
    server.node.ordered_items.lock().insert(hash, (height, false));
    server.node.order(vec![tx.raw(0)]);
    assert_eq!(state(&mut feed).await, EnvelopeState::Ordered);
    server.node.ordered_items.lock().insert(hash, (height, true));
    server.node.open(height);
    assert_eq!(state(&mut feed).await, EnvelopeState::Revealed);
    server.node.execute();
    let done: EnvelopeStatus = serde_json::from_value(feed.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((done.status, done.height, done.index), (EnvelopeState::Executed, Some(height), Some(0)));

    // Its place is free again; of one that is known already, the state comes at once.
    let mut feed = loop {
        match subscribe(&socket, vec![json!("l2_envelopeStatus"), json!(hash)]).await {
            Ok(feed) => break feed,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(state(&mut feed).await, EnvelopeState::Executed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_that_was_not_ordered_in_its_time_expires_when_no_block_can_bring_it_any_more() {
    let server = Server::start(Mock::new(TransactionRule::Encrypted, false));
    let socket = server.socket().await;
    let hash = B256::repeat_byte(7);
    server.node.ends.lock().insert(hash, (Epoch(0), Height(3)));
    let status = || server.ok("l2_envelopeStatus", json!([hash]));
    assert_eq!(status().await, Value::Null, "it is not in the pool, but a block may bring it");
    let mut feed = subscribe(&socket, vec![json!("l2_envelopeStatus"), json!(hash)]).await.unwrap();
    for _ in 0..2 {
        server.node.produce(vec![]);
    }
    server.node.order(vec![]);
    assert_eq!(status().await, Value::Null, "what the last block that may hold it holds is not known yet");
    server.node.execute();
    assert_eq!(state(&mut feed).await, EnvelopeState::Expired);
    let status = status().await;
    assert_eq!(status["status"], "expired");
    assert_eq!(status["reason"], "not ordered up to block 3, until which it was valid");
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
        (vec![json!("l2_envelopeStatus"), json!(B256::ZERO)], -32004),
    ] {
        match subscribe(&socket, params.clone()).await.unwrap_err() {
            Error::Call(error) => assert_eq!(error.code(), code, "{params:?}"),
            other => panic!("{params:?}: {other}"),
        }
    }
    let encrypted = Server::start(Mock::new(TransactionRule::Encrypted, false));
    let socket = encrypted.socket().await;
    for params in [vec![json!("l2_envelopeStatus")], vec![json!("l2_envelopeStatus"), json!("0x1")]] {
        match subscribe(&socket, params.clone()).await.unwrap_err() {
            Error::Call(error) => assert_eq!(error.code(), -32602, "{params:?}"),
            other => panic!("{params:?}: {other}"),
        }
    }
    let (code, message) = server.error("eth_subscribe", json!(["newHeads"])).await;
    assert!(code == -32601 && message.contains("WebSocket"), "{code} {message}");
}
