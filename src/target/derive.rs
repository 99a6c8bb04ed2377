//! Facets that rows speak of and no attribute says: computed from others, or from constants.
//! [`Form`] lists them.

use super::form::{Facet, Form};
use crate::{
    infer::Facts,
    ir::{AttributeValue, DataType, Model, Node, NodeId, Tensor},
    schema::OpSchema,
    verify::contracts::constant_origin,
};

pub(super) fn derive(form: &mut Form, model: &Model, facts: &Facts, node: &Node) {
    match (form.domain(), form.op_type()) {
        ("com.microsoft", "MatMulNBits") => {
            let k = form.number("K");
            blocks(form, k);
        }
        ("com.microsoft", "GatherBlockQuantized") => {
            let row = unpacked_row(form);
            blocks(form, row);
        }
        ("", "Conv" | "ConvInteger" | "QLinearConv") => padded(form, node),
        ("", "MatMul") if is_rotated_half(form, model, facts, node) => {
            form.set("rotated", Facet::Int(1));
        }
        _ => {}
    }
}

/// A Transpose under a product: see [`rotated_operands`].
pub(crate) struct Rotated {
    pub(crate) transpose: NodeId,
    /// There are Casts between.
    cast: bool,
    /// The other operand is a constant.
    by_constant: bool,
}

/// The Transposes that move the first axis to the last or last but one place, and leave the order of the
/// others, and of which the product `node` has an operand.
///
/// ONNX Runtime makes one operator of both when it loads the model, and ends there (a fault, not an
/// error) in some cases where the Transpose is of float16.
pub(crate) fn rotated_operands(model: &Model, node: &Node) -> Vec<Rotated> {
    let [Some(a), Some(b)] = [node.input(0), node.input(1)] else {
        return Vec::new();
    };
    let operand = |v, other| {
        let (mut made, mut cast) = (model.producer(v)?, false);
        // These go when the model is loaded.
        while model.nodes[made].is("Cast") || model.nodes[made].is("Identity") {
            cast |= model.nodes[made].is("Cast");
            made = model.producer(model.nodes[made].input(0)?)?;
        }
        let rotated = Rotated {
            transpose: made,
            cast,
            by_constant: constant_origin(model, other).is_some(),
        };
        is_rotation(&model.nodes[made]).then_some(rotated)
    };
    [operand(a, b), operand(b, a)]
        .into_iter()
        .flatten()
        .collect()
}

fn is_rotation(node: &Node) -> bool {
    let perm = node.attribute("perm").filter(|_| node.is("Transpose"));
    let Some(AttributeValue::Ints(perm)) = perm else {
        return false;
    };
    let first = perm.iter().position(|&axis| axis == 0);
    let others = perm.iter().filter(|&&axis| axis != 0);
    perm.len() > 2 && others.is_sorted() && first.is_some_and(|first| first + 2 >= perm.len())
}

/// Whether the fault of [`rotated_operands`] happens at `node`: in a float product of what is cast from half,
/// and in a half product with a constant, unless what is transposed is computed in float for lack
/// of a kernel.
fn is_rotated_half(form: &Form, model: &Model, facts: &Facts, node: &Node) -> bool {
    let half = Some(DataType::Float16);
    rotated_operands(model, node).into_iter().any(|r| {
        let source = model.nodes[r.transpose].input(0);
        let made = source.and_then(|v| model.producer(v));
        match form.get("A") {
            Some(Facet::Type(DataType::Float)) => {
                r.cast && source.and_then(|v| facts.dtype(v)) == half
            }
            Some(Facet::Type(DataType::Float16)) => {
                let native = made.is_none_or(|m| model.nodes[m].is("Cast"));
                !r.cast && r.by_constant && native
            }
            _ => false,
        }
    })
}

/// The last extent of a table in elements; uint8 tables hold several in a byte.
fn unpacked_row(form: &Form) -> Option<i64> {
    let last = form.number("data.last")?;
    let bits = form.number("bits")?;
    match form.get("data")? {
        Facet::Type(DataType::Uint8) if bits > 0 => last.checked_mul(8 / bits.min(8)),
        Facet::Type(_) => Some(last),
        _ => None,
    }
}

pub(super) fn blocks(form: &mut Form, row: Option<i64>) {
    let size = form.number("block_size").filter(|&b| b > 0);
    let facet = |number: Option<i64>| number.map_or(Facet::Unknown, Facet::Int);
    let both = row.zip(size);
    let rest = both.map(|(row, size)| row % size);
    let blocks = both.map(|(row, size)| row / size + i64::from(row % size > 0));
    form.set("blocks", facet(blocks));
    form.set("k_rest", facet(rest));
}

fn padded(form: &mut Form, node: &Node) {
    let padding = match node.attribute("auto_pad") {
        None => Some(false),
        Some(AttributeValue::String(s)) => match &s[..] {
            b"NOTSET" | b"VALID" => Some(false),
            // How much it is depends on the shape.
            _ => None,
        },
        Some(_) => None,
    };
    let pads = match node.attribute("pads") {
        None => Some(false),
        Some(AttributeValue::Ints(pads)) => Some(pads.iter().any(|&p| p != 0)),
        Some(_) => None,
    };
    let padded = padding.zip(pads).map(|(a, b)| i64::from(a || b));
    form.set("padded", padded.map_or(Facet::Unknown, Facet::Int));
}

/// What the constant zero points of `node` are.
pub(super) fn zero_points(form: &mut Form, model: &Model, node: &Node, schema: &OpSchema) {
    let inputs = schema.inputs.iter().zip(&node.inputs);
    for (param, value) in inputs.filter(|i| i.0.name.ends_with("zero_point")) {
        let Some(value) = *value else { continue };
        let elements = constant_origin(model, value).and_then(elements);
        let (differs, same) = match elements.as_deref() {
            Some([first, others @ ..]) if others.iter().all(|o| o == first) => {
                (Facet::Int(0), Facet::Int(*first))
            }
            Some(_) => (Facet::Int(1), Facet::Unknown),
            None => (Facet::Unknown, Facet::Unknown),
        };
        form.set(format!("{}.differs", param.name), differs);
        form.set(format!("{}.value", param.name), same);
    }
}

/// Zero points are as many as channels at most; a larger constant is no such thing.
const MOST_BYTES: u64 = 1 << 20;

/// The elements of an 8- or 32-bit integer tensor that is not large.
fn elements(tensor: &Tensor) -> Option<Vec<i64>> {
    if tensor.byte_len() > MOST_BYTES {
        return None;
    }
    let bytes = tensor.data()?.read_all().ok()?;
    match tensor.dtype {
        DataType::Uint8 => Some(bytes.iter().map(|&b| i64::from(b)).collect()),
        DataType::Int8 => Some(bytes.iter().map(|&b| i64::from(b as i8)).collect()),
        DataType::Int32 => {
            let words = bytes.as_chunks::<4>().0.iter();
            Some(words.map(|w| i64::from(i32::from_le_bytes(*w))).collect())
        }
        _ => None,
    }
}
