//! Scales and zero points that are better than those of round to nearest, for [`LANES`] blocks
//! at once: one to a lane, as the kernel for columns has them, so that nothing is computed
//! across lanes.
//!
//! A method starts from the parameters of round to nearest and keeps them in each block where
//! it finds nothing better, by its own measure. Errors are therefore those of round to nearest.

use super::dispatch::dispatch;
use super::lanes::{LANES, Params, Ranges, round};
use super::method::{BlockMethod, Rule};
use super::scales::{scale_bits, scale_value};
use super::spec::BlockSpec;
use super::{hqq, mse};

/// One number for each block.
pub(super) type Lanes = [f32; LANES];

/// The elements of the blocks, by place in the block.
pub(super) type Tile = [Lanes; BlockSpec::MAX_BLOCK];

/// Chooses parameters for one call of a kernel.
pub(super) struct Fitter<'a> {
    rule: Rule<'a>,
    k: usize,
    work: Option<Box<Work>>,
}

/// Tiles that are too large to be cleared for each set of blocks.
pub(super) struct Work {
    /// Elements, where they do not come in lanes.
    x: Tile,
    /// Weights of the errors: 0 for what pads a block.
    pub(super) w: Tile,
    /// For the methods.
    pub(super) y: Tile,
    /// For the methods.
    pub(super) wy: Tile,
}

impl<'a> Fitter<'a> {
    pub(super) fn new(spec: &BlockSpec, rule: Rule<'a>, k: usize) -> Self {
        const ZEROS: Tile = [[0.0; LANES]; BlockSpec::MAX_BLOCK];
        let work = rule.fits(spec.symmetric()).then(|| {
            Box::new(Work {
                x: ZEROS,
                w: ZEROS,
                y: ZEROS,
                wy: ZEROS,
            })
        });
        Self { rule, k, work }
    }

    /// Improves `params` of block `block` of K of [`LANES`] rows of N, whose elements are `x`.
    #[inline(always)]
    pub(super) fn columns(
        &mut self,
        spec: &BlockSpec,
        block: usize,
        x: &[Lanes],
        ranges: &Ranges,
        params: &mut Params,
    ) {
        let Some(work) = &mut self.work else { return };
        let (begin, end) = span(spec, block, self.k);
        for (i, w) in work.w[..spec.block()].iter_mut().enumerate() {
            *w = [weight(&self.rule, begin + i, end); LANES];
        }
        let Work { w, y, wy, .. } = &mut **work;
        fit(spec, self.rule.method, x, (w, y, wy), ranges, params);
    }

    /// Improves `params` of the blocks that lie one after another in `x`, each padded with
    /// zeros, of which the first is `block`, counted through all rows of N.
    #[inline(always)]
    pub(super) fn rows(
        &mut self,
        spec: &BlockSpec,
        block: usize,
        x: &[f32],
        ranges: &Ranges,
        params: &mut Params,
    ) {
        let Some(work) = &mut self.work else { return };
        let blocks = spec.blocks(self.k);
        for lane in 0..LANES {
            let (begin, end) = span(spec, (block + lane) % blocks, self.k);
            let from = x.chunks_exact(spec.block()).nth(lane);
            for i in 0..spec.block() {
                work.x[i][lane] = from.map_or(0.0, |x| x[i]);
                work.w[i][lane] = weight(&self.rule, begin + i, end);
            }
        }
        let Work { x, w, y, wy } = &mut **work;
        fit(spec, self.rule.method, x, (w, y, wy), ranges, params);
    }
}

/// As [`Fitter::columns`] of one block of all K, on the processor at hand or compiled for the bare
/// target.
#[cfg(test)]
pub(super) fn tile(
    spec: &BlockSpec,
    rule: Rule<'_>,
    x: &[Lanes],
    ranges: &Ranges,
    params: &mut Params,
    bare: bool,
) {
    let mut fitter = Fitter::new(spec, rule, spec.block());
    if !bare {
        return fitter.columns(spec, 0, x, ranges, params);
    }
    let Some(work) = &mut fitter.work else { return };
    let Work { w, y, wy, .. } = &mut **work;
    w.fill([1.0; LANES]);
    body(spec, rule.method, x, (w, y, wy), ranges, params);
}

/// The columns of K of a block.
fn span(spec: &BlockSpec, block: usize, k: usize) -> (usize, usize) {
    let begin = block * spec.block();
    (begin, (begin + spec.block()).min(k))
}

/// How much the error in column `at` counts, in a block that ends at `end`.
#[inline(always)]
pub(super) fn weight(rule: &Rule<'_>, at: usize, end: usize) -> f32 {
    match rule.importance.filter(|_| rule.method == BlockMethod::Mse) {
        _ if at >= end => 0.0,
        Some(importance) => clamp(importance[at], 0.0, f32::MAX),
        None => 1.0,
    }
}

/// Work tiles: weights, and two for the method.
type Tiles<'a> = (&'a mut Tile, &'a mut Tile, &'a mut Tile);

fn fit(
    spec: &BlockSpec,
    method: BlockMethod,
    x: &[Lanes],
    tiles: Tiles<'_>,
    ranges: &Ranges,
    params: &mut Params,
) {
    dispatch!(body(
        spec: &BlockSpec, method: BlockMethod, x: &[Lanes], tiles: Tiles<'_>, ranges: &Ranges,
        params: &mut Params,
    ));
}

#[inline(always)]
fn body(
    spec: &BlockSpec,
    method: BlockMethod,
    x: &[Lanes],
    tiles: Tiles<'_>,
    ranges: &Ranges,
    params: &mut Params,
) {
    let block = spec.block();
    let (w, y, wy) = tiles;
    let (x, w) = (&x[..block], &mut w[..block]);
    match method {
        BlockMethod::Rtn => {}
        BlockMethod::Mse => mse::fit(
            spec,
            x,
            w,
            (&mut y[..block], &mut wy[..block]),
            ranges,
            params,
        ),
        BlockMethod::Hqq => hqq::fit(spec, x, w, ranges, params),
    }
}

/// A scale as it is stored, and what follows from it.
pub(super) struct Stored {
    pub(super) bits: [u32; LANES],
    pub(super) scales: Lanes,
    pub(super) reciprocals: Lanes,
}

/// Rounds scales to their type.
#[inline(always)]
pub(super) fn stored(spec: &BlockSpec, scales: &Lanes) -> Stored {
    let mut stored = Stored {
        bits: [0; LANES],
        scales: [0.0; LANES],
        reciprocals: [0.0; LANES],
    };
    for (i, &scale) in scales.iter().enumerate() {
        stored.bits[i] = scale_bits(spec.scale(), scale);
        stored.scales[i] = scale_value(spec.scale(), stored.bits[i]);
        stored.reciprocals[i] = reciprocal(stored.scales[i]);
    }
    stored
}

/// 0 for 0.
#[inline(always)]
pub(super) fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The code of an element, as the kernels compute it.
#[inline(always)]
pub(super) fn code(x: f32, reciprocal: f32, zero_point: f32, max_code: f32) -> f32 {
    round(x * reciprocal + zero_point, max_code).cast_signed() as f32
}

/// `x` between the bounds; the lower one for NaN.
#[inline(always)]
pub(super) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    // Not `f32::clamp`: these are one instruction each.
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// `x` to the nearest integer, halves to even. Magnitude at most 2^22.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    // The sum has no bits left for a fraction.
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    (x + SHIFT) - SHIFT
}

/// The powers of two that bring `x`, positive and finite, to 1..2, and back. Of the smallest and
/// the largest `x` they do so nearly, since a power and its inverse have to be normal numbers.
#[inline(always)]
pub(super) fn powers(x: f32) -> (f32, f32) {
    let exponent = (x.to_bits() >> 23).clamp(1, 253);
    let (to, back) = ((254 - exponent) << 23, exponent << 23);
    (f32::from_bits(to), f32::from_bits(back))
}

/// Weighted squared errors of what the codes stand for, in units `to`; they may be infinite.
#[inline(always)]
pub(super) fn error(
    x: &[Lanes],
    w: &[Lanes],
    to: &Lanes,
    reciprocals: &Lanes,
    zero_points: &Lanes,
    scales: &Lanes,
    max_code: f32,
) -> Lanes {
    let mut sum = [0.0; LANES];
    for (x, w) in x.iter().zip(w) {
        for i in 0..LANES {
            let code = code(x[i], reciprocals[i], zero_points[i], max_code);
            let off = (x[i] - (code - zero_points[i]) * scales[i]) * to[i];
            sum[i] += w[i] * off * off;
        }
    }
    sum
}

/// All bits, or none.
#[inline(always)]
pub(super) fn mask(set: bool) -> u32 {
    if set { u32::MAX } else { 0 }
}

/// Puts the lanes of `from` with a mask into `to`. By bits: what has branches stays scalar.
#[inline(always)]
pub(super) fn select<const N: usize>(masks: &[u32; N], from: &[f32; N], to: &mut [f32; N]) {
    for i in 0..N {
        let bits = from[i].to_bits() & masks[i] | to[i].to_bits() & !masks[i];
        to[i] = f32::from_bits(bits);
    }
}

impl Params {
    /// Puts what was found in the place of what is there, in the lanes with a mask.
    #[inline(always)]
    pub(super) fn replace(&mut self, masks: &[u32; LANES], found: &Stored, zero_points: &Lanes) {
        let bits = self.scales.iter_mut().zip(&found.bits);
        for ((scale, found), mask) in bits.zip(masks) {
            *scale = found & mask | *scale & !mask;
        }
        select(masks, &found.reciprocals, &mut self.reciprocals);
        select(masks, zero_points, &mut self.zero_points);
    }
}
