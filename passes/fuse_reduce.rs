//! `fuse-reduce`: a reduction, or a `Gather` of one element, and the node that puts back or removes
//! its axes.

use crate::{
    error::Result,
    infer::Facts,
    ir::{
        Attribute, AttributeValue, Model, Node, NodeId, Tensor, Uses,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Left, Pass, PassContext, PassInfo, plan_nodes},
    weights::{int_elements, source_tensor},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fuse-reduce",
    summary: "let a reduction, or a Gather of one element, keep or drop its axes itself",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FuseReduce)),
};

const DOC: &str = "\
A reduction without its axes and an `Unsqueeze` that puts the same axes back are the reduction with
`keepdims`; a reduction that keeps its axes and a `Squeeze` that removes the same ones are the
reduction without. Likewise, a `Gather` of one element drops the axis when its index is a scalar, and
keeps it when its index is a list. The result is the same to the bit.

## Scope

`ReduceSum`, `ReduceMean`, `ReduceMax` and the others of their kind, `ArgMax` and `ArgMin`, with
constant axes; `Gather` with a constant index. In subgraphs and local functions too. Nothing else
reads the result between, and it is no output. Axes counted from the front and from the back are taken for the
same only when the rank is known.

## Statistics

`fused`: nodes `Unsqueeze` and `Squeeze` removed.

## Example

```text
h = ReduceMean <axes = [1], keepdims = 0> (x)
y = Unsqueeze (h, one)                                    int64[1] one = {1}
y = ReduceMean <axes = [1], keepdims = 1> (x)
```
";

struct FuseReduce;

const REDUCTIONS: [&str; 12] = [
    "ArgMax",
    "ArgMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

/// What takes in the node after it, and how.
struct Plan {
    reader: NodeId,
    change: Change,
}

/// How a node keeps or drops its axes from now on.
enum Change {
    /// By its attribute `keepdims`.
    KeepDims(bool),
    /// By the extents of its index.
    Index(Tensor),
}

impl Pass for FuseReduce {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let uses = Uses::of(model);
        let facts = cx.facts(model);
        let plans = plan_nodes(model, INFO.name, cx, |node| {
            plan(model, &uses, &facts, node)
        })?;
        let count = plans.len();
        let mut left = Vec::new();
        let mut edit = Edit::new(model);
        for (node, plan) in plans {
            for old in [node, plan.reader] {
                left.extend(edit.model().nodes[old].inputs.iter().flatten());
            }
            let mut fused = edit.model().nodes[node].clone();
            match plan.change {
                Change::KeepDims(keeps) => {
                    fused.attributes.retain(|a| &*a.name != "keepdims");
                    let keeps = AttributeValue::Int(keeps.into());
                    fused.attributes.push(Attribute::new("keepdims", keeps));
                }
                Change::Index(tensor) => {
                    let name = format!("{}/index", edit.model().node_name(plan.reader));
                    fused.inputs[1] = Some(edit.add_constant(fused.graph, &name, tensor));
                }
            }
            edit.replace_keeping(plan.reader, fused);
        }
        edit.finish();
        remove_unused(model, &left);
        cx.count("fused", count as u64);
        Ok(Changed::count(count))
    }
}

fn plan(model: &Model, uses: &Uses, facts: &Facts, node: NodeId) -> Result<Plan, Left> {
    let n = &model.nodes[node];
    let only = n.output(0).and_then(|v| uses.only_reader(v));
    let (reader, slot) = only.ok_or(Left::Ignored)?;
    let other = &model.nodes[reader];
    let (keeps, change) = kept(model, n).ok_or(Left::Ignored)?;
    let undoes = other.is(if keeps { "Squeeze" } else { "Unsqueeze" });
    if !undoes || slot != 0 || other.graph != n.graph {
        return Err(Left::Ignored);
    }
    let own = axes(model, n)?.ok_or(Left::Ignored)?;
    let changed = axes(model, other)?.ok_or(Left::Ignored)?;
    // Both count axes of the same shape: that of the operand of `node`.
    let shape = n.input(0).and_then(|v| facts.shape(v));
    let rank = shape.map(<[_]>::len);
    match !own.is_empty() && same_axes(&own, &changed, rank) {
        true => Ok(Plan { reader, change }),
        false => Err(Left::Ignored),
    }
}

/// Whether `node` keeps its axes, and how it is told to do the opposite; `None` when that is
/// not known, or it is none that may do either.
fn kept(model: &Model, node: &Node) -> Option<(bool, Change)> {
    if REDUCTIONS.iter().any(|op| node.is(op)) {
        let keeps = match node.int("keepdims", 1)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        return Some((keeps, Change::KeepDims(!keeps)));
    }
    let index = source_tensor(model, node.input(1)?).filter(|_| node.is("Gather"))?;
    let dims = match index.dims[..] {
        [] => vec![1],
        [1] => vec![],
        _ => return None,
    };
    let opposite = Tensor::new(index.dtype, dims, index.data()?.clone());
    Some((!index.dims.is_empty(), Change::Index(opposite)))
}

/// The axes that `node` names; `None` when they are not constant or not named.
fn axes(model: &Model, node: &Node) -> Result<Option<Vec<i64>>> {
    if ["ArgMax", "ArgMin", "Gather"].iter().any(|op| node.is(op)) {
        return Ok(node.int("axis", 0).map(|axis| vec![axis]));
    }
    if let Some(value) = node.input(1) {
        return int_elements(model, value);
    }
    Ok(match node.attribute("axes") {
        Some(AttributeValue::Ints(axes)) => Some(axes.clone()),
        _ => None,
    })
}

/// Whether both lists name the same axes of a tensor with `rank` axes, in any order.
fn same_axes(a: &[i64], b: &[i64], rank: Option<usize>) -> bool {
    let normal = |axes: &[i64]| -> Vec<i64> {
        let from_front = |&axis: &i64| match rank {
            Some(rank) if axis < 0 => axis + rank as i64,
            _ => axis,
        };
        let mut axes: Vec<i64> = axes.iter().map(from_front).collect();
        axes.sort_unstable();
        axes
    };
    normal(a) == normal(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_from_either_end() {
        assert!(same_axes(&[1, 2], &[2, 1], None));
        assert!(same_axes(&[-1, 1], &[1, 2], Some(3)));
        assert!(same_axes(&[-1], &[-1], None));
        assert!(!same_axes(&[-1], &[2], None));
        assert!(!same_axes(&[1, 1], &[1], None));
    }
}
