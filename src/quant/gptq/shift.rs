//! Weights that make up for inputs that have moved.

use super::objective::Objective;
use super::panel::Panel;
use super::product::{LANES, Lanes, QUAD, product};
use crate::quant::dispatch::dispatch;
use crate::quant::spec::BlockSpec;

/// Moves what the codes of a panel aim at by `alpha W C (H + d I)^-1`, if there is a `C`.
///
/// With quantized inputs `X` and float ones `Y` the error of the outputs is that of `Q X - W Y`, and
/// its square is, up to a constant, `tr((Q - V) H (Q - V)^T)` with `V = W Y X^T H^-1`, which is
/// `W + W C H^-1`. Li et al. 2025 (GPTAQ) lower the same square, but pass each column's share of the
/// difference on to later columns only, as the sweep comes to it. To give it to all columns at once is
/// the exact solution (and reaches a lower square, on other tokens too), and holds for the descent and
/// the refit as well.
pub(super) fn shift(objective: &Objective, spec: &BlockSpec, panel: &mut Panel) {
    if let Some(cross) = &objective.cross {
        let alpha = objective.options.alpha;
        moved(objective, cross, alpha, panel);
        panel.update_errors(spec);
    }
}

fn moved(objective: &Objective, cross: &[[f32; QUAD]], alpha: f32, panel: &mut Panel) {
    dispatch!(body(
        objective: &Objective, cross: &[[f32; QUAD]], alpha: f32, panel: &mut Panel,
    ));
}

#[inline(always)]
fn body(objective: &Objective, cross: &[[f32; QUAD]], alpha: f32, panel: &mut Panel) {
    let k = objective.k;
    let mut x = vec![[0.0; LANES]; k];
    for (quad, c) in cross.chunks_exact(k).enumerate() {
        let products = product(c, &panel.target);
        for (i, product) in (quad * QUAD..k).zip(products) {
            x[i] = product;
        }
    }
    let mut ordered: Vec<Lanes> = objective.order.iter().map(|&i| x[i]).collect();
    solve(objective, &mut ordered);
    // A row that would leave `f32` stays.
    let mut usable = [true; LANES];
    for x in &ordered {
        for l in 0..LANES {
            usable[l] &= (alpha * x[l]).is_finite();
        }
    }
    for (&i, x) in objective.order.iter().zip(&ordered) {
        for l in 0..LANES {
            if usable[l] {
                panel.target[i][l] += alpha * x[l];
            }
        }
    }
}

/// Solves `(H + d I) x = b` for each lane, in order of the columns: `(U + I) D (U + I)^T x = b`.
#[inline(always)]
fn solve(objective: &Objective, b: &mut [Lanes]) {
    for u in objective.feedback.iter().rev() {
        let first = (u.len() - 1) / QUAD * QUAD;
        for j in (first..u.len()).rev() {
            let x = b[j];
            for i in 0..j {
                for l in 0..LANES {
                    b[i][l] -= u[i][j - first] * x[l];
                }
            }
        }
    }
    for (b, pivot) in b.iter_mut().zip(&objective.pivots) {
        for b in b.iter_mut() {
            *b = (f64::from(*b) / pivot) as f32;
        }
    }
    for u in &objective.feedback {
        let first = (u.len() - 1) / QUAD * QUAD;
        let (before, from) = b.split_at_mut(first);
        let sums = product(&u[..first], before);
        for j in first..u.len() {
            let mut x = from[j - first];
            for l in 0..LANES {
                x[l] -= sums[j - first][l];
            }
            for i in first..j {
                for l in 0..LANES {
                    x[l] -= u[i][j - first] * from[i - first][l];
                }
            }
            from[j - first] = x;
        }
    }
}
