//! `fuse-batch-norm`: what scales and shifts each channel of a product, folded into its weights.

mod affine;
mod plan;

use crate::{
    error::Result,
    ir::{
        Elements, Model, Node, NodeId, Str, Tensor, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Pass, PassContext, PassInfo, plan_nodes},
};
use plan::{Plan, Planner};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fuse-batch-norm",
    summary: "fold batch normalization, and constants a channel is multiplied by or added to, into \
              the weights before them",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FuseBatchNorm)),
};

const DOC: &str = "\
A `BatchNormalization` in inference multiplies each channel by a constant and adds another, and so
do `Mul`, `Div`, `Add` and `Sub` with a constant that has one element, or one for each channel.
Any number of these in a row after a product become part of its weights and bias.

The result is the same in exact arithmetic; rounding differs. Weights and bias are computed in
double precision and rounded once, so each differs from the exact one by half a unit in its last
place at most (a relative 2^-24 in float, 2^-11 in float16), about as much as the product rounds
anyway, and the roundings of the removed nodes are gone. Weights whose scaled elements would
overflow, or in float16 lose digits to underflow, stay.

## Scope

After `Conv`, `ConvTranspose` and `Gemm` (from opset 7), and `MatMul` whose right operand is a
constant matrix; in float, float16 and double, in subgraphs and local functions too. A `MatMul`
takes a shift only when its left operand is known to be a matrix, and becomes a `Gemm`; an `Add`
alone is left to `fuse-gemm`. Weight and bias are constants that callers cannot replace. Nothing
else reads the weight, since a second copy would make the file grow; nothing else reads the values
in between, and they are no outputs. A batch normalization that follows none of these is left.

## Statistics

`fused`: nodes that became part of weights. `weights`: weights changed.

## Example

```text
h = Conv (x, W)                                     float[8,3,3,3] W
y = BatchNormalization (h, scale, bias, mean, var)
y = Conv (x, W, \"conv/bias\")                        float[8,3,3,3] W, float[8] \"conv/bias\"
```
";

struct FuseBatchNorm;

impl Pass for FuseBatchNorm {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let uses = Uses::of(model);
        let facts = cx.facts(model);
        let planner = Planner {
            model,
            uses: &uses,
            facts: &facts,
        };
        let plans = plan_nodes(model, INFO.name, cx, |node| planner.plan(node))?;
        let count = plans.len();
        let mut left = Vec::new();
        let mut edit = Edit::new(model);
        for (node, plan) in plans {
            cx.count("fused", plan.steps as u64);
            cx.count("weights", u64::from(plan.weight.is_some()));
            commit(&mut edit, &uses, node, plan, &mut left);
        }
        edit.finish();
        remove_unused(model, &left);
        Ok(Changed::count(count))
    }
}

/// Lets `node` do what its plan says, in the place of the last step. What the step read goes to
/// `left`.
fn commit(edit: &mut Edit<'_>, uses: &Uses, node: NodeId, plan: Plan, left: &mut Vec<ValueId>) {
    let mut fused: Node = edit.model().nodes[node].clone();
    if let Some((value, data)) = plan.weight {
        edit.change_constant(value, |tensor| tensor.elements = Elements::Data(data));
    }
    if let Some(tensor) = plan.bias {
        let bias = put_bias(edit, uses, &fused, plan.last, tensor);
        fused.inputs.truncate(2);
        fused.inputs.push(Some(bias));
    }
    if plan.becomes_gemm {
        fused.op_type = "Gemm".into();
    }
    if plan.beta_done {
        fused.attributes.retain(|a| &*a.name != "beta");
    }
    left.extend(edit.model().nodes[plan.last].inputs.iter().flatten());
    edit.replace_keeping(plan.last, fused);
}

/// The name of the first result of `node`.
fn result_name(model: &Model, node: NodeId) -> Str {
    let result = model.nodes[node].output(0);
    result.map_or_else(|| "bias".into(), |v| model.values[v].name.clone())
}

/// The value that holds the new bias of `node`: the old one when nothing else reads it and its
/// extents are the same.
fn put_bias(
    edit: &mut Edit<'_>,
    uses: &Uses,
    node: &Node,
    last: NodeId,
    tensor: Tensor,
) -> ValueId {
    let model = edit.model();
    let old = node.input(2).filter(|&v| {
        let tensor_of = crate::weights::source_tensor(model, v);
        tensor_of.is_some_and(|t| t.dims == tensor.dims && t.dtype == tensor.dtype)
            && uses.of_value(v).len() == 1
    });
    match old {
        Some(old) => {
            edit.change_constant(old, |t| t.elements = tensor.elements);
            old
        }
        None => {
            let base = match &node.name {
                Some(name) if !name.is_empty() => name.clone(),
                // The result of the last step is the one that stays.
                _ => result_name(model, last),
            };
            edit.add_constant(node.graph, &format!("{base}/bias"), tensor)
        }
    }
}
