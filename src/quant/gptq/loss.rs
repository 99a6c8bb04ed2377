//! The loss of any error.

use rayon::prelude::*;

use super::objective::quads;
use super::product::{LANES, Lanes, QUAD, product};
use super::statistics::Hessian;
use super::sums::Part;
use crate::quant::dispatch::dispatch;

/// `tr(E H E^T)` over the number of tokens, for the error `E`, row-major `[n, k]`, of a weight: the
/// squared error of the outputs that it makes, summed over outputs and averaged over the tokens of `h`.
///
/// Products are in `f32`: errors should be within 10^18 of 1, and a result is good to about five
/// digits. Memory: `4 k^2` bytes.
///
/// # Panics
///
/// If `errors` is no whole number of rows of the channels of `h`.
pub fn weighted_loss(errors: &[f32], h: &Hessian) -> f64 {
    let k = h.k();
    assert_eq!(errors.len() % k, 0, "errors of whole rows of {k}");
    let lower = h.lower();
    let largest = (0..k)
        .map(|i| lower[Part::Lower.offset(k, i) + i])
        .fold(0.0, f64::max);
    if largest == 0.0 {
        return 0.0;
    }
    let hessian = quads(k, |i, j| {
        lower[Part::Lower.offset(k, i.max(j)) + i.min(j)] / largest
    });
    let losses: Vec<f64> = errors
        .par_chunks(LANES * k)
        .map(|rows| panel_loss(k, rows, &hessian))
        .collect();
    losses.iter().sum::<f64>() * (largest / h.tokens().max(1) as f64)
}

/// Of up to [`LANES`] rows.
fn panel_loss(k: usize, rows: &[f32], hessian: &[[f32; QUAD]]) -> f64 {
    dispatch!(panel_loss_body(k: usize, rows: &[f32], hessian: &[[f32; QUAD]]) -> f64)
}

#[inline(always)]
fn panel_loss_body(k: usize, rows: &[f32], hessian: &[[f32; QUAD]]) -> f64 {
    let mut errors: Vec<Lanes> = vec![[0.0; LANES]; k];
    for (l, row) in rows.chunks_exact(k).enumerate() {
        for (x, to) in row.iter().zip(&mut errors) {
            to[l] = *x;
        }
    }
    let mut loss = [0.0; LANES];
    for (quad, h) in hessian.chunks_exact(k).enumerate() {
        let products = product(h, &errors);
        for (e, product) in errors[quad * QUAD..].iter().zip(&products) {
            for l in 0..LANES {
                loss[l] += f64::from(e[l]) * f64::from(product[l]);
            }
        }
    }
    // Rounding can take a loss that is nearly 0 below it.
    loss.iter().map(|loss| loss.max(0.0)).sum()
}
