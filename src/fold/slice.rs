//! `Slice`, and parts of a tensor along one axis.

use super::{
    Array, Result, Unfolded,
    args::{Args, axes},
    array::{Places, strides},
};

/// Ends that stand for "as far as there is": the largest int32 and int64.
const OPEN: [i64; 2] = [i32::MAX as i64, i64::MAX];

/// What `start..end` by `step`, numbers as a `Slice` has them, selects of an axis of `extent`:
/// the first place, and how many places.
///
/// By the standard, negative numbers count from the back, and then `start` is clamped to
/// `0..=extent` and `end` likewise; for a negative `step` to `0..=extent - 1` and
/// `-1..=extent - 1`. `None` where `step` is 0, and where `end` is the largest integer and
/// clamping it is not what runtimes do: backward they go to the front.
pub fn slice_range(extent: i64, start: i64, end: i64, step: i64) -> Option<(i64, i64)> {
    if step == 0 || extent < 0 || (OPEN.contains(&end) && (step < 0 || end < extent)) {
        return None;
    }
    if extent == 0 {
        return Some((0, 0));
    }
    let from_front = |i: i64| if i < 0 { i.saturating_add(extent) } else { i };
    let (start, end) = (from_front(start), from_front(end));
    let (start, span) = match step > 0 {
        true => {
            let start = start.clamp(0, extent);
            (start, end.clamp(0, extent) - start)
        }
        false => {
            let start = start.clamp(0, extent - 1);
            (start, start - end.clamp(-1, extent - 1))
        }
    };
    let count = (span.max(0) as u64).div_ceil(step.unsigned_abs());
    // Where nothing is selected, no place is the first.
    Some((if count == 0 { 0 } else { start }, count as i64))
}

/// One axis of a slice: first place, step, number of places.
#[derive(Clone, Copy)]
struct Range {
    first: usize,
    step: i64,
    len: usize,
}

impl Range {
    /// All of an axis.
    fn whole(&len: &usize) -> Range {
        Range {
            first: 0,
            step: 1,
            len,
        }
    }
}

/// `Slice`.
pub(super) fn slice(args: &Args<'_>) -> Result<Array> {
    let a = args.tensor(0)?;
    let missing = || Unfolded::invalid("no starts or no ends");
    let starts = args.list("starts", 10, 1)?.ok_or_else(missing)?;
    let ends = args.list("ends", 10, 2)?.ok_or_else(missing)?;
    let which = match args.list("axes", 10, 3)? {
        Some(list) => axes(&list, a.rank())?,
        None => (0..starts.len()).collect(),
    };
    let steps = match args.opset >= 10 {
        true => args.ints(4)?,
        false => None,
    };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    let lengths = [ends.len(), which.len(), steps.len()];
    if lengths.iter().any(|&n| n != starts.len()) || starts.len() > a.rank() {
        return Err(Unfolded::invalid("lists of different lengths"));
    }
    let mut ranges: Vec<Range> = a.dims().iter().map(Range::whole).collect();
    for (i, &at) in which.iter().enumerate() {
        ranges[at] = range(starts[i], ends[i], steps[i], a.dims()[at])?;
    }
    cut(a, &ranges)
}

fn range(start: i64, end: i64, step: i64, extent: usize) -> Result<Range> {
    if step == 0 {
        return Err(Unfolded::invalid("a step of 0"));
    }
    let open = || Unfolded::Unsupported("a slice to the largest integer".to_owned());
    let (first, len) = slice_range(extent as i64, start, end, step).ok_or_else(open)?;
    Ok(Range {
        first: first as usize,
        step,
        len: len as usize,
    })
}

fn cut(a: &Array, ranges: &[Range]) -> Result<Array> {
    let dims: Vec<usize> = ranges.iter().map(|r| r.len).collect();
    let own = strides(a.dims());
    let first: usize = match dims.contains(&0) {
        true => 0,
        false => ranges.iter().zip(&own).map(|(r, s)| r.first * s).sum(),
    };
    // Backward steps wrap around, and come back when they are added.
    let by = |(r, &s): (&Range, &usize)| (r.step as usize).wrapping_mul(s);
    let by: Vec<usize> = ranges.iter().zip(&own).map(by).collect();
    let from = Places::new(&dims, [by])?.map(|[place]| first.wrapping_add(place));
    a.take(dims, from)
}

/// `len` places of `a` from `first` on along `at`.
pub(super) fn part(a: &Array, at: usize, first: usize, len: usize) -> Result<Array> {
    let mut ranges: Vec<Range> = a.dims().iter().map(Range::whole).collect();
    ranges[at] = Range {
        first,
        step: 1,
        len,
    };
    cut(a, &ranges)
}

#[cfg(test)]
mod tests {
    use super::slice_range;

    #[test]
    fn places_of_an_axis() {
        for (extent, start, end, step, expected) in [
            (4, 1, 3, 1, (1, 2)),
            (4, 0, i64::MAX, 1, (0, 4)),
            (4, -3, i64::from(i32::MAX), 2, (1, 2)),
            (4, 9, 10, 1, (0, 0)),
            (4, 3, 1, 1, (0, 0)),
            // Backward, the first place is one of the axis.
            (4, -100, -1000, -1, (0, 1)),
            (4, 100, -1000, -1, (3, 4)),
            (4, i64::MAX, i64::MIN, -3, (3, 2)),
            (4, -1, 0, i64::MIN, (3, 1)),
            (4, 0, 100, -1, (0, 0)),
            (0, 0, -1, -1, (0, 0)),
            (0, -5, 5, 1, (0, 0)),
        ] {
            let found = slice_range(extent, start, end, step);
            assert_eq!(found, Some(expected), "{extent}: {start}..{end} by {step}");
        }
        assert_eq!(slice_range(4, 0, 4, 0), None);
        assert_eq!(slice_range(4, -1, i64::MAX, -1), None);
        assert_eq!(slice_range(1 << 40, 0, i64::from(i32::MAX), 1), None);
    }
}
