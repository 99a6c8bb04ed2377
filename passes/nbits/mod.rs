//! `nbits`: weights to blocks of 2, 4 or 8 bits.

mod blocks;
mod commit;
mod group;
mod plan;
mod qdq;
mod runs;
mod spelled;

use globset::GlobSet;

use crate::{
    error::{Error, Result},
    ir::{Model, NodeId},
    opset::{self, Conversion, Obstacle},
    pass::{
        ASYMMETRIC, BITS, BLOCK, Changed, EXCLUDE, INCLUDE, Look, NONFINITE, OptionInfo,
        OptionKind, Options, Pass, PassContext, PassInfo, Reason, Remark, Selection, plan_nodes,
    },
    quant::{Method, Needs},
    target::Targets,
};

use plan::Plan;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "nbits",
    summary: "quantize weights in blocks: MatMul and Gemm to MatMulNBits, Gather to GatherBlockQuantized",
    doc: DOC,
    options: &[
        BITS,
        BLOCK,
        ASYMMETRIC,
        OptionInfo {
            name: "method",
            kind: OptionKind::Choice(&METHODS),
            default: Method::Rtn.name(),
            help: "how codes are chosen: by the range of a block (rtn, round to nearest), by the least weighted \
                   squared error (mse), as half-quadratic quantization has it (hqq, only asymmetric), or, where \
                   there was a calibration, by the error weighted with the activations (imatrix) or that of the \
                   products (gptq)",
        },
        OptionInfo {
            name: "zero-points",
            kind: OptionKind::Choice(&["codes", "float"]),
            default: "codes",
            help: "what zero points of MatMulNBits are: codes, or (with hqq) numbers of the scales' type where all \
                   targets take them, for which no runtime has a fast kernel",
        },
        OptionInfo {
            name: "format",
            kind: OptionKind::Choice(&["contrib", "qdq"]),
            default: "contrib",
            help: "what reads the codes: the operators of ONNX Runtime, or the node as it was behind a \
                   blocked DequantizeLinear of the standard (opset 21; of 2 bits, 25)",
        },
        OptionInfo {
            name: "accuracy-level",
            kind: OptionKind::Choice(&["auto", "0", "1", "2", "3", "4"]),
            default: "auto",
            help: "MatMulNBits' attribute: 1 float, 2 float16, 3 bfloat16, 4 int8 activations, 0 unset; \
                   auto: unset for 4 bits, 4 for others (their only fast kernel on the CPU)",
        },
        INCLUDE,
        EXCLUDE,
        OptionInfo {
            name: "weight",
            kind: OptionKind::List,
            default: "",
            help: "only weights whose name matches this glob",
        },
        OptionInfo {
            name: "tie",
            kind: OptionKind::Choice(&["reshape", "alias"]),
            default: "reshape",
            help: "how a table that is both embedding and output projection is stored once: read by \
                   Gather through a Reshape, or as two initializers with the same place in a side file",
        },
        OptionInfo {
            name: "target",
            kind: OptionKind::List,
            default: "",
            help: "a runtime that has to run the result, such as onnxruntime@1.20: another form is chosen, or \
                   the weight left, where it does not; without any, ONNX Runtime 1.23 or newer",
        },
        NONFINITE,
    ],
    build: |options| Ok(Box::new(Nbits::new(options)?)),
};

/// What `method` takes: all but that of the pass `awq`, after which it is `imatrix`.
const METHODS: [&str; 5] = Method::names([
    Method::Rtn,
    Method::Mse,
    Method::Hqq,
    Method::Imatrix,
    Method::Gptq,
]);

const DOC: &str = "\
Replaces a weight by codes of 2, 4 or 8 bits, a scale for each block of elements and, when
asymmetric, a zero point for each block. Weights are read once, while the model is written.

## Methods

An element x becomes q = round(x / s + z), clamped to the codes that there are, and stands for
s (q - z). Symmetric blocks have z in the middle of the codes.

- `rtn`, round to nearest: s from the block's range, z from its least element; the rule of ONNX
  Runtime's MatMulNBitsQuantizer, to the bit.
- `mse`, scale search: minimizes sum w (x - s (q - z))^2 over a grid of s (of both signs when
  symmetric) and z, where each candidate is refitted to its codes u = q - z by least squares,
  s = sum(w u x) / sum(w u^2). The weights are w = rms(x) + |x|, those of the k-quants of llama.cpp. With zero
  points and blocks of 32 and more an s above that of rtn, d, costs sum(w) (s^2 - d^2) / 12 besides. No
  block has a larger error by this measure than by rtn.
- `hqq`, half-quadratic quantization (Badri and Shaji, 2023): s of rtn, and the z that minimizes
  sum |x - s (q - z)|^0.7, by alternating e = shrink(x - s (q - z)) and z = mean(q - (x - e) / s). z is
  then rounded, to a code or (`zero-points=float`) to the scales' type. A float z is only for products: tables,
  and projections that share one, keep codes.
- `imatrix`, scale search as by `mse`, where w is multiplied by the mean square of the activation that the
  element is multiplied by (the importance matrix of llama.cpp): w = importance (rms(x) + |x|).
- `gptq` (Frantar et al., 2022): codes whose products with the activations differ least. They are chosen
  before, weight after weight, by `calibrate`; the pass puts them in their place.

The last two need a calibration (`quantize --calibrate`); weights of which it found nothing are quantized by
`mse` (`not-calibrated`).

## Scope

- `MatMul` with a constant of rank 2 (or with leading axes of extent 1) on the right; on the
  left where the rank of the other operand is known.
- `Gemm` with a constant B: transA, transB; alpha goes into the scales (for float16, whose
  range is small, it multiplies the product); beta * C becomes the
  bias where C is a constant row, an `Add` else.
- `Gather` along axis 0 of a constant table of rank 2, to `GatherBlockQuantized` with uint8
  data, which needs no newer opset.
- Constants are followed through Constant, Identity, Cast, Transpose, Squeeze, Unsqueeze and
  Reshape (the last three where only axes of extent 1 come and go), in subgraphs and in local
  functions. float stays the type of the activations, and so does float16, except with
  accuracy level 4: ONNX Runtime from 1.24 on may give zeros there, and it is cast to float around the
  new node, as are bfloat16 and double, which no CPU kernel takes.
- A weight that several nodes read is quantized once. A table that `Gather` and a projection
  share (a tied embedding) is stored once when its rows are whole blocks.

Whatever is matched and left has a remark. The original weight goes when nothing reads it
any more.

## Statistics

`matmul`, `gemm`, `gather`: nodes rewritten. `weights`: weights quantized.

## Example

```text
y = MatMul (x, W)                          float[1024,4096] W
y = com.microsoft.MatMulNBits <K = 1024, N = 4096, bits = 4, block_size = 16>
    (x, W_Q4, W_scales)                    uint8[4096,64,8] W_Q4, float[4096,64] W_scales
```
";

/// The pass with its options.
struct Nbits {
    bits: u8,
    block: usize,
    symmetric: bool,
    method: Method,
    weights: Option<GlobSet>,
    float_zero_points: bool,
    qdq: bool,
    accuracy_level: i64,
    selection: Selection,
    alias: bool,
    targets: Targets,
    skip_nonfinite: bool,
}

impl Nbits {
    fn new(options: &Options) -> Result<Nbits> {
        let bits = options.int("bits") as u8;
        let accuracy_level = match options.choice("accuracy-level") {
            "auto" if bits == 4 => 0,
            "auto" => 4,
            level => level.parse().expect("a digit, by its declaration"),
        };
        let symmetric = !options.flag("asymmetric");
        let qdq = options.choice("format") == "qdq";
        let method = options.choice("method").parse();
        let method: Method = method.expect("a method, by its declaration");
        if method == Method::Hqq && symmetric {
            return Err(unfit("method=hqq", "chooses zero points", "asymmetric"));
        }
        let float_zero_points = options.choice("zero-points") == "float";
        if float_zero_points && (method != Method::Hqq || qdq) {
            let what = "is for products by MatMulNBits";
            return Err(unfit(
                "zero-points=float",
                what,
                "method=hqq and format=contrib",
            ));
        }
        if method.needs() == Needs::Codes && qdq {
            return Err(unfit(
                "method=gptq",
                "makes codes for MatMulNBits",
                "format=contrib",
            ));
        }
        if float_zero_points && bits == 8 {
            let what = "is for codes that runtimes take with them";
            return Err(unfit("zero-points=float", what, "bits=2 or bits=4"));
        }
        Ok(Nbits {
            bits,
            block: options.int("block") as usize,
            symmetric,
            method,
            weights: match options.list("weight").is_empty() {
                true => None,
                false => Some(options.globs("weight")?),
            },
            float_zero_points,
            qdq,
            accuracy_level,
            selection: Selection::new(options)?,
            alias: options.choice("tie") == "alias",
            targets: Targets::parse(options.list("target"))?,
            skip_nonfinite: options.choice("nonfinite") == "skip",
        })
    }
}

/// An option that has no meaning without others.
fn unfit(option: &str, what: &str, expected: &str) -> Error {
    Error::input(format!(
        "option `{option}` {what}; expected {expected}, too"
    ))
}

impl Pass for Nbits {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        if self.method.needs() != Needs::Nothing && cx.calibrated.is_none() {
            return Err(Error::input(
                "the method needs activations, and there was no calibration; expected `quantize --calibrate`, or \
                 method=mse",
            ));
        }
        let converted = self.qdq && self.convert(model, cx)?;
        let plans = self.plans(model, 0, cx)?;
        let count = match plans.len() {
            0 => 0,
            _ if self.qdq => self.commit_qdq(model, plans, cx),
            count => {
                self.commit(model, plans, cx)?;
                count
            }
        };
        if count > 0 {
            cx.model_changed();
        }
        Ok(Changed::count(count + usize::from(converted)))
    }
}

impl Nbits {
    /// What to do, were the model of opset `opset` or newer.
    fn plans(
        &self,
        model: &Model,
        opset: i64,
        cx: &mut PassContext,
    ) -> Result<Vec<(NodeId, Plan)>> {
        let facts = cx.facts(model);
        let look = Look {
            model,
            facts: &facts,
            opset,
        };
        plan_nodes(model, INFO.name, cx, |node| self.plan(look, node))
    }

    /// Raises the opset to the one that blocked codes need, if there will be some; whether it did.
    fn convert(&self, model: &mut Model, cx: &mut PassContext) -> Result<bool> {
        let needed = self.qdq_opset();
        if !opset::is_older(model, "", needed) {
            return Ok(false);
        }
        let mut dry = PassContext {
            facts: Some(cx.facts(model)),
            ..PassContext::default()
        };
        if self.plans(model, needed, &mut dry)?.is_empty() || cx.rewrites_left == Some(0) {
            return Ok(false);
        }
        match opset::convert(model, "", needed)? {
            Conversion::Done { .. } => {
                cx.model_changed();
                Ok(true)
            }
            Conversion::Impossible(obstacles) => {
                let remark = |o: Obstacle| {
                    Remark::new(model, INFO.name, o.node, Reason::Opset, o.message, 0)
                };
                cx.remarks.extend(obstacles.into_iter().map(remark));
                Ok(false)
            }
        }
    }
}
