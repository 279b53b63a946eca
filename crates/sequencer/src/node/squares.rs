//! Squares of blocks' bodies: made before a block is voted on.
//!
//! The square is over the body's canonical encoding, all of it: what a node that rebuilds the chain from shares gets is
//! what leads to the header's body root, and the certificates in it are what proves the chain. So a leader can only encode
//! once the body is whole, and consensus says with each request what it will put around the content.

use cascade_da::Extended;
use cascade_primitives::{Body, DaCommitment, Encode};
use parking_lot::Mutex;
use prometheus::Histogram;

/// Encodes bodies.
#[derive(Debug)]
pub struct Squares {
    /// Whether the chain has squares.
    on: bool,
    seconds: Histogram,
    /// Memory of a square that is not needed any more.
    spare: Mutex<Vec<u8>>,
}

impl Squares {
    /// For a chain with squares, or without.
    #[must_use]
    pub const fn new(on: bool, seconds: Histogram) -> Self {
        Self { on, seconds, spare: Mutex::new(Vec::new()) }
    }

    /// What a header with this body commits to. None if no square is large enough, which `ChainParams` exclude for bodies
    /// of blocks that follow the rules.
    pub fn commit(&self, body: &Body) -> Option<DaCommitment> {
        if !self.on {
            return Some(DaCommitment::default());
        }
        let timer = self.seconds.start_timer();
        let bytes = body.to_bytes();
        let buffer = std::mem::take(&mut *self.spare.lock());
        let square = Extended::reusing(&bytes, buffer).ok()?.commit(&bytes);
        timer.observe_duration();
        let field = square.header_field();
        if let Some(buffer) = square.into_buffer() {
            *self.spare.lock() = buffer;
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cascade_da::Square;

    use super::*;

    #[test]
    fn a_body_is_committed_to_in_full_and_only_where_the_chain_says_so() {
        let histogram = || Histogram::with_opts(prometheus::HistogramOpts::new("h", "h")).unwrap();
        let (on, off) = (Squares::new(true, histogram()), Squares::new(false, histogram()));
        let mut body = Body { transactions: vec![Bytes::from(vec![7; 3000])], ..Body::default() };
        for _ in 0..3 {
            let expected = Square::new(&body.to_bytes()).unwrap().header_field();
            assert_eq!(on.commit(&body), Some(expected), "memory that is used again changes nothing");
            assert_eq!(off.commit(&body), Some(DaCommitment::default()));
            body.transactions.push(Bytes::from(vec![9; 90_000]));
            body.certificates.fillers.clear();
        }
    }
}
