//! Operators that change the extents and leave the elements, and those that read extents.

use super::{
    Array, Result, Unfolded,
    args::{Args, axes, axis},
    array::count,
};
use crate::ir::{DataType, Node};

/// Whether `node` only gives the elements of its first operand other extents.
pub fn reshapes(node: &Node) -> bool {
    ["Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"]
        .iter()
        .any(|op| node.is(op))
}

/// The extents that the node, one that [`reshapes`], gives to a tensor of extents `dims`.
pub(super) fn new_dims(args: &Args<'_>, dims: &[usize]) -> Result<Vec<usize>> {
    match &*args.node.op_type {
        "Identity" => Ok(dims.to_vec()),
        "Reshape" => reshape(args, dims),
        "Squeeze" => squeeze(args, dims),
        "Unsqueeze" => unsqueeze(args, dims),
        _ => flatten(args, dims),
    }
}

/// Any of the operators that [`reshapes`].
pub(super) fn rearrange(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    Ok(a.with_dims(new_dims(args, a.dims())?))
}

fn reshape(args: &Args<'_>, dims: &[usize]) -> Result<Vec<usize>> {
    let shape = args.list("shape", 5, 1)?;
    let shape = shape.ok_or_else(|| Unfolded::invalid("no shape"))?;
    let zero_copies = args.int("allowzero", 0)? == 0;
    let mut out = Vec::with_capacity(shape.len());
    let mut open = None;
    for (i, &extent) in shape.iter().enumerate() {
        out.push(match extent {
            0 if zero_copies => *dims
                .get(i)
                .ok_or_else(|| Unfolded::invalid("a 0 beyond the axes of the operand"))?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            _ => usize::try_from(extent).map_err(|_| Unfolded::invalid("a negative extent"))?,
        });
    }
    let (have, want) = (count(dims)?, count(&out)?);
    if let Some(i) = open {
        if want == 0 || have % want != 0 {
            return Err(Unfolded::invalid("a -1 that no extent can stand for"));
        }
        out[i] = (have / want) as usize;
    } else if have != want {
        return Err(Unfolded::Invalid(format!("{have} elements as {want}")));
    }
    Ok(out)
}

fn squeeze(args: &Args<'_>, dims: &[usize]) -> Result<Vec<usize>> {
    let gone = match args.list("axes", 13, 1)? {
        // The standard does not say whether that is all of them or none.
        Some(list) if list.is_empty() => {
            return Err(Unfolded::Unsupported("a Squeeze of no axes".to_owned()));
        }
        Some(list) => axes(&list, dims.len())?,
        None => (0..dims.len()).filter(|&a| dims[a] == 1).collect(),
    };
    if gone.iter().any(|&a| dims[a] != 1) {
        return Err(Unfolded::invalid("an axis that is not of extent 1"));
    }
    let kept = (0..dims.len()).filter(|a| !gone.contains(a));
    Ok(kept.map(|a| dims[a]).collect())
}

fn unsqueeze(args: &Args<'_>, dims: &[usize]) -> Result<Vec<usize>> {
    let list = args
        .list("axes", 13, 1)?
        .ok_or_else(|| Unfolded::invalid("no axes"))?;
    let rank = dims.len() + list.len();
    let new = axes(&list, rank)?;
    let mut rest = dims.iter().copied();
    let extent = |a| {
        if new.contains(&a) {
            Some(1)
        } else {
            rest.next()
        }
    };
    Ok((0..rank).filter_map(extent).collect())
}

fn flatten(args: &Args<'_>, dims: &[usize]) -> Result<Vec<usize>> {
    let at = args.int("axis", 1)?;
    // The rank itself is an axis here: everything in one column.
    let at = match usize::try_from(at) {
        Ok(a) if a == dims.len() => a,
        _ => axis(at, dims.len())?,
    };
    let product = |dims: &[usize]| count(dims).map(|n| n as usize);
    Ok(vec![product(&dims[..at])?, product(&dims[at..])?])
}

/// `Shape`.
pub(super) fn shape(args: &Args<'_>) -> Result<Array> {
    let dims = args.tensor(0)?.dims();
    let rank = dims.len() as i64;
    let place = |i: i64| if i < 0 { i + rank } else { i }.clamp(0, rank) as usize;
    let start = place(args.int("start", 0)?);
    let end = place(args.int("end", rank)?).max(start);
    let part = &dims[start..end];
    Array::of_ints(vec![part.len()], part.iter().map(|&d| d as i64))
}

/// `Size`.
pub(super) fn size(args: &Args<'_>) -> Result<Array> {
    let count = count(args.tensor(0)?.dims())?;
    Array::of_ints(vec![], std::iter::once(count as i64))
}

/// `ConstantOfShape`.
pub(super) fn constant_of_shape(args: &Args<'_>) -> Result<Array> {
    let shape = args.tensor(0)?.ints()?;
    let dims = extents(&shape)?;
    let value = match args.node.attribute("value") {
        None => super::cast::to(&Array::of_ints(vec![1], [0].into_iter())?, DataType::Float)?,
        Some(crate::ir::AttributeValue::Tensor(t)) => {
            let read = Array::read(t).map_err(|e| Unfolded::Invalid(e.chain()))?;
            read?
        }
        Some(_) => return Err(Unfolded::Unsupported("attribute `value`".to_owned())),
    };
    if value.len() != 1 {
        return Err(Unfolded::invalid("a value that is not one element"));
    }
    let count = count(&dims)? as usize;
    value.take(dims, std::iter::repeat_n(0, count))
}

/// A list of extents that a tensor gives.
pub(super) fn extents(list: &[i64]) -> Result<Vec<usize>> {
    let extent = |&d| usize::try_from(d).map_err(|_| Unfolded::invalid("a negative extent"));
    list.iter().map(extent).collect()
}
