//! The definitions of the methods beyond round to nearest: one block at a time, nothing clever.
//!
//! All in `f32` and each operation rounded. `x` is the block, padded with zeros where it is the
//! last of a row, `s` a scale in the type in which it is stored, `z` a zero point, `M = 2^bits - 1`.
//! Codes are those of `rtn_ref` for the scale and zero point that are chosen.
//!
//! # Scale search
//!
//! Minimizes `sum w_i (x_i - s (q_i - z))^2` with the weights `w_i = h_i (sqrt(mean x^2) + |x_i|)`,
//! where `h` is the importance, the mean square of the activation (1 without any). Were errors
//! and activations independent, `h` alone would be right: `E (sum e_i a_i)^2 = sum e_i^2 E a_i^2`.
//! The other factor is that of the k-quants of llama.cpp: large weights are where models put what
//! matters, and divergences measured with it are lower.
//!
//! The grid has candidates for the number of steps that the extreme (symmetric, on either side, so
//! that scales may be negative) or the range (asymmetric, with the range's surplus cut or left on both
//! sides alike) takes. The codes `u_i = q_i - z` of each candidate are refitted by least squares,
//! `s = sum(w u x) / sum(w u^2)`, which makes the error `sum(w x^2) - s sum(w u x)`. The best is taken, the
//! first of equals; its codes are refitted once or a few times more; the scale is rounded to its type. Where the error of
//! the stored form is not below that of round to nearest, that stays.
//!
//! In asymmetric blocks of 32 and more a step above that of the range, `d = (max x - min x) / M`, is charged
//! `sum(w) (s^2 - d^2) / 12`: what elements err that lie anywhere in their cells ([`widening`] tells why).
//!
//! `x` is taken in units of a power of two, so that no sum overflows.
//!
//! # Half-quadratic quantization
//!
//! Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): with the
//! scale of round to nearest, the zero point that minimizes `sum |x_i - s (q_i - z)|^p`, `p` = 0.7, by
//! half-quadratic splitting. With `q = round(x / s + z)` clamped to `0..=M` each round is
//!
//! - (sp1) `e = shrink(x - s (q - z), beta)`, where `shrink(v, beta) = sign(v) max(|v| - |v|^(p-1) / beta, 0)`,
//! - (sp2) `z = mean(q - (x - e) / s)`, and `beta` grows by 1.01, from 10.
//!
//! There are 20 rounds. ONNX Runtime's `HQQWeightOnlyQuantizer` stops when the mean error of the whole weight
//! falls no more, which in a block alone would be too early; it also has a bound on scales.
//!
//! Zero points that are codes: rounded down or up, whichever has the lower squared error.
//! Zero points that are floats: the range begins at the least element and not at 0, and they are rounded to
//! their type. Where the squared error is not below that of round to nearest, that stays.

use super::fit::{clamp, nearest, powers, reciprocal};
use super::hqq::{PENALTIES, shrink};
use super::mse::{asymmetric_grid, refits, symmetric_grid, widening};
use super::rtn_ref::Params;
use super::scales::{scale_bits, scale_value};
use super::spec::BlockSpec;

fn rounded(spec: &BlockSpec, x: f32) -> f32 {
    scale_value(spec.scale(), scale_bits(spec.scale(), x))
}

/// Scale search, from what round to nearest chose.
pub(super) fn mse(spec: &BlockSpec, x: &[f32], importance: &[f32], rtn: Params) -> Params {
    let low = x.iter().fold(0.0f32, |low, &x| low.min(x));
    let high = x.iter().fold(0.0f32, |high, &x| high.max(x));
    let (to, back) = powers(high.max(-low));
    let y: Vec<f32> = x.iter().map(|x| x * to).collect();
    let w = weights(&y, importance);
    let m = f32::from(spec.max_code());
    // Symmetric blocks have no charge.
    let plain = (high * to - low * to) * (1.0 / m);
    let charge =
        w.iter().fold(0.0f32, |sum, &w| sum + w) * widening(spec.symmetric(), spec.block());

    // What the least-squares step of the codes gains over zeros, less what it costs to be wide, and that step.
    let fitted = |r: f32, z: f32| {
        let (mut a, mut b) = (0.0f32, 0.0f32);
        for (&y, &w) in y.iter().zip(&w) {
            let u = nearest(clamp(y * r, -z, m - z));
            a += w * y * u;
            b += w * u * u;
        }
        let step = a / if b == 0.0 { 1.0 } else { b };
        let wider = step * step - plain * plain;
        let wider = if wider > 0.0 { wider } else { 0.0 };
        (a * step - charge * wider, step)
    };
    let mut best = Best {
        gain: 0.0,
        step: 0.0,
        zero_point: rtn.zero_point,
    };
    if spec.symmetric() {
        let widest = if high > -low { high } else { low };
        for d in symmetric_grid(spec.bits()).as_flattened() {
            let z = f32::from(spec.mid());
            best.take(fitted(d * reciprocal(widest * to), z), z);
        }
    } else {
        let (low, high) = (low * to, high * to);
        for d in asymmetric_grid(spec.bits()).as_flattened() {
            let r = d * reciprocal(high - low);
            let z = nearest(clamp(-(low * r) - (d - m) * 0.5, 0.0, m));
            best.take(fitted(r, z), z);
        }
    }
    for _ in 0..refits(spec.bits()) {
        let z = best.zero_point;
        best.take(fitted(reciprocal(best.step), z), z);
    }
    let found = Params {
        scale: rounded(spec, best.step * back),
        zero_point: best.zero_point,
    };

    let error = |params: &Params| squared(spec, x, &w, to, params);
    if error(&found) < error(&rtn) {
        found
    } else {
        rtn
    }
}

/// Weighted squared error of what the codes of `params` stand for, in units `to`.
fn squared(spec: &BlockSpec, x: &[f32], w: &[f32], to: f32, params: &Params) -> f32 {
    let mut sum = 0.0f32;
    for (&x, &w) in x.iter().zip(w) {
        let code = f32::from(params.code(spec, x));
        let off = (x - (code - params.zero_point) * params.scale) * to;
        sum += w * off * off;
    }
    sum
}

/// The best candidate so far.
struct Best {
    gain: f32,
    step: f32,
    zero_point: f32,
}

impl Best {
    fn take(&mut self, (gain, step): (f32, f32), zero_point: f32) {
        if gain > self.gain {
            *self = Best {
                gain,
                step,
                zero_point,
            };
        }
    }
}

/// Weights of the squared errors of `y`.
fn weights(y: &[f32], importance: &[f32]) -> Vec<f32> {
    let mut squares = 0.0f32;
    for y in y {
        squares += y * y;
    }
    let root = (squares / y.len() as f32).sqrt();
    let most = importance.iter().fold(0.0f32, |most, &w| most.max(w));
    let unit = powers(most).0;
    let weight = |(&y, &w): (&f32, &f32)| {
        let importance = if most == 0.0 { 1.0 } else { w * unit };
        importance * (root + y.abs())
    };
    y.iter().zip(importance).map(weight).collect()
}

/// Half-quadratic quantization, from what round to nearest chose. `mask` is 1, and 0 for padding.
pub(super) fn hqq(spec: &BlockSpec, x: &[f32], mask: &[f32], rtn: Params) -> Params {
    let m = f32::from(spec.max_code());
    let start = if spec.float_zero_points() {
        let elements = || {
            x.iter()
                .zip(mask)
                .filter(|(_, m)| **m > 0.0)
                .map(|(x, _)| *x)
        };
        let low = elements().fold(f32::INFINITY, f32::min);
        let range = elements().fold(f32::NEG_INFINITY, f32::max) - low;
        let scale = rounded(spec, if range > 0.0 { range / m } else { 1.0 });
        let zero_point = (-low * reciprocal(scale)).round_ties_even();
        Params { scale, zero_point }
    } else {
        rtn
    };
    let (s, r) = (start.scale, reciprocal(start.scale));

    let mut count = 0.0f32;
    mask.iter().for_each(|m| count += m);
    let mut z = start.zero_point;
    for penalty in PENALTIES {
        let mut sum = 0.0f32;
        for (&x, &mask) in x.iter().zip(mask) {
            let q = nearest(clamp(x * r + z, 0.0, m));
            let off = x - (q - z) * s;
            sum += mask * (q - (x - shrink(off, penalty)) * r);
        }
        z = sum * reciprocal(count);
    }

    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let error = |params: &Params| squared(spec, x, mask, powers(most).0, params);
    let candidates = if spec.float_zero_points() {
        vec![rounded(spec, z)]
    } else {
        vec![clamp(z.floor(), 0.0, m), clamp(z.ceil(), 0.0, m)]
    };
    let mut best = rtn;
    for zero_point in candidates {
        let found = Params {
            scale: s,
            zero_point,
        };
        if error(&found) < error(&best) {
            best = found;
        }
    }
    best
}
