//! Scales for the channels of an activation.

use rayon::prelude::*;

use super::objective::Objective;
use super::panel::Panel;
use super::product::LANES;
use super::sweep::measure;
use crate::quant::rtn::Refused;
use crate::quant::spec::BlockSpec;

/// Scales of channels: weights are multiplied by them, and the activation divided.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelScales {
    /// The exponent that was chosen. At 0 all scales are 1.
    pub alpha: f32,
    /// One positive scale for each channel; their largest times their smallest is 1.
    pub scales: Vec<f32>,
    /// Loss of plain rounding without scales, as in [`Report`](super::Report).
    pub plain: f64,
    /// Loss of plain rounding with these scales.
    pub loss: f64,
}

/// Smallest magnitude of a channel, as a share of the largest: a channel that is never used would get a
/// scale of 0.
const SMALLEST: f32 = 1e-4;

/// Searches the scales of Lin et al. 2023 (AWQ), equation 5: `s = m^alpha` for the mean magnitudes `m`
/// of the channels ([`Hessian::magnitudes`](super::Hessian::magnitudes)), with `alpha` from 0 to 1 in
/// `steps` steps. What is compared is the sum of the losses of `weights`, all the weights that read the
/// activation, row-major `[n, k]` each, when `W diag(s)` is rounded plainly. The search takes
/// `(steps + 1) n k^2 / 2` multiplications; some of the rows of each weight may do.
///
/// `None` if a weight cannot be rounded even without scales: if an element is not finite, or a scale
/// of a block overflows its type.
///
/// # Panics
///
/// If there is not one magnitude for each channel of `objective`, or a weight is no whole number of
/// rows.
pub fn awq_scales(
    objective: &Objective,
    spec: &BlockSpec,
    magnitudes: &[f32],
    weights: &[&[f32]],
    steps: usize,
) -> Option<ChannelScales> {
    let k = objective.k;
    assert_eq!(magnitudes.len(), k, "magnitudes of the channels");
    for weight in weights {
        assert_eq!(weight.len() % k, 0, "a weight of whole rows of {k}");
    }
    let ones = vec![1.0; k];
    let plain = loss(objective, spec, weights, &ones).ok()?;
    let mut best = ChannelScales {
        alpha: 0.0,
        scales: ones,
        plain,
        loss: plain,
    };
    for step in 1..=steps {
        let alpha = step as f32 / steps as f32;
        let scales = scales(magnitudes, alpha);
        // Scaled weights may overflow where plain ones do not: no candidate then.
        let Ok(loss) = loss(objective, spec, weights, &scales) else {
            continue;
        };
        if loss < best.loss {
            (best.alpha, best.scales, best.loss) = (alpha, scales, loss);
        }
    }
    Some(best)
}

/// `m^alpha`, divided by the geometric mean of the largest and the smallest.
fn scales(magnitudes: &[f32], alpha: f32) -> Vec<f32> {
    let largest = magnitudes.iter().fold(0.0, |a: f32, &b| a.max(b));
    if largest == 0.0 || !largest.is_finite() {
        return vec![1.0; magnitudes.len()];
    }
    let powers = magnitudes.iter().map(|m| (m / largest).max(SMALLEST));
    let powers: Vec<f32> = powers
        .map(|m| f64::from(m).powf(f64::from(alpha)) as f32)
        .collect();
    let least = powers.iter().fold(1.0, |a: f32, &b| a.min(b));
    let unit = least.sqrt();
    powers.iter().map(|p| p / unit).collect()
}

/// The summed loss of plain rounding of all weights, each row multiplied by `scales` and divided again.
fn loss(
    objective: &Objective,
    spec: &BlockSpec,
    weights: &[&[f32]],
    scales: &[f32],
) -> Result<f64, Refused> {
    let k = objective.k;
    let mut sum = 0.0;
    for weight in weights {
        let rows = objective.rows_of_a_stripe(weight.len() / k);
        let losses: Result<Vec<f64>, Refused> = weight
            .par_chunks(rows * k)
            .map(|rows| stripe_loss(objective, spec, rows, scales))
            .collect();
        sum += losses?.iter().sum::<f64>();
    }
    Ok(sum * objective.unit)
}

fn stripe_loss(
    objective: &Objective,
    spec: &BlockSpec,
    weight: &[f32],
    scales: &[f32],
) -> Result<f64, Refused> {
    let mut panels = Vec::new();
    for rows in weight.chunks(LANES * objective.k) {
        let mut panel = Panel::round(spec, objective.k, rows, Some(scales))?;
        for (errors, scale) in panel.errors.iter_mut().zip(scales) {
            *errors = errors.map(|e| e / scale);
        }
        panels.push(panel);
    }
    measure(objective, &mut panels);
    let mut sum = 0.0;
    for panel in &panels {
        for l in 0..panel.rows {
            sum += panel.now.loss[l] * panel.units.square(l);
        }
    }
    Ok(sum)
}
