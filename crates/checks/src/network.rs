//! What a peer sends before anybody has looked inside: frames, hellos, announcements, certificates.

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};
use cascade_network::{
    Claims, Endpoint, Identity, NetworkId, NodeSignature,
    announce::{Announcement, AnnouncementBody},
    discovery::DiscoveryMessage,
    hello::{Hello, MAX_HELLO},
    node_of_certificate,
};
use cascade_primitives::{BlsPublicKey, ChainId, Encode as _, NodeId, TimestampMs};

use crate::{
    canonical::{canonical, survives},
    source::Source,
};

// Frames are that crate's own affair; this is its file.
#[allow(dead_code)]
#[path = "../../network/src/frame.rs"]
mod frame;

/// Target `network`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 8 {
        0 => check_frames(&mut Source::new(bytes)),
        1 => {
            if let Some(hello) = canonical::<Hello>(bytes) {
                assert!(bytes.len() <= MAX_HELLO, "{hello:?} would not be read");
            }
        }
        2 => {
            if let Some(announcement) = canonical::<Announcement>(bytes) {
                check_announcement(&announcement);
            }
        }
        3 => drop(canonical::<DiscoveryMessage>(bytes)),
        4 => {
            if let Some(endpoint) = canonical::<Endpoint>(bytes) {
                assert_eq!(Endpoint::new(endpoint.addr()), endpoint);
                assert!(endpoint.is_dialable(true) || !endpoint.is_dialable(false));
            }
        }
        5 => drop((canonical::<NetworkId>(bytes), canonical::<NodeSignature>(bytes))),
        6 => {
            if let Some(node) = node_of_certificate(bytes) {
                assert!(bytes.windows(32).any(|w| w == node.as_bytes()), "the identity stands in the certificate");
            }
        }
        _ => check_own(&mut Source::new(bytes)),
    }
}

/// However a stream is cut into pieces, the same messages come out, each within the limit, and they are the stream.
fn check_frames(source: &mut Source<'_>) {
    let limit = 1 + source.below(4096);
    let cut = 1 + source.below(64);
    let stream = source.rest();
    let (whole, failed) = read_frames(limit, stream, stream.len().max(1));
    let (pieces, failed_in_pieces) = read_frames(limit, stream, cut);
    assert_eq!((&whole, failed), (&pieces, failed_in_pieces), "cut into pieces of {cut}");
    assert!(whole.iter().all(|m| !m.is_empty() && m.len() <= limit));
    let mut chunks = Vec::new();
    frame::encode_batch(&mut whole.clone(), &mut BytesMut::new(), &mut chunks);
    let again = chunks.concat();
    assert!(stream.starts_with(&again), "the messages are the beginning of the stream");
    assert_eq!(read_frames(limit, &again, again.len().max(1)), (whole, false));
}

fn read_frames(limit: usize, stream: &[u8], cut: usize) -> (Vec<Bytes>, bool) {
    let mut reader = frame::FrameReader::new(limit);
    let mut messages = Vec::new();
    for piece in stream.chunks(cut) {
        let mut piece = Bytes::copy_from_slice(piece);
        while !piece.is_empty() {
            match reader.next(&mut piece) {
                Ok(message) => messages.extend(message),
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

fn check_announcement(announcement: &Announcement) {
    let body = &announcement.body;
    for now in [TimestampMs(0), body.issued_at, body.expires_at, TimestampMs(u64::MAX)] {
        if announcement.check(body.network, now).is_ok() {
            assert!(!announcement.is_expired(now));
        }
    }
    let _ = announcement.verify();
    assert_eq!(announcement.order(announcement), Ordering::Equal);
    let mut later = announcement.clone();
    later.body.issued_at = body.issued_at.plus(1);
    assert_eq!(announcement.order(&later), later.order(announcement).reverse());
    assert!(!announcement.to_string().is_empty());
}

fn check_own(source: &mut Source<'_>) {
    let network = NetworkId { chain_id: ChainId(source.number()), genesis_hash: source.b256() };
    if source.coin() {
        let agent = source.bytes(128).iter().map(|b| char::from(b' ' + b % 95)).collect();
        let hello =
            Hello { network, instance: source.number(), dial: source.number(), listen: source.maybe(endpoint), agent };
        assert!(hello.to_bytes().len() <= MAX_HELLO);
        return survives(&hello);
    }
    let body = AnnouncementBody {
        network,
        node: NodeId::ZERO,
        endpoints: source.list(4, endpoint),
        issued_at: TimestampMs(source.number()),
        expires_at: TimestampMs(source.number()),
        claims: Claims {
            bls_key: BlsPublicKey([source.byte(); 48]),
            address: source.address(),
            l1_height: source.number(),
            hat: source.byte() % 101,
            stake: source.number(),
        },
    };
    let announcement = body.sign(&Identity::from_seed(&source.word()));
    assert_eq!(announcement.verify(), Ok(()));
    survives(&DiscoveryMessage::Announcements(vec![announcement.clone()]));
    check_announcement(&announcement);
    let mut forged = announcement;
    forged.body.claims.stake ^= 1;
    assert!(forged.verify().is_err(), "a changed claim is not signed");
}

fn endpoint(source: &mut Source<'_>) -> Endpoint {
    let port = source.number() as u16;
    if source.coin() {
        Endpoint::new((source.array::<4>(), port).into())
    } else {
        Endpoint::new((source.array::<16>(), port).into())
    }
}
