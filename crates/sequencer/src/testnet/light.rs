//! A testnet's light client: it follows the cluster as `cascade light` would, in the testnet's own process.

use cascade_light::Start;
use tokio::sync::watch;

use super::cluster::Cluster;
use crate::{
    cli::{Failure, light_line, output, random_seed},
    light::{Follower, Peer, config_of, genesis_checkpoint},
};

/// Starts it; what it answers is what it sees, in words.
pub(super) fn start(cluster: &Cluster) -> Result<watch::Receiver<String>, Failure> {
    let genesis = cluster.genesis();
    let peers = cluster.nodes().iter().map(|node| Peer::of_url(&node.file().rpc_http)).collect::<Result<_, _>>()?;
    let start = Start::Genesis(genesis_checkpoint(genesis)?);
    let config = config_of(genesis, start, random_seed()?);
    let follower = Follower::new(config, peers, None, false);
    let (sender, receiver) = watch::channel(String::new());
    tokio::spawn(follow(follower, sender));
    Ok(receiver)
}

async fn follow(mut follower: Follower, sender: watch::Sender<String>) {
    let mut result = follower.start();
    while result.is_ok() {
        result = follower.advance().await;
        // Nobody looks any more: the testnet ends.
        if sender.send(light_line(&follower.snapshot())).is_err() {
            return;
        }
    }
    if let Err(failure) = result {
        output::note(&format!("light: {}", failure.message));
        let _ = sender.send(failure.message);
    }
}
