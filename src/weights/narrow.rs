//! The recipe that makes a float weight a half-precision one while it is written.

use std::{cell::RefCell, collections::HashMap, ops::Range, sync::Arc};

use rayon::prelude::*;

use crate::{
    error::Result,
    ir::{Data, Produce, data::DataIdentity},
    quant,
};

/// Elements of a tile: 512 KiB to read, which a core's cache holds while it is converted.
const TILE: u64 = 1 << 17;

/// Bytes of a float.
const FLOAT: u64 = 4;
/// Bytes of its half.
const HALF: u64 = 2;

/// Float elements as half ones.
#[derive(Debug)]
struct ToHalf {
    source: Data,
}

impl ToHalf {
    /// Converts the elements from `first` on into `out`.
    fn convert(&self, first: u64, out: &mut [u8]) -> Result<()> {
        with_range(&self.source, first * FLOAT, out.len() * 2, |bytes| {
            quant::f16_from_f32(bytes, out);
        })
    }
}

impl Produce for ToHalf {
    fn source(&self) -> Option<&Data> {
        Some(&self.source)
    }

    fn len(&self, _: usize) -> u64 {
        self.source.len() / FLOAT * HALF
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
    made: HashMap<DataIdentity, Arc<dyn Produce>>,
}

impl HalfRecipes {
    /// The float elements `source` in half precision, rounded to nearest even. What is finite
    /// and too large becomes the largest number of its sign.
    pub fn convert(&mut self, source: &Data) -> Data {
        let make = || -> Arc<dyn Produce> {
            Arc::new(ToHalf {
                source: source.clone(),
            })
        };
        // The recipe keeps its source alive, so its identity stays its own.
        let made = self.made.entry(source.identity());
        let recipe = made.or_insert_with(make).clone();
        Data::Computed { recipe, output: 0 }
    }
}

/// How many of the float elements `source` are finite and too large for half precision. Reads
/// all of it, on all threads, in pieces.
///
/// # Errors
/// It cannot be read.
pub fn count_beyond_half(source: &Data) -> Result<usize> {
    let step = TILE * FLOAT;
    let count = |i: u64| {
        let from = i * step;
        let len = step.min(source.len() - from) as usize;
        let mut found = 0;
        with_range(source, from, len, |bytes| {
            found = quant::count_beyond_f16(bytes);
        })?;
        Ok(found)
    };
    let pieces = 0..source.len().div_ceil(step);
    pieces.into_par_iter().map(count).sum()
}

/// Calls `then` with `len` bytes of `source` from `offset` on: in place when they are in
/// memory, else read into a buffer of the thread's own.
pub(super) fn with_range(
    source: &Data,
    offset: u64,
    len: usize,
    then: impl FnOnce(&[u8]),
) -> Result<()> {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    if let Data::Bytes(bytes) = source {
        then(&bytes[offset as usize..][..len]);
        return Ok(());
    }
    // Taken, not borrowed: the source may be a recipe of this kind itself.
    let mut buffer = BUFFER.take();
    buffer.resize(len, 0);
    let read = source.read_at(offset, &mut buffer);
    if read.is_ok() {
        then(&buffer);
    }
    BUFFER.set(buffer);
    read
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
        let half = HalfRecipes::default().convert(&source);
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
        let first = recipes.convert(&a);
        assert!(first.is_same(&recipes.convert(&a)));
        assert!(!first.is_same(&recipes.convert(&b)));
    }

    #[test]
    fn elements_beyond_half() {
        let source = floats([1e9, -65520.0, f32::INFINITY, f32::NAN, 65504.0].into_iter());
        assert_eq!(count_beyond_half(&source).unwrap(), 2);
        assert_eq!(count_beyond_half(&floats(std::iter::empty())).unwrap(), 0);
    }
}
