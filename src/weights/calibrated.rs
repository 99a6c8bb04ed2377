//! What a calibration found of weights, for passes that quantize them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Layout, MatrixView};
use crate::{
    error::{Error, Result},
    ir::{Data, Model},
    quant::{BlockSpec, Buffers, divided, multiply_scales},
};

/// What tells the weights of a model apart: a constant, and how it is read as a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
#[derive(Clone, Debug, Default)]
pub struct Calibrated {
    /// Of the channels of each weight: the mean square of what they are multiplied by, `[k]`.
    pub importance: HashMap<WeightKey, Arc<[f32]>>,
    /// Codes that were chosen already.
    pub blocks: HashMap<(WeightKey, BlockSpec), Blocks>,
    /// Weights that are not as they were then, but multiplied by scales of their channels, by which the
    /// activations were divided.
    pub scaled: HashSet<WeightKey>,
}

impl Calibrated {
    /// Tells that the constant `name` is another one now: codes that were chosen are not its own.
    pub fn change(&mut self, name: &str) {
        self.blocks.retain(|(weight, _), _| weight.name != name);
    }

    /// Tells that the weights `keys`, which read the same activation, were multiplied by `scales`, one
    /// for each of their columns, and the activation divided.
    pub fn scale(&mut self, keys: &[WeightKey], scales: &[f32]) {
        for key in keys {
            if let Some(importance) = self.importance.get_mut(key) {
                *importance = divided(importance, scales).into();
            }
            self.scaled.insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::ScaleType;

    #[test]
    fn what_is_known_of_a_changed_weight() {
        let key = |name: &str| WeightKey {
            name: name.to_owned(),
            layout: Layout::Rows,
            n: 1,
            k: 2,
        };
        let spec = BlockSpec::new(4, 16, true, ScaleType::F32).unwrap();
        let empty = || Data::Bytes(Vec::new().into());
        let mut known = Calibrated::default();
        for name in ["w", "v"] {
            let blocks = Blocks {
                codes: empty(),
                scales: empty(),
                zero_points: None,
            };
            known.importance.insert(key(name), [4.0, 9.0].into());
            known.blocks.insert((key(name), spec), blocks);
        }
        known.change("w");
        known.scale(&[key("w")], &[1.0, 3.0]);
        assert_eq!(*known.importance[&key("w")], [4.0, 1.0]);
        assert_eq!(*known.importance[&key("v")], [4.0, 9.0]);
        assert!(known.blocks.keys().all(|(k, _)| *k == key("v")));
        assert_eq!(known.scaled, [key("w")].into());
    }
}
