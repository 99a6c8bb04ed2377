//! `fuse-pad`: zeros put around the operand of a convolution, as padding of the convolution.

use crate::{
    error::Result,
    ir::{Attribute, AttributeValue, Elements, Model, Node, NodeId, ValueId, edit::remove_unused},
    pass::{Changed, Left, Pass, PassContext, PassInfo, Reason, plan_nodes},
    weights::{int_elements, source_tensor},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fuse-pad",
    summary: "make a Pad with zeros part of the Conv after it",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FusePad)),
};

const DOC: &str = "\
A `Conv` puts zeros around its operand itself. A `Pad` before it that puts zeros along spatial axes
is added to its `pads`. The result is the same to the bit.

## Scope

`Pad` with mode `constant`, the value zero, and constant pads that are not negative and leave the
batch and the channels alone; a `Conv` whose `auto_pad` is `NOTSET` or `VALID`. In subgraphs and
local functions too. Other readers of the `Pad` keep it.

## Statistics

`fused`: convolutions that pad by themselves now.

## Example

```text
h = Pad (x, pads)                                                 int64[8] pads = {0,0,1,1,0,0,1,1}
y = Conv (h, W)
y = Conv <pads = [1, 1, 1, 1]> (x, W)
```
";

struct FusePad;

/// What a `Conv` becomes.
struct Plan {
    source: ValueId,
    pads: Vec<i64>,
}

impl Pass for FusePad {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let plans = plan_nodes(model, INFO.name, cx, |node| plan(model, node))?;
        let mut left = Vec::new();
        for (node, plan) in &plans {
            let n = &mut model.nodes[*node];
            left.extend(n.inputs[0].replace(plan.source));
            n.attributes
                .retain(|a| &*a.name != "pads" && &*a.name != "auto_pad");
            let pads = AttributeValue::Ints(plan.pads.clone());
            n.attributes.push(Attribute::new("pads", pads));
        }
        remove_unused(model, &left);
        cx.count("fused", plans.len() as u64);
        Ok(Changed::count(plans.len()))
    }
}

fn plan(model: &Model, node: NodeId) -> Result<Plan, Left> {
    let conv = &model.nodes[node];
    if !conv.is("Conv") {
        return Err(Left::Ignored);
    }
    let producer = conv.input(0).and_then(|v| model.producer(v));
    let pad = producer.map(|n| &model.nodes[n]);
    // What a node of an outer graph reads may be hidden here by another of its name.
    let pad = pad.filter(|n| n.is("Pad") && n.graph == conv.graph);
    let pad = pad.ok_or(Left::Ignored)?;
    let source = pad.input(0).ok_or(Left::Ignored)?;
    let left = |reason, message: &str| Left::declined(reason, message, 0);
    if !text(pad, "mode", b"constant").is_some_and(|is| is) || !adds_zeros(model, pad)? {
        return Err(left(
            Reason::Attribute,
            "the Pad before it puts other things than zeros",
        ));
    }
    let Some(added) = spatial_pads(model, pad)? else {
        let message = "the Pad before it has pads that are computed, negative or not spatial";
        return Err(left(Reason::Attribute, message));
    };
    let own = own_pads(conv, added.len());
    let own = own.ok_or_else(|| left(Reason::Attribute, "how it pads depends on more"))?;
    let pads = own.iter().zip(&added).map(|(a, b)| a.checked_add(*b));
    let pads: Option<Vec<i64>> = pads.collect();
    Ok(Plan {
        source,
        pads: pads.ok_or(Left::Ignored)?,
    })
}

/// Whether the string attribute `name`, absent or not, is `expected`; absent it is. `None` when
/// it is the caller's.
fn text(node: &Node, name: &str, expected: &[u8]) -> Option<bool> {
    match node.attribute(name) {
        None => Some(true),
        Some(AttributeValue::String(s)) => Some(&**s == expected),
        Some(_) => None,
    }
}

/// Whether all bytes of what `pad` puts are zero. Not so for -0.0.
fn adds_zeros(model: &Model, pad: &Node) -> Result<bool> {
    // Before opset 11.
    if pad.float("value", 0.0).is_none_or(|v| v.to_bits() != 0) {
        return Ok(false);
    }
    let Some(value) = pad.input(2) else {
        return Ok(true);
    };
    let tensor = source_tensor(model, value).filter(|t| t.element_count() == Some(1));
    match tensor.map(|t| &t.elements) {
        Some(Elements::Data(data)) => Ok(data.read_all()?.iter().all(|&b| b == 0)),
        _ => Ok(false),
    }
}

/// The pads of the axes from the third one on, as `Conv` has them: all beginnings, then all
/// ends. `None` when they are not known or are not all.
fn spatial_pads(model: &Model, pad: &Node) -> Result<Option<Vec<i64>>> {
    // An attribute before opset 11, called `paddings` before opset 2.
    let list = match (pad.input(1), pad.attribute("pads")) {
        (Some(value), _) => int_elements(model, value)?,
        (None, Some(AttributeValue::Ints(list))) => Some(list.clone()),
        _ => None,
    };
    let Some(list) = list.filter(|_| pad.input(3).is_none()) else {
        return Ok(None);
    };
    let (begins, ends) = list.split_at(list.len() / 2);
    let whole = begins.len() == ends.len() && begins.len() > 2;
    let kept = whole && [begins, ends].iter().all(|l| l[..2] == [0, 0]);
    if !kept || list.iter().any(|&p| p < 0) {
        return Ok(None);
    }
    Ok(Some([&begins[2..], &ends[2..]].concat()))
}

/// The pads that `conv` has already, `len` of them.
fn own_pads(conv: &Node, len: usize) -> Option<Vec<i64>> {
    // `VALID` is no padding, whatever `pads` says.
    let valid = conv.attribute("auto_pad").is_some() && text(conv, "auto_pad", b"VALID")?;
    if !valid && !text(conv, "auto_pad", b"NOTSET")? {
        return None;
    }
    match conv.attribute("pads") {
        _ if valid => Some(vec![0; len]),
        None => Some(vec![0; len]),
        Some(AttributeValue::Ints(pads)) if pads.len() == len => Some(pads.clone()),
        Some(_) => None,
    }
}
