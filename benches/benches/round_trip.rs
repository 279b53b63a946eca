//! A message to another node on loopback and back, over QUIC with both identities checked: a vote of 200 bytes.

use bytes::Bytes;
use cascade_network::{Channel, Event, Identity, Network, NetworkConfig, NetworkId, Receivers};
use cascade_primitives::{B256, ChainId};
use criterion::{Criterion, criterion_group, criterion_main};

async fn start(seed: u8) -> (Network, Receivers) {
    let network_id = NetworkId { chain_id: ChainId(1), genesis_hash: B256::ZERO };
    let mut config = NetworkConfig::new(([127, 0, 0, 1], 0).into(), network_id);
    let limits = config.limits.of_mut(Channel::Consensus);
    limits.messages_per_s = 100_000_000;
    limits.bytes_per_s = 10 << 30;
    let registry = prometheus::Registry::new();
    Network::start(config, Identity::from_seed(&[seed; 32]), &registry).await.expect("a free port on loopback")
}

fn round_trip(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("the system can start a few threads");
    let (a, mut inbox, b) = runtime.block_on(async {
        let ((a, mut a_rx), (b, mut b_rx)) = (start(1).await, start(2).await);
        a.dial(b.local_addr(), Some(b.node_id()));
        while !matches!(a_rx.events.recv().await, Some(Event::Connected(_))) {}
        while !matches!(b_rx.events.recv().await, Some(Event::Connected(_))) {}
        let echo = b.clone();
        tokio::spawn(async move {
            let mut events = b_rx.events;
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            while let Some(message) = b_rx.consensus.recv().await {
                let _ = echo.broadcast(Channel::Consensus, &message.payload);
            }
        });
        (a, a_rx, b)
    });
    let vote = Bytes::from(vec![1; 200]);
    let mut group = c.benchmark_group("round_trip");
    group.bench_function("vote on loopback QUIC", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                a.broadcast(Channel::Consensus, &vote).expect("the peer is connected");
                inbox.consensus.recv().await.expect("the echo")
            })
        });
    });
    group.finish();
    runtime.block_on(async {
        a.shutdown().await;
        b.shutdown().await;
    });
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
