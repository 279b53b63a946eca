//! Squares of blocks' bodies: made before a block is voted on, served once it is final.
//!
//! The square is over the body's canonical encoding, all of it: what a node that rebuilds the chain from shares gets is
//! what leads to the header's body root, and the certificates in it are what proves the chain. So a leader can only encode
//! once the body is whole, and consensus says with each request what it will put around the content.
//!
//! What was encoded for a vote is kept until its block is final and then served. Any other square within the retention
//! window (`ChainParams::share_retention_ms`, by the header's time) is encoded again from the stored body when somebody asks
//! for it, one at a time ([`cascade_da::serve`] says why).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cascade_da::{
    BadEncoding, Committed, Extended, Shape, Square,
    serve::{Asker, Limits, Outcome, SquareServer},
    wire::{Answer, Request},
};
use cascade_primitives::{Body, ChainParams, DaCommitment, Encode, Header, Height, TimestampMs};
use cascade_storage::ChainDb;
use parking_lot::Mutex;
use prometheus::Histogram;

use crate::config::{SquaresSection, Withhold};

/// Squares of blocks that are not final, at most.
const MAX_MADE: usize = 16;
/// How long a request waits for its turn to have a square encoded.
const ENCODE_WAIT: Duration = Duration::from_millis(500);

/// Encodes bodies and serves their squares.
pub struct Squares {
    /// Whether the chain has squares.
    on: bool,
    retention_ms: u64,
    withhold: Withhold,
    misencode: bool,
    seconds: Histogram,
    state: Mutex<State>,
    /// Held by whoever encodes for a request.
    encoding: Mutex<()>,
}

struct State {
    server: SquareServer,
    /// Squares of blocks that were built or validated and are not final yet.
    made: VecDeque<(DaCommitment, Arc<Square>)>,
    /// Memory of a square that is not needed any more.
    spare: Vec<u8>,
}

impl State {
    fn recycle(&mut self, gone: impl IntoIterator<Item = Arc<Square>>) {
        for square in gone {
            if let Some(buffer) = Arc::try_unwrap(square).ok().and_then(Square::into_buffer)
                && buffer.capacity() > self.spare.capacity()
            {
                self.spare = buffer;
            }
        }
    }

    /// Memory for the square of so many bytes. A much smaller one does not get it: it would keep all of it and count for
    /// little, and the next large one would pay for fresh memory, a fifth of the time that it takes.
    fn spare_for(&mut self, bytes: usize) -> Vec<u8> {
        let wanted = Shape::of_size(bytes).map_or(0, |shape| shape.extended_size());
        let fits = (wanted..=wanted.saturating_mul(2)).contains(&self.spare.capacity());
        if fits { std::mem::take(&mut self.spare) } else { Vec::new() }
    }
}

impl Squares {
    /// For a chain with these constants.
    #[must_use]
    pub fn new(params: &ChainParams, section: &SquaresSection, seconds: Histogram) -> Self {
        let limits = Limits {
            max_bytes: section.memory_mib.saturating_mul(1 << 20),
            bytes_per_second: section.kib_per_second.saturating_mul(1 << 10),
            burst_bytes: section.burst_kib.saturating_mul(1 << 10),
            ..Limits::default()
        };
        let state = State { server: SquareServer::new(limits), made: VecDeque::new(), spare: Vec::new() };
        Self {
            on: params.data_squares,
            retention_ms: params.share_retention_ms,
            withhold: section.withhold,
            misencode: section.misencode,
            seconds,
            state: Mutex::new(state),
            encoding: Mutex::new(()),
        }
    }

    /// What the header of a new block with this body commits to. None if no square is large enough, which `ChainParams`
    /// exclude for bodies of blocks that follow the rules.
    pub fn commit(&self, body: &Body) -> Option<DaCommitment> {
        if !self.on {
            return Some(DaCommitment::default());
        }
        let square = self.encode(body)?;
        Some(self.keep(if self.misencode { spoiled(&square) } else { square }))
    }

    /// What a header with this body has to commit to, where it claims `claimed`.
    pub fn expected(&self, body: &Body, claimed: &DaCommitment) -> Option<DaCommitment> {
        if !self.on {
            return Some(DaCommitment::default());
        }
        self.encode_as(body, claimed).map(|square| self.keep(square))
    }

    /// The square of a body; a spoiled one if that is what is claimed and this node is of those who make such.
    fn encode_as(&self, body: &Body, claimed: &DaCommitment) -> Option<Square> {
        let square = self.encode(body)?;
        if self.misencode && square.header_field() != *claimed {
            let spoiled = spoiled(&square);
            return Some(if spoiled.header_field() == *claimed { spoiled } else { square });
        }
        Some(square)
    }

    fn keep(&self, square: Square) -> DaCommitment {
        let square = Arc::new(square);
        let field = square.header_field();
        let mut state = self.state.lock();
        if state.made.iter().all(|(known, _)| *known != field) {
            state.made.push_back((field, square));
        }
        if state.made.len() > MAX_MADE {
            let gone = state.made.pop_front().map(|(_, square)| square);
            state.recycle(gone);
        }
        field
    }

    fn encode(&self, body: &Body) -> Option<Square> {
        let timer = self.seconds.start_timer();
        let bytes = body.to_bytes();
        let buffer = self.state.lock().spare_for(bytes.len());
        let square = Extended::reusing(&bytes, buffer).ok()?.commit(&bytes);
        timer.observe_duration();
        Some(square)
    }

    /// A block is final: its square is served from now on if it is at hand.
    pub fn finalized(&self, header: &Header) {
        let mut state = self.state.lock();
        let Some(at) = state.made.iter().position(|(field, _)| *field == header.da) else { return };
        let (_, square) = state.made.remove(at).expect("it was just found");
        let gone = state.server.insert(header.height, square);
        state.recycle(gone);
    }

    /// Whether a header is young enough for its square to be served.
    fn is_kept(&self, now: TimestampMs, header: &Header) -> bool {
        header.timestamp.plus(self.retention_ms) >= now
    }

    /// The lowest final height whose square is served; one above the newest if there is none.
    fn oldest(&self, db: &ChainDb, now: TimestampMs, newest: Height) -> Height {
        let kept = |height: u64| {
            db.header(Height(height)).ok().flatten().is_some_and(|(_, header)| self.is_kept(now, &header))
        };
        // Times rise with heights.
        let (mut low, mut high) = (1, newest.0 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if kept(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Height(low)
    }

    fn outside(&self, db: &ChainDb, now: TimestampMs) -> Answer {
        let newest = db.heads().last_final.map_or(Height(0), |(height, _)| height);
        if !self.on || newest == Height(0) {
            return Answer::Outside { oldest: Height(1), newest: Height(0) };
        }
        Answer::Outside { oldest: self.oldest(db, now, newest), newest }
    }

    /// Answers a request for shares, from what is at hand or by encoding the stored body. May take some 100 ms.
    pub fn answer(&self, db: &ChainDb, now: TimestampMs, asker: Asker, request: &Request) -> Answer {
        if self.withhold == Withhold::All {
            return Answer::Outside { oldest: Height(1), newest: Height(0) };
        }
        let header = db.header(request.height()).ok().flatten().map(|(_, header)| header);
        let Some(header) = header.filter(|header| self.on && header.height > Height(0) && self.is_kept(now, header))
        else {
            let budget = self.state.lock().server.spend(now, asker, 1024);
            return budget.map_or_else(|retry_ms| Answer::Busy { retry_ms }, |()| self.outside(db, now));
        };
        if self.withhold == Withhold::Corner && hits_corner(request, &header.da) {
            return Answer::NotInSquare;
        }
        if let Outcome::Answer(answer) = self.state.lock().server.answer(now, asker, request, &header.da) {
            return answer;
        }
        let busy = Answer::Busy { retry_ms: ENCODE_WAIT.as_millis() as u32 };
        let Some(_turn) = self.encoding.try_lock_for(ENCODE_WAIT) else { return busy };
        if !self.state.lock().server.has(header.height) {
            let Some(block) = db.block(header.height).ok().flatten() else { return self.outside(db, now) };
            let square = self.encode_as(&block.body, &header.da).filter(|square| square.header_field() == header.da);
            let Some(square) = square else {
                // A quorum certified a commitment that the body does not make: only who encoded it wrongly has its shares.
                tracing::error!(height = %header.height, "the final block commits to another square than that of its body");
                return Answer::NotInSquare;
            };
            let mut state = self.state.lock();
            let gone = state.server.insert(header.height, Arc::new(square));
            state.recycle(gone);
        }
        match self.state.lock().server.answer(now, asker, request, &header.da) {
            Outcome::Answer(answer) => answer,
            Outcome::Encode => busy,
        }
    }

    /// Heights from one on whose squares are known to be wrong: requests for what is of them are answered with the proof.
    pub fn condemned_from(&self, db: &ChainDb, now: TimestampMs, from: Height) -> Vec<Height> {
        if self.withhold == Withhold::All {
            return Vec::new();
        }
        let heights: Vec<Height> = self.state.lock().server.condemned_from(from).collect();
        let served = |height: &Height| db.header(*height).ok().flatten().is_some_and(|(_, h)| self.is_kept(now, &h));
        heights.into_iter().filter(served).collect()
    }

    /// Takes the cost of an answer that is not about shares from an asker's budget.
    ///
    /// # Errors
    /// The milliseconds after which there is enough.
    pub fn spend(&self, now: TimestampMs, asker: Asker, cost: u64) -> Result<(), u32> {
        self.state.lock().server.spend(now, asker, cost)
    }

    /// Takes a proof that a final block's square is badly encoded, if it is one.
    pub fn condemn(&self, header: &Header, proof: BadEncoding) {
        let known = self.state.lock().server.condemned(header.height).is_some();
        if !known && proof.verify(&Committed::from(header)).is_ok() {
            tracing::error!(height = %header.height, %proof, "the square of a final block is badly encoded");
            self.state.lock().server.condemn(header.height, proof);
        }
    }
}

/// The square with its last share changed: its last row and its last column are no codewords.
fn spoiled(square: &Square) -> Square {
    let mut shares = square.shares().to_vec();
    *shares.last_mut().expect("a square has a share") ^= 1;
    Square::commit_unchecked(*square.shape(), shares, square.commitment().body_root())
}

/// Whether a request touches the corner of (k+1) x (k+1) shares without which nothing can be repaired.
fn hits_corner(request: &Request, header: &DaCommitment) -> bool {
    let side = header.width + 1;
    match request {
        Request::Roots { .. } => false,
        Request::Samples { ids, .. } => ids.iter().any(|id| id.row < side && id.column < side),
        Request::Line { line, .. } => line.index < side,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cascade_primitives::Network;

    use super::*;

    fn squares(on: bool) -> Squares {
        let params = ChainParams { data_squares: on, ..ChainParams::of(Network::Regtest) };
        let histogram = Histogram::with_opts(prometheus::HistogramOpts::new("h", "h")).unwrap();
        Squares::new(&params, &SquaresSection::default(), histogram)
    }

    #[test]
    fn a_body_is_committed_to_in_full_and_only_where_the_chain_says_so() {
        let (on, off) = (squares(true), squares(false));
        let mut body = Body { transactions: vec![Bytes::from(vec![7; 3000])], ..Body::default() };
        for _ in 0..MAX_MADE + 3 {
            let expected = Square::new(&body.to_bytes()).unwrap().header_field();
            assert_eq!(on.commit(&body), Some(expected), "memory that is used again changes nothing");
            assert_eq!(off.commit(&body), Some(DaCommitment::default()));
            body.transactions.push(Bytes::from(vec![9; 9_000]));
        }
        assert_eq!(on.state.lock().made.len(), MAX_MADE);
        assert!(!on.state.lock().spare.is_empty());
        assert_eq!(off.state.lock().made.len(), 0);
    }

    /// The body of a block with transactions of so many bytes.
    fn body(bytes: usize, mark: u8) -> Body {
        Body { transactions: vec![Bytes::from(vec![mark; bytes])], ..Body::default() }
    }

    #[test]
    fn large_squares_get_the_memory_of_large_ones_whatever_comes_between() {
        let squares = squares(true);
        let newest = || Arc::clone(&squares.state.lock().made.back().expect("one was just made").1);
        squares.commit(&body(1 << 20, 1));
        let first = newest().shares().as_ptr();
        // Sixteen others push it out, of which no small one takes its memory.
        for mark in 0..MAX_MADE as u8 {
            squares.commit(&body(100, mark));
        }
        for mark in 2..6 {
            squares.commit(&body(1 << 20, mark));
            assert_eq!(newest().shares().as_ptr(), first, "large square {mark}");
            for small in 0..MAX_MADE as u8 {
                squares.commit(&body(100 + usize::from(mark), small));
                assert_ne!(newest().shares().as_ptr(), first, "after large square {mark}");
            }
        }
    }

    #[test]
    fn a_square_that_was_encoded_wrongly_is_expected_by_those_alone_who_make_such() {
        let section = SquaresSection { misencode: true, ..SquaresSection::default() };
        let histogram = Histogram::with_opts(prometheus::HistogramOpts::new("h", "h")).unwrap();
        let wrong = Squares::new(&ChainParams::of(Network::Regtest), &section, histogram);
        let honest = squares(true);
        for bytes in [1, 10_000] {
            let body = Body { transactions: vec![Bytes::from(vec![7; bytes])], ..Body::default() };
            let (right, spoiled) = (honest.commit(&body).unwrap(), wrong.commit(&body).unwrap());
            assert_ne!(right, spoiled);
            assert_eq!(honest.expected(&body, &spoiled), Some(right), "so a header with the other is refused");
            assert_eq!(wrong.expected(&body, &spoiled), Some(spoiled));
            assert_eq!(wrong.expected(&body, &right), Some(right));
        }
    }
}
