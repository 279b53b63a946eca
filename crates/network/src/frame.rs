//! Frames on a long stream.
//!
//! ```text
//!  +------------+ +----------------+---------------+ +----------------+----
//!  | channel u8 | | length u32 LE  | message       | | length u32 LE  | ...
//!  +------------+ +----------------+---------------+ +----------------+----
//!    once           1 ..= limit of the channel
//! ```
//!
//! A length of zero or above the channel's limit ends the connection. Memory for a message grows with the bytes that
//! arrived, never with the length that was claimed. A finished message owns exactly its bytes: had it stayed a slice
//! of the datagrams that it came in (up to 64 KiB at once), one kept 100-byte transaction could pin all of them.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Bytes of the length prefix.
pub(crate) const PREFIX: usize = 4;
/// Up to this size a message's buffer is reserved at once.
const RESERVE_AT_ONCE: usize = 64 * 1024;
/// From this size on a message is handed to QUIC as it is instead of being copied into the batch's buffer. Smaller
/// pieces cost more in the send buffer's bookkeeping than the copy.
const SHARE_FROM: usize = 8 * 1024;

/// Why a stream of frames was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes exceeds the channel's limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("an empty frame")]
    Empty,
}

/// Splits a stream into messages.
#[derive(Debug)]
pub(crate) struct FrameReader {
    limit: usize,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    body: BytesMut,
    body_len: usize,
}

impl FrameReader {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX], prefix_len: 0, body: BytesMut::new(), body_len: 0 }
    }

    /// Memory that an unfinished message takes.
    pub(crate) fn held(&self) -> usize {
        self.body.capacity()
    }

    /// Takes the next message out of `input`, or consumes all of it and keeps what belongs to an unfinished one.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        if self.prefix_len < PREFIX {
            let n = (PREFIX - self.prefix_len).min(input.len());
            self.prefix[self.prefix_len..self.prefix_len + n].copy_from_slice(&input[..n]);
            self.prefix_len += n;
            input.advance(n);
            if self.prefix_len < PREFIX {
                return Ok(None);
            }
            self.body_len = self.checked_length()?;
        }
        if self.body.is_empty() && input.len() >= self.body_len {
            let message = Bytes::copy_from_slice(&input[..self.body_len]);
            input.advance(self.body_len);
            self.prefix_len = 0;
            return Ok(Some(message));
        }
        let n = (self.body_len - self.body.len()).min(input.len());
        if self.body.is_empty() {
            self.body.reserve(self.body_len.min(RESERVE_AT_ONCE.max(n)));
        }
        self.body.extend_from_slice(&input[..n]);
        input.advance(n);
        if self.body.len() < self.body_len {
            return Ok(None);
        }
        self.prefix_len = 0;
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }

    fn checked_length(&self) -> Result<usize, FrameError> {
        match u32::from_le_bytes(self.prefix) as usize {
            0 => Err(FrameError::Empty),
            length if length > self.limit => Err(FrameError::TooLong { length, limit: self.limit }),
            length => Ok(length),
        }
    }
}

/// Turns messages into the few chunks that are written to the stream. Drains `messages`; `scratch` is reused.
pub(crate) fn encode_batch(messages: &mut Vec<Bytes>, scratch: &mut BytesMut, chunks: &mut Vec<Bytes>) {
    chunks.clear();
    let copied: usize = messages.iter().filter(|m| m.len() < SHARE_FROM).map(Bytes::len).sum();
    scratch.reserve(copied + messages.len() * PREFIX);
    for message in messages.drain(..) {
        scratch.extend_from_slice(&prefix(&message));
        if message.len() < SHARE_FROM {
            scratch.extend_from_slice(&message);
        } else {
            chunks.push(scratch.split().freeze());
            chunks.push(message);
        }
    }
    if !scratch.is_empty() {
        chunks.push(scratch.split().freeze());
    }
}

/// The length prefix of a message.
pub(crate) fn prefix(message: &Bytes) -> [u8; PREFIX] {
    u32::try_from(message.len()).expect("limits keep messages under 4 GiB").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(messages: &[Bytes]) -> Bytes {
        let mut chunks = Vec::new();
        encode_batch(&mut messages.to_vec(), &mut BytesMut::new(), &mut chunks);
        Bytes::from(chunks.concat())
    }

    fn read_all(reader: &mut FrameReader, mut input: Bytes, out: &mut Vec<Bytes>) -> Result<(), FrameError> {
        while !input.is_empty() {
            out.extend(reader.next(&mut input)?);
        }
        Ok(())
    }

    #[test]
    fn a_claimed_length_reserves_nothing_beyond_a_small_buffer() {
        let limit = 1 << 30;
        let mut reader = FrameReader::new(limit);
        let mut input = Bytes::copy_from_slice(&[&(1_u32 << 30).to_le_bytes()[..], &[1, 2, 3]].concat());
        assert_eq!(reader.next(&mut input), Ok(None));
        assert!(reader.body.capacity() <= 2 * RESERVE_AT_ONCE);
    }

    #[test]
    fn empty_and_oversized_frames_are_refused() {
        let mut reader = FrameReader::new(10);
        assert_eq!(reader.next(&mut Bytes::from_static(&[0; 4])), Err(FrameError::Empty));
        let mut reader = FrameReader::new(10);
        let error = reader.next(&mut Bytes::from_static(&[11, 0, 0, 0, 1]));
        assert_eq!(error, Err(FrameError::TooLong { length: 11, limit: 10 }));
    }

    #[test]
    fn large_messages_are_not_copied_on_the_way_out() {
        let large = Bytes::from(vec![1; SHARE_FROM]);
        let small = Bytes::from_static(b"small");
        let mut chunks = Vec::new();
        let mut messages = vec![small.clone(), large.clone(), small.clone(), small];
        encode_batch(&mut messages, &mut BytesMut::new(), &mut chunks);
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr());
    }

    proptest! {
        #[test]
        fn messages_survive_any_fragmentation(
            sizes in prop::collection::vec(1usize..20_000, 1..20),
            cuts in prop::collection::vec(1usize..5_000, 1..50),
        ) {
            let messages: Vec<Bytes> = sizes.iter().enumerate().map(|(i, n)| Bytes::from(vec![i as u8; *n])).collect();
            let mut rest = wire(&messages);
            let mut reader = FrameReader::new(20_000);
            let mut out = Vec::new();
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let n = rest.len().min(*cut.next().unwrap());
                read_all(&mut reader, rest.split_to(n), &mut out).unwrap();
            }
            prop_assert_eq!(out, messages);
        }
    }
}
