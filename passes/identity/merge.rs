//! Pairs of nodes that one node can do.

use super::look::Look;
use crate::{
    infer::{SymInt, cast_to},
    ir::{AttributeValue, DataType, Node, NodeId, ValueId},
};

/// A node that works on what the node before it works on.
pub(super) struct Merge {
    /// The operand from now on.
    pub(super) input: ValueId,
    /// The order of axes, or the axes, from now on; `None` where they stay.
    pub(super) axes: Option<Vec<i64>>,
}

/// How `node` can do the work of the node before it too.
pub(super) fn merged(look: &Look<'_>, node: NodeId) -> Option<Merge> {
    let (n, _) = look.operator(node)?;
    let middle = n.input(0)?;
    let (inner, _) = look.maker(middle)?;
    let input = inner.input(0)?;
    let same = inner.op_type == n.op_type;
    let axes = match &*n.op_type {
        "Transpose" if same => Some(composed(&order(look, n)?, &order(look, inner)?)?),
        "Unsqueeze" if same => Some(unsqueezed(look, n, inner)?),
        "Squeeze" if same => Some(squeezed(look, n, inner)?),
        "Reshape" if is_reshape(inner) => {
            target_is_absolute(look, n, middle, input).then_some(())?;
            None
        }
        "Cast" if same => {
            casts_once(look.facts.dtype(input)?, cast_to(inner)?, cast_to(n)?).then_some(())?;
            None
        }
        _ => return None,
    };
    Some(Merge { input, axes })
}

/// Whether `node`, an operator of the default domain, keeps the elements and their order.
pub(super) fn is_reshape(node: &Node) -> bool {
    matches!(
        &*node.op_type,
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze"
    )
}

/// The order of axes that a `Transpose` makes.
fn order(look: &Look<'_>, n: &Node) -> Option<Vec<i64>> {
    match n.attribute("perm") {
        Some(AttributeValue::Ints(perm)) => Some(perm.clone()),
        None => Some((0..look.rank(n.input(0)?)? as i64).rev().collect()),
        Some(_) => None,
    }
}

/// The order that `inner` and then `outer` make.
fn composed(outer: &[i64], inner: &[i64]) -> Option<Vec<i64>> {
    let place = |&axis: &i64| inner.get(usize::try_from(axis).ok()?).copied();
    (outer.len() == inner.len()).then(|| outer.iter().map(place).collect())?
}

/// The axes that an `Unsqueeze` or `Squeeze` adds or removes, counted from the front of a
/// tensor with `rank` axes and in order. `None` for an empty list too: some runtimes take it
/// as no list, with which a `Squeeze` removes all axes of extent 1.
fn axes(look: &Look<'_>, n: &Node, rank: Option<usize>) -> Option<Vec<i64>> {
    let from_front = |axis: i64| match axis {
        0.. => Some(axis),
        _ => Some(axis + i64::try_from(rank?).ok()?).filter(|&a| a >= 0),
    };
    let given = look.ints(n, "axes", 1)?.into_iter();
    let mut axes: Vec<i64> = given.map(from_front).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    Some(axes).filter(|a| !a.is_empty())
}

/// The axes that `inner` and then `outer` add.
fn unsqueezed(look: &Look<'_>, outer: &Node, inner: &Node) -> Option<Vec<i64>> {
    let rank = |n: &Node| look.rank(n.output(0)?);
    let (first, mut all) = (
        axes(look, inner, rank(inner))?,
        axes(look, outer, rank(outer))?,
    );
    // Where the axes of the first lie once the others have been put between them.
    let mut moved: Vec<i64> = first.iter().map(|&a| nth_other(&all, a)).collect();
    all.append(&mut moved);
    all.sort_unstable();
    Some(all)
}

/// The axes that `inner` and then `outer` remove.
fn squeezed(look: &Look<'_>, outer: &Node, inner: &Node) -> Option<Vec<i64>> {
    let rank = |n: &Node| look.rank(n.input(0)?);
    let (mut all, second) = (
        axes(look, inner, rank(inner))?,
        axes(look, outer, rank(outer))?,
    );
    let mut moved: Vec<i64> = second.iter().map(|&a| nth_other(&all, a)).collect();
    all.append(&mut moved);
    all.sort_unstable();
    Some(all)
}

/// Of the axes that are not in `taken`, which is in order, the one with index `n`.
fn nth_other(taken: &[i64], n: i64) -> i64 {
    taken
        .iter()
        .fold(n, |axis, &t| if t <= axis { axis + 1 } else { axis })
}

/// Whether a `Reshape` makes the same of `input` as of `middle`. A 0 stands for the extent
/// that its operand has there.
fn target_is_absolute(look: &Look<'_>, n: &Node, middle: ValueId, input: ValueId) -> bool {
    let target: Option<Vec<SymInt>> = match (n.attribute("shape"), n.input(1)) {
        (Some(AttributeValue::Ints(list)), _) => {
            Some(list.iter().map(|&i| SymInt::from(i)).collect())
        }
        (None, Some(shape)) => look.facts.elements(shape).map(<[SymInt]>::to_vec),
        _ => None,
    };
    let extent = |v: ValueId, i: usize| look.facts.shape(v).and_then(|s| s.get(i));
    let fits = |(i, size): (usize, &SymInt)| {
        size.known().is_some_and(|n| n != 0)
            || (extent(middle, i).is_some() && extent(middle, i) == extent(input, i))
    };
    let literal = n.int("allowzero", 0).is_some_and(|z| z != 0);
    literal || target.is_some_and(|t| t.iter().enumerate().all(fits))
}

/// Whether a cast from `from` to `through` and then to `to` is the same as one to `to`.
fn casts_once(from: DataType, through: DataType, to: DataType) -> bool {
    if !is_lossless(from, through) {
        return false;
    }
    // What a float out of range becomes as an integer is nobody's promise, and may depend on
    // the type it comes from.
    let integers =
        is_integer(from) && is_integer(through) && (is_integer(to) || to == DataType::Bool);
    let floats = from.is_float() && through.is_float() && to.is_float();
    integers || floats || is_lossless(from, to)
}

/// Bits that the whole numbers of an integer type take, and whether they have a sign.
fn integer(dtype: DataType) -> Option<(u64, bool)> {
    use DataType as D;
    match dtype {
        D::Int8 | D::Int16 | D::Int32 | D::Int64 => Some((dtype.bits(), true)),
        D::Uint8 | D::Uint16 | D::Uint32 | D::Uint64 => Some((dtype.bits(), false)),
        _ => None,
    }
}

fn is_integer(dtype: DataType) -> bool {
    integer(dtype).is_some()
}

/// Whether `to` has every number of `from`.
fn is_lossless(from: DataType, to: DataType) -> bool {
    use DataType as D;
    // Bits of whole numbers that are exact.
    let exact = match to {
        D::Bfloat16 => 8,
        D::Float16 => 11,
        D::Float => 24,
        D::Double => 53,
        _ => 0,
    };
    match (from, to) {
        _ if from == to => true,
        (D::Bool, _) => exact > 0 || is_integer(to),
        (D::Float16 | D::Bfloat16, D::Float | D::Double) | (D::Float, D::Double) => true,
        _ => match (integer(from), integer(to)) {
            (Some((a, signed)), Some((b, wide))) => b > a && (wide || !signed),
            (Some((bits, signed)), None) => bits - u64::from(signed) <= exact,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_among_others() {
        assert_eq!([0, 1, 2].map(|n| nth_other(&[0, 2], n)), [1, 3, 4]);
        assert_eq!([0, 1].map(|n| nth_other(&[1], n)), [0, 2]);
        assert_eq!(composed(&[2, 0, 1], &[1, 2, 0]), Some(vec![0, 1, 2]));
        assert_eq!(composed(&[2, 0, 1], &[1, 0]), None);
    }

    #[test]
    fn which_casts_lose_nothing() {
        use DataType as D;
        for (from, to) in [
            (D::Int8, D::Int16),
            (D::Uint8, D::Int16),
            (D::Uint8, D::Bfloat16),
            (D::Int16, D::Float),
            (D::Int32, D::Double),
            (D::Float16, D::Float),
            (D::Bool, D::Uint8),
        ] {
            assert!(is_lossless(from, to), "{from} {to}");
            assert!(!is_lossless(to, from), "{to} {from}");
        }
        for (from, to) in [
            (D::Int8, D::Uint16),
            (D::Int8, D::Uint8),
            (D::Int16, D::Float16),
            (D::Int32, D::Float),
            (D::Int64, D::Double),
            (D::Float16, D::Bfloat16),
            (D::Float8e4m3fn, D::Float),
            (D::String, D::Float),
        ] {
            assert!(!is_lossless(from, to), "{from} {to}");
        }
        assert!(casts_once(D::Float16, D::Float, D::Float16));
        assert!(casts_once(D::Float, D::Double, D::Float16));
        assert!(casts_once(D::Int8, D::Int32, D::Uint8));
        assert!(!casts_once(D::Int8, D::Float, D::Uint8));
        assert!(!casts_once(D::Float, D::Double, D::Int8));
        assert!(!casts_once(D::Float, D::Float16, D::Float));
    }
}
