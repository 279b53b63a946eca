//! What is sent: prepared transfers, and opaque bytes made on the way.

use alloy_primitives::{Address, B256, Bytes as HexBytes, U256, keccak256};
use cascade_primitives::{ChainId, ChainParams, domain, hash};
use rayon::prelude::*;

use super::{Job, LoadKind};
use crate::{
    sealing::Seal,
    testnet::accounts,
    wallet::{Fees, TRANSFER_GAS, Transfer},
};

/// 1000 gwei a gas, which no base fee of a run reaches.
const FEES: Fees = Fees { max: 1_000_000_000_000, tip: 1 };

/// All payloads of a run. Payload i is due i / rate seconds after the start.
pub(super) enum Payloads {
    /// Hash and `0x` hex of each transfer, signed.
    Transfers(Vec<(B256, String)>),
    /// Bytes that follow from the number.
    Opaque { size: usize },
}

impl Payloads {
    /// `seal` is what an encrypted load is sealed with.
    pub(super) fn prepare(job: &Job, seal: Option<(&Seal, &ChainParams)>) -> Self {
        match job.kind {
            LoadKind::Opaque => Self::Opaque { size: job.size },
            LoadKind::Transfer | LoadKind::Encrypted => Self::Transfers(transfers(job, seal)),
        }
    }

    /// Which of `nodes` payload `i` goes to. A sender always goes to one node, so that its nonces arrive in order.
    pub(super) fn node_of(&self, i: u64, senders: u64, nodes: usize) -> usize {
        let unit = match self {
            Self::Transfers(_) => i % senders,
            Self::Opaque { .. } => i,
        };
        (unit % nodes as u64) as usize
    }

    /// Appends payload `i` as `0x` hex in quotes, and answers the name that blocks know it by.
    pub(super) fn append(&self, i: u64, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> B256 {
        match self {
            Self::Transfers(all) => {
                let (hash, text) = &all[i as usize];
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
                *hash
            }
            Self::Opaque { size } => {
                opaque(i, *size, scratch);
                let at = out.len() + 3;
                out.extend_from_slice(b"\"0x");
                out.resize(at + 2 * size, 0);
                hex::encode_to_slice(&scratch[..], &mut out[at..]).expect("the space is twice the bytes");
                out.push(b'"');
                hash::tagged(domain::OPAQUE, &[scratch])
            }
        }
    }
}

/// Bytes that no other number gives: the number, then what splitmix64 makes of it.
fn opaque(i: u64, size: usize, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&i.to_le_bytes());
    let mut state = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    while out.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(size);
}

/// Transfer i comes from sender i mod `senders`, with its next nonce, to an address that nothing else uses.
/// Sealed, it keeps its name: blocks show what was inside.
fn transfers(job: &Job, seal: Option<(&Seal, &ChainParams)>) -> Vec<(B256, String)> {
    let wallets: Vec<_> = accounts::load_accounts(job.senders).collect();
    let total = job.rate * (job.warmup + job.secs);
    (0..total)
        .into_par_iter()
        .map(|i| {
            let seed = keccak256([b"cascade load recipient".as_slice(), &i.to_le_bytes()].concat());
            let transfer = Transfer {
                chain: ChainId(job.chain_id),
                nonce: i / job.senders,
                to: Address::from_slice(&seed[12..]),
                value: U256::from(1),
                data: HexBytes::new(),
                gas: TRANSFER_GAS,
                fees: FEES,
            };
            let wallet = &wallets[(i % job.senders) as usize];
            let (hash, raw) = wallet.sign(&transfer);
            let Some((seal, params)) = seal else { return (hash, format!("0x{}", hex::encode(raw))) };
            let sealed = seal.transaction(&raw.into(), wallet.signing_key(), transfer.nonce, params);
            (hash, format!("0x{}", hex::encode(sealed.expect("a transfer can be sealed").raw())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn job(kind: LoadKind) -> Job {
        Job {
            submit: Vec::new(),
            observe_http: String::new(),
            observe_ws: String::new(),
            rate: 10,
            secs: 2,
            warmup: 1,
            kind,
            size: 33,
            senders: 7,
            chain_id: 20252,
        }
    }

    #[test]
    fn payloads_are_distinct_and_of_the_size_asked_for() {
        for kind in [LoadKind::Transfer, LoadKind::Opaque] {
            let payloads = Payloads::prepare(&job(kind), None);
            let (mut names, mut scratch) = (HashSet::new(), Vec::new());
            for i in 0..30 {
                let mut out = Vec::new();
                assert!(names.insert(payloads.append(i, &mut scratch, &mut out)));
                assert!(out.starts_with(b"\"0x") && out.ends_with(b"\""));
                if kind == LoadKind::Opaque {
                    assert_eq!(out.len(), 2 * 33 + 4);
                }
            }
        }
    }

    #[test]
    fn a_sender_goes_to_one_node_alone() {
        let payloads = Payloads::prepare(&job(LoadKind::Transfer), None);
        for i in 0..7 {
            assert_eq!(payloads.node_of(i, 7, 3), payloads.node_of(i + 7, 7, 3));
        }
        assert_eq!((0..3).map(|i| payloads.node_of(i, 7, 3)).collect::<HashSet<_>>().len(), 3);
    }
}
