//! Writes inputs to start fuzzing from: golden files, real proofs and certificates, texts with every key.
//!
//!     cargo run -p cascade-checks --example seeds -- fuzz/corpus

use std::{error::Error, fs, path::Path};

use cascade_consensus::{Message, Record, SignState, Status, SyncRequest, SyncResponse};
use cascade_mempool::gossip::encode_gossip;
use cascade_network::{
    Claims, Endpoint, Identity, NetworkId, announce::AnnouncementBody, discovery::DiscoveryMessage, hello::Hello,
};
use cascade_primitives::{
    B256, Block, Bytes, Certificate, ChainId, ChainParams, Committee, Decode as _, Encode, Epoch, Fork, Genesis,
    Height, Network, NodeId, SealedBlock, SignerSet, TimestampMs, View, Vote, VoteTarget, merkle::MountainRange,
};

/// The example transaction of EIP-155.
const EIP_155: &str = "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";

/// Which decoder, and its bytes.
type Seeds = Vec<(u8, Vec<u8>)>;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../primitives/tests/golden/{name}.hex"));
    let text = fs::read_to_string(&path).expect("the golden file is there");
    hex::decode(text.split_whitespace().collect::<String>().trim_start_matches("0x")).expect("it is hex")
}

fn blocks() -> Vec<(u8, Vec<u8>)> {
    let block = Block::from_slice(&golden("block")).expect("the golden block");
    let mut range = MountainRange::default();
    (0..7).for_each(|i| range.push(B256::repeat_byte(i)));
    vec![
        (0, block.header.to_bytes()),
        (1, block.body.to_bytes()),
        (2, block.to_bytes()),
        (4, golden("certificate")),
        (5, golden("vote")),
        (6, SignerSet::new(9).to_bytes()),
        (7, golden("committee")),
        (8, range.to_bytes()),
        (10, block.body.certificates.to_bytes()),
        (11, golden("block")),
    ]
}

fn consensus() -> Vec<(u8, Vec<u8>)> {
    let block = Block::from_slice(&golden("block")).expect("the golden block");
    let (header, body) = (block.header.clone(), block.body.clone());
    let sealed = std::sync::Arc::new(SealedBlock::new(block));
    let vote = Vote::from_slice(&golden("vote")).expect("the golden vote");
    let certificate = std::sync::Arc::new(Certificate::from_slice(&golden("certificate")).expect("the golden one"));
    let status = Status { fork: Fork(0), epoch: Epoch(1), view: View(2), height: Height(3), hash: sealed.hash() };
    let genesis = genesis();
    let context = genesis.signing_context();
    let mut signed = SignState::new(&context);
    for view in 1..40 {
        let target = VoteTarget::skip(Epoch(0), View(10 * view));
        signed.allow(Fork(0), &target, 10).expect("skips contradict nothing");
    }
    let finality = cascade_consensus::Finality { certificate: certificate.clone(), fillers: vec![header.clone()] };
    vec![
        (0, Message::Proposal(sealed.clone(), vote).to_bytes()),
        (0, Message::Vote(vote, None).to_bytes()),
        (0, Message::Certificate(certificate.clone()).to_bytes()),
        (0, Message::EpochEnd(certificate.clone(), vec![header.clone()]).to_bytes()),
        (0, Message::GetBlock(sealed.hash()).to_bytes()),
        (0, Message::Block(sealed.clone()).to_bytes()),
        (0, Message::Status(status).to_bytes()),
        (2, Record::Block(sealed).to_bytes()),
        (2, Record::Vote(vote).to_bytes()),
        (2, Record::Certificate(certificate).to_bytes()),
        (3, signed.to_bytes()),
        (4, chain_context()),
        (5, SyncRequest::Headers { from: Height(1), count: 2 }.to_bytes()),
        (6, SyncResponse::Headers(vec![header], finality).to_bytes()),
        (6, SyncResponse::Bodies(vec![body]).to_bytes()),
        (8, golden("block")),
    ]
}

/// By hand, since a context is only made by a chain: fields of a genesis block under the golden committee.
fn chain_context() -> Vec<u8> {
    let committee = Committee::from_slice(&golden("committee")).expect("the golden committee");
    let mut out = vec![1; 32];
    [0_u64; 4].iter().for_each(|n| n.encode(&mut out));
    out.push(0);
    [0_u64; 6].iter().for_each(|n| n.encode(&mut out));
    out.push(0);
    committee.encode(&mut out);
    committee.encode(&mut out);
    let ready: Vec<NodeId> = committee.members().iter().map(|m| m.node).take(1).collect();
    cascade_primitives::codec::encode_list(&ready, &mut out);
    MountainRange::default().encode(&mut out);
    0_u32.encode(&mut out);
    out
}

fn genesis() -> Genesis {
    Genesis {
        params: ChainParams::of(Network::Regtest),
        timestamp: TimestampMs(1_700_000_000_000),
        committees: Vec::new(),
        alloc: [(B256::repeat_byte(1).0[..20].try_into().expect("20 bytes"), Default::default())].into(),
    }
}

fn network() -> Vec<(u8, Vec<u8>)> {
    let identity = Identity::from_seed(&[7; 32]);
    let network = NetworkId { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(3) };
    let endpoint = Endpoint::new(([10, 0, 0, 1], 30330).into());
    let hello = Hello { network, instance: 1, dial: 2, listen: Some(endpoint), agent: "cascade/0.1.0".to_owned() };
    let body = AnnouncementBody {
        network,
        node: identity.node_id(),
        endpoints: vec![endpoint, Endpoint::new("[2001:db8::1]:30330".parse().expect("an address"))],
        issued_at: TimestampMs(1_700_000_000_000),
        expires_at: TimestampMs(1_700_000_600_000),
        claims: Claims { hat: 90, stake: 100, ..Claims::FOLLOWER },
    };
    let announcement = body.sign(&identity);
    let key = rcgen_certificate();
    vec![
        (0, [&[255, 15, 3, 0][..], &[5, 0, 0, 0], b"hello", &[1, 0, 0, 0], b"!"].concat()),
        (1, hello.to_bytes()),
        (2, announcement.to_bytes()),
        (3, DiscoveryMessage::Announcements(vec![announcement.clone(), announcement]).to_bytes()),
        (3, DiscoveryMessage::Pull.to_bytes()),
        (4, endpoint.to_bytes()),
        (5, network.to_bytes()),
        (6, key),
        (7, vec![1; 200]),
        (7, vec![0; 200]),
    ]
}

/// A self-signed Ed25519 certificate of the key of 32 bytes 7, as nodes show them.
fn rcgen_certificate() -> Vec<u8> {
    hex::decode(include_str!("certificate.hex").trim()).expect("it is hex")
}

fn text() -> Vec<(u8, Vec<u8>)> {
    let mut genesis_text = serde_json::to_vec_pretty(&genesis()).expect("a genesis is JSON");
    genesis_text.push(b'\n');
    let config = include_str!("../../../docs/configuration.md").as_bytes().to_vec();
    let toml = b"role = \"sequencer\"\n[network]\nlisten = \"127.0.0.1:0\"\nbootstrap = [\"a:1\"]\nmax_peers = 8\n\
        [rpc]\nlisten = \"127.0.0.1:0\"\ncors_origins = [\"*\"]\nmax_batch = 10\n[log]\nlevel = \"info\"\n"
        .to_vec();
    let params = [
        "[\"0x1f\", 31, \"latest\", null]",
        "[\"0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f\", \"finalized\"]",
        "[{\"fromBlock\":\"0x1\",\"toBlock\":\"latest\",\"address\":[\"0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f\"],\
          \"topics\":[null,[\"0x1111111111111111111111111111111111111111111111111111111111111111\"]]}]",
        "[{\"from\":\"0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f\",\"to\":null,\"gas\":\"0x5208\",\"value\":\"0x1\",\
          \"input\":\"0x00\",\"accessList\":[]},{\"blockHash\":\
          \"0x1111111111111111111111111111111111111111111111111111111111111111\",\"requireCanonical\":true}]",
        "[3, [0.5, 25, 1e2], \"0x00ff\"]",
    ];
    let mut seeds = vec![(1, genesis_text), (2, toml), (2, config), (3, vec![7; 80]), (5, b"info,a=debug".to_vec())];
    seeds.extend(params.iter().map(|p| (0, [&[4], p.as_bytes()].concat())));
    seeds.push((4, format!("0x{}\n", "07".repeat(32)).into_bytes()));
    seeds.push((4, "07".repeat(32).into_bytes()));
    seeds
}

fn transaction() -> Vec<(u8, Vec<u8>)> {
    let legacy = hex::decode(EIP_155).expect("it is hex");
    let item = Bytes::from(legacy.clone());
    let own = |kind: u8| {
        let mut bytes = vec![1; 120];
        bytes[40..44].fill(kind);
        bytes
    };
    vec![
        (0, legacy),
        (2, encode_gossip(&[item.clone(), Bytes::new(), item]).to_vec()),
        (3, own(0)),
        (3, own(1)),
        (3, own(2)),
        (3, (0..255).collect()),
    ]
}

fn storage() -> Vec<(u8, Vec<u8>)> {
    let ops: Vec<u8> = (0..255).map(|i: u8| i.wrapping_mul(37)).collect();
    let version = format!(
        "cascade data directory\nversion = 1\nnetwork = regtest\nchain_id = 20252\ngenesis_hash = 0x{}\n",
        "03".repeat(32)
    );
    vec![
        (0, ops.clone()),
        (0, vec![3; 400]),
        (2, [&[1, 0, 100, 0][..], b"CASCLOG\x03", &[1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        (3, ops),
        (3, vec![2; 300]),
        (4, [&[0, 16][..], &[0; 16], &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9, 9]].concat()),
        (5, version.into_bytes()),
    ]
}

fn main() -> Result<(), Box<dyn Error>> {
    let into = std::env::args().nth(1).ok_or("usage: seeds DIRECTORY")?;
    let state = cascade_checks::state::seeds().into_iter().map(|seed| (seed[0], seed[1..].to_vec())).collect();
    let all: [(&str, Seeds); 9] = [
        ("blocks", blocks()),
        ("consensus", consensus()),
        ("light", cascade_checks::light::seeds()),
        ("network", network()),
        ("sealed", cascade_checks::sealed::seeds()),
        ("state", state),
        ("storage", storage()),
        ("text", text()),
        ("transaction", transaction()),
    ];
    for (target, seeds) in all {
        let dir = Path::new(&into).join(target);
        fs::create_dir_all(&dir)?;
        for (place, (choice, bytes)) in seeds.into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{choice}-{place}")), [&[choice], &bytes[..]].concat())?;
        }
    }
    Ok(())
}
