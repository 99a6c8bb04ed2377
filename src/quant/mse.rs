//! Scale search, in lanes. Defined by [`fit_ref::mse`](super::fit_ref).

use super::fit::{Lanes, clamp, code, nearest, powers, reciprocal, stored};
use super::lanes::{LANES, Params, Ranges};
use super::scales::scale_value;
use super::spec::BlockSpec;

/// What was found in each block.
struct Best {
    /// By how much less than that of zeros the error is.
    gain: Lanes,
    /// Scale in units of the block's power of two.
    step: Lanes,
    zero_point: Lanes,
}

/// The elements in units of the block's power of two, their weights, and the products.
#[derive(Clone, Copy)]
struct Set<'a> {
    y: &'a [Lanes],
    w: &'a [Lanes],
    wy: &'a [Lanes],
}

/// The codes that the widest element of a symmetric block gets, in the grid.
pub(super) fn symmetric_grid(bits: u8) -> impl Iterator<Item = f32> {
    // By the number of codes on one side: a few bits clip much.
    let (from, to, mid) = match bits {
        2 => (0.4, 1.15, 2.0),
        4 => (0.75, 1.13, 8.0),
        _ => (0.94, 1.05, 128.0),
    };
    const STEPS: u8 = 8;
    (0..2 * STEPS).map(move |i| {
        let part = f32::from(i / 2) / f32::from(STEPS - 1);
        let d = (from + (to - from) * part) * mid;
        // The extreme at the longer side, and at the shorter one.
        if i % 2 == 0 { -d } else { d - 0.6 }
    })
}

/// The number of steps that the range of an asymmetric block takes, in the grid.
pub(super) fn asymmetric_grid(bits: u8) -> impl Iterator<Item = f32> {
    let (from, to, steps) = match bits {
        2 => (0.7, 2.2, 3.0),
        4 => (0.87, 1.16, 15.0),
        _ => (0.96, 1.04, 255.0),
    };
    const STEPS: u8 = 10;
    (0..STEPS).map(move |i| {
        let part = f32::from(i) / f32::from(STEPS - 1);
        (from + (to - from) * part) * steps
    })
}

/// Improves `params` of the blocks `x`, whose errors have the weights `w`.
#[inline(always)]
pub(super) fn fit(
    spec: &BlockSpec,
    x: &[Lanes],
    w: &mut [Lanes],
    (y, wy): (&mut [Lanes], &mut [Lanes]),
    ranges: &Ranges,
    params: &mut Params,
) {
    let (low, high) = ranges.bounds();
    let (mut to, mut back) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        (to[i], back[i]) = powers(high[i].max(-low[i]));
    }
    weigh(x, &to, w, y, wy);
    let set = Set { y, w, wy };
    let mut best = Best {
        gain: [0.0; LANES],
        step: [0.0; LANES],
        zero_point: params.zero_points,
    };
    let max_code = f32::from(spec.max_code());
    if spec.symmetric() {
        let mut inverse = [0.0; LANES];
        for i in 0..LANES {
            let widest = if high[i] > -low[i] { high[i] } else { low[i] };
            inverse[i] = reciprocal(widest * to[i]);
        }
        let zero_point = [f32::from(spec.mid()); LANES];
        for d in symmetric_grid(spec.bits()) {
            best.take(set, inverse.map(|r| d * r), zero_point, max_code);
        }
    } else {
        let (mut inverse, mut start) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..LANES {
            start[i] = low[i] * to[i];
            inverse[i] = reciprocal(high[i] * to[i] - start[i]);
        }
        for d in asymmetric_grid(spec.bits()) {
            let (mut r, mut zero_point) = ([0.0; LANES], [0.0; LANES]);
            let beyond = (d - max_code) * 0.5;
            for i in 0..LANES {
                r[i] = d * inverse[i];
                zero_point[i] = nearest(clamp(-(start[i] * r[i]) - beyond, 0.0, max_code));
            }
            best.take(set, r, zero_point, max_code);
        }
    }
    best.take(set, best.step.map(reciprocal), best.zero_point, max_code);
    let mut scales = [0.0; LANES];
    for i in 0..LANES {
        scales[i] = best.step[i] * back[i];
    }
    let found = stored(spec, &scales);
    let old = params.scales.map(|bits| scale_value(spec.scale(), bits));
    let new_error = error(
        x,
        set,
        &to,
        &found.reciprocals,
        &best.zero_point,
        &found.scales,
        max_code,
    );
    let old_error = error(
        x,
        set,
        &to,
        &params.reciprocals,
        &params.zero_points,
        &old,
        max_code,
    );
    let mut better = [false; LANES];
    for i in 0..LANES {
        better[i] = new_error[i] < old_error[i];
    }
    params.replace(&better, &found, &best.zero_point);
}

/// Brings the elements to their power of two, and turns importances into the weights of
/// squared errors.
#[inline(always)]
fn weigh(x: &[Lanes], to: &Lanes, w: &mut [Lanes], y: &mut [Lanes], wy: &mut [Lanes]) {
    let (mut squares, mut most) = ([0.0; LANES], [0.0; LANES]);
    for ((x, w), y) in x.iter().zip(&*w).zip(&mut *y) {
        for i in 0..LANES {
            y[i] = x[i] * to[i];
            squares[i] += y[i] * y[i];
            most[i] = if w[i] > most[i] { w[i] } else { most[i] };
        }
    }
    let (mut unit, mut mean) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        unit[i] = powers(most[i]).0;
        mean[i] = (squares[i] / x.len() as f32).sqrt();
    }
    for ((w, y), wy) in w.iter_mut().zip(&*y).zip(wy) {
        for i in 0..LANES {
            let importance = if most[i] == 0.0 { 1.0 } else { w[i] * unit[i] };
            w[i] = importance * (mean[i] + y[i].abs());
            wy[i] = w[i] * y[i];
        }
    }
}

impl Best {
    /// Takes the least-squares fit to the codes of steps `1 / r`, where that is better.
    #[inline(always)]
    fn take(&mut self, set: Set<'_>, r: Lanes, zero_point: Lanes, max_code: f32) {
        let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..LANES {
            low[i] = -zero_point[i];
            high[i] = max_code - zero_point[i];
        }
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        for ((y, w), wy) in set.y.iter().zip(set.w).zip(set.wy) {
            for i in 0..LANES {
                let u = nearest(clamp(y[i] * r[i], low[i], high[i]));
                a[i] += wy[i] * u;
                b[i] += w[i] * u * u;
            }
        }
        for i in 0..LANES {
            let step = a[i] * reciprocal(b[i]);
            let gain = a[i] * step;
            let better = gain > self.gain[i];
            self.gain[i] = if better { gain } else { self.gain[i] };
            self.step[i] = if better { step } else { self.step[i] };
            let kept = self.zero_point[i];
            self.zero_point[i] = if better { zero_point[i] } else { kept };
        }
    }
}

/// Weighted squared errors of what the codes stand for.
#[inline(always)]
fn error(
    x: &[Lanes],
    set: Set<'_>,
    to: &Lanes,
    reciprocals: &Lanes,
    zero_points: &Lanes,
    scales: &Lanes,
    max_code: f32,
) -> Lanes {
    let (mut sum, mut step) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        step[i] = scales[i] * to[i];
    }
    for ((x, y), w) in x.iter().zip(set.y).zip(set.w) {
        for i in 0..LANES {
            let code = code(x[i], reciprocals[i], zero_points[i], max_code);
            let off = y[i] - (code - zero_points[i]) * step[i];
            sum[i] += w[i] * off * off;
        }
    }
    sum
}
