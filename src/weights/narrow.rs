//! The recipe that makes a weight of another floating-point type a half-precision one while it
//! is written.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;

use super::floats::{read_floats, round_floats};
use crate::{
    error::Result,
    ir::{Data, DataType, Produce, data::DataIdentity},
    quant,
};

/// Elements of a tile: 512 KiB of float to read, which a core's cache holds while it is converted.
const TILE: u64 = 1 << 17;

/// Bytes of a half.
const HALF: u64 = 2;

/// The largest number of half precision.
pub const HALF_MAX: f64 = 65504.0;

/// From here on a number becomes infinite in half precision: half way from the largest to the
/// next power of two.
const BEYOND: f64 = 65520.0;

/// Bytes of an element of `dtype`.
fn width(dtype: DataType) -> u64 {
    dtype.bits() / 8
}

/// Elements of another floating-point type as half ones.
#[derive(Debug)]
struct ToHalf {
    source: Data,
    dtype: DataType,
}

impl ToHalf {
    /// Converts the elements from `first` on into `out`.
    fn convert(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let width = width(self.dtype);
        let len = out.len() / HALF as usize * width as usize;
        let source = &self.source;
        source.with_range(first * width, len, |bytes| narrow(self.dtype, bytes, out))
    }
}

/// Rounds the elements in `bytes` once, to nearest even. What is finite and too large becomes
/// the largest number of its sign.
fn narrow(dtype: DataType, bytes: &[u8], out: &mut [u8]) {
    match dtype {
        DataType::Float => quant::f16_from_f32(bytes, out),
        DataType::Bfloat16 => {
            let blocks = bytes.chunks(BLOCK).zip(out.chunks_mut(BLOCK));
            blocks
                .for_each(|(bytes, out)| widened(bytes, |floats| quant::f16_from_f32(floats, out)));
        }
        _ => {
            let clamp = |x: f64| match x.is_finite() {
                true => x.clamp(-HALF_MAX, HALF_MAX),
                false => x,
            };
            let elements = bytes.as_chunks().0.iter();
            let elements = elements.map(|b| clamp(f64::from_le_bytes(*b)));
            round_floats(DataType::Float16, elements, out);
        }
    }
}

/// Bytes of bfloat16 that are made floats at a time.
const BLOCK: usize = 2048;

/// Calls `then` with the bfloat16 elements `bytes`, at most [`BLOCK`] bytes, as floats: a
/// bfloat16 is the upper half of one.
fn widened(bytes: &[u8], then: impl FnOnce(&[u8])) {
    let mut floats = [0; 2 * BLOCK];
    for (b, wide) in bytes
        .as_chunks::<2>()
        .0
        .iter()
        .zip(floats.as_chunks_mut::<4>().0)
    {
        wide[2..].copy_from_slice(b);
    }
    then(&floats[..2 * bytes.len()]);
}

impl Produce for ToHalf {
    fn source(&self) -> Option<&Data> {
        Some(&self.source)
    }

    fn len(&self, _: usize) -> u64 {
        self.source.len() / width(self.dtype) * HALF
    }

    fn tiles(&self) -> u64 {
        self.len(0).div_ceil(TILE * HALF)
    }

    fn range(&self, tile: u64, _: usize) -> Range<u64> {
        let tile_len = TILE * HALF;
        tile * tile_len..((tile + 1) * tile_len).min(self.len(0))
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        self.convert(tile * TILE, out[0])
    }

    /// Any elements can be had alone: a quantizer that goes down columns reads short
    /// stretches, and whole tiles for each would take it ages.
    fn read_at(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        if offset.is_multiple_of(HALF) && end.is_multiple_of(HALF) {
            return self.convert(offset / HALF, out);
        }
        let first = offset / HALF;
        let mut whole = vec![0; (end.div_ceil(HALF) - first) as usize * HALF as usize];
        self.convert(first, &mut whole)?;
        let skipped = (offset - first * HALF) as usize;
        out.copy_from_slice(&whole[skipped..skipped + out.len()]);
        Ok(())
    }
}

/// Makes the recipes; weights with the same bytes get the same one, so that what was shared
/// stays shared.
#[derive(Default)]
pub struct HalfRecipes {
    made: HashMap<(DataIdentity, DataType), Arc<dyn Produce>>,
}

impl HalfRecipes {
    /// The elements of `source`, of type `dtype`, in half precision, rounded to nearest even.
    /// What is finite and too large becomes the largest number of its sign.
    ///
    /// # Panics
    /// When `dtype` is none of float, double and bfloat16.
    pub fn convert(&mut self, source: &Data, dtype: DataType) -> Data {
        check(dtype);
        let make = || -> Arc<dyn Produce> {
            Arc::new(ToHalf {
                source: source.clone(),
                dtype,
            })
        };
        // The recipe keeps its source alive, so its identity stays its own.
        let made = self.made.entry((source.identity(), dtype));
        let recipe = made.or_insert_with(make).clone();
        Data::Computed { recipe, output: 0 }
    }
}

fn check(dtype: DataType) {
    use DataType::{Bfloat16, Double, Float};
    assert!(
        matches!(dtype, Float | Double | Bfloat16),
        "{dtype} is no type that becomes half"
    );
}

/// What was found of constants by reading them all: passes that run on copies of a model read each
/// once. A constant is known by its origin, so what is kept holds its data alive.
#[derive(Debug, Default)]
pub struct HalfScans(Mutex<HashMap<(DataIdentity, DataType), (Data, Beyond)>>);

impl HalfScans {
    /// The elements of `source`, which is of type `dtype`, that are finite and too large for half.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn beyond_half(&self, source: &Data, dtype: DataType) -> Result<Beyond> {
        let key = (source.identity(), dtype);
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known().get(&key) {
            return Ok(*found);
        }
        // Not under the lock: others scan other constants meanwhile.
        let found = beyond_half(source, dtype)?;
        known().insert(key, (source.clone(), found));
        Ok(found)
    }
}

/// The elements of a constant that are finite and too large for half precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beyond {
    /// How many there are.
    pub count: usize,
    /// The least of their magnitudes.
    pub least: f64,
    /// The largest of their magnitudes.
    pub largest: f64,
}

impl Beyond {
    /// None.
    const NONE: Beyond = Beyond {
        count: 0,
        least: f64::INFINITY,
        largest: 0.0,
    };

    fn and(self, other: Beyond) -> Beyond {
        Beyond {
            count: self.count + other.count,
            least: self.least.min(other.least),
            largest: self.largest.max(other.largest),
        }
    }

    /// Those in `bytes`.
    fn of(dtype: DataType, bytes: &[u8]) -> Beyond {
        let mut found = Beyond::NONE;
        // Of the usual type they are counted first: most weights have none.
        if dtype == DataType::Float && quant::count_beyond_f16(bytes) == 0 {
            return found;
        }
        read_floats(dtype, bytes, |x| {
            let magnitude = x.abs();
            if (BEYOND..f64::INFINITY).contains(&magnitude) {
                found = found.and(Beyond {
                    count: 1,
                    least: magnitude,
                    largest: magnitude,
                });
            }
        });
        found
    }
}

/// Which of the elements of `source`, of type `dtype`, are finite and too large for half
/// precision. Reads all of it, on all threads, in pieces.
///
/// # Errors
/// It cannot be read.
///
/// # Panics
/// When `dtype` is none of float, double and bfloat16.
fn beyond_half(source: &Data, dtype: DataType) -> Result<Beyond> {
    check(dtype);
    let step = TILE * width(dtype);
    let piece = |i: u64| {
        let from = i * step;
        let len = step.min(source.len() - from) as usize;
        source.with_range(from, len, |bytes| Beyond::of(dtype, bytes))
    };
    let pieces = (0..source.len().div_ceil(step)).into_par_iter();
    pieces
        .map(piece)
        .try_reduce(|| Beyond::NONE, |a, b| Ok(a.and(b)))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn floats(elements: impl Iterator<Item = f32>) -> Data {
        let bytes: Vec<u8> = elements.flat_map(f32::to_le_bytes).collect();
        Data::Bytes(bytes.into())
    }

    #[test]
    fn any_range_is_what_the_tiles_make() {
        let count = TILE as usize * 2 + 77;
        let element = |i: usize| (i as f32 - 1000.0) * 0.237;
        let source = floats((0..count).map(element));
        let half = HalfRecipes::default().convert(&source, DataType::Float);
        let all: Vec<u8> = (0..count)
            .flat_map(|i| f16::from_f32(element(i)).to_le_bytes())
            .collect();
        let Data::Computed { recipe, .. } = &half else {
            panic!("a recipe")
        };
        let mut made = Vec::new();
        for tile in 0..recipe.tiles() {
            let mut out = vec![0; recipe.range(tile, 0).count()];
            recipe.produce(tile, &mut [&mut out]).unwrap();
            made.extend(out);
        }
        assert!(made == all);
        for (from, len) in [(0, 1), (1, 1), (1, 2), (2, 6), (TILE as usize * 2 - 3, 9)] {
            let mut out = vec![0; len];
            half.read_at(from as u64, &mut out).unwrap();
            assert_eq!(out, all[from..from + len], "{len} from {from}");
        }
        assert!(half.read_all().unwrap() == all);
    }

    #[test]
    fn what_was_shared_stays_shared() {
        let (a, b) = (floats([1.0].into_iter()), floats([1.0].into_iter()));
        let mut recipes = HalfRecipes::default();
        let mut convert = |data: &Data| recipes.convert(data, DataType::Float);
        let first = convert(&a);
        assert!(first.is_same(&convert(&a)));
        assert!(!first.is_same(&convert(&b)));
        assert!(!first.is_same(&recipes.convert(&a, DataType::Bfloat16)));
    }

    #[test]
    fn other_types_are_rounded_once() {
        let halves = |data: &Data, dtype| -> Vec<f16> {
            let half = HalfRecipes::default().convert(data, dtype);
            let bytes = half.read_all().unwrap();
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b))
                .collect()
        };
        // By way of float, the first would be half way between two halves, and go down.
        let above = 1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40);
        let doubles = [above, 0.1, -1e300, f64::NEG_INFINITY, 65_519.9, 1e-300];
        let bytes: Vec<u8> = doubles.iter().flat_map(|x| x.to_le_bytes()).collect();
        let expected = [
            1.0 + f64::powi(2.0, -10),
            0.1,
            -HALF_MAX,
            f64::NEG_INFINITY,
            HALF_MAX,
            0.0,
        ];
        let found = halves(&Data::Bytes(bytes.into()), DataType::Double);
        assert_eq!(found, expected.map(f16::from_f64));
        // More than a block of every pattern.
        let patterns: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let found = halves(&Data::Bytes(patterns.into()), DataType::Bfloat16);
        for (bits, found) in (0..=u16::MAX).zip(found) {
            let x = half::bf16::from_bits(bits).to_f32();
            let clamped = if x.is_finite() {
                x.clamp(-65504.0, 65504.0)
            } else {
                x
            };
            let expected = f16::from_f32(clamped);
            assert!(found == expected || x.is_nan() && found.is_nan(), "{x}");
        }
    }

    #[test]
    fn elements_beyond_half() {
        let source = floats([1e9, -65520.0, f32::INFINITY, f32::NAN, 65504.0].into_iter());
        let found = beyond_half(&source, DataType::Float).unwrap();
        assert_eq!((found.count, found.least, found.largest), (2, 65520.0, 1e9));
        let none = floats(std::iter::empty());
        assert_eq!(beyond_half(&none, DataType::Float).unwrap(), Beyond::NONE);
        let doubles: Vec<u8> = [1e300, 65519.0]
            .into_iter()
            .flat_map(f64::to_le_bytes)
            .collect();
        let found = beyond_half(&Data::Bytes(doubles.into()), DataType::Double).unwrap();
        assert_eq!((found.count, found.largest), (1, 1e300));
    }
}
