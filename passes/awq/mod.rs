//! `awq`: channels of activations scaled, so that the weights that count lose less.

mod fold;
mod plan;
mod products;

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    ir::{
        Data, Elements, Model, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{ASYMMETRIC, BITS, BLOCK, Changed, Options, Pass, PassContext, PassInfo, plan_nodes},
    weights::{ScaleChannels, source_tensor},
};
use plan::{Plan, Planner};
use products::Part;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "awq",
    summary: "scale the channels of activations, and weights the other way, so that quantized weights lose less",
    doc: DOC,
    options: &[BITS, BLOCK, ASYMMETRIC],
    build: |options| Ok(Box::new(Awq::new(options))),
};

const DOC: &str = "\
Activation-aware weight quantization (Lin et al., MLSys 2024, equations 4 and 5), for a pass after it
that quantizes, `nbits{method=imatrix}`. Elements of a weight that are multiplied by large activations
count more, and lose less when they are larger than the others of their block. So W becomes
W diag(s), and the activation x becomes diag(s)^-1 x, at no cost: 1 / s goes into the constants that
x is made with. What the model computes stays the same, up to rounding: each changed constant is
computed in double precision and rounded once, one that has rows and columns scaled, twice.

s = m^alpha, where m are the root mean squares of the channels of x, which a calibration measured
(`quantize --calibrate`); one alpha from 0, 0.05, 0.1 to 1 for each x, and s up to 256. It is the one
with the least of sum m^2 (W - Q(W diag(s)) / diag(s))^2 over rows of all weights that read x, about 512
of them. Q is the quantization that `nbits{method=imatrix}` has with the same options, so that both passes are to be
given the same: its scale search, which is the clipping search of the paper, too, with the importance (m / s)^2. That
is handed on as what is known of the scaled weights.

The smallest s is 1, so that no activation grows: what was measured to fit half precision still does.

## Scope

- x is the left operand of `MatMul` and `Gemm` with constant weights, in the main graph, where a calibration
  looks. Nothing else reads x, and nothing else reads the weights.
- x is made by `LayerNormalization`, `RMSNormalization`, or by `SimplifiedLayerNormalization`,
  `SkipLayerNormalization` or `SkipSimplifiedLayerNormalization` of ONNX Runtime: scale and bias take 1 / s. Or by a
  `Mul` with a constant of one number for each channel (what a spelled-out norm ends with), or a `MatMul` or
  `Gemm` with a constant weight: its rows, and its bias, take 1 / s.
- Between that and x there may be: `Add` and `Sub` of a constant with channels, which takes 1 / s; `Mul`, where one
  factor takes 1 / s (`Mul (act (gate), up)`: the up projection); `Div`, `Relu`, `LeakyRelu`, `Neg`, `Identity`, and
  `Cast` between floating-point types. Nothing else reads these. Through other activation functions (`Gelu`, say)
  nothing can be scaled, and through attention nothing is.
- Constants are ones that callers cannot replace; small ones that something else reads are copied.

Weights whose scaled elements would overflow stay. A weight that was scaled once is not scaled again.

## Statistics

`activations`: activations scaled. `weights`: weights that read them.

## Example

```text
n = LayerNormalization (h, g)             float[768] g, float[768,768] Q
q = MatMul (n, Q)
n = LayerNormalization (h, g)             g / s, diag(s) Q
q = MatMul (n, Q)
```
";

/// The pass with its options.
struct Awq {
    bits: u8,
    block: usize,
    symmetric: bool,
}

impl Awq {
    fn new(options: &Options) -> Awq {
        Awq {
            bits: options.int("bits") as u8,
            block: options.int("block") as usize,
            symmetric: !options.flag("asymmetric"),
        }
    }
}

impl Pass for Awq {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let Some(mut calibrated) = cx.calibrated.clone() else {
            return Err(Error::input(
                "it scales by activations, and there was no calibration; expected `quantize --calibrate`",
            ));
        };
        let uses = Uses::of(model);
        let planner = Planner {
            pass: self,
            model,
            uses: &uses,
            calibrated: &calibrated,
        };
        let plans = plan_nodes(model, INFO.name, cx, |node| planner.plan(node))?;
        if plans.is_empty() {
            return Ok(Changed::No);
        }
        let known = Arc::make_mut(&mut calibrated);
        let mut left = Vec::new();
        let mut edit = Edit::new(model);
        for (_, plan) in &plans {
            commit(&mut edit, &uses, plan, &mut left);
            for part in plan.multiplied.iter().chain(&plan.divided) {
                known.change(&edit.model().values[part.root].name);
            }
            known.scale(&plan.keys, &plan.found.scales);
            cx.count("activations", 1);
            cx.count("weights", plan.multiplied.len() as u64);
        }
        edit.finish();
        remove_unused(model, &left);
        cx.calibrated = Some(calibrated);
        cx.model_changed();
        Ok(Changed::count(plans.len()))
    }
}

/// Scales the constants of a plan. Those that were copied go to `left`.
fn commit(edit: &mut Edit<'_>, uses: &Uses, plan: &Plan, left: &mut Vec<ValueId>) {
    let scales = plan.found.scales.iter().map(|&s| f64::from(s));
    let scales: Vec<f64> = scales.collect();
    let inverse: Vec<f64> = scales.iter().map(|s| 1.0 / s).collect();
    for part in &plan.multiplied {
        scale(edit, uses, part, &scales, left);
    }
    for part in &plan.divided {
        scale(edit, uses, part, &inverse, left);
    }
}

fn scale(edit: &mut Edit<'_>, uses: &Uses, part: &Part, factors: &[f64], left: &mut Vec<ValueId>) {
    let model = edit.model();
    let tensor = source_tensor(model, part.root).expect("a planned constant is one");
    let Elements::Data(data) = &tensor.elements else {
        unreachable!("a planned constant holds numbers");
    };
    let recipe = ScaleChannels::new(data, tensor.dtype, part.channels, factors.to_vec());
    let scaled: Data = recipe.into_data();
    if part.alone(model, uses) {
        edit.change_constant(part.root, |tensor| tensor.elements = Elements::Data(scaled));
        return;
    }
    let mut copy = tensor.clone();
    copy.elements = Elements::Data(scaled);
    copy.wire = Default::default();
    let (graph, name) = (
        model.nodes[part.node].graph,
        format!("{}/scaled", model.values[part.root].name),
    );
    let copy = edit.add_constant(graph, &name, copy);
    edit.model_mut().nodes[part.node].inputs[part.slot] = Some(copy);
    left.push(part.root);
}
