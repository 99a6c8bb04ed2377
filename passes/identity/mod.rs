//! `identity`: nodes that do nothing, and pairs that one node can do.

mod look;
mod merge;
mod noop;
mod number;

use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Model, NodeId, Tensor, ValueId,
        edit::{Edit, Substitution, remove_unused},
    },
    pass::{Changed, Left, Pass, PassContext, PassInfo, plan_nodes},
};
use look::Look;
use merge::Merge;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "identity",
    summary: "remove nodes that do nothing, and join casts, transposes and reshapes that follow each other",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(RemoveIdentity)),
};

const DOC: &str = "\
Removes nodes whose result is, bit for bit, one of their operands:

- `Identity`; `Dropout` in inference whose mask is not used;
- `Cast` and `CastLike` to the type that is there; `Reshape`, `Flatten`, `Squeeze`,
  `Unsqueeze`, `Expand`, `Tile` and `Slice` that keep the shape; `Pad` by 0; `Resize` by 1;
  `Transpose` that keeps the order; `Clip` of integers without bounds;
- `Concat`, `Sum`, `Mean`, `Max`, `Min` of one operand, `Split` into one;
- `Add`, `Sub`, `Mul`, `Div`, `Pow`, `And`, `Or`, `Xor` with the constant that changes nothing,
  where the shape stays. (To a float only -0 can be added: -0 + 0 is 0.)
- `Where` with a constant condition, or with two equal choices;
- `Neg` of `Neg`, `Not` of `Not`, and reshapes after which the first shape is back.

Of two `Transpose`, `Squeeze`, `Unsqueeze` or `Cast` after another, and of a `Reshape` after
another reshape, the second does the work of both: of casts, if the first loses nothing.

## Scope

ONNX's own operators, in subgraphs and local functions too, as far as types and shapes can be
inferred. The names of inputs and outputs stay: a node between an output and an input, an
initializer, another output or an outer graph is left.

## Statistics

`removed`, `merged`: nodes.

## Example

```text
a = Transpose <perm = [0, 2, 1]> (x)
b = Transpose <perm = [1, 2, 0]> (a)
c = Identity (b)
y = Relu (c)

b = Transpose <perm = [2, 1, 0]> (x)
y = Relu (b)
```
";

/// A round joins pairs, so that many nodes in a row need few rounds: 16 are enough for 2^16.
const ROUNDS: usize = 16;

struct RemoveIdentity;

enum Plan {
    /// The first result is this value.
    Same(ValueId),
    Merge(Merge),
}

impl Pass for RemoveIdentity {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let mut changed = 0;
        for _ in 0..ROUNDS {
            match round(model, cx)? {
                0 => break,
                n => changed += n,
            }
            cx.model_changed();
        }
        Ok(Changed::count(changed))
    }
}

fn round(model: &mut Model, cx: &mut PassContext) -> Result<usize> {
    let facts = cx.facts(model);
    let mut substitution = Substitution::new(model);
    let look = Look::new(model, &facts);
    let plans = plan_nodes(model, INFO.name, cx, |node| {
        if let (Some(value), Some(result)) =
            (noop::same_as(&look, node)?, model.nodes[node].output(0))
            && substitution.can_unite(model, result, value)
        {
            return Ok(Plan::Same(value));
        }
        merge::merged(&look, node)
            .map(Plan::Merge)
            .ok_or(Left::Ignored)
    })?;
    let (mut removed, mut merged) = (0, 0);
    let mut unused = Vec::new();
    let mut edit = Edit::new(model);
    for (node, plan) in plans {
        match plan {
            Plan::Same(value) => {
                let Some(result) = edit.model().nodes[node].output(0) else {
                    continue;
                };
                // Another node may have taken over the name meanwhile.
                if substitution.can_unite(edit.model(), result, value) {
                    substitution.unite(&mut edit, result, value);
                    removed += 1;
                }
            }
            Plan::Merge(merge) => {
                let operands = edit.model().nodes[node].inputs.iter();
                unused.extend(operands.flatten());
                commit(&mut edit, node, merge);
                merged += 1;
            }
        }
    }
    edit.substitute(&substitution);
    edit.finish();
    unused.extend(substitution.replaced());
    remove_unused(model, &unused);
    cx.count("removed", removed as u64);
    cx.count("merged", merged as u64);
    Ok(removed + merged)
}

fn commit(edit: &mut Edit<'_>, node: NodeId, merge: Merge) {
    let Merge { input, axes } = merge;
    edit.set_operand(node, 0, input);
    let Some(axes) = axes else { return };
    let n = &edit.model().nodes[node];
    if n.inputs.len() > 1 {
        let graph = n.graph;
        let name = format!("{}/axes", edit.model().node_name(node));
        let tensor = Tensor::from_i64(vec![axes.len() as i64], &axes);
        let axes = edit.add_constant(graph, &name, tensor);
        edit.model_mut().nodes[node].inputs[1] = Some(axes);
        return;
    }
    let name = if n.is("Transpose") { "perm" } else { "axes" };
    let n = &mut edit.model_mut().nodes[node];
    n.attributes.retain(|a| &*a.name != name);
    n.attributes
        .push(Attribute::new(name, AttributeValue::Ints(axes)));
}
