//! Elements of every type as numbers: integers and booleans as `i128`, which holds all of
//! them, floating-point numbers as `f64`, which holds all of them exactly.
//!
//! One rounding of an `f64` result of `+ - * /` or a square root is the IEEE result in any
//! narrower type: `f64` has more than twice the digits of float (Figueroa, "When is double
//! rounding innocuous?", 1995).

use half::{bf16, f16};

use crate::ir::DataType;

/// An operation on two integers.
pub(super) type IntOp = fn(i128, i128) -> i128;
/// An operation on two floating-point numbers.
pub(super) type FloatOp = fn(f64, f64) -> f64;

/// What kind of number the elements of a type are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Integers, and booleans as 0 and 1.
    Int,
    /// Floating-point numbers.
    Float,
    /// Strings, complex numbers, types that are only moved.
    Other,
}

/// The kind of number that `dtype` holds.
pub(super) fn class(dtype: DataType) -> Class {
    use DataType::*;
    match dtype {
        Uint8 | Int8 | Uint16 | Int16 | Int32 | Int64 | Bool | Uint32 | Uint64 | Uint4 | Int4
        | Uint2 | Int2 => Class::Int,
        Float | Double | Float16 | Bfloat16 | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2
        | Float8e5m2fnuz | Float8e8m0 | Float4e2m1 => Class::Float,
        Undefined | String | Complex64 | Complex128 | Float6e2m3 | Float6e3m2 => Class::Other,
    }
}

/// Bytes an element takes in an [`Array`](super::Array), where those of less than a byte
/// take one each; `None` for strings and types that are not handled.
pub(super) fn width(dtype: DataType) -> Option<usize> {
    use DataType::*;
    match dtype {
        Undefined | String | Float6e2m3 | Float6e3m2 => None,
        _ => Some((dtype.bits() as usize).div_ceil(8)),
    }
}

/// The least and the greatest integer of `dtype`.
pub(super) fn int_range(dtype: DataType) -> (i128, i128) {
    use DataType::*;
    let bits = dtype.bits();
    match dtype {
        Bool => (0, 1),
        Uint8 | Uint16 | Uint32 | Uint64 | Uint4 | Uint2 => (0, (1 << bits) - 1),
        _ => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    }
}

/// The integer that `bytes`, one element, hold.
pub(super) fn int(dtype: DataType, bytes: &[u8]) -> i128 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    wrap(dtype, u64::from_le_bytes(wide).into())
}

/// `x` modulo 2 to the number of bits, as C converts it.
pub(super) fn wrap(dtype: DataType, x: i128) -> i128 {
    if dtype == DataType::Bool {
        return (x != 0).into();
    }
    let bits = dtype.bits() as u32;
    match int_range(dtype).0 {
        0 => x & ((1 << bits) - 1),
        _ => x << (128 - bits) >> (128 - bits),
    }
}

/// Appends `x`, wrapped, as an element of the integer type `dtype`.
pub(super) fn put_int(dtype: DataType, x: i128, out: &mut Vec<u8>) {
    let x = match dtype.bits() {
        // Alone in a byte, without a sign before it.
        bits @ 1..8 => x & ((1 << bits) - 1),
        _ => wrap(dtype, x),
    };
    out.extend_from_slice(&x.to_le_bytes()[..width(dtype).unwrap_or_default()]);
}

/// The number that `bytes`, one element of the floating-point type `dtype`, hold.
pub(super) fn float(dtype: DataType, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (DataType::Float, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (DataType::Double, &[a, b, c, d, e, f, g, h]) => {
            f64::from_le_bytes([a, b, c, d, e, f, g, h])
        }
        (DataType::Float16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (DataType::Bfloat16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (_, &[code]) => Small::of(dtype).map_or(f64::NAN, |small| small.decode(code)),
        _ => f64::NAN,
    }
}

/// `x` as the floating-point type `dtype` has it.
pub(super) fn rounded(dtype: DataType, x: f64) -> f64 {
    let mut bytes = Vec::new();
    put_float(dtype, x, &mut bytes);
    float(dtype, &bytes)
}

/// Appends `x`, rounded once to nearest even, as an element of the floating-point type
/// `dtype`. What is too large becomes infinity, or what [`Small::encode`] says.
pub(super) fn put_float(dtype: DataType, x: f64, out: &mut Vec<u8>) {
    match dtype {
        DataType::Float => out.extend_from_slice(&(x as f32).to_le_bytes()),
        DataType::Double => out.extend_from_slice(&x.to_le_bytes()),
        DataType::Float16 => out.extend_from_slice(&f16::from_f32(to_odd(x)).to_le_bytes()),
        DataType::Bfloat16 => out.extend_from_slice(&bf16::from_f32(to_odd(x)).to_le_bytes()),
        _ => {
            let code = Small::of(dtype).and_then(|small| small.encode(x, true));
            out.push(code.unwrap_or_default());
        }
    }
}

/// `x` as float, rounded so that rounding the result to half precision is as rounding `x`:
/// to the neighbour with an odd last bit, when it is between two (Boldo and Melquiond,
/// "When double rounding is odd", 2005).
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    match back.abs() > x.abs() {
        true => f32::from_bits(near.to_bits() - 1),
        false => f32::from_bits(near.to_bits() + 1),
    }
}

/// `x` as the nearest double, rounded as [`to_odd`] rounds, for a later rounding to a
/// narrower type.
pub(super) fn odd_double(x: i128) -> f64 {
    let near = x as f64;
    let back = near as i128;
    if back == x || near.to_bits() & 1 == 1 {
        return near;
    }
    match back.abs() > x.abs() {
        true => f64::from_bits(near.to_bits() - 1),
        false => f64::from_bits(near.to_bits() + 1),
    }
}

/// A floating-point type of a byte or less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    /// The code of the largest finite number.
    max: u8,
    nan: Option<u8>,
    infinity: Option<u8>,
    /// Minus zero is not a number here: its code means NaN.
    unsigned_zero: bool,
}

impl Small {
    /// The description of `dtype`; `None` for others and for float8e8m0, which is a power
    /// of two.
    pub(super) fn of(dtype: DataType) -> Option<Small> {
        let ieee_like = Small {
            exponent: 4,
            mantissa: 3,
            bias: 7,
            max: 0x7e,
            nan: Some(0x7f),
            infinity: None,
            unsigned_zero: false,
        };
        Some(match dtype {
            DataType::Float8e4m3fn => ieee_like,
            DataType::Float8e4m3fnuz => Small {
                bias: 8,
                max: 0x7f,
                nan: Some(0x80),
                unsigned_zero: true,
                ..ieee_like
            },
            DataType::Float8e5m2 => Small {
                exponent: 5,
                mantissa: 2,
                bias: 15,
                max: 0x7b,
                nan: Some(0x7f),
                infinity: Some(0x7c),
                ..ieee_like
            },
            DataType::Float8e5m2fnuz => Small {
                exponent: 5,
                mantissa: 2,
                bias: 16,
                max: 0x7f,
                nan: Some(0x80),
                unsigned_zero: true,
                ..ieee_like
            },
            DataType::Float4e2m1 => Small {
                exponent: 2,
                mantissa: 1,
                bias: 1,
                max: 7,
                nan: None,
                ..ieee_like
            },
            DataType::Float8e8m0 => Small {
                exponent: 8,
                mantissa: 0,
                bias: 127,
                max: 0xfe,
                nan: Some(0xff),
                ..ieee_like
            },
            _ => return None,
        })
    }

    fn is_power(&self) -> bool {
        self.mantissa == 0
    }

    fn sign_bit(&self) -> u8 {
        match self.is_power() {
            true => 0,
            false => 1 << (self.exponent + self.mantissa),
        }
    }

    /// The number with code `code`.
    pub(super) fn decode(&self, code: u8) -> f64 {
        if self.is_power() {
            return if code == 0xff {
                f64::NAN
            } else {
                power(i32::from(code) - 127)
            };
        }
        let magnitude = code & (self.sign_bit() - 1);
        let sign = if code & self.sign_bit() == 0 {
            1.0
        } else {
            -1.0
        };
        if self.unsigned_zero && code == 0x80 {
            return f64::NAN;
        }
        if magnitude > self.max {
            return if self.infinity == Some(magnitude) {
                sign * f64::INFINITY
            } else {
                f64::NAN
            };
        }
        let fraction = f64::from(magnitude & ((1 << self.mantissa) - 1));
        let exponent = i32::from(magnitude >> self.mantissa);
        let one = f64::from(1u32 << self.mantissa);
        sign * match exponent {
            0 => fraction / one * power(1 - self.bias),
            e => (1.0 + fraction / one) * power(e - self.bias),
        }
    }

    /// The code of `x`, rounded to nearest even; `None` when it has none. What is too large
    /// becomes the largest number when `saturate`, else infinity or NaN.
    pub(super) fn encode(&self, x: f64, saturate: bool) -> Option<u8> {
        if self.is_power() {
            return None;
        }
        if x.is_nan() {
            return self.nan;
        }
        let sign = if x.is_sign_negative() {
            self.sign_bit()
        } else {
            0
        };
        if x.is_infinite() && self.unsigned_zero {
            return match saturate {
                true => Some(sign | self.max),
                false => self.nan,
            };
        }
        let least = 1 - self.bias;
        let x = x.abs();
        let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(least);
        let quanta = (x / power(exponent - self.mantissa as i32)).round_ties_even();
        // Also right when rounding carries into the exponent.
        let code = (f64::from(exponent - least) * f64::from(1u32 << self.mantissa)) + quanta;
        if code > f64::from(self.max) {
            let beyond =
                self.infinity
                    .map(|i| i | sign)
                    .or(self.nan.map(|n| match self.unsigned_zero {
                        true => n,
                        false => n | sign,
                    }));
            return match saturate || self.nan.is_none() {
                true => Some(sign | self.max),
                false => beyond,
            };
        }
        match code as u8 {
            0 if self.unsigned_zero => Some(0),
            code => Some(sign | code),
        }
    }
}

/// 2 to the power of `e`, which is one of a normal double.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_small_floats_come_back() {
        use DataType::*;
        for dtype in [
            Float8e4m3fn,
            Float8e4m3fnuz,
            Float8e5m2,
            Float8e5m2fnuz,
            Float4e2m1,
        ] {
            let small = Small::of(dtype).unwrap();
            for code in 0..=(small.sign_bit() - 1) | small.sign_bit() {
                let x = small.decode(code);
                if x.is_nan() {
                    continue;
                }
                assert_eq!(small.encode(x, false), Some(code), "{dtype} {code:#x} {x}");
            }
        }
        let e4m3 = Small::of(Float8e4m3fn).unwrap();
        assert_eq!(e4m3.decode(0x7e), 448.0);
        assert_eq!(e4m3.encode(1e9, true), Some(0x7e));
        assert_eq!(e4m3.encode(-1e9, false), Some(0xff));
        assert_eq!(Small::of(Float4e2m1).unwrap().decode(7), 6.0);
    }

    #[test]
    fn half_is_rounded_once() {
        // Just above the middle of two halves: through float it would become the middle, and
        // then the even one below.
        let x = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let mut out = Vec::new();
        put_float(DataType::Float16, x, &mut out);
        assert_eq!(float(DataType::Float16, &out), 1.0 + 2f64.powi(-10));
        out.clear();
        put_float(DataType::Float16, 1e9, &mut out);
        assert_eq!(float(DataType::Float16, &out), f64::INFINITY);
        for x in [(1 << 62) + (1 << 9) - 1, -(1i128 << 62) - 513, 3, 0] {
            assert_eq!(odd_double(x).is_sign_negative(), x < 0);
            assert!((odd_double(x) as i128 - x).abs() < 1024);
        }
    }

    #[test]
    fn integers_wrap() {
        assert_eq!(wrap(DataType::Int8, 200), -56);
        assert_eq!(wrap(DataType::Uint64, -1), u64::MAX.into());
        assert_eq!(wrap(DataType::Int4, 9), -7);
        assert_eq!(wrap(DataType::Bool, 7), 1);
        assert_eq!(
            int(DataType::Int64, &i64::MIN.to_le_bytes()),
            i64::MIN.into()
        );
        let mut out = Vec::new();
        put_int(DataType::Int4, -1, &mut out);
        put_int(DataType::Int2, -2, &mut out);
        assert_eq!(out, [0xf, 2]);
    }
}
