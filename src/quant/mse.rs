//! Scale search, in lanes. Defined by [`fit_ref::mse`](super::fit_ref).

use super::fit::{Lanes, clamp, error, mask, nearest, powers, reciprocal, select, stored};
use super::lanes::{LANES, Params, Ranges};
use super::scales::scale_value;
use super::spec::BlockSpec;

/// Lanes that are searched together: as many as one AVX2 register has.
const HALF: usize = LANES / 2;

/// One number for each of these.
type Half = [f32; HALF];

/// The elements in units of the block's power of two, their weights, and the products.
#[derive(Clone, Copy)]
struct Set<'a> {
    y: &'a [Lanes],
    w: &'a [Lanes],
    wy: &'a [Lanes],
}

const PAIRS: usize = 6;

/// Candidates of a grid, in pairs: those are tried together.
pub(super) type Grid = [[f32; 2]; PAIRS];

/// Times that the codes of the best candidate are refitted.
pub(super) const fn refits(bits: u8) -> usize {
    // Two bits have so few codes that candidates lie far from the best.
    if bits == 2 { 3 } else { 1 }
}

/// What the widest element of a symmetric block is in codes, without the zero point: at the longer
/// side and at the shorter one.
pub(super) const fn symmetric_grid(bits: u8) -> &'static Grid {
    const fn grid(from: f32, to: f32, mid: f32, less: f32) -> Grid {
        let mut grid = [[0.0; 2]; PAIRS];
        let mut i = 0;
        while i < PAIRS {
            let d = (from + (to - from) * (i as f32 / (PAIRS - 1) as f32)) * mid;
            grid[i] = [-d, d - less];
            i += 1;
        }
        grid
    }
    // Few bits clip much. Finer or wider grids lower the error by less than a thousandth.
    match bits {
        2 => const { &grid(0.4, 1.15, 2.0, 0.6) },
        4 => const { &grid(0.85, 1.1, 8.0, 0.8) },
        _ => const { &grid(0.97, 1.02, 128.0, 1.0) },
    }
}

/// The number of steps that the range of an asymmetric block takes.
pub(super) const fn asymmetric_grid(bits: u8) -> &'static Grid {
    const fn grid(from: f32, to: f32, steps: f32) -> Grid {
        let mut grid = [[0.0; 2]; PAIRS];
        let mut i = 0;
        while i < 2 * PAIRS {
            let part = i as f32 / (2 * PAIRS - 1) as f32;
            grid[i / 2][i % 2] = (from + (to - from) * part) * steps;
            i += 1;
        }
        grid
    }
    match bits {
        2 => const { &grid(0.7, 2.2, 3.0) },
        4 => const { &grid(0.85, 1.2, 15.0) },
        _ => const { &grid(0.96, 1.04, 255.0) },
    }
}

/// What a step that is wider than the range needs is charged, by the excess of its square and a weight of 1; only in
/// blocks of 32 and more with zero points.
///
/// A wider step is chosen for how it happens to meet the large elements of the block, and errs more on the small
/// ones: by its square / 12, which is the mean over a cell. Channels with large activations often have small
/// weights, so that this costs more than the block's own error tells: without the charge the decoder of whisper-base
/// ends 9 % farther from the float model than by plain rounding, with it as far (blocks of 32, several alignments). In
/// blocks of 16 it gains nothing there, and elsewhere 1 to 3 % are lost.
pub(super) const fn widening(symmetric: bool, block: usize) -> f32 {
    if symmetric || block < 32 {
        0.0
    } else {
        1.0 / 12.0
    }
}

/// What was found in each block.
struct Found {
    /// Scale in units of the block's power of two.
    step: Lanes,
    zero_point: Lanes,
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
    let max_code = f32::from(spec.max_code());
    let mut found = Found {
        step: [0.0; LANES],
        zero_point: params.zero_points,
    };
    for from in [0, HALF] {
        let half = |x: &Lanes| *x[from..].first_chunk::<HALF>().expect("half the lanes");
        let mut search = Search::new(set, from, half(&params.zero_points), max_code);
        let (low, high, to) = (half(&low), half(&high), half(&to));
        match spec.symmetric() {
            true => search.symmetric(spec.bits(), low, high, to),
            false => search.asymmetric(spec, low, high, to),
        }
        for _ in 0..refits(spec.bits()) {
            let mut r = search.step;
            r.iter_mut().for_each(|r| *r = reciprocal(*r));
            search.take([r], [search.zero_point]);
        }
        found.step[from..from + HALF].copy_from_slice(&search.step);
        found.zero_point[from..from + HALF].copy_from_slice(&search.zero_point);
    }
    let mut scales = [0.0; LANES];
    for i in 0..LANES {
        scales[i] = found.step[i] * back[i];
    }
    let zero_points = found.zero_point;
    let found = stored(spec, &scales);
    let old = params.scales.map(|bits| scale_value(spec.scale(), bits));
    let new_error = error(
        x,
        w,
        &to,
        &found.reciprocals,
        &zero_points,
        &found.scales,
        max_code,
    );
    let old_error = error(
        x,
        w,
        &to,
        &params.reciprocals,
        &params.zero_points,
        &old,
        max_code,
    );
    let mut better = [0; LANES];
    for i in 0..LANES {
        better[i] = mask(new_error[i] < old_error[i]);
    }
    params.replace(&better, &found, &zero_points);
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

/// Every product. Not by `array::map`, which may stay a call of its own.
#[inline(always)]
fn times(a: &[f32; 2], b: &Half) -> [Half; 2] {
    let mut products = [[0.0; HALF]; 2];
    for (a, products) in a.iter().zip(&mut products) {
        for i in 0..HALF {
            products[i] = a * b[i];
        }
    }
    products
}

/// The search in half the lanes, and the best so far.
struct Search<'a> {
    set: Set<'a>,
    /// The first lane.
    from: usize,
    max_code: f32,
    /// The step of the range, in the same units as the others.
    plain: Half,
    /// What the square of a wider one costs.
    charge: Half,
    /// By how much less than that of zeros the error is, the charge taken off.
    gain: Half,
    /// Scale in units of the block's power of two.
    step: Half,
    zero_point: Half,
}

impl<'a> Search<'a> {
    #[inline(always)]
    fn new(set: Set<'a>, from: usize, zero_point: Half, max_code: f32) -> Self {
        Self {
            set,
            from,
            max_code,
            plain: [0.0; HALF],
            charge: [0.0; HALF],
            gain: [0.0; HALF],
            step: [0.0; HALF],
            zero_point,
        }
    }

    #[inline(always)]
    fn symmetric(&mut self, bits: u8, low: Half, high: Half, to: Half) {
        let mut inverse = [0.0; HALF];
        for i in 0..HALF {
            let widest = if high[i] > -low[i] { high[i] } else { low[i] };
            inverse[i] = reciprocal(widest * to[i]);
        }
        let zero_points = [self.zero_point; 2];
        for pair in symmetric_grid(bits) {
            self.take(times(pair, &inverse), zero_points);
        }
    }

    #[inline(always)]
    fn asymmetric(&mut self, spec: &BlockSpec, low: Half, high: Half, to: Half) {
        let (mut inverse, mut start) = ([0.0; HALF], [0.0; HALF]);
        for i in 0..HALF {
            start[i] = low[i] * to[i];
            inverse[i] = reciprocal(high[i] * to[i] - start[i]);
            self.plain[i] = (high[i] * to[i] - start[i]) * (1.0 / self.max_code);
        }
        let rate = widening(spec.symmetric(), spec.block());
        for w in self.set.w {
            for i in 0..HALF {
                self.charge[i] += w[self.from + i];
            }
        }
        self.charge.iter_mut().for_each(|sum| *sum *= rate);
        for pair in asymmetric_grid(spec.bits()) {
            let r = times(pair, &inverse);
            let mut zero_points = [[0.0; HALF]; 2];
            for (c, zero_points) in zero_points.iter_mut().enumerate() {
                let beyond = (pair[c] - self.max_code) * 0.5;
                for i in 0..HALF {
                    let z = -(start[i] * r[c][i]) - beyond;
                    zero_points[i] = nearest(clamp(z, 0.0, self.max_code));
                }
            }
            self.take(r, zero_points);
        }
    }

    /// Takes the least-squares fits to the codes of steps `1 / r`, where they are better.
    #[inline(always)]
    fn take<const N: usize>(&mut self, r: [Half; N], zero_points: [Half; N]) {
        let (mut low, mut high) = ([[0.0; HALF]; N], [[0.0; HALF]; N]);
        for c in 0..N {
            for i in 0..HALF {
                low[c][i] = -zero_points[c][i];
                high[c][i] = self.max_code - zero_points[c][i];
            }
        }
        let (mut a, mut b) = ([[0.0; HALF]; N], [[0.0; HALF]; N]);
        let half = |x: &Lanes| {
            *x[self.from..]
                .first_chunk::<HALF>()
                .expect("half the lanes")
        };
        for ((y, w), wy) in self.set.y.iter().zip(self.set.w).zip(self.set.wy) {
            let (y, w, wy) = (half(y), half(w), half(wy));
            for c in 0..N {
                for i in 0..HALF {
                    let u = nearest(clamp(y[i] * r[c][i], low[c][i], high[c][i]));
                    a[c][i] += wy[i] * u;
                    b[c][i] += w[i] * u * u;
                }
            }
        }
        for c in 0..N {
            self.compare(a[c], b[c], zero_points[c]);
        }
    }

    /// Takes what the sums `a` of w u y and `b` of w u^2 say, where it is better.
    #[inline(always)]
    fn compare(&mut self, a: Half, b: Half, zero_point: Half) {
        let (mut step, mut gain, mut better) = ([0.0; HALF], [0.0; HALF], [0; HALF]);
        for i in 0..HALF {
            // Codes that are all 0 have sums that are 0.
            step[i] = a[i] / if b[i] == 0.0 { 1.0 } else { b[i] };
            let wider = step[i] * step[i] - self.plain[i] * self.plain[i];
            let wider = if wider > 0.0 { wider } else { 0.0 };
            gain[i] = a[i] * step[i] - self.charge[i] * wider;
            better[i] = mask(gain[i] > self.gain[i]);
        }
        select(&better, &gain, &mut self.gain);
        select(&better, &step, &mut self.step);
        select(&better, &zero_point, &mut self.zero_point);
    }
}
