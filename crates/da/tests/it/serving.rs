//! What a server keeps and answers.

use std::sync::Arc;

use cascade_da::{
    Axis, Line, SampleId, Square, sampling,
    serve::{Asker, Limits, Outcome, SquareServer},
    wire::{Answer, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, MAX_SAMPLES, Request},
};
use cascade_primitives::{Encode, Height, NodeId, TimestampMs};

use super::{body, noise};

const PEER: Asker = Asker::Node(NodeId([1; 32]));

fn samples(square: &Square, height: u64, count: usize) -> Request {
    Request::Samples { height: Height(height), ids: sampling::draw(square.shape(), count, [3; 32]) }
}

fn at(ms: u64) -> TimestampMs {
    TimestampMs(ms)
}

fn answer(server: &mut SquareServer, now: u64, asker: Asker, request: &Request, square: &Square) -> Answer {
    match server.answer(at(now), asker, request, &square.header_field()) {
        Outcome::Answer(answer) => answer,
        Outcome::Encode => panic!("the square is at hand"),
    }
}

#[test]
fn what_is_asked_for_is_answered_with_proofs() {
    let square = Square::new(&body(4, 1)).unwrap();
    let header = square.committed();
    let mut server = SquareServer::new(Limits::default());
    server.insert(Height(7), Arc::new(square.clone()));
    for request in [
        Request::Roots { height: Height(7) },
        samples(&square, 7, 16),
        Request::Line { height: Height(7), line: Line::column(7) },
    ] {
        let answer = answer(&mut server, 1, PEER, &request, &square);
        assert_eq!(answer.check(&request, &header), Ok(()));
        assert!(!matches!(answer, Answer::Outside { .. } | Answer::Busy { .. } | Answer::NotInSquare));
        let other = Square::new(&body(4, 2)).unwrap().committed();
        assert!(answer.check(&request, &other).is_err(), "an answer holds for its own header alone");
        let unasked = samples(&square, 7, 15);
        assert!(answer.check(&unasked, &header).is_err(), "an answer holds for its own request alone");
    }
    let outside = SampleId { row: 8, column: 0, axis: Axis::Row };
    let request = Request::Samples { height: Height(7), ids: vec![outside] };
    assert_eq!(answer(&mut server, 1, PEER, &request, &square), Answer::NotInSquare);
}

#[test]
fn memory_is_bounded_and_what_was_dropped_has_to_be_encoded_again() {
    let square = Arc::new(Square::new(&body(4, 1)).unwrap());
    let (bytes, header) = (square.memory(), square.header_field());
    let mut server = SquareServer::new(Limits { max_bytes: 3 * bytes, ..Limits::default() });
    let roots = |height| Request::Roots { height: Height(height) };
    for height in 1..=3 {
        assert!(server.insert(Height(height), Arc::clone(&square)).is_empty());
    }
    // The one that was used longest ago goes, not the lowest.
    answer(&mut server, 0, PEER, &roots(1), &square);
    assert_eq!(server.insert(Height(4), Arc::clone(&square)).len(), 1);
    assert_eq!([1, 2, 3, 4].map(|h| server.has(Height(h))), [true, false, true, true]);
    assert_eq!(server.memory(), 3 * bytes);
    assert_eq!(server.answer(at(0), PEER, &roots(2), &header), Outcome::Encode);
    server.insert(Height(2), Arc::clone(&square));
    assert!(matches!(answer(&mut server, 0, PEER, &roots(2), &square), Answer::Roots { .. }));
    server.insert(Height(2), Arc::clone(&square));
    assert_eq!((server.memory(), server.squares()), (3 * bytes, 3), "the same height twice counts once");
    let mut server = SquareServer::new(Limits { max_squares: 2, ..Limits::default() });
    (1..=5).for_each(|height| drop(server.insert(Height(height), Arc::clone(&square))));
    assert_eq!((server.squares(), server.has(Height(4)), server.has(Height(5))), (2, true, true));
}

#[test]
fn having_squares_encoded_is_paid_for() {
    let square = Square::new(&body(16, 1)).unwrap();
    let size = square.shape().data_size() as u64;
    let limits = Limits { burst_bytes: 3 * size + 10, bytes_per_second: size, ..Limits::default() };
    let mut server = SquareServer::new(limits);
    let ask = |server: &mut SquareServer, now, height| {
        server.answer(at(now), PEER, &Request::Roots { height: Height(height) }, &square.header_field())
    };
    for height in 1..=3 {
        assert_eq!(ask(&mut server, 0, height), Outcome::Encode);
    }
    let Outcome::Answer(Answer::Busy { retry_ms }) = ask(&mut server, 0, 4) else { panic!("the budget is used up") };
    assert!((900..=1000).contains(&retry_ms), "{retry_ms}");
    assert_eq!(ask(&mut server, 1000, 4), Outcome::Encode);
}

#[test]
fn a_greedy_peer_is_told_when_to_come_back_and_others_are_served() {
    let square = Square::new(&body(16, 1)).unwrap();
    let limits = Limits { bytes_per_second: 10_000, burst_bytes: 50_000, max_askers: 2, ..Limits::default() };
    let mut server = SquareServer::new(limits);
    server.insert(Height(1), Arc::new(square.clone()));
    let request = samples(&square, 1, 16);
    let mut served = 0;
    let retry = loop {
        match answer(&mut server, 0, PEER, &request, &square) {
            Answer::Samples(list) => served += list.to_bytes_len(),
            Answer::Busy { retry_ms } => break retry_ms,
            other => panic!("{other:?}"),
        }
    };
    assert!(served <= 50_000 && served > 30_000, "{served} bytes");
    let now = u64::from(retry);
    assert!(matches!(answer(&mut server, now - 10, PEER, &request, &square), Answer::Busy { .. }));
    assert!(matches!(answer(&mut server, now, PEER, &request, &square), Answer::Samples(_)));
    let others = [Asker::Host([127, 0, 0, 1].into()), Asker::Node(NodeId([3; 32]))];
    assert!(matches!(answer(&mut server, now, others[0], &request, &square), Answer::Samples(_)));
    assert!(matches!(answer(&mut server, now, others[1], &request, &square), Answer::Busy { .. }), "the list is full");
    assert!(matches!(answer(&mut server, now + 60_000, others[1], &request, &square), Answer::Samples(_)));
    assert_eq!(server.askers(), 1, "askers with a full budget are forgotten");
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
    server.insert(Height(1), Arc::new(square.clone()));
    for request in [samples(&square, 1, MAX_SAMPLES), Request::Line { height: Height(1), line: Line::row(127) }] {
        assert!(request.to_bytes().len() <= MAX_REQUEST_BYTES);
        let answer = answer(&mut server, 0, PEER, &request, &square);
        assert!(!matches!(answer, Answer::Busy { .. }));
        assert!(answer.to_bytes().len() <= MAX_ANSWER_BYTES);
    }
}
