//! `fuse-reduce`: a reduction and the node that puts back or removes the axes it reduced.

use crate::{
    error::Result,
    infer::{self, Facts},
    ir::{
        Attribute, AttributeValue, Model, Node, NodeId, Uses,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Left, Pass, PassContext, PassInfo, plan_nodes},
    weights::int_elements,
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fuse-reduce",
    summary: "let a reduction keep or drop its axes itself, without Unsqueeze or Squeeze",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FuseReduce)),
};

const DOC: &str = "\
A reduction without its axes and an `Unsqueeze` that puts the same axes back are the reduction with
`keepdims`; a reduction that keeps its axes and a `Squeeze` that removes the same ones are the
reduction without. The result is the same to the bit.

## Scope

`ReduceSum`, `ReduceMean`, `ReduceMax` and the others of their kind, `ArgMax` and `ArgMin`, with
constant axes; in subgraphs and local functions too. Nothing else reads the result of the
reduction, and it is no output. Axes counted from the front and from the back are taken for the
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

impl Pass for FuseReduce {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let uses = Uses::of(model);
        let facts = infer::facts(model);
        let plans = plan_nodes(model, INFO.name, cx, |node| {
            plan(model, &uses, &facts, node)
        })?;
        let count = plans.len();
        let mut left = Vec::new();
        let mut edit = Edit::new(model);
        for (node, (reader, keepdims)) in plans {
            left.extend(edit.model().nodes[reader].inputs.iter().flatten());
            let mut reduction = edit.model().nodes[node].clone();
            reduction.attributes.retain(|a| &*a.name != "keepdims");
            let keepdims = AttributeValue::Int(keepdims.into());
            reduction
                .attributes
                .push(Attribute::new("keepdims", keepdims));
            edit.replace_keeping(reader, reduction);
        }
        edit.finish();
        remove_unused(model, &left);
        cx.count("fused", count as u64);
        Ok(Changed::count(count))
    }
}

/// The node that becomes part of the reduction `node`, and what `keepdims` is then.
fn plan(model: &Model, uses: &Uses, facts: &Facts, node: NodeId) -> Result<(NodeId, bool), Left> {
    let n = &model.nodes[node];
    if !REDUCTIONS.iter().any(|op| n.is(op)) {
        return Err(Left::Ignored);
    }
    let only = n.output(0).and_then(|v| uses.only_reader(v));
    let (reader, slot) = only.ok_or(Left::Ignored)?;
    let other = &model.nodes[reader];
    let keeps = match n.int("keepdims", 1) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Left::Ignored),
    };
    let undoes = other.is(if keeps { "Squeeze" } else { "Unsqueeze" });
    if !undoes || slot != 0 || other.graph != n.graph {
        return Err(Left::Ignored);
    }
    let reduced = axes(model, n)?.ok_or(Left::Ignored)?;
    let changed = axes(model, other)?.ok_or(Left::Ignored)?;
    // Both count axes of the same shape: that of the operand of the reduction.
    let shape = n.input(0).and_then(|v| facts.shape(v));
    let rank = shape.map(<[_]>::len);
    match !reduced.is_empty() && same_axes(&reduced, &changed, rank) {
        true => Ok((reader, !keeps)),
        false => Err(Left::Ignored),
    }
}

/// The axes that `node` names; `None` when they are not constant or not named.
fn axes(model: &Model, node: &Node) -> Result<Option<Vec<i64>>> {
    if node.is("ArgMax") || node.is("ArgMin") {
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
