//! Sums of outer products over the tokens of a calibration.
//!
//! Tokens are cut into chunks of [`CHUNK`], counted from the first one ever added. The products of a
//! chunk are summed in `f32`, in the order of the tokens; the chunks are summed in `f64`, in their
//! order. Neither depends on threads, nor on how the tokens were handed over.
//!
//! A chunk is multiplied by a power of two first, so that the square of neither its largest nor of an
//! ordinary value leaves `f32`; that changes no other bit.

use rayon::prelude::*;

use super::product::{LANES, Lanes, QUAD, exponent, power_of_two, product};
use crate::quant::dispatch::dispatch;

/// Tokens whose products are summed in `f32`. The rounding error of such a sum is about 256 * 2^-24
/// of it at worst; a chunk of 16 columns, 16 KiB, stays in L1.
pub(super) const CHUNK: usize = 256;

/// Rows of the sums that are one task.
const TASK: usize = 64;

/// Which part of the `[k, k]` matrix is kept, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Row `i` has the columns `0..=i`.
    Lower,
    /// Row `i` has all columns.
    All,
}

impl Part {
    /// Where row `i` begins.
    pub(super) fn offset(self, k: usize, i: usize) -> usize {
        match self {
            Part::Lower => i * (i + 1) / 2,
            Part::All => i * k,
        }
    }

    /// Columns of row `i`.
    fn columns(self, k: usize, i: usize) -> usize {
        match self {
            Part::Lower => i + 1,
            Part::All => k,
        }
    }

    /// The matrix cut into tasks of some rows: the first row, and the elements from there on.
    fn tasks(self, k: usize, matrix: &mut [f64]) -> Vec<(usize, &mut [f64])> {
        let mut rest = matrix;
        let mut tasks = Vec::with_capacity(k.div_ceil(TASK));
        for first in (0..k).step_by(TASK) {
            let len = self.offset(k, (first + TASK).min(k)) - self.offset(k, first);
            let (task, after) = rest.split_at_mut(len);
            tasks.push((first, task));
            rest = after;
        }
        tasks
    }
}

/// Room for the packed forms of a chunk, kept from chunk to chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    left: Vec<[f32; QUAD]>,
    right: Vec<Lanes>,
}

/// Adds `sum over t of left_t right_t^T` to `totals`. Both have the same number of rows of `k`
/// finite elements, at most [`CHUNK`].
pub(super) fn add_chunk(
    part: Part,
    k: usize,
    left: &[f32],
    right: &[f32],
    totals: &mut [f64],
    scratch: &mut Scratch,
) {
    let rows = left.len() / k;
    if rows == 0 {
        return;
    }
    let left_exponent = pack(left, k, rows, &mut scratch.left);
    let right_exponent = pack(right, k, rows, &mut scratch.right);
    let chunk = Chunk {
        part,
        k,
        rows,
        left: &scratch.left,
        right: &scratch.right,
        unit: power_of_two(left_exponent + right_exponent),
    };
    part.tasks(k, totals)
        .into_par_iter()
        .for_each(|(first, task)| add_rows(&chunk, first, task));
}

/// Packed tokens, and what their products are multiplied by.
struct Chunk<'a> {
    part: Part,
    k: usize,
    rows: usize,
    left: &'a [[f32; QUAD]],
    right: &'a [Lanes],
    unit: f64,
}

/// Writes rows of `k` elements as panels of `N` columns, `[ceil(k / N), rows, N]`, the last one
/// padded with zeros, and divided by the power of two that is returned as exponent.
fn pack<const N: usize>(x: &[f32], k: usize, rows: usize, to: &mut Vec<[f32; N]>) -> i32 {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let shift = exponent(largest);
    let factor = power_of_two(-shift);
    to.resize(k.div_ceil(N) * rows, [0.0; N]);
    to.par_chunks_mut(rows)
        .with_min_len(TASK / N)
        .enumerate()
        .for_each(|(panel, to)| {
            let columns = panel * N..k.min(panel * N + N);
            for (row, to) in x.chunks_exact(k).zip(to) {
                *to = [0.0; N];
                for (x, to) in row[columns.clone()].iter().zip(to) {
                    *to = (f64::from(*x) * factor) as f32;
                }
            }
        });
    shift
}

/// Adds the products to the rows of a task.
fn add_rows(chunk: &Chunk<'_>, first: usize, task: &mut [f64]) {
    dispatch!(add_rows_body(chunk: &Chunk<'_>, first: usize, task: &mut [f64]));
}

#[inline(always)]
fn add_rows_body(chunk: &Chunk<'_>, first: usize, task: &mut [f64]) {
    let &Chunk {
        part,
        k,
        rows,
        left,
        right,
        unit,
    } = chunk;
    let origin = part.offset(k, first);
    let end = (first + TASK).min(k);
    for panel in 0..part.columns(k, end - 1).div_ceil(LANES) {
        let b = &right[panel * rows..][..rows];
        for quad in first / QUAD..end.div_ceil(QUAD) {
            let sums = product(&left[quad * rows..][..rows], b);
            for (c, sums) in sums.iter().enumerate() {
                let row = quad * QUAD + c;
                let columns = part.columns(k, row.min(k - 1));
                if row >= k || panel * LANES >= columns {
                    continue;
                }
                let len = (columns - panel * LANES).min(LANES);
                let at = part.offset(k, row) + panel * LANES - origin;
                for (total, sum) in task[at..at + len].iter_mut().zip(sums) {
                    *total += f64::from(*sum) * unit;
                }
            }
        }
    }
}
