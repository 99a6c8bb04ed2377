//! Figures from times.

use serde::Serialize;

use crate::{engine::Random, eval::quantile};

/// How often the rounds are drawn anew for a confidence interval. The ends of the interval then
/// move by less than a tenth of its width.
const RESAMPLES: u64 = 2000;

/// Times, and what they come to. All in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Mean.
    pub mean_ms: f64,
    /// Standard deviation of the sample (n - 1); none for a single time.
    pub sd_ms: Option<f64>,
    /// The shortest.
    pub min_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile, linear between neighbours, as in NumPy.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The times, in the order they were taken.
    pub times_ms: Vec<f64>,
}

impl Timing {
    /// The figures of `times_ms`.
    ///
    /// # Panics
    /// When there are none.
    pub fn of(times_ms: Vec<f64>) -> Timing {
        let n = times_ms.len() as f64;
        let mean = times_ms.iter().sum::<f64>() / n;
        let squares: f64 = times_ms.iter().map(|t| (t - mean).powi(2)).sum();
        let mut sorted = times_ms.clone();
        sorted.sort_by(f64::total_cmp);
        Timing {
            mean_ms: mean,
            sd_ms: (times_ms.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            min_ms: sorted[0],
            p50_ms: quantile(&sorted, 0.50),
            p95_ms: quantile(&sorted, 0.95),
            p99_ms: quantile(&sorted, 0.99),
            times_ms,
        }
    }
}

/// How the mean time of a model relates to that of the first one: 0.5 is twice as fast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio of the means.
    pub ratio: f64,
    /// Lower end of its 95% confidence interval; none for fewer than two runs.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Ratio {
    /// `times` over `first`, one of each in every round.
    ///
    /// The interval is the percentile interval of the paired bootstrap (Efron and Tibshirani,
    /// An Introduction to the Bootstrap, 1993, chapter 13): rounds are drawn with replacement,
    /// both models' times together, so noise that hit a whole round cancels. The draws are
    /// always the same.
    ///
    /// # Panics
    /// When there is no round, or the numbers of times differ.
    pub fn of(times: &[f64], first: &[f64]) -> Ratio {
        assert_eq!(times.len(), first.len(), "one time each in every round");
        let n = times.len() as u64;
        let ratio = times.iter().sum::<f64>() / first.iter().sum::<f64>();
        if n < 2 {
            return Ratio {
                ratio,
                low: None,
                high: None,
            };
        }
        let random = Random::new(0, "bootstrap");
        let mut drawn: Vec<f64> = (0..RESAMPLES)
            .map(|resample| {
                let (mut a, mut b) = (0.0, 0.0);
                for i in 0..n {
                    let round = random.below(resample * n + i, n) as usize;
                    a += times[round];
                    b += first[round];
                }
                a / b
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        Ratio {
            ratio,
            low: Some(quantile(&drawn, 0.025)),
            high: Some(quantile(&drawn, 0.975)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_few_times() {
        let t = Timing::of(vec![4.0, 1.0, 3.0, 2.0, 10.0]);
        assert_eq!((t.mean_ms, t.min_ms, t.p50_ms), (4.0, 1.0, 3.0));
        assert_eq!(t.sd_ms, Some(12.5f64.sqrt()));
        assert!((t.p95_ms - 8.8).abs() < 1e-12, "{}", t.p95_ms);
        assert_eq!(t.times_ms[0], 4.0, "in the order they were taken");
        let one = Timing::of(vec![7.0]);
        assert_eq!((one.sd_ms, one.p99_ms), (None, 7.0));
    }

    #[test]
    fn noise_of_a_whole_round_cancels() {
        let first: Vec<f64> = (0..30).map(|i| 10.0 + f64::from(i % 7) * 5.0).collect();
        let twice: Vec<f64> = first.iter().map(|t| 2.0 * t).collect();
        let Ratio { ratio, low, high } = Ratio::of(&twice, &first);
        for end in [ratio, low.unwrap(), high.unwrap()] {
            assert!((end - 2.0).abs() < 1e-12, "{end}");
        }
        assert_eq!(Ratio::of(&[3.0], &[2.0]).low, None);
    }

    #[test]
    fn the_interval_covers_what_it_should() {
        // Times of mean 1 and 1.5 with a deviation of 0.1: the interval misses the true ratio
        // in about 5 of 100 experiments; 13 is three standard deviations above.
        let sample = |name: &str, scale: f32| -> Vec<f64> {
            let r = Random::new(3, name);
            (0..25)
                .map(|i| f64::from(scale + 0.1 * r.normal(i)))
                .collect()
        };
        let misses = (0..100).filter(|e| {
            let (a, b) = (sample(&format!("a{e}"), 1.5), sample(&format!("b{e}"), 1.0));
            let r = Ratio::of(&a, &b);
            !(r.low.unwrap()..=r.high.unwrap()).contains(&1.5)
        });
        let misses = misses.count();
        assert!(misses <= 13, "{misses}");
    }
}
