//! Half-quadratic quantization, in lanes. Defined by [`fit_ref::hqq`](super::fit_ref).

use super::fit::{Lanes, Stored, clamp, error, mask, nearest, powers, reciprocal, select, stored};
use super::lanes::{LANES, Params, Ranges};
use super::scales::{scale_bits, scale_value};
use super::spec::BlockSpec;

/// Rounds of the solver.
const ROUNDS: usize = 20;

/// The exponent of the norm, less one.
const POWER: f32 = 0.7 - 1.0;

/// `1 / beta` of each round: beta begins at 10 and grows by a hundredth.
pub(super) const PENALTIES: [f32; ROUNDS] = {
    let (mut penalties, mut beta, mut i) = ([0.0; ROUNDS], 10.0f64, 0);
    while i < ROUNDS {
        penalties[i] = (1.0 / beta) as f32;
        beta *= 1.01;
        i += 1;
    }
    penalties
};

/// What is left of the error `e` by the proximal operator of the norm: large ones stay,
/// nearly, and small ones become 0.
#[inline(always)]
pub(super) fn shrink(e: f32, penalty: f32) -> f32 {
    let size = e.abs();
    let rest = size - penalty * power(size + 1e-8);
    let rest = if rest > 0.0 { rest } else { 0.0 };
    rest.copysign(e)
}

/// Errors up to this become 0. A hundredth less than it is, since `power` is not exact.
#[inline(always)]
fn threshold(penalty: f32) -> f32 {
    // |e| = penalty |e|^POWER
    0.99 * exp2(log2(penalty) * (1.0 / (1.0 - POWER)))
}

/// `x` to the `POWER`, for positive `x`; off by a few units in the last place.
#[inline(always)]
fn power(x: f32) -> f32 {
    exp2(log2(x) * POWER)
}

/// Binary logarithm of a positive normal number. The library's may differ between systems.
#[inline(always)]
fn log2(x: f32) -> f32 {
    // x = 2^e m with m from sqrt(1/2) to sqrt(2).
    const ROOT: u32 = 0x3f35_04f3;
    let bits = x.to_bits().wrapping_sub(ROOT);
    let e = bits.cast_signed() >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(ROOT));
    // ln m = 2 artanh((m - 1) / (m + 1)), whose series ends here below 2^-30.
    let t = (m - 1.0) / (m + 1.0);
    let s = t * t;
    let series = 1.0 + s * (1.0 / 3.0 + s * (0.2 + s * (1.0 / 7.0 + s * (1.0 / 9.0))));
    e as f32 + t * series * (2.0 * std::f32::consts::LOG2_E)
}

/// 2 to the `x`, for `x` from -100 to 100.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let whole = nearest(x);
    let f = (x - whole) * std::f32::consts::LN_2;
    // Taylor's series up to the seventh power: f is at most 0.35.
    let series = 1.0 / 120.0 + f * (1.0 / 720.0 + f * (1.0 / 5040.0));
    let series = 0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * series));
    let series = 1.0 + f * (1.0 + f * series);
    f32::from_bits(
        series
            .to_bits()
            .wrapping_add((whole as i32).cast_unsigned() << 23),
    )
}

/// Where the solver begins: the scale, and the zero point.
struct Start {
    stored: Stored,
    zero_points: Lanes,
}

/// Improves `params` of the blocks `x`, which are padded where `valid` is 0.
#[inline(always)]
pub(super) fn fit(
    spec: &BlockSpec,
    x: &[Lanes],
    valid: &[Lanes],
    ranges: &Ranges,
    params: &mut Params,
) {
    let (low, high) = ranges.bounds();
    let mut to = [0.0; LANES];
    for i in 0..LANES {
        to[i] = powers(high[i].max(-low[i])).0;
    }
    let max_code = f32::from(spec.max_code());
    let start = match spec.float_zero_points() {
        true => free_range(spec, x, valid, max_code),
        false => Start {
            stored: stored(spec, &params.scales.map(|b| scale_value(spec.scale(), b))),
            zero_points: params.zero_points,
        },
    };
    let zero_points = solve(x, valid, &start, max_code);
    let old = params.scales.map(|bits| scale_value(spec.scale(), bits));
    let mut least = error(
        x,
        valid,
        &to,
        &params.reciprocals,
        &params.zero_points,
        &old,
        max_code,
    );
    let candidates = match spec.float_zero_points() {
        true => {
            let bits = zero_points.map(|z| scale_bits(spec.scale(), z));
            [bits.map(|b| scale_value(spec.scale(), b)); 2]
        }
        false => [
            zero_points.map(|z| clamp(z.floor(), 0.0, max_code)),
            zero_points.map(|z| clamp(z.ceil(), 0.0, max_code)),
        ],
    };
    for zero_points in &candidates {
        let Stored {
            scales,
            reciprocals,
            ..
        } = &start.stored;
        let found = error(x, valid, &to, reciprocals, zero_points, scales, max_code);
        let mut better = [0; LANES];
        for i in 0..LANES {
            better[i] = mask(found[i] < least[i]);
        }
        select(&better, &found, &mut least);
        params.replace(&better, &start.stored, zero_points);
    }
}

/// The scale of the range as it is, without 0 in it: a zero point that is a number can be
/// anywhere.
#[inline(always)]
fn free_range(spec: &BlockSpec, x: &[Lanes], valid: &[Lanes], max_code: f32) -> Start {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for (x, valid) in x.iter().zip(valid) {
        for i in 0..LANES {
            low[i] = if valid[i] > 0.0 && x[i] < low[i] {
                x[i]
            } else {
                low[i]
            };
            high[i] = if valid[i] > 0.0 && x[i] > high[i] {
                x[i]
            } else {
                high[i]
            };
        }
    }
    let mut scales = [0.0; LANES];
    for i in 0..LANES {
        // A lane without elements.
        low[i] = if low[i] > high[i] { 0.0 } else { low[i] };
        let range = high[i] - low[i];
        scales[i] = if range > 0.0 { range / max_code } else { 1.0 };
    }
    let stored = stored(spec, &scales);
    let mut zero_points = [0.0; LANES];
    for i in 0..LANES {
        zero_points[i] = (-low[i] * stored.reciprocals[i]).round_ties_even();
    }
    Start {
        stored,
        zero_points,
    }
}

/// The zero points that the rounds end with.
#[inline(always)]
fn solve(x: &[Lanes], valid: &[Lanes], start: &Start, max_code: f32) -> Lanes {
    let (r, s) = (&start.stored.reciprocals, &start.stored.scales);
    let mut share = [0.0; LANES];
    for valid in valid {
        for i in 0..LANES {
            share[i] += valid[i];
        }
    }
    share.iter_mut().for_each(|n| *n = reciprocal(*n));
    let mut z = start.zero_points;
    let least = threshold(PENALTIES[ROUNDS - 1]);
    for penalty in PENALTIES {
        let (mut sum, mut widest) = ([0.0; LANES], [0.0; LANES]);
        for (x, valid) in x.iter().zip(valid) {
            for i in 0..LANES {
                let v = x[i] * r[i];
                let q = nearest(clamp(v + z[i], 0.0, max_code));
                let e = (x[i] - (q - z[i]) * s[i]).abs();
                sum[i] += valid[i] * (q - v);
                widest[i] = if e > widest[i] { e } else { widest[i] };
            }
        }
        // Without a large error there is nothing else to add.
        let bound = threshold(penalty);
        if widest.iter().any(|&e| e > bound) {
            sum = shrunk(x, valid, start, &z, penalty, max_code);
        }
        let before = z;
        for i in 0..LANES {
            z[i] = sum[i] * share[i];
        }
        // Nor will there be in a later round, so that nothing will change.
        if before == z && widest.iter().all(|&e| e <= least) {
            break;
        }
    }
    z
}

/// The sums of a round where the proximal operator leaves something.
#[inline(always)]
fn shrunk(
    x: &[Lanes],
    valid: &[Lanes],
    start: &Start,
    z: &Lanes,
    penalty: f32,
    max_code: f32,
) -> Lanes {
    let (r, s) = (&start.stored.reciprocals, &start.stored.scales);
    let mut next = [0.0; LANES];
    for (x, valid) in x.iter().zip(valid) {
        for i in 0..LANES {
            let q = nearest(clamp(x[i] * r[i] + z[i], 0.0, max_code));
            let e = x[i] - (q - z[i]) * s[i];
            next[i] += valid[i] * (q - (x[i] - shrink(e, penalty)) * r[i]);
        }
    }
    next
}
