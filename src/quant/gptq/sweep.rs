//! Error feedback: each column is rounded to what is best given the errors of those before it.

use super::objective::Objective;
use super::panel::Panel;
use super::product::{LANES, Lanes, QUAD, product};
use crate::quant::dispatch::dispatch;
use crate::quant::spec::BlockSpec;

/// Chooses the codes of some panels by GPTQ (Frantar et al. 2022), on the grids they have; sets their
/// loss.
///
/// Column `j` of the order is rounded from `y_j = w_j + sum over i < j of U_ij e_i`, with the final
/// errors `e` of the columns before. That the sums are computed when a column is reached, not updated
/// after each one, takes the place of the paper's lazy updates in blocks of 128. The loss follows from
/// the same numbers: it is the sum of `D_jj (y_j - q_j)^2`.
pub(super) fn sweep(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]) {
    dispatch!(sweep_body(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]));
}

#[inline(always)]
fn sweep_body(objective: &Objective, spec: &BlockSpec, panels: &mut [Panel]) {
    let max_code = f32::from(spec.max_code());
    in_order(objective, panels, |panel, column, feedback| {
        let grid = &panel.now.grids[column / spec.block()];
        let target = &panel.target[column];
        let mut aim = [0.0; LANES];
        for l in 0..LANES {
            aim[l] = target[l] + feedback[l];
        }
        let steps = grid.steps(&aim, max_code);
        panel.now.steps[column] = steps;
        panel.errors[column] = grid.error(target, &steps);
        panel.errors[column]
    });
}

/// Sets the loss of some panels from their errors.
pub(super) fn measure(objective: &Objective, panels: &mut [Panel]) {
    dispatch!(measure_body(objective: &Objective, panels: &mut [Panel]));
}

#[inline(always)]
fn measure_body(objective: &Objective, panels: &mut [Panel]) {
    in_order(objective, panels, |panel, column, _| panel.errors[column]);
}

/// Calls `visit` with each panel and column, in order, and the sum of `U_ij e_i` there; it returns the
/// error of that column. Sets the losses. Four columns of all panels come before the next four, so
/// that `U` is read once for all panels.
#[inline(always)]
fn in_order(
    objective: &Objective,
    panels: &mut [Panel],
    visit: impl Fn(&mut Panel, usize, &Lanes) -> Lanes,
) {
    let k = objective.k;
    let mut errors = vec![[0.0; LANES]; panels.len() * k];
    for panel in panels.iter_mut() {
        panel.now.loss = [0.0; LANES];
    }
    for (quad, u) in objective.feedback.iter().enumerate() {
        let first = quad * QUAD;
        for (panel, errors) in panels.iter_mut().zip(errors.chunks_exact_mut(k)) {
            let mut sums = product(&u[..first], &errors[..first]);
            for j in first..u.len() {
                let feedback = sums[j - first];
                let error = visit(panel, objective.order[j], &feedback);
                errors[j] = error;
                for (sum, u) in sums.iter_mut().zip(u[j]).skip(j - first + 1) {
                    for l in 0..LANES {
                        sum[l] += u * error[l];
                    }
                }
                let pivot = objective.pivots[j];
                for l in 0..LANES {
                    let distance = f64::from(feedback[l] + error[l]);
                    panel.now.loss[l] += pivot * distance * distance;
                }
            }
        }
    }
}
