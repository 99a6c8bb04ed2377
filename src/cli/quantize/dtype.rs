//! What becomes of the weights, by the names of transformers.js.

use clap::ValueEnum;
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

impl QuantizeArgs {
    /// The dtypes that are asked for, each once.
    pub(super) fn dtypes(&self) -> Vec<Dtype> {
        let mut dtypes: Vec<Dtype> = Vec::new();
        for &dtype in &self.dtype {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        dtypes
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
