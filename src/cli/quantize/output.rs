//! Where outputs go.

use std::{
    path::{Path, PathBuf},
    slice,
};

use onnxq::Result;

use super::{Dtype, QuantizeArgs};
use crate::cli::{
    context::{model_path, output_path},
    places::Places,
};

/// Where the recipe of an output goes.
pub(super) fn recipe_of(output: &Path) -> PathBuf {
    output.with_extension("recipe.toml")
}

impl QuantizeArgs {
    /// Fails where an output would be written over a file that is read, other than the model itself, or has no folder;
    /// models in a folder that is `made` have their places there.
    pub(super) fn check_outputs(&self, made: bool) -> Result<()> {
        let model = model_path(&self.job.read.model)?;
        if !model.is_file() {
            // Opening it says so, and better than what its folder lacks.
            return Ok(());
        }
        let (calibrate, check) = (&self.calibrate.calibrate, &self.check.check);
        let named = [&self.recipe, calibrate, check].into_iter().flatten();
        let tokenizers = self.check.how.tokenizers(slice::from_ref(&model));
        let mut places = Places::reading(named.chain(&tokenizers));
        for dtype in self.dtypes().into_iter().filter(|_| !made) {
            let output = self.output(&model, dtype, self.bits_of(dtype)?);
            places.write(&output)?;
            if self.budget.is_some() {
                places.write(&recipe_of(&output))?;
            }
        }
        self.job.json.iter().try_for_each(|json| places.write(json))
    }

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
