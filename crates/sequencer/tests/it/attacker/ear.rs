//! What anybody can hear and ask who connects to all nodes.

use std::{collections::HashSet, sync::Arc};

use alloy_primitives::Bytes;
use cascade_crypto::threshold::BlockShares;
use cascade_mempool::{
    gossip::{decode_gossip, decode_system_item},
    reveal::RevealMessage,
};
use cascade_network::{Channel, Message, Network, Receivers};
use cascade_primitives::{Certificate, Decode as _, Encode as _, Height, NodeId};
use tokio::sync::mpsc;

use super::market::Sent;
use crate::cluster::Cluster;

/// Heights above the newest final one whose shares are asked for.
const AHEAD: u64 = 4;

/// A peer of all nodes.
pub struct Ear {
    network: Network,
    mempool: mpsc::Receiver<Message>,
    data: mpsc::Receiver<Message>,
    /// What was heard, and what its owner sent.
    known: HashSet<Bytes>,
    heard: Vec<Bytes>,
}

impl Ear {
    pub fn new(cluster: &Cluster) -> Self {
        let all: Vec<usize> = (0..cluster.nodes.len()).collect();
        let (network, receivers) = cluster.runtime.block_on(cluster.stranger(&all));
        let Receivers { mut consensus, mempool, data, mut requests, mut events } = receivers;
        // What is not listened to must not hold back those who speak.
        cluster.runtime.spawn(async move { while consensus.recv().await.is_some() {} });
        cluster.runtime.spawn(async move { while requests.recv().await.is_some() {} });
        cluster.runtime.spawn(async move { while events.recv().await.is_some() {} });
        Self { network, mempool, data, known: HashSet::new(), heard: Vec::new() }
    }

    /// These are its owner's.
    pub fn expect(&mut self, own: &[Sent]) {
        self.known.extend(own.iter().map(|sent| sent.item.clone()));
    }

    /// The next item of users that is gossiped, of somebody else, and was not before.
    pub fn next(&mut self, cluster: &Cluster) -> Bytes {
        while self.heard.is_empty() {
            let message = cluster.runtime.block_on(self.mempool.recv()).expect("gossip");
            let items = decode_gossip(&message.payload, 1 << 20).expect("gossip decodes").into_iter().map(Bytes);
            let known = &mut self.known;
            let of_users = items.filter(|item| decode_system_item(item).is_ok_and(|item| item.is_none()));
            self.heard.extend(of_users.filter(|item| known.insert(item.clone())));
        }
        self.heard.remove(0)
    }

    /// Asks all nodes for the shares of blocks that are not final.
    pub fn ask_early(&self, cluster: &Cluster) {
        let head = cluster.height(0);
        for (node, ahead) in cluster.nodes.iter().flat_map(|node| (1..=AHEAD).map(move |ahead| (node, ahead))) {
            let asked = RevealMessage::Request(Height(head + ahead)).to_bytes();
            let _ = self.network.send(node.keys.identity.node_id(), Channel::Data, asked.into());
        }
    }

    /// Shares that were heard since it was last asked for them: who sent them, and with which certificate.
    pub fn shares(&mut self) -> Vec<(NodeId, Arc<BlockShares>, Arc<Certificate>)> {
        let mut heard = Vec::new();
        while let Ok(message) = self.data.try_recv() {
            let said = RevealMessage::from_slice(&message.payload).expect("nodes say what can be read");
            if let RevealMessage::Shares(shares, certificate) = said {
                heard.push((message.peer, shares, certificate));
            }
        }
        heard
    }

    pub fn stop(self, cluster: &Cluster) {
        cluster.runtime.block_on(self.network.shutdown());
    }
}
