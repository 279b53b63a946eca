//! Squares, samples, repair, fraud, batches and dispersal from outside.

mod batches;
mod chunks;
mod codec;
mod detection;
mod golden;
mod noise;
mod serving;
mod squares;
mod vectors;

use cascade_da::{Repairer, Square};
pub use noise::noise;

/// A body that makes a square of this width with shares of 512 bytes.
pub fn body(width: usize, seed: u64) -> Vec<u8> {
    noise(width * width * 512, seed)
}

/// A repairer that was given the shares for which `keep` holds.
pub fn repairer(square: &Square, keep: impl Fn(u16, u16) -> bool) -> Repairer {
    let mut repairer = Repairer::open(&square.committed(), square.commitment().roots().to_vec()).unwrap();
    let side = square.shape().side() as u16;
    for row in 0..side {
        for column in (0..side).filter(|&column| keep(row, column)) {
            let axis = if (row + column) % 2 == 0 { cascade_da::Axis::Row } else { cascade_da::Axis::Column };
            repairer.insert(row, column, &square.share_proof(row, column, axis).unwrap()).unwrap();
        }
    }
    repairer
}
