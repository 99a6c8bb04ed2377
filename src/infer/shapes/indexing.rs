//! Operators that pick or place elements, and those that make tensors of a given shape.

use super::op::{
    Fact, Op, Outcome, Rule, Shape, Stop, conflict, positions, product, show, small_dims,
};
use crate::{fold::slice_range, infer::SymInt, ir::AttributeValue};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "Slice" => slice,
        "Gather" => gather,
        "GatherElements" => |op| Ok(vec![Fact::of_shape(op.shape(1)?.clone())]),
        "GatherND" => gather_nd,
        "Compress" => compress,
        "NonZero" => |op| {
            // Of a scalar, runtimes do not make what the standard says.
            let rank = op.shape(0)?.len() as i64;
            if rank == 0 {
                return Err(Stop::Unknown);
            }
            Ok(vec![Fact::of_shape(vec![
                SymInt::from(rank),
                op.unknown(0, 1),
            ])])
        },
        "NonMaxSuppression" => |op| {
            Ok(vec![Fact::of_shape(vec![
                op.unknown(0, 0),
                SymInt::from(3),
            ])])
        },
        "Unique" => unique,
        "TopK" => top_k,
        "OneHot" => one_hot,
        "Range" => range,
        "ConstantOfShape" => constant_of_shape,
        "RandomNormal" | "RandomUniform" => |op| {
            let shape = op.ints("shape")?.ok_or(Stop::Unknown)?;
            Ok(vec![Fact::of_shape(
                shape.into_iter().map(SymInt::from).collect(),
            )])
        },
        "Multinomial" => |op| {
            let batch = op.shape(0)?.first().ok_or(Stop::Unknown)?.clone();
            Ok(vec![Fact::of_shape(vec![
                batch,
                SymInt::from(op.int("sample_size", 1)?),
            ])])
        },
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => |op| {
            let size = op.elements(0).ok_or(Stop::Unknown)?;
            Ok(vec![Fact::of_shape(size.to_vec())])
        },
        _ => return None,
    })
}

/// One axis of a `Slice`.
struct Cut {
    axis: usize,
    start: Option<SymInt>,
    end: Option<SymInt>,
    step: Option<i64>,
}

/// The axes that a `Slice` cuts; before opset 10 its bounds are attributes.
fn cuts(op: &Op<'_>, rank: usize) -> Result<Vec<Cut>, Stop> {
    let known = |list: Vec<i64>| -> Vec<Option<SymInt>> {
        list.into_iter().map(|n| Some(SymInt::from(n))).collect()
    };
    let (starts, ends, axes, steps) = match op.opset < 10 {
        true => (
            known(op.ints("starts")?.ok_or(Stop::Unknown)?),
            known(op.ints("ends")?.ok_or(Stop::Unknown)?),
            op.ints("axes")?,
            None,
        ),
        false => {
            let axes = match op.has(3) {
                true => Some(op.numbers(3).ok_or(Stop::Unknown)?),
                false => None,
            };
            // How many axes there are is known from any of the lists.
            let count = [1, 2]
                .into_iter()
                .find_map(|slot| op.elements(slot).map(<[SymInt]>::len));
            let length = || op.listed_axes(1).ok();
            let count = count
                .or(axes.as_ref().map(Vec::len))
                .or_else(length)
                .ok_or(Stop::Unknown)?;
            let bounds = |slot: usize| match op.elements(slot) {
                Some(list) => list.iter().cloned().map(Some).collect(),
                None => vec![None; count],
            };
            let steps: Option<Vec<Option<i64>>> = op.has(4).then(|| match op.elements(4) {
                Some(list) => list.iter().map(SymInt::known).collect(),
                None => vec![None; count],
            });
            (bounds(1), bounds(2), axes, steps)
        }
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![Some(1); axes.len()]);
    if [starts.len(), ends.len(), steps.len()]
        .iter()
        .any(|&n| n != axes.len())
    {
        return conflict("starts, ends, axes and steps are of different lengths");
    }
    let mut out = Vec::with_capacity(axes.len());
    for (i, &axis) in axes.iter().enumerate() {
        out.push(Cut {
            axis: op.axis(axis, rank)?,
            start: starts[i].clone(),
            end: ends[i].clone(),
            step: steps[i],
        });
    }
    Ok(out)
}

/// Bounds beyond this stand for the end of the axis: exporters write the largest int32 or
/// int64, and no tensor is that long.
const END: i64 = i32::MAX as i64;

impl Cut {
    /// A bound counted from the front, inside the axis.
    fn bound(op: &Op<'_>, bound: &SymInt, extent: &SymInt) -> Option<SymInt> {
        match bound.known() {
            Some(n) if n >= END => return Some(extent.clone()),
            Some(n) if n <= -END => return Some(SymInt::from(0)),
            _ => {}
        }
        if op.is_extent(bound) {
            return bound.minimum(extent);
        }
        // Certainly negative: counted from the back.
        if bound.upper().is_some_and(|high| high < 0) {
            return extent.add(bound)?.maximum(&SymInt::from(0));
        }
        None
    }

    /// How many elements of an axis of this extent are taken.
    fn length(&self, op: &Op<'_>, extent: &SymInt) -> Option<SymInt> {
        let step = self.step?;
        if let Some(n) = extent.known()
            && let (Some(start), Some(end)) =
                (self.start.as_ref()?.known(), self.end.as_ref()?.known())
        {
            return slice_range(n, start, end, step).map(|(_, count)| SymInt::from(count));
        }
        if step < 1 {
            let whole = self.start.as_ref()?.is(-1) && self.end.as_ref()?.known()? <= -END;
            return (whole && step == -1).then(|| extent.clone());
        }
        let start = Cut::bound(op, self.start.as_ref()?, extent)?;
        let end = Cut::bound(op, self.end.as_ref()?, extent)?;
        let length = end.sub(&start)?.maximum(&SymInt::from(0))?;
        match step {
            1 => Some(length),
            step => length
                .add(&SymInt::from(step - 1))?
                .floor_div(&SymInt::from(step)),
        }
    }
}

fn slice(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let cuts = match cuts(op, shape.len()) {
        Err(Stop::Unknown) => return Ok(vec![Fact::of_shape(op.unknown_shape(0, shape.len()))]),
        cuts => cuts?,
    };
    let mut out = shape.clone();
    for cut in &cuts {
        if cut.step == Some(0) {
            return conflict(format!("axis {} is sliced in steps of 0", cut.axis));
        }
        out[cut.axis] = op.or_unknown(cut.length(op, &shape[cut.axis]), 0, cut.axis);
    }
    let elements = op.elements(0).and_then(|list| {
        let dims = small_dims(shape)?;
        let mut picked: Vec<Vec<usize>> = dims.iter().map(|&d| (0..d).collect()).collect();
        for cut in &cuts {
            let bounds = cut.start.as_ref()?.known().zip(cut.end.as_ref()?.known());
            let (start, end) = bounds?;
            let step = cut.step?;
            let (first, count) = slice_range(dims[cut.axis] as i64, start, end, step)?;
            picked[cut.axis] = (0..count).map(|i| (first + i * step) as usize).collect();
        }
        let order: Vec<usize> = (0..dims.len()).collect();
        let at = positions(&dims, &order, &picked);
        Some(at.into_iter().map(|i| list[i].clone()).collect())
    });
    Ok(vec![Fact::with_elements(out, elements)])
}

fn gather(op: &Op<'_>) -> Outcome {
    let (data, indices) = (op.shape(0)?, op.shape(1)?);
    let axis = op.axis(op.int("axis", 0)?, data.len())?;
    let out = [&data[..axis], indices, &data[axis + 1..]].concat();
    let mut picked = Vec::new();
    let (Some(list), Some(at), 1) = (op.elements(0), op.elements(1), data.len()) else {
        return Ok(vec![Fact::of_shape(out)]);
    };
    for (i, index) in at.iter().enumerate() {
        let element = match index.known() {
            None => None,
            Some(n) => {
                let at = if n < 0 { n + list.len() as i64 } else { n };
                let element = usize::try_from(at).ok().and_then(|at| list.get(at));
                match element {
                    Some(element) => Some(element.clone()),
                    None => return conflict(format!("index {n} into {} elements", list.len())),
                }
            }
        };
        picked.push(op.element(element, i));
    }
    Ok(vec![Fact::with_elements(out, Some(picked))])
}

fn gather_nd(op: &Op<'_>) -> Outcome {
    let (data, indices) = (op.shape(0)?, op.shape(1)?);
    let batch = usize::try_from(op.int("batch_dims", 0)?).map_err(|_| Stop::Unknown)?;
    let Some((depth, before)) = indices.split_last() else {
        return conflict("the indices are a scalar");
    };
    let depth = depth.known().ok_or(Stop::Unknown)?;
    let first = batch + usize::try_from(depth).map_err(|_| Stop::Unknown)?;
    if first > data.len() {
        return conflict(format!("indices of {depth} axes into {}", show(data)));
    }
    Ok(vec![Fact::of_shape([before, &data[first..]].concat())])
}

fn compress(op: &Op<'_>) -> Outcome {
    let Some(axis) = op.node.attribute("axis") else {
        return Ok(vec![Fact::of_shape(vec![op.unknown(0, 0)])]);
    };
    let AttributeValue::Int(axis) = axis else {
        return Err(Stop::Unknown);
    };
    let mut out = op.shape(0)?.clone();
    let axis = op.axis(*axis, out.len())?;
    out[axis] = op.unknown(0, axis);
    Ok(vec![Fact::of_shape(out)])
}

fn unique(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let count = op.unknown(0, 0);
    let (first, of) = match op.node.attribute("axis") {
        None => (vec![count.clone()], product(shape)),
        Some(AttributeValue::Int(axis)) => {
            let axis = op.axis(*axis, shape.len())?;
            let mut out = shape.clone();
            out[axis] = count.clone();
            (out, Some(shape[axis].clone()))
        }
        Some(_) => return Err(Stop::Unknown),
    };
    let inverse = op.or_unknown(of, 2, 0);
    let vector = |extent: SymInt| Fact::of_shape(vec![extent]);
    Ok(vec![
        Fact::of_shape(first),
        vector(count.clone()),
        vector(inverse),
        vector(count),
    ])
}

fn top_k(op: &Op<'_>) -> Outcome {
    let mut out = op.shape(0)?.clone();
    let axis = op.axis(op.int("axis", -1)?, out.len())?;
    let k = match op.opset < 10 {
        true => Some(SymInt::from(op.int("k", -1)?)),
        false => op.elements(1).and_then(<[SymInt]>::first).cloned(),
    };
    // Not more than there are: the model would fail.
    out[axis] = op.or_unknown(k.filter(|k| op.is_extent(k)), 0, axis);
    Ok(vec![Fact::of_shape(out.clone()), Fact::of_shape(out)])
}

fn one_hot(op: &Op<'_>) -> Outcome {
    let mut out = op.shape(0)?.clone();
    let axis = op.axis(op.int("axis", -1)?, out.len() + 1)?;
    let depth = op.elements(1).and_then(<[SymInt]>::first).cloned();
    let depth = depth.filter(|d| op.is_extent(d));
    out.insert(axis, op.or_unknown(depth, 0, axis));
    Ok(vec![Fact::of_shape(out)])
}

fn range(op: &Op<'_>) -> Outcome {
    let one = |slot: usize| op.elements(slot).and_then(<[SymInt]>::first);
    let (Some(start), Some(limit), Some(delta)) = (one(0), one(1), one(2)) else {
        return Ok(vec![Fact::of_shape(vec![op.unknown(0, 0)])]);
    };
    let Some(step) = delta.known() else {
        return Ok(vec![Fact::of_shape(vec![op.unknown(0, 0)])]);
    };
    // ceil((limit - start) / delta), or 0.
    let count = || {
        let distance = match step {
            1.. => limit.sub(start)?.add(&SymInt::from(step - 1))?,
            0 => return None,
            _ => start
                .sub(limit)?
                .add(&SymInt::from(step.checked_neg()? - 1))?,
        };
        distance
            .floor_div(&SymInt::from(step.checked_abs()?))?
            .maximum(&SymInt::from(0))
    };
    if step == 0 {
        return conflict("a range in steps of 0");
    }
    let count = op.or_unknown(count(), 0, 0);
    let few = count.known().filter(|&n| n as usize <= super::ELEMENTS);
    let elements = few.map(|n| {
        let at = |i: i64| start.add(&SymInt::from(i.checked_mul(step)?));
        (0..n).map(|i| op.element(at(i), i as usize)).collect()
    });
    Ok(vec![Fact::with_elements(vec![count], elements)])
}

fn constant_of_shape(op: &Op<'_>) -> Outcome {
    let Some(list) = op.elements(0) else {
        let rank = op.listed_axes(0)?;
        return Ok(vec![Fact::of_shape(op.unknown_shape(0, rank))]);
    };
    if list.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
        return conflict(format!("a tensor of extents {}", show(list)));
    }
    let each = list.iter().enumerate();
    let extent = |(i, d): (usize, &SymInt)| match op.lower(d) {
        Some(0..) => d.clone(),
        _ => op.unknown(0, i),
    };
    let out: Shape = each.map(extent).collect();
    let count = product(&out)
        .and_then(|n| n.known())
        .filter(|&n| n as usize <= super::ELEMENTS);
    let fill = match op.node.attribute("value") {
        Some(AttributeValue::Tensor(t)) => {
            super::small_integers(t).and_then(|list| list.first().cloned())
        }
        _ => None,
    };
    let elements = count.zip(fill).map(|(n, fill)| vec![fill; n as usize]);
    Ok(vec![Fact::with_elements(out, elements)])
}
