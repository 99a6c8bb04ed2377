//! Scales for the channels of an activation.

use rayon::prelude::*;

use super::{
    BlockMethod, BlockSpec, Buffers, Matrix, Rule, Source,
    rtn::{QuantizeError, quantize_rows_by},
};

/// Scales of channels: weights are multiplied by them, and the activation divided.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelScales {
    /// The exponent that was chosen. At 0 all scales are 1.
    pub alpha: f32,
    /// One scale for each channel; the smallest is 1.
    pub scales: Vec<f32>,
    /// The weighted error without scales.
    pub plain: f64,
    /// The weighted error with these scales.
    pub loss: f64,
}

/// Smallest magnitude of a channel, as a share of the largest: a channel that is never used has a scale,
/// too.
const SMALLEST: f64 = 1e-4;

/// Scales have to make the error less than so much of it: what correlates between channels, which the
/// measure leaves out, decides about less.
const GAIN: f64 = 0.95;

/// The largest scale: what is divided by it keeps enough digits in half precision.
const LARGEST: f64 = 256.0;

/// Searches the scales of Lin et al. (AWQ, MLSys 2024), equations 4 and 5: `s = m^alpha` for the
/// magnitudes `m` of the channels, here root mean squares, with `alpha` from 0 to 1 in `steps` steps.
///
/// `importance` is the mean square of each of the k channels, and `rows` are rows of the weights that
/// read the activation, `[n, k]`. Compared is what is left of the weighted error when `W diag(s)` is
/// quantized as it will be, by scale search with `importance / s^2`, and divided by `s` again:
/// `sum importance (W - Q(W diag(s)) / diag(s))^2`, the error of the products for channels that do not
/// correlate. Of equal ones the smallest `alpha` is taken, and 0 unless the error gets less by a twentieth.
///
/// Scales are only known up to a common factor. Here the smallest is 1 (the authors' code makes the
/// largest times the smallest 1): then no element of the activation grows, and what fits half
/// precision still does.
///
/// # Errors
/// The rows cannot be quantized without scales: an element is not finite, or a block's scale overflows.
///
/// # Panics
/// If `rows` are no whole rows.
pub fn awq_scales(
    spec: &BlockSpec,
    importance: &[f32],
    rows: &[f32],
    steps: usize,
) -> Result<ChannelScales, QuantizeError> {
    let k = importance.len();
    assert!(rows.len().is_multiple_of(k.max(1)), "whole rows of {k}");
    let plain = loss(spec, importance, rows, &vec![1.0; k])?;
    let candidates = (1..=steps).into_par_iter().map(|step| {
        let alpha = step as f32 / steps as f32;
        let scales = powers(importance, alpha);
        // Scaled weights may overflow where plain ones do not: no candidate then.
        let loss = loss(spec, importance, rows, &scales).ok()?;
        Some((alpha, scales, loss))
    });
    let candidates: Vec<_> = candidates.collect();
    let mut best = ChannelScales {
        alpha: 0.0,
        scales: vec![1.0; k],
        plain,
        loss: plain,
    };
    for (alpha, scales, loss) in candidates.into_iter().flatten() {
        if loss < best.loss && loss < GAIN * plain {
            (best.alpha, best.scales, best.loss) = (alpha, scales, loss);
        }
    }
    Ok(best)
}

/// `m^alpha` in units of the smallest, where `m` are the roots of `squares`.
fn powers(squares: &[f32], alpha: f32) -> Vec<f32> {
    let largest = f64::from(squares.iter().fold(0.0, |a: f32, &b| a.max(b))).sqrt();
    if largest == 0.0 || !largest.is_finite() {
        return vec![1.0; squares.len()];
    }
    let magnitudes = squares.iter().map(|&m| f64::from(m).sqrt() / largest);
    let powers = magnitudes.map(|m| m.max(SMALLEST).powf(alpha.into()).max(1.0 / LARGEST));
    let powers: Vec<f64> = powers.collect();
    let least = powers.iter().fold(1.0, |a: f64, &b| a.min(b));
    powers.iter().map(|p| (p / least) as f32).collect()
}

/// The weighted error of quantized rows, each multiplied by `scales` before and divided after.
fn loss(
    spec: &BlockSpec,
    importance: &[f32],
    rows: &[f32],
    scales: &[f32],
) -> Result<f64, QuantizeError> {
    let k = importance.len();
    let n = rows.len() / k.max(1);
    let scaled: Vec<f32> = rows
        .chunks_exact(k.max(1))
        .flat_map(|row| row.iter().zip(scales).map(|(w, s)| w * s))
        .collect();
    let weights = divided(importance, scales);
    let rule = Rule {
        method: BlockMethod::Mse,
        importance: Some(&weights),
    };
    let mut buffers = Buffers::new(spec, n, k);
    let matrix = Matrix::new(Source::F32(&scaled), n, k);
    quantize_rows_by(spec, &rule, matrix, buffers.out())?;
    let decoded = buffers.decode(spec, n, k);
    let mut sum = 0.0;
    let pairs = scaled
        .chunks_exact(k.max(1))
        .zip(decoded.chunks_exact(k.max(1)));
    for (scaled, decoded) in pairs {
        let errors = scaled.iter().zip(decoded).map(|(a, b)| f64::from(a - b));
        let weighted = errors.zip(&weights).map(|(e, w)| e * e * f64::from(*w));
        sum += weighted.sum::<f64>();
    }
    Ok(sum)
}

/// The mean squares of an activation whose channels had the mean squares `importance`, divided by
/// `scales`.
pub fn divided(importance: &[f32], scales: &[f32]) -> Vec<f32> {
    let each = importance.iter().zip(scales);
    each.map(|(m, s)| (f64::from(*m) / f64::from(*s).powi(2)) as f32)
        .collect()
}
