//! Operators that go along an axis in order: the largest, the first, running sums.

use std::cmp::Ordering;

use super::{
    Array, Result, Unfolded, Value,
    args::{Args, axis},
    array::{Builder, beside, product},
    elementwise::no_type,
    number::Class,
};

/// How an axis lies in an array: what is before it, itself, what is after it.
pub(super) struct Lines {
    outer: usize,
    pub(super) extent: usize,
    inner: usize,
}

impl Lines {
    /// Axis `at` of `a`.
    pub(super) fn of(a: &Array, at: usize) -> Lines {
        match a.dims().contains(&0) {
            // Extents of nothing need not have a product.
            true => Lines {
                outer: 0,
                extent: a.dims()[at],
                inner: 1,
            },
            false => Lines {
                outer: product(&a.dims()[..at]),
                extent: a.dims()[at],
                inner: product(&a.dims()[at + 1..]),
            },
        }
    }

    /// The place of element 0 of every line, and the step to the next, in row-major order.
    pub(super) fn starts(&self) -> impl Iterator<Item = usize> + use<> {
        let (outer, run, inner) = (self.outer, self.extent * self.inner, self.inner);
        (0..outer).flat_map(move |o| o * run..o * run + inner)
    }

    /// The step from an element to the next of its line.
    pub(super) fn step(&self) -> usize {
        self.inner
    }
}

/// The order of two elements; NaN is the greatest, as NumPy sorts.
fn order(a: &Array, i: usize, j: usize) -> Ordering {
    match a.class() {
        Class::Int => a.int(i).cmp(&a.int(j)),
        _ => {
            let (x, y) = (a.float(i), a.float(j));
            x.partial_cmp(&y)
                .unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
        }
    }
}

fn sortable(a: &Array) -> Result<()> {
    match a.class() {
        Class::Other => Err(no_type(a.dtype())),
        _ => Ok(()),
    }
}

/// `ArgMax` and `ArgMin`.
pub(super) fn arg_extreme(args: &Args<'_>, wanted: Ordering) -> Result<Array> {
    let a = args.tensor(0)?;
    sortable(a)?;
    let at = args.axis(0, a.rank())?;
    let last = args.int("select_last_index", 0)? != 0;
    let lines = Lines::of(a, at);
    if lines.extent == 0 {
        return Err(Unfolded::invalid("the largest of nothing"));
    }
    let mut dims = a.dims().to_vec();
    match args.int("keepdims", 1)? != 0 {
        true => dims[at] = 1,
        false => drop(dims.remove(at)),
    }
    let step = lines.step();
    let is_nan = |i: usize| a.class() != Class::Int && a.float(i).is_nan();
    // NaN is the largest and the smallest, as in NumPy.
    let compare = |i: usize, j: usize| match (is_nan(i), is_nan(j)) {
        (true, false) => wanted,
        (false, true) => wanted.reverse(),
        _ => order(a, i, j),
    };
    let best = |start: usize| {
        let better = |best: usize, i: usize| match compare(start + i * step, start + best * step) {
            Ordering::Equal if last => i,
            o if o == wanted => i,
            _ => best,
        };
        (1..lines.extent).fold(0, better) as i64
    };
    Array::of_ints(dims, lines.starts().map(best))
}

/// `TopK`: values and indices; of equal elements the first is taken first.
pub(super) fn top_k(args: &Args<'_>) -> Result<Vec<Value>> {
    let a = args.tensor(0)?;
    sortable(a)?;
    let at = args.axis(-1, a.rank())?;
    let k = match args.opset >= 10 {
        true => args.int_operand(1)?,
        false => Some(args.int("k", -1)?),
    };
    let lines = Lines::of(a, at);
    let k = k
        .and_then(|k| usize::try_from(k).ok())
        .filter(|&k| k <= lines.extent);
    let k = k.ok_or_else(|| Unfolded::invalid("more elements than there are"))?;
    if args.int("sorted", 1)? == 0 {
        return Err(Unfolded::Unsupported(
            "an order that is left open".to_owned(),
        ));
    }
    let largest = args.int("largest", 1)? != 0;
    let step = lines.step();
    let mut dims = a.dims().to_vec();
    dims[at] = k;
    beside::<usize>(lines.extent)?;
    beside::<(usize, usize)>(lines.outer * lines.inner * k)?;
    let mut chosen = Vec::new();
    for start in lines.starts() {
        let mut line: Vec<usize> = (0..lines.extent).collect();
        line.sort_by(|&i, &j| {
            let o = order(a, start + i * step, start + j * step);
            if largest { o.reverse() } else { o }
        });
        line.truncate(k);
        chosen.push((start, line));
    }
    // Lines that lie side by side are written side by side.
    let inner = step.max(1);
    let mut places = Vec::new();
    for group in chosen.chunks(inner) {
        for n in 0..k {
            places.extend(
                group
                    .iter()
                    .map(|(start, line)| (start + line[n] * step, line[n])),
            );
        }
    }
    let values = a.take(dims.clone(), places.iter().map(|p| p.0))?;
    let indices = Array::of_ints(dims, places.iter().map(|p| p.1 as i64))?;
    Ok(vec![Value::Tensor(values), Value::Tensor(indices)])
}

/// `CumSum` and `CumProd`.
pub(super) fn running(
    args: &Args<'_>,
    first: i8,
    int: fn(i128, i128) -> i128,
    float: fn(f64, f64) -> f64,
) -> Result<Array> {
    let a = args.tensor(0)?;
    sortable(a)?;
    let at = args
        .int_operand(1)?
        .ok_or_else(|| Unfolded::invalid("no axis"))?;
    let at = axis(at, a.rank())?;
    let lines = Lines::of(a, at);
    let exclusive = args.int("exclusive", 0)? != 0;
    let reverse = args.int("reverse", 0)? != 0;
    beside::<i128>(lines.inner)?;
    let mut out = Builder::new(a.dtype(), a.dims().to_vec())?;
    // Row after row, with a sum for each element of a row; from the last row on, they come out
    // in reverse.
    for outer in 0..lines.outer {
        let mut ints = vec![i128::from(first); lines.inner];
        let mut floats = vec![f64::from(first); lines.inner];
        for n in 0..lines.extent {
            let row = if reverse { lines.extent - 1 - n } else { n };
            let start = (outer * lines.extent + row) * lines.inner;
            if a.class() == Class::Int {
                for (i, sum) in ints.iter_mut().enumerate() {
                    let next = super::number::wrap(a.dtype(), int(*sum, a.int(start + i)));
                    out.int(if exclusive { *sum } else { next });
                    *sum = next;
                }
            } else {
                for (i, sum) in floats.iter_mut().enumerate() {
                    let next = float(*sum, a.float(start + i));
                    out.float(if exclusive { *sum } else { next });
                    *sum = next;
                }
            }
        }
    }
    let out = out.finish();
    if !reverse {
        return Ok(out);
    }
    let (run, inner) = (lines.extent * lines.inner, lines.inner);
    let turned =
        |i: usize| i / run * run + (lines.extent - 1 - i % run / inner) * inner + i % inner;
    out.take(a.dims().to_vec(), (0..a.len()).map(turned))
}
