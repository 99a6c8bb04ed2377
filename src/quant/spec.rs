//! What a block quantization is: bits, block, symmetry, type of the scales.

use std::fmt;

use super::scales::{scale_bits, store_scales};

/// Type of the scales, and so of what the codes are decoded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
}

impl ScaleType {
    /// Bytes of one scale.
    pub const fn size(self) -> usize {
        match self {
            ScaleType::F32 => 4,
            ScaleType::F16 | ScaleType::BF16 => 2,
        }
    }
}

/// A validated block quantization.
///
/// The bounds are those that ONNX Runtime's `MatMulNBits` accepts on its CPU provider:
/// 2, 4 or 8 bits, blocks of 16 to 256 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSpec {
    bits: u8,
    block: usize,
    symmetric: bool,
    scale: ScaleType,
    float_zero_points: bool,
}

/// A block quantization that no runtime would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// `bits` is not 2, 4 or 8.
    Bits(u8),
    /// `block` is not a power of two from 16 to 256.
    Block(usize),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Bits(bits) => write!(f, "bits is {bits}; expected 2, 4 or 8"),
            SpecError::Block(block) => {
                write!(
                    f,
                    "block is {block}; expected 16, 32, 64, 128 or 256 elements"
                )
            }
        }
    }
}

impl std::error::Error for SpecError {}

impl BlockSpec {
    /// Longest block, in elements.
    pub const MAX_BLOCK: usize = 256;

    /// Checks and makes a specification.
    ///
    /// # Errors
    ///
    /// [`SpecError`] when `bits` is not 2, 4 or 8, or `block` is not a power of two from
    /// 16 to 256.
    pub const fn new(
        bits: u8,
        block: usize,
        symmetric: bool,
        scale: ScaleType,
    ) -> Result<Self, SpecError> {
        if !matches!(bits, 2 | 4 | 8) {
            return Err(SpecError::Bits(bits));
        }
        if !matches!(block, 16 | 32 | 64 | 128 | 256) {
            return Err(SpecError::Block(block));
        }
        Ok(Self {
            bits,
            block,
            symmetric,
            scale,
            float_zero_points: false,
        })
    }

    /// The same with zero points that are numbers of the scales' type, one a block, and not
    /// packed codes; of a symmetric specification, which has none, the same.
    #[must_use]
    pub const fn with_float_zero_points(self) -> Self {
        Self {
            float_zero_points: !self.symmetric,
            ..self
        }
    }

    /// Whether zero points are numbers of the scales' type.
    pub const fn float_zero_points(&self) -> bool {
        self.float_zero_points
    }

    /// Bits of one code.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Elements that share one scale.
    pub const fn block(&self) -> usize {
        self.block
    }

    /// Whether the zero point is always [`Self::mid`], and none is stored.
    pub const fn symmetric(&self) -> bool {
        self.symmetric
    }

    /// Type of the scales.
    pub const fn scale(&self) -> ScaleType {
        self.scale
    }

    /// Largest code, `2^bits - 1`.
    pub const fn max_code(&self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }

    /// Zero point of a symmetric block, `2^(bits-1)`; what the runtime assumes when it is
    /// given no zero points.
    pub const fn mid(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Blocks of one row of `k` elements, the last one padded: `ceil(k / block)`.
    pub const fn blocks(&self, k: usize) -> usize {
        k.div_ceil(self.block)
    }

    /// Bytes of one block of codes.
    pub const fn blob(&self) -> usize {
        self.block * self.bits as usize / 8
    }

    /// Bytes of the codes of an `[n, k]` matrix.
    pub const fn codes_len(&self, n: usize, k: usize) -> usize {
        n * self.blocks(k) * self.blob()
    }

    /// Bytes of the scales of an `[n, k]` matrix.
    pub const fn scales_len(&self, n: usize, k: usize) -> usize {
        n * self.blocks(k) * self.scale.size()
    }

    /// Bytes of the zero points of an `[n, k]` matrix: 0 when symmetric; as many as those of
    /// the scales when they are floats; else each row of N padded to a byte.
    pub const fn zero_points_len(&self, n: usize, k: usize) -> usize {
        n * self.zero_points_row(k)
    }

    /// Sets the zero point of a block of one row. Codes have to come in order of blocks: the
    /// first of a byte sets the rest of that byte to [`Self::mid`], which stays where the row ends.
    #[inline(always)]
    pub(super) fn put_zero_point(&self, row: &mut [u8], block: usize, zero_point: f32) {
        if self.float_zero_points {
            let at = block * self.scale.size();
            let bits = [scale_bits(self.scale, zero_point)];
            return store_scales(self.scale, bits.into_iter(), &mut row[at..]);
        }
        let bits = u32::from(self.bits);
        let bit = block * bits as usize;
        let shift = bit as u32 % 8;
        let byte = &mut row[bit / 8];
        let before = if shift == 0 {
            // `mid` in every place: 0xaa, 0x88 or 0x80.
            (0xff / u32::from(self.max_code()) * u32::from(self.mid())) as u8
        } else {
            *byte
        };
        *byte = before & !(self.max_code() << shift) | (zero_point as u8) << shift;
    }

    /// Bytes of the zero points of one row of `k` elements.
    pub(super) const fn zero_points_row(&self, k: usize) -> usize {
        if self.symmetric {
            0
        } else if self.float_zero_points {
            self.blocks(k) * self.scale.size()
        } else {
            (self.blocks(k) * self.bits as usize).div_ceil(8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_runtime_takes() {
        for bits in 0..=255 {
            let made = BlockSpec::new(bits, 32, true, ScaleType::F32);
            assert_eq!(made.is_ok(), [2, 4, 8].contains(&bits), "{bits} bits");
        }
        for block in 0..=1024 {
            let made = BlockSpec::new(4, block, true, ScaleType::F32);
            let right = block.is_power_of_two() && (16..=256).contains(&block);
            assert_eq!(made.is_ok(), right, "block {block}");
        }
    }

    #[test]
    fn messages() {
        let bits = BlockSpec::new(3, 16, true, ScaleType::F32).unwrap_err();
        assert_eq!(bits.to_string(), "bits is 3; expected 2, 4 or 8");
        let block = BlockSpec::new(4, 8, true, ScaleType::F32).unwrap_err();
        assert_eq!(
            block.to_string(),
            "block is 8; expected 16, 32, 64, 128 or 256 elements"
        );
    }

    #[test]
    fn sizes() {
        let spec = BlockSpec::new(4, 16, false, ScaleType::F16).unwrap();
        // 3 blocks per row: 24 bytes of codes, 6 of scales, 2 of zero points.
        assert_eq!(spec.blocks(40), 3);
        assert_eq!(spec.codes_len(5, 40), 5 * 24);
        assert_eq!(spec.scales_len(5, 40), 5 * 6);
        assert_eq!(spec.zero_points_len(5, 40), 5 * 2);
        assert_eq!((spec.mid(), spec.max_code()), (8, 15));

        assert_eq!(spec.with_float_zero_points().zero_points_len(5, 40), 5 * 6);

        let spec = BlockSpec::new(8, 256, true, ScaleType::F32).unwrap();
        assert_eq!(spec.with_float_zero_points(), spec);
        assert_eq!(spec.codes_len(2, 257), 2 * 512);
        assert_eq!(spec.scales_len(2, 257), 2 * 8);
        assert_eq!(spec.zero_points_len(2, 257), 0);
        assert_eq!((spec.mid(), spec.max_code()), (128, 255));
        assert_eq!(spec.codes_len(0, 7) + spec.codes_len(7, 0), 0);
    }
}
