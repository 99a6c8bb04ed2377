//! The arithmetic of next-token distributions.
//!
//! Logits come as float32 and everything is computed from them in float64: the differences of
//! interest (an engine's own noise is 1e-9 nats) are far below what float32 resolves in a sum
//! over 50 000 probabilities. Nothing is ever exponentiated unshifted, and log-probabilities
//! are never taken from probabilities, so that neither overflow nor underflow shows.

use crate::quant::dispatch::dispatch;

/// How many of the most probable tokens are compared.
pub(crate) const TOP: usize = 5;

/// What a row of logits says before it is compared with another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    /// The largest logit.
    max: f32,
    /// Natural logarithm of the sum of exp(logit - max).
    ln_sum: f64,
    /// The tokens with the largest logits, the largest first; of equal ones the first.
    top: [u32; TOP],
    /// How many of `top` there are: fewer in a vocabulary of fewer tokens.
    top_len: usize,
}

/// Why a row of logits is no distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRow {
    /// The logit of this token is not a number, or infinite.
    NotANumber(usize),
    /// Every logit is minus infinity, or there is none.
    Empty,
}

impl Row {
    /// Looks at a row.
    pub(crate) fn of(logits: &[f32]) -> Result<Row, BadRow> {
        let (top, top_len) = top(logits);
        let max = match top_len {
            0 => return Err(BadRow::Empty),
            _ => logits[top[0] as usize],
        };
        if max == f32::NEG_INFINITY {
            return Err(BadRow::Empty);
        }
        let ln_sum = exp_sum(logits, max).ln();
        if ln_sum.is_nan() {
            let bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
            let token = logits.iter().position(bad);
            return Err(BadRow::NotANumber(token.unwrap_or_default()));
        }
        Ok(Row {
            max,
            ln_sum,
            top,
            top_len,
        })
    }

    /// The log-probability of the token with this logit.
    pub(crate) fn log_prob(&self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.max) - self.ln_sum
    }

    /// How far a logit is below the largest one.
    pub(crate) fn below(&self, logit: f32) -> f32 {
        self.max - logit
    }

    /// The most probable token.
    pub(crate) fn top1(&self) -> u32 {
        self.top[0]
    }

    /// How many of this row's most probable tokens are among those of `other`, of how many.
    pub(crate) fn shared_top(&self, other: &Row) -> (usize, usize) {
        let mine = &self.top[..self.top_len];
        let theirs = &other.top[..other.top_len];
        let shared = mine.iter().filter(|t| theirs.contains(t)).count();
        (shared, mine.len())
    }
}

/// Kullback-Leibler divergence of `other` from `base`, in nats: the sum over tokens of
/// p (ln p - ln q), where p is the probability in `base`. Tokens with p = 0 add nothing.
/// Infinite when a token is possible in `base` and impossible in `other`.
///
/// As p = exp(b - max b) / sum b, and likewise for q, it is the mean under p of
/// (b - max b) - (o - max o), plus ln sum o - ln sum b. Equal rows give exactly 0.
pub(crate) fn divergence(base: &Row, base_logits: &[f32], other: &Row, logits: &[f32]) -> f64 {
    let shift = f64::from(base.max) - f64::from(other.max);
    let mean = weighted_difference(base_logits, logits, base.max, shift) * (-base.ln_sum).exp();
    mean + other.ln_sum - base.ln_sum
}

/// The tokens with the largest logits, and how many they are.
fn top(logits: &[f32]) -> ([u32; TOP], usize) {
    // Whole blocks are passed over when their largest element is too small, which it nearly
    // always is after the first few.
    const BLOCK: usize = 64;
    let mut top = [0; TOP];
    let mut len = 0;
    for (block, elements) in logits.chunks(BLOCK).enumerate() {
        let largest = elements.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if len == TOP && largest <= logits[top[TOP - 1] as usize] {
            continue;
        }
        for (i, &x) in elements.iter().enumerate() {
            let after = top[..len].iter().rposition(|&t| logits[t as usize] >= x);
            let at = after.map_or(0, |after| after + 1);
            if at < TOP {
                len = TOP.min(len + 1);
                top[at..len].rotate_right(1);
                top[at] = (block * BLOCK + i) as u32;
            }
        }
    }
    (top, len)
}

/// Sum of exp(x - max).
fn exp_sum(row: &[f32], max: f32) -> f64 {
    dispatch!(exp_sum_body(row: &[f32], max: f32) -> f64)
}

#[inline(always)]
fn exp_sum_body(row: &[f32], max: f32) -> f64 {
    let max = f64::from(max);
    let (lanes, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for x in lanes {
        for i in 0..LANES {
            sums[i] += exp(f64::from(x[i]) - max);
        }
    }
    let rest: f64 = rest.iter().map(|&x| exp(f64::from(x) - max)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Sum of exp(b - max) (b - o - shift) over the elements with exp(b - max) > 0.
fn weighted_difference(base: &[f32], other: &[f32], max: f32, shift: f64) -> f64 {
    dispatch!(weighted_difference_body(base: &[f32], other: &[f32], max: f32, shift: f64) -> f64)
}

#[inline(always)]
fn weighted_difference_body(base: &[f32], other: &[f32], max: f32, shift: f64) -> f64 {
    let max = f64::from(max);
    let term = |b: f32, o: f32| {
        let weight = exp(f64::from(b) - max);
        let difference = f64::from(b) - f64::from(o) - shift;
        // Not a product with 0: the difference is infinite or NaN where logits are.
        if weight > 0.0 {
            weight * difference
        } else {
            0.0
        }
    };
    let (base_lanes, base_rest) = base.as_chunks::<LANES>();
    let (other_lanes, other_rest) = other.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (b, o) in base_lanes.iter().zip(other_lanes) {
        for i in 0..LANES {
            sums[i] += term(b[i], o[i]);
        }
    }
    let rest = base_rest.iter().zip(other_rest);
    sums.iter().sum::<f64>() + rest.map(|(&b, &o)| term(b, o)).sum::<f64>()
}

/// Elements computed side by side.
const LANES: usize = 8;

/// exp(x) for x <= 0, to 3 units in the last place; 0 below -708, where float64 has no normal
/// numbers left; NaN for NaN. Unlike the standard library's, the compiler can vectorize it.
///
/// exp(x) = 2^n exp(r) with n the nearest integer to x / ln 2, and the Taylor series of exp(r)
/// for |r| <= ln 2 / 2: its terms after the 13th are below 2e-16.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// Adding it leaves an integer in the low bits of the significand.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LOWEST: f64 = -708.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut sum = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        sum = sum * r + c;
    }
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1f64.to_bits()));
    if x < LOWEST { 0.0 } else { sum * power }
}

/// 1/13!, 1/12!, ..., 1/1!, 1/0!.
const COEFFICIENTS: [f64; 14] = {
    let mut c = [1.0; 14];
    let mut i = 1;
    let mut factorial = 1.0;
    while i < 14 {
        factorial *= i as f64;
        c[13 - i] = 1.0 / factorial;
        i += 1;
    }
    c
};

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use proptest::prelude::*;

    use super::*;

    fn kl(p: &[f32], q: &[f32]) -> f64 {
        divergence(&Row::of(p).unwrap(), p, &Row::of(q).unwrap(), q)
    }

    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    /// Relative error that rounding logits to float32 leaves.
    const ROUNDED: f64 = 1e-6;

    #[test]
    fn divergence_computed_by_hand() {
        // 1/2 ln(1/2 / 1/4) + 1/2 ln(1/2 / 3/4) = 1/2 ln 2 + 1/2 ln 2/3
        let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        let found = kl(&logits(&[0.5, 0.5]), &logits(&[0.25, 0.75]));
        assert_relative_eq!(found, expected, max_relative = ROUNDED);
        // 0.7 ln(0.7/0.1) + 0.2 ln(0.2/0.2) + 0.1 ln(0.1/0.7) = 0.6 ln 7
        let found = kl(&logits(&[0.7, 0.2, 0.1]), &logits(&[0.1, 0.2, 0.7]));
        assert_relative_eq!(found, 0.6 * 7f64.ln(), max_relative = ROUNDED);
        // Uniform over 4 from a point mass of (nearly) 1: ln 4.
        let point = [0.0, -200.0, -200.0, -200.0];
        assert_relative_eq!(kl(&point, &[1.0; 4]), 4f64.ln(), max_relative = 1e-14);
    }

    #[test]
    fn log_probs_computed_by_hand() {
        let row = Row::of(&[1.0, 3.0, 2.0]).unwrap();
        let expected = 2.0 - (1f64.exp() + 2f64.exp() + 3f64.exp()).ln();
        assert_relative_eq!(row.log_prob(2.0), expected, max_relative = 1e-14);
        assert_eq!(row.top[..3], [1, 2, 0]);
    }

    #[test]
    fn shifted_logits_are_the_same_distribution() {
        let a = [3.0, -1.0, 0.5, 7.25];
        let b = a.map(|x| x + 1000.0);
        assert_eq!(kl(&a, &b), 0.0);
        assert_eq!(
            Row::of(&a).unwrap().log_prob(a[1]),
            Row::of(&b).unwrap().log_prob(b[1])
        );
    }

    #[test]
    fn stable_where_probabilities_underflow() {
        // exp(-2000) is 0 in float64; its log-probability is not.
        let base = [0.0, -2000.0];
        let other = [0.0, -1000.0];
        assert_eq!(kl(&base, &other), 0.0);
        let row = Row::of(&base).unwrap();
        assert_eq!(row.log_prob(-2000.0), -2000.0);
        // The other way, a possible token is nearly impossible.
        assert_relative_eq!(
            kl(&[0.0, 0.0], &base),
            1000.0 - 2f64.ln(),
            max_relative = 1e-14
        );
        // Differences far below float32's resolution of a sum.
        let near = [0.0, f32::EPSILON];
        let d = f64::from(f32::EPSILON);
        assert_relative_eq!(kl(&[0.0, 0.0], &near), d * d / 8.0, max_relative = 1e-1);
    }

    #[test]
    fn impossible_tokens() {
        const NEVER: f32 = f32::NEG_INFINITY;
        assert_eq!(kl(&[0.0, NEVER, 0.0], &[0.0, NEVER, 0.0]), 0.0);
        assert_relative_eq!(kl(&[0.0, NEVER], &[0.0, 0.0]), 2f64.ln());
        assert_eq!(kl(&[0.0, 0.0], &[0.0, NEVER]), f64::INFINITY);
        assert_eq!(Row::of(&[NEVER, NEVER]), Err(BadRow::Empty));
        assert_eq!(Row::of(&[]), Err(BadRow::Empty));
        assert_eq!(Row::of(&[0.0, f32::NAN]), Err(BadRow::NotANumber(1)));
        assert_eq!(Row::of(&[f32::INFINITY]), Err(BadRow::NotANumber(0)));
    }

    #[test]
    fn most_probable_tokens() {
        let mut row = vec![0.0; 1000];
        for (token, x) in [
            (3, 9.0),
            (999, 8.0),
            (64, 9.5),
            (500, 8.0),
            (65, 7.0),
            (7, 6.0),
        ] {
            row[token] = x;
        }
        let looked = Row::of(&row).unwrap();
        // Of equal ones the first, as numpy's argmax.
        assert_eq!(looked.top, [64, 3, 500, 999, 65]);
        row[65] = 5.0;
        let other = Row::of(&row).unwrap();
        assert_eq!(looked.shared_top(&other), (4, 5));
        let few = Row::of(&[1.0, 2.0]).unwrap();
        assert_eq!((few.top1(), few.shared_top(&few)), (1, (2, 2)));
    }

    #[test]
    fn exponential() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.003_541;
            let (found, expected) = (exp(x), x.exp());
            if x > -708.0 {
                // 3 units in the last place: see `exp`.
                assert_relative_eq!(found, expected, max_relative = 3.0 * f64::EPSILON);
            } else {
                assert_eq!(found, 0.0);
            }
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }

    proptest! {
        #[test]
        fn divergence_is_what_the_definition_says(
            pairs in prop::collection::vec((-20f32..20.0, -20f32..20.0), 1..300)
        ) {
            let (b, o): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let softmax = |x: &[f32]| {
                let e: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
                let sum: f64 = e.iter().sum();
                e.into_iter().map(|e| e / sum).collect::<Vec<_>>()
            };
            let (p, q) = (softmax(&b), softmax(&o));
            let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            // Both are sums of 300 float64 terms of magnitude up to 40.
            prop_assert!((kl(&b, &o) - expected).abs() < 1e-11);
            prop_assert_eq!(kl(&b, &b), 0.0);
        }
    }
}
