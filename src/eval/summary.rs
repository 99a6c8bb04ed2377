//! Many tokens' numbers, summed up.

use super::{
    Tokens,
    metrics::{Row, divergence},
    report::{Bin, Difference, Distribution, Divergence, Estimate, Perplexity, TokenPlace},
    tokens::Window,
};

/// What is kept of one row of logits when it was compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) window: usize,
    pub(crate) position: usize,
    /// Divergence from the baseline.
    kld: f64,
    same_top1: bool,
    /// Share of the baseline's most probable tokens.
    top: f64,
    /// Log-probs of the token that follows: the baseline's, the model's.
    reference: Option<(f64, f64)>,
}

impl Compared {
    /// `reference` is the token that follows, with its log-prob in the baseline.
    pub(crate) fn new(
        (window, position): (usize, usize),
        reference: Option<(u32, f64)>,
        (base, base_logits): (&Row, &[f32]),
        (row, logits): (&Row, &[f32]),
    ) -> Compared {
        let (shared, of) = base.shared_top(row);
        Compared {
            window,
            position,
            kld: divergence(base, base_logits, row, logits),
            same_top1: base.top1() == row.top1(),
            top: shared as f64 / of as f64,
            reference: reference.map(|(token, base)| (base, row.log_prob(logits[token as usize]))),
        }
    }

    pub(crate) fn kld(&self) -> f64 {
        self.kld
    }

    pub(crate) fn log_prob_difference(&self) -> Option<f64> {
        self.reference.map(|(base, other)| other - base)
    }
}

/// exp of the mean of `nll`, with the error of the mean carried through the derivative of exp.
pub(crate) fn perplexity(nll: &[f64]) -> Perplexity {
    Perplexity {
        predictions: nll.len(),
        perplexity: exp_of(mean(nll)),
        ratio: None,
    }
}

/// Ratio of perplexities: exp of the mean difference of the log-probs. Both models see the same
/// tokens, so its error is that of the paired differences, far below what the two errors give.
pub(crate) fn perplexity_ratio(compared: &[Compared]) -> Option<Estimate> {
    let differences: Vec<f64> = compared
        .iter()
        .filter_map(|c| c.log_prob_difference().map(|d| -d))
        .collect();
    (!differences.is_empty()).then(|| exp_of(mean(&differences)))
}

fn exp_of(mean: Estimate) -> Estimate {
    let value = mean.value.exp();
    Estimate {
        value,
        standard_error: value * mean.standard_error,
    }
}

/// Sums up rows, in the order of the text; `None` without rows.
pub(crate) fn summarize(
    compared: &[Compared],
    windows: &[Window<'_>],
    tokens: &Tokens,
) -> Option<Divergence> {
    let place = |c: &Compared| place(c, windows, tokens);
    let worst = compared.iter().max_by(|a, b| a.kld.total_cmp(&b.kld))?;
    let klds: Vec<f64> = compared.iter().map(|c| c.kld).collect();
    let top1: Vec<f64> = compared
        .iter()
        .map(|c| f64::from(u8::from(c.same_top1)))
        .collect();
    let references = compared
        .iter()
        .filter_map(|c| c.reference.map(|(base, other)| (c, base, other)));
    let difference = |of: &dyn Fn(f64, f64) -> f64| {
        let all: Vec<(&Compared, f64)> = references
            .clone()
            .map(|(c, base, other)| (c, of(base, other)))
            .collect();
        let numbers: Vec<f64> = all.iter().map(|(_, d)| *d).collect();
        let worst = all.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        Difference {
            mean: mean(&numbers),
            rms: mean_of(&numbers, |d| d * d).sqrt(),
            max: worst.map_or(0.0, |(_, d)| d.abs()),
            worst: place(worst.map_or(&compared[0], |(c, _)| c)),
        }
    };
    Some(Divergence {
        distributions: compared.len(),
        top1: mean(&top1),
        top5: mean_of(compared, |c| c.top),
        probability: difference(&|base, other| other.exp() - base.exp()),
        log_prob: difference(&|base, other| other - base),
        worst: place(worst),
        histogram: histogram(&klds),
        kld: distribution(klds),
    })
}

/// Where limits are missed most that are not on a largest difference.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorstOf {
    /// Of the rows whose most probable token differs, the one with the largest divergence.
    pub(crate) top1: Option<TokenPlace>,
    /// Where the model holds the token that follows least likely, compared with the baseline.
    pub(crate) loss: Option<TokenPlace>,
}

impl WorstOf {
    pub(crate) fn of(compared: &[Compared], windows: &[Window<'_>], tokens: &Tokens) -> WorstOf {
        let place = |c: &Compared| place(c, windows, tokens);
        let differs = compared.iter().filter(|c| !c.same_top1);
        let losses = compared
            .iter()
            .filter_map(|c| Some((c, c.log_prob_difference()?)));
        let loss = losses.min_by(|a, b| a.1.total_cmp(&b.1));
        WorstOf {
            top1: differs.max_by(|a, b| a.kld.total_cmp(&b.kld)).map(place),
            loss: loss.map(|(c, _)| place(c)),
        }
    }
}

fn place(c: &Compared, windows: &[Window<'_>], tokens: &Tokens) -> TokenPlace {
    let token = windows[c.window].ids.get(c.position + 1).copied();
    TokenPlace {
        window: c.window,
        position: c.position,
        token,
        text: token.and_then(|t| tokens.decode(t)),
    }
}

fn mean_of<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    match all.len() {
        0 => 0.0,
        n => all.iter().map(of).sum::<f64>() / n as f64,
    }
}

/// Mean, with the sample standard deviation by the root of the count as its error.
pub(crate) fn mean(all: &[f64]) -> Estimate {
    let value = mean_of(all, |x| *x);
    let variance = match all.len() {
        0 | 1 => 0.0,
        n => all.iter().map(|x| (x - value).powi(2)).sum::<f64>() / (n - 1) as f64,
    };
    Estimate {
        value,
        standard_error: (variance / all.len().max(1) as f64).sqrt(),
    }
}

fn distribution(mut all: Vec<f64>) -> Distribution {
    let mean = mean(&all);
    all.sort_by(f64::total_cmp);
    Distribution {
        mean,
        median: quantile(&all, 0.5),
        p90: quantile(&all, 0.9),
        p95: quantile(&all, 0.95),
        p99: quantile(&all, 0.99),
        p999: quantile(&all, 0.999),
        max: all.last().copied().unwrap_or_default(),
    }
}

/// The `q` quantile of sorted numbers, with linear interpolation between order statistics
/// (definition 7 of Hyndman and Fan, 1996; numpy's default).
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = q * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = sorted[last.min(low + 1)];
    sorted[low] + (high - sorted[low]) * part
}

/// Four bars a decade from 1e-8 on; the first one has everything below.
fn histogram(klds: &[f64]) -> Vec<Bin> {
    const PER_DECADE: i32 = 4;
    const LOWEST: i32 = -8 * PER_DECADE;
    let edge = |i: i32| 10f64.powf(f64::from(i) / f64::from(PER_DECADE));
    let index = |kld: f64| match kld >= edge(LOWEST) {
        true => (kld.log10() * f64::from(PER_DECADE)).floor() as i32,
        false => LOWEST - 1,
    };
    let top = klds.iter().map(|&k| index(k)).max().unwrap_or(LOWEST);
    let mut bins: Vec<Bin> = (LOWEST - 1..=top)
        .map(|i| Bin {
            from: if i < LOWEST { 0.0 } else { edge(i) },
            to: edge(i + 1),
            count: 0,
        })
        .collect();
    for &kld in klds {
        bins[(index(kld) - LOWEST + 1) as usize].count += 1;
    }
    bins
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    #[test]
    fn quantiles_computed_by_hand() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), 1.0);
        assert_eq!(quantile(&sorted, 0.5), 3.0);
        assert_relative_eq!(quantile(&sorted, 0.9), 4.0 + 0.7 * 4.0);
        assert_eq!(quantile(&sorted, 1.0), 8.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn standard_errors_computed_by_hand() {
        // Deviations -1, 0, 1: variance 1 over n - 1 = 2 of 3 numbers.
        let m = mean(&[1.0, 2.0, 3.0]);
        assert_eq!(m.value, 2.0);
        assert_relative_eq!(m.standard_error, (1.0f64 / 3.0).sqrt());
        assert_eq!(mean(&[5.0]).standard_error, 0.0);
    }

    #[test]
    fn every_divergence_is_in_a_bar() {
        let klds = [0.0, -1e-17, 1e-9, 1e-8, 0.02, 0.99, 1.0, 37.0];
        let bins = histogram(&klds);
        assert_eq!(bins.iter().map(|b| b.count).sum::<usize>(), klds.len());
        assert_eq!(bins[0].count, 3);
        for kld in &klds[3..] {
            let around = |b: &&Bin| b.from <= kld * (1.0 + 1e-12) && *kld < b.to;
            assert!(bins.iter().find(around).unwrap().count > 0, "{kld}");
        }
    }

    #[test]
    fn rows_compared_by_hand() {
        // Two rows over two tokens. The first: equal. The second: p = (1/2, 1/2), q = (3/4, 1/4).
        let same = [0.0f32, 0.0];
        let other = [3f32.ln(), 0.0];
        let (base, model) = (Row::of(&same).unwrap(), Row::of(&other).unwrap());
        let ids = [0, 1, 0];
        let compared = [
            Compared::new(
                (0, 0),
                Some((1, 0.5f64.ln())),
                (&base, &same),
                (&base, &same),
            ),
            Compared::new(
                (0, 1),
                Some((0, 0.5f64.ln())),
                (&base, &same),
                (&model, &other),
            ),
        ];
        let windows = [Window {
            ids: &ids,
            first: 0,
        }];
        let tokens = Tokens::from_ids(ids.to_vec());
        let d = summarize(&compared, &windows, &tokens).unwrap();
        let kld = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        // Logits are rounded to float32.
        assert_relative_eq!(d.kld.max, kld, max_relative = 1e-6);
        assert_relative_eq!(d.kld.mean.value, kld / 2.0, max_relative = 1e-6);
        assert_eq!((d.top1.value, d.top5), (1.0, 1.0));
        assert_eq!((d.worst.position, d.worst.token), (1, Some(0)));
        assert_relative_eq!(d.log_prob.max, 1.5f64.ln(), max_relative = 1e-6);
        assert_relative_eq!(d.probability.mean.value, 0.125, max_relative = 1e-6);
        assert_relative_eq!(
            d.probability.rms,
            (0.0625f64 / 2.0).sqrt(),
            max_relative = 1e-6
        );
        // ln ratio = mean of (0, ln 1/2 - ln 3/4)
        let ratio = perplexity_ratio(&compared).unwrap();
        assert_relative_eq!(ratio.value, 1.5f64.powf(-0.5), max_relative = 1e-6);
    }
}
