//! Operators on sequences of tensors.

use super::{
    Array, Result, Unfolded, Value,
    args::{Args, axis, index},
    moves::join,
    shape::extents,
    slice::part,
};

/// `SequenceConstruct`.
pub(super) fn construct(args: &Args<'_>) -> Result<Vec<Value>> {
    let elements = args.tensors()?.into_iter().cloned().collect();
    Ok(vec![Value::Sequence(elements)])
}

/// `SequenceEmpty`.
pub(super) fn empty(_: &Args<'_>) -> Result<Vec<Value>> {
    Ok(vec![Value::Sequence(Vec::new())])
}

/// `SequenceAt`.
pub(super) fn at(args: &Args<'_>) -> Result<Array> {
    let list = args.sequence(0)?;
    let at = args
        .int_operand(1)?
        .ok_or_else(|| Unfolded::invalid("no position"))?;
    Ok(list[index(at, list.len())?].clone())
}

/// `SequenceLength`.
pub(super) fn length(args: &Args<'_>) -> Result<Array> {
    Array::of_ints(vec![], std::iter::once(args.sequence(0)?.len() as i64))
}

/// `SequenceInsert`: at the end, or before a position.
pub(super) fn insert(args: &Args<'_>) -> Result<Vec<Value>> {
    let mut list = args.sequence(0)?.to_vec();
    // The end is a position too.
    let place = match args.int_operand(2)? {
        None => list.len(),
        Some(p) if p == list.len() as i64 => list.len(),
        Some(p) => index(p, list.len())?,
    };
    list.insert(place, args.tensor(1)?.clone());
    Ok(vec![Value::Sequence(list)])
}

/// `SequenceErase`: the last one, or that at a position.
pub(super) fn erase(args: &Args<'_>) -> Result<Vec<Value>> {
    let mut list = args.sequence(0)?.to_vec();
    let place = args.int_operand(1)?.unwrap_or(-1);
    list.remove(index(place, list.len())?);
    Ok(vec![Value::Sequence(list)])
}

/// `SplitToSequence`.
pub(super) fn split(args: &Args<'_>) -> Result<Vec<Value>> {
    let a = args.tensor(0)?;
    let at = args.axis(0, a.rank())?;
    let extent = a.dims()[at];
    let lengths = match args.optional(1)? {
        None => vec![1; extent],
        Some(s) if s.rank() == 0 => {
            let size = s.ints()?.first().copied().unwrap_or(0);
            let size = usize::try_from(size).ok().filter(|&s| s > 0);
            let size = size.ok_or_else(|| Unfolded::invalid("parts of no size"))?;
            let mut lengths = vec![size; extent / size];
            lengths.extend(Some(extent % size).filter(|&rest| rest > 0));
            lengths
        }
        Some(s) => extents(&s.ints()?)?,
    };
    if lengths.iter().try_fold(0usize, |n, &l| n.checked_add(l)) != Some(extent) {
        return Err(Unfolded::invalid("parts that do not make the whole"));
    }
    let keep = args.value(1).is_some() || args.int("keepdims", 1)? != 0;
    let mut first = 0;
    let mut piece = |len: usize| -> Result<Array> {
        let piece = part(a, at, first, len)?;
        first += len;
        let mut dims = piece.dims().to_vec();
        if !keep {
            dims.remove(at);
        }
        Ok(piece.with_dims(dims))
    };
    let list = lengths.into_iter().map(&mut piece).collect::<Result<_>>()?;
    Ok(vec![Value::Sequence(list)])
}

/// `ConcatFromSequence`.
pub(super) fn concat(args: &Args<'_>) -> Result<Array> {
    let list = args.sequence(0)?;
    let rank = list.first().map_or(0, Array::rank);
    let wanted = args.node.int("axis", i64::MIN);
    let wanted = wanted.filter(|&a| a != i64::MIN);
    let wanted = wanted.ok_or_else(|| Unfolded::invalid("no axis"))?;
    if args.int("new_axis", 0)? == 0 {
        return join(&list.iter().collect::<Vec<_>>(), axis(wanted, rank)?);
    }
    let at = axis(wanted, rank + 1)?;
    let stacked = |a: &Array| {
        let mut dims = a.dims().to_vec();
        match at <= dims.len() {
            true => dims.insert(at, 1),
            false => return Err(Unfolded::invalid("tensors of different ranks")),
        }
        Ok(a.with_dims(dims))
    };
    let list = list.iter().map(stacked).collect::<Result<Vec<_>>>()?;
    join(&list.iter().collect::<Vec<_>>(), at)
}

/// `Identity`, of sequences too.
pub(super) fn identity(args: &Args<'_>) -> Result<Vec<Value>> {
    let value = args
        .value(0)
        .ok_or_else(|| Unfolded::invalid("no operand"))?;
    Ok(vec![value.clone()])
}
