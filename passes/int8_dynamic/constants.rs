//! The constants of quantized weights: each once, however many nodes read it.

use std::collections::HashMap;

use super::{INFO, plan::Operand};
use crate::{
    ir::{
        Attribute, AttributeValue, Data, DataType, Model, Node, NodeId, Str, Tensor, ValueId,
        edit::Edit,
    },
    pass::{PassContext, QuantizedWeight, kept_float},
    quant::ChannelSpec,
    weights::{Channels, EightBits, Weight, channels_of, float_tensor},
};

/// What tells one quantized form of a weight from another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    root: ValueId,
    rounding: Option<DataType>,
    channels: Option<Channels>,
    spec: Option<ChannelSpec>,
    /// Bits of the factor.
    factor: u32,
}

impl Key {
    pub(super) fn of(operand: &Operand) -> Key {
        let weight = &operand.weight;
        Key {
            root: weight.root,
            rounding: weight.rounding,
            channels: channels_of(weight, &operand.axes),
            spec: Some(operand.spec),
            factor: operand.factor.to_bits(),
        }
    }

    /// The same for whatever codes.
    pub(super) fn without_spec(self) -> Key {
        Key { spec: None, ..self }
    }
}

/// What a constant is, with its extents and strides where codes can have several.
#[derive(PartialEq, Eq, Hash)]
enum Part {
    Codes(Vec<u64>, Vec<u64>),
    Scales(Vec<i64>),
    ZeroPoints(Vec<i64>),
    /// The zero point of all channels.
    Mid,
    /// The same as float.
    Offset,
    /// The weight, decoded, of a type.
    Decoded(Vec<u64>, Vec<u64>, DataType),
}

/// A quantized weight and the nodes that read it.
struct Group {
    weight: Weight,
    bits: EightBits,
    spec: ChannelSpec,
    /// The name of the original.
    name: Str,
    nodes: Vec<NodeId>,
    made: HashMap<Part, ValueId>,
    bytes: u64,
}

/// All quantized weights, in the order in which they were asked for.
#[derive(Default)]
pub(super) struct Constants {
    groups: Vec<Group>,
    index: HashMap<Key, usize>,
}

/// One of [`Constants`].
#[derive(Clone, Copy)]
pub(super) struct Quantized(usize);

impl Constants {
    /// The quantized form of `operand`, which `node` reads.
    pub(super) fn of(&mut self, edit: &Edit<'_>, node: NodeId, operand: &Operand) -> Quantized {
        let weight = &operand.weight;
        let next = self.groups.len();
        let at = *self.index.entry(Key::of(operand)).or_insert(next);
        if at == next {
            let name = edit.model().values[weight.root].name.clone();
            let (axes, factor) = (&operand.axes, operand.factor);
            let bits = EightBits::new(&name, weight, axes, operand.spec, factor);
            self.groups.push(Group {
                weight: weight.clone(),
                bits: bits.expect("the plan saw that the channels are regular"),
                spec: operand.spec,
                name,
                nodes: Vec::new(),
                made: HashMap::new(),
                bytes: 0,
            });
        }
        self.groups[at].nodes.push(node);
        Quantized(at)
    }

    /// A constant of a group, made when it is first asked for.
    fn part(
        &mut self,
        edit: &mut Edit<'_>,
        of: Quantized,
        part: Part,
        suffix: &str,
        tensor: impl FnOnce(&Group) -> Tensor,
    ) -> ValueId {
        let group = &mut self.groups[of.0];
        if let Some(&made) = group.made.get(&part) {
            return made;
        }
        let tensor = tensor(group);
        group.bytes += tensor.byte_len();
        let home = edit.model().home(group.weight.root);
        let value = edit.add_constant(home, &format!("{}{suffix}", group.name), tensor);
        group.made.insert(part, value);
        value
    }

    /// The codes in the order of `weight`.
    pub(super) fn codes(&mut self, edit: &mut Edit<'_>, of: Quantized, weight: &Weight) -> ValueId {
        let part = Part::Codes(weight.dims.clone(), weight.strides.clone());
        let suffix = match self.groups[of.0].spec.signed {
            true => "_int8",
            false => "_uint8",
        };
        self.part(edit, of, part, suffix, |group| {
            let codes = group.bits.codes(weight);
            codes.expect("the plan saw that a recipe rearranges the codes")
        })
    }

    /// The scales, with extents `dims`.
    pub(super) fn scales(&mut self, edit: &mut Edit<'_>, of: Quantized, dims: Vec<i64>) -> ValueId {
        let part = Part::Scales(dims.clone());
        self.part(edit, of, part, "_scales", |group| group.bits.scales(dims))
    }

    /// The zero points, with extents `dims`.
    pub(super) fn zero_points(
        &mut self,
        edit: &mut Edit<'_>,
        of: Quantized,
        dims: Vec<i64>,
    ) -> ValueId {
        let part = Part::ZeroPoints(dims.clone());
        let suffix = "_zero_points";
        self.part(edit, of, part, suffix, |group| group.bits.zero_points(dims))
    }

    /// The zero point of integer operators: `None` for 0, which they assume; else one for all
    /// channels, or one each with extents `dims`.
    pub(super) fn zero_point(
        &mut self,
        edit: &mut Edit<'_>,
        of: Quantized,
        dims: Vec<i64>,
    ) -> Option<ValueId> {
        let spec = self.groups[of.0].spec;
        match (spec.symmetric, spec.mid()) {
            (false, _) => Some(self.zero_points(edit, of, dims)),
            (true, 0) => None,
            (true, mid) => Some(self.part(edit, of, Part::Mid, "_zero_point", |_| {
                let data = Data::Bytes(vec![mid as u8].into());
                Tensor::new(DataType::Uint8, Vec::new(), data)
            })),
        }
    }

    /// What is subtracted from codes that were cast to float, when it is not 0.
    pub(super) fn offset(&mut self, edit: &mut Edit<'_>, of: Quantized) -> Option<ValueId> {
        let mid = self.groups[of.0].spec.mid();
        (mid != 0).then(|| {
            self.part(edit, of, Part::Offset, "_offset", |_| {
                float_tensor(DataType::Float, Vec::new(), &[f64::from(mid)])
            })
        })
    }

    /// The weight decoded: nodes at the beginning of its graph, which runtimes fold.
    pub(super) fn decoded(
        &mut self,
        edit: &mut Edit<'_>,
        of: Quantized,
        operand: &Operand,
    ) -> ValueId {
        let weight = &operand.weight;
        let (dims, strides) = (weight.dims.clone(), weight.strides.clone());
        let part = Part::Decoded(dims, strides, weight.dtype);
        if let Some(&made) = self.groups[of.0].made.get(&part) {
            return made;
        }
        let codes = self.codes(edit, of, weight);
        let scales = self.scales(edit, of, broadcast_dims(operand));
        let offset = self.offset(edit, of);
        let name = self.groups[of.0].name.clone();
        let home = edit.model().home(weight.root);
        let mut first = |op: &str, inputs: Vec<ValueId>, to: Option<DataType>| {
            let mut node = Node::new(home, "", op);
            node.inputs = inputs.into_iter().map(Some).collect();
            node.name = Some(format!("{name}/{op}").into());
            node.attributes = to.map(cast_to).into_iter().collect();
            edit.insert_first(node, &format!("{name}/{op}_output_0"))
        };
        let mut value = first("Cast", vec![codes], Some(DataType::Float));
        if let Some(offset) = offset {
            value = first("Sub", vec![value, offset], None);
        }
        value = first("Mul", vec![value, scales], None);
        if weight.dtype != DataType::Float {
            value = first("Cast", vec![value], Some(weight.dtype));
        }
        self.groups[of.0].made.insert(part, value);
        value
    }

    /// What was quantized, and which originals something else still reads.
    pub(super) fn report(&self, model: &Model, cx: &mut PassContext) {
        cx.count("weights", self.groups.len() as u64);
        for group in &self.groups {
            let (channels, elements) = (
                group.bits.channels(),
                group.weight.dims.iter().product::<u64>(),
            );
            let nodes = group.nodes.iter().map(|&n| model.node_name(n).to_string());
            cx.quantized.push(QuantizedWeight {
                name: group.name.to_string(),
                nodes: nodes.collect(),
                shape: [channels, elements / channels],
                bits: 8,
                block: (elements / channels) as usize,
                bytes_before: group.weight.bytes(),
                bytes_after: group.bytes,
                blocks: None,
            });
            let (first, root) = (group.nodes[0], group.weight.root);
            let bytes = group.weight.bytes();
            cx.remarks
                .extend(kept_float(model, INFO.name, first, root, bytes));
        }
    }
}

/// The attribute of a Cast.
pub(super) fn cast_to(dtype: DataType) -> Attribute {
    Attribute::new("to", AttributeValue::Int(dtype.code().into()))
}

/// Extents with which the scales of `operand` multiply it: 1 where they are the same.
pub(super) fn broadcast_dims(operand: &Operand) -> Vec<i64> {
    if operand.axes.is_empty() {
        return Vec::new();
    }
    let dims = operand.weight.dims.iter().enumerate();
    dims.map(|(axis, &d)| {
        if operand.axes.contains(&axis) {
            d as i64
        } else {
            1
        }
    })
    .collect()
}
