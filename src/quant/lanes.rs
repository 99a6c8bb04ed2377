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
        for (x, (high, low)) in x.iter().zip(self.high.iter_mut().zip(&mut self.low)) {
            let bits = x.to_bits();
            *high = (*high).max(bits.cast_signed());
            *low = (*low).max(bits);
        }
    }

    /// The least element of each lane and the largest, or 0 where 0 is beyond; of finite ones.
    #[inline(always)]
    pub(super) fn bounds(&self) -> ([f32; LANES], [f32; LANES]) {
        let low = self.low.map(|low| if low < SIGN { 0 } else { low });
        let high = self.high.map(|high| high.max(0).cast_unsigned());
        (low.map(f32::from_bits), high.map(f32::from_bits))
    }

    /// Ranges of up to [`LANES`] blocks of `block` elements that lie one after another, one
    /// to a lane.
    #[inline(always)]
    pub(super) fn of_blocks(x: &[f32], block: usize) -> Self {
        if block < 64 {
            Self::of_short_blocks(x, block)
        } else {
            Self::of_long_blocks(x, block)
        }
    }

    /// Reduces in pieces of 64: a constant, as the compiler wants to make vector code of
    /// it, and long enough that it does not unroll it into scalars instead.
    #[inline(always)]
    fn of_long_blocks(x: &[f32], block: usize) -> Self {
        let mut ranges = Self::new();
        for (i, block) in x.chunks_exact(block).enumerate() {
            let (mut high, mut low) = (i32::MIN, 0);
            for piece in block.as_chunks::<64>().0 {
                let bits = piece.map(f32::to_bits);
                high = bits.iter().fold(high, |a, b| a.max(b.cast_signed()));
                low = bits.iter().fold(low, |a, &b| a.max(b));
            }
            (ranges.high[i], ranges.low[i]) = (high, low);
        }
        ranges
    }

    /// Reduces in steps that are stored, each for all blocks before the next: a short
    /// reduction that stays in registers is unrolled into scalars, at half the speed.
    #[inline(always)]
    fn of_short_blocks(x: &[f32], block: usize) -> Self {
        let mut high = [[i32::MIN; 8]; LANES];
        let mut low = [[0; 8]; LANES];
        for (block, (high, low)) in x.chunks_exact(block).zip(high.iter_mut().zip(&mut low)) {
            let (mut h, mut l) = ([i32::MIN; 8], [0; 8]);
            for x in block.as_chunks::<8>().0 {
                for j in 0..8 {
                    h[j] = h[j].max(x[j].to_bits().cast_signed());
                    l[j] = l[j].max(x[j].to_bits());
                }
            }
            (*high, *low) = (h, l);
        }
        let (high, low): ([[_; 4]; LANES], [[_; 4]; LANES]) = (halved(&high), halved(&low));
        let (high, low): ([[_; 2]; LANES], [[_; 2]; LANES]) = (halved(&high), halved(&low));
        Self {
            high: high.map(|[a, b]| a.max(b)),
            low: low.map(|[a, b]| a.max(b)),
        }
    }
}

/// The larger of the elements of the first and the second half of each row.
#[inline(always)]
fn halved<T: Ord + Copy + Default, const N: usize, const HALF: usize>(
    x: &[[T; N]; LANES],
) -> [[T; HALF]; LANES] {
    let mut halves = [[T::default(); HALF]; LANES];
    for (x, half) in x.iter().zip(&mut halves) {
        for j in 0..HALF {
            half[j] = x[j].max(x[j + HALF]);
        }
    }
    halves
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
            // A block of zeros has the sign of its first element.
            let widest = if high | below == 0 {
                first[i].to_bits()
            } else {
                widest
            };
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
