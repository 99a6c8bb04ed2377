//! What makes two nodes or two constants the same.

use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Callees, Data, Elements, Model, Node, NodeId, Tensor, ValueId,
        data::DataIdentity,
    },
    schema::{self, AttrDefault, OpSchema, Origin},
};

/// Constants below this size, in bytes, are compared by what they hold; larger ones are
/// `share-weights`'s.
pub(super) const SMALL: u64 = 1 << 10;

/// Operators of two operands that may change places, from opset 7 on: before, only the
/// second one was broadcast. `Max` and `Min` are none of them: which of 0 and -0 they give
/// may depend on the order.
const COMMUTATIVE: &[&str] = &[
    "Add",
    "And",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Equal",
    "Mul",
    "Or",
    "Xor",
];

/// A piece of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Int(i64),
    Bytes(Vec<u8>),
    Operand(Option<ValueId>),
    Data(DataIdentity),
}

/// Equal keys, equal results.
pub(super) type Key = Vec<Part>;

/// The schema of `node`, when the node is known to give equal results for equal operands.
pub(super) fn pure_schema(
    model: &Model,
    functions: &Callees<'_>,
    node: NodeId,
) -> Option<&'static OpSchema> {
    let n = &model.nodes[node];
    let opset = model.opset(n.graph, n.domain())?;
    let standard = matches!(n.domain(), "" | "ai.onnx.ml");
    let pure = standard
        && !schema::is_beyond_table(n.domain(), opset)
        && !crate::schema::is_random(n.domain(), &n.op_type)
        // Which is one of them in training.
        && !n.is("Dropout")
        && n.subgraphs().next().is_none()
        && functions.called(n).is_none();
    let schema = schema::lookup(n.domain(), &n.op_type, opset)?;
    (pure && schema.origin == Origin::Onnx).then_some(schema)
}

/// The key of `node`, with operands as `resolve` gives them; `None` when an attribute has
/// none.
///
/// # Errors
/// A constant in an attribute cannot be read.
pub(super) fn of_node(
    model: &Model,
    node: NodeId,
    schema: &OpSchema,
    resolve: impl Fn(ValueId) -> ValueId,
) -> Result<Option<Key>> {
    let n = &model.nodes[node];
    let mut key = vec![bytes(n.domain()), bytes(&n.op_type)];
    let mut operands: Vec<Option<ValueId>> = n.inputs.iter().map(|v| v.map(&resolve)).collect();
    while operands.last() == Some(&None) {
        operands.pop();
    }
    if commutes(model, n) {
        operands.sort_unstable();
    }
    key.push(Part::Int(operands.len() as i64));
    key.extend(operands.into_iter().map(Part::Operand));
    let mut attributes: Vec<&Attribute> = n.attributes.iter().collect();
    attributes.retain(|a| !is_default(schema, a));
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    for attribute in attributes {
        key.push(bytes(&attribute.name));
        if !push_attribute(&mut key, &attribute.value)? {
            return Ok(None);
        }
    }
    let devices = n.device_configurations.iter();
    key.extend(devices.map(|d| Part::Bytes(d.to_vec())));
    Ok(Some(key))
}

/// The key of a constant, unless it is large.
///
/// # Errors
/// It cannot be read.
pub(super) fn of_constant(tensor: &Tensor) -> Result<Option<Key>> {
    if tensor.byte_len() >= SMALL {
        return Ok(None);
    }
    let mut key = Vec::new();
    push_tensor(&mut key, tensor)?;
    Ok(Some(key))
}

fn commutes(model: &Model, node: &Node) -> bool {
    let listed = COMMUTATIVE.contains(&&*node.op_type) || node.is("Sum");
    let modern = model.opset(node.graph, "").is_some_and(|opset| opset >= 7);
    listed && modern && node.domain().is_empty() && node.inputs.len() == 2
}

fn bytes(text: &str) -> Part {
    Part::Bytes(text.into())
}

/// Whether the node would be the same without the attribute.
fn is_default(schema: &OpSchema, attribute: &Attribute) -> bool {
    let default = schema
        .attribute(&attribute.name)
        .and_then(|a| a.default.as_ref());
    match (default, &attribute.value) {
        (Some(AttrDefault::Int(a)), AttributeValue::Int(b)) => a == b,
        (Some(AttrDefault::Float(a)), AttributeValue::Float(b)) => a.to_bits() == b.to_bits(),
        (Some(AttrDefault::String(a)), AttributeValue::String(b)) => a.as_bytes() == b,
        (Some(AttrDefault::Ints(a)), AttributeValue::Ints(b)) => a == b,
        _ => false,
    }
}

/// Adds the value of an attribute; says whether it can be compared.
fn push_attribute(key: &mut Key, value: &AttributeValue) -> Result<bool> {
    let float = |f: &f32| Part::Int(f.to_bits().into());
    key.push(Part::Int(value.kind() as i64));
    match value {
        AttributeValue::Float(f) => key.push(float(f)),
        AttributeValue::Int(i) => key.push(Part::Int(*i)),
        AttributeValue::String(s) => key.push(Part::Bytes(s.to_vec())),
        AttributeValue::Tensor(t) => push_tensor(key, t)?,
        AttributeValue::Floats(list) => {
            key.push(Part::Int(list.len() as i64));
            key.extend(list.iter().map(float));
        }
        AttributeValue::Ints(list) => {
            key.push(Part::Int(list.len() as i64));
            key.extend(list.iter().map(|i| Part::Int(*i)));
        }
        AttributeValue::Strings(list) => {
            key.push(Part::Int(list.len() as i64));
            key.extend(list.iter().map(|s| Part::Bytes(s.to_vec())));
        }
        // What the caller gives is the same for both.
        AttributeValue::Reference { name, .. } => {
            key.push(bytes("caller's"));
            key.push(bytes(name));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn push_tensor(key: &mut Key, tensor: &Tensor) -> Result<()> {
    key.push(Part::Int(tensor.dtype.code().into()));
    key.push(Part::Int(tensor.dims.len() as i64));
    key.extend(tensor.dims.iter().map(|&d| Part::Int(d)));
    match &tensor.elements {
        Elements::Data(data) => key.push(contents(data)?),
        Elements::Strings(list) => key.extend(list.iter().map(|s| Part::Bytes(s.to_vec()))),
    }
    Ok(())
}

fn contents(data: &Data) -> Result<Part> {
    Ok(match data.len() < SMALL {
        true => Part::Bytes(data.read_all()?.to_vec()),
        false => Part::Data(data.identity()),
    })
}
