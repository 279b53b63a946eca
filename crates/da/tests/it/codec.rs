//! Decoders on hostile bytes.

use cascade_da::{
    Axis, BadEncoding, Line, LineData, Sample, Square,
    batch::Manifest,
    dispersal::Chunk,
    wire::{Answer, Request},
};
use cascade_primitives::{Decode, Encode};
use proptest::prelude::*;

/// Whatever is not refused is the canonical encoding of what it decodes to.
fn canonical<T: Decode + Encode>(bytes: &[u8]) {
    if let Ok(value) = T::from_slice(bytes) {
        assert_eq!(value.to_bytes(), bytes);
    }
}

fn all(bytes: &[u8]) {
    canonical::<Sample>(bytes);
    canonical::<LineData>(bytes);
    canonical::<BadEncoding>(bytes);
    canonical::<Request>(bytes);
    canonical::<Chunk>(bytes);
    canonical::<Manifest>(bytes);
    canonical::<Answer>(bytes);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), tag in 0u8..12) {
        all(&bytes);
        let mut tagged = vec![tag];
        tagged.extend_from_slice(&bytes);
        all(&tagged);
    }

    #[test]
    fn damaged_encodings_never_panic_nor_verify(at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let square = Square::new(&super::body(2, 1)).unwrap();
        let header = square.committed();
        let sample = square.sample(1, 2, Axis::Row).unwrap().to_bytes();
        let line = square.line(Line::column(3)).unwrap().to_bytes();
        for bytes in [sample, line] {
            let mut damaged = bytes.clone();
            let at = at.index(bytes.len());
            damaged[at] ^= 1 << bit;
            all(&damaged);
            all(&bytes[..cut.index(bytes.len())]);
            if let Ok(sample) = Sample::from_slice(&damaged) {
                prop_assert!(sample.verify(&header).is_err());
            }
            if let Ok(line) = LineData::from_slice(&damaged) {
                prop_assert!(line.verify(&header).is_err());
            }
        }
    }
}
