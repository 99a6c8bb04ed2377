//! `fold-shapes`: shapes that a model computes for Reshape and Expand, as constants.

use crate::{
    error::Result,
    infer::{Facts, SymInt},
    ir::{
        Model, Node, NodeId, Tensor, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Left, Pass, PassContext, PassInfo, Remark, plan_nodes},
    weights::int_elements,
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fold-shapes",
    summary: "make computed shapes of Reshape and Expand constants where the operator allows it",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FoldShapes)),
};

const DOC: &str = "\
Exporters compute the shape of a Reshape from the extents of other tensors, a dozen nodes for
each. The operator needs less: `0` copies an extent of its operand and one `-1` is found from
the number of elements, so that one extent that callers choose, or several that stay in their
place, need no computation. The shape of an Expand is 1 where the extent stays.

## Scope

Reshape and Expand whose extents can be told (see `infer-shapes`) and whose shape is not a
constant yet; in subgraphs and local functions too. With a `-1` beside a `0`, a model that is
given a tensor without elements along the axis that is copied fails, where it may have
computed an empty result before. Operands that do not fit each other, and results that are not
what they are declared to be, have a remark (`contradiction`), and nothing is concluded from
them.

## Statistics

`reshape`, `expand`: shapes that are constants now.

## Example

```text
s = Shape (x)                              float[batch,length,576] x
n = Gather (s, one)
shape = Concat <axis = 0> (minus_one, n, nine, sixty_four)
y = Reshape (x, shape)
y = Reshape (x, {0, 0, 9, 64})
```
";

struct FoldShapes;

impl Pass for FoldShapes {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let facts = cx.facts(model);
        for conflict in facts.conflicts() {
            cx.remarks
                .push(Remark::contradiction(model, INFO.name, conflict));
        }
        let plans = plan_nodes(model, INFO.name, cx, |node| plan(model, &facts, node))?;
        let mut before = Vec::new();
        let mut edit = Edit::new(model);
        for (node, shape) in &plans {
            let n = &edit.model().nodes[*node];
            cx.count(if n.is("Reshape") { "reshape" } else { "expand" }, 1);
            let (graph, name) = (n.graph, edit.model().node_name(*node));
            before.extend(n.input(1));
            let tensor = Tensor::from_i64(vec![shape.len() as i64], shape);
            let constant = edit.add_constant(graph, &format!("{name}/shape"), tensor);
            let n = &mut edit.model_mut().nodes[*node];
            n.inputs[1] = Some(constant);
            n.attributes.retain(|a| &*a.name != "allowzero");
        }
        edit.finish();
        remove_unused(model, &before);
        Ok(Changed::count(plans.len()))
    }
}

/// The constant shape that `node` can have instead of the one it computes.
fn plan(model: &Model, facts: &Facts, node: NodeId) -> Result<Vec<i64>, Left> {
    let n = &model.nodes[node];
    let shape = match (n.is("Reshape"), n.is("Expand")) {
        (false, false) => None,
        (reshape, _) => constant_shape(model, facts, n, reshape)?,
    };
    shape.ok_or(Left::Ignored)
}

fn constant_shape(
    model: &Model,
    facts: &Facts,
    n: &Node,
    reshape: bool,
) -> Result<Option<Vec<i64>>> {
    let (Some(target), Some(output)) = (n.input(1), n.output(0)) else {
        return Ok(None);
    };
    if int_elements(model, target)?.is_some() {
        return Ok(None);
    }
    let Some(after) = facts.shape(output) else {
        return Ok(None);
    };
    let before = n.input(0).and_then(|x: ValueId| facts.shape(x));
    Ok(match reshape {
        true => reshaped(before.unwrap_or_default(), after),
        false => before.and_then(|before| expanded(before, after)),
    })
}

/// Numbers, `0` for what stays in its place, and at most one `-1`.
fn reshaped(before: &[SymInt], after: &[SymInt]) -> Option<Vec<i64>> {
    let mut free = 0;
    let mut shape = Vec::with_capacity(after.len());
    for (axis, extent) in after.iter().enumerate() {
        shape.push(match extent.known() {
            // It would copy what stands there.
            Some(0) => return None,
            Some(n) => n,
            None if before.get(axis) == Some(extent) => 0,
            None => {
                free += 1;
                -1
            }
        });
    }
    // A single extent that is not known is found from the count, and an empty tensor stays one.
    if free == 0 && shape.iter().filter(|&&n| n == 0).count() == 1 {
        let at = shape.iter().position(|&n| n == 0)?;
        shape[at] = -1;
    }
    (free <= 1).then_some(shape)
}

/// Numbers, and 1 for what stays as it is.
fn expanded(before: &[SymInt], after: &[SymInt]) -> Option<Vec<i64>> {
    let more = after.len().checked_sub(before.len())?;
    let each = after.iter().enumerate();
    let extent = |(axis, extent): (usize, &SymInt)| match extent.known() {
        Some(n) => Some(n),
        None if axis >= more && before[axis - more] == *extent => Some(1),
        None => None,
    };
    each.map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Vec<SymInt> {
        let extent = |word: &str| match word.parse::<i64>() {
            Ok(n) => SymInt::from(n),
            Err(_) => SymInt::symbol(word),
        };
        text.split_whitespace().map(extent).collect()
    }

    #[test]
    fn what_a_reshape_needs() {
        let cases = [
            ("b s 576", "b s 9 64", Some(vec![0, 0, 9, 64])),
            ("b 9 s 64", "b s 576", Some(vec![0, -1, 576])),
            ("b s 576", "t 576", Some(vec![-1, 576])),
            ("b s 4", "s b 4", None),
            ("s 4", "s 2 2", Some(vec![-1, 2, 2])),
            ("2 3", "6", Some(vec![6])),
            ("b 0", "0 b", None),
        ];
        for (before, after, expected) in cases {
            assert_eq!(
                reshaped(&shape(before), &shape(after)),
                expected,
                "{before} to {after}"
            );
        }
    }

    #[test]
    fn what_an_expand_needs() {
        let cases = [
            ("b 1 s", "b 3 s", Some(vec![1, 3, 1])),
            ("s", "2 s", Some(vec![2, 1])),
            ("s", "b s", None),
            ("1", "s", None),
        ];
        for (before, after, expected) in cases {
            assert_eq!(
                expanded(&shape(before), &shape(after)),
                expected,
                "{before} to {after}"
            );
        }
    }
}
