//! What a server keeps and answers.

use cascade_da::{
    Axis, Line, SampleId, Square, sampling,
    serve::{Limits, SquareServer},
    wire::{Answer, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, MAX_SAMPLES, Request},
};
use cascade_primitives::{Encode, Height, NodeId, TimestampMs};

use super::{body, noise};

const PEER: NodeId = NodeId([1; 32]);

fn samples(square: &Square, height: u64, count: usize) -> Request {
    Request::Samples { height: Height(height), ids: sampling::draw(square.shape(), count, [3; 32]) }
}

fn at(ms: u64) -> TimestampMs {
    TimestampMs(ms)
}

#[test]
fn what_is_asked_for_is_answered_with_proofs() {
    let square = Square::new(&body(4, 1)).unwrap();
    let header = square.header_field();
    let mut server = SquareServer::new(Limits::default());
    server.insert(at(0), Height(7), square.clone());
    for request in [
        Request::Roots { height: Height(7) },
        samples(&square, 7, 16),
        Request::Line { height: Height(7), line: Line::column(7) },
    ] {
        let answer = server.answer(at(1), PEER, &request);
        assert_eq!(answer.check(&request, &header), Ok(()));
        assert!(!matches!(answer, Answer::Outside { .. } | Answer::Busy { .. } | Answer::NotInSquare));
        let other = Square::new(&body(4, 2)).unwrap().header_field();
        assert!(answer.check(&request, &other).is_err(), "an answer holds for its own header alone");
        let unasked = samples(&square, 7, 15);
        assert!(answer.check(&unasked, &header).is_err(), "an answer holds for its own request alone");
    }
    let outside = SampleId { row: 8, column: 0, axis: Axis::Row };
    let request = Request::Samples { height: Height(7), ids: vec![outside] };
    assert_eq!(server.answer(at(1), PEER, &request), Answer::NotInSquare);
}

#[test]
fn the_window_is_bounded_by_time_and_bytes_and_named_outside() {
    let square = Square::new(&body(4, 1)).unwrap();
    let bytes = square.memory();
    let limits = Limits { retention_ms: 1000, max_bytes: 3 * bytes, ..Limits::default() };
    let mut server = SquareServer::new(limits);
    let ask = |server: &mut SquareServer, now, height| {
        server.answer(at(now), PEER, &Request::Roots { height: Height(height) })
    };
    assert_eq!(ask(&mut server, 0, 1), Answer::Outside { oldest: Height(1), newest: Height(0) });
    for height in 1..=5 {
        server.insert(at(100 * height), Height(height), square.clone());
    }
    assert_eq!(server.window(), Some((Height(3), Height(5))));
    assert_eq!(server.memory(), 3 * bytes);
    assert_eq!(ask(&mut server, 600, 2), Answer::Outside { oldest: Height(3), newest: Height(5) });
    assert!(matches!(ask(&mut server, 600, 3), Answer::Roots { .. }));
    assert_eq!(ask(&mut server, 1450, 4), Answer::Outside { oldest: Height(5), newest: Height(5) });
    server.insert(at(1500), Height(9), square.clone());
    assert_eq!(server.window(), Some((Height(9), Height(9))), "a gap starts the window anew");
    server.insert(at(1500), Height(9), square);
    assert_eq!(server.memory(), bytes);
}

#[test]
fn a_greedy_peer_is_told_when_to_come_back_and_others_are_served() {
    let square = Square::new(&body(16, 1)).unwrap();
    let limits = Limits { peer_bytes_per_second: 10_000, peer_burst_bytes: 50_000, max_peers: 2, ..Limits::default() };
    let mut server = SquareServer::new(limits);
    server.insert(at(0), Height(1), square.clone());
    let request = samples(&square, 1, 16);
    let mut served = 0;
    let retry = loop {
        match server.answer(at(0), PEER, &request) {
            Answer::Samples(list) => served += list.to_bytes_len(),
            Answer::Busy { retry_ms } => break retry_ms,
            other => panic!("{other:?}"),
        }
    };
    assert!(served <= 50_000 && served > 30_000, "{served} bytes");
    assert!(matches!(server.answer(at(u64::from(retry) - 10), PEER, &request), Answer::Busy { .. }));
    assert!(matches!(server.answer(at(u64::from(retry)), PEER, &request), Answer::Samples(_)));
    let now = u64::from(retry);
    assert!(matches!(server.answer(at(now), NodeId([2; 32]), &request), Answer::Samples(_)));
    assert!(matches!(server.answer(at(now), NodeId([3; 32]), &request), Answer::Busy { .. }), "the list is full");
    assert!(matches!(server.answer(at(now + 60_000), NodeId([3; 32]), &request), Answer::Samples(_)));
    assert_eq!(server.peers(), 1, "peers with a full budget are forgotten");
}

trait Size {
    fn to_bytes_len(&self) -> usize;
}

impl<T: Encode> Size for Vec<T> {
    fn to_bytes_len(&self) -> usize {
        self.iter().map(|item| item.to_bytes().len()).sum()
    }
}

#[test]
fn the_largest_messages_fit_their_limits() {
    let square = Square::new(&noise(cascade_da::shape::MAX_DATA_BYTES, 1)).unwrap();
    let mut server = SquareServer::new(Limits { max_bytes: 0, ..Limits::default() });
    server.insert(at(0), Height(1), square.clone());
    for request in [samples(&square, 1, MAX_SAMPLES), Request::Line { height: Height(1), line: Line::row(127) }] {
        assert!(request.to_bytes().len() <= MAX_REQUEST_BYTES);
        let answer = server.answer(at(0), PEER, &request);
        assert!(!matches!(answer, Answer::Busy { .. }));
        assert!(answer.to_bytes().len() <= MAX_ANSWER_BYTES);
    }
}
