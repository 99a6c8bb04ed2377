//! The definition of round to nearest: one element at a time, nothing clever. Other methods
//! change the scale and the zero point, as `fit_ref` says, and nothing else.
//!
//! For the block `x`, with `M = 2^bits - 1` and `mid = 2^(bits-1)`, all in `f32` and each
//! operation rounded:
//!
//! - symmetric: `m` is the minimum or the maximum, whichever is larger in magnitude, the
//!   minimum if they tie; `s = m / -mid`; `zp = mid`.
//! - asymmetric: the range is widened to contain 0; `s = (max - min) / M`;
//!   `zp = round(0 - min / s)` clamped to `0..=M`, 0 if `s` is 0.
//! - `scale` is `s` rounded to the scale type, to nearest even, and `r = 1 / scale`, or 0
//!   if `scale` is 0.
//! - `code = round(x * r + zp)` clamped to `0..=M`, 0 for NaN. The product is rounded
//!   before the sum (no fused multiply and add). A NaN comes from `0 * inf`, when the
//!   scale is so small that its reciprocal overflows.
//!
//! `round` takes halves away from zero. The elements that pad the last block of a row,
//! where K is not a multiple of the block, have no part in the range and the code `zp`,
//! which decodes to 0. The zero points that pad the last byte of a row are `mid`. Where zero points
//! are floats they are the same numbers, in the type of the scales.
//!
//! Source: `BlockwiseQuantizer` in ONNX Runtime's `q4_dq.cpp`, confirmed to the bit on the
//! library. It does not write the padding codes at all; no runtime reads them.

use half::{bf16, f16};

use super::fit::weight;
use super::fit_ref;
use super::matrix::Matrix;
use super::method::{BlockMethod, Rule};
use super::rtn::{Out, QuantizeError};
use super::spec::{BlockSpec, ScaleType};

/// As [`quantize_rows`](super::quantize_rows), bit for bit: its definition.
///
/// # Errors
///
/// As [`quantize_rows`](super::quantize_rows).
///
/// # Panics
///
/// As [`quantize_rows`](super::quantize_rows).
pub fn quantize_rows_ref(
    spec: &BlockSpec,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    quantize_rows_by_ref(spec, &Rule::default(), x, out)
}

/// As [`quantize_rows_by`](super::quantize_rows_by), bit for bit: its definition.
///
/// # Errors
///
/// As [`quantize_rows_by`](super::quantize_rows_by).
///
/// # Panics
///
/// As [`quantize_rows_by`](super::quantize_rows_by).
pub fn quantize_rows_by_ref(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    quantize(spec, rule, x.rows(), x.cols(), |n, k| x.get(n, k), out)
}

/// As [`quantize_columns`](super::quantize_columns), bit for bit: its definition.
///
/// # Errors
///
/// As [`quantize_columns`](super::quantize_columns).
///
/// # Panics
///
/// As [`quantize_columns`](super::quantize_columns).
pub fn quantize_columns_ref(
    spec: &BlockSpec,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    quantize_columns_by_ref(spec, &Rule::default(), x, out)
}

/// As [`quantize_columns_by`](super::quantize_columns_by), bit for bit: its definition.
///
/// # Errors
///
/// As [`quantize_columns_by`](super::quantize_columns_by).
///
/// # Panics
///
/// As [`quantize_columns_by`](super::quantize_columns_by).
pub fn quantize_columns_by_ref(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    quantize(spec, rule, x.cols(), x.rows(), |n, k| x.get(k, n), out)
}

/// Quantizes the `[n, k]` matrix whose elements `at` gives.
fn quantize(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    n: usize,
    k: usize,
    at: impl Fn(usize, usize) -> f32,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    out.check(spec, n, k);
    rule.check(k);
    let blocks = spec.blocks(k);
    for row in 0..n {
        for block in 0..blocks {
            let begin = block * spec.block();
            let end = (begin + spec.block()).min(k);
            let params = Params::of(spec, row, block, end - begin, |i| at(row, begin + i))?;
            let padded = begin..begin + spec.block();
            let x = |i: usize| if i < end { at(row, i) } else { 0.0 };
            let x: Vec<f32> = padded.clone().map(x).collect();
            let w: Vec<f32> = padded.map(|i| weight(rule, i, end)).collect();
            let params = match rule.method {
                BlockMethod::Rtn => params,
                BlockMethod::Mse => fit_ref::mse(spec, &x, &w, params),
                BlockMethod::Hqq if spec.symmetric() => params,
                BlockMethod::Hqq => fit_ref::hqq(spec, &x, &w, params),
            };

            let scale = (row * blocks + block) * spec.scale().size();
            store_scale(spec.scale(), params.scale, &mut out.scales[scale..]);
            if !spec.symmetric() {
                let zero_points = &mut out.zero_points[row * spec.zero_points_row(k)..];
                if spec.float_zero_points() {
                    let at = block * spec.scale().size();
                    store_scale(spec.scale(), params.zero_point, &mut zero_points[at..]);
                } else {
                    put(spec.bits(), zero_points, block, params.zero_point as u8);
                    // Each later block overwrites one of these.
                    let per_byte = 8 / usize::from(spec.bits());
                    for pad in block + 1..blocks.next_multiple_of(per_byte) {
                        put(spec.bits(), zero_points, pad, spec.mid());
                    }
                }
            }
            let codes = &mut out.codes[(row * blocks + block) * spec.blob()..];
            for i in 0..spec.block() {
                let code = if begin + i < end {
                    params.code(spec, at(row, begin + i))
                } else {
                    pad_code(spec, params.zero_point)
                };
                put(spec.bits(), codes, i, code);
            }
        }
    }
    Ok(())
}

/// The first error, in order of rows of N and then of K; `None` if the matrix can be
/// quantized. `at` gives the elements of the `[n, k]` matrix.
pub(super) fn first_error(
    spec: &BlockSpec,
    n: usize,
    k: usize,
    at: impl Fn(usize, usize) -> f32,
) -> Option<QuantizeError> {
    for row in 0..n {
        for block in 0..spec.blocks(k) {
            let begin = block * spec.block();
            let len = spec.block().min(k - begin);
            if let Err(error) = Params::of(spec, row, block, len, |i| at(row, begin + i)) {
                return Some(error);
            }
        }
    }
    None
}

/// The code of the elements that pad a block.
pub(super) fn pad_code(spec: &BlockSpec, zero_point: f32) -> u8 {
    (zero_point as u8).min(spec.max_code())
}

/// Scale and zero point of one block.
#[derive(Clone, Copy)]
pub(super) struct Params {
    /// Rounded to the scale type.
    pub(super) scale: f32,
    pub(super) zero_point: f32,
}

impl Params {
    fn of(
        spec: &BlockSpec,
        row: usize,
        block: usize,
        len: usize,
        at: impl Fn(usize) -> f32,
    ) -> Result<Self, QuantizeError> {
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        for i in 0..len {
            let x = at(i);
            if !x.is_finite() {
                let col = block * spec.block() + i;
                return Err(QuantizeError::NonFinite { row, col });
            }
            // Not `f32::min`: of +0 and -0 the first has to stay.
            min = if x < min { x } else { min };
            max = if x > max { x } else { max };
        }

        let max_code = f32::from(spec.max_code());
        let (s, zero_point) = if spec.symmetric() {
            let m = if max.abs() > min.abs() { max } else { min };
            (m / -f32::from(spec.mid()), f32::from(spec.mid()))
        } else {
            let (min, max) = (min.min(0.0), max.max(0.0));
            let s = (max - min) / max_code;
            (s, if s == 0.0 { 0.0 } else { 0.0 - min / s })
        };
        let scale = match spec.scale() {
            ScaleType::F32 => s,
            ScaleType::F16 => f16::from_f32(s).to_f32(),
            ScaleType::BF16 => bf16::from_f32(s).to_f32(),
        };
        if !scale.is_finite() {
            return Err(QuantizeError::ScaleOverflow { row, block });
        }
        // The sum makes +0 of -0.
        let zero_point = zero_point.round().clamp(0.0, max_code) + 0.0;
        Ok(Self { scale, zero_point })
    }

    pub(super) fn code(&self, spec: &BlockSpec, x: f32) -> u8 {
        let r = if self.scale == 0.0 {
            0.0
        } else {
            1.0 / self.scale
        };
        let y = (x * r + self.zero_point).round();
        // `as` gives 0 for NaN.
        y.clamp(0.0, f32::from(spec.max_code())) as u8
    }
}

fn store_scale(scale: ScaleType, x: f32, to: &mut [u8]) {
    match scale {
        ScaleType::F32 => to[..4].copy_from_slice(&x.to_le_bytes()),
        ScaleType::F16 => to[..2].copy_from_slice(&f16::from_f32(x).to_le_bytes()),
        ScaleType::BF16 => to[..2].copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
    }
}

/// Sets code `i` of packed codes.
pub(super) fn put(bits: u8, packed: &mut [u8], i: usize, code: u8) {
    let per_byte = 8 / usize::from(bits);
    let shift = i % per_byte * usize::from(bits);
    let mask = (u8::MAX >> (8 - bits)) << shift;
    let byte = &mut packed[i / per_byte];
    *byte = *byte & !mask | code << shift;
}

/// Code `i` of packed codes.
pub(super) fn get(bits: u8, packed: &[u8], i: usize) -> u8 {
    let per_byte = 8 / usize::from(bits);
    let shift = i % per_byte * usize::from(bits);
    packed[i / per_byte] >> shift & (u8::MAX >> (8 - bits))
}
