//! `fp16`: half precision inside, the types at the border as asked.
//!
//! 1. `functions`: the bodies of local functions take the place of their calls.
//! 2. `survey`: which values are float tensors, and what each operator takes.
//! 3. `islands`, `range`, `magnitude`: which nodes stay float although they could be half.
//! 4. `plan`: which precision each value has, and which each use wants.
//! 5. `commit`: the values change their type, and a `Cast` stands wherever the two differ.

mod commit;
mod functions;
mod islands;
mod magnitude;
mod operators;
mod plan;
mod range;
mod survey;

use std::path::Path;

use globset::GlobSet;

use crate::{
    error::{Error, Result},
    ir::{DataType, Model, NodeId},
    maxima::Maxima,
    pass::{
        Changed, OptionInfo, OptionKind, Options, Pass, PassContext, PassInfo, Reason, plan_nodes,
    },
};

use plan::Plan;
use survey::Survey;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fp16",
    summary: "compute in half precision: float becomes float16",
    doc: DOC,
    options: &[
        OptionInfo {
            name: "io",
            kind: OptionKind::Choice(&["keep", "half", "cache"]),
            default: "keep",
            help: "inputs and outputs of the model: keep their types, all become float16, or only \
                   those of a cache (names that begin with `past` or `present`)",
        },
        OptionInfo {
            name: "from",
            kind: OptionKind::Choice(&["all", "float"]),
            default: "all",
            help: "which types become float16: float, double and bfloat16, or float alone",
        },
        OptionInfo {
            name: "maxima",
            kind: OptionKind::Files,
            default: "",
            help: "the largest magnitudes that values of the main graph were measured to reach, as JSON; \
                   those that half cannot hold stay float",
        },
        OptionInfo {
            name: "peak",
            kind: OptionKind::List,
            default: "",
            help: "the same for one value, as NAME=NUMBER: values of the main graph that have none then \
                   were measured to be within half's range",
        },
        OptionInfo {
            name: "exclude",
            kind: OptionKind::List,
            default: "",
            help: "nodes whose name matches this glob stay float",
        },
        OptionInfo {
            name: "exclude-op",
            kind: OptionKind::List,
            default: "",
            help: "nodes whose operator matches this glob stay float",
        },
    ],
    build: |options| Ok(Box::new(Fp16::new(options)?)),
};

const DOC: &str = "\
Floating-point tensors become float16 wherever the operators take it: weights, while the model is
written, rounded to nearest even; results, by the types of the operands, `to` of a Cast and
`dtype`. Values keep their names. Where precisions meet stands one Cast a value, whose
result has a new name; the output of the model that is cast back keeps its own.

## Scope

The main graph and the bodies in it. What stays float has Casts around it and a remark:

- operators that take no half by their schema at the model's opset (`operator`, `opset`):
  those that are not known, those of sequences and optionals, QuantizeLinear and
  DequantizeLinear, whose scales are exact; operands that are coordinates or scales of Resize,
  Upsample and OneHot (no remark);
- operators that ONNX Runtime's CPU refuses in half, in every version tried from 1.20 to 1.31
  (`operator`): those that make numbers and read none (RandomNormal, EyeLike of integers), sums in
  ScatterElements and ScatterND, TreeEnsemble, MeanVarianceNormalization. Of the others that lack a kernel it computes in float;
- calls of local functions that cannot be inlined, because a call is excluded or the body is
  written for another version of an operator (`function`). All other functions that compute with
  floats are inlined first;
- arithmetic on whole numbers whose exact result counts (`whole-numbers`): what begins with a
  cast of integers, Range, Floor, Ceil or Round and ends in a cast to integers, a comparison,
  Sin, Cos, Tan, or an operand that stays float. So positions, lengths and the angles of
  rotary embeddings are exact; their sines become half;
- squares that are averaged or summed, up to where the root is taken (`half-range`): the
  square of 256 is beyond half's range. The layer norms that exporters spell out are these;
- nodes that make or read values beyond half's range (`half-range`): those that were measured to
  get beyond half of it (`maxima`, `peak`; a factor of two for other inputs than those measured),
  and those that must be, by an estimate: it begins at a constant beyond the range, or at a scalar
  factor, takes what is unknown for 1, and goes on until something bounds or scales it. So too values
  that stay below the least normal number, 6.1e-5, such as the reciprocals of large ones. What was
  measured is not estimated. What was measured to be infinite, or stands for it in a mask, does not count;
- what scales a product of integers (`MatMulInteger`, `ConvInteger`; `half-range`);
- a Transpose that moves the first axis to the last or last but one place, where a product reads it
  (`target`): ONNX Runtime from 1.19 or 1.23 on ends while it loads these two;
- nodes that read a constant with numbers beyond half's range, 65504 (`half-range`). Where a
  constant of up to 4096 elements has only such numbers of 1e8 and more, and is read as masks
  are (Where, Add, Mul, ...), these stand for infinity and become +-65504 instead
  (`clamped`). Infinity and NaN stay. Numbers below 6e-8 become zero, also constants such as
  1e-12.

double and bfloat16 become half as well, and are cast back to what they were where they stay;
with `from=float` they are left (`dtype`). Run the pass before `nbits`: in codes of a few bits it
cannot see how large weights are. Maxima are those of the model that the pass gets: measure it
after `clean` and, where there are functions, `inline-functions`, as names are what tells values
apart; values in bodies of nodes are not measured. A constant of up to 4096 elements that
float and half nodes read exists in both types; a larger one is half, and cast to float.

## Statistics

`nodes`: nodes that compute in half precision now. `weights`: constants converted, `bytes`: their
size before. `casts`: Casts added.

## Example

```text
y = MatMul (x, W)                          float x, float[512,64] W, float y
x_f16 = Cast <to = 10> (x)                 float x
y_f16 = MatMul (x_f16, W)                  float16[512,64] W
y = Cast <to = 1> (y_f16)                  float y
```
";

/// Which inputs and outputs of the model become half.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Io {
    Keep,
    Half,
    Cache,
}

impl Io {
    /// Whether the input or output `name` becomes half.
    fn is_half(self, name: &str) -> bool {
        match self {
            Io::Keep => false,
            Io::Half => true,
            Io::Cache => name.starts_with("past") || name.starts_with("present"),
        }
    }
}

/// The pass with its options.
struct Fp16 {
    io: Io,
    types: &'static [DataType],
    maxima: Maxima,
    exclude: GlobSet,
    exclude_op: GlobSet,
}

impl Fp16 {
    fn new(options: &Options) -> Result<Fp16> {
        Ok(Fp16 {
            io: match options.choice("io") {
                "half" => Io::Half,
                "cache" => Io::Cache,
                _ => Io::Keep,
            },
            types: match options.choice("from") {
                "float" => &[DataType::Float],
                _ => &[DataType::Float, DataType::Double, DataType::Bfloat16],
            },
            maxima: maxima(options)?,
            exclude: options.globs("exclude")?,
            exclude_op: options.globs("exclude-op")?,
        })
    }

    fn excludes(&self, model: &Model, node: NodeId) -> bool {
        self.exclude.is_match(&*model.node_name(node))
            || self.exclude_op.is_match(&*model.nodes[node].op_type)
    }
}

/// What was measured, from files and one by one.
fn maxima(options: &Options) -> Result<Maxima> {
    let mut maxima = Maxima::default();
    for path in options.list("maxima") {
        maxima.read(Path::new(path))?;
    }
    for given in options.list("peak") {
        let parts = given.rsplit_once('=');
        let number = parts.and_then(|(name, x)| Some((name, x.parse::<f64>().ok()?)));
        let (name, most) = number.ok_or_else(|| {
            Error::input(format!("option `peak` is `{given}`; expected NAME=NUMBER"))
        })?;
        maxima.record(name, most);
        maxima.record_others_fit();
    }
    Ok(maxima)
}

impl Pass for Fp16 {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let kept = |model: &Model, n| self.excludes(model, n);
        let inlined = functions::inline_calls(model, self.types, kept, cx);
        let mut survey = Survey::new(model, self.types);
        for node in survey.nodes.clone() {
            if self.excludes(model, node) {
                survey.leave(node, Reason::Excluded, "excluded", 0);
            }
        }
        islands::leave(&mut survey);
        let ranges = range::read(&survey, self.io, &cx.half_scans)?;
        range::leave(&mut survey, &ranges);
        magnitude::leave(&mut survey, &ranges, &self.maxima);
        let nodes = plan_nodes(model, INFO.name, cx, |node| survey.verdict(node))?;
        let plan = Plan::new(&survey, self.io, &nodes, &ranges);
        survey.other_types(cx);
        plan.clamped(&survey, &ranges, cx);
        let decided = plan.decide(&survey);
        let converted = commit::commit(model, decided, cx);
        Ok(Changed::count(inlined + converted))
    }
}
