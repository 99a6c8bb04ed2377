//! Second-order methods: codes and scales for what a layer computes, not for what its weight is.
//!
//! A layer maps tokens `x` to `W x`. With `H` the mean of `x x^T` over the tokens of a calibration, an
//! error `E` of the weight changes the outputs by `tr(E H E^T)`, in square. [`Hessian`] gathers `H`;
//! [`gptq`] chooses codes that keep that number small, in the layout of the parent module.
//!
//! Nothing here depends on the number of threads or on the processor: every sum has one order, no
//! product is fused with a sum, and rows of a weight are independent of each other.
//!
//! | step | multiplications, `n` rows of `k` |
//! | --- | --- |
//! | [`Hessian::add`] | `k^2 / 2` a token |
//! | [`Objective::new`] | `k^3 / 6`, in `f64` |
//! | plain rounding's loss; the sweep | `n k^2 / 2` each |
//! | a sweep of coordinate descent; the gradient of a refit | `n k^2` each |
//! | the normal equations of a refit | `n k^2 / 2` |
//!
//! ```
//! use onnxq::quant::gptq::{GptqOptions, Hessian, gptq};
//! use onnxq::quant::{BlockSpec, Out, ScaleType};
//!
//! // Three tokens of 16 channels, and a layer with two outputs.
//! let tokens: Vec<f32> = (0..3 * 16).map(|i| (i as f32).sin()).collect();
//! let weight: Vec<f32> = (0..2 * 16).map(|i| (i as f32).cos()).collect();
//! let mut h = Hessian::new(16);
//! h.add(&tokens)?;
//!
//! let spec = BlockSpec::new(4, 16, true, ScaleType::F16)?;
//! let mut codes = vec![0; spec.codes_len(2, 16)];
//! let mut scales = vec![0; spec.scales_len(2, 16)];
//! let out = Out { codes: &mut codes, scales: &mut scales, zero_points: &mut [] };
//! let report = gptq(&spec, &weight, &h, None, &GptqOptions::default(), out)?;
//! assert!(report.loss <= report.plain);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod descend;
mod factor;
mod loss;
mod normal;
mod objective;
mod options;
mod panel;
mod product;
mod refit;
mod run;
mod search;
mod shift;
mod statistics;
mod sums;
mod sweep;
mod wire;

pub use loss::weighted_loss;
pub use objective::Objective;
pub use options::{GptqOptions, Report, Scales};
pub use run::gptq;
pub use statistics::{Cross, Hessian, StatisticsError};

#[cfg(test)]
mod tests;
