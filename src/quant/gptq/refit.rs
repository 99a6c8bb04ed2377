//! Least-squares fit of all scales of a row at once, the codes being what they are.

use super::normal::Normal;
use super::objective::Objective;
use super::panel::{Grid, Panel};
use super::product::{LANES, Lanes, QUAD, product};
use crate::quant::dispatch::dispatch;
use crate::quant::spec::BlockSpec;

pub(super) type Wide = [f64; LANES];

/// Sets the losses of a panel to those of its codes, and returns `b_g = d_g^T H e` for each block, `d`
/// being the codes minus the zero points.
pub(super) fn gradient(objective: &Objective, spec: &BlockSpec, panel: &mut Panel) -> Vec<Wide> {
    dispatch!(gradient_body(
        objective: &Objective, spec: &BlockSpec, panel: &mut Panel,
    ) -> Vec<Wide>)
}

#[inline(always)]
fn gradient_body(objective: &Objective, spec: &BlockSpec, panel: &mut Panel) -> Vec<Wide> {
    let k = objective.k;
    let mut gradient = vec![[0.0; LANES]; panel.now.grids.len()];
    let mut loss = [0.0; LANES];
    for (quad, h) in objective.hessian.chunks_exact(k).enumerate() {
        let products = product(h, &panel.errors);
        let first = quad * QUAD;
        let b = &mut gradient[first / spec.block()];
        for (i, product) in (first..k).zip(&products) {
            for l in 0..LANES {
                let product = f64::from(product[l]);
                b[l] += f64::from(panel.now.steps[i][l]) * product;
                loss[l] += f64::from(panel.errors[i][l]) * product;
            }
        }
    }
    panel.now.loss = loss;
    gradient
}

/// Fits the scales of a panel, given what [`gradient`] returned for it, and takes the fit in those
/// rows whose loss it lowers.
///
/// For `e' = e - sum over g of x_g d_g` the loss is `e^T H e - 2 b^T x + x^T A x`, with
/// `A_gh = d_g^T H d_h`, and least at `A x = b`. What counts is its value at the scales rounded to
/// their type.
pub(super) fn refit(objective: &Objective, spec: &BlockSpec, panel: &mut Panel, b: &[Wide]) {
    dispatch!(refit_body(
        objective: &Objective, spec: &BlockSpec, panel: &mut Panel, b: &[Wide],
    ));
}

#[inline(always)]
fn refit_body(objective: &Objective, spec: &BlockSpec, panel: &mut Panel, b: &[Wide]) {
    let mut normal = Normal::new(b.len());
    fill(objective, spec, &panel.now.steps, &mut normal);
    normal.factor();
    let mut change = normal.solve(b);
    let mut grids = panel.now.grids.clone();
    for (grid, change) in grids.iter_mut().zip(&mut change) {
        round(panel, grid, change);
    }
    let mut loss = normal.squares(&change);
    for (b, change) in b.iter().zip(&change) {
        for l in 0..LANES {
            loss[l] -= 2.0 * b[l] * change[l];
        }
    }
    // Not if NaN either.
    let better: [bool; LANES] = core::array::from_fn(|l| loss[l] < 0.0);
    for (now, fitted) in panel.now.grids.iter_mut().zip(&grids) {
        now.take(fitted, &better);
    }
    for l in 0..LANES {
        if better[l] {
            panel.now.loss[l] = (panel.now.loss[l] + loss[l]).max(0.0);
        }
    }
    panel.update_errors(spec);
}

/// Rounds the changed scales of a block, and sets the changes to what is left of them: nothing where
/// the scale would be 0 or infinite.
#[inline(always)]
fn round(panel: &Panel, grid: &mut Grid, change: &mut Wide) {
    let mut scale: Lanes = grid.scale;
    for l in 0..LANES {
        let fitted = (f64::from(scale[l]) + change[l]) as f32;
        let fitted = panel.units.round(l, fitted);
        if fitted.is_finite() && fitted != 0.0 {
            scale[l] = fitted;
        }
        change[l] = f64::from(scale[l]) - f64::from(grid.scale[l]);
    }
    *grid = Grid::new(scale, grid.zero_point);
}

/// Computes `A`. Block by block: the products of `H` with the codes of one block, for all columns from
/// that block on, each multiplied by the code there and summed over its block. That takes `k^2`
/// multiplications a row; making `H d` for each block apart would take as many for each block.
#[inline(always)]
fn fill(objective: &Objective, spec: &BlockSpec, steps: &[Lanes], normal: &mut Normal) {
    let k = objective.k;
    for (g, d) in steps.chunks(spec.block()).enumerate() {
        let begin = g * spec.block();
        for (h, other) in steps.chunks(spec.block()).enumerate().skip(g) {
            let mut sum = [0.0; LANES];
            for (q, steps) in other.chunks(QUAD).enumerate() {
                let quad = (h * spec.block()) / QUAD + q;
                let rows = &objective.hessian[quad * k + begin..][..d.len()];
                let products = product(rows, d);
                for (step, product) in steps.iter().zip(&products) {
                    for l in 0..LANES {
                        sum[l] += step[l] * product[l];
                    }
                }
            }
            *normal.at(h, g) = sum.map(f64::from);
        }
    }
}
