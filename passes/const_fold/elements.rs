//! `SequenceAt` with a constant position of a sequence that a node has just made of tensors,
//! or of the parts of one.

use super::values::Values;
use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, DataType, Model, Node, NodeId, Tensor, Use, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::PassContext,
};

/// One rewrite.
enum Rewrite {
    /// This element of a `SequenceConstruct` is what the `SequenceAt` makes.
    Element { made: ValueId, element: ValueId },
    /// A `Split` makes the parts of a `SplitToSequence`.
    Split {
        node: NodeId,
        /// Extents of the parts.
        lengths: Vec<i64>,
        /// What each `SequenceAt` makes, and which part that is.
        parts: Vec<(ValueId, usize)>,
    },
    /// A `Gather` takes a slice without the axis.
    Gather { node: NodeId, from: NodeId },
}

/// Lets the readers of such elements read the tensors; how many rewrites.
///
/// # Errors
/// A position cannot be read.
pub(super) fn take(model: &mut Model, values: &Values, cx: &mut PassContext) -> Result<usize> {
    let uses = Uses::of(model);
    let mut rewrites = Vec::new();
    for node in model.reachable_nodes() {
        let n = &model.nodes[node];
        match () {
            () if n.is("SequenceAt") => rewrites.extend(element(model, values, &uses, node)?),
            () if n.is("SplitToSequence") => rewrites.extend(split(model, values, &uses, node)?),
            () => {}
        }
    }
    cx.limit(&mut rewrites);
    let mut unused = Vec::new();
    let mut edit = Edit::new(model);
    for rewrite in &rewrites {
        apply(&mut edit, &uses, rewrite, &mut unused);
    }
    edit.finish();
    remove_unused(model, &unused);
    cx.count("elements", rewrites.len() as u64);
    Ok(rewrites.len())
}

/// A `SequenceAt` of which something is to be said.
struct At {
    made: ValueId,
    /// The node that makes the sequence.
    maker: NodeId,
    position: i64,
}

/// `node`, when it is a `SequenceAt` with a known position and a reader, and what it makes is
/// no output of a graph. The position is a scalar: a `Gather` makes an axis of any other.
fn at(model: &Model, values: &Values, uses: &Uses, node: NodeId) -> Result<Option<At>> {
    let n = &model.nodes[node];
    let (Some(list), Some(position), Some(made)) = (n.input(0), n.input(1), n.output(0)) else {
        return Ok(None);
    };
    let Some(maker) = model.producer(list).filter(|_| n.is("SequenceAt")) else {
        return Ok(None);
    };
    let readers = uses.of_value(made);
    if readers.is_empty() || readers.iter().any(|u| matches!(u, Use::Output(..))) {
        return Ok(None);
    }
    if values.tensor(position).is_none_or(|t| !t.dims.is_empty()) {
        return Ok(None);
    }
    let position = values.int(position).map_err(|e| e.at(model.label(node)))?;
    Ok(position.map(|position| At {
        made,
        maker,
        position,
    }))
}

/// `position` of `count`, from the front.
fn from_front(position: i64, count: usize) -> Option<usize> {
    let count = count as i64;
    let position = if position < 0 {
        position + count
    } else {
        position
    };
    usize::try_from(position)
        .ok()
        .filter(|&p| (p as i64) < count)
}

fn element(model: &Model, values: &Values, uses: &Uses, node: NodeId) -> Result<Option<Rewrite>> {
    let Some(at) = at(model, values, uses, node)? else {
        return Ok(None);
    };
    let maker = &model.nodes[at.maker];
    if is_unbound(maker) && maker.graph == model.nodes[node].graph {
        return Ok(Some(Rewrite::Gather {
            node,
            from: at.maker,
        }));
    }
    let element = match maker.is("SequenceConstruct") {
        true => from_front(at.position, maker.inputs.len()).and_then(|i| maker.input(i)),
        false => None,
    };
    Ok(element.map(|element| Rewrite::Element {
        made: at.made,
        element,
    }))
}

/// Whether `maker` is a `SplitToSequence` into slices of one, without the axis: positions mean
/// what they mean to `Gather`.
fn is_unbound(maker: &Node) -> bool {
    let whole = maker.input(1).is_none() && maker.int("keepdims", 1) == Some(0);
    whole && maker.is("SplitToSequence") && maker.int("axis", 0).is_some()
}

/// The `Split` for a `SplitToSequence` of which only known elements are read.
fn split(model: &Model, values: &Values, uses: &Uses, node: NodeId) -> Result<Option<Rewrite>> {
    let n = &model.nodes[node];
    let (Some(list), Some(lengths)) = (n.output(0), part_lengths(model, values, node)?) else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    for u in uses.of_value(list) {
        let Use::Operand(reader, 0) = *u else {
            return Ok(None);
        };
        let part = at(model, values, uses, reader)?
            .and_then(|at| Some((at.made, from_front(at.position, lengths.len())?)));
        match part {
            Some(part) => parts.push(part),
            None => return Ok(None),
        }
    }
    // Names for parts that nobody reads would be more than what goes.
    let most = parts.len() * 2 >= lengths.len();
    Ok((most && !parts.is_empty()).then_some(Rewrite::Split {
        node,
        lengths,
        parts,
    }))
}

/// Extents of the parts that a `SplitToSequence` makes, when they are known.
fn part_lengths(model: &Model, values: &Values, node: NodeId) -> Result<Option<Vec<i64>>> {
    let n = &model.nodes[node];
    let (Some(source), Some(parts), Some(axis)) = (n.input(0), n.input(1), n.int("axis", 0)) else {
        return Ok(None);
    };
    let Some(tensor) = values.tensor(parts) else {
        return Ok(None);
    };
    if !tensor.dims.is_empty() {
        return Ok(values.ints(parts)?.filter(|l| l.iter().all(|&n| n >= 0)));
    }
    let shape = values.facts.shape(source).unwrap_or_default();
    let extent = from_front(axis, shape.len()).and_then(|a| shape[a].known());
    Ok(match (extent, values.int(parts)?) {
        (Some(extent @ 1..), Some(size @ 1..)) if extent / size < MANY => {
            let whole = std::iter::repeat_n(size, (extent / size) as usize);
            let rest = Some(extent % size).filter(|&r| r > 0);
            Some(whole.chain(rest).collect())
        }
        _ => None,
    })
}

/// More parts than anybody lists.
const MANY: i64 = 1 << 10;

fn apply(edit: &mut Edit<'_>, uses: &Uses, rewrite: &Rewrite, unused: &mut Vec<ValueId>) {
    match rewrite {
        Rewrite::Element { made, element } => {
            edit.redirect(uses, *made, *element);
            unused.push(*made);
        }
        Rewrite::Split {
            node,
            lengths,
            parts,
        } => {
            let outputs = insert_split(edit, *node, lengths);
            for &(made, part) in parts {
                edit.redirect(uses, made, outputs[part]);
                unused.push(made);
            }
        }
        Rewrite::Gather { node, from } => {
            let (maker, at) = (&edit.model().nodes[*from], &edit.model().nodes[*node]);
            let mut gather = Node::new(at.graph, "", "Gather");
            gather.inputs = vec![maker.input(0), at.input(1)];
            gather.attributes = axis_of(maker);
            unused.extend(at.input(0));
            edit.replace(*node, gather);
        }
    }
}

fn axis_of(node: &Node) -> Vec<Attribute> {
    let axis = node.attributes.iter().filter(|a| &*a.name == "axis");
    axis.cloned().collect()
}

/// A `Split` into parts of `lengths` before `node`, a `SplitToSequence`; the parts.
fn insert_split(edit: &mut Edit<'_>, node: NodeId, lengths: &[i64]) -> Vec<ValueId> {
    let model = edit.model();
    let n = &model.nodes[node];
    let (graph, source, base) = (n.graph, n.input(0), model.node_name(node));
    let mut split = Node::new(graph, "", "Split");
    split.name = Some(format!("{base}/Split").as_str().into());
    split.attributes = axis_of(n);
    // The parts are an operand since opset 13.
    if model.opset(graph, "").is_some_and(|opset| opset < 13) {
        let parts = AttributeValue::Ints(lengths.to_vec());
        split.attributes.push(Attribute::new("split", parts));
        split.inputs = vec![source];
    } else {
        let listed = n.input(1).filter(|&v| {
            let tensor = model.tensor(v);
            tensor.is_some_and(|t| t.dtype == DataType::Int64 && t.dims.len() == 1)
        });
        let parts = listed.unwrap_or_else(|| {
            let tensor = Tensor::from_i64(vec![lengths.len() as i64], lengths);
            edit.add_constant(graph, &format!("{base}/parts"), tensor)
        });
        split.inputs = vec![source, Some(parts)];
    }
    let name = |i: usize| format!("{base}_{i}");
    let first = edit.insert_before(node, split, &name(0));
    let Some(split) = edit.model().producer(first) else {
        unreachable!("a node makes what was inserted");
    };
    let rest = (1..lengths.len()).map(|i| edit.add_output(split, &name(i)));
    std::iter::once(first)
        .chain(rest.collect::<Vec<_>>())
        .collect()
}
