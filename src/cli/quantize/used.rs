//! Options that nothing has a use for.

use onnxq::{
    Error, Result,
    quant::{Method, Needs},
};

use super::{Dtype, QuantizeArgs};
use crate::cli::context::is_folder;

impl QuantizeArgs {
    /// Refuses options that none of the dtypes has a use for, and several outputs in one file.
    pub(super) fn check_used(&self) -> Result<()> {
        if let [_, _, ..] = self.dtype.as_slice()
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
            self.dtype.iter().any(|d| d.in_blocks()),
            self.dtype.iter().any(|d| d.is_half()),
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
                self.dtype.iter().any(|&d| d != Dtype::Fp16),
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

    /// Refuses a calibration that nothing is decided by.
    fn check_calibration(&self) -> Result<()> {
        let used = |d: &Dtype| d.is_half() || d.in_blocks();
        if self.calibrate.calibrate.is_none() {
            return Ok(());
        }
        if !self.dtype.iter().any(used) {
            return Err(Error::input(
                "--calibrate: it is for codes in blocks and what becomes half; expected --dtype q4, q4f16, q2, \
                 q2f16 or fp16",
            ));
        }
        match self.method.filter(|m| m.needs() == Needs::Nothing) {
            Some(method) if self.budget.is_none() && !self.dtype.iter().any(|d| d.is_half()) => {
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
