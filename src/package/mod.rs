//! The folder around a model: what loaders read besides it, how files are named there, and what proves
//! that nothing changed.
//!
//! Two layouts are common. Optimum takes a model beside its `config.json`; transformers.js (4.3) looks for
//! `onnx/model_q4.onnx`, the suffix telling the dtype, beside an `onnx` folder's parent's `config.json`, whose
//! `transformers.js_config` tells which dtype is loaded and how many side files there are.

mod companions;
mod config;
mod names;
mod provenance;
mod repair;
mod staged;
mod sums;

pub use companions::Source;
pub use config::{LoaderConfig, chunk_faults, config_with};
pub use names::{DTYPES, base_and_dtype, models, originals};
pub use provenance::{Origin, Provenance};
pub use repair::{Mended, mend};
pub use staged::Staged;
pub use sums::{SUMS, check_sums, sums};
