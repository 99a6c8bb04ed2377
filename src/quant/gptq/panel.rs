//! Sixteen rows of a weight side by side, column after column: the form in which all is computed.

use super::product::{LANES, Lanes, exponent, power_of_two};
use crate::quant::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::quant::dispatch::dispatch;
use crate::quant::lanes::{Ranges, params, round};
use crate::quant::rtn::{Out, Refused};
use crate::quant::rtn_ref::put;
use crate::quant::scales::store_scales;
use crate::quant::spec::{BlockSpec, ScaleType};

/// Scales and zero points of one block of [`LANES`] rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// In the unit of the row.
    pub(super) scale: Lanes,
    /// Of the scale; 0 where that is infinite.
    pub(super) reciprocal: Lanes,
    pub(super) zero_point: Lanes,
}

impl Grid {
    #[inline(always)]
    pub(super) fn new(scale: Lanes, zero_point: Lanes) -> Self {
        let mut reciprocal = [0.0; LANES];
        for (r, s) in reciprocal.iter_mut().zip(&scale) {
            let inverse = 1.0 / s;
            *r = if inverse.is_finite() { inverse } else { 0.0 };
        }
        Self {
            scale,
            reciprocal,
            zero_point,
        }
    }

    /// The nearest codes, minus their zero points.
    #[inline(always)]
    pub(super) fn steps(&self, x: &Lanes, max_code: f32) -> Lanes {
        let mut steps = [0.0; LANES];
        for l in 0..LANES {
            let code = round(x[l] * self.reciprocal[l] + self.zero_point[l], max_code);
            steps[l] = code.cast_signed() as f32 - self.zero_point[l];
        }
        steps
    }

    /// `x` minus what `steps` decode to.
    #[inline(always)]
    pub(super) fn error(&self, x: &Lanes, steps: &Lanes) -> Lanes {
        let mut error = [0.0; LANES];
        for l in 0..LANES {
            error[l] = x[l] - self.scale[l] * steps[l];
        }
        error
    }

    /// Takes the lanes of `other` that are `chosen`.
    #[inline(always)]
    pub(super) fn take(&mut self, other: &Grid, chosen: &[bool; LANES]) {
        take(&mut self.scale, &other.scale, chosen);
        take(&mut self.reciprocal, &other.reciprocal, chosen);
        take(&mut self.zero_point, &other.zero_point, chosen);
    }
}

#[inline(always)]
fn take(to: &mut Lanes, from: &Lanes, chosen: &[bool; LANES]) {
    for l in 0..LANES {
        to[l] = if chosen[l] { from[l] } else { to[l] };
    }
}

/// The unit of each row, a power of two, and the type that scales are rounded to. In its unit the
/// largest element of a row is from 1 to 2, so that no square leaves `f32`, however large or small the
/// weights are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Units {
    scale: ScaleType,
    exponents: [i32; LANES],
}

impl Units {
    /// The scale in the row's unit, rounded to its type in true units; may be infinite.
    #[inline(always)]
    pub(super) fn round(&self, lane: usize, scale: f32) -> f32 {
        let unit = power_of_two(self.exponents[lane]);
        (f64::from(self.value(self.bits(lane, scale))) / unit) as f32
    }

    /// The scale as it is stored, in the low bits.
    #[inline(always)]
    fn bits(&self, lane: usize, scale: f32) -> u32 {
        let scale = (f64::from(scale) * power_of_two(self.exponents[lane])) as f32;
        match self.scale {
            ScaleType::F32 => scale.to_bits(),
            ScaleType::F16 => f32_to_f16(scale).into(),
            ScaleType::BF16 => f32_to_bf16(scale).into(),
        }
    }

    #[inline(always)]
    fn value(&self, bits: u32) -> f32 {
        match self.scale {
            ScaleType::F32 => f32::from_bits(bits),
            ScaleType::F16 => f16_to_f32(bits as u16),
            ScaleType::BF16 => bf16_to_f32(bits as u16),
        }
    }

    /// What a squared error in the row's unit is multiplied by.
    pub(super) fn square(&self, lane: usize) -> f64 {
        power_of_two(2 * self.exponents[lane])
    }
}

/// Codes and grids of a panel, with the loss of each row.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) grids: Vec<Grid>,
    /// Codes minus zero points, `[k]`.
    pub(super) steps: Vec<Lanes>,
    pub(super) loss: [f64; LANES],
}

impl Choice {
    /// Takes the rows of `other` whose loss is less.
    pub(super) fn improve(&mut self, other: &Choice) {
        let better: [bool; LANES] = core::array::from_fn(|l| other.loss[l] < self.loss[l]);
        if better == [false; LANES] {
            return;
        }
        for (to, from) in self.grids.iter_mut().zip(&other.grids) {
            to.take(from, &better);
        }
        for (to, from) in self.steps.iter_mut().zip(&other.steps) {
            take(to, from, &better);
        }
        for (to, from) in self.loss.iter_mut().zip(&other.loss) {
            *to = to.min(*from);
        }
    }
}

/// Up to [`LANES`] rows of a weight, each in its unit. Lanes without a row are zeros.
pub(super) struct Panel {
    pub(super) rows: usize,
    pub(super) units: Units,
    /// What the codes aim at, `[k]`.
    pub(super) target: Vec<Lanes>,
    /// Target minus decoded codes, `[k]`.
    pub(super) errors: Vec<Lanes>,
    pub(super) now: Choice,
}

impl Panel {
    /// Rows of `k` elements, rounded plainly. The loss is not known yet.
    pub(super) fn round(spec: &BlockSpec, k: usize, weight: &[f32]) -> Result<Self, Refused> {
        dispatch!(round_body(
            spec: &BlockSpec, k: usize, weight: &[f32],
        ) -> Result<Panel, Refused>)
    }

    /// Sets the errors to those of the codes.
    pub(super) fn update_errors(&mut self, spec: &BlockSpec) {
        for (i, error) in self.errors.iter_mut().enumerate() {
            let grid = &self.now.grids[i / spec.block()];
            *error = grid.error(&self.target[i], &self.now.steps[i]);
        }
    }

    /// Writes the rows of `choice`. `out` begins with the panel's first row.
    pub(super) fn store(&self, spec: &BlockSpec, choice: &Choice, out: &mut Out<'_>) {
        let k = self.target.len();
        let blocks = spec.blocks(k);
        for l in 0..self.rows {
            let scales = choice.grids.iter().map(|g| self.units.bits(l, g.scale[l]));
            let at = l * blocks * spec.scale().size();
            store_scales(spec.scale(), scales, &mut out.scales[at..]);
            if !spec.symmetric() {
                let len = spec.zero_points_row(k);
                let row = &mut out.zero_points[l * len..][..len];
                for (block, grid) in choice.grids.iter().enumerate() {
                    spec.put_zero_point(row, block, grid.zero_point[l]);
                }
            }
            let row = &mut out.codes[l * blocks * spec.blob()..][..blocks * spec.blob()];
            for (block, grid) in choice.grids.iter().enumerate() {
                let codes = &mut row[block * spec.blob()..][..spec.blob()];
                for i in 0..spec.block() {
                    // What pads the last block decodes to 0.
                    let steps = choice.steps.get(block * spec.block() + i);
                    let code = steps.map_or(0.0, |s| s[l]) + grid.zero_point[l];
                    put(spec.bits(), codes, i, code as u8);
                }
            }
        }
    }
}

#[inline(always)]
fn round_body(spec: &BlockSpec, k: usize, weight: &[f32]) -> Result<Panel, Refused> {
    let mut target = vec![[0.0; LANES]; k];
    for (l, row) in weight.chunks_exact(k).enumerate() {
        for (x, to) in row.iter().zip(&mut target) {
            to[l] = *x;
        }
    }

    let mut largest = [0.0f32; LANES];
    let mut grids = Vec::with_capacity(spec.blocks(k));
    for block in target.chunks(spec.block()) {
        let mut ranges = Ranges::new();
        for x in block {
            ranges.add(x);
            for l in 0..LANES {
                largest[l] = largest[l].max(x[l].abs());
            }
        }
        let found = params(spec, &ranges, &block[0]);
        if found.refused {
            return Err(Refused);
        }
        grids.push((found.scales, found.zero_points));
    }

    let units = Units {
        scale: spec.scale(),
        exponents: largest.map(exponent),
    };
    let factors = units.exponents.map(|e| power_of_two(-e));
    let normal = |x: Lanes| core::array::from_fn(|l| (f64::from(x[l]) * factors[l]) as f32);
    target.iter_mut().for_each(|x| *x = normal(*x));
    let grids = grids
        .into_iter()
        .map(|(bits, zero_point)| Grid::new(normal(bits.map(|b| units.value(b))), zero_point))
        .collect();
    let mut panel = Panel {
        rows: weight.len() / k,
        units,
        errors: vec![[0.0; LANES]; k],
        now: Choice {
            grids,
            steps: vec![[0.0; LANES]; k],
            loss: [f64::INFINITY; LANES],
        },
        target,
    };
    let max_code = f32::from(spec.max_code());
    for (i, x) in panel.target.iter().enumerate() {
        let grid = &panel.now.grids[i / spec.block()];
        panel.now.steps[i] = grid.steps(x, max_code);
        panel.errors[i] = grid.error(x, &panel.now.steps[i]);
    }
    Ok(panel)
}
