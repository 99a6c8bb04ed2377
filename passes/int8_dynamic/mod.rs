//! `int8-dynamic`: weights to 8 bits, activations to 8 bits while the model runs.
//!
//! 1. `plan`, `product`, `window`, `table`, `recurrent`: which form a node gets, decided in parallel.
//! 2. `tie`: tables that are projections too are stored once.
//! 3. `constants`, `commit`: the new constants and nodes, in document order.

mod commit;
mod constants;
mod plan;
mod product;
mod recurrent;
mod table;
mod target;
mod tie;
mod window;

use crate::{
    error::Result,
    ir::Model,
    pass::{
        Changed, EXCLUDE, INCLUDE, Look, NONFINITE, OptionInfo, OptionKind, Options, Pass,
        PassContext, PassInfo, Selection, plan_nodes,
    },
    target::Targets,
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "int8-dynamic",
    summary: "quantize weights to 8 bits and activations while the model runs",
    doc: DOC,
    options: &[
        OptionInfo {
            name: "weights",
            kind: OptionKind::Choice(&["auto", "int8", "uint8"]),
            default: "auto",
            help: "type of the codes; auto: uint8 for ConvInteger, whose int8 form older runtimes do not \
                   have and newer ones are slow with, int8 for all else",
        },
        OptionInfo {
            name: "per-channel",
            kind: OptionKind::Flag,
            default: "true",
            help: "a scale for each result of a product, each row of a table; else one a weight",
        },
        OptionInfo {
            name: "asymmetric",
            kind: OptionKind::Flag,
            default: "false",
            help: "zero points as well, for the weights of MatMul and Gemm",
        },
        OptionInfo {
            name: "reduce-range",
            kind: OptionKind::Flag,
            default: "false",
            help: "7 bits for the weights of integer products: x86 processors without VNNI add pairs of 8-bit \
                   products in 16 bits, which overflows",
        },
        OptionInfo {
            name: "ops",
            kind: OptionKind::List,
            default: "",
            help: "only these operators, of MatMul, Gemm, Conv, ConvTranspose, Gather, LSTM, GRU, RNN",
        },
        INCLUDE,
        EXCLUDE,
        OptionInfo {
            name: "matmul",
            kind: OptionKind::Choice(&["integer", "stored"]),
            default: "integer",
            help: "MatMul and Gemm: on integers, or 8-bit weights in front of the float operator, which rounds no \
                   activations",
        },
        OptionInfo {
            name: "conv",
            kind: OptionKind::Choice(&["auto", "integer", "stored", "float"]),
            default: "auto",
            help: "Conv: ConvInteger, 8-bit weights in front of a float Conv, or left; auto: the faster of \
                   the first two",
        },
        OptionInfo {
            name: "embedding",
            kind: OptionKind::Choice(&["rows", "gather-block", "float"]),
            default: "rows",
            help: "tables: Gather of codes and of scales, which runs everywhere; GatherBlockQuantized (ONNX \
                   Runtime from 1.23 on); or left",
        },
        OptionInfo {
            name: "fused",
            kind: OptionKind::Choice(&["auto", "never", "always"]),
            default: "auto",
            help: "write DynamicQuantizeMatMul instead of the operators that ONNX Runtime fuses into it when it \
                   loads a model; auto: never, as it is not faster",
        },
        OptionInfo {
            name: "target",
            kind: OptionKind::List,
            default: "",
            help: "a runtime that has to run the result, such as `onnxruntime@1.20`: forms that one of them does \
                   not run are written otherwise",
        },
        NONFINITE,
    ],
    build: |options| Ok(Box::new(Int8::new(options)?)),
};

const DOC: &str = "\
Stores weights as 8-bit integers with a scale for each channel, by the rule of ONNX Runtime's
`quantize_dynamic`, to the bit. Products are computed on integers where that is faster: the
activation is quantized while the model runs, once for all its readers, by
`DynamicQuantizeLinear`. Elsewhere the weight is decoded by `Cast` and `Mul` in front of the operator
as it was (\"stored\"): ONNX Runtime folds these when it loads the model, so the file is small,
and the speed and the memory are those of float.

## Scope

- `MatMul` with a constant on the right, `Gemm` with a constant B: `MatMulInteger`, `Cast`, `Mul` by the
  product of both scales, `Add`, in the form that ONNX Runtime fuses. alpha goes into the scales.
  Stored: stacks of matrices (ONNX Runtime would lose a bias behind them), a constant on the left (no runtime packs it; slower than float), opsets
  before 11 (no `DynamicQuantizeLinear`), sums of more than 65536 terms (beyond 32 bits), and all with
  `matmul=stored`: an activation with few very large elements, as language models have them, loses more by
  one scale for all of it than any weight does.
- `Conv`: `ConvInteger` with uint8 weights, whose zero point is 128 for all channels, and scales that
  multiply the result. `conv=auto` does that only where it was as fast as float or faster in ONNX Runtime 1.20
  and 1.31 both: without groups, on sequences with 256 output channels and sums of 128 terms or more, on images
  with windows larger than a pixel and sums of 512 terms or more. Depthwise ones are 4 to 10 times slower.
  Stored else, and always with `weights=int8`: of ConvInteger with int8 weights ONNX Runtime
  before 1.24 has no kernel, and since then one that takes 4 times as long as that with uint8.
- `ConvTranspose`, `GRU`, `RNN`: stored. `LSTM`: `com.microsoft.DynamicQuantizeLSTM`; stored for types other
  than float and for `layout = 1`.
- `Gather` of a constant table: codes and scales are gathered and multiplied. A table that a projection reads
  as well is stored once, in the layout of the projection; its columns are gathered.
- Products of fewer than 16 terms are left, positions and angles among them: rounding of
  the activation would not average out. So are weights whose quantized form is not smaller.
- Constants are followed through Constant, Identity, Cast, Transpose, Squeeze, Unsqueeze and Reshape (the last
  three where only axes of extent 1 come and go), in subgraphs and in local functions. float16, bfloat16
  and double activations are cast to float around integer products; scales are float.

With targets, a form that one of them does not run, or runs on the CPU beside a GPU, is stored instead.

Whatever is matched and left has a remark. The original weight goes when nothing reads it any
more.

## Statistics

`matmul`, `gemm`, `conv`, `lstm`: nodes that compute on integers. `gather`: tables. `stored`: nodes with decoded
weights. `activations`: values that are quantized. `weights`: weights quantized.

## Example

```text
y = MatMul (x, W)                              float[1024,4096] W
a, s, z = DynamicQuantizeLinear (x)
i = MatMulInteger (a, W_int8, z)               int8[1024,4096] W_int8
f = Cast <to = 1> (i)
t = Mul (s, W_scales)                          float[4096] W_scales
y = Mul (f, t)
```
";

/// How a convolution is written.
#[derive(Clone, Copy, PartialEq)]
enum ConvForm {
    Auto,
    Integer,
    Stored,
    Float,
}

/// How a table is written.
#[derive(Clone, Copy, PartialEq)]
enum Embedding {
    Rows,
    GatherBlock,
    Float,
}

/// The pass with its options.
struct Int8 {
    /// The type of all codes, if the user says it.
    signed: Option<bool>,
    per_channel: bool,
    symmetric: bool,
    reduced: bool,
    ops: Vec<String>,
    selection: Selection,
    /// Whether MatMul and Gemm compute on integers.
    multiply: bool,
    conv: ConvForm,
    embedding: Embedding,
    fused: bool,
    skip_nonfinite: bool,
    targets: Targets,
}

impl Int8 {
    fn new(options: &Options) -> Result<Int8> {
        Ok(Int8 {
            signed: match options.choice("weights") {
                "int8" => Some(true),
                "uint8" => Some(false),
                _ => None,
            },
            per_channel: options.flag("per-channel"),
            symmetric: !options.flag("asymmetric"),
            reduced: options.flag("reduce-range"),
            ops: plan::operators(options)?,
            selection: Selection::new(options)?,
            multiply: options.choice("matmul") == "integer",
            conv: match options.choice("conv") {
                "integer" => ConvForm::Integer,
                "stored" => ConvForm::Stored,
                "float" => ConvForm::Float,
                _ => ConvForm::Auto,
            },
            embedding: match options.choice("embedding") {
                "gather-block" => Embedding::GatherBlock,
                "float" => Embedding::Float,
                _ => Embedding::Rows,
            },
            fused: options.choice("fused") == "always",
            skip_nonfinite: options.choice("nonfinite") == "skip",
            targets: Targets::parse(options.list("target"))?,
        })
    }
}

impl Pass for Int8 {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let facts = cx.facts(model);
        let look = Look {
            model,
            facts: &facts,
            opset: 0,
        };
        let mut plans = plan_nodes(model, INFO.name, cx, |node| self.plan(look, node))?;
        tie::tie(look, &mut plans);
        let count = plans.len();
        if count > 0 {
            commit::commit(model, plans, cx);
        }
        Ok(Changed::count(count))
    }
}
