//! What a light client and whoever rebuilds the chain get from strangers: shares, proofs, answers, batches.

use std::sync::OnceLock;

use cascade_da::{
    Axis, BadEncoding, Commitment, Extended, Line, LineData, Repairer, Sample, ShareProof, Square,
    batch::{BatchError, BatchReader, BatchWriter, Manifest, Piece, Position, Seal},
    dispersal::Chunk,
    wire,
};
use cascade_light::{Ask, Chain, ChainAnswer, Checkpoint, Finality, Handover, Reply};
use cascade_primitives::{
    B256, Block, BlockHash, BlsPublicKey, BlsSignature, Certificate, ChainId, Committee, Encode, Epoch, Fork, Header,
    HeaderKind, Height, Member, NodeId, Seats, SignerSet, SigningContext, ThresholdKeys, VoteTarget,
    block::PROTOCOL_VERSION,
    domain, hash,
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
    match choice % 13 {
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
        8 => {
            check_fraud(bytes);
            check_conviction(&mut Source::new(bytes));
        }
        9 => check_repair(&mut Source::new(bytes)),
        10 => check_manifest(bytes),
        11 => check_pieces(&mut Source::new(bytes)),
        _ => check_batch(&mut Source::new(bytes)),
    }
    if choice % 13 == 0 {
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

/// The square with one share that is wrong, committed to as it is.
fn wrong_square(at: usize, change: u8) -> Square {
    let mut shares = square().shares().to_vec();
    let at = at % shares.len();
    shares[at] ^= change;
    Square::commit_unchecked(*square().shape(), shares, square().commitment().body_root())
}

/// The square of something else than the body, encoded as it should be.
fn other_square(at: usize, change: u8) -> Square {
    let mut data = square().data();
    let at = at % data.len();
    data[at] ^= change;
    Extended::new(&data).expect("it is as long").commit_as(square().commitment().body_root())
}

/// What convicts whoever made a square, of which all is known.
fn conviction(square: &Square) -> Option<BadEncoding> {
    let mut repairer = Repairer::new(square.commitment().clone());
    let side = square.shape().side() as u16;
    for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
        let proof = square.share_proof(row, column, Axis::Row).expect("the place is in the square");
        repairer.insert(row, column, &proof).expect("the square commits to the share");
    }
    match repairer.repair() {
        Err(cascade_da::RepairError::BadEncoding(proof)) => Some(*proof),
        _ => None,
    }
}

/// A square with a wrong share, or of something else than the body, is always convicted, and what convicts it convicts no
/// other.
fn check_conviction(source: &mut Source<'_>) {
    let (at, change) = (source.number() as usize, source.byte());
    if change == 0 {
        return;
    }
    let wrong = if source.coin() { other_square(at, change) } else { wrong_square(at, change) };
    let proof = conviction(&wrong).expect("a wrong square was taken for an honest one");
    survives(&proof);
    assert_eq!(proof.verify(&wrong.committed()), Ok(()), "a wrong square was not convicted");
    assert!(proof.verify(&square().committed()).is_err(), "an honest square was convicted");
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
        pieces: vec![piece_of(first), piece_of(second)],
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

/// Blocks that stand on each other, with what was drawn in each.
fn blocks(source: &mut Source<'_>) -> Vec<Block> {
    let (count, mut parent) = (1 + source.below(5), BlockHash::ZERO);
    let mut make = |height: usize| {
        let Block { header, body } = source.block();
        let header = Header {
            kind: HeaderKind::Block,
            chain_id: SIGNING.chain_id,
            genesis_hash: SIGNING.genesis_hash,
            fork: SIGNING.fork,
            height: Height(height as u64),
            parent,
            body_root: body.root(),
            ..header
        };
        parent = header.hash();
        Block { header, body }
    };
    (1..=count).map(&mut make).collect()
}

/// A batch of these blocks, sealed by nobody.
fn batch(blocks: &[Block], piece_bytes: usize) -> (Manifest, Vec<Vec<u8>>) {
    let header = blocks[0].header.clone();
    let before = Position { height: Height(0), hash: header.parent, state_root: B256::ZERO };
    let mut writer = BatchWriter::new(SIGNING, before, piece_bytes);
    blocks.iter().for_each(|block| writer.push(block).expect("it is the next one"));
    let target = VoteTarget::commit(header.epoch, header.view, header.hash());
    let certificate = Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([1; 96]) };
    let ancestry = MountainProof { range: MountainRange::default(), path: Vec::new() };
    writer.finish(Seal { header, certificate, fillers: Vec::new(), ancestry, reveals: Vec::new() })
}

fn read(manifest: &Manifest, pieces: &[Vec<u8>]) -> Result<Vec<Block>, BatchError> {
    let (mut reader, mut blocks) = (BatchReader::new(manifest), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        reader.push(index, piece, |block| -> Result<(), BatchError> {
            blocks.push(block);
            Ok(())
        })?;
    }
    reader.finish().map(|()| blocks)
}

fn piece_of(bytes: &[u8]) -> Piece {
    Piece { hash: hash::tagged(domain::DA_BATCH, &[&[0], bytes]), bytes: bytes.len() as u32 }
}

/// What was written is read; with a byte changed it is refused, and also where the manifest agrees with the change.
fn check_batch(source: &mut Source<'_>) {
    let (piece_bytes, at, change) = (1 + source.below(2_000), source.number() as usize, source.byte());
    let blocks = blocks(source);
    let (mut manifest, mut pieces) = batch(&blocks, piece_bytes);
    survives(&manifest);
    assert_eq!(read(&manifest, &pieces).as_ref(), Ok(&blocks), "a batch is not read as it was written");
    let index = at % pieces.len();
    let place = at / pieces.len() % pieces[index].len();
    pieces[index][place] ^= change;
    if change != 0 {
        let damaged =
            matches!(read(&manifest, &pieces), Err(BatchError::PieceDamaged { index: found, .. }) if found == index);
        assert!(damaged, "damage was not found where it is");
        manifest.pieces[index] = piece_of(&pieces[index]);
        assert!(read(&manifest, &pieces).is_ok_and(|read| read == blocks) || read(&manifest, &pieces).is_err());
    }
}

/// A header on which an epoch ends, its committee, and the handover to the next one.
fn epoch_end() -> (Header, Committee, Handover) {
    let committee = |epoch: u64| {
        let member = |i: u8| Member {
            node: NodeId([i; 32]),
            bls_key: BlsPublicKey([i; 48]),
            address: Default::default(),
            seats: Seats(1),
            lead_weight: 1,
        };
        Committee::new(Epoch(epoch), (1..5).map(member).collect(), ThresholdKeys::default()).expect("four members")
    };
    let of_epoch = |epoch: u64, height: u64, parent: BlockHash| Header {
        version: PROTOCOL_VERSION,
        kind: HeaderKind::Block,
        chain_id: SIGNING.chain_id,
        genesis_hash: SIGNING.genesis_hash,
        fork: SIGNING.fork,
        epoch: Epoch(epoch),
        height: Height(height),
        parent,
        committee_root: committee(epoch).root(),
        next_committee_root: committee(epoch + 1).root(),
        ..Source::new(&[]).block().header
    };
    let last = of_epoch(3, 40, BlockHash([1; 32]));
    let first = of_epoch(4, 41, last.hash());
    let certify = |header: &Header| {
        let target = VoteTarget::commit(header.epoch, header.view, header.hash());
        Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([1; 96]) }
    };
    let handover = Handover {
        end: Finality { certificate: certify(&last), fillers: Vec::new() },
        opened: certify(&first),
        last: last.clone(),
        first,
        members: Some(committee(4).members().to_vec()),
        attempt: 0,
        keys: ThresholdKeys::default(),
    };
    (last, committee(3), handover)
}

/// Inputs to start fuzzing from.
#[must_use]
pub fn seeds() -> Vec<(u8, Vec<u8>)> {
    let (square, height) = (square(), Height(7));
    let ids = vec![cascade_da::SampleId { row: 1, column: 2, axis: Axis::Row }];
    let sample = square.sample(1, 2, Axis::Row).expect("the place is in the square");
    let line = square.line(Line::column(3)).expect("the line is in the square");
    let proof = conviction(&wrong_square(70, 1)).expect("a wrong share convicts");
    let (last, committee, handover) = epoch_end();
    let saved = [last.to_bytes(), committee.to_bytes()].concat();
    assert!(Chain::restore(SIGNING, &saved).is_ok(), "it is what a light client saves");
    let drawn: Vec<u8> = (0..600_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 26) as u8).collect();
    let (manifest, _) = batch(&blocks(&mut Source::new(&drawn)), 300);
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
        (2, handover.to_bytes()),
        (2, ChainAnswer::Handovers(vec![handover]).to_bytes()),
        (4, saved),
        (5, wire::Answer::BadEncoding(Box::new(proof.clone())).to_bytes()),
        (8, proof.to_bytes()),
        (8, vec![70, 1, 0]),
        (8, vec![70, 1, 1]),
        (10, manifest.to_bytes()),
        (12, [vec![40, 0, 9, 1], drawn].concat()),
    ]
}
