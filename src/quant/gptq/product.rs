//! The one product that everything here is made of: four rows times a panel of lanes.
//!
//! `C[4, N] = A^T B` with `A` of `[depth, 4]` and `B` of `[depth, N]`, both packed so that a step of
//! the depth reads neighbours. All sums run in the order of the depth, in one accumulator each, and
//! products are rounded before they are added: the bits are the same on every processor and for any
//! division of the work into tasks.

use std::ops::{AddAssign, Mul};

pub(super) use crate::quant::lanes::LANES;

/// Rows of the left factor that are multiplied at once: with [`LANES`] columns that is 8 registers
/// of AVX2 for the sums, and 8 are left for the factors.
pub(super) const QUAD: usize = 4;

/// One column of a panel: the same element of [`LANES`] rows of a weight.
pub(super) type Lanes = [f32; LANES];

/// `C[i][l] = sum over t of a[t][i] * b[t][l]`, as far as the shorter of both goes.
#[inline(always)]
pub(super) fn product<T, const N: usize>(a: &[[T; QUAD]], b: &[[T; N]]) -> [[T; N]; QUAD]
where
    T: Copy + Default + Mul<Output = T> + AddAssign,
{
    let mut sums = [[T::default(); N]; QUAD];
    for (a, b) in a.iter().zip(b) {
        for i in 0..QUAD {
            for l in 0..N {
                sums[i][l] += a[i] * b[l];
            }
        }
    }
    sums
}

/// Largest power of two that is not above `x > 0`, as exponent; 0 for 0.
pub(super) fn exponent(x: f32) -> i32 {
    if x == 0.0 {
        return 0;
    }
    // Every finite `f32` is a normal `f64`.
    ((f64::from(x).to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// `2^exponent`, for the exponents of `f32` and sums of two of them.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dispatch::dispatch;

    #[test]
    fn products_are_sums_in_order() {
        let a: Vec<[f32; QUAD]> = (0..7u8)
            .map(|t| core::array::from_fn(|i| f32::from(t) - i as f32))
            .collect();
        let b: Vec<[f32; 3]> = (0..9u8)
            .map(|t| core::array::from_fn(|l| f32::from(t) * 0.1 + l as f32))
            .collect();
        let got = product(&a, &b);
        for i in 0..QUAD {
            for l in 0..3 {
                let want = (0..7).fold(0.0, |sum, t| sum + a[t][i] * b[t][l]);
                assert_eq!(got[i][l], want);
            }
        }
    }

    fn dispatched(a: &[[f32; QUAD]], b: &[Lanes]) -> [Lanes; QUAD] {
        dispatch!(product(a: &[[f32; QUAD]], b: &[Lanes]) -> [Lanes; QUAD])
    }

    #[test]
    fn the_processor_does_not_matter() {
        let mut x = 1u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x as f32 / 1e9 - 2.0
        };
        let a: Vec<[f32; QUAD]> = (0..999).map(|_| [(); QUAD].map(|()| next())).collect();
        let b: Vec<Lanes> = (0..999).map(|_| [(); LANES].map(|()| next())).collect();
        assert_eq!(dispatched(&a, &b), product(&a, &b));
    }

    #[test]
    fn exponents_of_every_size() {
        for (x, want) in [
            (1.0, 0),
            (1.999, 0),
            (2.0, 1),
            (0.75, -1),
            (f32::MAX, 127),
            (f32::MIN_POSITIVE, -126),
            (f32::from_bits(1), -149),
            (0.0, 0),
        ] {
            assert_eq!(exponent(x), want, "{x:e}");
        }
        assert_eq!(power_of_two(0), 1.0);
        assert_eq!(power_of_two(-298), 2f64.powi(-298));
        assert_eq!(power_of_two(254), 2f64.powi(254));
    }
}
