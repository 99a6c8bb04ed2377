//! Options that nothing has a use for.

use std::path::PathBuf;

use onnxq::{
    Error, Result,
    package::{models, originals},
    quant::{Method, Needs},
};

use super::{Dtype, QuantizeArgs};
use crate::cli::{
    context::{is_folder, listed},
    package::Folder,
};

impl QuantizeArgs {
    /// Refuses options that none of the dtypes has a use for, and several outputs in one file.
    pub(super) fn check_used(&self) -> Result<()> {
        let dtypes = self.dtypes();
        if let [_, _, ..] = dtypes.as_slice()
            && let Some(output) = &self.output
            && !is_folder(output)
        {
            return Err(Error::input(format!(
                "-o `{}`: several dtypes make several files; expected a folder (`{}/`)",
                output.display(),
                output.display()
            )));
        }
        let (blocks, half) = (
            dtypes.iter().any(|d| d.in_blocks()),
            dtypes.iter().any(|d| d.is_half()),
        );
        let in_blocks = "q2, q2f16, q4 or q4f16";
        let given = [
            ("--block-size", self.block_size.is_some(), blocks, in_blocks),
            ("--format", self.format.is_some(), blocks, in_blocks),
            ("--method", self.method.is_some(), blocks, in_blocks),
            (
                "--accuracy-level",
                self.accuracy_level.is_some(),
                blocks,
                in_blocks,
            ),
            (
                "--io-types",
                self.io_types.is_some(),
                half,
                "fp16, q2f16 or q4f16",
            ),
            ("--symmetric", self.symmetric, blocks, in_blocks),
            (
                "--asymmetric",
                self.asymmetric,
                dtypes.iter().any(|&d| d != Dtype::Fp16),
                "a dtype that quantizes",
            ),
        ];
        match given
            .into_iter()
            .find(|(_, given, used, _)| *given && !used)
        {
            None => self.check_calibration(),
            Some((option, _, _, expected)) => Err(Error::input(format!(
                "{option}: no dtype given has a use for it; expected --dtype {expected}"
            ))),
        }
    }

    /// The models to quantize: the one that is named, or all of a folder that are no forms of others.
    ///
    /// # Errors
    /// There are several, and an option is for one; or a name given is none of theirs.
    pub(super) fn models(&self) -> Result<Vec<PathBuf>> {
        let path = &self.job.read.model;
        let models = match path.is_dir() {
            true => originals(&models(path)?),
            false => vec![path.clone()],
        };
        let stems: Vec<String> = models
            .iter()
            .map(|m| {
                m.file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let named = self.dtype.iter().filter_map(|a| a.model.as_ref());
        if let Some(unknown) = named.into_iter().find(|name| !stems.contains(name)) {
            return Err(Error::input(format!(
                "--dtype: there is no model `{unknown}`, expected {}",
                stems.join(", ")
            )));
        }
        let alone = [
            (
                self.output.as_deref().is_some_and(|o| !is_folder(o)),
                "-o FILE",
            ),
            (self.calibrate.calibrate.is_some(), "--calibrate"),
            (self.recipe.is_some(), "--recipe"),
            (self.check.is_asked(), "--check"),
            (self.job.read.how.verify_sha.is_some(), "--verify-sha"),
        ];
        match alone.iter().find(|(given, _)| *given && models.len() > 1) {
            None => Ok(models),
            Some((_, option)) => Err(Error::input(format!(
                "{option} is for one model, and folder `{}` holds {}; expected a folder for -o, or the path of one: {}",
                path.display(),
                models.len(),
                listed(&models)
            ))),
        }
    }

    /// Refuses what transformers.js has no dtype for, where it is to find it.
    pub(super) fn check_names(&self, folder: &Folder<'_>) -> Result<()> {
        match self.bits.as_deref() {
            Some("8") if folder.is_for_transformers_js() => Err(Error::input(
                "--bits 8: transformers.js has no dtype for blocks of 8 bits, and would not find the model; expected \
                 --layout flat, or --dtype q8",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a calibration that nothing is decided by.
    fn check_calibration(&self) -> Result<()> {
        let used = |d: &Dtype| d.is_half() || d.in_blocks();
        if self.calibrate.calibrate.is_none() {
            return Ok(());
        }
        let dtypes = self.dtypes();
        if !dtypes.iter().any(used) {
            return Err(Error::input(
                "--calibrate: it is for codes in blocks and what becomes half; expected --dtype q4, q4f16, q2, \
                 q2f16 or fp16",
            ));
        }
        match self.method.filter(|m| m.needs() == Needs::Nothing) {
            Some(method) if self.budget.is_none() && !dtypes.iter().any(|d| d.is_half()) => {
                Err(Error::input(format!(
                    "--calibrate: --method {method} has no use for it; expected {}, {} or {}",
                    Method::Imatrix,
                    Method::Awq,
                    Method::Gptq
                )))
            }
            _ => Ok(()),
        }
    }
}
