//! When to look at the chain: a node's blocks, as it pushes them.
//!
//! ```text
//!  node --WebSocket--> newHeads, l2_finalBlocks --> Seen --> keeper, subscriptions to envelopes
//!                 away? the clock, every `LOOK` ------^
//! ```
//!
//! What the proxy asks a node about changes with a block and not otherwise, but for a pool that is lost with its node, and
//! then the socket is lost, too. So two subscriptions serve whatever is pending, where one for each envelope would soon be
//! more than a node allows.

use std::time::Duration;

use jsonrpsee::{
    core::client::{Error, Subscription, SubscriptionClientT as _},
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use serde_json::value::RawValue;
use tokio::sync::watch;

/// How often the chain is looked at while the node pushes nothing.
pub const LOOK: Duration = Duration::from_millis(250);
/// A socket over which nothing comes for so long is given up: idle chains make a block every few seconds.
const SILENT: Duration = Duration::from_secs(30);

/// How often something has happened. Only that it changes means something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Blocks that became final.
    pub ordered: u64,
    /// Blocks that were executed.
    pub executed: u64,
}

impl Seen {
    const fn anything(&mut self) {
        self.ordered += 1;
        self.executed += 1;
    }
}

/// Follows the node whose WebSocket is at `url` until nobody listens any more.
pub async fn follow(url: String, look: Duration, seen: watch::Sender<Seen>) {
    let mut said = false;
    while !seen.is_closed() {
        match subscribe(&url).await {
            Ok(feeds) => {
                said = false;
                seen.send_modify(Seen::anything);
                listen(feeds, &seen).await;
            }
            Err(error) => {
                if !said {
                    tracing::info!(%url, %error, "the node pushes no blocks; asking it every {look:?}");
                }
                said = true;
            }
        }
        seen.send_modify(Seen::anything);
        tokio::time::sleep(look).await;
    }
}

struct Feeds {
    _socket: WsClient,
    heads: Subscription<Box<RawValue>>,
    finals: Subscription<Box<RawValue>>,
}

async fn subscribe(url: &str) -> Result<Feeds, Error> {
    let socket = WsClientBuilder::default().connection_timeout(Duration::from_secs(5)).build(url).await?;
    let heads = socket.subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe").await?;
    let finals = socket.subscribe("eth_subscribe", rpc_params!["l2_finalBlocks"], "eth_unsubscribe").await?;
    Ok(Feeds { _socket: socket, heads, finals })
}

/// Passes on what comes, until the socket is gone.
async fn listen(mut feeds: Feeds, seen: &watch::Sender<Seen>) {
    loop {
        tokio::select! {
            head = feeds.heads.next() => match head {
                Some(Ok(_)) => seen.send_modify(|seen| seen.executed += 1),
                Some(Err(_)) | None => return,
            },
            block = feeds.finals.next() => match block {
                Some(Ok(_)) => seen.send_modify(|seen| seen.ordered += 1),
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep(SILENT) => return,
            () = seen.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jsonrpsee::{
        Extensions, PendingSubscriptionSink, RpcModule, SubscriptionMessage,
        core::SubscriptionError,
        server::{Server, ServerHandle},
        types::Params,
    };
    use tokio::sync::broadcast;

    use super::*;

    /// A node that pushes the kinds of blocks that it is told.
    async fn node(address: &str, pushed: broadcast::Sender<&'static str>) -> (String, ServerHandle) {
        let serve = |params: Params<'static>,
                     pending: PendingSubscriptionSink,
                     pushed: Arc<broadcast::Sender<&'static str>>,
                     _: Extensions| async move {
            let kind: (String,) = params.parse().expect("a kind");
            let mut feed = pushed.subscribe();
            let sink = pending.accept().await.expect("the client waits");
            loop {
                tokio::select! {
                    () = sink.closed() => return Ok::<(), SubscriptionError>(()),
                    Ok(now) = feed.recv() => if now == kind.0 {
                        let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &1)?;
                        sink.send(message).await.expect("the client is there");
                    },
                }
            }
        };
        let mut module = RpcModule::new(pushed);
        module.register_subscription("eth_subscribe", "eth_subscription", "eth_unsubscribe", serve).unwrap();
        let server = Server::builder().build(address).await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        (address, server.start(module))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_node_pushes_wakes_and_the_clock_does_while_it_is_away() {
        let (pushed, _) = broadcast::channel(8);
        let (address, server) = node("127.0.0.1:0", pushed.clone()).await;
        let (sender, mut seen) = watch::channel(Seen::default());
        let task = tokio::spawn(follow(format!("ws://{address}"), Duration::from_millis(5), sender));
        // Once when the socket is there; from then on nothing but what is pushed.
        seen.changed().await.unwrap();
        let start = *seen.borrow_and_update();
        assert_eq!(start, Seen { ordered: 1, executed: 1 });
        for (kind, expected) in [
            ("l2_finalBlocks", Seen { ordered: 2, executed: 1 }),
            ("newHeads", Seen { ordered: 2, executed: 2 }),
            ("newHeads", Seen { ordered: 2, executed: 3 }),
        ] {
            pushed.send(kind).unwrap();
            seen.changed().await.unwrap();
            assert_eq!(*seen.borrow_and_update(), expected, "{kind}");
        }

        server.stop().unwrap();
        server.stopped().await;
        for _ in 0..3 {
            seen.changed().await.unwrap();
        }
        // It is found again when it is back.
        let (_, _server) = node(&address, pushed.clone()).await;
        while pushed.receiver_count() < 2 {
            seen.changed().await.unwrap();
        }
        assert!(!task.is_finished());
        drop(seen);
        task.await.unwrap();
    }
}
