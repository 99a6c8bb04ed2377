//! The rule, on [`LANES`] blocks at once: range of a block, scale and zero point from the
//! range, code from scale and zero point.
//!
//! Fixed arrays and no branches, so that each loop becomes a few vector instructions.

use super::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::spec::{BlockSpec, ScaleType};

/// Blocks that are computed side by side: one cache line of `f32`, two AVX2 registers.
pub(super) const LANES: usize = 16;

/// Bits of infinity; those of a NaN are above.
const INFINITY: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;

/// Range of each lane's values.
///
/// Kept as bit patterns. As `i32` the largest pattern is that of the largest value with
/// sign +; as `u32` that of the most negative one, if any has sign -. Unlike float
/// minimum and maximum these also keep every NaN and infinity, for two instructions.
#[derive(Clone, Copy)]
pub(super) struct Ranges {
    high: [i32; LANES],
    low: [u32; LANES],
}

impl Ranges {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            high: [i32::MIN; LANES],
            low: [0; LANES],
        }
    }

    /// Takes one value into each lane.
    #[inline(always)]
    pub(super) fn add(&mut self, x: &[f32; LANES]) {
        for i in 0..LANES {
            let bits = x[i].to_bits();
            self.high[i] = self.high[i].max(bits.cast_signed());
            self.low[i] = self.low[i].max(bits);
        }
    }

    /// Sets lane `i` to the range of all lanes of `other`.
    #[inline(always)]
    pub(super) fn set(&mut self, i: usize, other: &Self) {
        self.high[i] = other.high.iter().fold(i32::MIN, |a, &b| a.max(b));
        self.low[i] = other.low.iter().fold(0, |a, &b| a.max(b));
    }
}

/// What each lane's elements are coded with.
pub(super) struct Params {
    /// The scales as they are stored, in the low bits.
    pub(super) scales: [u32; LANES],
    /// Reciprocals of the stored scales; 0 for scale 0.
    pub(super) reciprocals: [f32; LANES],
    /// Zero points.
    pub(super) zero_points: [f32; LANES],
    /// Some lane has a NaN, an infinity, or a scale that overflows.
    pub(super) refused: bool,
}

/// Scales and zero points from ranges. `first` is the first value of each lane: the sign
/// of the scale of an all-zero block depends on it.
#[inline(always)]
pub(super) fn params(spec: &BlockSpec, ranges: &Ranges, first: &[f32; LANES]) -> Params {
    let mut refused = 0;
    let mut scales = [0.0; LANES];
    let mut zero_points = [f32::from(spec.mid()); LANES];
    if spec.symmetric() {
        // A division by a power of two is a multiplication by its inverse.
        let factor = -1.0 / f32::from(spec.mid());
        for i in 0..LANES {
            let high = ranges.high[i].max(0).cast_unsigned();
            let low = if ranges.low[i] < SIGN {
                0
            } else {
                ranges.low[i]
            };
            let below = low & !SIGN;
            refused |= u32::from(high.max(below) >= INFINITY);
            let widest = if high > below { high } else { below | SIGN };
            // All zero: `high` and `below` are, and the sign is the first element's.
            let widest = if high | below == 0 {
                first[i].to_bits()
            } else {
                widest
            };
            // Without a negative value, a tie is impossible unless all are zero.
            scales[i] = f32::from_bits(widest) * factor;
        }
    } else {
        let max_code = f32::from(spec.max_code());
        for i in 0..LANES {
            let high = ranges.high[i].max(0).cast_unsigned();
            let low = if ranges.low[i] < SIGN {
                0
            } else {
                ranges.low[i]
            };
            refused |= u32::from(high.max(low & !SIGN) >= INFINITY);
            let (min, max) = (f32::from_bits(low), f32::from_bits(high));
            let scale = (max - min) / max_code;
            // The zero point is that of the scale before it is rounded to its type.
            let zero_point = if scale == 0.0 { min } else { 0.0 - min / scale };
            scales[i] = scale;
            zero_points[i] = f32::from(round(zero_point, max_code) as u8);
        }
    }

    let mut stored = [0; LANES];
    let mut reciprocals = [0.0; LANES];
    match spec.scale() {
        ScaleType::F32 => {
            for i in 0..LANES {
                stored[i] = scales[i].to_bits();
            }
        }
        ScaleType::F16 => {
            for i in 0..LANES {
                let h = f32_to_f16(scales[i]);
                stored[i] = u32::from(h);
                scales[i] = f16_to_f32(h);
            }
        }
        ScaleType::BF16 => {
            for i in 0..LANES {
                let h = f32_to_bf16(scales[i]);
                stored[i] = u32::from(h);
                scales[i] = bf16_to_f32(h);
            }
        }
    }
    for i in 0..LANES {
        refused |= u32::from(scales[i].to_bits() & !SIGN >= INFINITY);
        reciprocals[i] = if scales[i] == 0.0 {
            0.0
        } else {
            1.0 / scales[i]
        };
    }
    Params {
        scales: stored,
        reciprocals,
        zero_points,
        refused: refused != 0,
    }
}

/// `y` clamped to `0..=max_code` and rounded to nearest, halves up; 0 for NaN.
#[inline(always)]
pub(super) fn round(y: f32, max_code: f32) -> u32 {
    // The largest float below one half: with one half itself, 0.49999997 would become 1.
    const BELOW_HALF: f32 = 0.499_999_97;
    // Clamping to integers first gives the same as after rounding, and `max` drops NaN.
    let y = y.max(0.0).min(max_code) + BELOW_HALF;
    // SAFETY: `y` is between 0 and 255.5, so it is not NaN and its integer part is an
    // i32. The checked conversion costs three more instructions per register.
    unsafe { y.to_int_unchecked::<i32>() }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_is_round_and_clamp() {
        let mut cases = vec![
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            -0.0,
        ];
        for half in -4..=1024 {
            let x = half as f32 * 0.5;
            cases.extend([x, x.next_up(), x.next_down(), x + 0.25]);
        }
        for max_code in [3.0, 15.0, 255.0] {
            for &y in &cases {
                let want = y.round().clamp(0.0, max_code);
                let want = if want.is_nan() { 0 } else { want as u32 };
                assert_eq!(round(y, max_code), want, "{y:e} up to {max_code}");
            }
        }
    }
}
