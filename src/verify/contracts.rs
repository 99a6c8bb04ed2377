//! Invariant 28: the rules of the operators that quantized models are made of.
//!
//! `com.microsoft` operators are outside ONNX's specification, so its checker says nothing
//! of them, and ONNX Runtime looks at shapes only when it runs a node, if at all; so it does
//! for the scales of `QuantizeLinear` and `DequantizeLinear`. Here are
//! the rules that every version of it agrees on; what one version or device runs is
//! `target`'s subject. An operand is checked when it is constant, also through `Identity`
//! and through a `Reshape` to a constant shape (how a tied embedding is stored once).
//!
//! - `MatMulNBits`: `K`, `N` and `block_size` are given and positive; `block_size` is a
//!   power of two from 16 on, `bits` is 2, 4 or 8, `accuracy_level` 0 to 4. With
//!   `blocks = ceil(K / block_size)`: `B` is uint8 `[N, blocks, block_size * bits / 8]`
//!   (unless `weight_prepacked`); `scales` is `[N, blocks]` or flat; `zero_points` is
//!   uint8 `[N, ceil(blocks * bits / 8)]` or flat, or has the type and a shape of
//!   `scales`; `g_idx` is int32 `[K]` or padded to whole blocks; `bias` is `[N]`. `A`,
//!   `scales` and `bias` have one type: float, float16 or bfloat16. The last axis of `A`
//!   is `K`.
//! - `GatherBlockQuantized`: `bits` and `block_size` (128 unless given) as above. The rank
//!   of `scales` is that of `data`, its extents too, except along `quantize_axis`, where
//!   it has one per block. For uint8 `data`, `gather_axis` is 0, `quantize_axis` the last
//!   axis and not 0, and `data` is packed along it. `zero_points` have the type of `data`
//!   and the shape of `scales`, for uint8 packed along the last axis. `indices` are int32
//!   or int64. (Nothing is checked for float8 and float4 `data`, which are recent.)
//! - `MatMulBnb4`: `K`, `N` and `block_size` (a power of two from 16 on) are given,
//!   `quant_type` is 0 or 1. `B` is uint8 with two codes a byte, `absmax` has one element a
//!   block of the whole weight and the type of `A`, whose last axis is `K`.
//! - `DynamicQuantizeMatMul` and `MatMulIntegerToFloat`: `B` is int8 or uint8 `[K, N]`, scale
//!   and zero point of `B` are one number or `N`, `bias` is `[N]`; zero points have the type of
//!   what they belong to.
//! - `QMoE`, of integer weights: `expert_weight_bits` is 2, 4 or 8, `block_size` as above when
//!   it is given; the weights are uint8 of rank 3, with as many experts as their scales.
//! - `QuantizeLinear`, `DequantizeLinear`: a scale is one number, or from opset 13 on one an
//!   element of `axis`, or from opset 21 on, with `block_size`, one a block along `axis`.
//!   `zero_point` has the shape of the scale, and the type of the codes.

mod integer;
mod linear;
mod nbits;
mod qmoe;

use super::{Code, Reached, Report};
use crate::ir::{
    AttributeValue, Callees, DataType, DimSize, Model, Node, NodeId, Tensor, ValueId, element_count,
};

pub(super) fn check(report: &mut Report<'_>, graphs: &[Reached]) {
    let model = report.model;
    let functions = Callees::of(&model.functions);
    for graph in graphs {
        for &node in &model.graphs[graph.id].nodes {
            let n = &model.nodes[node];
            if functions.called(n).is_some() {
                continue;
            }
            let contract: fn(&mut Check<'_, '_>) -> Option<()> = match (n.domain(), &*n.op_type) {
                ("com.microsoft", "MatMulNBits") => nbits::matmul_nbits,
                ("com.microsoft", "GatherBlockQuantized") => nbits::gather_block_quantized,
                ("com.microsoft", "MatMulBnb4") => integer::matmul_bnb4,
                ("com.microsoft", "DynamicQuantizeMatMul") => integer::dynamic_quantize_matmul,
                ("com.microsoft", "MatMulIntegerToFloat") => integer::matmul_integer_to_float,
                ("com.microsoft", "QMoE") => qmoe::qmoe,
                ("", "QuantizeLinear" | "DequantizeLinear") => linear::linear,
                _ => continue,
            };
            // `None` says that something needed is unknown, or was reported.
            let _ = contract(&mut Check { report, node });
        }
    }
}

/// Element type and extents of a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstantShape {
    /// Element type.
    pub dtype: DataType,
    /// Extents.
    pub dims: Vec<i64>,
}

/// Element type and shape of `value` when it is constant: an initializer, a `Constant`,
/// or one of those behind `Identity` nodes and `Reshape` nodes to a constant shape.
pub fn constant_shape(model: &Model, value: ValueId) -> Option<ConstantShape> {
    let (tensor, reshapes) = origin(model, value)?;
    let dtype = tensor.dtype;
    let mut dims = tensor.dims.clone();
    for node in reshapes.into_iter().rev() {
        dims = reshaped(model, &model.nodes[node], &dims)?;
    }
    Some(ConstantShape { dtype, dims })
}

/// The constant that `value` has the elements of, in their order, as in
/// [`constant_shape`].
pub fn constant_origin(model: &Model, value: ValueId) -> Option<&Tensor> {
    Some(origin(model, value)?.0)
}

/// How many nodes a constant is looked for behind: real chains have one or two, and a
/// broken model may have a cycle.
const CHAIN: usize = 32;

/// The constant behind `value`, and the `Reshape` nodes on the way, last one first.
fn origin(model: &Model, mut value: ValueId) -> Option<(&Tensor, Vec<NodeId>)> {
    let mut reshapes = Vec::new();
    for _ in 0..CHAIN {
        if let Some(tensor) = model.tensor(value) {
            return Some((tensor, reshapes));
        }
        let node = model.producer(value)?;
        let n = &model.nodes[node];
        if n.is("Constant") {
            return match n.attribute("value")? {
                AttributeValue::Tensor(t) => Some((t, reshapes)),
                _ => None,
            };
        }
        if n.is("Reshape") {
            reshapes.push(node);
        } else if !n.is("Identity") {
            return None;
        }
        value = n.input(0)?;
    }
    None
}

fn reshaped(model: &Model, node: &Node, dims: &[i64]) -> Option<Vec<i64>> {
    let shape = constant_origin(model, node.input(1)?)?;
    // A shape has as many elements as the result has axes.
    if shape.dtype != DataType::Int64 || shape.byte_len() > 1024 {
        return None;
    }
    let bytes = shape.data()?.read_all().ok()?;
    let numbers = bytes.chunks_exact(8);
    let mut new: Vec<i64> = numbers
        .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
        .collect();
    if node.int("allowzero", 0)? == 0 {
        for (i, d) in new.iter_mut().enumerate().filter(|(_, d)| **d == 0) {
            *d = *dims.get(i)?;
        }
    }
    let count = element_count(dims)?;
    if let Some(free) = new.iter().position(|&d| d == -1) {
        new[free] = 1;
        let others = element_count(&new).filter(|&n| n > 0)?;
        new[free] = i64::try_from(count / others).ok()?;
    }
    (element_count(&new)? == count).then_some(new)
}

/// One node under its contract.
struct Check<'a, 'm> {
    report: &'a mut Report<'m>,
    node: NodeId,
}

impl<'m> Check<'_, 'm> {
    fn node(&self) -> &'m Node {
        &self.report.model.nodes[self.node]
    }

    fn fault(&mut self, found: impl Into<String>, expected: impl Into<String>) {
        let place = self.report.node(self.node);
        let op = &self.node().op_type;
        let found = format!("{op}: {}", found.into());
        self.report.add(Code::Contract, place, found, expected);
    }

    /// The integer attribute `name`, which must satisfy `ok`. `None` when it does not, or
    /// when the caller of a function gives it.
    fn int(
        &mut self,
        name: &str,
        default: Option<i64>,
        ok: impl Fn(i64) -> bool,
        expected: &str,
    ) -> Option<i64> {
        let found = match self.node().attribute(name) {
            Some(AttributeValue::Int(i)) => Some(*i),
            Some(AttributeValue::Reference { .. }) => return None,
            Some(other) => {
                let found = format!("attribute `{name}` is a {:?}", other.kind());
                self.fault(found, "an integer");
                return None;
            }
            None => default,
        };
        match found {
            Some(i) if ok(i) => return Some(i),
            Some(i) => self.fault(format!("attribute `{name}` is {i}"), expected),
            None => self.fault(format!("attribute `{name}` is missing"), expected),
        }
        None
    }

    fn bits_and_block(&mut self, default_block: Option<i64>) -> Option<(i64, i64)> {
        let bits = self.int("bits", Some(4), |b| [2, 4, 8].contains(&b), "2, 4 or 8");
        let power = |b: i64| b >= 16 && b.count_ones() == 1;
        let expected = "a power of two from 16 on";
        let block = self.int("block_size", default_block, power, expected);
        Some((bits?, block?))
    }

    /// Operand `index`, which is not optional.
    fn required(&mut self, index: usize, name: &str) -> Option<ValueId> {
        let value = self.node().input(index);
        if value.is_none() {
            self.fault(format!("input {index}, `{name}`, is missing"), "an operand");
        }
        value
    }

    fn dtype(&self, value: Option<ValueId>) -> Option<DataType> {
        let model = self.report.model;
        let known = constant_shape(model, value?).map(|c| c.dtype);
        known.or_else(|| model.dtype_of(value?))
    }

    /// The shape of operand `index`, when it is constant.
    fn constant(&self, index: usize) -> Option<ConstantShape> {
        constant_shape(self.report.model, self.node().input(index)?)
    }

    fn one_of_types(&mut self, name: &str, found: Option<DataType>, allowed: &[DataType]) {
        if let Some(found) = found.filter(|t| !allowed.contains(t)) {
            let allowed: Vec<&str> = allowed.iter().map(|t| t.name()).collect();
            self.fault(format!("`{name}` is {found}"), allowed.join(" or "));
        }
    }

    /// The last axis of `A`, which is `a`, is `k`, as far as its type tells.
    fn last_axis(&mut self, a: ValueId, k: i64) -> Option<()> {
        let ty = self.report.model.type_of(a)?;
        let shape = ty.as_tensor()?.shape.as_ref()?;
        let fits = match shape.last().map(|d| &d.size) {
            None => false,
            Some(DimSize::Known(d)) => *d == k || *d < 0,
            Some(DimSize::Symbol(_) | DimSize::Unknown) => true,
        };
        if !fits {
            let found = format!("`A` is {}", ty.as_tensor()?);
            self.fault(found, format!("a last axis of `K` = {k}"));
        }
        Some(())
    }

    /// Operand `index` has `count` elements, in whatever shape, when its shape is known.
    fn count(&mut self, index: usize, name: &str, count: i64) {
        let Some(found) = self.constant(index).map(|c| c.dims) else {
            return;
        };
        if element_count(&found) != u64::try_from(count).ok() {
            let found = format!("`{name}` has shape {found:?}");
            self.fault(found, format!("{count} elements"));
        }
    }

    /// Operand `index` has the type of operand `like`, where both are known.
    fn type_like(&mut self, index: usize, name: &str, like: usize) {
        let types = [index, like].map(|i| self.dtype(self.node().input(i)));
        if let [found, Some(expected)] = types {
            self.one_of_types(name, found, &[expected]);
        }
    }

    /// Operand `index` has one of `shapes`, when its shape is known.
    fn one_of_shapes(&mut self, index: usize, name: &str, shapes: &[&[i64]]) {
        let Some(found) = self.constant(index).map(|c| c.dims) else {
            return;
        };
        if !shapes.iter().any(|s| **s == *found) {
            let shapes: Vec<String> = shapes.iter().map(|s| format!("{s:?}")).collect();
            let found = format!("`{name}` has shape {found:?}");
            self.fault(found, shapes.join(" or "));
        }
    }
}

const SCALE_TYPES: [DataType; 3] = [DataType::Float, DataType::Float16, DataType::Bfloat16];

/// `a / b`, rounded up.
fn div_up(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b > 0)
}

#[cfg(test)]
mod tests;
