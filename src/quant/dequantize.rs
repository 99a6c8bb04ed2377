//! Codes back to `f32`.

use super::dispatch::dispatch;
use super::rtn_ref::get;
use super::scales::read_scale;
use super::spec::BlockSpec;

/// Decodes an `[n, k]` matrix: `out[i, j] = (code - zero point) * scale`, in `f32`, where
/// a symmetric specification has the zero point [`BlockSpec::mid`]. The buffers are as
/// [`Out`](super::Out) describes; `out` is row-major `[n, k]`.
///
/// # Panics
///
/// If a buffer has not the length that `spec` gives for `[n, k]`, or `out` not `n * k`.
pub fn dequantize_rows(
    spec: &BlockSpec,
    n: usize,
    k: usize,
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    out: &mut [f32],
) {
    check(spec, n, k, codes, scales, zero_points, out);
    dispatch!(body(
        spec: &BlockSpec, n: usize, k: usize,
        codes: &[u8], scales: &[u8], zero_points: &[u8], out: &mut [f32],
    ));
}

/// As [`dequantize_rows`], bit for bit: its definition.
///
/// # Panics
///
/// As [`dequantize_rows`].
pub fn dequantize_rows_ref(
    spec: &BlockSpec,
    n: usize,
    k: usize,
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    out: &mut [f32],
) {
    check(spec, n, k, codes, scales, zero_points, out);
    let blocks = spec.blocks(k);
    for row in 0..n {
        for col in 0..k {
            let block = row * blocks + col / spec.block();
            let scale = read_scale(spec.scale(), &scales[block * spec.scale().size()..]);
            let codes = &codes[block * spec.blob()..];
            let code = get(spec.bits(), codes, col % spec.block());
            let row_len = spec.zero_points_row(k);
            let zero_point = zero_point(spec, &zero_points[row * row_len..], col / spec.block());
            out[row * k + col] = (f32::from(code) - zero_point) * scale;
        }
    }
}

/// The zero point of a block of the row whose zero points are `row`.
#[inline(always)]
fn zero_point(spec: &BlockSpec, row: &[u8], block: usize) -> f32 {
    if spec.symmetric() {
        spec.mid().into()
    } else if spec.float_zero_points() {
        read_scale(spec.scale(), &row[block * spec.scale().size()..])
    } else {
        get(spec.bits(), row, block).into()
    }
}

fn check(
    spec: &BlockSpec,
    n: usize,
    k: usize,
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    out: &[f32],
) {
    assert_eq!(codes.len(), spec.codes_len(n, k), "codes of [{n}, {k}]");
    assert_eq!(scales.len(), spec.scales_len(n, k), "scales of [{n}, {k}]");
    let len = spec.zero_points_len(n, k);
    assert_eq!(zero_points.len(), len, "zero points of [{n}, {k}]");
    assert_eq!(out.len(), n * k, "elements of [{n}, {k}]");
}

#[inline(always)]
fn body(
    spec: &BlockSpec,
    n: usize,
    k: usize,
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    out: &mut [f32],
) {
    if k == 0 {
        return;
    }
    let blocks = spec.blocks(k);
    let row_len = spec.zero_points_row(k);
    let mut values = [0.0; BlockSpec::MAX_BLOCK];
    let values = &mut values[..spec.block()];
    for (row, out) in out.chunks_exact_mut(k).take(n).enumerate() {
        for (b, out) in out.chunks_mut(spec.block()).enumerate() {
            let block = row * blocks + b;
            let scale = read_scale(spec.scale(), &scales[block * spec.scale().size()..]);
            let zero_point = zero_point(spec, &zero_points[row * row_len..], b);
            let codes = &codes[block * spec.blob()..][..spec.blob()];
            match spec.bits() {
                2 => decode::<2, 4>(codes, zero_point, scale, values),
                4 => decode::<4, 2>(codes, zero_point, scale, values),
                _ => decode::<8, 1>(codes, zero_point, scale, values),
            }
            out.copy_from_slice(&values[..out.len()]);
        }
    }
}

#[inline(always)]
fn decode<const BITS: u32, const PER_BYTE: usize>(
    codes: &[u8],
    zero_point: f32,
    scale: f32,
    out: &mut [f32],
) {
    for (&byte, out) in codes.iter().zip(out.as_chunks_mut::<PER_BYTE>().0) {
        for (i, out) in out.iter_mut().enumerate() {
            let code = i32::from(byte) >> (i as u32 * BITS) & ((1 << BITS) - 1);
            *out = (code as f32 - zero_point) * scale;
        }
    }
}
