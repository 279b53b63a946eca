//! Squares that are no code: refused by honest sequencers; and where a quorum took them, proved to a light client.

use std::collections::BTreeSet;

use cascade_da::{
    Axis, BadEncoding, Committed, RepairError, Repairer, SampleId, Square,
    wire::{Answer, Request},
};
use cascade_light::{Ask, ChainAnswer, ChainRequest, Reply};
use cascade_primitives::{Address, Block, Encode as _, Header, Height};
use cascade_sequencer::exit::ExitCode;
use tokio::runtime::Runtime;

use crate::{
    cli::cascade,
    cluster::{Cluster, wait_for},
    http_server::{self, ask},
    light::{Spoken, Traffic, authority, light_of, report, stderr, url},
};

const MISENCODE: &str = "squares.misencode=true";

fn block(runtime: &Runtime, target: &str, height: u64) -> Block {
    match ask(runtime, target, &Ask::Block { height: Height(height) }) {
        Some(Reply::Block(Some(block))) => *block,
        other => panic!("block {height}: {other:?}"),
    }
}

fn encoded_rightly(block: &Block) -> bool {
    Square::new(&block.body.to_bytes()).expect("it fits").header_field() == block.header.da
}

#[test]
fn a_square_that_a_leader_encoded_wrongly_gets_no_honest_prepare() {
    let mut cluster = Cluster::new(4, |_, _| ());
    let wrong = 1;
    cluster.nodes[wrong].more = vec!["--set".to_owned(), MISENCODE.to_owned()];
    cluster.nodes[0].more =
        vec!["--set".to_owned(), "log.level=info,cascade_sequencer::node::consensus=debug".to_owned()];
    cluster.start_all();
    wait_for("a block of the wrong leader is refused", || cluster.log(0).contains("it commits to").then_some(()));
    let height = cluster.height(0);
    cluster.wait_height(0, height + 10);
    let target = authority(&cluster, 0);
    let mut producers = BTreeSet::new();
    for height in 1..=height + 10 {
        let block = block(&cluster.runtime, &target, height);
        assert!(encoded_rightly(&block), "block {height}");
        let view = cluster.runtime.block_on(cluster.client(0).block(height)).unwrap().expect("it is final");
        producers.insert(view.producer);
    }
    assert!(!producers.contains(&Address::repeat_byte(wrong as u8 + 1)), "{producers:?}");
    assert!(producers.len() > 1, "{producers:?}");
    cluster.assert_agree();
}

/// What anybody can do who sees the header of a block and gets shares of its square: prove that they are no code.
fn prove(runtime: &Runtime, target: &str, height: Height) -> Option<(Header, BadEncoding)> {
    let Reply::Chain(ChainAnswer::Headers(headers, _)) =
        ask(runtime, target, &Ask::Chain(ChainRequest::Headers { from: height }))?
    else {
        return None;
    };
    let header = headers.into_iter().next()?;
    let data = |request: Request| match ask(runtime, target, &Ask::Data(request)) {
        Some(Reply::Data(answer)) => Some(answer),
        _ => None,
    };
    let Answer::Roots { roots } = data(Request::Roots { height })? else { return None };
    let committed = Committed::from(&header);
    let mut repairer = Repairer::open(&committed, roots).ok()?;
    let last = header.da.width * 2 - 1;
    let ids: Vec<SampleId> = (0..=last).map(|column| SampleId { row: last, column, axis: Axis::Column }).collect();
    let Answer::Samples(samples) = data(Request::Samples { height, ids })? else { return None };
    for sample in samples {
        sample.verify(&committed).ok()?;
        repairer.insert(sample.row, sample.column, &sample.proof).ok()?;
    }
    match repairer.repair() {
        Err(RepairError::BadEncoding(proof)) => Some((header, *proof)),
        _ => None,
    }
}

/// A node that passes requests on to another one and answers those about data with a bad-encoding proof, if it finds one.
fn witness(target: String) -> String {
    http_server::middleman(target, |runtime, target, asked| {
        let proof = match asked {
            Ask::Data(request) => prove(runtime, target, request.height()).map(|(_, proof)| proof),
            _ => None,
        };
        match proof {
            Some(proof) => Some(Reply::Data(Answer::BadEncoding(Box::new(proof)))),
            None => ask(runtime, target, asked),
        }
    })
}

#[test]
fn where_a_quorum_took_a_wrong_square_its_proof_convinces_a_light_client_that_has_only_headers() {
    let mut cluster = Cluster::new(4, |_, _| ());
    for node in &mut cluster.nodes {
        node.more = vec!["--set".to_owned(), MISENCODE.to_owned()];
    }
    cluster.start_all();
    let _traffic = Traffic::start(&cluster);
    cluster.wait_height(0, 5);
    let target = authority(&cluster, 0);
    assert!(!encoded_rightly(&block(&cluster.runtime, &target, 3)), "all of them collude");

    // Nobody proves anything: samples are what the header commits to. Then somebody gives one of the nodes the proof about a
    // block that the client has sampled.
    let urls = [url(&cluster, 1), url(&cluster, 2)];
    let mut command = cascade();
    command.arg("light").arg("--genesis").arg(cluster.nodes[0].home.path().join("genesis.json"));
    command.args(["--peer", &urls[0], "--peer", &urls[1]]);
    let mut light = Spoken::start(command);
    let sampled: u64 = wait_for("a block is available", || {
        let words = light.said.lock().clone();
        let newest = words.rsplit(", block ").next().filter(|_| words.contains(", block "))?;
        newest.split_once(' ')?.0.parse().ok()
    });
    let (_, proof) = prove(&cluster.runtime, &target, Height(sampled)).expect("its last row is no codeword");
    let given = Ask::Fraud { height: Height(sampled), proof: Box::new(proof) };
    assert_eq!(ask(&cluster.runtime, &authority(&cluster, 1), &given), Some(Reply::Noted));
    let (code, words) = light.end();
    assert_eq!(code, Some(i32::from(ExitCode::Unavailable.code())), "{words}");
    assert!(words.contains(&format!("block {sampled} is badly encoded")), "{words}");
    assert!(!words.contains("dropped"), "{words}");

    let urls = [witness(target), url(&cluster, 1), url(&cluster, 2)];
    let output = light_of(&cluster, &urls, &["--heights", "200"]).output().unwrap();
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::Unavailable.code())), "{words}");
    assert!(!words.contains("dropped"), "who proves it is believed: {words}");
    let named = words.split("light: block ").nth(1).and_then(|rest| rest.split(' ').next());
    let named: u64 = named.and_then(|height| height.parse().ok()).unwrap_or_else(|| panic!("{words}"));
    assert!(words.contains(&format!("block {named} is badly encoded")), "{words}");
    assert_eq!(report(&output)["failed"].as_u64(), Some(1), "{words}");

    // It was passed on: the other nodes serve it from now on, and it holds against the header alone.
    let request = Request::Roots { height: Height(named) };
    for node in [1, 2] {
        let target = authority(&cluster, node);
        let header = block(&cluster.runtime, &target, named).header;
        match ask(&cluster.runtime, &target, &Ask::Data(request.clone())) {
            Some(Reply::Data(Answer::BadEncoding(proof))) => {
                assert_eq!(proof.verify(&Committed::from(&header)), Ok(()))
            }
            other => panic!("node {node}: {other:?}"),
        }
    }
}
