//! Batches: written, read again, damaged.

use cascade_da::batch::{BatchError, BatchReader, BatchWriter, Manifest, Position, Seal};
use cascade_primitives::{
    B256, Block, BlockHash, BlsSignature, Body, Bytes, Certificate, ChainId, DaCommitment, Decode, Encode, Epoch, Fork,
    Header, HeaderKind, Height, L1Origin, ResultEntry, SignerSet, SigningContext, TimestampMs, View, VoteTarget,
    block::PROTOCOL_VERSION,
    merkle::{MountainRange, subtree_root},
};
use proptest::prelude::*;

use super::noise;

const OK: Result<(), BatchError> = Ok(());

const CHAIN: SigningContext = SigningContext { chain_id: ChainId(5), genesis_hash: B256::ZERO, fork: Fork(0) };

fn block(height: u64, parent: BlockHash, history: &MountainRange, body: Body) -> Block {
    let header = Header {
        version: PROTOCOL_VERSION,
        kind: HeaderKind::Block,
        chain_id: CHAIN.chain_id,
        genesis_hash: CHAIN.genesis_hash,
        fork: CHAIN.fork,
        epoch: Epoch(0),
        view: View(height),
        height: Height(height),
        parent,
        timestamp: TimestampMs(height),
        l1_origin: L1Origin::default(),
        committee_root: B256::ZERO,
        next_committee_root: B256::ZERO,
        history_root: history.root(),
        da: DaCommitment::default(),
        body_root: body.root(),
        base_fee: 1,
        ordered_gas: 0,
        results: (height > 3)
            .then(|| ResultEntry { height: Height(height - 3), ..ResultEntry::default() })
            .into_iter()
            .collect(),
    };
    Block { header, body }
}

/// Blocks 0 to `last` with what `body` gives each.
fn chain(last: u64, body: impl Fn(u64) -> Vec<Bytes>) -> Vec<Block> {
    let (mut range, mut parent, mut blocks) = (MountainRange::default(), BlockHash::ZERO, Vec::new());
    for height in 0..=last {
        let block = block(height, parent, &range, Body { transactions: body(height), ..Body::default() });
        parent = block.header.hash();
        range.push(parent.into());
        blocks.push(block);
    }
    blocks
}

fn seal(blocks: &[Block], last: u64) -> Seal {
    let header = blocks[last as usize + 3].header.clone();
    let mut range = MountainRange::default();
    let hashes: Vec<B256> = blocks.iter().map(|b| b.header.hash().into()).collect();
    for hash in &hashes[..header.height.0 as usize] {
        range.push(*hash);
    }
    let ancestry = range.prove(last, |first, level| subtree_root(first, level, &mut |i| hashes[i as usize])).unwrap();
    let certificate = Certificate {
        target: VoteTarget::commit(header.epoch, header.view, header.hash()),
        signers: SignerSet::new(4),
        signature: BlsSignature([1; 96]),
    };
    Seal { header, certificate, fillers: Vec::new(), ancestry, reveals: Vec::new() }
}

fn position(blocks: &[Block], height: u64) -> Position {
    Position { height: Height(height), hash: blocks[height as usize].header.hash(), state_root: B256::ZERO }
}

fn write(blocks: &[Block], before: u64, last: u64, piece_bytes: usize) -> (Manifest, Vec<Vec<u8>>) {
    let mut writer = BatchWriter::new(CHAIN, position(blocks, before), piece_bytes);
    for block in &blocks[before as usize + 1..=last as usize] {
        writer.push(block).unwrap();
    }
    writer.finish(seal(blocks, last))
}

fn read(manifest: &Manifest, pieces: &[Vec<u8>]) -> Result<Vec<Block>, BatchError> {
    let (mut reader, mut blocks) = (BatchReader::new(manifest), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        reader.push(index, piece, |block| -> Result<(), BatchError> {
            blocks.push(block);
            Ok(())
        })?;
    }
    reader.finish()?;
    Ok(blocks)
}

fn bodies(height: u64) -> Vec<Bytes> {
    (0..height % 5).map(|i| Bytes::from(noise(300, height * 10 + i))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_written_is_read(count in 1u64..40, before in 0u64..5, piece_bytes in 1usize..3000) {
        let blocks = chain(before + count + 3, bodies);
        let (manifest, pieces) = write(&blocks, before, before + count, piece_bytes);
        prop_assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() == piece_bytes));
        let found = read(&manifest, &pieces);
        prop_assert_eq!(found.as_deref(), Ok(&blocks[before as usize + 1..=(before + count) as usize]));
        prop_assert_eq!(Manifest::from_slice(&manifest.to_bytes()).unwrap(), manifest.clone());
        prop_assert_eq!(manifest.check(|_, _| true).map(|r| r.height), Ok(Height(before + count)));
        prop_assert!(manifest.check(|_, _| false).is_err());
        prop_assert_eq!(manifest.check_follows(&position(&blocks, before)), Ok(()));
        let (again, _) = write(&blocks, before, before + count, 1000);
        prop_assert_eq!(again.anchor(), manifest.anchor(), "pieces make no difference to what is anchored");
    }

    #[test]
    fn damage_is_named(at: prop::sample::Index, which: prop::sample::Index, cut: bool) {
        let blocks = chain(23, bodies);
        let (manifest, mut pieces) = write(&blocks, 0, 20, 700);
        let index = which.index(pieces.len());
        let place = at.index(pieces[index].len());
        if cut { pieces[index].truncate(place) } else { pieces[index][place] ^= 1 }
        match read(&manifest, &pieces) {
            Err(BatchError::PieceDamaged { first: Height(1), index: found, .. }) => prop_assert_eq!(found, index),
            other => prop_assert!(false, "{:?}", other),
        }
        pieces.remove(index);
        match read(&manifest, &pieces) {
            // A later piece in its place is not that piece; without the last one the end is missing.
            Err(BatchError::PieceDamaged { index: found, .. } | BatchError::PieceMissing { missing: found, .. }) => {
                prop_assert_eq!(found, index);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn a_piece_that_is_left_out_is_named() {
    let blocks = chain(23, bodies);
    let (manifest, pieces) = write(&blocks, 0, 20, 700);
    let mut reader = BatchReader::new(&manifest);
    reader.push(0, &pieces[0], |_| OK).unwrap();
    let missing = BatchError::PieceMissing { first: Height(1), missing: 1 };
    assert_eq!(reader.push(2, &pieces[2], |_| OK), Err(missing.clone()));
    let mut reader = BatchReader::new(&manifest);
    reader.push(0, &pieces[0], |_| OK).unwrap();
    assert_eq!(reader.finish(), Err(missing));
}

#[test]
fn a_missing_batch_is_named() {
    let blocks = chain(33, bodies);
    let (second, _) = write(&blocks, 10, 20, 1000);
    let (third, _) = write(&blocks, 20, 30, 1000);
    assert_eq!(second.check_follows(&position(&blocks, 10)), Ok(()));
    let error = third.check_follows(&position(&blocks, 10)).unwrap_err();
    assert_eq!(
        error,
        BatchError::Gap { expected: Height(11), found: Height(21), last: Height(30), what: "first height" }
    );
    let elsewhere = Position { state_root: B256::repeat_byte(1), ..position(&blocks, 20) };
    assert!(matches!(third.check_follows(&elsewhere), Err(BatchError::Gap { what: "state root", .. })));
}

/// A manifest with hashes that fit whatever pieces it is given.
fn refit(manifest: &Manifest, raw: &[u8], claimed: u64) -> (Manifest, Vec<Vec<u8>>) {
    let compressed = zstd::stream::encode_all(raw, 3).unwrap();
    let hash = cascade_primitives::hash::tagged(cascade_primitives::domain::DA_BATCH, &[&[0], &compressed]);
    let piece = cascade_da::batch::Piece { hash, bytes: compressed.len() as u32 };
    (Manifest { pieces: vec![piece], raw_bytes: claimed, ..manifest.clone() }, vec![compressed])
}

#[test]
fn a_bomb_is_stopped_at_the_size_that_the_manifest_names() {
    let blocks = chain(23, bodies);
    let (manifest, _) = write(&blocks, 0, 20, 1000);
    // 256 MiB of zeros are 22 KB compressed. Zeros are blocks of length 0, which are none; a large length is no better.
    let bomb = vec![0u8; 256 << 20];
    let (bad, pieces) = refit(&manifest, &bomb, 1000);
    assert!(pieces[0].len() < 100_000);
    assert!(
        matches!(read(&bad, &pieces), Err(BatchError::Stream { what, .. }) if what.contains("more than the 1000 bytes"))
    );
    let (bad, pieces) = refit(&manifest, &bomb, 256 << 20);
    assert!(matches!(read(&bad, &pieces), Err(BatchError::Block { height: Height(1), .. })));
    let mut long = vec![0u8; 64];
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let (bad, pieces) = refit(&manifest, &long, 64);
    assert!(matches!(read(&bad, &pieces), Err(BatchError::Stream { what, .. }) if what.contains("the limit is")));
    let huge = Manifest { raw_bytes: u64::MAX, ..manifest };
    assert!(huge.check(|_, _| true).is_err());
}

#[test]
fn pieces_have_hardly_more_bytes_than_their_content() {
    let blocks = chain(23, |height| vec![Bytes::from(noise(3000, height))]);
    let (manifest, pieces) = write(&blocks, 0, 20, 1000);
    let compressed: usize = pieces.iter().map(Vec::len).sum();
    assert!(compressed > 60_000, "noise does not compress");
    let room = manifest.raw_bytes as u32 - compressed as u32;
    assert!(manifest.check(|_, _| true).is_ok());
    let piece = |bytes| cascade_da::batch::Piece { hash: B256::ZERO, bytes };
    let full = Manifest { pieces: [manifest.pieces.clone(), vec![piece(room)]].concat(), ..manifest.clone() };
    assert!(full.check(|_, _| true).is_ok(), "what does not compress at all has room");
    // Empty frames by the gigabyte, pieces without bytes, or with more than one may have.
    for more in [vec![piece(room + 2_000)], vec![piece(0)], vec![piece((4 << 20) + 1)], vec![piece(1); 1 << 16]] {
        let long = Manifest { pieces: [manifest.pieces.clone(), more].concat(), ..manifest.clone() };
        assert!(matches!(long.check(|_, _| true), Err(BatchError::Manifest { what, .. }) if what.contains("pieces")));
    }
}

#[test]
fn what_the_chain_allows_fits_a_batch() {
    use cascade_da::batch::{MAX_BLOCKS, MAX_PIECE_BYTES};
    let params = cascade_primitives::ChainParams::of(cascade_primitives::Network::Regtest);
    let most = cascade_primitives::ChainParams {
        anchor_interval: MAX_BLOCKS / 2,
        batch_piece_bytes: MAX_PIECE_BYTES as u32,
        ..params
    };
    assert_eq!(most.check(), Ok(()));
    let pieces = cascade_primitives::ChainParams { batch_piece_bytes: most.batch_piece_bytes + 1, ..most.clone() };
    let blocks = cascade_primitives::ChainParams { anchor_interval: most.anchor_interval + 1, ..most };
    assert!(pieces.check().is_err() && blocks.check().is_err());
}

#[test]
fn blocks_are_handed_out_one_by_one_and_what_the_caller_refuses_ends_the_piece() {
    let blocks = chain(23, bodies);
    let (manifest, pieces) = write(&blocks, 0, 20, 1 << 20);
    assert_eq!(pieces.len(), 1);
    let (mut reader, mut seen) = (BatchReader::new(&manifest), 0);
    let refused = BatchError::Block { height: Height(3), what: "refused".to_owned() };
    let outcome = reader.push(0, &pieces[0], |_| {
        seen += 1;
        if seen == 3 { Err(refused.clone()) } else { OK }
    });
    assert_eq!((outcome, seen), (Err(refused), 3));
}

#[test]
fn blocks_of_another_history_or_body_are_named() {
    let blocks = chain(23, bodies);
    let (manifest, _) = write(&blocks, 0, 20, 1000);
    let raw = |blocks: &[Block]| -> Vec<u8> {
        let mut out = Vec::new();
        for block in blocks {
            cascade_primitives::codec::encode_byte_string(&block.to_bytes(), &mut out);
        }
        out
    };
    let fails = |blocks: &[Block]| {
        let raw = raw(blocks);
        let (manifest, pieces) = refit(&manifest, &raw, raw.len() as u64);
        read(&manifest, &pieces).unwrap_err()
    };
    let mut wrong = blocks[1..=20].to_vec();
    wrong[6].body.transactions.push(Bytes::from_static(b"more"));
    assert!(matches!(fails(&wrong), BatchError::Block { height: Height(7), what } if what.contains("another body")));
    let mut wrong = blocks[1..=20].to_vec();
    wrong[6].header.base_fee += 1;
    assert!(matches!(fails(&wrong), BatchError::Block { height: Height(8), what } if what.contains("does not stand")));
    assert!(matches!(fails(&blocks[1..=19]), BatchError::Manifest { what, .. } if what.contains("last block")));
    assert!(matches!(fails(&blocks[1..=21]), BatchError::Block { height: Height(21), .. }));
    let mut skipped = blocks[1..=20].to_vec();
    skipped.remove(4);
    assert!(
        matches!(fails(&skipped), BatchError::Block { height: Height(5), what } if what.contains("another height"))
    );
    let mut writer = BatchWriter::new(CHAIN, position(&blocks, 0), 1000);
    assert!(matches!(writer.push(&blocks[2]), Err(BatchError::Block { height: Height(2), .. })));
}

#[test]
fn a_seal_has_to_fit() {
    let blocks = chain(40, bodies);
    let (right, _) = write(&blocks, 0, 20, 1000);
    let refused = |manifest: Manifest| manifest.check(|_, _| true).is_err();
    assert!(!refused(right.clone()));
    assert!(refused(Manifest { seal: seal(&blocks, 21), ..right.clone() }), "without the results of the last block");
    assert!(refused(Manifest { last: Height(21), ..right.clone() }));
    assert!(refused(Manifest { last_hash: blocks[19].header.hash(), ..right.clone() }));
    assert!(refused(Manifest { last: Height(0), ..right.clone() }));
    assert!(refused(Manifest { chain: SigningContext { fork: Fork(1), ..CHAIN }, ..right.clone() }));
    let mut other = right;
    other.seal.certificate.target = VoteTarget::prepare(Epoch(0), View(23), blocks[23].header.hash());
    assert!(refused(other), "a prepare certificate makes nothing final");
}
