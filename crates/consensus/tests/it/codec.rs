//! What travels and what is stored reads back as it was, and in no other way.

use std::{fs, path::Path, sync::Arc};

use cascade_consensus::{ChainContext, Finality, Message, Record, SkipReason, Status, SyncRequest, SyncResponse};
use cascade_primitives::{
    B256, BlockHash, ChainId, Decode, Encode, Epoch, Fork, Header, HeaderKind, Height, MemberIndex, NodeId, Ready,
    SignerSet, ThresholdKeys, View, Vote, VoteTarget,
    block::{MAX_FILLER_HEADERS, MAX_SKIPS_PER_BLOCK},
    certificate::MAX_MEMBERS,
};
use proptest::prelude::*;

use crate::chain::{Chain, Next, RIGHT, certificate, seal};

/// Compares with the file of this name, or writes it with `CASCADE_BLESS=1`.
pub fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let found: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("CASCADE_BLESS").is_some() {
        fs::write(&path, found + "\n").expect("the golden file can be written");
        return;
    }
    let wanted = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, wanted.trim(), "the format of {name} changed: older nodes or their logs could not be read");
}

#[test]
fn the_format_of_log_records_is_frozen() {
    let target = VoteTarget::commit(Epoch(3), View(12), BlockHash([9; 32]));
    let root = B256::repeat_byte(4);
    let filler = Header {
        kind: HeaderKind::Filler,
        chain_id: ChainId(7),
        genesis_hash: root,
        parent: BlockHash([8; 32]),
        committee_root: root,
        next_committee_root: root,
        history_root: root,
        body_root: root,
        ..chain().blocks[1].header.clone()
    };
    let records = [
        ("record-vote", Record::Vote(Vote { target, signer: MemberIndex(2), signature: RIGHT })),
        ("record-certificate", Record::Certificate(Arc::new(certificate(target)))),
        ("record-epoch-end", Record::EpochEnd(Arc::new(certificate(target)), vec![filler])),
    ];
    for (name, record) in records {
        golden(name, &record.to_bytes());
    }
}

/// What a data directory holds of the chain up to its newest block: in an epoch whose next committee was made anew, of an
/// encrypted chain, with statements of readiness and a filler's certificates above.
#[test]
fn the_format_of_contexts_is_frozen() {
    let mut chain = Chain::encrypted(|genesis| genesis.params.epoch_extensions_max = 0);
    while chain.tip().height.0 < 11 {
        chain.push(Next {
            view: chain.next_view(),
            commit: chain.tip().height.0.is_multiple_of(2),
            transaction: true,
            ready: 2,
        });
    }
    let context = chain.tip().as_ref();
    assert_eq!((context.next_committee.attempt(), context.ready.len()), (1, 2));
    let bytes = context.to_bytes();
    assert_eq!(&ChainContext::from_slice(&bytes).unwrap(), context);
    golden("chain-context", &bytes);
}

fn chain() -> &'static Chain {
    static CHAIN: std::sync::OnceLock<Chain> = std::sync::OnceLock::new();
    CHAIN.get_or_init(|| {
        let mut chain = Chain::new();
        chain.grow(30);
        chain
    })
}

#[test]
fn the_first_block_of_an_epoch_carries_as_many_fillers_and_skips_as_it_may() {
    let template = &chain().blocks[25];
    let filler = Header { kind: HeaderKind::Filler, results: Vec::new(), ..template.header.clone() };
    let mut signers = SignerSet::new(MAX_MEMBERS);
    (0..MAX_MEMBERS as u16).for_each(|i| assert!(signers.insert(MemberIndex(i))));
    let skip = |view: u64| {
        let target = VoteTarget::skip(Epoch(3), View(view));
        cascade_primitives::Certificate { target, signers: signers.clone(), signature: RIGHT }
    };
    let mut block = template.as_ref().clone().into_block();
    block.body.certificates.skips = (1..=MAX_SKIPS_PER_BLOCK as u64).map(skip).collect();
    block.body.certificates.fillers = vec![filler; MAX_FILLER_HEADERS];
    let block = Arc::new(seal(block));
    block.check_form(chain().rules.params()).expect("it is within all limits");
    let vote = Vote {
        target: VoteTarget::prepare(Epoch(3), View(1025), block.hash()),
        signer: MemberIndex(0),
        signature: RIGHT,
    };
    for message in [Message::Proposal(Arc::clone(&block), vote), Message::Block(Arc::clone(&block))] {
        assert_eq!(Message::from_slice(&message.to_bytes()).expect("others can read it"), message);
    }
    let record = Record::Block(block);
    assert_eq!(Record::from_slice(&record.to_bytes()).expect("a restart can read it"), record);
}

fn targets() -> impl Strategy<Value = VoteTarget> {
    (0u64..5, 1u64..1000, 0u8..3, prop::array::uniform32(1u8..255)).prop_map(|(epoch, view, kind, hash)| match kind {
        0 => VoteTarget::prepare(Epoch(epoch), View(view), BlockHash(hash)),
        1 => VoteTarget::commit(Epoch(epoch), View(view), BlockHash(hash)),
        _ => VoteTarget::skip(Epoch(epoch), View(view)),
    })
}

fn votes() -> impl Strategy<Value = Vote> {
    (targets(), any::<u16>()).prop_map(|(target, i)| Vote { target, signer: MemberIndex(i), signature: RIGHT })
}

fn finalities() -> impl Strategy<Value = Finality> {
    (targets(), 0usize..3).prop_map(|(target, fillers)| Finality {
        certificate: Arc::new(certificate(target)),
        fillers: chain().blocks[1..=fillers].iter().map(|b| b.header.clone()).collect(),
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let block = || (1usize..30).prop_map(|i| Arc::clone(&chain().blocks[i]));
    let reason = prop::option::of(prop::sample::select(vec![
        SkipReason::Timeout,
        SkipReason::Invalid,
        SkipReason::Silent,
        SkipReason::Joined,
    ]));
    prop_oneof![
        (block(), votes()).prop_map(|(block, vote)| Message::Proposal(block, vote)),
        (votes(), reason).prop_map(|(vote, reason)| Message::Vote(vote, reason)),
        targets().prop_map(|t| Message::Certificate(Arc::new(certificate(t)))),
        finalities().prop_map(|f| Message::EpochEnd(f.certificate, f.fillers)),
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(e, n)| Message::Ready(Ready {
            epoch: Epoch(e),
            node: NodeId(n),
            keys: ThresholdKeys((e % 2 == 0).then(|| n.into())),
            signature: RIGHT
        })),
        any::<[u8; 32]>().prop_map(|h| Message::GetBlock(BlockHash(h))),
        block().prop_map(Message::Block),
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(f, e, v, h, hash)| {
            Message::Status(Status {
                fork: Fork(f),
                epoch: Epoch(e),
                view: View(v),
                height: Height(h),
                hash: BlockHash(hash),
            })
        }),
    ]
}

fn responses() -> impl Strategy<Value = SyncResponse> {
    let run = || (1usize..20, 0usize..10);
    prop_oneof![
        Just(SyncResponse::Nothing),
        (run(), finalities()).prop_map(|((from, count), finality)| {
            SyncResponse::Headers(
                chain().blocks[from..from + count].iter().map(|b| b.header.clone()).collect(),
                finality,
            )
        }),
        run().prop_map(|(from, count)| {
            SyncResponse::Bodies(chain().blocks[from..from + count].iter().map(|b| b.body.clone()).collect())
        }),
    ]
}

/// It reads back; a prefix does not; a changed byte is refused or read as something else.
fn round_trips<T: Encode + Decode + PartialEq + std::fmt::Debug>(
    value: &T,
    at: &prop::sample::Index,
) -> Result<(), TestCaseError> {
    let mut bytes = value.to_bytes();
    prop_assert_eq!(&T::from_slice(&bytes).unwrap(), value);
    prop_assert!(T::from_slice(&bytes[..at.index(bytes.len())]).is_err());
    let i = at.index(bytes.len());
    bytes[i] ^= 0x40;
    if let Ok(other) = T::from_slice(&bytes) {
        prop_assert_ne!(&other, value);
        prop_assert_eq!(other.to_bytes(), bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    fn messages_round_trip(message in messages(), at: prop::sample::Index) {
        round_trips(&message, &at)?;
    }

    #[test]
    fn records_round_trip(block in 1usize..30, vote in votes(), target in targets(), at: prop::sample::Index) {
        round_trips(&Record::Block(Arc::clone(&chain().blocks[block])), &at)?;
        round_trips(&Record::Vote(vote), &at)?;
        round_trips(&Record::Certificate(Arc::new(certificate(target))), &at)?;
        round_trips(&Record::EpochEnd(Arc::new(certificate(target)), vec![chain().blocks[block].header.clone()]), &at)?;
    }

    #[test]
    fn sync_round_trips(from: u64, count: u32, response in responses(), finality in finalities(), at: prop::sample::Index) {
        round_trips(&SyncRequest::Headers { from: Height(from), count }, &at)?;
        round_trips(&SyncRequest::Bodies { from: Height(from), count }, &at)?;
        round_trips(&response, &at)?;
        round_trips(&finality, &at)?;
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::from_slice(&bytes) {
            prop_assert_eq!(message.to_bytes(), bytes.clone());
        }
        if let Ok(record) = Record::from_slice(&bytes) {
            prop_assert_eq!(record.to_bytes(), bytes.clone());
        }
        if let Ok(response) = SyncResponse::from_slice(&bytes) {
            prop_assert_eq!(response.to_bytes(), bytes);
        }
    }
}
