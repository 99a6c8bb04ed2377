//! Conversions between element types.

use std::str;

use bytes::Bytes;

use super::{
    Array, Result, Unfolded,
    args::Args,
    array::Builder,
    elementwise::no_type,
    number::{Class, Small, class, int_range, odd_double, width, wrap},
};
use crate::ir::DataType;

/// How numbers that the target has not are converted.
#[derive(Clone, Copy)]
struct Rules<'a> {
    saturate: bool,
    round_mode: &'a str,
}

/// `Cast`.
pub(super) fn cast(args: &Args<'_>) -> Result<Array> {
    let to = args
        .dtype("to")?
        .ok_or_else(|| Unfolded::invalid("no `to`"))?;
    convert(args.tensor(0)?, to, rules(args)?)
}

/// `CastLike`.
pub(super) fn cast_like(args: &Args<'_>) -> Result<Array> {
    convert(args.tensor(0)?, args.tensor(1)?.dtype(), rules(args)?)
}

fn rules<'a>(args: &Args<'a>) -> Result<Rules<'a>> {
    Ok(Rules {
        saturate: args.int("saturate", 1)? != 0,
        round_mode: args.text("round_mode", "up")?,
    })
}

/// `BitCast`: the same bits as elements of a type as wide.
pub(super) fn bit_cast(args: &Args<'_>) -> Result<Array> {
    let to = args
        .dtype("to")?
        .ok_or_else(|| Unfolded::invalid("no `to`"))?;
    let a = args.tensor(0)?;
    let fits = a.dtype().bits() == to.bits() && width(a.dtype()).is_some() && width(to).is_some();
    match fits {
        true if to != DataType::Bool => Ok(a.with_dtype(to)),
        true => Err(no_type(to)),
        false => Err(Unfolded::invalid("types of different widths")),
    }
}

/// `a` as elements of `to`.
pub(super) fn to(a: &Array, to: DataType) -> Result<Array> {
    let rules = Rules {
        saturate: true,
        round_mode: "up",
    };
    convert(a, to, rules)
}

fn convert(a: &Array, to: DataType, rules: Rules<'_>) -> Result<Array> {
    if a.dtype() == to {
        return Ok(a.clone());
    }
    if a.dtype() == DataType::String {
        return from_strings(a, to);
    }
    if to == DataType::String {
        return to_strings(a);
    }
    let mut out = Builder::new(to, a.dims().to_vec())?;
    for i in 0..a.len() {
        match (a.class(), class(to)) {
            (Class::Int, Class::Int) => out.int(a.int(i)),
            (Class::Int, Class::Float) => put(&mut out, to, odd_double(a.int(i)), rules)?,
            (Class::Float, Class::Int) => out.int(integer(a.float(i), to)?),
            (Class::Float, Class::Float) => put(&mut out, to, a.float(i), rules)?,
            _ => {
                return Err(no_type(if a.class() == Class::Other {
                    a.dtype()
                } else {
                    to
                }));
            }
        }
    }
    Ok(out.finish())
}

/// Appends `x` as an element of the floating-point type `to`.
fn put(out: &mut Builder, to: DataType, x: f64, rules: Rules<'_>) -> Result<()> {
    if to == DataType::Float8e8m0 {
        out.code(exponent(x, rules)?);
        return Ok(());
    }
    match Small::of(to) {
        None => out.float(x),
        Some(small) => out.code(
            small
                .encode(x, rules.saturate)
                .ok_or_else(|| Unfolded::Invalid(format!("{x} has no counterpart in {to}")))?,
        ),
    }
    Ok(())
}

/// The code of `x` in float8e8m0: an exponent.
fn exponent(x: f64, rules: Rules<'_>) -> Result<u8> {
    const NAN: u8 = 0xff;
    if x.is_nan() {
        return Ok(NAN);
    }
    if x == 0.0 {
        // The least number there is.
        return Ok(0);
    }
    if x < 0.0 || x.is_infinite() {
        return Err(Unfolded::Unsupported(format!("{x} as float8e8m0")));
    }
    let bits = x.to_bits();
    let below = (bits >> 52) as i64 - 1023 + 127;
    let fraction = bits & ((1 << 52) - 1);
    let up = match rules.round_mode {
        "up" => fraction != 0,
        "down" => false,
        "nearest" => fraction >= 1 << 51,
        other => return Err(Unfolded::Invalid(format!("rounding `{other}`"))),
    };
    match below + i64::from(up) {
        code if code > 254 && !rules.saturate => Ok(NAN),
        code => Ok(code.clamp(0, 254) as u8),
    }
}

/// `x` toward zero. What has no counterpart is not defined by the standard.
fn integer(x: f64, to: DataType) -> Result<i128> {
    if to == DataType::Bool {
        return Ok((x != 0.0).into());
    }
    let (least, most) = int_range(to);
    let whole = x.trunc();
    if to.bits() < 8 && whole.abs() < 2f64.powi(63) {
        // By the standard's own vectors, as integers are.
        return Ok(wrap(to, whole as i128));
    }
    // The bounds are powers of two, or one less: the comparison is exact.
    if whole >= least as f64 && whole < (most + 1) as f64 {
        return Ok(whole as i128);
    }
    Err(Unfolded::Invalid(format!("{x} has no counterpart in {to}")))
}

fn from_strings(a: &Array, to: DataType) -> Result<Array> {
    let mut out = Builder::new(to, a.dims().to_vec())?;
    for text in a.strings() {
        let no_number = || Unfolded::Invalid(format!("`{}` is no {to}", text.escape_ascii()));
        let text = str::from_utf8(text).map_err(|_| no_number())?.trim();
        match class(to) {
            Class::Int => {
                let x = text.parse().map_err(|_| no_number())?;
                let (least, most) = int_range(to);
                if to == DataType::Bool || x < least || x > most {
                    return Err(no_number());
                }
                out.int(x);
            }
            // A second rounding would change few numbers, and these only in the narrow types.
            Class::Float if matches!(to, DataType::Float | DataType::Double) => {
                out.float(match to {
                    DataType::Float => text.parse::<f32>().map_err(|_| no_number())?.into(),
                    _ => text.parse().map_err(|_| no_number())?,
                });
            }
            _ => return Err(no_type(to)),
        }
    }
    Ok(out.finish())
}

/// Integers as decimal numbers. How a floating-point number is written is left open.
fn to_strings(a: &Array) -> Result<Array> {
    if a.class() != Class::Int || a.dtype() == DataType::Bool {
        return Err(Unfolded::Unsupported(format!("{} as strings", a.dtype())));
    }
    Builder::new(DataType::String, a.dims().to_vec())?;
    let text = |i| Bytes::from(a.int(i).to_string());
    Ok(Array::of_strings(
        a.dims().to_vec(),
        (0..a.len()).map(text).collect(),
    ))
}
