//! Percentiles.

use std::time::Duration;

use serde::Serialize;

/// Percentiles of durations, in ms; none of no durations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half took at most this.
    pub p50: Option<f64>,
    /// 99 of 100 took at most this.
    pub p99: Option<f64>,
}

impl Percentiles {
    /// Nearest-rank percentiles.
    #[must_use]
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).map(|duration| round(duration.as_secs_f64() * 1000.0, 2))
        };
        Self { p50: rank(50), p99: rank(99) }
    }
}

/// Rounds to so many digits, so that results can be read.
#[must_use]
pub fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let of = |ms: std::ops::RangeInclusive<u64>| Percentiles::of(ms.map(Duration::from_millis));
        assert_eq!(of(1..=100), Percentiles { p50: Some(50.0), p99: Some(99.0) });
        assert_eq!(of(7..=7), Percentiles { p50: Some(7.0), p99: Some(7.0) });
        assert_eq!(Percentiles::of([]), Percentiles { p50: None, p99: None });
    }
}
