//! Operators that move whole tensors or regular parts of them.

use super::{
    Array, Result, Unfolded, Value,
    args::{Args, axes, axis},
    array::{Builder, Places, beside, pick, product, strides},
    elementwise::{broadcast_dims, broadcast_strides},
    shape::extents,
    slice::part,
};

/// `Transpose`.
pub(super) fn transpose(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let perm = match args.int_list("perm")? {
        Some(list) => axes(&list, a.rank())?,
        None => (0..a.rank()).rev().collect(),
    };
    if perm.len() != a.rank() {
        return Err(Unfolded::invalid("`perm` has not all axes"));
    }
    permute(a, &perm)
}

/// `a` with its axes in the order `perm`.
pub(super) fn permute(a: &Array, perm: &[usize]) -> Result<Array> {
    let own = strides(a.dims());
    let dims: Vec<usize> = perm.iter().map(|&p| a.dims()[p]).collect();
    let by: Vec<usize> = perm.iter().map(|&p| own[p]).collect();
    take_places(a, dims.clone(), &dims, by)
}

/// The array of extents `dims` whose elements are those that strides `by` give to the indices
/// of `walked`, as many.
fn take_places(a: &Array, dims: Vec<usize>, walked: &[usize], by: Vec<usize>) -> Result<Array> {
    let from = Places::new(walked, [by])?.map(|[place]| place);
    a.take(dims, from)
}

/// `Expand`.
pub(super) fn expand(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let shape = extents(&args.tensor(1)?.ints()?)?;
    let dims = broadcast_dims(&[a.dims(), &shape])?;
    broadcast(a, dims)
}

fn broadcast(a: &Array, dims: Vec<usize>) -> Result<Array> {
    let by = broadcast_strides(a.dims(), &dims);
    take_places(a, dims.clone(), &dims, by)
}

/// `Tile`.
pub(super) fn tile(args: &Args<'_>) -> Result<Array> {
    if args.opset < 6 {
        return Err(Unfolded::Unsupported("Tile before opset 6".to_owned()));
    }
    let a = args.tensor(0)?;
    let repeats = extents(&args.tensor(1)?.ints()?)?;
    if repeats.len() != a.rank() {
        return Err(Unfolded::invalid("not one repeat for each axis"));
    }
    // As [r0, d0, r1, d1, ...], in which the repeats have stride 0.
    let own = strides(a.dims());
    let mut dims = Vec::new();
    let mut split = Vec::new();
    let mut by = Vec::new();
    for ((&d, &r), s) in a.dims().iter().zip(&repeats).zip(own) {
        dims.push(d.checked_mul(r).ok_or(Unfolded::TooLarge(u64::MAX))?);
        split.extend([r, d]);
        by.extend([0, s]);
    }
    take_places(a, dims, &split, by)
}

/// `Concat`.
pub(super) fn concat(args: &Args<'_>) -> Result<Array> {
    let all = args.tensors()?;
    // An attribute with a default once, required since opset 4.
    let rank = all.first().map_or(0, |a| a.rank());
    join(&all, args.axis(1, rank)?)
}

/// `all`, one after the other along `at`.
pub(super) fn join(all: &[&Array], at: usize) -> Result<Array> {
    let first = all
        .first()
        .ok_or_else(|| Unfolded::invalid("nothing to join"))?;
    let mut dims = first.dims().to_vec();
    let mut sum = 0usize;
    for a in all {
        let fits = a.dtype() == first.dtype()
            && a.rank() == dims.len()
            && (0..dims.len()).all(|i| i == at || a.dims()[i] == dims[i]);
        if !fits {
            return Err(Unfolded::invalid("tensors that do not fit together"));
        }
        sum = sum
            .checked_add(a.dims()[at])
            .ok_or(Unfolded::TooLarge(u64::MAX))?;
    }
    dims[at] = sum;
    Builder::new(first.dtype(), dims.clone())?;
    let outer = product(&dims[..at]);
    let inner = product(&dims[at + 1..]);
    let from = (0..outer).flat_map(|o| {
        all.iter().flat_map(move |a| {
            let run = a.dims()[at] * inner;
            (o * run..(o + 1) * run).map(move |i| (*a, i))
        })
    });
    // Without elements, extents may have no product.
    let empty = dims.contains(&0);
    pick(dims, first.dtype(), from.take_while(|_| !empty))
}

/// `Split`.
pub(super) fn split(args: &Args<'_>) -> Result<Vec<Value>> {
    let a = args.tensor(0)?;
    let at = args.axis(0, a.rank())?;
    let extent = a.dims()[at];
    let parts = match args.opset {
        // An operand or an attribute.
        ..=1 if args.value(1).is_some() => args.ints(1)?,
        _ => args.list("split", 13, 1)?,
    };
    let parts = match parts {
        Some(list) => extents(&list)?,
        None => {
            let listed = args.node.outputs.len() as i64;
            let n = match args.opset >= 18 {
                true => args.int("num_outputs", listed)?,
                false => listed,
            };
            let n = usize::try_from(n)
                .ok()
                .filter(|&n| n > 0 && n as i64 == listed);
            let n = n.ok_or_else(|| Unfolded::invalid("as many parts as outputs are expected"))?;
            equal_parts(extent, n, args.opset >= 18)?
        }
    };
    let sum = parts.iter().try_fold(0usize, |n, &p| n.checked_add(p));
    if sum != Some(extent) || parts.len() != args.node.outputs.len() {
        return Err(Unfolded::invalid("parts that do not make the whole"));
    }
    let mut first = 0;
    let piece = |len| {
        first += len;
        part(a, at, first - len, len).map(Value::Tensor)
    };
    parts.into_iter().map(piece).collect()
}

/// `extent` in `n` equal parts, of which the last may be shorter when `uneven`.
fn equal_parts(extent: usize, n: usize, uneven: bool) -> Result<Vec<usize>> {
    if !extent.is_multiple_of(n) && !uneven {
        return Err(Unfolded::invalid("parts that are not equal"));
    }
    let size = extent.div_ceil(n);
    let mut left = extent;
    let part = |_| {
        let len = size.min(left);
        left -= len;
        len
    };
    Ok((0..n).map(part).collect())
}

/// `Pad`.
pub(super) fn pad(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let name = if args.opset < 2 { "paddings" } else { "pads" };
    let pads = args
        .list(name, 11, 1)?
        .ok_or_else(|| Unfolded::invalid("no pads"))?;
    let which = match args.opset >= 18 {
        true => args.ints(3)?,
        false => None,
    };
    let which = match which {
        Some(list) => axes(&list, a.rank())?,
        None => (0..a.rank()).collect(),
    };
    if pads.len() != 2 * which.len() {
        return Err(Unfolded::invalid("not two pads for each axis"));
    }
    let mode = args.text("mode", "constant")?;
    let mut axes: Vec<Vec<Option<usize>>> = a
        .dims()
        .iter()
        .map(|&d| (0..d).map(Some).collect())
        .collect();
    for (i, &at) in which.iter().enumerate() {
        axes[at] = padded(a.dims()[at], pads[i], pads[i + which.len()], mode)?;
    }
    let fill = match (args.opset >= 11, mode) {
        (_, mode) if mode != "constant" => None,
        (true, _) => args.optional(2)?.cloned(),
        (false, _) => Some(number(args.float("value", 0.0)?, a)?),
    };
    let fill = match fill {
        Some(f) if f.len() != 1 || f.dtype() != a.dtype() => {
            return Err(Unfolded::invalid("a value that is no scalar of the type"));
        }
        Some(f) => f,
        None if a.dtype() == crate::ir::DataType::String => {
            return Err(Unfolded::Unsupported("padding with strings".to_owned()));
        }
        None => number(0.0, a)?,
    };
    choose(a, &axes, &fill)
}

/// `x` as a scalar of the type of `like`.
fn number(x: f64, like: &Array) -> Result<Array> {
    let mut out = Builder::new(crate::ir::DataType::Double, vec![])?;
    out.float(x);
    super::cast::to(&out.finish(), like.dtype())
}

/// The places of an axis of `extent`, padded on both sides; `None` where the fill goes. What
/// the standard leaves open is not evaluated: to take away before or after other elements are
/// repeated, and a reflection of a reflection.
fn padded(extent: usize, before: i64, after: i64, mode: &str) -> Result<Vec<Option<usize>>> {
    let n = extent as i64;
    let total = n.checked_add(before).and_then(|t| t.checked_add(after));
    let total = total.ok_or(Unfolded::TooLarge(u64::MAX))?;
    if total < 0 {
        return Err(Unfolded::invalid("a negative extent"));
    }
    if total as u64 > super::LIMIT {
        return Err(Unfolded::TooLarge(total as u64));
    }
    let repeats = mode != "constant" && (before, after) != (0, 0);
    let reflects_again = mode == "reflect" && before.max(after) >= n;
    if repeats && (before.min(after) < 0 || reflects_again) {
        return Err(Unfolded::Unsupported(format!(
            "{before} and {after} of {n} in mode `{mode}`"
        )));
    }
    let inside = |i: i64| (0..n).contains(&i).then_some(i as usize);
    let place = |i: i64| match mode {
        "constant" => Ok(inside(i)),
        _ if n == 0 => Err(Unfolded::invalid("padding of nothing")),
        "edge" => Ok(inside(i.clamp(0, n - 1))),
        "wrap" => Ok(inside(i.rem_euclid(n))),
        // One turn at most.
        "reflect" => {
            let i = i.abs();
            Ok(inside(i.min(2 * (n - 1) - i)))
        }
        other => Err(Unfolded::Invalid(format!("mode `{other}`"))),
    };
    (-before..total - before).map(place).collect()
}

/// The elements of `a` at the given places of each axis, `fill` where one is `None`.
fn choose(a: &Array, axes: &[Vec<Option<usize>>], fill: &Array) -> Result<Array> {
    let dims: Vec<usize> = axes.iter().map(Vec::len).collect();
    Builder::new(a.dtype(), dims.clone())?;
    let Some((last, lead)) = axes.split_last() else {
        return Ok(a.clone());
    };
    // Where the rows come from; the last stride is 1.
    beside::<Option<usize>>(product(&dims[..lead.len()]))?;
    let mut rows = vec![Some(0)];
    for (places, stride) in lead.iter().zip(strides(a.dims())) {
        let step = |at: &Option<usize>| {
            let at = *at;
            places.iter().map(move |p| Some(at? + (*p)? * stride))
        };
        rows = rows.iter().flat_map(step).collect();
    }
    let row = |at: Option<usize>| last.iter().map(move |p| Some(at? + (*p)?));
    let element = |p: Option<usize>| p.map_or((fill, 0), |i| (a, i));
    pick(dims, a.dtype(), rows.into_iter().flat_map(row).map(element))
}

/// `Trilu`.
pub(super) fn trilu(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let Some(lead) = a.rank().checked_sub(2) else {
        return Err(Unfolded::invalid("a tensor of rank below 2"));
    };
    let upper = args.int("upper", 1)? != 0;
    let k = args.int_operand(1)?.unwrap_or(0);
    let (rows, cols) = (a.dims()[lead], a.dims()[lead + 1]);
    let zero = number(0.0, a)?;
    let kept = |i: usize| {
        let (r, c) = ((i / cols % rows) as i64, (i % cols) as i64);
        let right = (c - r).saturating_sub(k);
        if upper { right >= 0 } else { right <= 0 }
    };
    let element = |i| if kept(i) { (a, i) } else { (&zero, 0) };
    pick(a.dims().to_vec(), a.dtype(), (0..a.len()).map(element))
}

/// Extents of an image, and the block size.
fn image(args: &Args<'_>) -> Result<([usize; 4], usize)> {
    let dims = args.tensor(0)?.dims();
    let dims = <[usize; 4]>::try_from(dims).map_err(|_| Unfolded::invalid("no rank of 4"))?;
    let block = usize::try_from(args.int("blocksize", 0)?)
        .ok()
        .filter(|&b| b > 0);
    let block = block.filter(|b| b.checked_mul(*b).is_some());
    Ok((
        dims,
        block.ok_or_else(|| Unfolded::invalid("no block size"))?,
    ))
}

/// `DepthToSpace`.
pub(super) fn depth_to_space(args: &Args<'_>) -> Result<Array> {
    let ([n, c, h, w], b) = image(args)?;
    if c % (b * b) != 0 {
        return Err(Unfolded::invalid(
            "channels that are no multiple of the block",
        ));
    }
    let c = c / (b * b);
    let (dims, perm) = match args.text("mode", "DCR")? {
        "DCR" => ([n, b, b, c, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, c, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(Unfolded::Invalid(format!("mode `{other}`"))),
    };
    let split = args.tensor(0)?.with_dims(dims.to_vec());
    Ok(permute(&split, &perm)?.with_dims(vec![n, c, h * b, w * b]))
}

/// `SpaceToDepth`.
pub(super) fn space_to_depth(args: &Args<'_>) -> Result<Array> {
    let ([n, c, h, w], b) = image(args)?;
    if h % b != 0 || w % b != 0 {
        return Err(Unfolded::invalid(
            "an image that is no multiple of the block",
        ));
    }
    let split = args.tensor(0)?.with_dims(vec![n, c, h / b, b, w / b, b]);
    let dims = vec![n, c * b * b, h / b, w / b];
    let (perm, dims) = match args.text("mode", "DCR")? {
        "DCR" => ([0, 3, 5, 1, 2, 4], dims),
        "CRD" => ([0, 1, 3, 5, 2, 4], dims),
        other => return Err(Unfolded::Invalid(format!("mode `{other}`"))),
    };
    Ok(permute(&split, &perm)?.with_dims(dims))
}

/// `ReverseSequence`.
pub(super) fn reverse_sequence(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let batch = axis(args.int("batch_axis", 1)?, a.rank())?;
    let time = axis(args.int("time_axis", 0)?, a.rank())?;
    let lengths = args.tensor(1)?.ints()?;
    let fits = |&l: &i64| (0..=a.dims()[time] as i64).contains(&l);
    if batch == time || lengths.len() != a.dims()[batch] || !lengths.iter().all(fits) {
        return Err(Unfolded::invalid("lengths that do not fit"));
    }
    let own = strides(a.dims());
    let from = (0..a.len()).map(|i| {
        let at = |axis: usize| i / own[axis] % a.dims()[axis];
        let (t, len) = (at(time), lengths[at(batch)] as usize);
        let source = if t < len { len - 1 - t } else { t };
        i - t * own[time] + source * own[time]
    });
    a.take(a.dims().to_vec(), from)
}
