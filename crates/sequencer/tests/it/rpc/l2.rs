//! What Ethereum has no name for.

use alloy_primitives::{Address, B256, U256};
use cascade_execution::StateProof;
use cascade_primitives::{BlockHash, Certificate, Decode, Epoch, Header, Height, NodeId, Seats, TimestampMs, View};
use cascade_sequencer::rpc::{
    Backend,
    types::{
        AccountProof, BlockInfo, CertifiedBlock, Finality, FinalityStatus, Health, HealthStatus, Leader, Sequencers,
        Status, SyncProgress,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Token,
    client::Server,
    mock::{Mock, PRODUCER, Tx, params, signer},
};

const TO: Address = Address::repeat_byte(0x70);

async fn typed<T: DeserializeOwned>(server: &Server, method: &str, params: Value) -> T {
    serde_json::from_value(server.ok(method, params).await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_a_minority_from_a_stall() {
    let server = Server::start(Mock::plain());
    let health = async || typed::<Health>(&server, "l2_health", json!([])).await;
    let now = health().await;
    assert_eq!((now.status, now.quorum, now.seats, now.peers), (HealthStatus::Healthy, Seats(3), Seats(4), 3));
    server.node.status.lock().health.finalized_at = TimestampMs(1);
    assert_eq!(health().await.status, HealthStatus::Stalled);
    server.node.status.lock().health.seats_heard = 2;
    assert_eq!(health().await.status, HealthStatus::NoQuorum);
    server.node.status.lock().sync = Some(SyncProgress { from: Height(0), target: Height(9) });
    let last = health().await;
    assert_eq!((last.status, last.sync.unwrap().target), (HealthStatus::Syncing, Height(9)));
    assert!(last.since_final_ms > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_has_what_a_live_view_shows() {
    let server = Server::start(Mock::plain());
    server.node.status.lock().counters.ordered_transactions = 17;
    let height = server.node.produce(vec![Tx::new(0, TO).raw(0)]);
    server.node.order(vec![]);
    let status: Status = typed(&server, "l2_status", json!([])).await;
    assert_eq!(status.chain_id, params().chain_id);
    assert_eq!((status.heads.ordered, status.heads.executed, status.heads.safe), (height.next(), height, Height(0)));
    assert_eq!(status.head, server.node.block_hash(height.next()).unwrap().unwrap());
    assert_eq!((status.counters.ordered_transactions, status.peers.len()), (17, 3));
    assert_eq!(status.genesis_hash, server.node.genesis_hash());
    let json = server.ok("l2_status", json!([])).await;
    assert_eq!(json["transactions"], "plain");
    assert_eq!(json["heads"]["ordered"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finality_grows_from_pending_to_its_result_in_a_final_header() {
    let server = Server::start(Mock::plain());
    let tx = Tx::new(0, TO);
    let finality = async |subject: Value| typed::<Finality>(&server, "l2_finality", json!([subject])).await;
    server.ok("eth_sendRawTransaction", json!([alloy_primitives::hex::encode_prefixed(tx.raw(0))])).await;
    let pending = finality(json!(tx.hash(0))).await;
    assert_eq!((pending.status, pending.height), (FinalityStatus::Pending, None));
    let height = server.node.order(vec![tx.raw(0)]);
    let ordered = finality(json!(tx.hash(0))).await;
    assert_eq!((ordered.status, ordered.height, ordered.index), (FinalityStatus::Final, Some(height), Some(0)));
    let certificate = ordered.certificate.unwrap();
    assert_eq!((certificate.signed_seats, certificate.quorum), (Seats(3), Seats(3)));
    assert_eq!(certificate.signers.iter().map(|s| s.node).collect::<Vec<_>>(), [1, 2, 4].map(|i| NodeId([i; 32])));
    server.node.execute();
    assert_eq!(finality(json!(tx.hash(0))).await.status, FinalityStatus::Executed);
    for _ in 0..params().results_lag {
        server.node.produce(vec![]);
    }
    let done = finality(json!(tx.hash(0))).await;
    assert_eq!(done.status, FinalityStatus::ResultFinal);
    assert_eq!(done.result_in, Some(height.plus(params().results_lag)));
    let hash = server.node.block_hash(height).unwrap().unwrap();
    for subject in [json!(height), json!("0x1"), json!(hash)] {
        let block = finality(subject).await;
        assert_eq!((block.status, block.block, block.transaction), (FinalityStatus::ResultFinal, Some(hash), None));
    }
    assert_eq!(finality(json!("latest")).await.status, FinalityStatus::Executed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_can_be_checked_with_what_comes_with_it() {
    let server = Server::start(Mock::plain());
    let height = server.node.produce(vec![Tx::new(0, TO).raw(0)]);
    server.node.produce(vec![]);
    let proof: CertifiedBlock = typed(&server, "l2_certificate", json!([height])).await;
    let header = Header::from_slice(&proof.header).unwrap();
    assert_eq!((header.hash(), header.height, header.chain_id), (proof.hash, height, proof.chain_id));
    let mut tip: BlockHash = header.hash();
    for bytes in &proof.headers {
        let header = Header::from_slice(bytes).unwrap();
        assert_eq!(header.parent, tip);
        tip = header.hash();
    }
    let certificate = Certificate::from_slice(&proof.certificate.bytes).unwrap();
    assert_eq!((certificate.target.block, proof.certificate.block), (tip, tip));
    assert_eq!(proof.certificate.committee_root, header.committee_root);
    let sequencers: Sequencers = typed(&server, "l2_sequencers", json!([])).await;
    assert_eq!(sequencers.root, header.committee_root);
    assert_eq!((sequencers.epoch, sequencers.members.len(), sequencers.faulty), (Epoch(0), 4, Seats(1)));
    let by_hash: CertifiedBlock = typed(&server, "l2_certificate", json!([proof.hash])).await;
    assert_eq!(by_hash, proof);
    assert_eq!(server.ok("l2_certificate", json!([0])).await, Value::Null, "genesis needs none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_lead_to_the_root_that_a_final_header_carries() {
    let server = Server::start(Mock::plain());
    let token = Token::deploy(&server.node, 0);
    for _ in 0..params().results_lag {
        server.node.produce(vec![]);
    }
    let proof: AccountProof = typed(&server, "l2_getProof", json!([token.address, ["0x0", "0xffff"], "safe"])).await;
    assert_eq!(proof.height, Height(1));
    let carrier = server.node.block(proof.result_in.unwrap()).unwrap().unwrap();
    let carried = carrier.block.header.results.iter().find(|result| result.height == proof.height).unwrap();
    assert_eq!(carried.state_root, proof.state_root);
    let account = StateProof::from_slice(&proof.proof).unwrap();
    let account = account.verify_account(&proof.state_root, &token.address).unwrap().unwrap();
    assert_eq!((account.nonce, account.balance, account.code_hash), (proof.nonce, proof.balance, proof.code_hash));
    for slot in &proof.storage {
        let read = StateProof::from_slice(&slot.proof).unwrap();
        assert_eq!(read.verify_slot(&proof.state_root, &token.address, &slot.slot).unwrap(), slot.value);
    }
    assert_ne!(proof.storage[0].value, U256::ZERO);
    assert_eq!(proof.storage[1].value, U256::ZERO);
    // Absence is proven too, and what is not final yet says so.
    let absent: AccountProof = typed(&server, "l2_getProof", json!([Address::repeat_byte(9), [], "latest"])).await;
    assert_eq!((absent.exists, absent.result_in), (false, None));
    let read = StateProof::from_slice(&absent.proof).unwrap();
    assert_eq!(read.verify_account(&absent.state_root, &Address::repeat_byte(9)).unwrap(), None);
    let (code, message) = server.error("l2_getProof", json!([TO, [], 99])).await;
    assert_eq!((code, message.as_str()), (-32000, "header not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_constants_and_blocks_in_cascades_own_terms() {
    let server = Server::start(Mock::plain());
    let leader: Leader = typed(&server, "l2_leader", json!([])).await;
    assert_eq!(leader, Leader { view: View(7), node: NodeId([2; 32]) });
    let next: Vec<Leader> = typed(&server, "l2_nextLeaders", json!([3])).await;
    assert_eq!(next.iter().map(|leader| leader.view.0).collect::<Vec<_>>(), [8, 9, 10]);
    assert_eq!(server.ok("l2_chainParams", json!([])).await["results_lag"], params().results_lag);
    assert_eq!(typed::<B256>(&server, "l2_genesisHash", json!([])).await, server.node.genesis_hash());
    let tx = Tx::new(0, TO);
    let height = server.node.order(vec![tx.raw(0)]);
    let block: BlockInfo = typed(&server, "l2_block", json!([height])).await;
    assert_eq!((block.height, block.view, block.producer), (height, View(1), PRODUCER));
    assert_eq!((block.executed, block.transactions, block.transaction_count), (None, None, 1));
    assert_eq!(block.transaction_bytes, tx.raw(0).len() as u64);
    server.node.execute();
    let block: BlockInfo = typed(&server, "l2_block", json!([block.hash, true])).await;
    assert_eq!(block.executed.unwrap().gas_used, 50_000);
    assert_eq!(block.transactions.unwrap(), [tx.hash(0)]);
    let balance = server.ok("eth_getBalance", json!([signer(1).address(), "earliest"])).await;
    assert_ne!(balance, "0x0");
}
