//! `l2_` methods: what Ethereum has no name for. Their answers are in [`super::types`].

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, Bytes as HexBytes};
use cascade_primitives::{ChainParams, Encode, Epoch, Height, ResultEntry, Seats, TimestampMs};

use super::{
    CLIENT_VERSION, Methods, Rpc,
    backend::{FinalityProof, NodeStatus},
    convert,
    error::{self, Answer},
    fees::base_fee_above,
    params::{Args, Number, Slot, Subject},
    types::{
        AccountProof, BlockInfo, BlockResultInfo, CertificateInfo, CertifiedBlock, Finality, FinalityStatus, Health,
        HealthStatus, Leader, Peer, Sequencer, Sequencers, Signer, SlotProof, Status,
    },
};

/// Most leaders that one answer lists.
const MAX_LEADERS: u64 = 1_000;

/// Blocks above a block that are searched for the header that carries its results. Far more than results lag behind
/// except after a long loss of finality.
const RESULT_SEARCH: u64 = 1_024;

pub(super) fn register(methods: &mut Methods) {
    methods.cheap("l2_chainParams", 0, |rpc, _| Ok::<ChainParams, _>(rpc.backend.params().clone()));
    methods.cheap("l2_genesisHash", 0, |rpc, _| Ok(rpc.backend.genesis_hash()));
    methods.cheap("l2_health", 0, |rpc, _| Ok(health(rpc, &rpc.backend.status(), now())));
    methods.cheap("l2_status", 0, |rpc, _| status(rpc));
    methods.cheap("l2_leader", 0, |rpc, _| Ok(leaders(rpc, 1).into_iter().next()));
    methods.cheap("l2_nextLeaders", 1, |rpc, args| {
        let Number(count) = args.optional(0)?.unwrap_or(Number(10));
        if count > MAX_LEADERS {
            return Err(error::limit("leaders", count, MAX_LEADERS));
        }
        // The present leader is not a next one.
        Ok(leaders(rpc, count + 1).into_iter().skip(1).collect::<Vec<_>>())
    });
    methods.cheap("l2_sequencers", 1, sequencers);
    methods.heavy("l2_block", 2, block);
    methods.heavy("l2_finality", 1, finality);
    methods.cheap("l2_opaqueStatus", 1, |rpc, args| {
        rpc.opaque()?;
        of_transaction(rpc, args.get(0)?)
    });
    methods.cheap("l2_certificate", 1, certificate);
    methods.heavy("l2_getProof", 3, proof);
}

fn now() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether blocks become final: with no transactions one is made every `empty_block_interval` block times, and a few
/// silent leaders are followed by one that is not.
fn health(rpc: &Rpc, status: &NodeStatus, now: TimestampMs) -> Health {
    let (params, health) = (rpc.backend.params(), &status.health);
    let since_final_ms = now.0.saturating_sub(health.finalized_at.0);
    let patience = params
        .empty_block_interval
        .saturating_mul(params.block_time_ms)
        .saturating_add(params.leader_timeout_ms.saturating_mul(4));
    let word = if status.sync.is_some() {
        HealthStatus::Syncing
    } else if health.seats_heard < health.quorum {
        HealthStatus::NoQuorum
    } else if since_final_ms > patience {
        HealthStatus::Stalled
    } else {
        HealthStatus::Healthy
    };
    Health {
        status: word,
        node: status.node,
        height: health.height,
        epoch: health.epoch,
        view: health.view,
        leader: health.leader,
        votes: health.votes,
        seats_heard: Seats(health.seats_heard),
        quorum: Seats(health.quorum),
        seats: Seats(health.seats),
        finalized_at: health.finalized_at,
        since_final_ms,
        peers: u32::try_from(status.peers.len()).unwrap_or(u32::MAX),
        sync: status.sync,
    }
}

fn status(rpc: &Rpc) -> Answer<Status> {
    let (params, status, time, heads) = (rpc.backend.params(), rpc.backend.status(), now(), rpc.heads());
    let head = rpc.data(heads.ordered)?;
    let peers = status.peers.iter().map(|p| Peer { node: p.node, address: p.address, inbound: p.inbound }).collect();
    Ok(Status {
        client: CLIENT_VERSION.to_owned(),
        chain_id: params.chain_id,
        genesis_hash: rpc.backend.genesis_hash(),
        transactions: params.transactions,
        time,
        uptime_ms: u64::try_from(rpc.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        health: health(rpc, &status, time),
        heads,
        head: head.block.hash(),
        head_time: head.block.header.timestamp,
        next_base_fee: base_fee_above(rpc, &head.block.header),
        peers,
        pool: status.pool,
        counters: status.counters,
    })
}

fn leaders(rpc: &Rpc, count: u64) -> Vec<Leader> {
    rpc.backend.leaders(count).into_iter().map(|(view, node)| Leader { view, node }).collect()
}

fn sequencers(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<Sequencers>> {
    let epoch = match args.optional::<Number>(0)? {
        Some(Number(epoch)) => Epoch(epoch),
        None => rpc.backend.status().health.epoch,
    };
    Ok(rpc.backend.committee(epoch)?.map(|committee| Sequencers {
        epoch,
        root: committee.root(),
        seats: committee.total_seats(),
        quorum: committee.quorum(),
        faulty: committee.faulty_seats(),
        members: committee
            .members()
            .iter()
            .map(|m| Sequencer {
                node: m.node,
                address: m.address,
                bls_key: m.bls_key,
                seats: m.seats,
                lead_weight: m.lead_weight,
            })
            .collect(),
    }))
}

/// The height of the final block that a parameter names.
fn final_height(rpc: &Rpc, subject: Subject) -> Answer<Option<Height>> {
    let ordered = rpc.heads().ordered;
    Ok(match subject {
        Subject::Height(height) => Some(height).filter(|height| *height <= ordered),
        Subject::Tag(tag) => rpc.height_of(tag),
        Subject::Hash(hash) => rpc.backend.height_of(&hash.into())?,
    })
}

fn result_info(entry: &ResultEntry) -> BlockResultInfo {
    BlockResultInfo {
        height: entry.height,
        state_root: entry.state_root,
        receipts_root: entry.receipts_root,
        gas_used: entry.gas_used,
    }
}

fn block(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<BlockInfo>> {
    let with_transactions = args.optional::<bool>(1)?.unwrap_or(false);
    let Some(height) = final_height(rpc, args.get(0)?)? else { return Ok(None) };
    let data = rpc.data(height)?;
    let (header, body) = (&data.block.header, &data.block.body);
    Ok(Some(BlockInfo {
        version: header.version,
        fork: header.fork,
        epoch: header.epoch,
        view: header.view,
        height,
        hash: data.block.hash(),
        parent: header.parent,
        timestamp: header.timestamp,
        producer: data.producer,
        committee_root: header.committee_root,
        next_committee_root: header.next_committee_root,
        history_root: header.history_root,
        body_root: header.body_root,
        base_fee: header.base_fee,
        ordered_gas: header.ordered_gas,
        results: header.results.iter().map(result_info).collect(),
        executed: data.result.map(|result| result_info(&result.entry)),
        transaction_bytes: body.transaction_bytes() as u64,
        transaction_count: u32::try_from(body.transactions.len()).unwrap_or(u32::MAX),
        transactions: with_transactions.then(|| convert::transaction_hashes(&data, rpc.backend.params().transactions)),
    }))
}

fn certificate_info(proof: &FinalityProof) -> CertificateInfo {
    let (certificate, committee) = (&proof.certificate, &proof.committee);
    let signers = certificate
        .signers
        .iter()
        .filter_map(|index| committee.member(index).map(|m| Signer { index, node: m.node, seats: m.seats }))
        .collect();
    CertificateInfo {
        epoch: certificate.target.epoch,
        view: certificate.target.view,
        block: certificate.target.block,
        committee_root: committee.root(),
        signers,
        signed_seats: committee.seats_of(&certificate.signers),
        quorum: committee.quorum(),
        seats: committee.total_seats(),
        signature: certificate.signature,
        bytes: certificate.to_bytes().into(),
    }
}

fn certificate(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<CertifiedBlock>> {
    let Some(height) = final_height(rpc, args.get(0)?)? else { return Ok(None) };
    let Some(proof) = rpc.backend.finality(height)? else { return Ok(None) };
    let data = rpc.data(height)?;
    let header = &data.block.header;
    Ok(Some(CertifiedBlock {
        chain_id: header.chain_id,
        genesis_hash: header.genesis_hash,
        fork: header.fork,
        height,
        hash: data.block.hash(),
        header: header.to_bytes().into(),
        headers: proof.headers.iter().map(|header| HexBytes::from(header.to_bytes())).collect(),
        certificate: certificate_info(&proof),
    }))
}

/// How far a block, or a transaction by its hash, has come. Null for what this node does not know.
fn finality(rpc: &Rpc, args: &Args<'_>) -> Answer<Option<Finality>> {
    let subject: Subject = args.get(0)?;
    if let Some(height) = final_height(rpc, subject)? {
        return of_block(rpc, height).map(Some);
    }
    match subject {
        Subject::Hash(hash) => of_transaction(rpc, hash),
        Subject::Height(_) | Subject::Tag(_) => Ok(None),
    }
}

fn of_transaction(rpc: &Rpc, hash: B256) -> Answer<Option<Finality>> {
    let waiting = Finality {
        status: FinalityStatus::Pending,
        transaction: Some(hash),
        index: None,
        height: None,
        block: None,
        timestamp: None,
        result_in: None,
        certificate: None,
    };
    // The pool first: what leaves it in between is found in the chain.
    let pooled = rpc.backend.pool_contains(&hash);
    match rpc.backend.location(&hash)? {
        Some(location) => {
            let block = of_block(rpc, location.height)?;
            Ok(Some(Finality { transaction: Some(hash), index: Some(location.index), ..block }))
        }
        None => Ok(pooled.then_some(waiting)),
    }
}

fn of_block(rpc: &Rpc, height: Height) -> Answer<Finality> {
    let heads = rpc.heads();
    let data = rpc.data(height)?;
    let status = if height <= heads.safe {
        FinalityStatus::ResultFinal
    } else if height <= heads.executed {
        FinalityStatus::Executed
    } else {
        FinalityStatus::Final
    };
    Ok(Finality {
        status,
        transaction: None,
        index: None,
        height: Some(height),
        block: Some(data.block.hash()),
        timestamp: Some(data.block.header.timestamp),
        result_in: result_in(rpc, height)?,
        certificate: rpc.backend.finality(height)?.as_ref().map(certificate_info),
    })
}

/// The height of the final header that carries the results of the block at `height`.
fn result_in(rpc: &Rpc, height: Height) -> Answer<Option<Height>> {
    let heads = rpc.heads();
    if height > heads.safe {
        return Ok(None);
    }
    if height == Height(0) {
        return Ok(Some(height));
    }
    let first = height.plus(rpc.backend.params().results_lag);
    for carrier in (first.0..=heads.ordered.0.min(first.0.saturating_add(RESULT_SEARCH))).map(Height) {
        let data = rpc.data(carrier)?;
        if data.block.header.results.iter().any(|result| result.height == height) {
            return Ok(Some(carrier));
        }
    }
    Ok(None)
}

fn proof(rpc: &Rpc, args: &Args<'_>) -> Answer<AccountProof> {
    let address: Address = args.get(0)?;
    let slots: Vec<Slot> = args.optional(1)?.unwrap_or_default();
    let most = rpc.config.max_proof_slots as usize;
    if slots.len() > most {
        return Err(error::limit("storage slots in one proof", slots.len(), most));
    }
    let height = match args.optional::<Subject>(2)? {
        Some(subject) => final_height(rpc, subject)?.ok_or_else(|| error::server("header not found"))?,
        None => rpc.heads().safe,
    };
    let view = rpc.backend.state(height)?;
    let account = view.account(&address).map_err(error::internal)?;
    let mut storage = Vec::with_capacity(slots.len());
    for Slot(slot) in slots {
        let value = view.storage(&address, &slot).map_err(error::internal)?;
        let proof = view.prove_slot(&address, &slot).map_err(error::internal)?;
        storage.push(SlotProof { slot, value, proof: proof.to_bytes().into() });
    }
    let exists = account.is_some();
    let account = account.unwrap_or_default();
    Ok(AccountProof {
        height,
        block: rpc.data(height)?.block.hash(),
        state_root: view.root().map_err(error::internal)?,
        result_in: result_in(rpc, height)?,
        address,
        exists,
        nonce: account.nonce,
        balance: account.balance,
        code_hash: account.code_hash,
        proof: view.prove_account(&address).map_err(error::internal)?.to_bytes().into(),
        storage,
    })
}
