//! Cholesky factorization in `f64`, of a lower triangle that is packed row after row.

use rayon::prelude::*;

use super::product::{QUAD, product};
use super::sums::Part;
use crate::quant::dispatch::dispatch;

/// Columns that are factored before the rest is updated.
const PANEL: usize = 64;

/// Columns of a register tile in `f64`.
const WIDTH: usize = 8;

/// A pivot that is smaller than this share of its diagonal element is rounding error.
const SMALLEST_PIVOT: f64 = 1e-10;

/// The matrix is not positive definite, to the precision of `f64`.
#[derive(Debug)]
pub(super) struct Indefinite;

/// Replaces `a`, the packed lower triangle of a symmetric `[k, k]` matrix, by `L` with `L L^T = a`.
/// The order of every sum is fixed, whatever the number of threads. On an error `a` is unspecified.
pub(super) fn cholesky(k: usize, a: &mut [f64]) -> Result<(), Indefinite> {
    let diagonal: Vec<f64> = (0..k).map(|i| a[Part::Lower.offset(k, i) + i]).collect();
    for first in (0..k).step_by(PANEL) {
        let end = (first + PANEL).min(k);
        let top = factor_diagonal(k, a, first, end, &diagonal)?;
        let (_, below) = a.split_at_mut(Part::Lower.offset(k, end));
        let mut tasks = tasks(k, end, below);
        let columns = end - first;
        let left: Vec<Vec<f64>> = tasks
            .par_iter_mut()
            .map(|(row, task)| solve(*row, task, first, columns, &top))
            .collect();
        let packed = Packed::new(&left.concat(), columns);
        tasks
            .into_par_iter()
            .for_each(|(row, task)| update(row, task, end, columns, &packed));
    }
    Ok(())
}

/// Rows from `first` on, in tasks of at most [`PANEL`]: the first row of each and its elements.
fn tasks(k: usize, first: usize, mut rest: &mut [f64]) -> Vec<(usize, &mut [f64])> {
    let mut tasks = Vec::with_capacity((k - first).div_ceil(PANEL));
    for row in (first..k).step_by(PANEL) {
        let end = (row + PANEL).min(k);
        let len = Part::Lower.offset(k, end) - Part::Lower.offset(k, row);
        let (task, after) = rest.split_at_mut(len);
        tasks.push((row, task));
        rest = after;
    }
    tasks
}

/// Factors the square on the diagonal; returns it transposed, `[PANEL][PANEL]`, with the inverses of
/// the pivots on the diagonal.
fn factor_diagonal(
    k: usize,
    a: &mut [f64],
    first: usize,
    end: usize,
    diagonal: &[f64],
) -> Result<Vec<[f64; PANEL]>, Indefinite> {
    let mut top = vec![[0.0; PANEL]; PANEL];
    for i in first..end {
        let row = &mut a[Part::Lower.offset(k, i) + first..][..i - first + 1];
        substitute(&top, &mut row[..i - first]);
        let (pivot, done) = row.split_last_mut().expect("a row has its diagonal");
        for x in done.iter() {
            *pivot -= x * x;
        }
        if pivot.is_nan() || *pivot <= SMALLEST_PIVOT * diagonal[i] {
            return Err(Indefinite);
        }
        *pivot = pivot.sqrt();
        for (top, x) in top.iter_mut().zip(done) {
            top[i - first] = *x;
        }
        top[i - first][i - first] = 1.0 / *pivot;
    }
    Ok(top)
}

/// Solves `x L^T = row` in place, `L^T` being rows of `top`.
#[inline(always)]
fn substitute(top: &[[f64; PANEL]], row: &mut [f64]) {
    for c in 0..row.len() {
        let (x, rest) = row[c..].split_first_mut().expect("column c");
        *x *= top[c][c];
        for (rest, top) in rest.iter_mut().zip(&top[c][c + 1..]) {
            *rest -= *x * top;
        }
    }
}

/// The rows of `L` in this panel, for the rows of a task; also returns them one after another.
fn solve(
    first_row: usize,
    task: &mut [f64],
    first: usize,
    columns: usize,
    top: &[[f64; PANEL]],
) -> Vec<f64> {
    dispatch!(solve_body(
        first_row: usize, task: &mut [f64], first: usize, columns: usize, top: &[[f64; PANEL]],
    ) -> Vec<f64>)
}

#[inline(always)]
fn solve_body(
    first_row: usize,
    task: &mut [f64],
    first: usize,
    columns: usize,
    top: &[[f64; PANEL]],
) -> Vec<f64> {
    let mut solved = Vec::with_capacity(columns * PANEL);
    let mut rest = task;
    for i in first_row.. {
        let Some((row, after)) = rest.split_at_mut_checked(i + 1) else {
            break;
        };
        let row = &mut row[first..first + columns];
        substitute(top, row);
        solved.extend_from_slice(row);
        rest = after;
    }
    solved
}

/// The rows of a panel below its diagonal, as both factors of the update.
struct Packed {
    left: Vec<[f64; QUAD]>,
    right: Vec<[f64; WIDTH]>,
}

impl Packed {
    fn new(rows: &[f64], columns: usize) -> Self {
        Self {
            left: pack(rows, columns),
            right: pack(rows, columns),
        }
    }
}

/// `[rows, columns]` to `[ceil(rows / N), columns, N]`.
fn pack<const N: usize>(rows: &[f64], columns: usize) -> Vec<[f64; N]> {
    let mut to = vec![[0.0; N]; (rows.len() / columns).div_ceil(N) * columns];
    for (i, row) in rows.chunks_exact(columns).enumerate() {
        for (to, x) in to[i / N * columns..].iter_mut().zip(row) {
            to[i % N] = *x;
        }
    }
    to
}

/// Subtracts the products of the panel from the rows of a task, which begins at or after `end`.
fn update(first_row: usize, task: &mut [f64], end: usize, columns: usize, packed: &Packed) {
    dispatch!(update_body(
        first_row: usize, task: &mut [f64], end: usize, columns: usize, packed: &Packed,
    ));
}

#[inline(always)]
fn update_body(first_row: usize, task: &mut [f64], end: usize, columns: usize, packed: &Packed) {
    // Offsets of a row in a packed triangle do not depend on its size.
    let offset = |row| Part::Lower.offset(0, row) - Part::Lower.offset(0, first_row);
    let rows = (first_row..first_row + PANEL).take_while(|&row| offset(row + 1) <= task.len());
    let last = rows.last().expect("a task has rows");
    for panel in 0..(last + 1 - end).div_ceil(WIDTH) {
        let b = &packed.right[panel * columns..][..columns];
        let column = end + panel * WIDTH;
        for quad in (first_row - end) / QUAD..(last + 1 - end).div_ceil(QUAD) {
            let sums = product(&packed.left[quad * columns..][..columns], b);
            for (c, sums) in sums.iter().enumerate() {
                let row = end + quad * QUAD + c;
                if row > last || column > row {
                    continue;
                }
                let len = (row + 1 - column).min(WIDTH);
                for (x, sum) in task[offset(row) + column..][..len].iter_mut().zip(sums) {
                    *x -= sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A well-conditioned packed lower triangle: `B B^T + k I`.
    fn positive(k: usize) -> Vec<f64> {
        let b = |i: usize, j: usize| ((i * 31 + j * 17) % 23) as f64 / 23.0 - 0.5;
        let mut a = Vec::new();
        for i in 0..k {
            for j in 0..=i {
                let sum: f64 = (0..k).map(|t| b(i, t) * b(j, t)).sum();
                a.push(sum + if i == j { k as f64 } else { 0.0 });
            }
        }
        a
    }

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        for k in [1, 2, 7, 63, 64, 65, 130, 200] {
            let a = positive(k);
            let mut l = a.clone();
            cholesky(k, &mut l).unwrap();
            let at = |i: usize, j: usize| l[Part::Lower.offset(k, i) + j];
            for i in 0..k {
                for j in 0..=i {
                    let got: f64 = (0..=j).map(|t| at(i, t) * at(j, t)).sum();
                    // Rounding: k products of size at most 1.5 k.
                    let want = a[Part::Lower.offset(k, i) + j];
                    assert!(
                        (got - want).abs() < 1e-15 * (k * k) as f64 + 1e-14,
                        "{k} {i} {j}"
                    );
                }
            }
        }
    }

    #[test]
    fn indefinite_matrices_are_told() {
        for k in [3, 100] {
            let mut a = positive(k);
            let last = a.len() - 1;
            a[last] = -1.0;
            assert!(cholesky(k, &mut a).is_err());
        }
        // Singular: the second row equals the first.
        assert!(cholesky(2, &mut [1.0, 1.0, 1.0]).is_err());
        assert!(cholesky(2, &mut [f64::NAN, 1.0, 1.0]).is_err());
    }
}
