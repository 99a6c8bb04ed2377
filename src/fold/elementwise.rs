//! Operators that work on one element of each operand at a time, with broadcasting.

use super::{
    Array, Result, Unfolded,
    args::Args,
    array::{Builder, Places, pick, strides},
    number::{Class, int_range},
};
use crate::ir::DataType;

/// The extents that arrays of extents `all` are broadcast to.
pub(super) fn broadcast_dims(all: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for dims in all {
        for (o, &d) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            match (*o, d) {
                (_, 1) => {}
                (1, _) => *o = d,
                (o, d) if o == d => {}
                (o, d) => {
                    return Err(Unfolded::Invalid(format!(
                        "extents {o} and {d} do not agree"
                    )));
                }
            }
        }
    }
    Ok(out)
}

/// Strides of an array of extents `dims` when it is read as one of extents `to`.
pub(super) fn broadcast_strides(dims: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(dims);
    let stride = |(&d, s)| if d == 1 { 0 } else { s };
    let lead = std::iter::repeat_n(0, to.len() - dims.len());
    lead.chain(dims.iter().zip(own).map(stride)).collect()
}

/// `a`, element by element.
pub(super) fn map(args: &Args<'_>, int: fn(i128) -> i128, float: fn(f64) -> f64) -> Result<Array> {
    let a = args.tensor(0)?;
    let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
    match a.class() {
        Class::Int => (0..a.len()).for_each(|i| out.int(int(a.int(i)))),
        Class::Float => (0..a.len()).for_each(|i| out.float(float(a.float(i)))),
        Class::Other => return Err(no_type(a.dtype())),
    }
    Ok(out.finish())
}

/// `float` of every element of a floating-point tensor.
pub(super) fn float(args: &Args<'_>, float: impl Fn(f64) -> f64) -> Result<Array> {
    let a = floats(args, 0)?;
    let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
    (0..a.len()).for_each(|i| out.float(float(a.float(i))));
    Ok(out.finish())
}

/// Operand `i`, floating-point numbers.
pub(super) fn floats<'a>(args: &Args<'a>, i: usize) -> Result<&'a Array> {
    let a = args.tensor(i)?;
    match a.class() {
        Class::Float => Ok(a),
        _ => Err(no_type(a.dtype())),
    }
}

/// Whether `test` holds of every element of a floating-point tensor.
pub(super) fn test(args: &Args<'_>, test: impl Fn(f64) -> bool) -> Result<Array> {
    let a = floats(args, 0)?;
    let mut out = Builder::new(DataType::Bool, a.dims().to_vec())?;
    (0..a.len()).for_each(|i| out.int(test(a.float(i)).into()));
    Ok(out.finish())
}

pub(super) fn no_type(dtype: DataType) -> Unfolded {
    Unfolded::Unsupported(format!("elements of type {dtype}"))
}

/// Both operands of a binary operator, of one type unless `mixed`.
fn pair(args: &Args<'_>, mixed: bool) -> Result<(Array, Array)> {
    let (a, mut b) = (args.tensor(0)?.clone(), args.tensor(1)?.clone());
    if a.dtype() != b.dtype() && !mixed {
        let what = format!("operands of types {} and {}", a.dtype(), b.dtype());
        return Err(Unfolded::Invalid(what));
    }
    if args.opset < 7 && a.dims() != b.dims() {
        // Broadcasting was asked for, and began at an axis of the first operand.
        if args.int("broadcast", 0)? == 0 || b.rank() > a.rank() {
            return Err(Unfolded::invalid("operands of different shapes"));
        }
        let first = args.int("axis", (a.rank() - b.rank()) as i64)?;
        let after = a.rank() as i64 - first - b.rank() as i64;
        let after = usize::try_from(after).map_err(|_| Unfolded::invalid("`axis` too large"))?;
        let ones = std::iter::repeat_n(1, after);
        let dims = b.dims().iter().copied().chain(ones).collect();
        b = b.with_dims(dims);
    }
    Ok((a, b))
}

/// A binary operator on numbers of one type.
pub(super) fn binary(
    args: &Args<'_>,
    int: fn(i128, i128) -> Result<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Array> {
    let (a, b) = pair(args, false)?;
    fold_pair(&a, &b, int, float)
}

fn fold_pair(
    a: &Array,
    b: &Array,
    int: fn(i128, i128) -> Result<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Array> {
    let class = a.class();
    if class == Class::Other {
        return Err(no_type(a.dtype()));
    }
    zip(a, b, a.dtype(), |i, j, out| {
        match class {
            Class::Int => out.int(int(a.int(i), b.int(j))?),
            _ => out.float(float(a.float(i), b.float(j))),
        }
        Ok(())
    })
}

/// Calls `each` with the places of every pair of elements.
fn zip(
    a: &Array,
    b: &Array,
    dtype: DataType,
    mut each: impl FnMut(usize, usize, &mut Builder) -> Result<()>,
) -> Result<Array> {
    let dims = broadcast_dims(&[a.dims(), b.dims()])?;
    let mut out = Builder::new(dtype, dims.clone())?;
    let [s, t] = [a, b].map(|x| broadcast_strides(x.dims(), &dims));
    for [i, j] in Places::new(&dims, [s, t])? {
        each(i, j, &mut out)?;
    }
    Ok(out.finish())
}

/// A binary operator on integers or booleans of one type.
pub(super) fn binary_int(args: &Args<'_>, int: fn(i128, i128) -> Result<i128>) -> Result<Array> {
    let (a, b) = pair(args, false)?;
    match a.class() {
        Class::Int => fold_pair(&a, &b, int, |x, _| x),
        _ => Err(no_type(a.dtype())),
    }
}

/// A comparison.
pub(super) fn compare(
    args: &Args<'_>,
    int: fn(&i128, &i128) -> bool,
    float: fn(&f64, &f64) -> bool,
) -> Result<Array> {
    let (a, b) = pair(args, false)?;
    let class = a.class();
    if class == Class::Other {
        return Err(no_type(a.dtype()));
    }
    zip(&a, &b, DataType::Bool, |i, j, out| {
        let holds = match class {
            Class::Int => int(&a.int(i), &b.int(j)),
            _ => float(&a.float(i), &b.float(j)),
        };
        out.int(holds.into());
        Ok(())
    })
}

/// `Equal`, also of strings.
pub(super) fn equal(args: &Args<'_>) -> Result<Array> {
    let (a, b) = pair(args, false)?;
    if a.dtype() != DataType::String {
        return compare(args, i128::eq, f64::eq);
    }
    zip(&a, &b, DataType::Bool, |i, j, out| {
        out.int(a.same_bytes(i, &b, j).into());
        Ok(())
    })
}

/// Folds any number of operands from the left.
pub(super) fn variadic(
    args: &Args<'_>,
    int: fn(i128, i128) -> Result<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Array> {
    let (first, rest) = operands(args)?;
    rest.iter().try_fold(first.clone(), |sum, next| {
        if next.dtype() != sum.dtype() {
            return Err(Unfolded::invalid("operands of different types"));
        }
        fold_pair(&sum, next, int, float)
    })
}

fn operands<'a>(args: &Args<'a>) -> Result<(&'a Array, Vec<&'a Array>)> {
    let mut all = args.tensors()?;
    if all.is_empty() {
        return Err(Unfolded::invalid("no operand"));
    }
    let first = all.remove(0);
    Ok((first, all))
}

/// `Mean` of any number of operands, rounded once.
pub(super) fn mean(args: &Args<'_>) -> Result<Array> {
    let (first, rest) = operands(args)?;
    floats(args, 0)?;
    // In double, so that only the result is rounded.
    let wide = |a: &Array| super::cast::to(a, DataType::Double);
    let mut sum = wide(first)?;
    for next in &rest {
        sum = fold_pair(&sum, &wide(next)?, |x, _| Ok(x), |x, y| x + y)?;
    }
    let n = (rest.len() + 1) as f64;
    let mut out = Builder::new(first.dtype(), sum.dims().to_vec())?;
    (0..sum.len()).for_each(|i| out.float(sum.float(i) / n));
    Ok(out.finish())
}

/// Integer division, which truncates toward zero.
pub(super) fn divide(x: i128, y: i128) -> Result<i128> {
    match y {
        0 => Err(Unfolded::invalid("division by zero")),
        y => Ok(x / y),
    }
}

/// `Div`. The most negative integer divided by -1 has no result.
pub(super) fn div(args: &Args<'_>) -> Result<Array> {
    let (a, b) = pair(args, false)?;
    if a.class() != Class::Int {
        return fold_pair(&a, &b, divide, |x, y| x / y);
    }
    let (least, most) = int_range(a.dtype());
    zip(&a, &b, a.dtype(), |i, j, out| {
        match divide(a.int(i), b.int(j))? {
            x if x < least || x > most => Err(Unfolded::invalid("division overflows")),
            x => {
                out.int(x);
                Ok(())
            }
        }
    })
}

/// `Mod`: the sign of the result is that of the divisor, or with `fmod` of the dividend.
pub(super) fn modulo(args: &Args<'_>) -> Result<Array> {
    fn remainder(x: i128, y: i128) -> Result<i128> {
        let by_zero = || Unfolded::invalid("division by zero");
        x.checked_rem(y).ok_or_else(by_zero)
    }
    if args.int("fmod", 0)? != 0 {
        return binary(args, remainder, |x, y| x % y);
    }
    if args.tensor(0)?.class() == Class::Float && args.opset < 28 {
        return Err(Unfolded::invalid("`fmod` is 0 for floating-point numbers"));
    }
    let of_divisor = |x: f64, y: f64| match x % y {
        0.0 => 0f64.copysign(y),
        r if (r < 0.0) != (y < 0.0) => r + y,
        r => r,
    };
    binary(args, |x, y| remainder(remainder(x, y)? + y, y), of_divisor)
}

/// `Pow`: of the type of the base.
pub(super) fn pow(args: &Args<'_>) -> Result<Array> {
    let (a, b) = pair(args, true)?;
    let classes = (a.class(), b.class());
    if classes.0 == Class::Other || classes.1 == Class::Other {
        return Err(no_type(if classes.0 == Class::Other {
            a.dtype()
        } else {
            b.dtype()
        }));
    }
    let (least, most) = match classes.0 {
        Class::Int => int_range(a.dtype()),
        _ => (0, 0),
    };
    zip(&a, &b, a.dtype(), |i, j, out| {
        let exponent = match classes.1 {
            Class::Int => b.int(j) as f64,
            _ => b.float(j),
        };
        match classes {
            (Class::Float, _) => out.float(a.float(i).powf(exponent)),
            (_, Class::Int) => out.int(int_power(a.dtype(), a.int(i), b.int(j))?),
            _ => {
                let power = (a.int(i) as f64).powf(exponent).trunc();
                if !(power >= least as f64 && power < most as f64) {
                    return Err(Unfolded::invalid("a power that is no integer of the type"));
                }
                out.int(power as i128);
            }
        }
        Ok(())
    })
}

/// `base` to the power of `exponent`, when a runtime that computes in double finds the same.
fn int_power(dtype: DataType, base: i128, exponent: i128) -> Result<i128> {
    let (least, most) = int_range(dtype);
    let exact = 1i128 << f64::MANTISSA_DIGITS;
    u32::try_from(exponent)
        .ok()
        .and_then(|e| base.checked_pow(e))
        .filter(|p| (least..=most).contains(p) && (-exact..=exact).contains(p))
        .ok_or_else(|| {
            let what = format!("the integer {base} to the power of {exponent}");
            Unfolded::Unsupported(what)
        })
}

/// `BitShift`; a shift by the width or more leaves nothing, or the sign.
pub(super) fn shift(args: &Args<'_>) -> Result<Array> {
    // A negative number counts as one beyond the width.
    fn by(y: i128) -> u32 {
        u32::try_from(y.min(64)).unwrap_or(64)
    }
    match args.text("direction", "")? {
        "LEFT" => binary_int(args, |x, y| Ok(x << by(y))),
        "RIGHT" => binary_int(args, |x, y| Ok(x >> by(y))),
        other => Err(Unfolded::Invalid(format!("direction `{other}`"))),
    }
}

/// `Where`.
pub(super) fn select(args: &Args<'_>) -> Result<Array> {
    let (condition, a, b) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
    if condition.dtype() != DataType::Bool || a.dtype() != b.dtype() {
        return Err(Unfolded::invalid("operands of wrong types"));
    }
    let dims = broadcast_dims(&[condition.dims(), a.dims(), b.dims()])?;
    let [c, s, t] = [condition, a, b].map(|x| broadcast_strides(x.dims(), &dims));
    let from = Places::new(&dims, [c, s, t])?.map(|[c, i, j]| match condition.int(c) {
        0 => (b, j),
        _ => (a, i),
    });
    pick(dims, a.dtype(), from)
}

/// `Clip`: the lower bound first, then the upper. Nothing is said of bounds that are NaN.
pub(super) fn clip(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    if args.opset < 11 {
        let low = args.float("min", f32::MIN)?;
        let high = args.float("max", f32::MAX)?;
        if low.is_nan() || high.is_nan() {
            return Err(no_bound());
        }
        return float(args, |x| maximum(x, low)).and_then(|lifted| {
            let mut out = Builder::new(lifted.dtype(), lifted.dims().to_vec())?;
            (0..lifted.len()).for_each(|i| out.float(minimum(lifted.float(i), high)));
            Ok(out.finish())
        });
    }
    let mut clipped = a.clone();
    for (i, int, of_floats) in [
        (
            1,
            i128::max as fn(i128, i128) -> i128,
            maximum as fn(f64, f64) -> f64,
        ),
        (2, i128::min, minimum),
    ] {
        let Some(bound) = args.optional(i)? else {
            continue;
        };
        if bound.len() != 1 || bound.dtype() != a.dtype() {
            return Err(Unfolded::invalid("a bound that is no scalar of the type"));
        }
        let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
        match a.class() {
            Class::Float if bound.float(0).is_nan() => return Err(no_bound()),
            Class::Int => (0..a.len()).for_each(|i| out.int(int(clipped.int(i), bound.int(0)))),
            Class::Float => {
                (0..a.len()).for_each(|i| out.float(of_floats(clipped.float(i), bound.float(0))));
            }
            Class::Other => return Err(no_type(a.dtype())),
        }
        clipped = out.finish();
    }
    Ok(clipped)
}

fn no_bound() -> Unfolded {
    Unfolded::Unsupported("a bound that is NaN".to_owned())
}

/// The greater, or NaN.
pub(super) fn maximum(x: f64, y: f64) -> f64 {
    if x.is_nan() || x > y { x } else { y }
}

/// The smaller, or NaN.
pub(super) fn minimum(x: f64, y: f64) -> f64 {
    if x.is_nan() || x < y { x } else { y }
}

/// `PRelu`.
pub(super) fn prelu(args: &Args<'_>) -> Result<Array> {
    let slope = args.tensor(1)?;
    if args.opset < 7 && slope.len() != 1 {
        return Err(Unfolded::Unsupported("slopes before opset 7".to_owned()));
    }
    let dims = broadcast_dims(&[args.tensor(0)?.dims(), slope.dims()])?;
    if dims != args.tensor(0)?.dims() {
        return Err(Unfolded::invalid("a slope of another shape"));
    }
    let (a, b) = (args.tensor(0)?, slope);
    if a.dtype() != b.dtype() {
        return Err(Unfolded::invalid("operands of different types"));
    }
    fold_pair(
        a,
        b,
        |x, y| Ok(if x < 0 { x.wrapping_mul(y) } else { x }),
        |x, y| if x < 0.0 { x * y } else { x },
    )
}

/// The error function, by a series whose terms are all positive:
/// erf(x) = 2/sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1))
/// (Abramowitz and Stegun, 7.1.6).
pub(super) fn erf(x: f64) -> f64 {
    // Beyond, it differs from 1 by less than a double shows.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `Gelu`, exact or by the hyperbolic tangent.
pub(super) fn gelu(args: &Args<'_>) -> Result<Array> {
    match args.text("approximate", "none")? {
        "none" => float(args, |x| {
            0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
        }),
        "tanh" => float(args, |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }),
        other => Err(Unfolded::Invalid(format!("approximation `{other}`"))),
    }
}

/// The logistic function.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The logarithm of 1 + exp(x).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `Shrink`, of integers too.
pub(super) fn shrink(args: &Args<'_>) -> Result<Array> {
    let (lambda, bias) = (args.float("lambd", 0.5)?, args.float("bias", 0.0)?);
    float(args, |x| match x {
        x if x < -lambda => x + bias,
        x if x > lambda => x - bias,
        _ => 0.0,
    })
}

/// `IsInf`.
pub(super) fn is_inf(args: &Args<'_>) -> Result<Array> {
    let up = args.int("detect_positive", 1)? != 0;
    let down = args.int("detect_negative", 1)? != 0;
    test(args, |x| x.is_infinite() && if x > 0.0 { up } else { down })
}
