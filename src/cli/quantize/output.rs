//! Where outputs go.

use std::{
    path::{Path, PathBuf},
    slice,
};

use onnxq::Result;

use super::{Dtype, QuantizeArgs};
use crate::cli::{
    context::{model_path, output_path},
    package::Folder,
    places::Places,
};

/// Where the recipe of an output goes.
pub(super) fn recipe_of(output: &Path) -> PathBuf {
    output.with_extension("recipe.toml")
}

impl QuantizeArgs {
    /// Fails where an output would be written over a file that is read, other than the model itself, or over one that
    /// `folder` keeps, or has no folder.
    pub(super) fn check_outputs(&self, folder: Option<&Folder<'_>>) -> Result<()> {
        let model = model_path(&self.job.read.model)?;
        if !model.is_file() {
            // Opening it says so, and better than what its folder lacks.
            return Ok(());
        }
        let mut read = self.check.how.tokenizers(slice::from_ref(&model));
        for step in self.before()?.steps() {
            read.extend(step.options.files().map(Path::to_path_buf));
        }
        let (calibrate, check) = (&self.calibrate.calibrate, &self.check.check);
        let named = [&self.recipe, calibrate, check];
        let mut places = Places::reading(read.iter().chain(named.into_iter().flatten()));
        for dtype in self.dtypes() {
            let output = self.output(&model, dtype, self.bits_of(dtype)?);
            let recipe = self.budget.map(|_| recipe_of(&output));
            let mut written = [output].into_iter().chain(recipe);
            match folder {
                Some(folder) => written.try_for_each(|file| folder.check_name(&file))?,
                None => written.try_for_each(|file| places.write(&file))?,
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
