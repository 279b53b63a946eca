//! How often sampling finds withheld data.

use cascade_da::{Shape, sampling};

/// Share of `trials` in which `samples` random samples hit a withheld corner of (k+1)^2 shares.
fn detected(shape: &Shape, samples: usize, trials: u64) -> f64 {
    let corner = shape.width() as u16 + 1;
    let hits = (0..trials).filter(|trial| {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&trial.to_le_bytes());
        seed[8] = samples as u8;
        // The corner wanders with the trial: which (k+1)^2 shares are withheld makes no difference.
        let (side, shift) = (shape.side() as u16, (*trial % shape.side() as u64) as u16);
        let gone = |at: u16| (at + shift) % side < corner;
        sampling::draw(shape, samples, seed).iter().any(|s| gone(s.row) && gone(s.column))
    });
    hits.count() as f64 / trials as f64
}

#[test]
fn detection_over_10_000_squares_agrees_with_the_hypergeometric_formula() {
    const TRIALS: u64 = 10_000;
    for width in [16, 64] {
        let shape = Shape::of_size(width * width * 512).unwrap();
        assert_eq!(shape.width(), width);
        for samples in [1, 4, 8, 16] {
            let expected = sampling::confidence(&shape, samples);
            let found = detected(&shape, samples, TRIALS);
            // 99% of a normal distribution lies within 2.576 standard deviations.
            let interval = 2.576 * (expected * (1.0 - expected) / TRIALS as f64).sqrt();
            assert!(
                (found - expected).abs() <= interval,
                "width {width}, {samples} samples: {found} detected, expected {expected} +- {interval}"
            );
        }
    }
}
