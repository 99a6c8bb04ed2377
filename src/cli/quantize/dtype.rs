//! What becomes of the weights, by the names of transformers.js.

use std::ffi::OsStr;

use clap::{
    Arg, Command, ValueEnum,
    builder::{EnumValueParser, PossibleValue, TypedValueParser},
};
use onnxq::{Error, Result};

use super::QuantizeArgs;

/// Names of transformers.js, and what they mean there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Dtype {
    /// Everything in half precision
    Fp16,
    /// Weights in blocks of 2 bits; everything else keeps its type
    Q2,
    /// Weights in blocks of 2 bits; everything else in half precision
    Q2f16,
    /// Weights in blocks of 4 bits; everything else keeps its type
    Q4,
    /// Weights in blocks of 4 bits; everything else in half precision
    Q4f16,
    /// Weights and activations of 8 bits, with the signs that the operators in the model run with
    Q8,
    /// Weights of 8 bits with sign, activations quantized while the model runs
    Int8,
    /// Weights of 8 bits without sign, activations quantized while the model runs
    Uint8,
}

impl Dtype {
    /// As on the command line.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Dtype::Fp16 => "fp16",
            Dtype::Q2 => "q2",
            Dtype::Q2f16 => "q2f16",
            Dtype::Q4 => "q4",
            Dtype::Q4f16 => "q4f16",
            Dtype::Q8 => "q8",
            Dtype::Int8 => "int8",
            Dtype::Uint8 => "uint8",
        }
    }

    pub(in crate::cli) fn in_blocks(self) -> bool {
        matches!(self, Dtype::Q2 | Dtype::Q2f16 | Dtype::Q4 | Dtype::Q4f16)
    }

    pub(super) fn is_half(self) -> bool {
        matches!(self, Dtype::Fp16 | Dtype::Q2f16 | Dtype::Q4f16)
    }
}

/// A dtype, for one model or for all that have none of their own.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Asked {
    /// The model's name, without `.onnx`.
    pub(super) model: Option<String>,
    dtype: Dtype,
}

/// Reads `DTYPE` and `NAME=DTYPE`.
#[derive(Clone)]
pub(super) struct AskedParser;

impl TypedValueParser for AskedParser {
    type Value = Asked;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> std::result::Result<Asked, clap::Error> {
        let text = value.to_string_lossy();
        let (model, name) = match text.rsplit_once('=') {
            Some((model, name)) => (Some(model.trim_end_matches(".onnx").to_owned()), name),
            None => (None, &*text),
        };
        let dtype = EnumValueParser::new().parse_ref(command, arg, name.as_ref())?;
        Ok(Asked { model, dtype })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let all = Dtype::value_variants().iter();
        Some(Box::new(all.filter_map(Dtype::to_possible_value)))
    }
}

impl QuantizeArgs {
    /// The dtypes that are asked for of the model, each once.
    pub(super) fn dtypes(&self) -> Vec<Dtype> {
        let stem = self.job.read.model.file_stem().unwrap_or_default();
        let asked = |model: Option<&str>| {
            let asked = self
                .dtype
                .iter()
                .filter(move |a| a.model.as_deref() == model);
            asked.map(|a| a.dtype).collect::<Vec<_>>()
        };
        let mut all = asked(Some(&stem.to_string_lossy()));
        if all.is_empty() {
            all = asked(None);
        }
        let mut dtypes: Vec<Dtype> = Vec::new();
        for dtype in all {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        match dtypes.is_empty() {
            // All that is said is of other models.
            true => vec![Dtype::Q4],
            false => dtypes,
        }
    }

    /// The one dtype in blocks that is asked for.
    pub(super) fn one(&self) -> Result<Dtype> {
        match self.dtypes().as_slice() {
            [dtype] if dtype.in_blocks() => Ok(*dtype),
            _ => Err(Error::input(
                "--budget and --recipe are for one output in blocks; expected one --dtype of q4, q4f16, q2, q2f16",
            )),
        }
    }

    /// Bits of a code, where weights are quantized in blocks.
    pub(super) fn bits_of(&self, dtype: Dtype) -> Result<Option<u8>> {
        let own = match dtype {
            Dtype::Q2 | Dtype::Q2f16 => Some(2),
            Dtype::Q4 | Dtype::Q4f16 => Some(4),
            _ => None,
        };
        let Some(bits) = self.bits.as_ref().map(|b| b.parse().expect("a digit")) else {
            return Ok(own);
        };
        match own {
            Some(4) => Ok(Some(bits)),
            Some(own) if own == bits => Ok(Some(own)),
            _ => Err(Error::input(format!(
                "--bits {bits}: it is for --dtype q4 and q4f16, found {}",
                dtype.name()
            ))),
        }
    }
}
