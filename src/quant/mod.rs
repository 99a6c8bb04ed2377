//! Quantization kernels, of blocks and of channels: slices in, buffers out.
//!
//! 8-bit integers with one scale for each channel are in `channels`, which states their rule. All else
//! is of blocks. A weight matrix is cut into blocks of `block` elements along K. Each block gets one
//! scale and, when asymmetric, one zero point; each element becomes an unsigned code of
//! 2, 4 or 8 bits. The layout is that of `com.microsoft::MatMulNBits`, which
//! `com.microsoft::GatherBlockQuantized` shares for `uint8` data:
//!
//! | buffer | shape | layout |
//! | --- | --- | --- |
//! | codes | `[n, blocks, block * bits / 8]` | low bits first: element `2 i` in the low nibble |
//! | scales | `[n, blocks]` | the scale type, little-endian |
//! | zero points | `[n, ceil(blocks * bits / 8)]` | low bits first, each row padded to a byte |
//! | the same, as floats | `[n, blocks]` | the scale type; `MatMulNBits` alone takes them |
//!
//! The rule of [`quantize_rows`] and [`quantize_columns`] is round to nearest, and to the bit that of
//! ONNX Runtime's `MatMulNBitsQuantizer` (its `DefaultWeightOnlyQuantConfig`; checked against 1.31.1 by
//! `tests/py/test_kernel.py`). [`quantize_rows_by`] and [`quantize_columns_by`] take any [`BlockMethod`], and
//! how much the errors of each column count. Each has a plain twin that is its definition
//! ([`quantize_rows_ref`] and so on), and is bit-equal to it and fast.
//!
//! The kernels know nothing of graphs, files or threads. A caller gives a panel: some
//! rows of N and all of K. The outputs of a panel are contiguous, so panels can be
//! quantized in any order and on any thread. Memory: about 150 KiB of stack per call, and
//! 64 KiB of heap for methods that search.
//!
//! Codes that are chosen for what a layer computes, in the same layout, are in [`gptq`]; that works on
//! whole weights and uses all threads.

mod awq;
mod buffers;
mod channels;
mod columns;
mod convert;
mod dequantize;
pub(crate) mod dispatch;
mod fit;
mod fit_ref;
pub mod gptq;
mod hqq;
mod lanes;
mod matrix;
mod method;
mod mse;
mod rows;
mod rtn;
mod rtn_ref;
mod scales;
mod spec;

pub use awq::{ChannelScales, awq_scales, divided};
pub use buffers::Buffers;
pub use channels::{
    ChannelParams, ChannelSpec, Range, encode_columns, encode_run, range_of, ranges_of_columns,
};
pub use convert::{
    count_beyond_f16, f16_from_f32, f32_from_bf16, f32_from_f16, f32_from_f64, f32_from_le,
    first_nonfinite,
};
pub use dequantize::{dequantize_rows, dequantize_rows_ref};
pub use matrix::{Matrix, Source};
pub use method::{BlockMethod, Method, Needs, Rule, UnknownMethod};
pub use rtn::{
    Out, QuantizeError, quantize_columns, quantize_columns_by, quantize_rows, quantize_rows_by,
};
pub use rtn_ref::{
    quantize_columns_by_ref, quantize_columns_ref, quantize_rows_by_ref, quantize_rows_ref,
};
pub use scales::{ScaleOverflow, multiply_scales};
pub use spec::{BlockSpec, ScaleType, SpecError};

#[cfg(test)]
mod tests;
