//! The deterministic filler `ramp(seed)`.

use half::{bf16, f16};

use crate::ir::DataType;

/// Prime, so that every value occurs equally often and seeds are told apart by the first
/// element; at most 255, so that the values fit the 8-bit types.
const MODULUS: u64 = 251;
const STEP: u64 = 97;
const SEED_STEP: u64 = 31;
const MIDDLE: i64 = 125;

/// Values over this are exact in every floating-point type, bfloat16 with its 8 bits of
/// precision included.
const SCALE: f32 = 128.0;

/// Seeds are below this.
pub(super) const SEEDS: u64 = MODULUS;

/// From how many elements on the printer looks for a ramp. Fewer could be one by chance,
/// and are short anyway.
pub(super) const SHORTEST: u64 = 8;

/// Whether constants of `dtype` can be filled.
pub(super) fn has_ramp(dtype: DataType) -> bool {
    element(dtype, 0, 0, &mut Vec::new())
}

/// The bytes of `count` elements; `dtype` must have a ramp.
pub(super) fn fill(dtype: DataType, seed: u64, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..count {
        element(dtype, seed, i, &mut out);
    }
    out
}

/// The seed with which `bytes` are a ramp of `count` elements.
pub(super) fn recognize(dtype: DataType, count: u64, bytes: &[u8]) -> Option<u64> {
    if count < SHORTEST || !has_ramp(dtype) {
        return None;
    }
    let width = (dtype.bits() / 8) as usize;
    let is_ramp = |seed: u64, count: u64| {
        let mut expected = Vec::with_capacity(width);
        bytes.chunks(width).zip(0..count).all(|(found, i)| {
            expected.clear();
            element(dtype, seed, i, &mut expected);
            expected == found
        })
    };
    (0..SEEDS).find(|&seed| is_ramp(seed, 1) && is_ramp(seed, count))
}

/// Appends element `i`; false when `dtype` has no ramp.
fn element(dtype: DataType, seed: u64, i: u64, out: &mut Vec<u8>) -> bool {
    use DataType::*;
    let step = (STEP * (i % MODULUS) + SEED_STEP * seed) % MODULUS;
    let signed = step as i64 - MIDDLE;
    let float = signed as f32 / SCALE;
    match dtype {
        Float => out.extend(float.to_le_bytes()),
        Double => out.extend(f64::from(float).to_le_bytes()),
        Float16 => out.extend(f16::from_f32(float).to_le_bytes()),
        Bfloat16 => out.extend(bf16::from_f32(float).to_le_bytes()),
        Int8 | Int16 | Int32 | Int64 => {
            out.extend(&signed.to_le_bytes()[..(dtype.bits() / 8) as usize]);
        }
        Uint8 | Uint16 | Uint32 | Uint64 => {
            out.extend(&step.to_le_bytes()[..(dtype.bits() / 8) as usize]);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_seed_is_recognized_and_values_vary() {
        for dtype in DataType::ALL.into_iter().filter(|t| has_ramp(*t)) {
            for seed in 0..SEEDS {
                let bytes = fill(dtype, seed, 300);
                assert_eq!(recognize(dtype, 300, &bytes), Some(seed), "{dtype}");
                let mut other = bytes.clone();
                *other.last_mut().unwrap() ^= 1;
                assert_eq!(recognize(dtype, 300, &other), None, "{dtype}");
            }
        }
        let floats = fill(DataType::Float, 3, 251);
        let mut bits: Vec<[u8; 4]> = floats.as_chunks().0.to_vec();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), 251);
    }

    #[test]
    fn sixteen_bit_values_are_those_of_float() {
        for i in 0..251 {
            let at = |t| {
                let mut out = Vec::new();
                element(t, 0, i, &mut out);
                out
            };
            let float = f32::from_le_bytes(at(DataType::Float).try_into().unwrap());
            let half = f16::from_le_bytes(at(DataType::Float16).try_into().unwrap());
            let brain = bf16::from_le_bytes(at(DataType::Bfloat16).try_into().unwrap());
            assert_eq!((half.to_f32(), brain.to_f32()), (float, float));
        }
    }
}
