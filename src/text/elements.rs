//! The elements of constants, as text and as bytes.

use std::fmt::{self, Write};

use half::{bf16, f16};

use super::{
    cursor::{Cursor, Literal},
    ramp,
};
use crate::{
    error::Result,
    ir::{Data, DataType, Elements, element_count},
};

/// A filler may have this many elements: enough for any test, and a text of a few bytes
/// cannot ask for all memory.
const MAX_RAMP: u64 = 1 << 24;

const NAN32: u32 = 0x7fc0_0000;
const NAN64: u64 = 0x7ff8_0000_0000_0000;
const SIGN32: u32 = 1 << 31;
const SIGN64: u64 = 1 << 63;

/// Writes a float so that it reads back to the same bits; with `extensions` NaNs too.
pub(super) fn write_f32(out: &mut dyn Write, value: f32, extensions: bool) -> fmt::Result {
    match value.to_bits() {
        _ if !value.is_nan() => write!(out, "{value:?}"),
        bits if extensions && bits & !SIGN32 != NAN32 => write!(out, "nan({bits:#010x})"),
        bits => out.write_str(if bits & SIGN32 != 0 { "-nan" } else { "nan" }),
    }
}

fn write_f64(out: &mut dyn Write, value: f64, extensions: bool) -> fmt::Result {
    match value.to_bits() {
        _ if !value.is_nan() => write!(out, "{value:?}"),
        bits if extensions && bits & !SIGN64 != NAN64 => write!(out, "nan({bits:#018x})"),
        bits => out.write_str(if bits & SIGN64 != 0 { "-nan" } else { "nan" }),
    }
}

/// Writes a 16-bit float as the shortest decimal that `from` rounds to the same bits.
fn write_half(out: &mut dyn Write, bits: u16, exact: f64, from: fn(f64) -> u16) -> fmt::Result {
    const SIGN: u16 = 1 << 15;
    if exact.is_nan() {
        return match bits {
            _ if bits == from(f64::NAN.copysign(1.0)) => out.write_str("nan"),
            _ if bits == from(f64::NAN.copysign(1.0)) | SIGN => out.write_str("-nan"),
            _ => write!(out, "{bits}"),
        };
    }
    // Five digits tell all 16-bit floats apart.
    let rounded = (0..5)
        .filter_map(|digits| format!("{exact:.digits$e}").parse().ok())
        .find(|&v: &f64| from(v) == bits);
    write!(out, "{:?}", rounded.unwrap_or(exact))
}

fn f16_bits(value: f64) -> u16 {
    f16::from_f64(value).to_bits()
}

fn bf16_bits(value: f64) -> u16 {
    bf16::from_f64(value).to_bits()
}

/// Writes the `count` elements that `bytes` holds, separated by commas.
pub(super) fn write(
    out: &mut dyn Write,
    dtype: DataType,
    count: u64,
    bytes: &[u8],
    extensions: bool,
) -> fmt::Result {
    use DataType::*;
    match dtype {
        Float | Complex64 => each(out, bytes, |out, b| {
            write_f32(out, f32::from_le_bytes(b), extensions)
        }),
        Double | Complex128 => each(out, bytes, |out, b| {
            write_f64(out, f64::from_le_bytes(b), extensions)
        }),
        Float16 if extensions => each(out, bytes, |out, b| {
            let value = f16::from_le_bytes(b);
            write_half(out, value.to_bits(), value.to_f64(), f16_bits)
        }),
        Bfloat16 if extensions => each(out, bytes, |out, b| {
            let value = bf16::from_le_bytes(b);
            write_half(out, value.to_bits(), value.to_f64(), bf16_bits)
        }),
        Int64 => each(out, bytes, |out, b| {
            write!(out, "{}", i64::from_le_bytes(b))
        }),
        Int32 => each(out, bytes, |out, b| {
            write!(out, "{}", i32::from_le_bytes(b))
        }),
        Int16 => each(out, bytes, |out, b| {
            write!(out, "{}", i16::from_le_bytes(b))
        }),
        Int8 => each(out, bytes, |out, b| write!(out, "{}", i8::from_le_bytes(b))),
        Uint64 => each(out, bytes, |out, b| {
            write!(out, "{}", u64::from_le_bytes(b))
        }),
        Uint32 => each(out, bytes, |out, b| {
            write!(out, "{}", u32::from_le_bytes(b))
        }),
        Uint16 | Float16 | Bfloat16 => each(out, bytes, |out, b| {
            write!(out, "{}", u16::from_le_bytes(b))
        }),
        _ if (1..8).contains(&dtype.bits()) && (extensions || !packs_bytes(dtype)) => {
            match unpack(dtype, count, bytes) {
                Some(elements) => {
                    for (i, element) in elements.iter().enumerate() {
                        write!(out, "{}{element}", if i == 0 { "" } else { "," })?;
                    }
                    Ok(())
                }
                None => each(out, bytes, |out, [b]: [u8; 1]| write!(out, "{b}")),
            }
        }
        _ => each(out, bytes, |out, [b]: [u8; 1]| write!(out, "{b}")),
    }
}

fn each<const N: usize>(
    out: &mut dyn Write,
    bytes: &[u8],
    mut item: impl FnMut(&mut dyn Write, [u8; N]) -> fmt::Result,
) -> fmt::Result {
    for (i, chunk) in bytes.as_chunks::<N>().0.iter().enumerate() {
        if i > 0 {
            out.write_str(",")?;
        }
        item(out, *chunk)?;
    }
    Ok(())
}

/// Whether ONNX's text has one integer for each packed byte of `dtype`, not for each element.
fn packs_bytes(dtype: DataType) -> bool {
    matches!(dtype.bits(), 2 | 4)
}

/// The elements of a type below a byte, first bits first; `None` when a bit after the
/// last one is set, which only the packed bytes can say. (For 6 bits the text has no packed
/// bytes; bits after the last element are not kept.)
fn unpack(dtype: DataType, count: u64, bytes: &[u8]) -> Option<Vec<i8>> {
    let bits = dtype.bits();
    let bit = |at: u64| {
        let byte = bytes.get((at / 8) as usize).copied().unwrap_or(0);
        byte >> (at % 8) & 1
    };
    let element = |i: u64| {
        let code = (0..bits).fold(0, |code, n| code | bit(i * bits + n) << n);
        let unused = 8 - bits as u32;
        match is_signed(dtype) {
            true => ((code << unused) as i8) >> unused,
            false => code as i8,
        }
    };
    let padding = (count * bits)..bytes.len() as u64 * 8;
    let clear = padding.into_iter().all(|at| bit(at) == 0);
    (clear || !packs_bytes(dtype)).then(|| (0..count).map(element).collect())
}

fn is_signed(dtype: DataType) -> bool {
    use DataType::*;
    matches!(dtype, Int2 | Int4 | Int8 | Int16 | Int32 | Int64)
}

/// Reads the elements in braces of a constant of `dtype` and extents `dims`.
pub(super) fn read(c: &mut Cursor<'_>, dtype: DataType, dims: &[i64]) -> Result<Elements> {
    let start = c.place();
    let Some(count) = element_count(dims).filter(|n| dtype.byte_len(*n).is_some()) else {
        return Err(c.error_at(
            start,
            format!("shape {dims:?} has a negative extent or is too large"),
        ));
    };
    if c.peek() == Some(b'[') {
        return Err(c.error("data in side files cannot be read from text"));
    }
    c.expect("{")?;
    if c.eat("...") {
        return Err(c.error_at(
            start,
            "these elements were left out when the text was printed; print without elision",
        ));
    }
    let check = |c: &Cursor<'_>, found: usize, expected: u64| match found as u64 == expected {
        true => Ok(()),
        false => Err(c.error_at(
            start,
            format!("{found} elements, but {dtype} with shape {dims:?} needs {expected}"),
        )),
    };
    if dtype == DataType::String {
        let mut strings = Vec::new();
        c.list("}", |c| {
            strings.push(c.bytes()?.into());
            Ok(())
        })?;
        check(c, strings.len(), count)?;
        return Ok(Elements::Strings(strings));
    }
    let bytes = if c.peek_identifier() == Some("ramp") {
        let bytes = read_ramp(c, dtype, count)?;
        c.expect("}")?;
        bytes
    } else if dtype == DataType::Undefined {
        c.expect("}")?;
        Vec::new()
    } else if dtype.bits() < 8 {
        let mut values = Vec::new();
        c.list("}", |c| {
            let place = c.place();
            values.push((place, c.int()?));
            Ok(())
        })?;
        read_packed(c, dtype, count, &values, check)?
    } else {
        let mut bytes = Vec::new();
        let mut found = 0;
        c.list("}", |c| {
            found += 1;
            read_element(c, dtype, &mut bytes)
        })?;
        let complex = matches!(dtype, DataType::Complex64 | DataType::Complex128);
        check(c, found, if complex { 2 * count } else { count })?;
        bytes
    };
    Ok(Elements::Data(Data::Bytes(bytes.into())))
}

fn read_ramp(c: &mut Cursor<'_>, dtype: DataType, count: u64) -> Result<Vec<u8>> {
    let start = c.place();
    c.identifier("`ramp`")?;
    c.expect("(")?;
    let place = c.place();
    let seed = u64::try_from(c.int()?).unwrap_or(u64::MAX);
    c.expect(")")?;
    if seed >= ramp::SEEDS {
        let last = ramp::SEEDS - 1;
        return Err(c.error_at(place, format!("expected a seed from 0 to {last}")));
    }
    if !ramp::has_ramp(dtype) {
        return Err(c.error_at(start, format!("`ramp` does not make {dtype} elements")));
    }
    if count > MAX_RAMP {
        let message = format!("`ramp` makes at most {MAX_RAMP} elements, not {count}");
        return Err(c.error_at(start, message));
    }
    Ok(ramp::fill(dtype, seed, count))
}

/// Elements of a type below a byte: one integer each, or one for each packed byte.
fn read_packed(
    c: &Cursor<'_>,
    dtype: DataType,
    count: u64,
    values: &[(usize, i64)],
    check: impl Fn(&Cursor<'_>, usize, u64) -> Result<()>,
) -> Result<Vec<u8>> {
    let packed = dtype.byte_len(count).unwrap_or(0);
    let bits = dtype.bits();
    let outside = |place, value: i64, range: &str| {
        Err(c.error_at(place, format!("{value} is outside of {range}")))
    };
    let is_byte = |v: &(usize, i64)| (0..256).contains(&v.1);
    // One element and its byte are the same number, unless the padding is set.
    let one = count == 1 && values.iter().all(is_byte);
    if packs_bytes(dtype) && values.len() as u64 == packed && (packed != count || one) {
        let mut bytes = Vec::new();
        for &(place, value) in values {
            match u8::try_from(value) {
                Ok(byte) => bytes.push(byte),
                Err(_) => return outside(place, value, "0..=255, a packed byte"),
            }
        }
        return Ok(bytes);
    }
    check(c, values.len(), count)?;
    let range = match is_signed(dtype) {
        true => -(1i64 << (bits - 1))..=(1i64 << (bits - 1)) - 1,
        false => 0..=(1i64 << bits) - 1,
    };
    let mut bytes = vec![0; packed as usize];
    for (i, &(place, value)) in values.iter().enumerate() {
        if !range.contains(&value) {
            return outside(place, value, &format!("{range:?}, the range of {dtype}"));
        }
        for n in 0..bits {
            let at = i as u64 * bits + n;
            bytes[(at / 8) as usize] |= ((value >> n & 1) as u8) << (at % 8);
        }
    }
    Ok(bytes)
}

fn read_element(c: &mut Cursor<'_>, dtype: DataType, out: &mut Vec<u8>) -> Result<()> {
    use DataType::*;
    let place = c.place();
    match dtype {
        Float | Complex64 => out.extend(read_f32(c)?.to_le_bytes()),
        Double | Complex128 => out.extend(read_f64(c)?.to_le_bytes()),
        Float16 | Bfloat16 => {
            let from = if dtype == Float16 {
                f16_bits
            } else {
                bf16_bits
            };
            let bits = match c.literal()? {
                Literal::Int(text) => text.parse().map_err(|_| {
                    let what = "is no 16-bit pattern; a decimal has a point or an exponent";
                    c.error_at(place, format!("`{text}` {what}"))
                })?,
                Literal::Float(text) => {
                    let bits = from(finite_or_written(c, place, text)?);
                    let infinite = bits & 0x7fff == from(f64::INFINITY);
                    if infinite && text.contains(|d: char| d.is_ascii_digit()) {
                        return Err(c.error_at(place, format!("`{text}` is too large for {dtype}")));
                    }
                    bits
                }
                Literal::Nan {
                    negative,
                    bits: None,
                } => from(f64::NAN.copysign(1.0)) | u16::from(negative) << 15,
                Literal::Nan { .. } => {
                    return Err(c.error_at(place, "expected the 16 bits as an integer"));
                }
            };
            out.extend(bits.to_le_bytes());
        }
        _ => {
            let Literal::Int(text) = c.literal()? else {
                return Err(c.error_at(place, format!("expected an integer, for {dtype}")));
            };
            let bits = dtype.bits() as u32;
            let (low, high) = match is_signed(dtype) {
                _ if bits == 0 => (1, 0),
                true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                false => (0, (1i128 << bits) - 1),
            };
            match text.parse::<i128>() {
                Ok(value) if (low..=high).contains(&value) => {
                    out.extend(&value.to_le_bytes()[..bits as usize / 8]);
                }
                _ => return Err(c.error_at(place, format!("`{text}` is no {dtype}"))),
            }
        }
    }
    Ok(())
}

/// Reads a float.
pub(super) fn read_f32(c: &mut Cursor<'_>) -> Result<f32> {
    let place = c.place();
    let literal = c.literal()?;
    f32_of(c, place, &literal)
}

/// The float that `literal`, read at `place`, stands for.
pub(super) fn f32_of(c: &Cursor<'_>, place: usize, literal: &Literal<'_>) -> Result<f32> {
    match *literal {
        Literal::Int(text) | Literal::Float(text) => {
            let value: f32 = finite_or_written(c, place, text)?;
            Ok(value)
        }
        Literal::Nan { negative, bits } => {
            let bits = match bits {
                None => Some(NAN32 | if negative { SIGN32 } else { 0 }),
                Some(bits) => u32::try_from(bits).ok(),
            };
            let nan = bits.map(f32::from_bits).filter(|v| v.is_nan());
            nan.ok_or_else(|| c.error_at(place, "these are not the 32 bits of a NaN"))
        }
    }
}

fn read_f64(c: &mut Cursor<'_>) -> Result<f64> {
    let place = c.place();
    match c.literal()? {
        Literal::Int(text) | Literal::Float(text) => finite_or_written(c, place, text),
        Literal::Nan { negative, bits } => {
            let default = NAN64 | if negative { SIGN64 } else { 0 };
            let nan = f64::from_bits(bits.unwrap_or(default));
            match nan.is_nan() {
                true => Ok(nan),
                false => Err(c.error_at(place, "these are not the 64 bits of a NaN")),
            }
        }
    }
}

/// The value of `text`; infinite only if that is what it says.
fn finite_or_written<T>(c: &Cursor<'_>, place: usize, text: &str) -> Result<T>
where
    T: std::str::FromStr + Copy + Into<f64>,
{
    let value: Option<T> = text.parse().ok();
    let written = !text.contains(|d: char| d.is_ascii_digit());
    value
        .filter(|&v| v.into().is_finite() || written)
        .ok_or_else(|| c.error_at(place, format!("`{text}` is too large for its type")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(dtype: DataType, count: u64, bytes: &[u8]) -> String {
        let mut out = String::new();
        write(&mut out, dtype, count, bytes, true).unwrap();
        out
    }

    fn bytes_of(text: &str, dtype: DataType, count: i64) -> Vec<u8> {
        let text = format!("{{{text}}}");
        match read(&mut Cursor::new(&text), dtype, &[count]) {
            Ok(Elements::Data(data)) => data.read_all().unwrap().to_vec(),
            Ok(_) => panic!("expected bytes"),
            Err(e) => panic!("{text}: {}", e.chain()),
        }
    }

    #[test]
    fn every_sixteen_bit_float_reads_back() {
        for dtype in [DataType::Float16, DataType::Bfloat16] {
            let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let text = printed(dtype, 1 << 16, &all);
            assert_eq!(bytes_of(&text, dtype, 1 << 16), all, "{dtype}");
        }
        let some = [
            0x3c00u16, 0x2e66, 0x7bff, 0x0001, 0x8000, 0xfc00, 0x7e00, 0x7e01,
        ];
        let bytes: Vec<u8> = some.iter().flat_map(|b| b.to_le_bytes()).collect();
        assert_eq!(
            printed(DataType::Float16, 8, &bytes),
            "1.0,0.1,65500.0,6e-8,-0.0,-inf,nan,32257"
        );
    }

    #[test]
    fn types_below_a_byte_are_read_in_both_forms() {
        use DataType::*;
        assert_eq!(printed(Int4, 3, &[0x8f, 0x07]), "-1,-8,7");
        assert_eq!(bytes_of("-1,-8,7", Int4, 3), [0x8f, 0x07]);
        assert_eq!(bytes_of("143,7", Int4, 3), [0x8f, 0x07]);
        // Padding that is not zero can only be said as bytes.
        assert_eq!(printed(Uint4, 3, &[0x8f, 0x17]), "143,23");
        assert_eq!(printed(Uint4, 1, &[0x17]), "23");
        assert_eq!(bytes_of("23", Uint4, 1), [0x17]);
        assert_eq!(bytes_of("-3", Int4, 1), [0x0d]);
        assert_eq!(printed(Int2, 5, &[0b11_10_01_00, 0b01]), "0,1,-2,-1,1");
        assert_eq!(bytes_of("0,1,-2,-1,1", Int2, 5), [0b11_10_01_00, 0b01]);
        assert_eq!(bytes_of("228,1", Int2, 5), [0b11_10_01_00, 0b01]);
    }

    #[test]
    fn elements_that_do_not_fit_are_errors() {
        use DataType::*;
        let cases = [
            (Int8, "128", "1:2: `128` is no int8"),
            (Uint64, "-1", "1:2: `-1` is no uint64"),
            (Float, "1e99", "1:2: `1e99` is too large for its type"),
            (
                Float16,
                "70000.0",
                "1:2: `70000.0` is too large for float16",
            ),
            (
                Float16,
                "70000",
                "1:2: `70000` is no 16-bit pattern; a decimal has a point or an exponent",
            ),
            (
                Float,
                "nan(0x7f800000)",
                "1:2: these are not the 32 bits of a NaN",
            ),
            (
                Uint4,
                "16,1",
                "1:2: 16 is outside of 0..=15, the range of uint4",
            ),
            (
                Float,
                "1,2",
                "1:1: 2 elements, but float with shape [1] needs 1",
            ),
            (Bool, "ramp(1)", "1:2: `ramp` does not make bool elements"),
            (Float, "ramp(251)", "1:7: expected a seed from 0 to 250"),
        ];
        for (dtype, text, expected) in cases {
            let count = if dtype == Uint4 { 2 } else { 1 };
            let text = format!("{{{text}}}");
            let error = read(&mut Cursor::new(&text), dtype, &[count]).unwrap_err();
            assert_eq!(error.chain(), expected, "{text}");
        }
    }
}
