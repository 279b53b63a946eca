//! Blocks, headers, votes, certificates and committees; and what consensus and catch-up say with them.

use std::sync::Arc;

use cascade_consensus::{
    Carried, Finality, Message, Record, SignState, SkipReason, Status, SyncRequest, SyncResponse, carriage::Piece,
    context::ChainContext,
};
use cascade_da::dispersal::{Assembler, MAX_CHUNKS, disperse};
use cascade_primitives::{
    Block, BlockHash, BlsSignature, Body, Certificate, Certificates, ChainParams, Committee, Epoch, Fork, Header,
    Height, Network, Ready, SealedBlock, SignerSet, SystemItem, View, Vote, VoteTarget, merkle::MountainRange,
};

use crate::{
    canonical::{canonical, survives},
    source::Source,
};

/// Target `blocks`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 12 {
        0 => drop(canonical::<Header>(bytes)),
        1 => {
            if let Some(body) = canonical::<Body>(bytes) {
                assert_eq!(body.root(), body.clone().root());
                assert!(body.transaction_bytes() <= bytes.len());
            }
        }
        2 | 3 => {
            if let Some(block) = canonical::<Block>(bytes) {
                check_block(&block);
            }
        }
        4 => drop(canonical::<Certificate>(bytes)),
        5 => drop(canonical::<Vote>(bytes)),
        6 => {
            if let Some(set) = canonical::<SignerSet>(bytes) {
                assert_eq!(set.iter().count(), set.len());
                assert_eq!(set.is_empty(), set.iter().next().is_none());
            }
        }
        7 => {
            if let Some(committee) = canonical::<Committee>(bytes) {
                check_committee(&committee);
            }
        }
        8 => {
            if let Some(mut range) = canonical::<MountainRange>(bytes) {
                assert_eq!(range.is_empty(), range.root().is_zero(), "no leaves have the empty root");
                if range.len() < u64::MAX {
                    range.push(alloy_primitives::B256::repeat_byte(1));
                    survives(&range);
                }
            }
        }
        9 => drop((canonical::<Ready>(bytes), canonical::<SystemItem>(bytes), canonical::<VoteTarget>(bytes))),
        10 => drop(canonical::<Certificates>(bytes)),
        _ => {
            let block = Source::new(bytes).block();
            survives(&block);
            check_block(&block);
        }
    }
}

fn check_block(block: &Block) {
    let sealed = SealedBlock::new(block.clone());
    assert_eq!(sealed.hash(), block.header.hash());
    for network in [Network::Regtest, Network::Mainnet] {
        if block.check_form(&ChainParams::of(network)).is_ok() {
            assert_eq!(block.body.root(), block.header.body_root);
        }
    }
}

fn check_committee(committee: &Committee) {
    let mut all = SignerSet::new(committee.members().len());
    for (place, member) in committee.members().iter().enumerate() {
        let index = committee.index_of(&member.node).expect("a member is found");
        assert_eq!(index.index(), place);
        assert!(all.insert(index));
    }
    assert_eq!(committee.seats_of(&all), committee.total_seats());
    assert!(committee.quorum() <= committee.total_seats() && committee.quorum() > committee.faulty_seats());
}

/// First bytes of inputs that are about carriage.
const CARRIAGE: std::ops::Range<u8> = 0xe0..0xf0;

/// Messages with chunks: what their manifest says bounds them, and a chunk that was changed is not one of its root.
fn check_carriage(choice: u8, bytes: &[u8]) {
    if choice.is_multiple_of(2) {
        let Some(message) = canonical::<Carried>(bytes) else { return };
        assert!(Carried::is_in(bytes));
        assert_eq!(message.message_bytes(), bytes.len());
        if let Carried::Piece(piece) = message {
            let manifest = piece.manifest();
            let (size, seats) = (manifest.size as usize, usize::from(manifest.chunks));
            let mut assembler = Assembler::new(manifest.root, size, seats).expect("what decodes has a plan");
            assert!(piece.chunk.bytes.len() <= assembler.plan().chunk_bytes());
            if assembler.insert(&piece.chunk).is_ok() {
                assert_eq!((assembler.found(), usize::from(piece.chunk.index) < seats), (1, true));
            }
        }
        return;
    }
    let mut source = Source::new(bytes);
    let (seats, at) = (1 + source.below(MAX_CHUNKS), source.number() as usize);
    let (epoch, view, block) = (Epoch(source.number()), View(source.number()), source.block_hash());
    let signature = BlsSignature([source.byte(); 96]);
    let (place, bit) = (source.number() as usize, 1 << source.below(8));
    let Ok(mut chunks) = disperse(source.rest(), seats) else { return };
    let chunk = chunks.swap_remove(at % seats);
    let assembler = Assembler::new(chunk.root, chunk.size as usize, seats).expect("it was just dispersed");
    assert_eq!(assembler.check(&chunk), Ok(()));
    let piece = Piece { epoch, view, block, signature, chunk };
    let mut changed = piece.chunk.clone();
    let mut bytes = changed.bytes.to_vec();
    let place = place % bytes.len();
    bytes[place] ^= bit;
    changed.bytes = bytes.into();
    assert!(assembler.check(&changed).is_err(), "a changed chunk is of the same root");
    survives(&Carried::Piece(Box::new(piece)));
}

/// Target `consensus`.
///
/// # Panics
/// If a rule is broken.
pub fn check_consensus(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 10 {
        // Beside the others, so that their corpus keeps its meaning.
        _ if CARRIAGE.contains(&choice) => check_carriage(choice, bytes),
        0 | 1 => drop(canonical::<Message>(bytes)),
        2 => {
            if let Some(record) = canonical::<Record>(bytes) {
                let _ = record.epoch();
            }
        }
        3 => {
            if let Some(state) = canonical::<SignState>(bytes) {
                check_sign_state(&state);
            }
        }
        4 => drop(canonical::<ChainContext>(bytes)),
        5 => drop((canonical::<SyncRequest>(bytes), canonical::<Status>(bytes))),
        6 => drop(canonical::<SyncResponse>(bytes)),
        7 => drop((canonical::<Finality>(bytes), canonical::<SkipReason>(bytes))),
        _ => check_own(&mut Source::new(bytes)),
    }
}

/// The merged record of a key is at least as strict as each part.
fn check_sign_state(state: &SignState) {
    assert_eq!(&state.clone().merge(state.clone()), state);
    for view in [View(0), View(1), View(u64::MAX)] {
        let target = VoteTarget::commit(state.epoch(), view, BlockHash([1; 32]));
        let mut after = state.clone();
        if after.allow(Fork(0), &target, 10).is_ok() {
            survives(&after);
            let other = VoteTarget::commit(state.epoch(), view, BlockHash([2; 32]));
            assert!(after.allow(Fork(0), &other, 10).is_err(), "a second commit in one view is refused");
        }
    }
}

fn check_own(source: &mut Source<'_>) {
    let own = match source.below(12) {
        0 => Message::Proposal(Arc::new(SealedBlock::new(source.block())), source.vote()),
        1 => Message::Vote(source.vote(), source.maybe(reason)),
        2 => Message::Certificate(Arc::new(source.certificate())),
        3 => Message::EpochEnd(Arc::new(source.certificate()), source.list(3, Source::header)),
        4 => Message::Ready(source.ready()),
        5 => Message::GetBlock(source.block_hash()),
        6 => Message::Block(Arc::new(SealedBlock::new(source.block()))),
        7 => Message::Status(Status {
            fork: Fork(source.number() as u32),
            epoch: Epoch(source.number()),
            view: View(source.number()),
            height: Height(source.number()),
            hash: source.block_hash(),
        }),
        8 => return survives(&own_record(source)),
        9 => return survives(&SyncRequest::Headers { from: Height(source.number()), count: source.number() as u32 }),
        10 => {
            let headers = source.list(3, Source::header);
            let finality =
                Finality { certificate: Arc::new(source.certificate()), fillers: source.list(2, Source::header) };
            return survives(&SyncResponse::Headers(headers, finality));
        }
        _ => return survives(&SyncResponse::Bodies(source.list(3, Source::body))),
    };
    survives(&own);
}

fn own_record(source: &mut Source<'_>) -> Record {
    match source.below(3) {
        0 => Record::Block(Arc::new(SealedBlock::new(source.block()))),
        1 => Record::Vote(source.vote()),
        _ => Record::Certificate(Arc::new(source.certificate())),
    }
}

fn reason(source: &mut Source<'_>) -> SkipReason {
    [SkipReason::Timeout, SkipReason::Invalid, SkipReason::Silent, SkipReason::Joined][source.below(4)]
}
