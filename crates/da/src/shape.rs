//! How large a square is: the one rule that all nodes share.
//!
//! With n bytes of data, the width is `k = 2^min(6, w)` where `w` is the largest number with `4^w * 512 <= n` (and 0
//! below 512 bytes), and a share has `max(512, ceil(n / k^2))` bytes, rounded up to a multiple of 64:
//!
//! ```text
//!  n bytes        k   share         samples are a share and some 15 hashes
//!  1 - 2 K        1   512 - 2048
//!  2 K - 8 K      2   512 - 2048    n = 128 KiB: k = 16, share  512
//!  ...                              n =   1 MiB: k = 32, share 1024
//!  2 M - 32 M    64   512 - 8192    n =   8 MiB: k = 64, share 2048
//! ```
//!
//! Why it is where it is:
//! - *Shares of at least 512 bytes.* A sample carries up to 15 hashes (480 bytes); below that size the proof would cost
//!   more than what it proves.
//! - *At most 64.* GF(2^8) allows squares of 256 shares a side, k = 128. But Reed-Solomon costs k multiplications per
//!   byte: it passes the cost of hashing near k = 64 and doubles at 128, for a detection that hardly improves (a sample
//!   hits a withheld share with probability `((k+1)/(2k))^2`: 25.8% at 64, 25.4% at 128).
//! - *As wide as shares of 512 bytes allow.* Width divides the cost of a row, a column and a bad-encoding proof; the
//!   share then grows to fit, in steps of 64 bytes (one block of SHA-256, one vector register), so that padding is at
//!   most `64 * k^2` bytes, an eighth of the data, once there are 512 bytes. A width chosen by itself, with shares of
//!   a fixed size, would waste up to three quarters.
//! - *A power of two.* All trees are complete, and there are seven codecs to prepare.
//!
//! Nothing but the data's size goes in, so a header's `share_size` and `width` can only repeat what `data_size` says;
//! [`Shape::of_commitment`] refuses anything else.

use cascade_primitives::{B256, DaCommitment, block::MAX_BLOCK_BYTES};
use thiserror::Error;

/// Least bytes in a share.
pub const MIN_SHARE_BYTES: usize = 512;
/// A share's size is a multiple of this many bytes.
pub const SHARE_STEP: usize = 64;
/// Largest width of a square before extension, in shares.
pub const MAX_WIDTH: usize = 64;
/// Most bytes that one square carries: the largest body that a decoder takes.
pub const MAX_DATA_BYTES: usize = MAX_BLOCK_BYTES;
/// Most bytes in a share.
pub const MAX_SHARE_BYTES: usize = MAX_DATA_BYTES / (MAX_WIDTH * MAX_WIDTH);

/// Why there is no square of this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShapeError {
    /// More data than a square carries.
    #[error("{size} bytes of data exceed the limit of {MAX_DATA_BYTES}")]
    TooLarge {
        /// Bytes of data.
        size: usize,
    },
    /// The header's parameters are not those that follow from the size.
    #[error(
        "{size} bytes make a square of width {width} with shares of {share} bytes, not {found_width} and {found_share}"
    )]
    Parameters {
        /// Bytes of data.
        size: usize,
        /// Width that follows.
        width: usize,
        /// Share size that follows.
        share: usize,
        /// Width found.
        found_width: usize,
        /// Share size found.
        found_share: usize,
    },
}

/// The dimensions of a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    data_size: usize,
    share_size: usize,
    width: usize,
}

impl Shape {
    /// The shape for this many bytes of data.
    ///
    /// # Errors
    /// [`ShapeError::TooLarge`] above [`MAX_DATA_BYTES`].
    pub const fn of_size(data_size: usize) -> Result<Self, ShapeError> {
        if data_size > MAX_DATA_BYTES {
            return Err(ShapeError::TooLarge { size: data_size });
        }
        let mut width = 1;
        while width < MAX_WIDTH && 4 * width * width * MIN_SHARE_BYTES <= data_size {
            width *= 2;
        }
        let needed = data_size.div_ceil(width * width).next_multiple_of(SHARE_STEP);
        let share_size = if needed < MIN_SHARE_BYTES { MIN_SHARE_BYTES } else { needed };
        Ok(Self { data_size, share_size, width })
    }

    /// The shape that a header's parameters state.
    ///
    /// # Errors
    /// [`ShapeError`] if they are not what the data's size makes them.
    pub fn of_commitment(commitment: &DaCommitment) -> Result<Self, ShapeError> {
        let shape = Self::of_size(commitment.data_size as usize)?;
        let (found_width, found_share) = (usize::from(commitment.width), commitment.share_size as usize);
        if (found_width, found_share) != (shape.width, shape.share_size) {
            return Err(ShapeError::Parameters {
                size: shape.data_size,
                width: shape.width,
                share: shape.share_size,
                found_width,
                found_share,
            });
        }
        Ok(shape)
    }

    /// The header's field for this shape and a root.
    #[must_use]
    pub fn commitment(&self, root: B256) -> DaCommitment {
        DaCommitment {
            data_size: u32::try_from(self.data_size).expect("at most MAX_DATA_BYTES"),
            share_size: u32::try_from(self.share_size).expect("at most MAX_SHARE_BYTES"),
            width: u16::try_from(self.width).expect("at most MAX_WIDTH"),
            root,
        }
    }

    /// Bytes of data.
    #[must_use]
    pub const fn data_size(&self) -> usize {
        self.data_size
    }

    /// Bytes in a share.
    #[must_use]
    pub const fn share_size(&self) -> usize {
        self.share_size
    }

    /// Shares in a row of data, k.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Shares in a row after extension, 2k.
    #[must_use]
    pub const fn side(&self) -> usize {
        2 * self.width
    }

    /// Shares in the extended square, 4k^2.
    #[must_use]
    pub const fn shares(&self) -> usize {
        self.side() * self.side()
    }

    /// Bytes of the extended square.
    #[must_use]
    pub const fn extended_size(&self) -> usize {
        self.shares() * self.share_size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sizes_that_the_module_names_have_the_shapes_it_names() {
        for (size, width, share) in [
            (0, 1, 512),
            (1, 1, 512),
            (2047, 1, 2048),
            (2048, 2, 512),
            (128 << 10, 16, 512),
            (1 << 20, 32, 1024),
            ((2 << 20) - 1, 32, 2048),
            (2 << 20, 64, 512),
            (8 << 20, 64, 2048),
            (MAX_DATA_BYTES, 64, 8192),
        ] {
            let shape = Shape::of_size(size).unwrap();
            assert_eq!((shape.width(), shape.share_size()), (width, share), "{size} bytes");
        }
        assert_eq!(Shape::of_size(MAX_DATA_BYTES + 1), Err(ShapeError::TooLarge { size: MAX_DATA_BYTES + 1 }));
        assert_eq!(MAX_SHARE_BYTES, 8192);
    }

    proptest! {
        #[test]
        fn data_fits_and_padding_is_small(size in 0usize..=MAX_DATA_BYTES, small in 0usize..5000) {
            for size in [size, small] {
                let shape = Shape::of_size(size).unwrap();
                let capacity = shape.width() * shape.width() * shape.share_size();
                prop_assert!(capacity >= size && shape.share_size() >= MIN_SHARE_BYTES);
                prop_assert!(shape.share_size() <= MAX_SHARE_BYTES && shape.share_size().is_multiple_of(SHARE_STEP));
                prop_assert!(size < MIN_SHARE_BYTES || capacity - size <= size / 8);
                prop_assert_eq!(Shape::of_commitment(&shape.commitment(B256::ZERO)), Ok(shape));
            }
        }

        #[test]
        fn other_parameters_are_refused(size in 0usize..=MAX_DATA_BYTES, width: u16, share: u32) {
            let shape = Shape::of_size(size).unwrap();
            let stated = DaCommitment { width, share_size: share, ..shape.commitment(B256::ZERO) };
            let right = usize::from(width) == shape.width() && share as usize == shape.share_size();
            prop_assert_eq!(Shape::of_commitment(&stated).is_ok(), right);
        }
    }
}
