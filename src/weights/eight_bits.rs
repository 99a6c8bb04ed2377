//! The recipes that make 8-bit codes with a scale for each channel, while the model is written.

mod source;
#[cfg(test)]
mod tests;

use std::{ops::Range as Span, sync::Arc};

use self::source::Source;
use super::{Channels, Weight, transposed};
use crate::{
    error::Result,
    ir::{Data, DataType, Produce, Tensor},
    quant::ChannelSpec,
};

/// Elements of a tile of codes.
const TILE: u64 = 1 << 20;

/// A weight as codes, scales and zero points: constants that are computed when they are written.
#[derive(Clone, Debug)]
pub struct EightBits {
    source: Arc<Source>,
    codes: Data,
}

/// How the channels of a weight lie in memory: one scale for each index along `axes` of the weight
/// as an operand; none: one for all of it. `None` when they lie in no regular way.
pub fn channels_of(weight: &Weight, axes: &[usize]) -> Option<Channels> {
    let order = stored_order(weight)?;
    // Scales are in the order of the operand's axes; the kernels number channels as they are stored.
    let stored = order.iter().filter(|a| axes.contains(a));
    if !stored.is_sorted() {
        return None;
    }
    let mut parts: Vec<(bool, u64)> = Vec::new();
    for &axis in &order {
        let (channel, extent) = (axes.contains(&axis), weight.dims[axis]);
        match parts.last_mut() {
            Some((last, size)) if *last == channel => *size *= extent,
            _ => parts.push((channel, extent)),
        }
    }
    if parts.last().is_none_or(|part| part.0) {
        parts.push((false, 1));
    }
    let total = parts.iter().map(|p| p.1).product();
    let (run, count, group) = match *parts.as_slice() {
        [(false, all)] => (all, 1, total),
        [(true, count), (false, run)] => (run, count, total),
        [(false, _), (true, count), (false, run)] => (run, count, total),
        [(true, _), (false, rest), (true, count), (false, run)] => (run, count, rest * count * run),
        _ => return None,
    };
    Some(Channels { run, count, group })
}

/// The axes longer than 1, in the order of memory; `None` when the elements are not all there is in it.
fn stored_order(weight: &Weight) -> Option<Vec<usize>> {
    let long = |&a: &usize| weight.dims[a] != 1;
    let mut order: Vec<usize> = (0..weight.dims.len()).filter(long).collect();
    order.sort_by_key(|&a| std::cmp::Reverse(weight.strides[a]));
    let mut stride = 1;
    for &axis in order.iter().rev() {
        if weight.strides[axis] != stride {
            return None;
        }
        stride *= weight.dims[axis];
    }
    Some(order)
}

impl EightBits {
    /// Quantizes `weight`, which has elements and is called `name` in messages, with one scale for
    /// each index along `axes`; scales are multiplied by `factor`. `None` when the channels lie in
    /// no regular way.
    pub fn new(
        name: &str,
        weight: &Weight,
        axes: &[usize],
        spec: ChannelSpec,
        factor: f32,
    ) -> Option<EightBits> {
        let channels = channels_of(weight, axes)?;
        let source = Arc::new(Source::new(name, weight, channels, spec, factor));
        let codes = Computed::of(&source, Output::Codes);
        Some(EightBits { source, codes })
    }

    /// Channels, and so elements of scales and zero points.
    pub fn channels(&self) -> u64 {
        self.source.count()
    }

    /// The codes, int8 or uint8, with the extents and in the order of `weight`: the one that was
    /// quantized, or another view of the same constant. `None` when they would have to be
    /// rearranged in a way that no recipe does.
    pub fn codes(&self, weight: &Weight) -> Option<Tensor> {
        rearranged(weight, self.codes.clone(), self.source.dtype())
    }

    /// The scales as float, with the extents `dims`, in the order of the channels.
    pub fn scales(&self, dims: Vec<i64>) -> Tensor {
        let data = Computed::of(&self.source, Output::Scales);
        Tensor::new(DataType::Float, dims, data)
    }

    /// The zero points, of the type of the codes, with the extents `dims`.
    pub fn zero_points(&self, dims: Vec<i64>) -> Tensor {
        let data = Computed::of(&self.source, Output::ZeroPoints);
        Tensor::new(self.source.dtype(), dims, data)
    }
}

/// Codes in the order of memory, as a tensor with the extents of `weight`.
fn rearranged(weight: &Weight, codes: Data, dtype: DataType) -> Option<Tensor> {
    let order = stored_order(weight)?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let place = |axis: &usize| order.iter().position(|a| a == axis);
    let perm: Vec<usize> = sorted.iter().filter_map(place).collect();
    let stored = order.iter().map(|&a| weight.dims[a] as i64).collect();
    let codes = transposed(&Tensor::new(dtype, stored, codes), &perm)?;
    let dims = weight.dims.iter().map(|&d| d as i64).collect();
    Some(Tensor::new(dtype, dims, codes.data()?.clone()))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Codes,
    Scales,
    ZeroPoints,
}

/// One of the constants. The codes are in the order of memory.
#[derive(Debug)]
struct Computed {
    source: Arc<Source>,
    output: Output,
}

impl Computed {
    fn of(source: &Arc<Source>, output: Output) -> Data {
        let recipe = Arc::new(Computed {
            source: source.clone(),
            output,
        });
        Data::Computed { recipe, output: 0 }
    }
}

impl Produce for Computed {
    fn source(&self) -> Option<&Data> {
        Some(&self.source.data)
    }

    fn steps(&self) -> u64 {
        1 + 2 * self.source.data.steps()
    }

    fn len(&self, _: usize) -> u64 {
        match self.output {
            Output::Codes => self.source.elements(),
            Output::Scales => self.source.count() * 4,
            Output::ZeroPoints => self.source.count(),
        }
    }

    fn tiles(&self) -> u64 {
        match self.output {
            Output::Codes => self.source.elements().div_ceil(TILE),
            Output::Scales | Output::ZeroPoints => 1,
        }
    }

    fn range(&self, tile: u64, output: usize) -> Span<u64> {
        let len = self.len(output);
        match self.output {
            Output::Codes => tile * TILE..((tile + 1) * TILE).min(len),
            Output::Scales | Output::ZeroPoints => 0..len,
        }
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        match self.output {
            Output::Codes => self.source.encode(tile * TILE, out[0]),
            Output::Scales => self.source.write_scales(out[0]),
            Output::ZeroPoints => self.source.write_zero_points(out[0]),
        }
    }

    /// Any codes can be had alone: what transposes them reads short stretches.
    fn read_at(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.output == Output::Codes {
            return self.source.encode(offset, out);
        }
        let mut all = vec![0; self.len(0) as usize];
        self.produce(0, &mut [&mut all])?;
        out.copy_from_slice(&all[offset as usize..][..out.len()]);
        Ok(())
    }
}
