//! `const-fold`: what is constant is computed by the compiler.
//!
//! [`values`] finds the values, [`budget`] chooses which of them the model is to hold,
//! [`commit`] puts them there; [`pieces`] has those that are computed while the file is
//! written, and [`remarks`] says what stays. [`branches`] resolves an `If` whose condition is
//! known, and [`elements`] takes elements out of sequences that a node has just made.

mod branches;
mod budget;
mod commit;
mod elements;
mod pieces;
mod remarks;
mod values;

use crate::{
    error::Result,
    ir::Model,
    pass::{Changed, OptionInfo, OptionKind, Pass, PassContext, PassInfo},
};
use values::Values;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "const-fold",
    summary: "compute what is constant, as long as the file does not grow",
    doc: DOC,
    options: &[
        OptionInfo {
            name: "exact",
            kind: OptionKind::Flag,
            default: "false",
            help: "fold only what the standard fixes to the last bit: no transcendental functions, \
                   no sums of floating-point numbers",
        },
        OptionInfo {
            name: "grow",
            kind: OptionKind::Flag,
            default: "false",
            help: "also fold what makes the file larger",
        },
    ],
    build: |options| {
        Ok(Box::new(ConstFold {
            exact: options.flag("exact"),
            grow: options.flag("grow"),
        }))
    },
};

const DOC: &str = "\
Evaluates every operator whose operands are constant, with the exact types of ONNX: integers
wrap, float16 is rounded as float16. What a value is needed for decides what the file holds:
a large value that only leads to a small one (a mask that is sliced, a shape that is gathered
from) is passed through, and one that would make the file larger stays a node. `Constant`
nodes become initializers. An `If` whose condition is constant gives way to its branch.
`SequenceAt` of a sequence that a node has just made, with a constant position, becomes the
element; of the parts of a `SplitToSequence`, a result of a `Split` or a `Gather`.

A weight that is cast, transposed, scaled or given another shape is not computed here but
while the model is written, a piece at a time.

## Scope

The standard operators that have one result for given operands: no random ones, no
convolutions, no quantization, no control flow except `If`. Not folded: initializers that
callers may replace; a result above 8 MiB that cannot be made in pieces, or takes more than
that to find (`fold-too-large`); what would make the file larger (`fold-grows`); what a runtime
refuses, such as a division by zero or an index out of range (`fold-fails`); forms that the
standard leaves open, such as `NonZero` of a scalar (`operator`). In functions, and up to IR
version 3, constants are `Constant` nodes and not initializers.

## Statistics

`folded`: nodes evaluated. `lifted`: `Constant` nodes made initializers. `recipes`: results
that are computed when the model is written. `inlined`: `If` nodes. `elements`: elements of
sequences.

## Example

```text
one = Constant <value_float = 1.0> ()
big = Expand (one, shape)                  int64[2] shape = {512, 512}
low = Trilu <upper = 0> (big)              read by x and by y
x = ReduceSum (low)
y = Mul (a, low)

float one = {1.0}, float[1,1] x = {131328.0}
big = Expand (one, shape)                  the mask itself stays a computation
low = Trilu <upper = 0> (big)
y = Mul (a, low)
```
";

struct ConstFold {
    exact: bool,
    grow: bool,
}

/// Rounds at most. Each folds everything that it can; another one finds what the budget
/// allows now, or what an inlined branch shows.
const ROUNDS: usize = 16;

impl Pass for ConstFold {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let mut changed = 0;
        let mut said = Vec::new();
        for _ in 0..ROUNDS {
            let values = Values::of(model, cx.facts(model), self.exact)?;
            // A branch that is inlined shows constants to what follows.
            let inlined = branches::inline(model, &values, cx)?;
            let taken = match inlined {
                0 => elements::take(model, &values, cx)?,
                _ => 0,
            };
            if inlined + taken > 0 {
                changed += inlined + taken;
                cx.model_changed();
                continue;
            }
            let choice = budget::choose(model, &values, self.grow);
            said = remarks::remarks(model, &values, &choice);
            let done = commit::commit(model, &values, choice, cx);
            changed += done;
            if done == 0 {
                break;
            }
            cx.model_changed();
        }
        cx.remarks.append(&mut said);
        Ok(Changed::count(changed))
    }
}
