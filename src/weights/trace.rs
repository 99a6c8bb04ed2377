//! Follows an operand to the constant it comes from, through nodes that only rename,
//! cast or rearrange it.

use super::constant::{AXES, int_elements, source_tensor};
use crate::{
    error::Result,
    ir::{AttributeValue, Data, DataType, Elements, Model, Node, ValueId},
};

/// A constant as an operand: where it is stored, and how the operand's axes lie in it.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The initializer, or the result of the `Constant` node, that holds it.
    pub root: ValueId,
    /// Its bytes.
    pub data: Data,
    /// The type it is stored in: float, float16, bfloat16 or double.
    pub stored: DataType,
    /// The type the operand has, after casts.
    pub dtype: DataType,
    /// A narrower type it is rounded to on the way.
    pub rounding: Option<DataType>,
    /// Extents of the operand.
    pub dims: Vec<u64>,
    /// Distance in elements between neighbours along each axis; 0 where the extent is 1.
    pub strides: Vec<u64>,
}

/// Why an operand is no such constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untraceable {
    /// It is computed, or given by the caller.
    NotConstant,
    /// It is an initializer that callers may replace.
    Overridable,
    /// It is a constant of, or cast through, this type.
    Dtype(DataType),
    /// It is a constant, but rearranged by this operator in a way that is not followed.
    Rearranged(String),
}

/// Whether `node` is one that [`trace`] follows: it renames, casts or rearranges.
pub fn rearranges(node: &Node) -> bool {
    let followed = [
        "Identity",
        "Cast",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
    ];
    followed.iter().any(|op| node.is(op))
}

/// Follows `value` to its constant.
///
/// # Errors
/// A small constant on the way (a shape) cannot be read. The inner result says why the
/// operand is not a constant that can be quantized.
pub fn trace(model: &Model, value: ValueId) -> Result<Result<Weight, Untraceable>> {
    let mut path = Vec::new();
    let mut at = value;
    let tensor = loop {
        if model.is_overridable(at) {
            return Ok(Err(Untraceable::Overridable));
        }
        if let Some(tensor) = source_tensor(model, at) {
            break tensor;
        }
        let Some(node) = model.producer(at) else {
            return Ok(Err(Untraceable::NotConstant));
        };
        let node = &model.nodes[node];
        match node.input(0) {
            Some(input) if rearranges(node) => {
                path.push(node);
                at = input;
            }
            _ => return Ok(Err(Untraceable::NotConstant)),
        }
    };
    let Elements::Data(data) = &tensor.elements else {
        return Ok(Err(Untraceable::Dtype(tensor.dtype)));
    };
    if !tensor.dtype.is_float() {
        return Ok(Err(Untraceable::Dtype(tensor.dtype)));
    }
    let dims: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
    let mut weight = Weight {
        root: at,
        data: data.clone(),
        stored: tensor.dtype,
        dtype: tensor.dtype,
        rounding: None,
        strides: row_major(&dims),
        dims,
    };
    for node in path.into_iter().rev() {
        if let Err(why) = weight.apply(model, node)? {
            return Ok(Err(why));
        }
    }
    Ok(Ok(weight))
}

/// Strides of a row-major tensor, 0 where the extent is 1. Only those of a tensor without
/// elements can be too large; what they are makes no difference.
fn row_major(dims: &[u64]) -> Vec<u64> {
    let mut stride = 1u64;
    let mut strides: Vec<u64> = dims
        .iter()
        .rev()
        .map(|&d| {
            let own = if d == 1 { 0 } else { stride };
            stride = stride.wrapping_mul(d);
            own
        })
        .collect();
    strides.reverse();
    strides
}

impl Weight {
    /// Bytes it takes as it is stored.
    pub fn bytes(&self) -> u64 {
        self.data.len()
    }

    fn apply(&mut self, model: &Model, node: &Node) -> Result<Result<(), Untraceable>> {
        Ok(match &*node.op_type {
            "Identity" => Ok(()),
            "Cast" => self.cast(node),
            "Transpose" => self.transpose(node),
            op => match target_dims(model, node, &self.dims)? {
                Some(dims) if self.reshape(&dims) => Ok(()),
                _ => Err(Untraceable::Rearranged(op.to_owned())),
            },
        })
    }

    fn cast(&mut self, node: &Node) -> Result<(), Untraceable> {
        let to = node
            .int("to", 0)
            .and_then(|t| DataType::from_code(t as i32));
        let to = to.unwrap_or(DataType::Undefined);
        if !to.is_float() {
            return Err(Untraceable::Dtype(to));
        }
        if matches!(to, DataType::Float16 | DataType::Bfloat16) && to != self.dtype {
            // One rounding is followed; a second one, to the other narrow type, is not.
            if self.rounding.is_some_and(|r| r != to) || is_narrow(self.stored) {
                return Err(Untraceable::Dtype(to));
            }
            self.rounding = Some(to);
        }
        self.dtype = to;
        Ok(())
    }

    fn transpose(&mut self, node: &Node) -> Result<(), Untraceable> {
        let rank = self.dims.len();
        let perm: Vec<usize> = match node.attribute("perm") {
            None => (0..rank).rev().collect(),
            Some(AttributeValue::Ints(p)) => p.iter().map(|&i| i as usize).collect(),
            Some(_) => return Err(Untraceable::Rearranged("Transpose".to_owned())),
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if sorted != (0..rank).collect::<Vec<_>>() {
            return Err(Untraceable::Rearranged("Transpose".to_owned()));
        }
        self.dims = perm.iter().map(|&i| self.dims[i]).collect();
        self.strides = perm.iter().map(|&i| self.strides[i]).collect();
        Ok(())
    }

    /// Follows a reshape that only adds or removes axes of extent 1.
    fn reshape(&mut self, dims: &[u64]) -> bool {
        let long = |d: &&u64| **d != 1;
        if !self.dims.iter().filter(long).eq(dims.iter().filter(long)) {
            return false;
        }
        let axes = self.dims.iter().zip(&self.strides);
        let mut strides = axes.filter(|(d, _)| **d != 1).map(|(_, s)| *s);
        let stride = |&d: &u64| match d {
            1 => 0,
            _ => strides.next().expect("as many long axes on both sides"),
        };
        self.strides = dims.iter().map(stride).collect();
        self.dims = dims.to_vec();
        true
    }
}

fn is_narrow(t: DataType) -> bool {
    matches!(t, DataType::Float16 | DataType::Bfloat16)
}

/// The extents that `node`, a Reshape, Squeeze or Unsqueeze, gives to a tensor of extents
/// `dims`; `None` when they are not constant or make no sense.
pub(crate) fn target_dims(model: &Model, node: &Node, dims: &[u64]) -> Result<Option<Vec<u64>>> {
    let operand = match node.input(1) {
        Some(value) => match int_elements(model, value)? {
            Some(list) => Some(list),
            None => return Ok(None),
        },
        None => None,
    };
    let name = if node.is("Reshape") { "shape" } else { "axes" };
    let list = match (operand, node.attribute(name)) {
        (Some(list), _) => Some(list),
        (None, Some(AttributeValue::Ints(list))) => Some(list.clone()),
        (None, None) => None,
        // What the caller of a function gives.
        (None, Some(_)) => return Ok(None),
    };
    Ok(match &*node.op_type {
        "Reshape" => {
            let zero_is_zero = node.int("allowzero", 0) != Some(0);
            list.and_then(|shape| reshaped(dims, &shape, zero_is_zero))
        }
        "Squeeze" => match list {
            None => Some(dims.iter().copied().filter(|&d| d != 1).collect()),
            Some(axes) => normal_axes(&axes, dims.len()).and_then(|axes| {
                let unit = axes.iter().all(|&a| dims[a] == 1);
                let kept = (0..dims.len()).filter(|a| !axes.contains(a));
                unit.then(|| kept.map(|a| dims[a]).collect())
            }),
        },
        _ => list.and_then(|axes| {
            let rank = dims.len() + axes.len();
            let axes = normal_axes(&axes, rank)?;
            let mut rest = dims.iter();
            (0..rank)
                .map(|a| match axes.contains(&a) {
                    true => Some(1),
                    false => rest.next().copied(),
                })
                .collect()
        }),
    })
}

/// Axes counted from the front, each once.
fn normal_axes(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    if axes.len() > AXES {
        return None;
    }
    let mut out = Vec::new();
    for &axis in axes {
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&a| a < rank)?;
        if out.contains(&axis) {
            return None;
        }
        out.push(axis);
    }
    Some(out)
}

fn reshaped(dims: &[u64], shape: &[i64], zero_is_zero: bool) -> Option<Vec<u64>> {
    let total = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let mut out = Vec::with_capacity(shape.len());
    let mut free = None;
    for (i, &d) in shape.iter().enumerate() {
        match d {
            -1 if free.is_none() => {
                free = Some(i);
                out.push(1);
            }
            0 if !zero_is_zero => out.push(*dims.get(i)?),
            d => out.push(u64::try_from(d).ok()?),
        }
    }
    let known = out.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    if let Some(i) = free {
        out[i] = total.checked_div(known)?;
    }
    let count = out.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    (count == total).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes_follow_the_rules_of_the_operator() {
        assert_eq!(reshaped(&[2, 3], &[1, -1, 3], false), Some(vec![1, 2, 3]));
        assert_eq!(reshaped(&[2, 3], &[0, 3, 1], false), Some(vec![2, 3, 1]));
        assert_eq!(reshaped(&[2, 3], &[0, 3], true), None);
        assert_eq!(reshaped(&[2, 3], &[-1, -1], false), None);
        assert_eq!(reshaped(&[2, 3], &[4, -1], false), None);
        assert_eq!(reshaped(&[0, 3], &[0, -1], false), None);
    }

    #[test]
    fn strides_of_unit_axes_do_not_count() {
        assert_eq!(row_major(&[2, 1, 3]), [3, 0, 1]);
        assert_eq!(row_major(&[]), [0u64; 0]);
        assert_eq!(row_major(&[0, 1 << 62, 1 << 62]).len(), 3);
    }

    fn model(body: &str) -> Model {
        let text = format!("<ir_version: 10, opset_import: [\"\" : 21]>\ng {body}");
        crate::text::parse(&text).unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    /// What the first operand of the last node comes from.
    fn last(model: &Model) -> Result<Weight, Untraceable> {
        let node = *model.graphs[model.main].nodes.last().unwrap();
        trace(model, model.nodes[node].input(0).unwrap()).unwrap()
    }

    #[test]
    fn paths_compose() {
        let model = model(
            "() => (float[5,3] y) <float16[1,3,5] W = {ramp(1)}, int64[2] s = {0,-1}> {
               a = Cast <to = 1> (W)
               b = Squeeze (a)
               c = Reshape (b, s)
               d = Transpose (c)
               e = Identity (d)
               y = Relu (e)
            }",
        );
        let weight = last(&model).unwrap();
        assert_eq!(&*model.values[weight.root].name, "W");
        assert_eq!(
            (weight.dims, weight.strides),
            (vec![5, 3], vec![1, 5]),
            "the transpose is only in the strides"
        );
        let (stored, dtype) = (weight.stored, weight.dtype);
        assert_eq!((stored, dtype), (DataType::Float16, DataType::Float));
        assert_eq!(weight.rounding, None);
    }

    #[test]
    fn transposes_of_higher_rank_and_unit_axes() {
        let model = model(
            "() => (y) <float[2,1,3] W = {ramp(1)}, int64[2] u = {0,-1}> {
               a = Transpose <perm = [2, 1, 0]> (W)
               b = Unsqueeze (a, u)
               y = Relu (b)
            }",
        );
        let weight = last(&model).unwrap();
        assert_eq!(weight.dims, [1, 3, 1, 2, 1]);
        assert_eq!(weight.strides, [0, 1, 0, 3, 0]);
    }

    #[test]
    fn casts() {
        use DataType::{Bfloat16, Double, Float, Float16};
        for (stored, casts, expected) in [
            ("float", "10", Ok((Float16, Some(Float16)))),
            ("float", "10 1", Ok((Float, Some(Float16)))),
            ("float", "11 1", Ok((Float, None))),
            ("double", "16 11", Ok((Double, Some(Bfloat16)))),
            ("float", "10 1 10", Ok((Float16, Some(Float16)))),
            ("float16", "10", Ok((Float16, None))),
            // Rounded twice.
            ("float", "10 16", Err(Untraceable::Dtype(Bfloat16))),
            ("bfloat16", "10", Err(Untraceable::Dtype(Float16))),
            ("float", "7 1", Err(Untraceable::Dtype(DataType::Int64))),
        ] {
            let mut body = format!("() => (y) <{stored}[2,3] v = {{ramp(1)}}> {{\n");
            let mut at = "v".to_owned();
            for to in casts.split(' ') {
                body.push_str(&format!("c{at} = Cast <to = {to}> ({at})\n"));
                at.insert(0, 'c');
            }
            let model = model(&format!("{body}y = Relu ({at})\n}}"));
            let found = last(&model).map(|w| (w.dtype, w.rounding));
            assert_eq!(found, expected, "{stored} to {casts}");
        }
    }

    #[test]
    fn why_not() {
        let rearranged = |op: &str| Untraceable::Rearranged(op.to_owned());
        let int = Untraceable::Dtype(DataType::Int64);
        for (body, expected) in [
            (
                "(float[2] x) => (y) { y = Relu (x) }",
                Untraceable::NotConstant,
            ),
            (
                "(float[2] x) => (y) { a = Neg (x) b = Identity (a) y = Relu (b) }",
                Untraceable::NotConstant,
            ),
            (
                "(float[2] W) => (y) <float[2] W = {1,2}> { b = Identity (W) y = Relu (b) }",
                Untraceable::Overridable,
            ),
            ("() => (y) <int64[2] W = {1,2}> { y = Neg (W) }", int),
            (
                "() => (y) <float[2,3] W = {ramp(1)}, int64[1] s = {6}> { a = Reshape (W, s) y = Neg (a) }",
                rearranged("Reshape"),
            ),
            (
                "(int64[1] s) => (y) <float[1,3] W = {ramp(1)}> { a = Squeeze (W, s) y = Neg (a) }",
                rearranged("Squeeze"),
            ),
            (
                "() => (y) <float[2,3] W = {ramp(1)}> { a = Transpose <perm = [0, 0]> (W) y = Neg (a) }",
                rearranged("Transpose"),
            ),
        ] {
            assert_eq!(last(&model(body)).unwrap_err(), expected, "{body}");
        }
    }
}
