//! Operators that read or write where indices say.

use super::{
    Array, Result, Unfolded,
    args::{Args, index},
    array::{Builder, beside, count, product, strides},
    elementwise::{maximum, minimum, no_type},
    number::{self, Class, FloatOp, IntOp},
};
use crate::ir::DataType;

/// `Gather`.
pub(super) fn gather(args: &Args<'_>) -> Result<Array> {
    let (a, indices) = (args.tensor(0)?, args.tensor(1)?);
    let at = args.axis(0, a.rank())?;
    let list = indices.ints()?;
    let list = list
        .iter()
        .map(|&i| index(i, a.dims()[at]))
        .collect::<Result<Vec<_>>>()?;
    let (outer, inner) = (&a.dims()[..at], &a.dims()[at + 1..]);
    let dims = [outer, indices.dims(), inner].concat();
    Builder::new(a.dtype(), dims.clone())?;
    if dims.contains(&0) {
        return a.take(dims, std::iter::empty());
    }
    let (outer, inner) = (product(outer), product(inner));
    let extent = a.dims()[at];
    let from = (0..outer).flat_map(|o| {
        let run = move |&i: &usize| (0..inner).map(move |k| (o * extent + i) * inner + k);
        list.iter().flat_map(run)
    });
    a.take(dims, from)
}

/// For every element of `indices` the place in an array of extents `dims` that has its index
/// along `at` replaced by it.
fn along(dims: &[usize], indices: &Array, at: usize) -> Result<Vec<usize>> {
    let fits = |i: usize| i == at || indices.dims()[i] <= dims[i];
    if indices.rank() != dims.len() || !(0..dims.len()).all(fits) {
        return Err(Unfolded::invalid("indices that do not fit the data"));
    }
    let own = strides(dims);
    let inner = strides(indices.dims());
    let list = indices.ints()?;
    let place = |(i, &to): (usize, &i64)| {
        let coordinate = |axis: usize| match axis == at {
            true => index(to, dims[at]),
            false => Ok(i / inner[axis] % indices.dims()[axis]),
        };
        (0..dims.len()).try_fold(0, |sum, axis| Ok(sum + coordinate(axis)? * own[axis]))
    };
    list.iter().enumerate().map(place).collect()
}

/// `GatherElements`.
pub(super) fn gather_elements(args: &Args<'_>) -> Result<Array> {
    let (a, indices) = (args.tensor(0)?, args.tensor(1)?);
    let from = along(a.dims(), indices, args.axis(0, a.rank())?)?;
    a.take(indices.dims().to_vec(), from.into_iter())
}

/// The first places of the parts of an array of extents `dims` that the last axis of
/// `indices` names, after `batch` leading axes in common.
fn parts(dims: &[usize], indices: &Array, batch: usize) -> Result<Vec<usize>> {
    let depth = indices.dims().last().copied();
    let depth = depth.ok_or_else(|| Unfolded::invalid("indices without axes"))?;
    if batch + depth > dims.len() || indices.dims().contains(&0) {
        return Err(Unfolded::invalid("indices that do not fit the data"));
    }
    let own = strides(dims);
    let list = indices.ints()?;
    let batches = product(&dims[..batch]);
    let each = list.len() / depth / batches.max(1);
    let part = |(n, tuple): (usize, &[i64])| {
        let place = |(i, &to): (usize, &i64)| Ok(index(to, dims[batch + i])? * own[batch + i]);
        let start = match batch {
            0 => 0,
            _ => n / each * own[batch - 1],
        };
        tuple
            .iter()
            .enumerate()
            .map(place)
            .try_fold(start, |sum, p: Result<usize>| Ok(sum + p?))
    };
    list.chunks(depth).enumerate().map(part).collect()
}

/// `GatherND`.
pub(super) fn gather_nd(args: &Args<'_>) -> Result<Array> {
    let (a, indices) = (args.tensor(0)?, args.tensor(1)?);
    let batch = usize::try_from(args.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let agree = batch < indices.rank() && batch <= a.rank();
    if !agree || a.dims()[..batch] != indices.dims()[..batch] {
        return Err(Unfolded::invalid("batches that do not agree"));
    }
    let starts = parts(a.dims(), indices, batch)?;
    let last = indices.rank() - 1;
    let tail = &a.dims()[batch + indices.dims()[last]..];
    let inner = product(tail);
    let dims = [&indices.dims()[..last], tail].concat();
    Builder::new(a.dtype(), dims.clone())?;
    a.take(dims, starts.iter().flat_map(|&s| s..s + inner))
}

/// `data` with `updates[i]` combined into place `to[i]`.
fn scatter(args: &Args<'_>, to: &[usize]) -> Result<Array> {
    let (a, updates) = (args.tensor(0)?, args.tensor(2)?);
    if a.dtype() != updates.dtype() || to.len() != updates.len() {
        return Err(Unfolded::invalid("updates that do not fit"));
    }
    let reduction = args.text("reduction", "none")?;
    if reduction == "none" {
        return a.overwritten(to, updates);
    }
    beside::<i128>(a.len())?;
    let (int, float): (IntOp, FloatOp) = match reduction {
        "add" => (i128::wrapping_add, |x, y| x + y),
        "mul" => (i128::wrapping_mul, |x, y| x * y),
        "max" => (i128::max, maximum),
        "min" => (i128::min, minimum),
        other => return Err(Unfolded::Invalid(format!("reduction `{other}`"))),
    };
    let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
    match a.class() {
        Class::Int => {
            let mut all: Vec<i128> = (0..a.len()).map(|i| a.int(i)).collect();
            for (i, &p) in to.iter().enumerate() {
                all[p] = number::wrap(a.dtype(), int(all[p], updates.int(i)));
            }
            all.into_iter().for_each(|x| out.int(x));
        }
        Class::Float => {
            let has_nan = |a: &Array| (0..a.len()).any(|i| a.float(i).is_nan());
            if ["max", "min"].contains(&reduction) && (has_nan(a) || has_nan(updates)) {
                let what = "the extremes of numbers and NaN";
                return Err(Unfolded::Unsupported(what.to_owned()));
            }
            let mut all: Vec<f64> = (0..a.len()).map(|i| a.float(i)).collect();
            for (i, &p) in to.iter().enumerate() {
                all[p] = float(all[p], updates.float(i));
            }
            all.into_iter().for_each(|x| out.float(x));
        }
        Class::Other => return Err(no_type(a.dtype())),
    }
    Ok(out.finish())
}

/// `ScatterElements`, and `Scatter` as it was called before.
pub(super) fn scatter_elements(args: &Args<'_>) -> Result<Array> {
    let (a, indices) = (args.tensor(0)?, args.tensor(1)?);
    if indices.dims() != args.tensor(2)?.dims() {
        return Err(Unfolded::invalid("updates that do not fit"));
    }
    let to = along(a.dims(), indices, args.axis(0, a.rank())?)?;
    scatter(args, &to)
}

/// `ScatterND`.
pub(super) fn scatter_nd(args: &Args<'_>) -> Result<Array> {
    let (a, indices, updates) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
    if indices.len() == 0 || updates.len() == 0 {
        return Ok(a.clone());
    }
    let starts = parts(a.dims(), indices, 0)?;
    let last = indices.rank() - 1;
    let tail = &a.dims()[indices.dims()[last]..];
    if updates.dims() != [&indices.dims()[..last], tail].concat() {
        return Err(Unfolded::invalid("updates that do not fit"));
    }
    let inner = product(tail);
    beside::<usize>(updates.len())?;
    let to: Vec<usize> = starts.iter().flat_map(|&s| s..s + inner).collect();
    scatter(args, &to)
}

/// `Compress`.
pub(super) fn compress(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let (a, at) = match args.node.attribute("axis") {
        None => (a.with_dims(vec![a.len()]), 0),
        Some(_) => (a.clone(), args.axis(0, a.rank())?),
    };
    let condition = args.tensor(1)?;
    if condition.dtype() != DataType::Bool || condition.len() > a.dims()[at] {
        return Err(Unfolded::invalid("a condition that does not fit"));
    }
    beside::<usize>(condition.len())?;
    let kept: Vec<usize> = (0..condition.len())
        .filter(|&i| condition.int(i) != 0)
        .collect();
    let mut dims = a.dims().to_vec();
    dims[at] = kept.len();
    let (outer, inner) = (&a.dims()[..at], &a.dims()[at + 1..]);
    let (outer, inner) = (count(outer)? as usize, count(inner)? as usize);
    let extent = a.dims()[at];
    let from = (0..outer).flat_map(|o| {
        let run = move |&i: &usize| (0..inner).map(move |k| (o * extent + i) * inner + k);
        kept.iter().flat_map(run)
    });
    a.take(dims, from)
}

/// `NonZero`.
pub(super) fn non_zero(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let is_set = |i: &usize| match a.class() {
        Class::Int => a.int(*i) != 0,
        _ => a.float(*i) != 0.0,
    };
    if a.class() == Class::Other {
        return Err(no_type(a.dtype()));
    }
    // The standard has no axis to speak of, runtimes have one.
    if a.rank() == 0 {
        return Err(Unfolded::Unsupported("NonZero of a scalar".to_owned()));
    }
    beside::<usize>((0..a.len()).filter(is_set).count())?;
    let found: Vec<usize> = (0..a.len()).filter(is_set).collect();
    let own = strides(a.dims());
    let axes = own.iter().zip(a.dims());
    let coordinates = axes.flat_map(|(&s, &d)| found.iter().map(move |i| (i / s % d) as i64));
    Array::of_ints(vec![a.rank(), found.len()], coordinates)
}

/// `OneHot`. What is outside of the depth is cold everywhere.
pub(super) fn one_hot(args: &Args<'_>) -> Result<Array> {
    let (indices, values) = (args.tensor(0)?, args.tensor(2)?);
    let whole = |i: &usize, a: &Array| match a.class() {
        Class::Int => i64::try_from(a.int(*i)).ok(),
        Class::Float if a.float(*i).fract() == 0.0 => Some(a.float(*i) as i64),
        _ => None,
    };
    let no_integer = || Unfolded::Unsupported("an index that is no integer".to_owned());
    let depth = args.tensor(1)?;
    if depth.len() != 1 || values.len() != 2 {
        return Err(Unfolded::invalid("no scalar depth, or not two values"));
    }
    let depth = whole(&0, depth).filter(|&d| d > 0).ok_or_else(no_integer)?;
    let at = super::args::axis(args.int("axis", -1)?, indices.rank() + 1)?;
    beside::<i64>(indices.len())?;
    let list: Option<Vec<i64>> = (0..indices.len()).map(|i| whole(&i, indices)).collect();
    let list = list.ok_or_else(no_integer)?;
    let mut dims = indices.dims().to_vec();
    dims.insert(at, depth as usize);
    Builder::new(values.dtype(), dims.clone())?;
    let inner = product(&indices.dims()[at..]);
    let hot = |i: usize| {
        let (o, d, k) = (
            i / inner / depth as usize,
            i / inner % depth as usize,
            i % inner,
        );
        let index = list[o * inner + k];
        let index = if index < 0 { index + depth } else { index };
        usize::from(index == d as i64)
    };
    let count = count(&dims)? as usize;
    values.take(dims, (0..count).map(hot))
}

/// `EyeLike`.
pub(super) fn eye_like(args: &Args<'_>) -> Result<Array> {
    let like = args.tensor(0)?;
    let &[rows, cols] = like.dims() else {
        return Err(Unfolded::invalid("no matrix"));
    };
    let dtype = args.dtype("dtype")?.unwrap_or(like.dtype());
    let k = args.int("k", 0)?;
    let digits = super::cast::to(&Array::of_ints(vec![2], [0, 1].into_iter())?, dtype)?;
    let one = |i: usize| usize::from((i % cols) as i64 == ((i / cols) as i64).saturating_add(k));
    digits.take(vec![rows, cols], (0..like.len()).map(one))
}

/// `Range`: ceil((limit - start) / delta) numbers, each start + i * delta.
pub(super) fn range(args: &Args<'_>) -> Result<Array> {
    let [start, limit, delta] = [args.tensor(0)?, args.tensor(1)?, args.tensor(2)?];
    let dtype = start.dtype();
    if [start, limit, delta]
        .iter()
        .any(|a| a.len() != 1 || a.dtype() != dtype)
    {
        return Err(Unfolded::invalid("no three scalars of one type"));
    }
    let no_step = || Unfolded::invalid("a step of 0");
    match start.class() {
        Class::Int => {
            let [start, limit, delta] = [start, limit, delta].map(|a| a.int(0));
            let span = (limit - start) * delta.signum();
            let steps = match delta {
                0 => return Err(no_step()),
                _ if span <= 0 => 0,
                d => (span + d.abs() - 1) / d.abs(),
            };
            let steps = usize::try_from(steps).map_err(|_| Unfolded::TooLarge(u64::MAX))?;
            let mut out = Builder::new(dtype, vec![steps])?;
            (0..steps).for_each(|i| out.int(start + i as i128 * delta));
            Ok(out.finish())
        }
        // Rounded once each; runtimes add up or multiply as they like.
        Class::Float => {
            let [start, limit, delta] = [start, limit, delta].map(|a| a.float(0));
            let span = limit - start;
            let steps = (span / delta).ceil().max(0.0);
            if delta == 0.0 || steps.is_nan() {
                return Err(no_step());
            }
            // How many there are must not depend on roundings before.
            let rounded = number::rounded(dtype, span) / delta;
            if [rounded, number::rounded(dtype, rounded)].map(|n| n.ceil().max(0.0)) != [steps; 2] {
                let what = "a number of steps that roundings decide";
                return Err(Unfolded::Unsupported(what.to_owned()));
            }
            if steps > super::LIMIT as f64 {
                return Err(Unfolded::TooLarge(u64::MAX));
            }
            let steps = steps as usize;
            let mut out = Builder::new(dtype, vec![steps])?;
            (0..steps).for_each(|i| out.float(start + i as f64 * delta));
            Ok(out.finish())
        }
        Class::Other => Err(no_type(dtype)),
    }
}
