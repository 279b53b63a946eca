//! What a light client and whoever rebuilds the chain get from strangers: shares, proofs, answers, batches.

use std::sync::OnceLock;

use cascade_da::{
    Axis, BadEncoding, Commitment, Line, LineData, Repairer, Sample, ShareProof, Square,
    batch::{BatchError, BatchReader, Manifest, Piece, Position, Seal},
    dispersal::Chunk,
    wire,
};
use cascade_light::{Ask, Chain, ChainAnswer, Checkpoint, Handover, Reply};
use cascade_primitives::{
    B256, BlsSignature, Certificate, ChainId, Encode, Fork, Height, SignerSet, SigningContext, VoteTarget, domain,
    hash,
    merkle::{MountainProof, MountainRange},
};

use crate::{canonical, canonical::survives, source::Source};

const SIGNING: SigningContext = SigningContext { chain_id: ChainId(5), genesis_hash: B256::ZERO, fork: Fork(0) };

/// A square of 4 x 4 shares of data.
fn square() -> &'static Square {
    static SQUARE: OnceLock<Square> = OnceLock::new();
    SQUARE.get_or_init(|| {
        let data: Vec<u8> = (0..9000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Square::new(&data).expect("9000 bytes fit a square")
    })
}

/// Target `light`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 12 {
        0 => drop(canonical::<Ask>(bytes)),
        1 => drop(canonical::<Reply>(bytes)),
        2 => {
            drop(canonical::<ChainAnswer>(bytes));
            drop(canonical::<Handover>(bytes));
        }
        3 => drop(canonical::<Checkpoint>(bytes)),
        4 => check_saved(bytes),
        5 => check_answer(bytes),
        6 => check_sample(&mut Source::new(bytes)),
        7 => check_line(&mut Source::new(bytes)),
        8 => check_fraud(bytes),
        9 => check_repair(&mut Source::new(bytes)),
        10 => check_manifest(bytes),
        _ => check_pieces(&mut Source::new(bytes)),
    }
    if choice % 12 == 0 {
        drop(canonical::<Chunk>(bytes));
        drop(canonical::<ShareProof>(bytes));
    }
}

fn check_saved(bytes: &[u8]) {
    if let Ok(chain) = Chain::restore(SIGNING, bytes) {
        assert_eq!(chain.to_bytes(), bytes, "a saved chain has one encoding");
    }
}

/// Whatever a stranger answers about an honest square is the truth, or is refused.
fn check_answer(bytes: &[u8]) {
    let Some(answer) = canonical::<wire::Answer>(bytes) else { return };
    let square = square();
    let header = square.committed();
    let ids = match &answer {
        wire::Answer::Samples(samples) => {
            samples.iter().map(|s| cascade_da::SampleId { row: s.row, column: s.column, axis: s.proof.axis }).collect()
        }
        _ => Vec::new(),
    };
    let line = match &answer {
        wire::Answer::Line(data) => data.line,
        _ => Line::row(0),
    };
    let height = Height(1);
    for request in [
        wire::Request::Roots { height },
        wire::Request::Samples { height, ids: ids.clone() },
        wire::Request::Line { height, line },
    ] {
        survives(&request);
        if answer.check(&request, &header).is_ok() {
            match &answer {
                wire::Answer::Samples(samples) => {
                    for sample in samples {
                        let truth = square.share(sample.row, sample.column);
                        assert_eq!(truth.as_ref(), Some(&sample.proof.share), "a false share was believed");
                    }
                }
                wire::Answer::Roots { roots, .. } => assert_eq!(roots, square.commitment().roots()),
                wire::Answer::Line(data) => assert_eq!(square.line(data.line).as_ref(), Some(data.as_ref())),
                wire::Answer::BadEncoding(_) => panic!("an honest square was convicted"),
                _ => {}
            }
        }
    }
}

/// A sample with anything changed proves nothing.
fn check_sample(source: &mut Source<'_>) {
    let square = square();
    let side = square.shape().side();
    let axis = if source.byte() & 1 == 0 { Axis::Row } else { Axis::Column };
    let (row, column) = (source.below(side) as u16, source.below(side) as u16);
    let sample = square.sample(row, column, axis).expect("the place is in the square");
    survives(&sample);
    assert!(sample.verify(&square.committed()).is_ok());
    let mut bytes = sample.to_bytes();
    let at = source.below(bytes.len());
    bytes[at] ^= source.byte();
    if let Some(other) = canonical::<Sample>(&bytes)
        && other.verify(&square.committed()).is_ok()
    {
        assert_eq!(other, sample, "a changed sample was believed");
    }
}

fn check_line(source: &mut Source<'_>) {
    let square = square();
    let index = source.below(square.shape().side()) as u16;
    let line = if source.byte() & 1 == 0 { Line::row(index) } else { Line::column(index) };
    let data = square.line(line).expect("the line is in the square");
    survives(&data);
    assert!(data.verify(&square.committed()).is_ok());
    let mut bytes = data.to_bytes();
    let at = source.below(bytes.len());
    bytes[at] ^= source.byte();
    if let Some(other) = canonical::<LineData>(&bytes)
        && other.verify(&square.committed()).is_ok()
    {
        assert_eq!(other, data, "a changed line was believed");
    }
}

/// No proof convicts an honest square.
fn check_fraud(bytes: &[u8]) {
    if let Some(proof) = canonical::<BadEncoding>(bytes) {
        assert!(proof.verify(&square().committed()).is_err(), "an honest square was convicted");
    }
}

/// From any shares a repairer makes the square, or says what is missing; it convicts nobody.
fn check_repair(source: &mut Source<'_>) {
    let square = square();
    let side = square.shape().side();
    let mut repairer = Repairer::new(square.commitment().clone());
    for _ in 0..source.byte() {
        let (row, column) = (source.below(side) as u16, source.below(side) as u16);
        let axis = if source.byte() & 1 == 0 { Axis::Row } else { Axis::Column };
        let proof = square.share_proof(row, column, axis).expect("the place is in the square");
        repairer.insert(row, column, &proof).expect("an honest share");
    }
    match repairer.repair() {
        Ok(repaired) => assert_eq!(&repaired, square, "another square was made"),
        Err(cascade_da::RepairError::BadEncoding(_)) => panic!("an honest square was convicted"),
        Err(_) => {}
    }
    let commitment = square.commitment();
    assert!(Commitment::open(&square.committed(), commitment.roots().to_vec()).is_ok());
}

fn check_manifest(bytes: &[u8]) {
    let Some(manifest) = canonical::<Manifest>(bytes) else { return };
    let _ = manifest.check(|_, _| true);
    let _ = manifest.check_follows(&manifest.before);
    let _ = manifest.anchor();
    let mut reader = BatchReader::new(&manifest);
    let _ = reader.push(0, b"not the piece", |_| Ok::<_, BatchError>(()));
    let _ = reader.finish();
}

/// Pieces whose hashes are right and whose content is anybody's: decompression stays bounded and hands out only blocks that
/// stand on each other.
fn check_pieces(source: &mut Source<'_>) {
    let raw_bytes = source.number().min(cascade_da::batch::MAX_RAW_BYTES);
    let cut = source.below(source.rest().len() + 1);
    let (first, second) = source.rest().split_at(cut.min(source.rest().len()));
    let piece =
        |bytes: &[u8]| Piece { hash: hash::tagged(domain::DA_BATCH, &[&[0], bytes]), bytes: bytes.len() as u32 };
    let block = Source::new(&[1, 2, 3]).block();
    let target = VoteTarget::commit(block.header.epoch, block.header.view, block.header.hash());
    let certificate = Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([1; 96]) };
    let header = block.header;
    let ancestry = MountainProof { range: MountainRange::default(), path: Vec::new() };
    let manifest = Manifest {
        chain: SIGNING,
        before: Position { height: Height(0), hash: header.parent, state_root: B256::ZERO },
        last: Height(3),
        last_hash: header.hash(),
        raw_bytes,
        content: B256::ZERO,
        pieces: vec![piece(first), piece(second)],
        seal: Seal { header, certificate, fillers: Vec::new(), ancestry, reveals: Vec::new() },
    };
    survives(&manifest);
    let mut reader = BatchReader::new(&manifest);
    let mut heights = Vec::new();
    for (index, bytes) in [first, second].into_iter().enumerate() {
        if reader
            .push(index, bytes, |block| -> Result<(), BatchError> {
                heights.push(block.header.height.0);
                Ok(())
            })
            .is_err()
        {
            break;
        }
    }
    assert!(heights.iter().copied().eq(1..=heights.len() as u64), "blocks out of order: {heights:?}");
}

/// Inputs to start fuzzing from.
#[must_use]
pub fn seeds() -> Vec<(u8, Vec<u8>)> {
    let (square, height) = (square(), Height(7));
    let ids = vec![cascade_da::SampleId { row: 1, column: 2, axis: Axis::Row }];
    let sample = square.sample(1, 2, Axis::Row).expect("the place is in the square");
    let line = square.line(Line::column(3)).expect("the line is in the square");
    let roots = wire::Answer::Roots { roots: square.commitment().roots().to_vec() };
    vec![
        (0, Ask::Data(wire::Request::Samples { height, ids }).to_bytes()),
        (0, Ask::Chain(cascade_light::ChainRequest::Headers { from: height }).to_bytes()),
        (1, Reply::Data(wire::Answer::Outside { oldest: Height(1), newest: height }).to_bytes()),
        (2, ChainAnswer::Nothing.to_bytes()),
        (3, vec![7; 72]),
        (5, wire::Answer::Samples(vec![sample]).to_bytes()),
        (5, wire::Answer::Line(Box::new(line)).to_bytes()),
        (5, roots.to_bytes()),
        (6, vec![1, 3, 0, 2, 0, 40, 1, 9]),
        (7, vec![3, 0, 1, 40, 1, 9]),
        (9, (0..250).collect()),
        (
            11,
            [vec![200, 9, 0], vec![0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x41, 0x00, 0x00, 1, 2, 3, 4, 5, 6, 7, 8]]
                .concat(),
        ),
    ]
}
