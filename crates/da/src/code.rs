//! Systematic Reed-Solomon over GF(2^8), as `reed-solomon-erasure` computes it: Vandermonde matrix made systematic, field
//! polynomial 29, compatible with Backblaze's JavaReedSolomon and klauspost/reedsolomon.

use std::sync::OnceLock;

use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::shape::MAX_WIDTH;

/// Bytes of a share that are coded at once: at k = 64, inputs and outputs of this size fit the second cache level.
const STRIPE: usize = 1024;

const WIDTHS: usize = MAX_WIDTH.ilog2() as usize + 1;

/// The code for lines of `2 * width` shares. Preparing one costs a matrix inversion, so each is made once.
pub(crate) fn codec(width: usize) -> &'static ReedSolomon {
    static CODECS: [OnceLock<ReedSolomon>; WIDTHS] = [const { OnceLock::new() }; WIDTHS];
    assert!(width.is_power_of_two() && width <= MAX_WIDTH, "a square's width is a power of two up to {MAX_WIDTH}");
    CODECS[width.ilog2() as usize]
        .get_or_init(|| ReedSolomon::new(width, width).expect("at most 128 shares fit GF(2^8)"))
}

/// Fills the second half of a line from its first half.
///
/// Stripes are gathered into one buffer and coded there. In the square the shares of a column, and the stripes of large
/// shares in a row, stand a power of two apart: they would push each other out of the few places that a cache has for
/// such addresses.
///
/// # Panics
/// If the halves differ in number or the shares in size, which callers exclude.
pub(crate) fn extend(width: usize, data: &[&[u8]], parity: &mut [&mut [u8]], scratch: &mut Vec<u8>) {
    let codec = codec(width);
    scratch.resize(2 * width * STRIPE, 0);
    let size = data[0].len();
    for start in (0..size).step_by(STRIPE) {
        let range = start..size.min(start + STRIPE);
        let stripe = range.len();
        let (inputs, outputs) = scratch[..2 * width * stripe].split_at_mut(width * stripe);
        for (input, share) in inputs.chunks_exact_mut(stripe).zip(data) {
            input.copy_from_slice(&share[range.clone()]);
        }
        let gathered: Vec<&[u8]> = inputs.chunks_exact(stripe).collect();
        let mut coded: Vec<&mut [u8]> = outputs.chunks_exact_mut(stripe).collect();
        codec.encode_sep(&gathered, &mut coded).expect("a line has 2k shares of one size");
        for (share, output) in parity.iter_mut().zip(outputs.chunks_exact(stripe)) {
            share[range.clone()].copy_from_slice(output);
        }
    }
}

/// Decodes a line in place from the shares that are known. Answers false if fewer than k are.
///
/// With more than k known, the line that the first k of them define is not compared with the others: the caller does,
/// by the line's root.
///
/// # Panics
/// If the line's buffer or the list of known shares has another size than `2 * width` shares.
pub(crate) fn reconstruct(width: usize, line: &mut [u8], known: &[bool]) -> bool {
    assert_eq!(known.len(), 2 * width, "a line has 2k shares");
    assert_eq!(line.len() % known.len(), 0, "shares have one size");
    if known.iter().filter(|k| **k).count() < width {
        return false;
    }
    let share_size = line.len() / known.len();
    let mut shares: Vec<(&mut [u8], bool)> =
        line.chunks_exact_mut(share_size).zip(known).map(|(share, known)| (share, *known)).collect();
    codec(width).reconstruct(&mut shares).expect("k shares of one size are known");
    true
}
