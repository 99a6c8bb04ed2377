//! Invariant 28: the rules of the contrib operators that onnxq writes.
//!
//! `com.microsoft` operators are outside ONNX's specification, so its checker says nothing
//! of them, and ONNX Runtime looks at shapes only when it runs a node, if at all. Here are
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
            if n.domain() != "com.microsoft" || functions.called(n).is_some() {
                continue;
            }
            let contract: fn(&mut Check<'_, '_>) -> Option<()> = match &*n.op_type {
                "MatMulNBits" => matmul_nbits,
                "GatherBlockQuantized" => gather_block_quantized,
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

/// `a / b`, rounded up.
fn div_up(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b > 0)
}

const SCALE_TYPES: [DataType; 3] = [DataType::Float, DataType::Float16, DataType::Bfloat16];

fn matmul_nbits(c: &mut Check<'_, '_>) -> Option<()> {
    let positive = |i: i64| i > 0;
    let k = c.int("K", None, positive, "the number of rows of the weight");
    let n = c.int("N", None, positive, "the number of columns of the weight");
    let packing = c.bits_and_block(None);
    let level = |l| (0..=4).contains(&l);
    c.int("accuracy_level", Some(0), level, "0 to 4");
    let a = c.required(0, "A");
    let b = c.required(1, "B");
    let scales = c.required(2, "scales");

    let scale_type = c.dtype(scales);
    c.one_of_types("scales", scale_type, &SCALE_TYPES);
    let (a_type, bias_type) = (c.dtype(a), c.dtype(c.node().input(5)));
    for (name, ty) in [("A", a_type), ("bias", bias_type)] {
        if let Some(scale_type) = scale_type {
            c.one_of_types(name, ty, &[scale_type]);
        }
    }
    let b_type = c.dtype(b);
    c.one_of_types("B", b_type, &[DataType::Uint8]);
    let group_type = c.dtype(c.node().input(4));
    c.one_of_types("g_idx", group_type, &[DataType::Int32]);

    let (k, n, (bits, block)) = (k?, n?, packing?);
    last_axis(c, a?, k);
    let too_large = |c: &mut Check<'_, '_>| {
        let found = format!("`K` {k}, `N` {n} and `block_size` {block}");
        c.fault(found, "a weight of fewer than 2^63 elements");
    };
    let blocks = div_up(k, block);
    if element_count(&[n, blocks, block]).is_none_or(|e| e > i64::MAX as u64 / 8) {
        too_large(c);
        return None;
    }
    if c.node().int("weight_prepacked", 0)? == 0 {
        c.one_of_shapes(1, "B", &[&[n, blocks, block * bits / 8]]);
    }
    c.one_of_shapes(2, "scales", &[&[n, blocks], &[n * blocks]]);
    let zero_type = c.dtype(c.node().input(3));
    match zero_type {
        Some(DataType::Uint8) => {
            let row = div_up(blocks * bits, 8);
            c.one_of_shapes(3, "zero_points", &[&[n, row], &[n * row]]);
        }
        Some(_) => {
            let like_scales = [DataType::Uint8, scale_type.unwrap_or(DataType::Float)];
            c.one_of_types("zero_points", zero_type, &like_scales);
            c.one_of_shapes(3, "zero_points", &[&[n, blocks], &[n * blocks]]);
        }
        None => {}
    }
    c.one_of_shapes(4, "g_idx", &[&[k], &[blocks * block]]);
    c.one_of_shapes(5, "bias", &[&[n]]);
    Some(())
}

/// The last axis of `a` is `k`, as far as its type tells.
fn last_axis(c: &mut Check<'_, '_>, a: ValueId, k: i64) -> Option<()> {
    let ty = c.report.model.type_of(a)?;
    let shape = ty.as_tensor()?.shape.as_ref()?;
    let fits = match shape.last().map(|d| &d.size) {
        None => false,
        Some(DimSize::Known(d)) => *d == k || *d < 0,
        Some(DimSize::Symbol(_) | DimSize::Unknown) => true,
    };
    if !fits {
        let found = format!("`A` is {}", ty.as_tensor()?);
        c.fault(found, format!("a last axis of `K` = {k}"));
    }
    Some(())
}

fn gather_block_quantized(c: &mut Check<'_, '_>) -> Option<()> {
    let data = c.required(0, "data");
    let indices = c.required(1, "indices");
    let scales = c.required(2, "scales");
    let index_type = c.dtype(indices);
    c.one_of_types("indices", index_type, &[DataType::Int32, DataType::Int64]);
    let scale_type = c.dtype(scales);
    c.one_of_types("scales", scale_type, &SCALE_TYPES);

    use DataType::{
        Float4e2m1, Float8e4m3fn, Float8e4m3fnuz, Float8e5m2, Float8e5m2fnuz, Int4, Uint4, Uint8,
    };
    let dtype = c.dtype(data)?;
    let recent = [
        Float8e4m3fn,
        Float8e4m3fnuz,
        Float8e5m2,
        Float8e5m2fnuz,
        Float4e2m1,
    ];
    if recent.contains(&dtype) {
        return None;
    }
    c.one_of_types("data", Some(dtype), &[Int4, Uint4, Uint8]);
    let zero_type = c.dtype(c.node().input(3));
    c.one_of_types("zero_points", zero_type, &[dtype]);
    let packing = c.bits_and_block(Some(128));

    let dims = c.constant(0)?.dims;
    let rank = dims.len() as i64;
    let inside = |a: i64| (-rank..rank).contains(&a);
    let expected = "an axis of `data`";
    let gather = c.int("gather_axis", Some(0), inside, expected);
    let quantize = c.int("quantize_axis", Some(1), inside, expected);
    let axis = |a: i64| if a < 0 { a + rank } else { a };
    let (gather, quantize) = (axis(gather?), axis(quantize?));
    let (bits, block) = packing?;
    let packed = dtype == Uint8;
    if gather == quantize {
        let found = format!("`gather_axis` and `quantize_axis` are both {gather}");
        c.fault(found, "different axes");
    }
    if packed && (gather != 0 || quantize != rank - 1) {
        let found = format!("`gather_axis` {gather}, `quantize_axis` {quantize} for uint8 data");
        c.fault(found, format!("0 and {}", rank - 1));
        return None;
    }
    let quantize = quantize as usize;
    let per_byte = if packed { 8 / bits } else { 1 };
    let blocks = div_up(dims[quantize].checked_mul(per_byte)?, block);
    let mut shape = dims;
    shape[quantize] = blocks;
    c.one_of_shapes(2, "scales", &[&shape]);
    if packed {
        shape[quantize] = div_up(blocks * bits, 8);
    }
    c.one_of_shapes(3, "zero_points", &[&shape]);
    Some(())
}

#[cfg(test)]
mod tests;
