//! Where outputs go.

use std::path::{Path, PathBuf};

use super::{Dtype, QuantizeArgs};
use crate::cli::context::output_path;

impl QuantizeArgs {
    /// Where the output goes: as asked, else beside the input with the suffix that
    /// transformers.js loads.
    pub(super) fn output(&self, input: &Path, dtype: Dtype, bits: Option<u8>) -> PathBuf {
        let stem = input.file_stem().unwrap_or_default().to_string_lossy();
        let suffix = match (dtype, bits) {
            (Dtype::Q8, _) => "quantized".to_owned(),
            (Dtype::Q2f16 | Dtype::Q4f16, Some(bits)) => format!("q{bits}f16"),
            (_, Some(bits)) => format!("q{bits}"),
            (Dtype::Int8, _) => "int8".to_owned(),
            (Dtype::Uint8, _) => "uint8".to_owned(),
            (_, None) => "fp16".to_owned(),
        };
        let name = format!("{stem}_{suffix}.onnx");
        match &self.output {
            Some(output) => output_path(output, &name),
            None => input.with_file_name(name),
        }
    }
}
