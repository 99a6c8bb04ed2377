//! Operators whose results have a type that an attribute, a body or a sequence gives, and
//! not a type variable.

use super::{Kind, elements::Infer};
use crate::ir::{AttributeValue, DataType, GraphId, Node};

/// Applies the rule of the operator of `node`, if it has one.
pub(super) fn apply<'m>(infer: &mut Infer<'m>, node: &'m Node) {
    if !node.domain().is_empty() {
        return;
    }
    let (input, output) = (node.input(0), node.output(0));
    match &*node.op_type {
        "Cast" => learn_tensor(infer, node, cast_to(node)),
        "BitCast" => learn_tensor(infer, node, dtype(node, "to")),
        "Constant" => learn_tensor(infer, node, constant(node)),
        "ConstantOfShape" => {
            let value = tensor_attribute(node, "value");
            let default = node.attribute("value").is_none().then_some(DataType::Float);
            learn_tensor(infer, node, value.or(default));
        }
        "RandomNormal" | "RandomUniform" => {
            learn_or(infer, node, "dtype", DataType::Float);
        }
        "Multinomial" => learn_or(infer, node, "dtype", DataType::Int32),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix" => {
            learn_or(infer, node, "output_datatype", DataType::Float);
        }
        "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" => {
            match node.attribute("dtype") {
                Some(_) => learn_tensor(infer, node, dtype(node, "dtype")),
                None => infer.same(input, output),
            }
        }
        "QuantizeLinear" => match dtype(node, "output_dtype") {
            Some(DataType::Undefined) | None if node.input(2).is_none() => {
                learn_tensor(infer, node, Some(DataType::Uint8));
            }
            Some(DataType::Undefined) | None => {}
            given => learn_tensor(infer, node, given),
        },
        "DequantizeLinear" => match dtype(node, "output_dtype") {
            Some(DataType::Undefined) | None => infer.same(node.input(1), output),
            given => learn_tensor(infer, node, given),
        },
        "If" => {
            for body in node.subgraphs() {
                results(infer, node, body, 0, 0);
            }
        }
        "Loop" => looped(infer, node),
        "Scan" => scanned(infer, node),
        _ => containers(infer, node),
    }
}

/// Sequences and optionals.
fn containers<'m>(infer: &mut Infer<'m>, node: &'m Node) {
    let kind = |infer: &Infer<'_>, slot: usize| node.input(slot).and_then(|v| infer.kind(v));
    let found = match &*node.op_type {
        "SequenceEmpty" => match node.attribute("dtype") {
            None => Some(Kind::Sequence(DataType::Float)),
            Some(_) => dtype(node, "dtype").map(Kind::Sequence),
        },
        "SequenceConstruct" | "SplitToSequence" => kind(infer, 0).map(Kind::sequence),
        "SequenceAt" | "ConcatFromSequence" => kind(infer, 0).and_then(Kind::of_sequence),
        "SequenceInsert" => {
            let inserted = kind(infer, 1).map(Kind::sequence);
            kind(infer, 0).or(inserted)
        }
        "Optional" => match node.attribute("type") {
            Some(AttributeValue::Type(ty)) => Kind::of_type(ty).map(Kind::optional),
            _ => kind(infer, 0).map(Kind::optional),
        },
        "OptionalGetElement" => kind(infer, 0).map(Kind::of_optional),
        "SequenceMap" => return mapped(infer, node),
        _ => None,
    };
    if let (Some(kind), Some(output)) = (found, node.output(0)) {
        infer.learn(output, kind);
    }
}

fn learn_tensor(infer: &mut Infer<'_>, node: &Node, dtype: Option<DataType>) {
    if let (Some(dtype), Some(output)) = (dtype, node.output(0)) {
        infer.learn(output, Kind::Tensor(dtype));
    }
}

/// The result has the type that attribute `name` gives, or `default` without it.
fn learn_or(infer: &mut Infer<'_>, node: &Node, name: &str, default: DataType) {
    let given = match node.attribute(name) {
        None => Some(default),
        Some(_) => dtype(node, name),
    };
    learn_tensor(infer, node, given);
}

/// The type that the integer attribute `name` gives.
fn dtype(node: &Node, name: &str) -> Option<DataType> {
    match node.attribute(name)? {
        AttributeValue::Int(code) => DataType::from_code(i32::try_from(*code).ok()?),
        _ => None,
    }
}

/// The element type that a `Cast` makes; before opset 6 its attribute is the name of the type.
pub fn cast_to(node: &Node) -> Option<DataType> {
    match node.attribute("to")? {
        AttributeValue::String(name) => {
            let is = |t: &&DataType| name.eq_ignore_ascii_case(t.name().as_bytes());
            DataType::ALL.iter().find(is).copied()
        }
        _ => dtype(node, "to"),
    }
}

fn tensor_attribute(node: &Node, name: &str) -> Option<DataType> {
    match node.attribute(name)? {
        AttributeValue::Tensor(t) => Some(t.dtype),
        _ => None,
    }
}

/// What a `Constant` makes, in any of its forms.
fn constant(node: &Node) -> Option<DataType> {
    let kinds = node.attributes.iter().map(|a| (&*a.name, &a.value));
    let mut found = kinds.filter_map(|(name, value)| match (name, value) {
        ("value", AttributeValue::Tensor(t)) => Some(t.dtype),
        ("sparse_value", AttributeValue::SparseTensor(s)) => s.values.as_ref().map(|v| v.dtype),
        ("value_float" | "value_floats", _) => Some(DataType::Float),
        ("value_int" | "value_ints", _) => Some(DataType::Int64),
        ("value_string" | "value_strings", _) => Some(DataType::String),
        _ => None,
    });
    found.next()
}

/// Results of `node` from `first` on are those of `body` from `skipped` on.
fn results<'m>(infer: &mut Infer<'m>, node: &Node, body: GraphId, first: usize, skipped: usize) {
    let model = infer.model;
    let outputs = model.graphs[body].outputs.iter().skip(skipped);
    for (slot, output) in outputs.enumerate() {
        infer.same(node.output(first + slot), Some(output.value));
    }
}

/// `Loop`: what it carries is an operand, an input and an output of the body and a result;
/// before these the body has the iteration and the condition, and its condition comes
/// first among its outputs.
fn looped<'m>(infer: &mut Infer<'m>, node: &'m Node) {
    let model = infer.model;
    for body in node.subgraphs() {
        let inputs = &model.graphs[body].inputs;
        let fixed = [DataType::Int64, DataType::Bool];
        for (&value, dtype) in inputs.iter().zip(fixed) {
            infer.learn(value, Kind::Tensor(dtype));
        }
        for (slot, &value) in inputs.iter().enumerate().skip(2) {
            infer.same(node.input(slot), Some(value));
            let output = model.graphs[body].outputs.get(slot - 1).map(|o| o.value);
            infer.same(output, Some(value));
        }
        results(infer, node, body, 0, 1);
    }
}

/// `Scan`: state and slices of the operands are the inputs of the body. Version 8 has the
/// lengths of the sequences before them.
fn scanned<'m>(infer: &mut Infer<'m>, node: &'m Node) {
    let model = infer.model;
    let opset = model.opset(node.graph, "").unwrap_or(1);
    let before = usize::from(opset < 9);
    for body in node.subgraphs() {
        let g = &model.graphs[body];
        let scanned = node.int("num_scan_inputs", 0).unwrap_or(0);
        let states = g.inputs.len().saturating_sub(scanned.max(0) as usize);
        for (slot, &value) in g.inputs.iter().enumerate() {
            infer.same(node.input(before + slot), Some(value));
            let output = g.outputs.get(slot).filter(|_| slot < states);
            infer.same(output.map(|o| o.value), Some(value));
        }
        results(infer, node, body, 0, 0);
    }
}

/// `SequenceMap`: the body works on the elements of the operands that are sequences.
fn mapped<'m>(infer: &mut Infer<'m>, node: &'m Node) {
    let model = infer.model;
    for body in node.subgraphs() {
        let g = &model.graphs[body];
        for (slot, &value) in g.inputs.iter().enumerate() {
            let given = node.input(slot).and_then(|v| infer.kind(v));
            if let Some(kind) = given {
                infer.learn(value, kind.of_sequence().unwrap_or(kind));
            }
        }
        for (slot, output) in g.outputs.iter().enumerate() {
            if let (Some(kind), Some(value)) = (infer.kind(output.value), node.output(slot)) {
                infer.learn(value, kind.sequence());
            }
        }
    }
}
