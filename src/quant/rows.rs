//! Blocks that run along the rows of an `[n, k]` matrix.
//!
//! Here the elements of a block are neighbours. Ranges are reduced across lanes, a block
//! at a time; scales and zero points are computed for [`LANES`] blocks at once, as for
//! columns.

use super::dispatch::dispatch;
use super::fit::Fitter;
use super::lanes::{LANES, Ranges, params, round};
use super::matrix::Load;
use super::method::Rule;
use super::rtn::{Out, Refused};
use super::rtn_ref::{pad_code, put};
use super::scales::store_scales;
use super::spec::BlockSpec;

/// Elements of the largest set of [`LANES`] blocks: 16 KiB of `f32`, which stay in L1.
const SET: usize = LANES * BlockSpec::MAX_BLOCK;

/// Quantizes. `stride` is the distance of rows of `x`.
pub(super) fn quantize<S: Load>(
    spec: &BlockSpec,
    rule: Rule<'_>,
    x: S,
    n: usize,
    k: usize,
    stride: usize,
    out: Out<'_>,
) -> Result<(), Refused> {
    dispatch!(body[S: Load](
        spec: &BlockSpec, rule: Rule<'_>, x: S, n: usize, k: usize, stride: usize, out: Out<'_>,
    ) -> Result<(), Refused>)
}

#[inline(always)]
pub(super) fn body<S: Load>(
    spec: &BlockSpec,
    rule: Rule<'_>,
    x: S,
    n: usize,
    k: usize,
    stride: usize,
    out: Out<'_>,
) -> Result<(), Refused> {
    let blocks = spec.blocks(k);
    let zero_points_row = spec.zero_points_row(k);
    // Rows of whole blocks, one after another, are one long row: a short row would leave
    // lanes empty. Only the zero points, padded by row, have to know.
    let joined = k.is_multiple_of(spec.block()) && stride == k;
    let (runs, run_blocks, run_k) = if joined {
        (1, n * blocks, n * k)
    } else {
        (n, blocks, k)
    };
    let mut buffer = [0.0; SET];
    let mut fitter = Fitter::new(spec, rule, k);

    for run in 0..runs {
        for first in (0..run_blocks).step_by(LANES) {
            let here = (run_blocks - first).min(LANES);
            let begin = first * spec.block();
            let len = (run_k - begin).min(here * spec.block());
            let buffer = &mut buffer[..here * spec.block()];
            load(x, run * stride + begin, len, buffer);

            // The zeros that pad the last block do not change what `params` makes of a
            // range, which it widens to contain 0.
            let ranges = Ranges::of_blocks(buffer, spec.block());
            let mut heads = [0.0; LANES];
            for (head, block) in heads.iter_mut().zip(buffer.chunks_exact(spec.block())) {
                *head = block[0];
            }
            let mut params = params(spec, &ranges, &heads);
            if params.refused {
                return Err(Refused);
            }

            let block = run * run_blocks + first;
            fitter.rows(spec, block, buffer, &ranges, &mut params);
            store_scales(
                spec.scale(),
                params.scales[..here].iter().copied(),
                &mut out.scales[block * spec.scale().size()..],
            );
            if !spec.symmetric() {
                for (i, &zero_point) in params.zero_points[..here].iter().enumerate() {
                    let (row, b) = ((block + i) / blocks, (block + i) % blocks);
                    let row = &mut out.zero_points[row * zero_points_row..][..zero_points_row];
                    spec.put_zero_point(row, b, zero_point);
                }
            }
            let valid = len - (here - 1) * spec.block();
            let to = &mut out.codes[block * spec.blob()..][..here * spec.blob()];
            for (i, (x, to)) in buffer
                .chunks_exact(spec.block())
                .zip(to.chunks_exact_mut(spec.blob()))
                .enumerate()
            {
                let (r, zero_point) = (params.reciprocals[i], params.zero_points[i]);
                match spec.bits() {
                    2 => codes::<2, 4>(x, r, zero_point, to),
                    4 => codes::<4, 8>(x, r, zero_point, to),
                    _ => codes::<8, 16>(x, r, zero_point, to),
                }
                if i + 1 == here && valid < spec.block() {
                    for pad in valid..spec.block() {
                        put(spec.bits(), to, pad, pad_code(spec, zero_point));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Reads `len` elements, then zeros.
#[inline(always)]
fn load<S: Load>(x: S, at: usize, len: usize, to: &mut [f32]) {
    let (whole, rest) = (len / LANES, len % LANES);
    let (to, _) = to.as_chunks_mut();
    for (i, to) in to[..whole].iter_mut().enumerate() {
        *to = x.lanes(at + i * LANES);
    }
    if rest != 0 {
        to[whole] = x.head(at + whole * LANES, rest);
    }
    to[len.div_ceil(LANES)..].fill([0.0; LANES]);
}

/// Codes of a block, in pieces of fixed length: 16 elements, `BYTES` bytes. The length of a
/// block is known only at run time, and a short loop of unknown length stays scalar.
#[inline(always)]
fn codes<const BITS: usize, const BYTES: usize>(x: &[f32], r: f32, zero_point: f32, to: &mut [u8]) {
    let max_code = ((1 << BITS) - 1) as f32;
    for (x, to) in x
        .as_chunks::<16>()
        .0
        .iter()
        .zip(to.as_chunks_mut::<BYTES>().0)
    {
        let mut codes = [0; 16];
        for i in 0..16 {
            codes[i] = round(x[i] * r + zero_point, max_code) as u8;
        }
        for (i, to) in to.iter_mut().enumerate() {
            *to = 0;
            for j in 0..8 / BITS {
                *to |= codes[8 / BITS * i + j] << (BITS * j);
            }
        }
    }
}
