//! Operators that rearrange a tensor.

use super::op::{
    Fact, Op, Outcome, Rule, Shape, Stop, conflict, positions, product, show, small_dims,
};
use crate::{infer::SymInt, ir::AttributeValue};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "Shape" => shape,
        "Size" => |op| {
            Ok(vec![Fact::with_elements(
                Vec::new(),
                product(op.shape(0)?).map(|n| vec![n]),
            )])
        },
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Transpose" => transpose,
        "Expand" => expand,
        "Tile" => tile,
        "Concat" => concat,
        "Split" => split,
        "Pad" => pad,
        "DepthToSpace" => |op| blocks(op, true),
        "SpaceToDepth" => |op| blocks(op, false),
        _ => return None,
    })
}

/// `Shape`, of a range of the axes since opset 15.
fn shape(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let rank = shape.len() as i64;
    let bound = |n: i64| if n < 0 { n + rank } else { n }.clamp(0, rank);
    let (start, end) = (bound(op.int("start", 0)?), bound(op.int("end", rank)?));
    let range = start as usize..end.max(start) as usize;
    Ok(vec![Fact::vector(shape[range].to_vec())])
}

/// Elements lie in the same order before and after.
fn rearranged(op: &Op<'_>, shape: Shape) -> Outcome {
    let elements = op.elements(0).map(<[SymInt]>::to_vec);
    Ok(vec![Fact::with_elements(shape, elements)])
}

/// `Reshape`. Zero stands for the extent of the operand. So an entry that may be zero is understood
/// where that extent is zero as well; or where all entries are given and multiply to the number
/// of elements, because a runtime refuses the model when one of them is zero (unless another is
/// zero and copied, too: extents of a tensor that is empty along two axes may be others).
fn reshape(op: &Op<'_>) -> Outcome {
    let target: Vec<SymInt> = match (op.elements(1), op.ints("shape")?) {
        (Some(list), _) => list.to_vec(),
        (None, Some(list)) => list.into_iter().map(SymInt::from).collect(),
        (None, None) => {
            let rank = op.listed_axes(1)?;
            return Ok(vec![Fact::of_shape(op.unknown_shape(0, rank))]);
        }
    };
    let input = op.shape(0).ok();
    let copies_zero = op.int("allowzero", 0)? == 0;
    let elements = input.and_then(product);
    let given = elements.is_some() && product(&target) == elements;
    let mut out: Vec<Option<SymInt>> = Vec::with_capacity(target.len());
    let mut free = None;
    for (axis, extent) in target.iter().enumerate() {
        out.push(match extent.known() {
            Some(-1) if free.is_some() => return conflict("the shape has two entries -1"),
            Some(-1) => {
                free = Some(axis);
                None
            }
            Some(0) if copies_zero => match input {
                Some(input) if axis >= input.len() => {
                    return conflict(format!(
                        "entry {axis} of the shape copies an axis of a tensor of rank {}",
                        input.len()
                    ));
                }
                Some(input) => Some(input[axis].clone()),
                None => None,
            },
            Some(n) if n < 0 => return conflict(format!("the shape has an entry {n}")),
            Some(_) => Some(extent.clone()),
            None => {
                let copied = input.and_then(|input| input.get(axis));
                let stays = |low| {
                    low >= 1
                        || !copies_zero
                        || given
                        || copied.is_some_and(|d| extent.vanishes_with(d))
                };
                op.lower(extent)
                    .is_some_and(|low| low >= 0 && stays(low))
                    .then(|| extent.clone())
            }
        });
    }
    if let (Some(free), Some(total)) = (free, elements) {
        let others = out.iter().enumerate().filter(|(axis, _)| *axis != free);
        let others: Option<Vec<&SymInt>> = others.map(|(_, extent)| extent.as_ref()).collect();
        out[free] =
            others
                .and_then(product)
                .and_then(|known| match (total.known(), known.known()) {
                    (Some(t), Some(k)) if k != 0 && t % k == 0 => Some(SymInt::from(t / k)),
                    (Some(_), Some(_)) => None,
                    _ => total.floor_div(&known),
                });
    }
    let each = out.into_iter().enumerate();
    let out: Shape = each
        .map(|(axis, extent)| op.or_unknown(extent, 0, axis))
        .collect();
    let counts = input.and_then(product).zip(product(&out));
    if let Some((before, after)) = counts
        && let (Some(before), Some(after)) = (before.known(), after.known())
        && before != after
    {
        let input = input.map(|s| show(s)).unwrap_or_default();
        return conflict(format!(
            "{input} has {before} elements and cannot become {}",
            show(&target)
        ));
    }
    rearranged(op, out)
}

fn flatten(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let axis = match op.int("axis", 1)? {
        axis if axis == shape.len() as i64 => shape.len(),
        axis => op.axis(axis, shape.len())?,
    };
    let halves = [product(&shape[..axis]), product(&shape[axis..])];
    let each = halves.into_iter().enumerate();
    rearranged(op, each.map(|(i, n)| op.or_unknown(n, 0, i)).collect())
}

fn squeeze(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let gone = match op.list("axes", 1)? {
        // Runtimes differ: none, or all of extent 1.
        Some(axes) if axes.is_empty() => return Err(Stop::Unknown),
        Some(axes) => op.axes(&axes, shape.len())?,
        None if shape
            .iter()
            .all(|d| d.known().is_some() || d.lower() > Some(1)) =>
        {
            (0..shape.len()).filter(|&a| shape[a].is(1)).collect()
        }
        None => return Err(Stop::Unknown),
    };
    if let Some(&axis) = gone
        .iter()
        .find(|&&a| shape[a].known().is_some_and(|n| n != 1))
    {
        return conflict(format!("axis {axis} of {} is squeezed", show(shape)));
    }
    let kept = (0..shape.len()).filter(|a| !gone.contains(a));
    rearranged(op, kept.map(|a| shape[a].clone()).collect())
}

fn unsqueeze(op: &Op<'_>) -> Outcome {
    let axes = op.list("axes", 1)?.ok_or(Stop::Unknown)?;
    let shape = op.shape(0)?;
    let new = op.axes(&axes, shape.len() + axes.len())?;
    let mut out = shape.clone();
    for axis in new {
        out.insert(axis, SymInt::from(1));
    }
    rearranged(op, out)
}

fn transpose(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let perm: Vec<i64> = match op.ints("perm")? {
        Some(perm) => perm,
        None => (0..shape.len() as i64).rev().collect(),
    };
    if op.axes(&perm, shape.len())?.len() != shape.len() {
        return conflict(format!(
            "a permutation of {} axes for {}",
            perm.len(),
            show(shape)
        ));
    }
    let mut out = Shape::with_capacity(shape.len());
    for &axis in &perm {
        out.push(shape[op.axis(axis, shape.len())?].clone());
    }
    let order: Vec<usize> = perm
        .iter()
        .map(|&a| op.axis(a, shape.len()))
        .collect::<Result<_, _>>()?;
    let elements = op.elements(0).zip(small_dims(shape)).map(|(list, dims)| {
        let all: Vec<Vec<usize>> = dims.iter().map(|&d| (0..d).collect()).collect();
        let at = positions(&dims, &order, &all);
        at.into_iter().map(|i| list[i].clone()).collect()
    });
    Ok(vec![Fact::with_elements(out, elements)])
}

fn expand(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let Some(target) = op.elements(1) else {
        let rank = shape.len().max(op.listed_axes(1)?);
        return Ok(vec![Fact::of_shape(op.unknown_shape(0, rank))]);
    };
    // An entry that may be negative is not understood.
    let each = target.iter().enumerate();
    let extent = |(i, d): (usize, &SymInt)| match op.lower(d) {
        Some(0..) => d.clone(),
        _ => op.unknown(0, i),
    };
    let target: Shape = each.map(extent).collect();
    let out = op.broadcast(&[shape, &target])?;
    let count = product(&out).and_then(|n| n.known());
    let repeated = op.elements(0).and_then(|list| match (list, count) {
        (_, Some(n)) if n as usize == list.len() => Some(list.to_vec()),
        ([one], Some(n)) if n as usize <= super::ELEMENTS => Some(vec![one.clone(); n as usize]),
        _ => None,
    });
    Ok(vec![Fact::with_elements(out, repeated)])
}

fn tile(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let Some(repeats) = op.elements(1) else {
        return Ok(vec![Fact::of_shape(op.unknown_shape(0, shape.len()))]);
    };
    if op.opset < 6 {
        return Err(Stop::Unknown);
    }
    if repeats.len() != shape.len() {
        return conflict(format!("{} repeats for {}", repeats.len(), show(shape)));
    }
    let each = shape.iter().zip(repeats).enumerate();
    let out: Shape = each
        .map(|(i, (d, n))| op.or_unknown(d.mul(n), 0, i))
        .collect();
    let repeated = match (op.elements(0), out.as_slice()) {
        (Some(list), [n]) => n
            .known()
            .filter(|n| *n as usize <= super::ELEMENTS)
            .map(|n| {
                let list = list.iter().cycle().take(n as usize);
                list.cloned().collect()
            }),
        _ => None,
    };
    Ok(vec![Fact::with_elements(out, repeated)])
}

fn concat(op: &Op<'_>) -> Outcome {
    let count = op.node.inputs.len();
    let rank = (0..count)
        .find_map(|i| op.shape(i).ok().map(Vec::len))
        .ok_or(Stop::Unknown)?;
    let axis = op.axis(op.int("axis", 1)?, rank)?;
    let mut out: Vec<Option<SymInt>> = vec![None; rank];
    let mut total = Some(SymInt::from(0));
    for slot in 0..count {
        let Ok(shape) = op.shape(slot) else {
            total = None;
            continue;
        };
        if shape.len() != rank {
            return conflict(format!(
                "operand {slot} has rank {}, another one {rank}",
                shape.len()
            ));
        }
        total = total.and_then(|t| t.add(&shape[axis]));
        for (i, extent) in shape.iter().enumerate().filter(|(i, _)| *i != axis) {
            match &out[i] {
                Some(before)
                    if before.known().is_some() && extent.known().is_some() && before != extent =>
                {
                    return conflict(format!("axis {i} of the operands is {before} and {extent}"));
                }
                // All are the same: a number says most.
                Some(before) if before.known().is_some() => {}
                Some(_) if extent.known().is_none() => {}
                _ => out[i] = Some(extent.clone()),
            }
        }
    }
    out[axis] = total;
    let each = out.into_iter().enumerate();
    let out: Shape = each
        .map(|(i, extent)| op.or_unknown(extent, 0, i))
        .collect();
    let joined = || {
        let parts: Option<Vec<&[SymInt]>> = (0..count).map(|i| op.elements(i)).collect();
        Some(parts?.concat())
    };
    // Along the first axis, elements follow each other.
    let elements = if axis == 0 { joined() } else { None };
    Ok(vec![Fact::with_elements(out, elements)])
}

fn split(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let axis = op.axis(op.int("axis", 0)?, shape.len())?;
    let count = op.node.outputs.len();
    let lengths = split_lengths(op, &shape[axis], count)?;
    if lengths.len() < count {
        return conflict(format!("{} lengths for {count} results", lengths.len()));
    }
    let mut at = Some(0usize);
    let mut out = Vec::with_capacity(count);
    for length in lengths.into_iter().take(count) {
        let mut part = shape.clone();
        part[axis] = op.or_unknown(length.clone(), out.len(), axis);
        let end = at
            .zip(length.and_then(|n| n.known()))
            .map(|(at, n)| at.saturating_add(n.max(0) as usize));
        let list = op.elements(0).filter(|_| shape.len() == 1);
        let elements = list
            .zip(at.zip(end))
            .and_then(|(list, (at, end))| Some(list.get(at..end)?.to_vec()));
        at = end;
        out.push(Fact::with_elements(part, elements));
    }
    Ok(out)
}

/// The lengths of the parts.
fn split_lengths(op: &Op<'_>, extent: &SymInt, count: usize) -> Result<Vec<Option<SymInt>>, Stop> {
    if op.has(1) {
        return Ok(match op.elements(1) {
            Some(list) => list.iter().cloned().map(Some).collect(),
            None => vec![None; count],
        });
    }
    if let Some(list) = op.ints("split")? {
        return Ok(list.into_iter().map(|n| Some(SymInt::from(n))).collect());
    }
    // Equal parts; from opset 18 on the last one is smaller when they do not come out even.
    let parts = op.int("num_outputs", count as i64)?;
    let Some(n) = extent.known() else {
        let each = extent.exact_quotient(parts);
        return Ok(vec![each; count]);
    };
    if parts < 1 || count as i64 > parts {
        return conflict(format!("{parts} parts for {count} results"));
    }
    if op.opset < 18 && n % parts != 0 {
        return conflict(format!("{n} elements in {parts} equal parts"));
    }
    let each = n.div_euclid(parts) + i64::from(n % parts != 0);
    let length = |i: i64| (n - i.saturating_mul(each)).clamp(0, each);
    let lengths = (0..count as i64).map(|i| Some(SymInt::from(length(i))));
    Ok(lengths.collect())
}

fn pad(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let name = if op.opset < 2 { "paddings" } else { "pads" };
    let given: Option<Vec<SymInt>> = match (op.has(1), op.ints(name)?) {
        (true, _) => op.elements(1).map(<[SymInt]>::to_vec),
        (false, Some(list)) => Some(list.into_iter().map(SymInt::from).collect()),
        (false, None) => None,
    };
    let Some(pads) = given else {
        return Ok(vec![Fact::of_shape(op.unknown_shape(0, shape.len()))]);
    };
    let axes: Vec<i64> = match op.has(3) {
        true => op.numbers(3).ok_or(Stop::Unknown)?,
        false => (0..shape.len() as i64).collect(),
    };
    if pads.len() != axes.len() * 2 {
        return conflict(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut out = shape.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = op.axis(axis, shape.len())?;
        let both = pads[i].add(&pads[axes.len() + i]);
        out[axis] = op.or_unknown(both.and_then(|n| shape[axis].add(&n)), 0, axis);
    }
    Ok(vec![Fact::of_shape(out)])
}

/// `DepthToSpace` and its inverse: `[N, C, H, W]`.
fn blocks(op: &Op<'_>, to_space: bool) -> Outcome {
    let [n, c, h, w] = op.shape(0)?.as_slice() else {
        return conflict(format!("{} has not four axes", show(op.shape(0)?)));
    };
    let Some(AttributeValue::Int(size @ 1..)) = op.node.attribute("blocksize") else {
        return Err(Stop::Unknown);
    };
    let size = SymInt::from(*size);
    let area = size.mul(&size);
    let out = match to_space {
        true => [
            area.and_then(|a| c.floor_div(&a)),
            h.mul(&size),
            w.mul(&size),
        ],
        false => [
            area.and_then(|a| c.mul(&a)),
            h.floor_div(&size),
            w.floor_div(&size),
        ],
    };
    let each = out.into_iter().enumerate();
    let rest = each.map(|(i, extent)| op.or_unknown(extent, 0, i + 1));
    Ok(vec![Fact::of_shape(
        std::iter::once(n.clone()).chain(rest).collect(),
    )])
}
