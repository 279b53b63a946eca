//! Measures two nodes on loopback in one process: messages per second, and the round trip of a vote, idle and while
//! the mempool is flooded. `cargo run -p cascade-network --example throughput [MESSAGES] [BYTES]`

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cascade_network::{Channel, Event, Identity, Network, NetworkConfig, NetworkId, Receivers};
use cascade_primitives::{B256, ChainId};

async fn start(seed: u8) -> Result<(Network, Receivers), Box<dyn std::error::Error>> {
    let network_id = NetworkId { chain_id: ChainId(1), genesis_hash: B256::ZERO };
    let mut config = NetworkConfig::new(([127, 0, 0, 1], 0).into(), network_id);
    for channel in [Channel::Mempool, Channel::Consensus] {
        let limits = config.limits.of_mut(channel);
        limits.messages_per_s = 100_000_000;
        limits.bytes_per_s = 10 << 30;
    }
    Ok(Network::start(config, Identity::from_seed(&[seed; 32]), &prometheus::Registry::new()).await?)
}

/// Sends so many messages as fast as they go, and returns the time until the last one is there.
async fn flood(from: &Network, to: &mut Receivers, count: usize, size: usize) -> Duration {
    let payload = Bytes::from(vec![7; size]);
    let begin = Instant::now();
    let sender = {
        let from = from.clone();
        tokio::spawn(async move {
            let mut queued = 0;
            while queued < count {
                match from.broadcast(Channel::Mempool, &payload) {
                    Ok(1) => queued += 1,
                    _ => tokio::task::yield_now().await,
                }
            }
        })
    };
    let mut received = 0;
    let mut last = Instant::now();
    while received < count {
        // What the inbox drops never comes; the end is a pause.
        match tokio::time::timeout(Duration::from_millis(500), to.mempool.recv()).await {
            Ok(Some(_)) => {
                received += 1;
                last = Instant::now();
            }
            _ => break,
        }
    }
    sender.abort();
    println!("  {received} of {count} arrived");
    last.duration_since(begin)
}

async fn round_trips(a: &Network, a_rx: &mut Receivers, count: usize) -> Vec<Duration> {
    let vote = Bytes::from(vec![1; 200]);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let _ = a.broadcast(Channel::Consensus, &vote);
        if a_rx.consensus.recv().await.is_none() {
            break;
        }
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times
}

fn print_times(what: &str, times: &[Duration]) {
    if let (Some(p50), Some(p99)) = (times.get(times.len() / 2), times.get(times.len() * 99 / 100)) {
        println!("round trip {what}: p50 {p50:?}, p99 {p99:?}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().map_or(Ok(2_000_000), |a| a.parse())?;
    let size: usize = args.next().map_or(Ok(256), |a| a.parse())?;
    let (a, mut a_rx) = start(1).await?;
    let (b, mut b_rx) = start(2).await?;
    a.dial(b.local_addr(), Some(b.node_id()));
    while !matches!(a_rx.events.recv().await, Some(Event::Connected(_))) {}
    while !matches!(b_rx.events.recv().await, Some(Event::Connected(_))) {}

    let time = flood(&a, &mut b_rx, count, size).await;
    println!("{size} bytes: {:.0} per s", count as f64 / time.as_secs_f64());

    let Receivers { mut consensus, mut mempool, data, requests, events } = b_rx;
    let echo = b.clone();
    tokio::spawn(async move {
        while let Some(message) = consensus.recv().await {
            let _ = echo.broadcast(Channel::Consensus, &message.payload);
        }
    });
    print_times("idle", &round_trips(&a, &mut a_rx, 5000).await);

    let stop = Arc::new(AtomicBool::new(false));
    let flooding = {
        let (stop, a) = (Arc::clone(&stop), a.clone());
        let payload = Bytes::from(vec![7; size]);
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if a.broadcast(Channel::Mempool, &payload) != Ok(1) {
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    tokio::spawn(async move { while mempool.recv().await.is_some() {} });
    print_times("under a mempool flood", &round_trips(&a, &mut a_rx, 5000).await);
    stop.store(true, Ordering::Relaxed);
    flooding.await?;
    drop((data, requests, events));
    a.shutdown().await;
    b.shutdown().await;
    Ok(())
}
