//! Which nodes give back what they are given.

use super::{look::Look, number::is_number};
use crate::{
    error::Result,
    infer::cast_to,
    ir::{AttributeValue, Node, NodeId, ValueId},
};

/// How many reshapes are looked back, so that long chains take no quadratic time.
const DEPTH: usize = 8;

/// The value that the first result of `node` is the same as, in every run and bit for bit;
/// the other results are then not in use.
///
/// # Errors
/// A constant cannot be read.
pub(super) fn same_as(look: &Look<'_>, node: NodeId) -> Result<Option<ValueId>> {
    let Some((n, opset)) = look.operator(node) else {
        return Ok(None);
    };
    let (Some(result), Some(x)) = (n.output(0), n.input(0)) else {
        return Ok(None);
    };
    let unused = |v: &ValueId| look.uses.of_value(*v).is_empty();
    if !n.outputs.iter().skip(1).flatten().all(unused) {
        return Ok(None);
    }
    let same = |holds: bool| Ok(holds.then_some(x));
    match &*n.op_type {
        "Identity" => same(true),
        "Dropout" => same(is_inference(look, n, opset)?),
        "Cast" => same(cast_to(n).is_some() && cast_to(n) == look.facts.dtype(x)),
        "CastLike" => same(n.input(1).is_some_and(|like| look.same_dtype(x, like))),
        "Expand" | "Tile" => same(look.same_shape(result, x)),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Ok(before_reshapes(look, n, result)),
        "Slice" => same(look.same_shape(result, x) && is_forward(look, n)),
        "Pad" => same(is_zero(
            look.ints(n, "pads", 1)
                .or_else(|| look.ints(n, "paddings", 1)),
        )),
        "Transpose" => same(keeps_order(look, n, x)),
        "Split" => same(n.outputs.len() == 1),
        "Concat" | "Sum" | "Mean" | "Max" | "Min" => same(n.inputs.len() == 1),
        // The bounds that are absent are the type's own: infinity is beyond those of floats.
        "Clip" => same(
            opset >= 11
                && n.inputs.iter().skip(1).all(Option::is_none)
                && look.facts.dtype(x).is_some_and(|t| !t.is_float()),
        ),
        "Resize" => same(is_unscaled(look, n, opset)?),
        "Neg" | "Not" => Ok(undone(look, n, x)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "And" | "Or" | "Xor" if opset >= 7 => {
            with_neutral(look, n, result)
        }
        "Where" => chosen(look, n, result),
        _ => Ok(None),
    }
}

/// Whether it is a `Dropout` that does not train.
fn is_inference(look: &Look<'_>, n: &Node, opset: i64) -> Result<bool> {
    Ok(match opset {
        ..7 => n.int("is_test", 0).is_some_and(|i| i != 0),
        7..12 => true,
        _ => look.is_false(n, 2)?,
    })
}

/// Whether no step of a `Slice` is other than 1: one of -1 keeps the extent too.
fn is_forward(look: &Look<'_>, n: &Node) -> bool {
    match n.input(4) {
        None => true,
        Some(_) => look
            .ints(n, "", 4)
            .is_some_and(|steps| steps.iter().all(|&s| s == 1)),
    }
}

fn is_zero(ints: Option<Vec<i64>>) -> bool {
    ints.is_some_and(|list| list.iter().all(|&i| i == 0))
}

fn keeps_order(look: &Look<'_>, n: &Node, x: ValueId) -> bool {
    match n.attribute("perm") {
        Some(AttributeValue::Ints(perm)) => perm.iter().zip(0..).all(|(&p, i)| p == i),
        // Reversed.
        None => look.rank(x).is_some_and(|rank| rank <= 1),
        Some(_) => false,
    }
}

/// A value before `n` and other nodes that only reshape, with the extents of `result`: they
/// all keep the order of the elements.
fn before_reshapes(look: &Look<'_>, n: &Node, result: ValueId) -> Option<ValueId> {
    let mut at = n.input(0)?;
    // Without axes, some runtimes remove all of extent 1.
    if n.is("Squeeze") && look.ints(n, "axes", 1).is_some_and(|axes| axes.is_empty()) {
        return None;
    }
    if look.same_shape(result, at) {
        return Some(at);
    }
    if let Some(x) = undone_axes(look, n, at) {
        return Some(x);
    }
    for _ in 0..DEPTH {
        let (inner, _) = look.maker(at)?;
        if !super::merge::is_reshape(inner) {
            return None;
        }
        at = inner.input(0)?;
        if look.same_shape(result, at) {
            return Some(at);
        }
    }
    None
}

/// The operand of an `Unsqueeze` whose axes `n`, a `Squeeze`, removes, or the other way round.
/// Both count axes in what has more of them, so nothing else needs to be known. Without axes, a
/// `Squeeze` may remove more.
fn undone_axes(look: &Look<'_>, n: &Node, x: ValueId) -> Option<ValueId> {
    let (inner, _) = look.maker(x)?;
    let inverse = match &*n.op_type {
        "Squeeze" => "Unsqueeze",
        "Unsqueeze" => "Squeeze",
        _ => return None,
    };
    let axes = |n: &Node| {
        let mut axes = look.ints(n, "axes", 1)?;
        axes.sort_unstable();
        Some(axes)
    };
    let listed = axes(n)?;
    let same = &*inner.op_type == inverse && !listed.is_empty() && listed == axes(inner)?;
    inner.input(0).filter(|_| same)
}

/// Whether a `Resize` has scale 1 along all axes. With an odd way to compute coordinates, or
/// a filter that smooths, even that may change something.
fn is_unscaled(look: &Look<'_>, n: &Node, opset: i64) -> Result<bool> {
    let text = |name: &str, default: &'static str| match n.attribute(name) {
        None => default.to_owned(),
        Some(AttributeValue::String(s)) => String::from_utf8_lossy(s).into_owned(),
        Some(_) => String::new(),
    };
    let coordinates = text("coordinate_transformation_mode", "half_pixel");
    let plain = matches!(&*text("mode", "nearest"), "nearest" | "linear")
        && matches!(
            &*coordinates,
            "half_pixel" | "pytorch_half_pixel" | "asymmetric"
        )
        && n.int("antialias", 0) == Some(0);
    let scales = n.input(if opset < 11 { 1 } else { 2 });
    match scales {
        Some(scales) if plain && n.input(3).is_none() => is_number(look, scales, 1.0),
        _ => Ok(false),
    }
}

/// The operand of the operand, when both negate.
fn undone(look: &Look<'_>, n: &Node, x: ValueId) -> Option<ValueId> {
    let (inner, _) = look.maker(x)?;
    inner.input(0).filter(|_| inner.op_type == n.op_type)
}

/// The operand that stays what it is because the other one is a constant like 0 or 1.
fn with_neutral(look: &Look<'_>, n: &Node, result: ValueId) -> Result<Option<ValueId>> {
    let &[Some(a), Some(b)] = n.inputs.as_slice() else {
        return Ok(None);
    };
    if matches!(&*n.op_type, "And" | "Or") && a == b {
        return Ok(Some(a));
    }
    let either = matches!(&*n.op_type, "Add" | "Mul" | "And" | "Or" | "Xor");
    for (kept, other) in [(a, b), (b, a)] {
        if (kept, other) == (b, a) && !either {
            break;
        }
        if is_neutral(look, n, other)? && keeps_extents(look, result, kept, other) {
            return Ok(Some(kept));
        }
    }
    Ok(None)
}

fn is_neutral(look: &Look<'_>, n: &Node, other: ValueId) -> Result<bool> {
    match &*n.op_type {
        // 0 + -0 is 0 and -0 + -0 is -0; but -0 + 0 is 0.
        "Add" => is_number(look, other, -0.0),
        "Sub" => is_number(look, other, 0.0),
        "And" => is_number(look, other, 1.0),
        "Or" | "Xor" => is_number(look, other, 0.0),
        _ => is_number(look, other, 1.0),
    }
}

/// Whether `result` has the extents of `kept` although `other` may be broadcast with it.
fn keeps_extents(look: &Look<'_>, result: ValueId, kept: ValueId, other: ValueId) -> bool {
    look.rank(other) == Some(0) || look.same_shape(result, kept)
}

/// What a `Where` always takes.
fn chosen(look: &Look<'_>, n: &Node, result: ValueId) -> Result<Option<ValueId>> {
    let &[Some(condition), Some(a), Some(b)] = n.inputs.as_slice() else {
        return Ok(None);
    };
    let taken = if a == b || is_number(look, condition, 1.0)? {
        a
    } else if is_number(look, condition, 0.0)? {
        b
    } else {
        return Ok(None);
    };
    Ok(look.same_shape(result, taken).then_some(taken))
}
