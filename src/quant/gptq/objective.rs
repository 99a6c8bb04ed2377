//! What the codes of a layer are chosen for: the factored statistics of its inputs.

use rayon::prelude::*;

use super::factor::cholesky;
use super::options::GptqOptions;
use super::product::QUAD;
use super::statistics::{Cross, Hessian};
use super::sums::Part;

/// The objective `tr(E (H + d I) E^T)` of a layer, `E` being weight minus decoded weight and `d` the
/// damping, with what is needed to lower it. Made once for all weights that read the same activation.
///
/// `H` is divided by its mean diagonal element; damping is a share of that.
///
/// The columns are taken in an order of their own, and `H + d I = (U + I) D (U + I)^T` in that order,
/// with `U` strictly upper triangular. Column `j` of `U` is then by how much the errors of the columns
/// before change what column `j` aims at, `w_j + sum over i < j of U_ij e_i`. That is GPTQ without the
/// inverse (Chee et al. 2023, "QuIP", theorem 6: the two are equivalent): its factor of `H^-1` is
/// `D^(-1/2) (U + I)^-1`, and one factorization and no inversion of `H` is also the more exact way.
///
/// Memory: `6 k^2` bytes, and `10 k^2` while it is made; with a [`Cross`] `10 k^2` and `18 k^2`.
#[derive(Clone, Debug)]
pub struct Objective {
    pub(super) k: usize,
    pub(super) options: GptqOptions,
    /// Columns in the order in which they are quantized.
    pub(super) order: Vec<usize>,
    /// `U` in that order, four columns at a time: element `[i][c]` of entry `q` is `U[i, 4 q + c]`,
    /// for `i` up to the last row that is not zero.
    pub(super) feedback: Vec<Vec<[f32; QUAD]>>,
    /// The diagonal of `D`, in that order.
    pub(super) pivots: Vec<f64>,
    /// `H + d I`, four columns at a time: `[ceil(k / 4)][k][4]`.
    pub(super) hessian: Vec<[f32; QUAD]>,
    /// `C`, in the same form and unit.
    pub(super) cross: Option<Vec<[f32; QUAD]>>,
    /// What a loss is multiplied by to be that of `H`, a mean over tokens.
    pub(super) unit: f64,
    damping: f64,
}

impl Objective {
    /// Prepares for `h`, and for `cross` if layers before this one are quantized already.
    ///
    /// It always succeeds: the damping is doubled until the factorization does, and since
    /// `h_ij^2 <= h_ii h_jj` a damping of `k^1.5` mean diagonal elements makes the diagonal dominate.
    /// Without tokens, or if all are zero, nothing is known, and each weight is rounded by itself.
    ///
    /// # Panics
    ///
    /// If `cross` has not the channels and the number of tokens of `h`.
    pub fn new(h: &Hessian, cross: Option<&Cross>, options: &GptqOptions) -> Self {
        let k = h.k();
        if let Some(cross) = cross {
            assert_eq!((cross.k(), cross.tokens()), (k, h.tokens()), "cross");
        }
        let mut lower = h.lower();
        let mean = (0..k).map(|i| lower[on_diagonal(i)]).sum::<f64>() / k as f64;
        let mean = if mean > 0.0 { mean } else { 1.0 };
        lower.iter_mut().for_each(|x| *x /= mean);

        let order = order(k, &lower, options.activation_order);
        let mut damping = options.damping();
        if lower.iter().all(|&x| x == 0.0) {
            damping = 1.0;
        }
        let factor = loop {
            let mut factor = permuted(k, &lower, &order, damping);
            match cholesky(k, &mut factor) {
                Ok(()) => break factor,
                Err(_) => damping = (2.0 * damping).max(1e-6),
            }
        };
        let feedback = feedback(k, &factor);
        let pivots = (0..k).map(|j| factor[on_diagonal(k - 1 - j)].powi(2));
        let pivots = pivots.collect();
        drop(factor);
        let hessian = quads(k, |i, j| {
            let x = lower[Part::Lower.offset(k, i.max(j)) + i.min(j)];
            if i == j { x + damping } else { x }
        });
        drop(lower);
        let cross = cross.map(|cross| {
            let all = cross.all();
            quads(k, |i, j| all[i * k + j] / mean)
        });
        Self {
            k,
            options: *options,
            order,
            feedback,
            pivots,
            hessian,
            cross,
            unit: mean / h.tokens().max(1) as f64,
            damping,
        }
    }

    /// The damping that was used, as a share of the mean diagonal element of `H`.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Damped mean square of channel `i`, in units of the mean.
    pub(super) fn diagonal(&self, i: usize) -> f32 {
        self.hessian[i / QUAD * self.k + i][i % QUAD]
    }

    /// Number of channels.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// Where element `[i, i]` of a packed lower triangle is.
fn on_diagonal(i: usize) -> usize {
    Part::Lower.offset(0, i) + i
}

/// Columns with the largest diagonal element first, while there are many others left that can make up
/// for their errors; equal ones, and all if `sorted` is false, as they are.
fn order(k: usize, lower: &[f64], sorted: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..k).collect();
    if sorted {
        order.sort_by(|&a, &b| lower[on_diagonal(b)].total_cmp(&lower[on_diagonal(a)]));
    }
    order
}

/// `H + d I` with the columns in reverse order: the lower factor of that is the upper one of the
/// columns in order.
fn permuted(k: usize, lower: &[f64], order: &[usize], damping: f64) -> Vec<f64> {
    let mut to = vec![0.0; lower.len()];
    let mut rows = Vec::with_capacity(k);
    let mut rest = &mut to[..];
    for i in 0..k {
        let (row, after) = rest.split_at_mut(i + 1);
        rows.push(row);
        rest = after;
    }
    rows.into_par_iter().enumerate().for_each(|(i, row)| {
        let from = order[k - 1 - i];
        for (j, x) in row.iter_mut().enumerate() {
            let to = order[k - 1 - j];
            *x = lower[Part::Lower.offset(k, from.max(to)) + from.min(to)];
        }
        row[i] += damping;
    });
    to
}

/// `U` from the factor of the columns in reverse order.
fn feedback(k: usize, factor: &[f64]) -> Vec<Vec<[f32; QUAD]>> {
    let quad = |first: usize| -> Vec<[f32; QUAD]> {
        let end = (first + QUAD).min(k);
        let pivots: Vec<f64> = (first..end)
            .map(|j| factor[on_diagonal(k - 1 - j)])
            .collect();
        let row = |i: usize| {
            let mut u = [0.0; QUAD];
            for j in first.max(i + 1)..end {
                let x = factor[Part::Lower.offset(k, k - 1 - i) + k - 1 - j];
                u[j - first] = (x / pivots[j - first]) as f32;
            }
            u
        };
        (0..end).map(row).collect()
    };
    let firsts: Vec<usize> = (0..k).step_by(QUAD).collect();
    firsts.into_par_iter().map(quad).collect()
}

/// The `[k, k]` matrix `at` in `f32`, four columns at a time, the last ones padded with zeros.
pub(super) fn quads(k: usize, at: impl Fn(usize, usize) -> f64 + Sync) -> Vec<[f32; QUAD]> {
    let mut quads = vec![[0.0; QUAD]; k.div_ceil(QUAD) * k];
    quads
        .par_chunks_mut(k)
        .enumerate()
        .for_each(|(quad, rows)| {
            for (i, row) in rows.iter_mut().enumerate() {
                for (c, x) in row.iter_mut().enumerate().take(k - quad * QUAD) {
                    *x = at(i, quad * QUAD + c) as f32;
                }
            }
        });
    quads
}
