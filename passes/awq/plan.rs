//! Decides for each activation by how much its channels are scaled.

use std::sync::Arc;

use super::{
    Awq,
    fold::Folder,
    products::{Part, Product, largest},
};
use crate::{
    ir::{DataType, Model, NodeId, Use, Uses, ValueId},
    pass::{Left, Reason},
    quant::{BlockSpec, ChannelScales, ScaleType, awq_scales},
    weights::{Calibrated, MatrixView, WeightKey},
};

/// What is scaled, and by how much.
pub(super) struct Plan {
    /// Constants that are multiplied by the scales.
    pub multiplied: Vec<Part>,
    /// Constants that are divided by them.
    pub divided: Vec<Part>,
    /// The weights of which something is known of the activation.
    pub keys: Vec<WeightKey>,
    /// The scales.
    pub found: ChannelScales,
}

/// Rows of all weights of an activation that the search looks at, about.
const ROWS: u64 = 512;

/// Steps of the exponent from 0 to 1.
const STEPS: usize = 20;

pub(super) struct Planner<'m> {
    pub pass: &'m Awq,
    pub model: &'m Model,
    pub uses: &'m Uses,
    pub calibrated: &'m Calibrated,
}

/// A node that multiplies an activation by a weight.
struct Reader {
    node: NodeId,
    product: Product,
    key: WeightKey,
}

impl Planner<'_> {
    /// The plan for what `node` multiplies, if it is the first to do so.
    ///
    /// # Errors
    /// The activation stays.
    pub(super) fn plan(&self, node: NodeId) -> Result<Plan, Left> {
        // No calibration looks into bodies, and a name may be another weight's there.
        if self.model.nodes[node].graph != self.model.main {
            return Err(Left::Ignored);
        }
        let product = Product::of(self.model, node)?.ok_or(Left::Ignored)?;
        let (x, k) = (product.x, product.matrix.k);
        // The first of those of which something is known speaks for all.
        let importance = self.importance(&product).ok_or(Left::Ignored)?;
        if self.first_known(x)? != Some(node) {
            return Err(Left::Ignored);
        }
        let readers = self.readers(x, k)?;
        if readers
            .iter()
            .any(|r| self.calibrated.scaled.contains(&r.key))
        {
            return Err(Left::Ignored);
        }
        let folder = Folder {
            model: self.model,
            uses: self.uses,
            k,
        };
        let divided = folder.parts(x, 0)?;
        let (rows, largest) = self.rows(&readers)?;
        let spec = self.pass.spec(&product.matrix);
        let found = awq_scales(&spec, &importance, &rows, STEPS);
        let found = found.map_err(|e| Left::declined(Reason::NonFinite, e.to_string(), 0))?;
        if found.alpha == 0.0 {
            return Err(Left::Ignored);
        }
        for (reader, largest) in readers.iter().zip(&largest) {
            fits(self.model, &reader.product.matrix, largest, &found.scales)?;
        }
        Ok(Plan {
            multiplied: readers.iter().map(|r| r.product.terms(r.node)).collect(),
            divided,
            keys: readers.into_iter().map(|r| r.key).collect(),
            found,
        })
    }

    /// The mean squares of what `product` multiplies its weight by, if they are known.
    fn importance(&self, product: &Product) -> Option<Arc<[f32]>> {
        let matrix = &product.matrix;
        if !product.terms_last || matrix.k < 2 {
            return None;
        }
        let key = WeightKey::of(self.model, matrix);
        let importance = self.calibrated.importance.get(&key)?;
        (importance.len() as u64 == matrix.k).then(|| importance.clone())
    }

    /// The first node that multiplies `x` by a weight of which something is known.
    fn first_known(&self, x: ValueId) -> Result<Option<NodeId>, Left> {
        for usage in self.uses.of_value(x) {
            if let Use::Operand(node, 0) = *usage
                && let Some(product) = Product::of(self.model, node)?
                && self.importance(&product).is_some()
            {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// All that reads `x`: products whose weights have `k` terms, and may be changed.
    fn readers(&self, x: ValueId, k: u64) -> Result<Vec<Reader>, Left> {
        let model = self.model;
        let uses = self.uses.of_value(x);
        let mut readers = Vec::with_capacity(uses.len());
        for usage in uses {
            let (Use::Operand(node, slot), name) = (*usage, &model.values[x].name) else {
                let message = format!("`{}` is an output", model.values[x].name);
                return Err(Left::declined(Reason::ResultRead, message, 0));
            };
            let product = match slot {
                0 if model.nodes[node].graph == model.home(x) => Product::of(model, node)?,
                _ => None,
            };
            let Some(product) = product.filter(|p| p.terms_last && p.matrix.k == k) else {
                let message = format!(
                    "{} reads `{name}`, too, and does not multiply it by a constant weight",
                    model.label(node)
                );
                return Err(Left::declined(Reason::ResultRead, message, 0));
            };
            product.terms(node).check_alone(model, self.uses)?;
            let key = WeightKey::of(model, &product.matrix);
            readers.push(Reader { node, product, key });
        }
        Ok(readers)
    }

    /// Rows of the weights whose activations are known, evenly from all of them; and the largest
    /// magnitude of each column, of every weight.
    fn rows(&self, readers: &[Reader]) -> Result<(Vec<f32>, Vec<Vec<f32>>), Left> {
        let known = |r: &Reader| self.importance(&r.product).is_some();
        let count: u64 = readers
            .iter()
            .filter(|r| known(r))
            .map(|r| r.product.matrix.n)
            .sum();
        let step = count.div_ceil(ROWS).max(1) as usize;
        let (mut rows, mut seen, mut largest) = (Vec::new(), 0, Vec::new());
        for reader in readers {
            let matrix = &reader.product.matrix;
            let k = matrix.k as usize;
            let elements = matrix.elements()?;
            let mut most = vec![0f32; k];
            for row in elements.chunks_exact(k) {
                if known(reader) {
                    if seen % step == 0 {
                        rows.extend_from_slice(row);
                    }
                    seen += 1;
                }
                // NaN is larger than all numbers.
                let larger = |most: &mut f32, x: &f32| {
                    *most = if x.abs() <= *most { *most } else { x.abs() }
                };
                most.iter_mut()
                    .zip(row)
                    .for_each(|(most, x)| larger(most, x));
            }
            largest.push(most);
        }
        Ok((rows, largest))
    }
}

impl Awq {
    /// How a weight will be quantized.
    fn spec(&self, matrix: &MatrixView) -> BlockSpec {
        let scale = match matrix.compute_type() {
            DataType::Float16 => ScaleType::F16,
            _ => ScaleType::F32,
        };
        BlockSpec::new(self.bits, self.block, self.symmetric, scale)
            .expect("the declared options are what the kernels take")
    }
}

/// Declines where a scaled element would not be finite, or is not.
fn fits(model: &Model, matrix: &MatrixView, most: &[f32], scales: &[f32]) -> Result<(), Left> {
    let weight = &matrix.weight;
    let types = [
        weight.stored,
        weight.dtype,
        weight.rounding.unwrap_or(weight.dtype),
    ];
    let limit = types.map(largest).into_iter().fold(f64::MAX, f64::min);
    let mut products = most.iter().zip(scales);
    let beyond = |(x, s): (&f32, &f32)| !(f64::from(*x) * f64::from(*s) <= limit && x.is_finite());
    match products.any(beyond) {
        false => Ok(()),
        true => {
            let name = &model.values[weight.root].name;
            let message = format!("a scaled element of weight `{name}` would not be finite");
            Err(Left::declined(Reason::NonFinite, message, 0))
        }
    }
}
