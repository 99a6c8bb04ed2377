//! The recipe that multiplies each channel of a weight by a factor while it is written.

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::floats::{read_floats, round_floats};
use crate::{
    error::Result,
    ir::{Data, DataType, Produce},
};

/// Elements of a tile.
const TILE: u64 = 1 << 17;

/// Which channel each element of a weight belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Channels {
    /// Neighbouring elements that belong to the same channel.
    pub run: u64,
    /// Channels of a group: after that many runs the first one comes again.
    pub count: u64,
    /// Elements of a group, whose channels are its own.
    pub group: u64,
}

impl Channels {
    /// The channel of an element.
    pub(super) fn of(&self, element: u64) -> u64 {
        element / self.group * self.count + element / self.run % self.count
    }

    /// Calls `each` with the channel and the places of every run among `elements`.
    pub(super) fn runs(&self, elements: Range<u64>, mut each: impl FnMut(usize, Range<usize>)) {
        let mut at = elements.start;
        while at < elements.end {
            let end = ((at / self.run + 1) * self.run).min(elements.end);
            let place = |i: u64| (i - elements.start) as usize;
            each(self.of(at) as usize, place(at)..place(end));
            at = end;
        }
    }
}

/// A weight of floating-point elements times a factor for each channel, computed in double
/// precision and rounded once to the weight's type.
#[derive(Clone, Debug)]
pub struct ScaleChannels {
    source: Data,
    dtype: DataType,
    channels: Channels,
    factors: Vec<f64>,
}

impl ScaleChannels {
    /// Multiplies the elements `source` of type `dtype`.
    ///
    /// # Panics
    /// When `dtype` is no floating-point type that weights come in, or a channel has no factor.
    pub fn new(
        source: &Data,
        dtype: DataType,
        channels: Channels,
        factors: Vec<f64>,
    ) -> ScaleChannels {
        assert!(dtype.is_float(), "{dtype} is a floating-point type");
        let recipe = ScaleChannels {
            source: source.clone(),
            dtype,
            channels,
            factors,
        };
        let groups = recipe.elements().div_ceil(channels.group.max(1));
        assert!(
            recipe.factors.len() as u64 >= groups * channels.count,
            "every channel has a factor"
        );
        recipe
    }

    /// The products as a constant's data.
    pub fn into_data(self) -> Data {
        Data::Computed {
            recipe: Arc::new(self),
            output: 0,
        }
    }

    /// The largest magnitude in each channel of the source; NaN does not count. Reads all of
    /// it, on all threads, in pieces.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn largest(&self) -> Result<Vec<f64>> {
        let largest = |tile: u64| {
            let mut found = vec![0f64; self.factors.len()];
            self.with_elements(tile * TILE, self.tile_len(tile), |elements, range| {
                self.channels.runs(range, |channel, place| {
                    let magnitudes = elements[place].iter().map(|x| x.abs());
                    found[channel] = magnitudes.fold(found[channel], f64::max);
                });
            })?;
            Ok(found)
        };
        let tiles = (0..self.tiles()).into_par_iter().map(largest);
        tiles.try_reduce(
            || vec![0.0; self.factors.len()],
            |a, b| Ok(a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect()),
        )
    }

    fn element(&self) -> u64 {
        self.dtype.bits() / 8
    }

    fn elements(&self) -> u64 {
        self.source.len() / self.element()
    }

    fn tile_len(&self, tile: u64) -> u64 {
        TILE.min(self.elements() - tile * TILE)
    }

    /// Calls `then` with `count` elements of the source from `first` on.
    fn with_elements(
        &self,
        first: u64,
        count: u64,
        then: impl FnOnce(&mut [f64], Range<u64>),
    ) -> Result<()> {
        let size = self.element();
        let mut elements = Vec::with_capacity(count as usize);
        let read = |bytes: &[u8]| read_floats(self.dtype, bytes, |x| elements.push(x));
        self.source
            .with_range(first * size, (count * size) as usize, read)?;
        then(&mut elements, first..first + count);
        Ok(())
    }

    /// Writes the products from element `first` on into `out`.
    fn multiply(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let count = out.len() as u64 / self.element();
        self.with_elements(first, count, |elements, range| {
            self.channels.runs(range, |channel, place| {
                elements[place]
                    .iter_mut()
                    .for_each(|x| *x *= self.factors[channel]);
            });
            round_floats(self.dtype, elements.iter().copied(), out);
        })
    }
}

impl Produce for ScaleChannels {
    fn source(&self) -> Option<&Data> {
        Some(&self.source)
    }

    fn len(&self, _: usize) -> u64 {
        self.source.len()
    }

    fn tiles(&self) -> u64 {
        self.elements().div_ceil(TILE)
    }

    fn range(&self, tile: u64, _: usize) -> Range<u64> {
        let first = tile * TILE;
        first * self.element()..(first + self.tile_len(tile)) * self.element()
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        self.multiply(tile * TILE, out[0])
    }

    /// Any elements can be had alone: a quantizer that goes down columns reads short stretches.
    fn read_at(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let size = self.element();
        let end = offset + out.len() as u64;
        let first = offset / size;
        let mut whole = vec![0; ((end.div_ceil(size) - first) * size) as usize];
        self.multiply(first, &mut whole)?;
        let skipped = (offset - first * size) as usize;
        out.copy_from_slice(&whole[skipped..skipped + out.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(channels: Channels, factors: &[f64], elements: &[f32]) -> Vec<f32> {
        let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        let source = Data::Bytes(bytes.into());
        let recipe = ScaleChannels::new(&source, DataType::Float, channels, factors.to_vec());
        let bytes = recipe.into_data().read_all().unwrap();
        let elements = bytes.as_chunks().0.iter();
        elements.map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn channels_of_each_operator() {
        let ones = [1.0; 8];
        let channels = |run, count, group| Channels { run, count, group };
        // A Conv weight [2, 4]: rows are channels.
        let conv = scaled(channels(4, 2, 8), &[2.0, 3.0], &ones);
        assert_eq!(conv, [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        // A MatMul weight [4, 2]: columns are.
        let matmul = scaled(channels(1, 2, 8), &[2.0, 3.0], &ones);
        assert_eq!(matmul, [2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0]);
        // A ConvTranspose weight [2, 2, 2] in two groups.
        let transposed = scaled(channels(2, 2, 4), &[2.0, 3.0, 4.0, 5.0], &ones);
        assert_eq!(transposed, [2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0]);
    }

    #[test]
    fn any_range_is_what_the_tiles_make() {
        let count = TILE as usize + 1000;
        let element = |i: usize| i as f32 * 0.37 - 999.0;
        let bytes: Vec<u8> = (0..count).flat_map(|i| element(i).to_le_bytes()).collect();
        let channels = Channels {
            run: 3,
            count: 7,
            group: count as u64,
        };
        let factors: Vec<f64> = (0..7).map(|c| f64::from(c) * 0.3).collect();
        let source = Data::Bytes(bytes.into());
        let recipe = ScaleChannels::new(&source, DataType::Float, channels, factors);
        let mut made = Vec::new();
        for tile in 0..recipe.tiles() {
            let mut out = vec![0; recipe.range(tile, 0).count()];
            recipe.produce(tile, &mut [&mut out]).unwrap();
            made.extend(out);
        }
        assert_eq!(recipe.largest().unwrap()[0], f64::from(element(count - 1)));
        let data = recipe.into_data();
        assert!(data.read_all().unwrap() == made);
        for (from, len) in [(0, 1), (3, 2), (4, 8), (TILE as usize * 4 - 3, 9)] {
            let mut out = vec![0; len];
            data.read_at(from as u64, &mut out).unwrap();
            assert_eq!(out, made[from..from + len], "{len} from {from}");
        }
    }
}
