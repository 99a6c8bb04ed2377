//! `inline-functions`: local functions become the nodes that they stand for.

use globset::GlobSet;

use crate::{
    error::Result,
    inline::inline,
    ir::{Function, Model},
    pass::{Changed, OptionInfo, OptionKind, Pass, PassContext, PassInfo, Reason, Remark},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "inline-functions",
    summary: "put the bodies of local functions in the place of the nodes that call them",
    doc: DOC,
    options: &[OptionInfo {
        name: "only",
        kind: OptionKind::List,
        default: "",
        help: "inline only functions whose name, or `domain::name`, matches this glob",
    }],
    build: |options| {
        let only = options.has("only").then(|| options.globs("only"));
        Ok(Box::new(InlineFunctions {
            only: only.transpose()?,
        }))
    },
};

const DOC: &str = "\
Copies the body of a local function to each node that calls it, and removes functions that
nothing calls any more. Attributes of the function become those of the call, or their
defaults. New names begin with the name of the call.

## Scope

All calls, in subgraphs and in bodies of other functions too. A body is written for the opsets
that its function imports: a call is left where an operator of the body is not the same in the
opset that is imported there. (`opset`)

## Statistics

`calls`: calls that became nodes. `functions`: functions removed.

## Example

```text
[act] y = local.Scaled <by = 2.0> (x)

\"act/k\" = Constant <value_float = 2.0> ()
y = Mul (x, \"act/k\")
```
";

struct InlineFunctions {
    only: Option<GlobSet>,
}

impl InlineFunctions {
    fn wants(&self, function: &Function) -> bool {
        let qualified = format!("{}::{}", function.domain(), function.name);
        let matches = |set: &GlobSet| set.is_match(&*function.name) || set.is_match(&qualified);
        self.only.as_ref().is_none_or(matches)
    }
}

impl Pass for InlineFunctions {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let done = inline(model, |f| self.wants(f), || cx.permit())?;
        for (node, why) in done.left {
            let remark = Remark::new(model, INFO.name, node, Reason::Opset, why, 0);
            cx.remarks.push(remark);
        }
        cx.count("calls", done.calls);
        cx.count("functions", done.functions);
        Ok(Changed::count((done.calls + done.functions) as usize))
    }
}
