//! Scales as they are stored.

use std::fmt;

use super::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::dispatch::dispatch;
use super::spec::ScaleType;

/// Writes scales that are already in the form of `scale`, in the low bits.
#[inline(always)]
pub(super) fn store_scales(scale: ScaleType, bits: impl Iterator<Item = u32>, to: &mut [u8]) {
    match scale {
        ScaleType::F32 => {
            for (to, bits) in to.chunks_exact_mut(4).zip(bits) {
                to.copy_from_slice(&bits.to_le_bytes());
            }
        }
        ScaleType::F16 | ScaleType::BF16 => {
            for (to, bits) in to.chunks_exact_mut(2).zip(bits) {
                to.copy_from_slice(&(bits as u16).to_le_bytes());
            }
        }
    }
}

/// `x` rounded to the type of the scales, in the low bits.
#[inline(always)]
pub(super) fn scale_bits(scale: ScaleType, x: f32) -> u32 {
    match scale {
        ScaleType::F32 => x.to_bits(),
        ScaleType::F16 => f32_to_f16(x).into(),
        ScaleType::BF16 => f32_to_bf16(x).into(),
    }
}

/// The inverse of [`scale_bits`].
#[inline(always)]
pub(super) fn scale_value(scale: ScaleType, bits: u32) -> f32 {
    match scale {
        ScaleType::F32 => f32::from_bits(bits),
        ScaleType::F16 => f16_to_f32(bits as u16),
        ScaleType::BF16 => bf16_to_f32(bits as u16),
    }
}

/// Reads the scale at the beginning of `from`.
#[inline(always)]
pub(super) fn read_scale(scale: ScaleType, from: &[u8]) -> f32 {
    let bits = match scale {
        ScaleType::F32 => u32::from_le_bytes([from[0], from[1], from[2], from[3]]),
        ScaleType::F16 | ScaleType::BF16 => u16::from_le_bytes([from[0], from[1]]).into(),
    };
    scale_value(scale, bits)
}

/// A scale that became infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleOverflow {
    /// Position among the scales.
    pub index: usize,
}

impl fmt::Display for ScaleOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scale {} overflows its type", self.index)
    }
}

impl std::error::Error for ScaleOverflow {}

/// Multiplies every scale by `factor`, in `f32`, and rounds it to its type: how the
/// `alpha` of a `Gemm` goes into a quantized weight, whose codes stay.
///
/// # Errors
///
/// [`ScaleOverflow`] for the first scale that is not finite afterwards. The scales are
/// then unspecified.
///
/// # Panics
///
/// If `scales` is not a whole number of scales.
pub fn multiply_scales(
    scale: ScaleType,
    scales: &mut [u8],
    factor: f32,
) -> Result<(), ScaleOverflow> {
    assert_eq!(scales.len() % scale.size(), 0, "bytes of whole scales");
    dispatch!(multiply_body(scale: ScaleType, scales: &mut [u8], factor: f32) -> Result<(), ScaleOverflow>)
}

#[inline(always)]
fn multiply_body(scale: ScaleType, scales: &mut [u8], factor: f32) -> Result<(), ScaleOverflow> {
    for (index, bytes) in scales.chunks_exact_mut(scale.size()).enumerate() {
        let bits = scale_bits(scale, read_scale(scale, bytes) * factor);
        bytes.copy_from_slice(&bits.to_le_bytes()[..scale.size()]);
        if !read_scale(scale, bytes).is_finite() {
            return Err(ScaleOverflow { index });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn products_are_rounded_once() {
        let mut raw: Vec<u8> = [1.0f32, -0.3, 0.0, 1e-40]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        multiply_scales(ScaleType::F32, &mut raw, 0.1).unwrap();
        let want = [0.1f32, -0.3 * 0.1, 0.0, 1e-40 * 0.1];
        let want: Vec<u8> = want.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(raw, want);

        let x = f16::from_f32(0.3);
        let mut raw = x.to_le_bytes();
        multiply_scales(ScaleType::F16, &mut raw, 0.7).unwrap();
        assert_eq!(raw, f16::from_f32(x.to_f32() * 0.7).to_le_bytes());

        let x = bf16::from_f32(0.3);
        let mut raw = x.to_le_bytes();
        multiply_scales(ScaleType::BF16, &mut raw, -0.7).unwrap();
        assert_eq!(raw, bf16::from_f32(x.to_f32() * -0.7).to_le_bytes());
    }

    #[test]
    fn overflow_is_reported() {
        let scales = [f16::ONE, f16::MAX, f16::ONE];
        let mut raw: Vec<u8> = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
        let error = multiply_scales(ScaleType::F16, &mut raw, 1.5).unwrap_err();
        assert_eq!(error, ScaleOverflow { index: 1 });
        assert_eq!(error.to_string(), "scale 1 overflows its type");
    }
}
