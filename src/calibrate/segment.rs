//! A segment as a model of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    flow::Flow,
    plan::{Segment, constants},
};
use crate::{
    infer::SymInt,
    ir::{
        DataType, Def, Dim, DimSize, GraphOutput, Model, NodeId, Tensor, TensorType, Type, ValueId,
        ValueInfo, edit::Edit,
    },
};

/// What stands in the place of operands: by node, which operand and what.
pub(super) type Replaced = BTreeMap<NodeId, (usize, Tensor)>;

/// `model` as what all segments are taken from: without what only readers of the file look at,
/// and with defaults that nothing gives as constants.
pub(super) fn base(flow: &Flow<'_>) -> Model {
    let mut base = flow.model.clone();
    let main = base.main;
    // From version 4 on an initializer need not be an input.
    base.ir_version = Some(base.ir_version.unwrap_or(0).max(4));
    base.doc_string = None;
    base.metadata.clear();
    base.computed_metadata.clear();
    base.training_info.clear();
    base.configuration.clear();
    for input in std::mem::take(&mut base.graphs[main].inputs) {
        let value = &mut base.values[input];
        match flow.varies(input) {
            true => value.constant = None,
            false => {
                value.def = Def::Initializer(main);
                value.info = None;
            }
        }
    }
    let graph = &mut base.graphs[main];
    graph.initializers.retain(|&v| !flow.varies(v));
    graph.sparse_initializers.retain(|&v| !flow.varies(v));
    graph.outputs.clear();
    graph.repeated_value_info.clear();
    graph.quantization_annotations.clear();
    base
}

/// `segment` as a model: its inputs are what it takes, its outputs what it makes of what it
/// keeps and of its targets. `stored` tells type and extents of what it reads, of one item.
pub(super) fn extract(
    flow: &Flow<'_>,
    base: &Model,
    segment: &Segment,
    replaced: &Replaced,
    stored: impl Fn(ValueId) -> Option<(DataType, Vec<usize>)>,
) -> Model {
    let mut model = base.clone();
    let main = model.main;
    replace(&mut model, replaced);
    let operands = segment.nodes.iter().flat_map(|&n| model.operands(n));
    let read: BTreeSet<ValueId> = operands.collect();
    let constants = constants(flow, &model, read.iter().copied());
    let mut nodes = constants.nodes;
    nodes.extend(&segment.nodes);
    nodes.sort_by_key(|&n| flow.position(n));
    let listed: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let takes = segment.inputs.iter().chain(&segment.reads);
    let inputs: Vec<ValueId> = takes.copied().filter(|v| read.contains(v)).collect();
    for &input in &inputs {
        if let Def::Node(..) = model.values[input].def {
            let ty = value_type(flow, input, stored(input));
            let value = &mut model.values[input];
            value.def = Def::Input(main);
            value.info = Some(ValueInfo {
                ty,
                ..ValueInfo::default()
            });
        }
    }
    let outputs = made(flow, segment).into_iter().map(|value| GraphOutput {
        value,
        info: ValueInfo {
            ty: value_type(flow, value, None),
            ..ValueInfo::default()
        },
    });
    let outputs = outputs.collect();
    let values = &model.values;
    let graph = &mut model.graphs[main];
    graph.nodes = nodes;
    graph.inputs = inputs;
    graph.outputs = outputs;
    let kept = |v: &ValueId| constants.initializers.contains(v);
    graph.initializers.retain(kept);
    graph.sparse_initializers.retain(kept);
    graph
        .value_info
        .retain(|&v| matches!(values[v].def, Def::Node(node, _) if listed.contains(&node)));
    model
}

/// Puts constants in the place of operands; the same one where the elements are the same.
fn replace(model: &mut Model, replaced: &Replaced) {
    let main = model.main;
    let mut made: HashMap<_, ValueId> = HashMap::new();
    let mut edit = Edit::new(model);
    for (&node, (slot, tensor)) in replaced {
        let data = tensor.data().map(|data| data.identity());
        let key = (data, tensor.dims.clone());
        let constant = *made
            .entry(key)
            .or_insert_with(|| edit.add_constant(main, "replaced", tensor.clone()));
        edit.model_mut().nodes[node].inputs[*slot] = Some(constant);
    }
    edit.finish();
}

/// What `segment` makes and does not keep to itself: each once.
pub(super) fn made(flow: &Flow<'_>, segment: &Segment) -> Vec<ValueId> {
    let mut made = segment.keeps.clone();
    for &target in &segment.targets {
        let here = flow.model.producer(target);
        let here = here.is_some_and(|node| segment.nodes.contains(&node));
        if here && !made.contains(&target) {
            made.push(target);
        }
    }
    made
}

/// The type of `value`. Extents that an item contradicts are left open: some models declare
/// results of operators of their own wrongly, and engines check what they are fed.
fn value_type(
    flow: &Flow<'_>,
    value: ValueId,
    stored: Option<(DataType, Vec<usize>)>,
) -> Option<Type> {
    let (found, dims) = stored.unzip();
    let elem = flow.facts.dtype(value).or(found)?;
    let extent = |(i, extent): (usize, &SymInt)| {
        let known = extent.known().filter(|&n| {
            let found = dims.as_ref().map(|d| d[i] as i64);
            n >= 0 && found.is_none_or(|found| n == found)
        });
        Dim {
            size: known.map_or(DimSize::Unknown, DimSize::Known),
            denotation: None,
        }
    };
    let shape = flow.facts.shape(value);
    let shape = shape.filter(|s| dims.as_ref().is_none_or(|d| d.len() == s.len()));
    Some(Type::from(TensorType {
        elem: Some(elem),
        shape: shape.map(|s| s.iter().enumerate().map(extent).collect()),
    }))
}
