//! The statistics of the measurement: batch means, Student's intervals, equivalence by two one-sided tests.

/// The quantile of the normal distribution that leaves half a percent above it.
const Z: f64 = 2.575_829_303_548_9;

/// A mean from independent batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// Batches.
    pub batches: usize,
}

impl Estimate {
    /// The mean of values that are independent of one another.
    ///
    /// # Panics
    /// With fewer than two.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        assert!(values.len() > 1, "an error needs two values");
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { mean, error: (variance / count).sqrt(), batches: values.len() }
    }

    /// Half the width of the interval that holds the true mean with 99%.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        student(self.batches - 1) * self.error
    }

    /// The lower end of that interval.
    #[must_use]
    pub fn low(&self) -> f64 {
        self.mean - self.half_width()
    }

    /// Its upper end.
    #[must_use]
    pub fn high(&self) -> f64 {
        self.mean + self.half_width()
    }

    /// Two one-sided tests, each at half a percent, of the hypothesis that the true mean is `margin` or more away from
    /// zero; the same as whether the interval lies within the margin.
    #[must_use]
    pub fn equivalent_to_zero(&self, margin: f64) -> bool {
        self.low() > -margin && self.high() < margin
    }

    /// The probability that those tests say so if the true mean is zero.
    #[must_use]
    pub fn power(&self, margin: f64) -> f64 {
        (2.0 * normal(margin / self.error - student(self.batches - 1)) - 1.0).max(0.0)
    }
}

/// The quantile of Student's distribution that leaves half a percent above it (Cornish-Fisher expansion; within 0.1% from
/// ten degrees of freedom on).
fn student(freedom: usize) -> f64 {
    let (v, z) = (freedom.max(1) as f64, Z);
    let third = (z.powi(3) + z) / 4.0;
    let fifth = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let seventh = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + third / v + fifth / v.powi(2) + seventh / v.powi(3)
}

/// The normal distribution function (Abramowitz and Stegun 7.1.26, within 2e-7).
fn normal(x: f64) -> f64 {
    let y = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * y);
    let poly =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-y * y).exp();
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, quantile) in [(10, 3.169), (30, 2.750), (100, 2.626), (1_000_000, 2.576)] {
            assert!((student(freedom) - quantile).abs() < 0.002, "{freedom}: {}", student(freedom));
        }
        for (x, p) in [(0.0, 0.5), (1.0, 0.841_345), (-2.0, 0.022_750)] {
            assert!((normal(x) - p).abs() < 1e-6);
        }
    }

    #[test]
    fn an_interval_is_wide_as_it_should_be() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert!((estimate.mean - 6.0).abs() < 1e-12);
        assert!((estimate.half_width() - 3.169).abs() < 0.003, "{}", estimate.half_width());
        assert!(!estimate.equivalent_to_zero(9.1) && estimate.equivalent_to_zero(9.2));
        assert!(estimate.power(1.0) < 1e-9 && estimate.power(10.0) > 0.99);
    }
}
