//! Limits, hostile input, hosts, origins, connections.

use alloy_primitives::{Address, B256};
use jsonrpsee::ws_client::{HeaderMap, HeaderValue, WsClientBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Token,
    client::Server,
    mock::{Mock, Tx},
};

const TO: Address = Address::repeat_byte(0x70);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_says_what_it_is() {
    let server = Server::with(Mock::plain(), |config| {
        (config.max_batch, config.max_log_blocks, config.max_logs) = (3, 4, 2);
        (config.max_filters, config.max_proof_slots) = (2, 1);
    });
    let token = Token::deploy(&server.node, 0);
    for nonce in 1..=5 {
        server.node.produce(vec![token.transfer(nonce, TO, 1).raw(0)]);
    }
    let limit = |message: &str| (-32005, message.to_owned());
    let error = server.error("eth_getLogs", json!([{"fromBlock": "0x1", "toBlock": "0x5"}])).await;
    assert_eq!(error, limit("limit exceeded: block range: 5, limit 4"));
    let error = server.error("eth_getLogs", json!([{"fromBlock": "0x0", "toBlock": "0xffffffffffffffff"}])).await;
    assert_eq!(error, limit("limit exceeded: block range: 7, limit 4"));
    let error = server.error("eth_getLogs", json!([{"fromBlock": "0x3", "toBlock": "0x5"}])).await;
    assert_eq!(error, limit("query returned more than 2 results"));
    let many = vec![TO; 1001];
    assert_eq!(server.ok("eth_getLogs", json!([{"address": many}])).await, json!([]), "the same address is one");
    let many: Vec<B256> = (0..1001_u64).map(|i| B256::from(alloy_primitives::U256::from(i))).collect();
    let error = server.error("eth_getLogs", json!([{"topics": [many]}])).await;
    assert_eq!(error, limit("limit exceeded: alternatives for a topic: 1001, limit 1000"));

    let one = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []});
    assert_eq!(server.post(&json!([one, one, one]).to_string()).await.as_array().unwrap().len(), 3);
    let answer = server.post(&json!([one, one, one, one]).to_string()).await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32005), &Value::Null));
    assert_eq!(answer["error"]["message"], "limit exceeded: requests in a batch: 4, limit 3");

    for _ in 0..2 {
        server.ok("eth_newBlockFilter", json!([])).await;
    }
    let error = server.error("eth_newBlockFilter", json!([])).await;
    assert_eq!(error, limit("limit exceeded: filters of this node: 3, limit 2"));
    let error = server.error("l2_getProof", json!([TO, ["0x0", "0x1"], "latest"])).await;
    assert_eq!(error, limit("limit exceeded: storage slots in one proof: 2, limit 1"));
    let error = server.error("l2_nextLeaders", json!([1001])).await;
    assert_eq!(error, limit("limit exceeded: leaders: 1001, limit 1000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_filter_that_lags_catches_up_in_steps() {
    let server = Server::with(Mock::plain(), |config| config.max_log_blocks = 2);
    let token = Token::deploy(&server.node, 0);
    let id = server.ok("eth_newFilter", json!([{}])).await;
    for nonce in 1..=5 {
        server.node.produce(vec![token.transfer(nonce, TO, 1).raw(0)]);
    }
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(server.ok("eth_getFilterChanges", json!([id])).await.as_array().unwrap().len());
    }
    assert_eq!(counts, [2, 2, 1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_answers_are_bounded() {
    let server = Server::with(Mock::plain(), |config| {
        (config.max_request_bytes, config.max_response_bytes) = (300_000, 10_000);
    });
    let large =
        json!({"jsonrpc": "2.0", "id": 1, "method": "web3_sha3", "params": [format!("0x{}", "0".repeat(300_000))]});
    let answer = server.post_with("", &large.to_string()).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("300000"), "{}", answer.body);
    // The length is a lie: nothing of that size is waited for or reserved.
    let answer = server.send(b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 4000000000\r\n\r\n{").await;
    assert_eq!(answer.status, 413);
    server.node.produce((0..100).map(|nonce| Tx::new(nonce, TO).raw(0)).collect());
    let (code, _, data) = server.fails("eth_getBlockByNumber", json!(["latest", true])).await;
    assert!(code == -32008 && data.to_string().contains("10000"), "{code} {data}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_types_are_wrong_parameters() {
    let server = Server::start(Mock::plain());
    for (method, params) in [
        ("eth_getBalance", json!([])),
        ("eth_getBalance", json!(["nonsense", "latest"])),
        ("eth_getBalance", json!([TO, "nonsense"])),
        ("eth_getBalance", json!([TO, {}])),
        ("eth_getBalance", json!([TO, {"blockHash": "0x12"}])),
        ("eth_getBalance", json!([TO, "latest", 1])),
        ("eth_getBalance", json!({"address": TO})),
        ("eth_getBlockByNumber", json!(["0x10000000000000000", false])),
        ("eth_getBlockByNumber", json!([-1, false])),
        ("eth_getBlockByNumber", json!(["latest", "yes"])),
        ("eth_getBlockByHash", json!(["latest", false])),
        ("eth_getStorageAt", json!([TO, format!("0x{}", "f".repeat(65)), "latest"])),
        ("eth_getTransactionByBlockNumberAndIndex", json!(["latest", "-1"])),
        ("eth_call", json!([7])),
        ("eth_call", json!([{"gas": "0x10000000000000000"}])),
        ("eth_call", json!([{"value": format!("0x1{}", "0".repeat(64))}])),
        ("eth_feeHistory", json!(["1e9", "latest"])),
        ("eth_getLogs", json!([{"topics": [[[TO]]]}])),
        ("eth_getLogs", json!([{"topics": [null, null, null, null, null]}])),
        ("eth_getLogs", json!([{"blockHash": B256::ZERO, "fromBlock": "0x1"}])),
        ("web3_sha3", json!(["0xzz"])),
        ("l2_block", json!([1.5])),
        ("l2_sequencers", json!(["0x-1"])),
        ("l2_getProof", json!([TO, "0x0"])),
    ] {
        let (code, message) = server.error(method, params.clone()).await;
        assert_eq!(code, -32602, "{method} {params}: {message}");
        assert!(message.len() < 400, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_answered_and_harms_nothing() {
    let server = Server::start(Mock::plain());
    for (body, code) in [
        ("{", -32700),
        ("nonsense", -32700),
        ("{}", -32700),
        (r#"{"id":1}"#, -32600),
        ("[1,2", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
    ] {
        let answer = server.post(body).await;
        assert_eq!(answer["error"]["code"], code, "{body}: {answer}");
    }
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(200_000);
        assert!(server.post(&deep).await["error"]["code"].is_i64());
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{deep}]}}"#);
        assert!(server.post(&body).await["error"]["code"].is_i64());
    }
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{closed}]}}"#);
    assert_eq!(server.post(&body).await["error"]["code"], -32602);
    let name = "x".repeat(100_000);
    let (code, message) = server.error(&name, json!([])).await;
    assert!(code == -32601 && message.len() < 200 && message.starts_with("the method x"));
    let parameters = format!("[{}0]", "0,".repeat(1_000_000));
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":{parameters}}}"#);
    assert_eq!(server.post(&body).await["error"]["code"], -32602);
    assert_eq!(server.ok("eth_blockNumber", json!([])).await, "0x0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_hosts_are_refused_and_origins_get_what_the_list_says() {
    let origin = "https://app.example";
    let server = Server::with(Mock::plain(), |config| {
        config.allowed_hosts = vec!["node.example".to_owned()];
        config.cors_origins = vec![origin.to_owned()];
    });
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    let answer = server.post_with("host: rebound.example\r\n", body).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("rpc.allowed_hosts"));
    assert_eq!(server.post_with("host: node.example:8545\r\n", body).await.status, 200);
    assert_eq!(server.post_with("host: 127.0.0.1\r\n", body).await.status, 200);

    let allowed = server.post_with(&format!("origin: {origin}\r\n"), body).await;
    assert!(allowed.headers.contains("access-control-allow-origin: https://app.example"), "{}", allowed.headers);
    let other = server.post_with("origin: https://evil.example\r\n", body).await;
    assert!(!other.headers.contains("access-control-allow-origin"), "{}", other.headers);
    let preflight = |origin: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\norigin: {origin}\r\n\
             access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n"
        )
    };
    let answer = server.send(preflight(origin).as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains("access-control-allow-origin"), "{}", answer.headers);
    let answer = server.send(preflight("https://evil.example").as_bytes()).await;
    assert!(!answer.headers.contains("access-control-allow-origin"), "{}", answer.headers);
    // A page could send this without a preflight, so it must not be taken.
    let simple = "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(server.send(simple.as_bytes()).await.status, 415);

    for (origin, fine) in [(origin, true), ("https://evil.example", false)] {
        let headers = HeaderMap::from_iter([("origin".parse().unwrap(), HeaderValue::from_static(origin))]);
        let socket = WsClientBuilder::default().set_headers(headers).build(format!("ws://{}", server.address())).await;
        assert_eq!(socket.is_ok(), fine, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_told_so() {
    let server = Server::with(Mock::plain(), |config| config.max_connections = 1);
    let mut held = TcpStream::connect(server.address()).await.unwrap();
    // Once this one has been answered, it surely counts.
    let request = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 47\r\n\r\n";
    held.write_all(request).await.unwrap();
    held.write_all(br#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#).await.unwrap();
    let mut byte = [0];
    held.read_exact(&mut byte).await.unwrap();
    let answer = server.send(b"").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("limit exceeded: connections, limit 1"), "{}", answer.body);
    drop(held);
    // The server notices the closed connection in its own time.
    while server.send(b"GET / HTTP/1.0\r\nconnection: close\r\n\r\n").await.status == 503 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_gone_and_its_sockets_are_closed() {
    let server = Server::start(Mock::plain());
    let (address, socket) = (server.address(), server.socket().await);
    server.rpc.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    socket.on_disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_method_exists() {
    let server = Server::start(Mock::plain());
    let text = include_str!("../../../../../docs/rpc.md");
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: std::collections::BTreeSet<&str> = words
        .filter(|word| ["eth_", "net_", "web3_", "l2_"].iter().any(|prefix| word.starts_with(prefix) && word != prefix))
        .collect();
    assert!(names.len() > 50, "{names:?}");
    // An example of an unknown method, a kind of subscription, the name of notifications, and what only a proxy has.
    let not_methods = ["eth_x", "l2_finalBlocks", "eth_subscription", "l2_proxy"];
    for name in names.into_iter().filter(|name| !not_methods.contains(name)) {
        let answer = server.answer(name, json!([])).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.ends_with("does not exist/is not available"), "{name}: {answer}");
        // A proxy answers it itself, passes it on, or says that it would show a transaction.
        let own = ["eth_sendRawTransaction", "eth_sendRawTransactionSync", "eth_subscribe", "eth_unsubscribe"];
        if let Err(refused) = cascade_sequencer::proxy::forward::passes(name).map_err(|refused| refused.code()) {
            let opaque = name.starts_with("l2_sendOpaque") && refused == -32004;
            assert!(own.contains(&name) || opaque, "{name}: {refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_method_and_unknown_ones_together() {
    let server = Server::start(Mock::plain());
    let registry = prometheus::Registry::new();
    server.metrics.register(&registry).unwrap();
    server.ok("eth_chainId", json!([])).await;
    server.error("eth_getBalance", json!([])).await;
    for i in 0..5 {
        server.error(&format!("made_up_{i}"), json!([])).await;
    }
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        r#"cascade_rpc_requests_total{method="eth_chainId",outcome="ok"} 1"#,
        r#"cascade_rpc_requests_total{method="eth_getBalance",outcome="error"} 1"#,
        r#"cascade_rpc_requests_total{method="unknown",outcome="error"} 5"#,
        "cascade_rpc_request_seconds_count 7",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
