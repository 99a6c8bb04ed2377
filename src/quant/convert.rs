//! Little-endian bytes to `f32`, and `f32` to 16-bit floats, written without branches so
//! that loops over them become vector code on every target.

use super::dispatch::dispatch;

/// binary16 to `f32`. Exact; a NaN stays a NaN.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let rest = u32::from(h & 0x7fff);
    // Not one multiplication by 2^112 for all: it would take denormal operands, which
    // are slow on some processors.
    let normal = (rest << 13) + (112 << 23);
    let denormal =
        (f32::from_bits((rest << 13) + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let bits = if rest < 0x0400 { denormal } else { normal };
    let bits = if rest < 0x7c00 {
        bits
    } else {
        (rest << 13) | 0x7f80_0000
    };
    f32::from_bits(bits | sign)
}

/// bfloat16 to `f32`. Exact.
#[inline(always)]
pub(super) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// binary64 to `f32`, to nearest even.
#[inline(always)]
pub(super) fn f64_to_f32(x: f64) -> f32 {
    x as f32
}

/// `f32` to binary16, to nearest even; too large becomes infinite.
#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits & 0x8000_0000) >> 16) as u16;
    let rest = bits & 0x7fff_ffff;
    // Rebias, then round on the bits: a carry out of the mantissa is right, also into
    // infinity.
    let normal = rest
        .wrapping_sub(112 << 23)
        .wrapping_add(0x0fff + ((rest >> 13) & 1))
        >> 13;
    // At 0.5 the last place of an f32 is 2^-24, binary16's denormal step: the addition
    // rounds.
    let half = 126 << 23;
    let denormal = (f32::from_bits(rest) + f32::from_bits(half))
        .to_bits()
        .wrapping_sub(half);
    let finite = if rest < (113 << 23) { denormal } else { normal };
    let special = if rest > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    sign | if rest < (143 << 23) { finite } else { special } as u16
}

/// `f32` to bfloat16, to nearest even; too large becomes infinite.
#[inline(always)]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x0040;
    (if x.is_nan() { nan } else { rounded }) as u16
}

macro_rules! from_bytes {
    ($(#[$doc:meta])* $name:ident, $body:ident, $item:ty, $n:literal, $convert:expr) => {
        $(#[$doc])*
        ///
        /// # Panics
        ///
        #[doc = concat!("If `bytes` is not ", stringify!($n), " times as long as `out`.")]
        pub fn $name(bytes: &[u8], out: &mut [f32]) {
            assert_eq!(bytes.len(), $n * out.len(), "bytes for {} elements", out.len());
            dispatch!($body(bytes: &[u8], out: &mut [f32]));
        }

        #[inline(always)]
        fn $body(bytes: &[u8], out: &mut [f32]) {
            for (b, x) in bytes.chunks_exact($n).zip(out) {
                *x = $convert(<$item>::from_le_bytes(b.try_into().expect("one element")));
            }
        }
    };
}

from_bytes!(
    /// Little-endian binary32 of any alignment to `f32`.
    f32_from_le, f32_body, f32, 4, core::convert::identity
);
from_bytes!(
    /// Little-endian binary16 of any alignment to `f32`. Exact.
    f32_from_f16, f16_body, u16, 2, f16_to_f32
);
from_bytes!(
    /// Little-endian bfloat16 of any alignment to `f32`. Exact.
    f32_from_bf16, bf16_body, u16, 2, bf16_to_f32
);
from_bytes!(
    /// Little-endian binary64 of any alignment to `f32`, rounded to nearest even; too
    /// large becomes infinite.
    f32_from_f64, f64_body, f64, 8, f64_to_f32
);

/// The least `f32` bits, sign apart, that become infinite as binary16: those of 65520, half
/// way from its largest number, 65504, to the next power of two.
const BEYOND_F16: u32 = 0x477f_f000;

/// Little-endian binary32 of any alignment to little-endian binary16, to nearest even. What
/// is finite and too large becomes the largest number, 65504, of its sign.
///
/// # Panics
/// If `bytes` is not twice as long as `out`.
pub fn f16_from_f32(bytes: &[u8], out: &mut [u8]) {
    assert_eq!(
        bytes.len(),
        2 * out.len(),
        "bytes for {} elements",
        out.len() / 2
    );
    dispatch!(narrow_body(bytes: &[u8], out: &mut [u8]));
}

#[inline(always)]
fn narrow_body(bytes: &[u8], out: &mut [u8]) {
    let elements = bytes.as_chunks::<4>().0.iter();
    for (b, h) in elements.zip(out.as_chunks_mut::<2>().0) {
        let x = f32::from_le_bytes(*b);
        // The largest number is the one before infinity.
        let back = u16::from(is_beyond_f16(x.to_bits()));
        *h = (f32_to_f16(x) - back).to_le_bytes();
    }
}

#[inline(always)]
fn is_beyond_f16(bits: u32) -> bool {
    (BEYOND_F16..0x7f80_0000).contains(&(bits & 0x7fff_ffff))
}

/// How many of these little-endian binary32 elements are finite and become infinite as
/// binary16.
///
/// # Panics
/// If `bytes` is no whole number of elements.
pub fn count_beyond_f16(bytes: &[u8]) -> usize {
    assert_eq!(bytes.len() % 4, 0, "whole elements");
    dispatch!(count_beyond_body(bytes: &[u8]) -> usize)
}

#[inline(always)]
fn count_beyond_body(bytes: &[u8]) -> usize {
    let beyond = |b: &[u8; 4]| usize::from(is_beyond_f16(u32::from_le_bytes(*b)));
    bytes.as_chunks::<4>().0.iter().map(beyond).sum()
}

/// Index of the first NaN or infinity.
pub fn first_nonfinite(x: &[f32]) -> Option<usize> {
    dispatch!(first_nonfinite_body(x: &[f32]) -> Option<usize>)
}

#[inline(always)]
fn first_nonfinite_body(x: &[f32]) -> Option<usize> {
    // 256 elements per look: the test inside a chunk has no exit and becomes vector code.
    for (c, chunk) in x.chunks(256).enumerate() {
        let worst = chunk
            .iter()
            .fold(0, |worst, x| worst.max(x.to_bits() & 0x7fff_ffff));
        if worst >= 0x7f80_0000 {
            let i = chunk.iter().position(|x| !x.is_finite());
            return i.map(|i| 256 * c + i);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16() {
        let raw: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        f32_from_f16(&raw, &mut out);
        for (h, x) in (0..=u16::MAX).zip(&out) {
            let want = half::f16::from_bits(h).to_f32();
            assert!(
                x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan(),
                "{h:#06x}"
            );
        }
        f32_from_bf16(&raw, &mut out);
        for (h, x) in (0..=u16::MAX).zip(&out) {
            let want = half::bf16::from_bits(h).to_f32();
            assert!(
                x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan(),
                "{h:#06x}"
            );
        }
    }

    /// Every f32 whose low bits are one of these: all exponents, and around each tie.
    #[test]
    fn f32_to_16_bits_is_half() {
        for high in 0..=u16::MAX {
            for low in [
                0, 1, 0x0fff, 0x1000, 0x1001, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff,
            ] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                if x.is_nan() {
                    assert!(half::f16::from_bits(f32_to_f16(x)).is_nan());
                    assert!(half::bf16::from_bits(f32_to_bf16(x)).is_nan());
                } else {
                    assert_eq!(f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{x:e}");
                    assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
                }
            }
        }
    }

    #[test]
    fn narrowing_and_what_is_beyond() {
        use half::f16;
        for (x, expected, beyond) in [
            (1.0f32, f16::ONE, 0),
            (65504.0, f16::MAX, 0),
            (65519.996, f16::MAX, 0),
            (65520.0, f16::MAX, 1),
            (-65520.0, f16::MIN, 1),
            (f32::MIN, f16::MIN, 1),
            (f32::INFINITY, f16::INFINITY, 0),
            (f32::NEG_INFINITY, f16::NEG_INFINITY, 0),
            (-0.0, f16::NEG_ZERO, 0),
            (1e-12, f16::ZERO, 0),
        ] {
            let bytes = x.to_le_bytes();
            let mut out = [0; 2];
            f16_from_f32(&bytes, &mut out);
            assert_eq!(u16::from_le_bytes(out), expected.to_bits(), "{x}");
            assert_eq!(count_beyond_f16(&bytes), beyond, "{x}");
        }
        let mut out = [0; 2];
        f16_from_f32(&f32::NAN.to_le_bytes(), &mut out);
        assert!(f16::from_le_bytes(out).is_nan());
        assert_eq!(count_beyond_f16(&f32::NAN.to_le_bytes()), 0);
    }

    #[test]
    fn unaligned_bytes() {
        let x = [1.5f32, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, 3.0];
        let mut raw = vec![0xaa];
        raw.extend(x.iter().flat_map(|x| x.to_le_bytes()));
        let mut out = [0.0; 5];
        f32_from_le(&raw[1..], &mut out);
        assert_eq!(out.map(f32::to_bits), x.map(f32::to_bits));

        let d = [1.0f64 / 3.0, 1e300, -1e-300, f64::NAN];
        let mut raw = vec![0xaa];
        raw.extend(d.iter().flat_map(|x| x.to_le_bytes()));
        let mut out = [0.0; 4];
        f32_from_f64(&raw[1..], &mut out);
        assert_eq!(out[0], 1.0 / 3.0);
        assert_eq!(out[1], f32::INFINITY);
        assert_eq!(out[2].to_bits(), 0x8000_0000);
        assert!(out[3].is_nan());
    }

    #[test]
    fn the_first_nonfinite() {
        let mut x = vec![f32::MAX; 1000];
        assert_eq!(first_nonfinite(&x), None);
        assert_eq!(first_nonfinite(&[]), None);
        for (at, bad) in [
            (999, f32::NAN),
            (700, f32::NEG_INFINITY),
            (256, f32::INFINITY),
            (255, -f32::NAN),
            (0, f32::NAN),
        ] {
            x[at] = bad;
            assert_eq!(first_nonfinite(&x), Some(at));
        }
    }
}
