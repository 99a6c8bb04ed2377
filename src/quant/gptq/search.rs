//! Scales and zero points of one block, of sixteen rows at once, by search.

use super::objective::Objective;
use super::panel::{Grid, Panel, Units};
use super::product::{LANES, Lanes};
use crate::quant::dispatch::dispatch;
use crate::quant::spec::BlockSpec;

/// Extremes that are tried, as shares of the real ones: above 1 the codes at the end stay free, below
/// it the largest elements are clipped. Few bits clip more; for 2 bits 0.5 is best at times, for 8
/// bits 0.9 never is.
const SHARES: usize = 16;

/// Sets the grids of a panel by search, the error of each column weighted by `weight` of the mean
/// square of its activations. They are at least as good as those of the panel.
pub(super) fn search_grids(
    objective: &Objective,
    spec: &BlockSpec,
    weight: fn(f32) -> f32,
    panel: &mut Panel,
) {
    dispatch!(search_grids_body(
        objective: &Objective, spec: &BlockSpec, weight: fn(f32) -> f32, panel: &mut Panel,
    ));
}

#[inline(always)]
fn search_grids_body(
    objective: &Objective,
    spec: &BlockSpec,
    weight: fn(f32) -> f32,
    panel: &mut Panel,
) {
    let mut importance = [0.0; BlockSpec::MAX_BLOCK];
    for (g, grid) in panel.now.grids.iter_mut().enumerate() {
        let begin = g * spec.block();
        let end = objective.k.min(begin + spec.block());
        for (i, w) in (begin..end).zip(&mut importance) {
            *w = weight(objective.diagonal(i));
        }
        let block = &panel.target[begin..end];
        *grid = search(spec, &panel.units, block, &importance, grid);
    }
}

/// Chooses the grid of least squared error for the `block` of a panel, each element's square weighted
/// by its `importance`; never worse than `base`.
///
/// For each candidate the codes are found, then the scale that suits them best: with `a` the sum of
/// `w d^2` and `b` that of `w d x`, where `d` are codes minus zero point, that is `b / a`, and it
/// lowers the error from the sum of `w x^2` by `b^2 / a`. The candidate with the largest such number
/// is compared with `base` after its scale is rounded to its type.
#[inline(always)]
pub(super) fn search(
    spec: &BlockSpec,
    units: &Units,
    block: &[Lanes],
    importance: &[f32],
    base: &Grid,
) -> Grid {
    let mut best = Best {
        gain: [0.0; LANES],
        grid: *base,
    };
    let range = Extremes::of(block);
    for i in 0..SHARES {
        let share = share(spec.bits(), i);
        if spec.symmetric() {
            let mid = f32::from(spec.mid());
            for end in [-mid, mid] {
                best.attempt(
                    spec,
                    block,
                    importance,
                    &range.magnitude.map(|x| x * share / end),
                    &base.zero_point,
                );
            }
        } else {
            let max_code = f32::from(spec.max_code());
            let mut scale = [0.0; LANES];
            let mut center = [0.0; LANES];
            for l in 0..LANES {
                scale[l] = (range.max[l] - range.min[l]) * share / max_code;
                // The middle of the range is the middle of the codes.
                let middle = (range.max[l] + range.min[l]) * 0.5;
                center[l] = (max_code * 0.5 - middle / scale[l]).round();
            }
            for shift in [0.0, -1.0, 1.0] {
                // NaN, of a block of zeros, becomes 0.
                let zero_point = center.map(|z| (z + shift).max(0.0).min(max_code));
                best.attempt(spec, block, importance, &scale, &zero_point);
            }
        }
    }
    best.finish(spec, units, block, importance, base)
}

/// Share `i` of the extremes.
fn share(bits: u8, i: usize) -> f32 {
    let (first, last) = match bits {
        2 => (1.5, 0.45),
        4 => (1.1, 0.65),
        _ => (1.01, 0.9),
    };
    first + (last - first) * i as f32 / (SHARES - 1) as f32
}

/// Extremes of a block; the range contains 0.
struct Extremes {
    min: Lanes,
    max: Lanes,
    /// The larger one in magnitude, with its sign.
    magnitude: Lanes,
}

impl Extremes {
    #[inline(always)]
    fn of(block: &[Lanes]) -> Self {
        let (mut min, mut max) = ([0.0f32; LANES], [0.0f32; LANES]);
        for x in block {
            for l in 0..LANES {
                min[l] = min[l].min(x[l]);
                max[l] = max[l].max(x[l]);
            }
        }
        let magnitude = core::array::from_fn(|l| if max[l] > -min[l] { max[l] } else { min[l] });
        Self {
            min,
            max,
            magnitude,
        }
    }
}

/// The best candidate so far.
struct Best {
    gain: Lanes,
    grid: Grid,
}

impl Best {
    #[inline(always)]
    fn attempt(
        &mut self,
        spec: &BlockSpec,
        block: &[Lanes],
        importance: &[f32],
        scale: &Lanes,
        zero_point: &Lanes,
    ) {
        let max_code = f32::from(spec.max_code());
        let grid = Grid::new(*scale, *zero_point);
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        for (x, w) in block.iter().zip(importance) {
            let steps = grid.steps(x, max_code);
            for l in 0..LANES {
                let weighted = w * steps[l];
                a[l] += weighted * steps[l];
                b[l] += weighted * x[l];
            }
        }
        for l in 0..LANES {
            let gain = b[l] * b[l] / a[l];
            // Not if NaN.
            let better = gain > self.gain[l];
            self.gain[l] = if better { gain } else { self.gain[l] };
            let fitted = b[l] / a[l];
            self.grid.scale[l] = if better { fitted } else { self.grid.scale[l] };
            let zero = &mut self.grid.zero_point[l];
            *zero = if better { zero_point[l] } else { *zero };
        }
    }

    /// The candidate with its scale rounded, where it is better than `base`.
    #[inline(always)]
    fn finish(
        self,
        spec: &BlockSpec,
        units: &Units,
        block: &[Lanes],
        importance: &[f32],
        base: &Grid,
    ) -> Grid {
        let scale = core::array::from_fn(|l| units.round(l, self.grid.scale[l]));
        let found = Grid::new(scale, self.grid.zero_point);
        let new = squares(spec, block, importance, &found);
        let old = squares(spec, block, importance, base);
        // Not where the scale became infinite: the error is NaN or infinite then.
        let better: [bool; LANES] = core::array::from_fn(|l| new[l] < old[l]);
        let mut grid = *base;
        grid.take(&found, &better);
        grid
    }
}

/// Weighted squared error of the nearest codes.
#[inline(always)]
fn squares(spec: &BlockSpec, block: &[Lanes], importance: &[f32], grid: &Grid) -> Lanes {
    let max_code = f32::from(spec.max_code());
    let mut sum = [0.0; LANES];
    for (x, w) in block.iter().zip(importance) {
        let error = grid.error(x, &grid.steps(x, max_code));
        for l in 0..LANES {
            sum[l] += w * error[l] * error[l];
        }
    }
    sum
}
