//! Blocks that run down the columns of a `[k, n]` matrix.
//!
//! Sixteen neighbouring columns are sixteen lanes, so nothing is computed across lanes,
//! and the codes of one column gather in its lane, as a `u32` of consecutive k. Only these
//! words, an eighth of the elements for 4 bits, have to be transposed to `[n, blob]`.

use super::dispatch::dispatch;
use super::fit::Fitter;
use super::lanes::{LANES, Params, Ranges, params, round};
use super::matrix::Load;
use super::method::Rule;
use super::rtn::{Out, Refused};
use super::rtn_ref::pad_code;
use super::scales::store_scales;
use super::spec::BlockSpec;

/// Strips of [`LANES`] columns that are walked side by side: 256 columns. Fewer, and the
/// rows are read in pieces too short for the prefetcher; more, and [`Stage`] leaves L2.
const STRIPS: usize = 16;

/// Words of codes per column that are staged before they are written. 32 words are two
/// cache lines: the outputs of neighbouring columns lie far apart, often by a power of
/// two, and lines that are written in parts would evict each other.
const GROUP: usize = 32;

/// Words of the longest block: 256 elements of 8 bits.
const MAX_WORDS: usize = 64;

/// Blocks of the longest group: 16 elements of 2 bits are one word.
const MAX_BLOCKS: usize = GROUP;

/// Results of a group of blocks of one strip, by lane.
#[derive(Clone, Copy)]
struct Stage {
    codes: [[u32; LANES]; MAX_WORDS],
    scales: [[u32; LANES]; MAX_BLOCKS],
    zero_points: [[f32; LANES]; MAX_BLOCKS],
}

type Tile = [[f32; LANES]; BlockSpec::MAX_BLOCK];

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
    let words = spec.blob() / 4;
    let group = (GROUP / words).max(1);
    let mut tile: Tile = [[0.0; LANES]; BlockSpec::MAX_BLOCK];
    let mut stages = [Stage {
        codes: [[0; LANES]; MAX_WORDS],
        scales: [[0; LANES]; MAX_BLOCKS],
        zero_points: [[0.0; LANES]; MAX_BLOCKS],
    }; STRIPS];
    let mut out = out;
    let mut fitter = Fitter::new(spec, rule, k);

    for panel in (0..n).step_by(STRIPS * LANES) {
        let cols = (n - panel).min(STRIPS * LANES);
        let strips = cols.div_ceil(LANES);
        for first in (0..blocks).step_by(group) {
            let here = (blocks - first).min(group);
            for b in 0..here {
                let row = (first + b) * spec.block();
                let rows = (k - row).min(spec.block());
                for (s, stage) in stages[..strips].iter_mut().enumerate() {
                    let col = panel + s * LANES;
                    let tile = &mut tile[..spec.block()];
                    let ranges = load(x, row * stride + col, stride, n - col, rows, tile);
                    let mut params = params(spec, &ranges, &tile[0]);
                    if params.refused {
                        return Err(Refused);
                    }
                    fitter.columns(spec, first + b, tile, &ranges, &mut params);
                    let to = &mut stage.codes[b * words..][..words];
                    match spec.bits() {
                        2 => codes::<2>(tile, &params, to),
                        4 => codes::<4>(tile, &params, to),
                        _ => codes::<8>(tile, &params, to),
                    }
                    if rows < spec.block() {
                        pad(spec, rows, &params, to);
                    }
                    stage.scales[b] = params.scales;
                    stage.zero_points[b] = params.zero_points;
                }
            }
            for (s, stage) in stages[..strips].iter().enumerate() {
                for lane in 0..LANES.min(cols - s * LANES) {
                    let col = panel + s * LANES + lane;
                    write(spec, stage, lane, col, first, here, blocks, &mut out);
                }
            }
        }
    }
    Ok(())
}

/// Reads `rows` rows of [`LANES`] columns from element `at` into `tile`, zeros below, and
/// gives their ranges.
///
/// The copy is what the codes are then computed from: rows that lie a power of two apart
/// share the sets of L1, so a second read would miss, and a 16-bit source is converted
/// once.
#[inline(always)]
fn load<S: Load>(
    x: S,
    at: usize,
    stride: usize,
    cols: usize,
    rows: usize,
    tile: &mut [[f32; LANES]],
) -> Ranges {
    let mut ranges = Ranges::new();
    if cols >= LANES {
        for (i, lanes) in tile[..rows].iter_mut().enumerate() {
            *lanes = x.lanes(at + i * stride);
            ranges.add(lanes);
        }
    } else {
        for (i, lanes) in tile[..rows].iter_mut().enumerate() {
            *lanes = x.head(at + i * stride, cols);
            ranges.add(lanes);
        }
    }
    tile[rows..].fill([0.0; LANES]);
    ranges
}

/// Codes of a block, `32 / BITS` rows to the word.
#[inline(always)]
fn codes<const BITS: usize>(tile: &[[f32; LANES]], params: &Params, to: &mut [[u32; LANES]]) {
    let max_code = ((1 << BITS) - 1) as f32;
    for (rows, to) in tile.chunks_exact(32 / BITS).zip(to) {
        let mut word = [0; LANES];
        for (j, x) in rows.iter().enumerate() {
            for i in 0..LANES {
                let y = x[i] * params.reciprocals[i] + params.zero_points[i];
                word[i] |= round(y, max_code) << (j * BITS);
            }
        }
        *to = word;
    }
}

/// Sets the codes below row `rows` to the zero point.
#[cold]
fn pad(spec: &BlockSpec, rows: usize, params: &Params, words: &mut [[u32; LANES]]) {
    let bits = usize::from(spec.bits());
    let per_word = 32 / bits;
    for row in rows..spec.block() {
        let shift = row % per_word * bits;
        let word = &mut words[row / per_word];
        for (word, &zero_point) in word.iter_mut().zip(&params.zero_points) {
            *word &= !(u32::from(spec.max_code()) << shift);
            *word |= u32::from(pad_code(spec, zero_point)) << shift;
        }
    }
}

/// Writes a lane's blocks `first..first + here`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a piece of `body`, for reading")]
fn write(
    spec: &BlockSpec,
    stage: &Stage,
    lane: usize,
    col: usize,
    first: usize,
    here: usize,
    blocks: usize,
    out: &mut Out<'_>,
) {
    let block = col * blocks + first;
    let codes = &mut out.codes[block * spec.blob()..][..here * spec.blob()];
    for (to, word) in codes.chunks_exact_mut(4).zip(&stage.codes) {
        to.copy_from_slice(&word[lane].to_le_bytes());
    }
    let scales = stage.scales[..here].iter().map(|scales| scales[lane]);
    store_scales(
        spec.scale(),
        scales,
        &mut out.scales[block * spec.scale().size()..],
    );
    if !spec.symmetric() {
        let row = spec.zero_points_row(blocks * spec.block());
        let zero_points = &mut out.zero_points[col * row..][..row];
        for b in 0..here {
            spec.put_zero_point(zero_points, first + b, stage.zero_points[b][lane]);
        }
    }
}
