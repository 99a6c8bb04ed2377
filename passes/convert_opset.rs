//! `convert-opset`: the same model by the operators of a newer opset.

use crate::{
    error::Result,
    ir::Model,
    opset::{self, Conversion, Obstacle},
    pass::{Changed, OptionInfo, OptionKind, Pass, PassContext, PassInfo, Reason, Remark},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "convert-opset",
    summary: "convert to a newer opset of the default domain",
    doc: DOC,
    options: &[OptionInfo {
        name: "to",
        kind: OptionKind::Int(&[
            8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
        ]),
        default: "21",
        help: "the version that the model imports in the end; a newer one is left",
    }],
    build: |options| {
        Ok(Box::new(ConvertOpset {
            to: options.int("to"),
        }))
    },
};

const DOC: &str = "\
Brings every node of the default domain, version by version, to the operator that the newer opset has,
and then raises the import. What computes the same afterwards is the same to the bit.

Attributes become operands (axes of reductions, Squeeze, Unsqueeze; Slice, Split, TopK, Clip, Pad,
Dropout, Upsample, DFT); operators that ended become their successors (Upsample becomes Resize, Scatter
ScatterElements); where the meaning changed, what it was is said: Softmax and its kin that took axes
together get a Flatten before and a Reshape after, Resize before opset 11 its modes, GroupNormalization
a scale for each channel. A node whose operator only got more types or more that may be left out
stays as it is.

## Scope

The main graph, the bodies in it and all local functions, which import opsets for themselves. From
opset 7 on; older operators are converted where nothing but types changed since.

All or nothing: when a node has no rule, or needs to know what cannot be told (the type of a Clip's
operand, a scale that is not constant), each such node gets a remark (`opset`), and the model stays as
it is. The meaning of ONNX Runtime counts where the standard is silent: which pixel was nearest in
Resize 10.

The IR version becomes at least that of the release that brought the opset. From version 4 on
constants are no inputs: a model of version 3 loses those inputs that are constants.

## Statistics

`nodes`: nodes that have another form. `imports`: imports raised, those of functions included.

## Example

```text
<ir_version: 6, opset_import: [\"\" : 11]>
y = Squeeze <axes = [1]> (x)

<ir_version: 10, opset_import: [\"\" : 21]>
y = Squeeze (x, \"y/axes\")                  int64[1] \"y/axes\" = {1}
```
";

struct ConvertOpset {
    to: i64,
}

impl Pass for ConvertOpset {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        // It is one rewrite: half of it would be no model.
        if !opset::is_older(model, "", self.to) || !cx.permit() {
            return Ok(Changed::No);
        }
        match opset::convert(model, "", self.to)? {
            Conversion::Done { nodes, imports } => {
                cx.count("nodes", nodes as u64);
                cx.count("imports", imports as u64);
                Ok(Changed::count(nodes + imports))
            }
            Conversion::Impossible(obstacles) => {
                let remark = |o: Obstacle| {
                    Remark::new(model, INFO.name, o.node, Reason::Opset, o.message, 0)
                };
                cx.remarks.extend(obstacles.into_iter().map(remark));
                Ok(Changed::No)
            }
        }
    }
}
