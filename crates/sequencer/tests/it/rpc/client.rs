//! A server over a mock, and clients as bare as possible, so that a test sees what is on the wire.

use std::{net::SocketAddr, sync::Arc};

use cascade_sequencer::rpc::{RpcConfig, RpcMetrics, RpcServer, backend::Backend};
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mock::Mock;

pub struct Server {
    pub node: Arc<Mock>,
    pub rpc: RpcServer,
    pub metrics: RpcMetrics,
}

/// The answer to an HTTP request.
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Server {
    pub fn start(node: Arc<Mock>) -> Self {
        Self::with(node, |_| {})
    }

    pub fn with(node: Arc<Mock>, change: impl FnOnce(&mut RpcConfig)) -> Self {
        let mut config = RpcConfig::default();
        change(&mut config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let metrics = RpcMetrics::new();
        let backend: Arc<dyn Backend> = node.clone();
        let rpc = RpcServer::start(&config, listener, backend, metrics.clone()).unwrap();
        Self { node, rpc, metrics }
    }

    pub fn address(&self) -> SocketAddr {
        self.rpc.address()
    }

    /// Sends bytes and reads until the server closes.
    pub async fn send(&self, bytes: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(self.address()).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (headers, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = headers.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        Answer { status, headers: headers.to_lowercase(), body: body.to_owned() }
    }

    /// A POST with further headers, each with its line end.
    pub async fn post_with(&self, headers: &str, body: &str) -> Answer {
        let host = if headers.contains("host:") { String::new() } else { format!("host: {}\r\n", self.address()) };
        let length = body.len();
        let head = format!(
            "POST / HTTP/1.1\r\n{host}content-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n"
        );
        self.send(format!("{head}{headers}\r\n{body}").as_bytes()).await
    }

    pub async fn post(&self, body: &str) -> Value {
        let answer = self.post_with("", body).await;
        serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}\n{}", answer.headers, answer.body))
    }

    pub async fn answer(&self, method: &str, params: Value) -> Value {
        self.post(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()).await
    }

    /// The result of a call that must succeed.
    pub async fn ok(&self, method: &str, params: Value) -> Value {
        let mut answer = self.answer(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Code, message and data of a call that must fail.
    pub async fn fails(&self, method: &str, params: Value) -> (i64, String, Value) {
        let answer = self.answer(method, params.clone()).await;
        let error = answer.get("error").unwrap_or_else(|| panic!("{method} {params} must fail, gave {answer}"));
        (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned(), error["data"].clone())
    }

    /// The same without data.
    pub async fn error(&self, method: &str, params: Value) -> (i64, String) {
        let (code, message, _) = self.fails(method, params).await;
        (code, message)
    }

    pub async fn socket(&self) -> WsClient {
        WsClientBuilder::default().build(format!("ws://{}", self.address())).await.unwrap()
    }
}
