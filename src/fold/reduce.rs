//! Reductions, and what is normalized along an axis. Floating-point sums are made in double
//! and rounded once.

use super::{
    Array, Result, Unfolded,
    args::{Args, axes, axis},
    array::{Builder, Places, beside, product, strides},
    elementwise::{floats, maximum, minimum, no_type},
    number::{Class, FloatOp, IntOp, int_range, wrap},
    order::Lines,
};
use crate::ir::DataType;

/// Of integers: what each element becomes, and how two are combined into one.
type IntSteps = (fn(i128) -> i128, IntOp);
/// The same of floating-point numbers.
type FloatSteps = (fn(f64) -> f64, FloatOp);

/// What a reduction does.
#[derive(Clone, Copy)]
pub(super) struct Reduction {
    /// The opset from which on axes are an operand.
    pub(super) axes_since: i64,
    /// Of integers, when it takes some.
    pub(super) int: Option<IntSteps>,
    /// Of floating-point numbers.
    pub(super) float: FloatSteps,
    /// What is made of the combination of so many elements.
    pub(super) last: fn(f64, u64) -> f64,
    /// The result for no elements.
    pub(super) empty: Empty,
}

/// What a reduction of nothing is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Empty {
    /// This number.
    Is(i8),
    /// The least of the type.
    Least,
    /// The greatest of the type.
    Greatest,
    /// Not defined.
    Nothing,
}

/// A sum and the like.
pub(super) const SUM: Reduction = Reduction {
    axes_since: 18,
    int: Some((|x| x, i128::wrapping_add)),
    float: (|x| x, |x, y| x + y),
    last: |x, _| x,
    empty: Empty::Is(0),
};

pub(super) const PRODUCT: Reduction = Reduction {
    int: Some((|x| x, i128::wrapping_mul)),
    float: (|x| x, |x, y| x * y),
    empty: Empty::Is(1),
    ..SUM
};

pub(super) const MAX: Reduction = Reduction {
    int: Some((|x| x, i128::max)),
    float: (|x| x, maximum),
    empty: Empty::Least,
    ..SUM
};

pub(super) const MIN: Reduction = Reduction {
    int: Some((|x| x, i128::min)),
    float: (|x| x, minimum),
    empty: Empty::Greatest,
    ..SUM
};

pub(super) const SQUARES: Reduction = Reduction {
    int: Some((|x| x.wrapping_mul(x), i128::wrapping_add)),
    float: (|x| x * x, |x, y| x + y),
    ..SUM
};

pub(super) const L1: Reduction = Reduction {
    int: Some((i128::abs, i128::wrapping_add)),
    float: (f64::abs, |x, y| x + y),
    ..SUM
};

pub(super) const L2: Reduction = Reduction {
    int: None,
    last: |x, _| x.sqrt(),
    ..SQUARES
};

pub(super) const LOG_SUM: Reduction = Reduction {
    int: None,
    last: |x, _| x.ln(),
    ..SUM
};

pub(super) const MEAN: Reduction = Reduction {
    int: None,
    last: |x, n| x / n as f64,
    empty: Empty::Nothing,
    ..SUM
};

/// The reduced operand, cut into the places of each result.
struct Groups {
    /// Extents of the result.
    dims: Vec<usize>,
    /// Where each result begins.
    starts: Places<1>,
    /// Where its elements are from there.
    offsets: Places<1>,
}

/// `None` when nothing is reduced.
fn groups(args: &Args<'_>, axes_since: i64) -> Result<Option<Groups>> {
    let a = args.tensor(0)?;
    let list = args.list("axes", axes_since, 1)?.filter(|l| !l.is_empty());
    let gone = match list {
        Some(list) => axes(&list, a.rank())?,
        None if args.int("noop_with_empty_axes", 0)? != 0 => return Ok(None),
        None => (0..a.rank()).collect(),
    };
    let keep = args.int("keepdims", 1)? != 0;
    let own = strides(a.dims());
    let select = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
        let chosen = (0..a.rank()).filter(|i| gone.contains(i) == reduced);
        chosen.map(|i| (a.dims()[i], own[i])).unzip()
    };
    let extent = |i: usize| match gone.contains(&i) {
        true => keep.then_some(1),
        false => Some(a.dims()[i]),
    };
    let ((outer, by), (inner, step)) = (select(false), select(true));
    Ok(Some(Groups {
        dims: (0..a.rank()).filter_map(extent).collect(),
        starts: Places::new(&outer, [by])?,
        offsets: Places::new(&inner, [step])?,
    }))
}

/// One of the reductions.
pub(super) fn reduce(args: &Args<'_>, how: Reduction) -> Result<Array> {
    let a = args.tensor(0)?;
    let mut groups = match groups(args, how.axes_since)? {
        Some(groups) => groups,
        // Each element is a group of its own.
        None => Groups {
            dims: a.dims().to_vec(),
            starts: Places::new(a.dims(), [strides(a.dims())])?,
            offsets: Places::new(&[], [vec![]])?,
        },
    };
    let mut out = Builder::new(a.dtype(), groups.dims)?;
    let offsets = &mut groups.offsets;
    match (a.class(), how.int) {
        (Class::Int, Some((each, combine))) => {
            for [s] in groups.starts {
                let all = offsets
                    .rewind()
                    .map(|[o]| wrap(a.dtype(), each(a.int(s + o))));
                let combined = all.reduce(|x, y| wrap(a.dtype(), combine(x, y)));
                out.int(combined.map_or_else(|| empty_int(how.empty, a.dtype()), Ok)?);
            }
        }
        (Class::Float, _) => {
            let (each, combine) = how.float;
            for [s] in groups.starts {
                let all = offsets.rewind().map(|[o]| each(a.float(s + o)));
                let combined = all.reduce(combine);
                let combined = combined.map_or_else(|| empty_float(how.empty), Ok)?;
                out.float((how.last)(combined, offsets.len()));
            }
        }
        _ => return Err(no_type(a.dtype())),
    }
    Ok(out.finish())
}

fn nothing() -> Unfolded {
    Unfolded::Unsupported("a reduction of nothing".to_owned())
}

fn empty_int(empty: Empty, dtype: DataType) -> Result<i128> {
    match empty {
        Empty::Is(x) => Ok(x.into()),
        Empty::Least => Ok(int_range(dtype).0),
        Empty::Greatest => Ok(int_range(dtype).1),
        Empty::Nothing => Err(nothing()),
    }
}

fn empty_float(empty: Empty) -> Result<f64> {
    match empty {
        Empty::Is(x) => Ok(x.into()),
        Empty::Least => Ok(f64::NEG_INFINITY),
        Empty::Greatest => Ok(f64::INFINITY),
        Empty::Nothing => Err(nothing()),
    }
}

/// `ReduceLogSumExp`, with the greatest element taken out first.
pub(super) fn log_sum_exp(args: &Args<'_>) -> Result<Array> {
    let a = floats(args, 0)?;
    let Some(mut groups) = groups(args, 18)? else {
        return Err(Unfolded::Unsupported("a reduction without axes".to_owned()));
    };
    let mut out = Builder::new(a.dtype(), groups.dims)?;
    for [s] in groups.starts {
        let value = |[o]: [usize; 1]| a.float(s + o);
        let all = groups.offsets.rewind();
        let most = all.map(value).fold(f64::NEG_INFINITY, maximum);
        let shift = if most.is_finite() { most } else { 0.0 };
        let all = groups.offsets.rewind().map(value);
        out.float(shift + all.map(|x| (x - shift).exp()).sum::<f64>().ln());
    }
    Ok(out.finish())
}

/// `Softmax`, `LogSoftmax`, `Hardmax`: `each` makes the results of a line of elements. Up to
/// opset 12 a line is all that follows the axis.
pub(super) fn normalize(args: &Args<'_>, each: fn(&mut [f64])) -> Result<Array> {
    let a = floats(args, 0)?;
    let mut flat = a.clone();
    let at = match args.opset < 13 {
        true => {
            let at = args.int("axis", 1)?;
            let at = match usize::try_from(at) {
                Ok(at) if at == a.rank() => at,
                _ => axis(at, a.rank())?,
            };
            let columns = product(&a.dims()[at..]);
            let rows = a.len().checked_div(columns).unwrap_or(0);
            flat = a.with_dims(vec![rows, columns]);
            1
        }
        false => args.axis(-1, a.rank())?,
    };
    let lines = Lines::of(&flat, at);
    beside::<f64>(flat.len())?;
    let mut all = vec![0.0; flat.len()];
    let mut line = vec![0.0; lines.extent];
    for start in lines.starts() {
        let place = |i: usize| start + i * lines.step();
        line.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = flat.float(place(i)));
        each(&mut line);
        line.iter()
            .enumerate()
            .for_each(|(i, &x)| all[place(i)] = x);
    }
    let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
    all.into_iter().for_each(|x| out.float(x));
    Ok(out.finish())
}

pub(super) fn softmax(line: &mut [f64]) {
    let most = line.iter().copied().fold(f64::NEG_INFINITY, maximum);
    line.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f64 = line.iter().sum();
    line.iter_mut().for_each(|x| *x /= sum);
}

pub(super) fn log_softmax(line: &mut [f64]) {
    let most = line.iter().copied().fold(f64::NEG_INFINITY, maximum);
    let sum: f64 = line.iter().map(|x| (x - most).exp()).sum();
    line.iter_mut().for_each(|x| *x = *x - most - sum.ln());
}

pub(super) fn hardmax(line: &mut [f64]) {
    let better = |best: usize, i: usize| if line[i] > line[best] { i } else { best };
    let best = (0..line.len()).fold(0, better);
    line.iter_mut()
        .enumerate()
        .for_each(|(i, x)| *x = f64::from(i == best));
}
