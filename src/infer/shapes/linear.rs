//! Matrix products, reductions, normalizations and recurrences.

use super::op::{Fact, Op, Outcome, Rule, Shape, Stop, conflict, product, show};
use crate::{infer::SymInt, ir::AttributeValue};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "MatMul" | "MatMulInteger" => |op| matmul(op, 0, 1),
        "QLinearMatMul" => |op| matmul(op, 0, 3),
        "Gemm" => gemm,
        "Einsum" => einsum,
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        "ArgMax" | "ArgMin" => |op| {
            let axis = op.int("axis", 0)?;
            let shape = op.shape(0)?;
            Ok(vec![Fact::of_shape(reduced(op, shape, Some(&[axis]))?)])
        },
        "LayerNormalization" => layer_normalization,
        "BatchNormalization" => |op| {
            // In training the statistics come out, too.
            let statistics = op
                .shape(3)
                .map(|s| Fact::of_shape(s.clone()))
                .unwrap_or_default();
            Ok(vec![
                Fact::of_shape(op.shape(0)?.clone()),
                statistics.clone(),
                statistics,
            ])
        },
        "LSTM" => |op| recurrent(op, 3),
        "GRU" | "RNN" => |op| recurrent(op, 2),
        "DynamicQuantizeLinear" => |op| {
            Ok(vec![
                Fact::of_shape(op.shape(0)?.clone()),
                Fact::of_shape(Vec::new()),
                Fact::of_shape(Vec::new()),
            ])
        },
        "Det" => |op| {
            let shape = op.shape(0)?;
            Ok(vec![Fact::of_shape(
                shape[..shape.len().saturating_sub(2)].to_vec(),
            )])
        },
        "Attention" => attention,
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => loss,
        _ => return None,
    })
}

/// Matrix product of operands `a` and `b`, as numpy has it: `[..., M, K]` by `[..., K, N]`.
pub(super) fn matmul(op: &Op<'_>, a: usize, b: usize) -> Outcome {
    let (a, b) = (op.shape(a)?, op.shape(b)?);
    Ok(vec![Fact::of_shape(matrix_product(op, a, b)?)])
}

pub(super) fn matrix_product(op: &Op<'_>, a: &[SymInt], b: &[SymInt]) -> Result<Shape, Stop> {
    let (Some((k, rows)), Some(last)) = (a.split_last(), b.last()) else {
        return conflict("a scalar in a matrix product");
    };
    let (k2, columns, batch_b) = match b.len() {
        1 => (last, None, &b[..0]),
        n => (&b[n - 2], Some(last.clone()), &b[..n - 2]),
    };
    if k.known().zip(k2.known()).is_some_and(|(x, y)| x != y) {
        return conflict(format!("{} by {}", show(a), show(b)));
    }
    let (row, batch_a) = match rows.split_last() {
        Some((row, batch)) => (Some(row.clone()), batch),
        None => (None, rows),
    };
    let mut out = op.broadcast(&[batch_a, batch_b])?;
    out.extend(row);
    out.extend(columns);
    Ok(out)
}

fn gemm(op: &Op<'_>) -> Outcome {
    let (a, b) = (op.shape(0)?, op.shape(1)?);
    let ([a0, a1], [b0, b1]) = (a.as_slice(), b.as_slice()) else {
        return conflict(format!(
            "{} by {}: two matrices are expected",
            show(a),
            show(b)
        ));
    };
    let (m, k) = if op.int("transA", 0)? != 0 {
        (a1, a0)
    } else {
        (a0, a1)
    };
    let (n, k2) = if op.int("transB", 0)? != 0 {
        (b0, b1)
    } else {
        (b1, b0)
    };
    if k.known().zip(k2.known()).is_some_and(|(x, y)| x != y) {
        return conflict(format!("{} by {} along {k} and {k2}", show(a), show(b)));
    }
    Ok(vec![Fact::of_shape(vec![m.clone(), n.clone()])])
}

/// `Einsum`: letters stand for extents, `...` for axes that are broadcast.
fn einsum(op: &Op<'_>) -> Outcome {
    let equation: String = op
        .text("equation")?
        .ok_or(Stop::Unknown)?
        .chars()
        .filter(|c| *c != ' ')
        .collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&*equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if equation.contains('.') || terms.len() != op.node.inputs.len() {
        return Err(Stop::Unknown);
    }
    let mut letters: Vec<(char, SymInt)> = Vec::new();
    for (slot, term) in terms.iter().enumerate() {
        let shape = op.shape(slot)?;
        if term.chars().count() != shape.len() {
            return conflict(format!("`{term}` for {}", show(shape)));
        }
        for (letter, extent) in term.chars().zip(shape) {
            match letters.iter_mut().find(|l| l.0 == letter) {
                Some(known) if known.1.known() == Some(1) => known.1 = extent.clone(),
                Some(_) => {}
                None => letters.push((letter, extent.clone())),
            }
        }
    }
    let result: String = match right {
        Some(right) => right.to_owned(),
        // Letters that occur once, in order.
        None => {
            let mut once: Vec<char> = letters.iter().map(|l| l.0).collect();
            once.retain(|c| left.chars().filter(|x| x == c).count() == 1);
            once.sort_unstable();
            once.into_iter().collect()
        }
    };
    let extent = |c: char| letters.iter().find(|l| l.0 == c).map(|l| l.1.clone());
    let out: Option<Shape> = result.chars().map(extent).collect();
    Ok(vec![Fact::of_shape(out.ok_or(Stop::Unknown)?)])
}

fn reduce(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let axes = match op.list("axes", 1) {
        // Which axes are gone is not known, but how many are left is when they stay as 1.
        Err(Stop::Unknown) if op.int("keepdims", 1)? != 0 => {
            return Ok(vec![Fact::of_shape(op.unknown_shape(0, shape.len()))]);
        }
        axes => axes?,
    };
    let axes = match axes.filter(|a| !a.is_empty()) {
        None if op.int("noop_with_empty_axes", 0)? != 0 => {
            return Ok(vec![Fact::of_shape(shape.clone())]);
        }
        axes => axes,
    };
    let out = reduced(op, shape, axes.as_deref())?;
    let whole = op
        .elements(0)
        .filter(|_| product(&out).is_some_and(|n| n.is(1)));
    let fold = |f: fn(&SymInt, &SymInt) -> Option<SymInt>| {
        let mut list = whole?.iter();
        let first = list.next()?.clone();
        list.try_fold(first, |a, b| f(&a, b)).map(|x| vec![x])
    };
    let elements = match &*op.node.op_type {
        "ReduceSum" => fold(SymInt::add),
        "ReduceProd" => fold(SymInt::mul),
        "ReduceMax" => fold(SymInt::maximum),
        "ReduceMin" => fold(SymInt::minimum),
        _ => None,
    };
    Ok(vec![Fact::with_elements(out, elements)])
}

/// `shape` without `axes` (all, when there are none), or with 1 in their place.
fn reduced(op: &Op<'_>, shape: &[SymInt], axes: Option<&[i64]>) -> Result<Shape, Stop> {
    let axes = match axes {
        Some(axes) => op.axes(axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let keep = op.int("keepdims", 1)? != 0;
    let each = shape.iter().enumerate();
    let left = each.filter_map(|(i, d)| match (axes.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(SymInt::from(1)),
        (true, false) => None,
    });
    Ok(left.collect())
}

pub(super) fn layer_normalization(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let axis = op.axis(op.int("axis", -1)?, shape.len())?;
    let each = shape.iter().enumerate();
    let statistics: Shape = each
        .map(|(i, d)| if i < axis { d.clone() } else { SymInt::from(1) })
        .collect();
    let statistics = Fact::of_shape(statistics);
    Ok(vec![
        Fact::of_shape(shape.clone()),
        statistics.clone(),
        statistics,
    ])
}

/// `LSTM`, `GRU`, `RNN`: `Y`, `Y_h` and for the LSTM `Y_c`.
fn recurrent(op: &Op<'_>, results: usize) -> Outcome {
    let [a, b, _] = op.shape(0)?.as_slice() else {
        return conflict(format!("`{}` of {}", op.node.op_type, show(op.shape(0)?)));
    };
    let batch_first = op.int("layout", 0)? != 0;
    let (length, batch) = if batch_first { (b, a) } else { (a, b) };
    let directions = match op.text("direction")?.as_deref() {
        Some("bidirectional") => 2,
        _ => 1,
    };
    let directions = SymInt::from(directions);
    let hidden = match op.node.attribute("hidden_size") {
        Some(AttributeValue::Int(n)) => SymInt::from(*n),
        // The recurrence weight ends with it.
        None => op.shape(2)?.last().ok_or(Stop::Unknown)?.clone(),
        Some(_) => return Err(Stop::Unknown),
    };
    let (y, state) = match batch_first {
        false => (
            vec![
                length.clone(),
                directions.clone(),
                batch.clone(),
                hidden.clone(),
            ],
            vec![directions, batch.clone(), hidden],
        ),
        true => (
            vec![
                batch.clone(),
                length.clone(),
                directions.clone(),
                hidden.clone(),
            ],
            vec![batch.clone(), directions, hidden],
        ),
    };
    let mut out = vec![Fact::of_shape(y)];
    out.resize(results, Fact::of_shape(state));
    Ok(out)
}

/// `Attention` of opset 23: rank 3 `[batch, length, hidden]` or rank 4
/// `[batch, heads, length, size]`.
fn attention(op: &Op<'_>) -> Outcome {
    let (q, k, v) = (op.shape(0)?, op.shape(1)?, op.shape(2)?);
    match (q.len(), v.len()) {
        (4, 4) => {
            let y = vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()];
            let present = |new: &Shape, slot: usize, past: usize| -> Result<Fact, Stop> {
                let mut out = new.clone();
                if op.has(past) {
                    let both = op.shape(past).ok().and_then(|p| p.get(2)?.add(&new[2]));
                    out[2] = op.or_unknown(both, slot, 2);
                }
                Ok(Fact::of_shape(out))
            };
            let (key, value) = (present(k, 1, 4)?, present(v, 2, 5)?);
            Ok(vec![Fact::of_shape(y), key, value])
        }
        (3, 3) => {
            let heads = (op.int("q_num_heads", 0)?, op.int("kv_num_heads", 0)?);
            let size = (heads.1 > 0)
                .then(|| v[2].floor_div(&SymInt::from(heads.1)))
                .flatten();
            let width = size.and_then(|s| s.mul(&SymInt::from(heads.0)));
            let y = vec![q[0].clone(), q[1].clone(), op.or_unknown(width, 0, 2)];
            Ok(vec![Fact::of_shape(y)])
        }
        _ => Err(Stop::Unknown),
    }
}

/// A loss: one number, or one for each target; `SoftmaxCrossEntropyLoss` also gives the
/// logarithms of the probabilities.
fn loss(op: &Op<'_>) -> Outcome {
    let out = match op.text("reduction")?.as_deref() {
        Some("none") => op.shape(1)?.clone(),
        _ => Vec::new(),
    };
    Ok(vec![
        Fact::of_shape(out),
        op.shape(0)
            .map(|s| Fact::of_shape(s.clone()))
            .unwrap_or_default(),
    ])
}
