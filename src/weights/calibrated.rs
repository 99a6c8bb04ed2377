//! What a calibration found of weights, for passes that quantize them.

use std::{collections::HashMap, sync::Arc};

use super::{Layout, MatrixView};
use crate::{
    error::{Error, Result},
    ir::{Data, Model},
    quant::{BlockSpec, Buffers, multiply_scales},
};

/// What tells the weights of a model apart: a constant, and how it is read as a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightKey {
    /// The name of the constant.
    pub name: String,
    /// Whether rows of n or of k lie one after another.
    pub layout: Layout,
    /// Rows.
    pub n: u64,
    /// Columns: terms of a product.
    pub k: u64,
}

impl WeightKey {
    /// That of `matrix`, a weight of `model`.
    pub fn of(model: &Model, matrix: &MatrixView) -> WeightKey {
        WeightKey {
            name: model.values[matrix.weight.root].name.to_string(),
            layout: matrix.layout,
            n: matrix.n,
            k: matrix.k,
        }
    }
}

/// A quantized weight, as [`quantize_rows`](crate::quant::quantize_rows) lays it out.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Codes, rows of whole blocks.
    pub codes: Data,
    /// Scales.
    pub scales: Data,
    /// Zero points, unless symmetric.
    pub zero_points: Option<Data>,
}

impl Blocks {
    /// The elements, `[n, k]`.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn decode(&self, spec: &BlockSpec, n: usize, k: usize) -> Result<Vec<f32>> {
        let read = |data: &Data| Ok::<_, Error>(data.read_all()?.to_vec());
        let buffers = Buffers {
            codes: read(&self.codes)?,
            scales: read(&self.scales)?,
            zero_points: self.zero_points.as_ref().map_or(Ok(Vec::new()), read)?,
        };
        Ok(buffers.decode(spec, n, k))
    }

    /// With all scales multiplied by `factor`, and rows of codes of `row` bytes, which
    /// are no more than there are.
    ///
    /// # Errors
    /// The data cannot be read; a scale overflows its type.
    pub fn adapted(&self, spec: &BlockSpec, k: u64, factor: f32, row: u64) -> Result<Blocks> {
        let mut adapted = self.clone();
        if factor != 1.0 {
            let mut scales = self.scales.read_all()?.to_vec();
            multiply_scales(spec.scale(), &mut scales, factor)
                .map_err(|e| Error::input(e.to_string()))?;
            adapted.scales = Data::Bytes(scales.into());
        }
        let padded = spec.codes_len(1, k as usize);
        if (row as usize) < padded {
            let codes = self.codes.read_all()?;
            let rows = codes.chunks(padded).flat_map(|r| &r[..row as usize]);
            adapted.codes = Data::Bytes(rows.copied().collect::<Vec<u8>>().into());
        }
        Ok(adapted)
    }
}

/// What a calibration found.
#[derive(Debug, Default)]
pub struct Calibrated {
    /// Of the channels of each weight: the mean square of what they are multiplied by, `[k]`.
    pub importance: HashMap<WeightKey, Arc<[f32]>>,
    /// Codes that were chosen already.
    pub blocks: HashMap<(WeightKey, BlockSpec), Blocks>,
}
