//! Coordinate descent on the codes.

use super::objective::Objective;
use super::panel::Panel;
use super::product::{LANES, QUAD, product};
use crate::quant::dispatch::dispatch;
use crate::quant::spec::BlockSpec;

/// Goes once over all columns, as they are stored, and sets each code to the best one given all
/// others: the loss is quadratic in the decoded `q_i` and least at `q_i + (H e)_i / H_ii`, so the
/// nearest code to that never raises it. The losses are not updated.
pub(super) fn descend(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]) {
    dispatch!(body(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]));
}

#[inline(always)]
fn body(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]) {
    let k = objective.k;
    let max_code = f32::from(spec.max_code());
    for (quad, h) in objective.hessian.chunks_exact(k).enumerate() {
        let first = quad * QUAD;
        for panel in panels.iter_mut() {
            let mut gradient = product(h, &panel.errors);
            let grid = &panel.now.grids[first / spec.block()];
            for i in first..k.min(first + QUAD) {
                let inverse = 1.0 / h[i][i - first];
                let steps = &mut panel.now.steps[i];
                let mut best = [0.0; LANES];
                for l in 0..LANES {
                    best[l] = grid.scale[l] * steps[l] + gradient[i - first][l] * inverse;
                }
                let found = grid.steps(&best, max_code);
                let mut moved = [0.0; LANES];
                for l in 0..LANES {
                    moved[l] = grid.scale[l] * (found[l] - steps[l]);
                }
                *steps = found;
                panel.errors[i] = grid.error(&panel.target[i], &found);
                for (gradient, h) in gradient.iter_mut().zip(h[i]).skip(i - first + 1) {
                    for l in 0..LANES {
                        gradient[l] -= h * moved[l];
                    }
                }
            }
        }
    }
}
