//! Quantization to 8-bit integers with one scale for each channel, or for the whole weight.
//!
//! The rule is that of the weights of ONNX Runtime's `quantize_dynamic` (`compute_scale_zp`
//! and `quantize_nparray` of its `quant_utils.py`, for float weights), to the bit; checked
//! against 1.31.1 by `tests/py/test_int8.py`. For a channel with the elements `x`:
//!
//! - `lo = min(min x, 0)`, `hi = max(max x, 0)`; symmetric: `hi = max(-lo, hi)`, `lo = -hi`.
//! - `s = (hi - lo) / (qmax - qmin)` in double precision; the stored scale is `s` as `f32`.
//! - zero point: symmetric `round((qmin + qmax) / 2)`, else `round(qmin - lo / s)`.
//! - Where `s` is below the smallest normal `f32`: scale 1, and the zero point is 0 when asymmetric.
//! - `code = clamp(round(x / scale) + zero point)` to the range of the integer type, the
//!   quotient in `f32`.
//!
//! `round` takes halves to even. One difference: ONNX Runtime gives a symmetric uint8 channel of
//! zeros the zero point 0. Here it has that of the other channels, so that one number holds for all
//! of them, which `ConvInteger` needs.

use super::dispatch::dispatch;

/// What 8-bit codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelSpec {
    /// int8, else uint8.
    pub signed: bool,
    /// The zero point is the middle of the range, the same for all channels.
    pub symmetric: bool,
    /// Seven bits: -64 to 64 or 0 to 127, for processors whose 8-bit products saturate.
    pub reduced: bool,
}

/// How the codes of a channel are read: `x = (code - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelParams {
    /// The scale: finite and positive.
    pub scale: f32,
    /// The zero point, in the range of the integer type.
    pub zero_point: i16,
}

/// Smallest and largest element of a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
}

impl Range {
    /// That of no elements.
    pub const EMPTY: Range = Range {
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
    };

    /// The range of the elements of both.
    #[inline(always)]
    pub fn union(self, other: Range) -> Range {
        Range {
            min: least(self.min, other.min),
            max: most(self.max, other.max),
        }
    }
}

/// As instructions have it, so that loops become vector code.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[inline(always)]
fn most(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

impl ChannelSpec {
    /// The codes that the range of a channel is spread over.
    pub const fn range(&self) -> (i16, i16) {
        match (self.signed, self.reduced, self.symmetric) {
            (true, true, _) => (-64, 64),
            (true, false, true) => (-127, 127),
            (true, false, false) => (-128, 127),
            (false, true, _) => (0, 127),
            (false, false, _) => (0, 255),
        }
    }

    /// The codes that there are.
    const fn limits(&self) -> (f32, f32) {
        if self.signed {
            (-128.0, 127.0)
        } else {
            (0.0, 255.0)
        }
    }

    /// The zero point of every channel, when symmetric: 0 for int8, 128 (reduced: 64) for uint8.
    pub const fn mid(&self) -> i16 {
        match (self.signed, self.reduced) {
            (true, _) => 0,
            (false, false) => 128,
            (false, true) => 64,
        }
    }

    /// Scale and zero point of a channel whose elements, all finite, have this range.
    pub fn params(&self, range: Range) -> ChannelParams {
        let (mut lo, mut hi) = (range.min.min(0.0), range.max.max(0.0));
        if self.symmetric {
            hi = hi.max(-lo);
            lo = -hi;
        }
        let (qmin, qmax) = self.range();
        let s = (f64::from(hi) - f64::from(lo)) / f64::from(qmax - qmin);
        let negligible = s < f64::from(f32::MIN_POSITIVE);
        let zero_point = match (self.symmetric, negligible) {
            (true, _) => self.mid(),
            (false, true) => 0,
            (false, false) => (f64::from(qmin) - f64::from(lo) / s).round_ties_even() as i16,
        };
        ChannelParams {
            scale: if negligible { 1.0 } else { s as f32 },
            zero_point,
        }
    }

    /// The code of one element, as a byte: the definition.
    pub fn encode_ref(&self, x: f32, params: ChannelParams) -> u8 {
        let (low, high) = self.limits();
        let code = (x / params.scale).round_ties_even() + f32::from(params.zero_point);
        code.clamp(low, high) as i16 as u8
    }
}

/// A quotient beyond it, in magnitude, becomes the largest or smallest code anyway.
const BEYOND: f32 = 1024.0;
/// Added to a small number it leaves no bits for a fraction: the sum is rounded, to even.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

#[inline(always)]
fn encode(x: f32, scale: f32, zero_point: f32, low: f32, high: f32) -> u8 {
    let quotient = most(least(x / scale, BEYOND), -BEYOND);
    let code = (quotient + ROUND) - ROUND + zero_point;
    most(least(code, high), low) as i32 as u8
}

/// The range of `x`, all finite.
pub fn range_of(x: &[f32]) -> Range {
    dispatch!(range_body(x: &[f32]) -> Range)
}

#[inline(always)]
fn range_body(x: &[f32]) -> Range {
    let mut lanes = [Range::EMPTY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.union(Range { min: x, max: x });
        }
    }
    let whole = lanes
        .into_iter()
        .reduce(Range::union)
        .unwrap_or(Range::EMPTY);
    rest.iter()
        .fold(whole, |r, &x| r.union(Range { min: x, max: x }))
}

/// Takes `x`, rows with one element for each channel, into the ranges of the channels; the first
/// element belongs to channel `first`.
///
/// # Panics
/// When `minima` and `maxima` are not as long as each other, or `first` is beyond them.
pub fn ranges_of_columns(x: &[f32], first: usize, minima: &mut [f32], maxima: &mut [f32]) {
    assert!(minima.len() == maxima.len() && first < minima.len());
    dispatch!(columns_body(x: &[f32], first: usize, minima: &mut [f32], maxima: &mut [f32]));
}

#[inline(always)]
fn columns_body(x: &[f32], first: usize, minima: &mut [f32], maxima: &mut [f32]) {
    let (head, rest) = x.split_at(x.len().min(minima.len() - first));
    widen(head, &mut minima[first..], &mut maxima[first..]);
    for row in rest.chunks(minima.len()) {
        widen(row, minima, maxima);
    }
}

#[inline(always)]
fn widen(x: &[f32], minima: &mut [f32], maxima: &mut [f32]) {
    for ((&x, min), max) in x.iter().zip(minima).zip(maxima) {
        *min = least(*min, x);
        *max = most(*max, x);
    }
}

/// The codes of `x`, elements of one channel.
///
/// # Panics
/// When `out` is not as long as `x`.
pub fn encode_run(spec: ChannelSpec, x: &[f32], params: ChannelParams, out: &mut [u8]) {
    assert_eq!(x.len(), out.len());
    dispatch!(run_body(spec: ChannelSpec, x: &[f32], params: ChannelParams, out: &mut [u8]));
}

#[inline(always)]
fn run_body(spec: ChannelSpec, x: &[f32], params: ChannelParams, out: &mut [u8]) {
    let ((low, high), zero_point) = (spec.limits(), f32::from(params.zero_point));
    for (&x, code) in x.iter().zip(out) {
        *code = encode(x, params.scale, zero_point, low, high);
    }
}

/// The codes of `x`, rows with one element for each channel; the first element belongs to
/// channel `first`, and element i of `scales` and `zero_points` to channel i.
///
/// # Panics
/// When `out` is not as long as `x`, the other two are not, or `first` is no channel.
pub fn encode_columns(
    spec: ChannelSpec,
    x: &[f32],
    first: usize,
    (scales, zero_points): (&[f32], &[f32]),
    out: &mut [u8],
) {
    assert!(x.len() == out.len() && scales.len() == zero_points.len() && first < scales.len());
    dispatch!(encode_columns_body(
        spec: ChannelSpec, x: &[f32], first: usize, scales: &[f32], zero_points: &[f32], out: &mut [u8],
    ));
}

#[inline(always)]
fn encode_columns_body(
    spec: ChannelSpec,
    x: &[f32],
    first: usize,
    scales: &[f32],
    zero_points: &[f32],
    out: &mut [u8],
) {
    let count = scales.len();
    let head = x.len().min(count - first);
    let (x, rest) = x.split_at(head);
    let (codes, others) = out.split_at_mut(head);
    encode_row(spec, x, &scales[first..], &zero_points[first..], codes);
    for (x, codes) in rest.chunks(count).zip(others.chunks_mut(count)) {
        encode_row(spec, x, scales, zero_points, codes);
    }
}

#[inline(always)]
fn encode_row(spec: ChannelSpec, x: &[f32], scales: &[f32], zero_points: &[f32], out: &mut [u8]) {
    let (low, high) = spec.limits();
    for (((&x, &scale), &zero_point), code) in x.iter().zip(scales).zip(zero_points).zip(out) {
        *code = encode(x, scale, zero_point, low, high);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specs() -> impl Strategy<Value = ChannelSpec> {
        any::<[bool; 3]>().prop_map(|[signed, symmetric, reduced]| ChannelSpec {
            signed,
            symmetric,
            reduced,
        })
    }

    fn values() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -1.0f32..1.0,
            2 => (-300i32..300).prop_map(|n| n as f32 * 0.5),
            1 => prop::sample::select(vec![0.0, -0.0, f32::MIN_POSITIVE, f32::from_bits(1), -1e-40, f32::MAX, f32::MIN]),
            1 => -1e30f32..1e30,
        ]
    }

    fn range_ref(x: impl Iterator<Item = f32>) -> Range {
        x.fold(Range::EMPTY, |r, x| Range {
            min: r.min.min(x),
            max: r.max.max(x),
        })
    }

    proptest! {
        #[test]
        fn a_run_is_what_the_definition_says(spec in specs(), x in prop::collection::vec(values(), 0..100)) {
            let range = range_of(&x);
            prop_assert_eq!(range, range_ref(x.iter().copied()));
            prop_assert_eq!(range, range_body(&x));
            let params = spec.params(range);
            let expected: Vec<u8> = x.iter().map(|&x| spec.encode_ref(x, params)).collect();
            let mut codes = vec![0x55; x.len()];
            encode_run(spec, &x, params, &mut codes);
            prop_assert_eq!(&codes, &expected);
            codes.fill(0x55);
            run_body(spec, &x, params, &mut codes);
            prop_assert_eq!(&codes, &expected);
        }

        #[test]
        fn columns_are_what_the_definition_says(
            spec in specs(),
            (count, first, x) in (1usize..40).prop_flat_map(|n| (Just(n), 0..n, prop::collection::vec(values(), 0..200))),
        ) {
            let channel = |i: usize| (first + i) % count;
            let of = |c: usize| x.iter().copied().enumerate().filter(move |(i, _)| channel(*i) == c).map(|(_, x)| x);
            let (mut minima, mut maxima) = (vec![f32::INFINITY; count], vec![f32::NEG_INFINITY; count]);
            ranges_of_columns(&x, first, &mut minima, &mut maxima);
            let ranges: Vec<Range> = (0..count).map(|c| range_ref(of(c))).collect();
            let found: Vec<Range> = minima.iter().zip(&maxima).map(|(&min, &max)| Range { min, max }).collect();
            prop_assert_eq!(&found, &ranges);
            let params: Vec<ChannelParams> = ranges.iter().map(|&r| spec.params(r)).collect();
            let scales: Vec<f32> = params.iter().map(|p| p.scale).collect();
            let zero_points: Vec<f32> = params.iter().map(|p| p.zero_point.into()).collect();
            let expected: Vec<u8> =
                x.iter().enumerate().map(|(i, &x)| spec.encode_ref(x, params[channel(i)])).collect();
            let mut codes = vec![0x55; x.len()];
            encode_columns(spec, &x, first, (&scales, &zero_points), &mut codes);
            prop_assert_eq!(&codes, &expected);
            codes.fill(0x55);
            encode_columns_body(spec, &x, first, &scales, &zero_points, &mut codes);
            prop_assert_eq!(&codes, &expected);
        }

        #[test]
        fn an_element_is_off_by_half_a_step(spec in specs(), x in prop::collection::vec(-9.0f32..9.0, 1..50)) {
            let params = spec.params(range_of(&x));
            for &x in &x {
                let code = spec.encode_ref(x, params);
                let code = if spec.signed { f32::from(code.cast_signed()) } else { f32::from(code) };
                let back = (code - f32::from(params.zero_point)) * params.scale;
                // A zero point that was rounded, or a range without a middle code, clips by half a step more.
                let off = if spec.symmetric && spec.signed { 0.5001 } else { 1.0001 };
                prop_assert!((back - x).abs() <= off * params.scale, "{x} became {back}");
            }
        }
    }

    #[test]
    fn a_channel_of_zeros() {
        for symmetric in [true, false] {
            let spec = ChannelSpec {
                signed: false,
                symmetric,
                reduced: false,
            };
            let params = spec.params(Range { min: 0.0, max: 0.0 });
            let zero_point = if symmetric { 128 } else { 0 };
            assert_eq!(
                params,
                ChannelParams {
                    scale: 1.0,
                    zero_point
                }
            );
            assert_eq!(i16::from(spec.encode_ref(0.0, params)), zero_point);
        }
    }

    #[test]
    fn zero_is_exact_and_halves_go_to_even() {
        let spec = ChannelSpec {
            signed: true,
            symmetric: true,
            reduced: false,
        };
        let params = spec.params(Range {
            min: -127.0,
            max: 3.0,
        });
        assert_eq!(
            params,
            ChannelParams {
                scale: 1.0,
                zero_point: 0
            }
        );
        let codes = [0.0, 0.5, 1.5, -2.5, -127.0].map(|x| spec.encode_ref(x, params).cast_signed());
        assert_eq!(codes, [0, 0, 2, -2, -127]);
    }
}
