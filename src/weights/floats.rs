//! Constants of floating-point numbers, in double precision: each of them exactly, and what is
//! computed from them rounded once.

use half::{bf16, f16};

use super::constant::source_tensor;
use crate::{
    error::Result,
    ir::{Data, DataType, Elements, Model, Tensor, ValueId},
};

/// The elements of the constant that `value` is, in double precision, with its extents;
/// `None` when it is no constant of float, float16, bfloat16 or double, or has more than
/// `limit` elements.
///
/// # Errors
/// They cannot be read.
pub fn small_floats(
    model: &Model,
    value: ValueId,
    limit: u64,
) -> Result<Option<(Vec<f64>, Vec<i64>)>> {
    let tensor = source_tensor(model, value);
    let small = |t: &&Tensor| t.element_count().is_some_and(|n| n <= limit);
    let Some(tensor) = tensor.filter(small) else {
        return Ok(None);
    };
    let (Elements::Data(data), true) = (&tensor.elements, tensor.dtype.is_float()) else {
        return Ok(None);
    };
    let bytes = data.read_all()?;
    let mut out = Vec::new();
    read_floats(tensor.dtype, &bytes, |x| out.push(x));
    Ok(Some((out, tensor.dims.clone())))
}

/// Gives every element of `bytes`, which are of the floating-point type `dtype`, to `each`, in
/// double precision and in order. Exact.
///
/// # Panics
/// When `dtype` is no floating-point type that weights come in.
pub fn read_floats(dtype: DataType, bytes: &[u8], each: impl FnMut(f64)) {
    let halves = || bytes.as_chunks().0.iter().copied();
    match dtype {
        DataType::Float => {
            let elements = bytes.as_chunks().0.iter();
            elements
                .map(|b| f32::from_le_bytes(*b).into())
                .for_each(each);
        }
        DataType::Double => {
            let elements = bytes.as_chunks().0.iter();
            elements.map(|b| f64::from_le_bytes(*b)).for_each(each);
        }
        DataType::Float16 => halves()
            .map(|b| f16::from_le_bytes(b).into())
            .for_each(each),
        DataType::Bfloat16 => halves()
            .map(|b| bf16::from_le_bytes(b).into())
            .for_each(each),
        other => panic!("{other} is no floating-point type of weights"),
    }
}

/// A constant of the floating-point type `dtype`; each element is rounded once, to nearest
/// even, and what is too large becomes infinite.
///
/// # Panics
/// When `dtype` is no floating-point type that weights come in, or `dims` is not the number of
/// elements.
pub fn float_tensor(dtype: DataType, dims: Vec<i64>, elements: &[f64]) -> Tensor {
    let mut bytes = vec![0; elements.len() * (dtype.bits() / 8) as usize];
    round_floats(dtype, elements.iter().copied(), &mut bytes);
    Tensor::new(dtype, dims, Data::Bytes(bytes.into()))
}

/// Writes `elements` as `dtype` into `out`, which has room for them; see [`float_tensor`].
pub(super) fn round_floats(dtype: DataType, elements: impl Iterator<Item = f64>, out: &mut [u8]) {
    match dtype {
        DataType::Float => {
            for (x, b) in elements.zip(out.as_chunks_mut().0) {
                *b = (x as f32).to_le_bytes();
            }
        }
        DataType::Double => {
            for (x, b) in elements.zip(out.as_chunks_mut().0) {
                *b = x.to_le_bytes();
            }
        }
        DataType::Float16 => {
            for (x, b) in elements.zip(out.as_chunks_mut().0) {
                *b = f16::from_f32(to_odd(x)).to_le_bytes();
            }
        }
        DataType::Bfloat16 => {
            for (x, b) in elements.zip(out.as_chunks_mut().0) {
                *b = bf16::from_f32(to_odd(x)).to_le_bytes();
            }
        }
        other => panic!("{other} is no floating-point type of weights"),
    }
}

/// `x` rounded to odd: of its two neighbours the one whose last bit is set. Rounding that once
/// more, to a type with at least two bits less, is the same as rounding `x` itself (Boldo and
/// Melquiond, "When double rounding is odd", 2005). To go by way of the nearest is not.
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    if back == x || x.is_nan() || bits & 1 == 1 {
        return nearest;
    }
    // Neighbours of the same sign are neighbours as integers.
    f32::from_bits(match back.abs() > x.abs() {
        true => bits - 1,
        false => bits + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(dtype: DataType, x: f64) -> f64 {
        let tensor = float_tensor(dtype, vec![], &[x]);
        let mut out = f64::NAN;
        let bytes = tensor.data().expect("numbers").read_all().expect("bytes");
        read_floats(dtype, &bytes, |x| out = x);
        out
    }

    #[test]
    fn an_element_is_rounded_once() {
        use DataType::*;
        // A little more than half way between two numbers of float16: by way of float it
        // would become the middle, and then the even neighbour below.
        let middle = 1.0 + f64::powi(2.0, -11);
        let above = middle + f64::powi(2.0, -40);
        let up = 1.0 + f64::powi(2.0, -10);
        assert_eq!([middle, above].map(|x| rounded(Float16, x)), [1.0, up]);
        assert_eq!([middle, above].map(|x| rounded(Float16, -x)), [-1.0, -up]);
        let above = 1.0 + f64::powi(2.0, -8) + f64::powi(2.0, -40);
        assert_eq!(rounded(Bfloat16, above), 1.0 + f64::powi(2.0, -7));
        for (dtype, x, expected) in [
            (Float16, 65_519.999_999_9, 65504.0),
            (Float16, 65520.0, f64::INFINITY),
            (Float16, 1e300, f64::INFINITY),
            (Float16, -f64::INFINITY, -f64::INFINITY),
            (Float16, 1e-300, 0.0),
            (
                Float16,
                f64::powi(2.0, -25) * 1.000_001,
                f64::powi(2.0, -24),
            ),
            (Float, 1e300, f64::INFINITY),
            (Float, 0.1, f64::from(0.1f32)),
            (Double, 0.1, 0.1),
        ] {
            assert_eq!(rounded(dtype, x), expected, "{dtype} {x}");
        }
        assert!(
            [Float16, Bfloat16, Float]
                .iter()
                .all(|&t| rounded(t, f64::NAN).is_nan())
        );
    }
}
