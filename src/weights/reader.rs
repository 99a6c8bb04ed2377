//! Reading a weight as the matrix that a recipe quantizes.

use std::ops::Range;

use super::{
    Layout, MatrixView,
    constant::{round_to, to_f32},
};
use crate::{
    error::{Error, Result},
    ir::{Data, DataType},
    quant::{QuantizeError, Source},
};

/// The elements of a matrix where they are stored, and how to speak of them.
#[derive(Debug)]
pub(super) struct MatrixReader {
    /// What messages call it.
    pub(super) name: String,
    pub(super) data: Data,
    stored: DataType,
    rounding: Option<DataType>,
    pub(super) layout: Layout,
    pub(super) n: u64,
    pub(super) k: u64,
}

impl MatrixReader {
    pub(super) fn new(name: &str, matrix: &MatrixView) -> MatrixReader {
        let weight = &matrix.weight;
        MatrixReader {
            name: name.to_owned(),
            data: weight.data.clone(),
            stored: weight.stored,
            rounding: weight.rounding,
            layout: matrix.layout,
            n: matrix.n,
            k: matrix.k,
        }
    }

    /// Bytes of an element.
    pub(super) fn element(&self) -> u64 {
        self.stored.bits() / 8
    }

    /// The error of a kernel that was given the part that begins at `row` of n and `col` of k.
    pub(super) fn failed(&self, error: QuantizeError, row: u64, col: u64) -> Error {
        let (n, k) = (self.n, self.k);
        Error::input(match error {
            QuantizeError::NonFinite { row: r, col: c } => {
                let at = match self.layout {
                    Layout::Rows => format!("[{}, {}]", row + r as u64, col + c as u64),
                    Layout::Columns => format!("[{}, {}]", col + c as u64, row + r as u64),
                };
                format!(
                    "weight `{}`: element {at} is NaN or infinite as float; --allow-nonfinite leaves such \
                     weights as they are",
                    self.name
                )
            }
            QuantizeError::ScaleOverflow { row: r, .. } => format!(
                "weight `{}` ([{n}, {k}] as quantized): the scale of a block in row {} overflows \
                 its type",
                self.name,
                row + r as u64
            ),
        })
    }

    /// The bytes of `source` as the kernels take them, rounded if the model rounds them.
    pub(super) fn view<'a>(&self, bytes: &'a [u8], rounded: &'a mut Vec<f32>) -> Source<'a> {
        let Some(to) = self.rounding else {
            return match self.stored {
                DataType::Float => Source::F32Le(bytes),
                DataType::Float16 => Source::F16Le(bytes),
                DataType::Bfloat16 => Source::Bf16Le(bytes),
                _ => Source::F64Le(bytes),
            };
        };
        rounded.resize(bytes.len() / self.element() as usize, 0.0);
        to_f32(self.stored, bytes, rounded);
        round_to(to, rounded);
        Source::F32(rounded)
    }

    /// Calls `then` with the `count` rows from `from` on, of k elements each, of a weight in rows.
    pub(super) fn with_rows<R>(
        &self,
        from: u64,
        count: u64,
        then: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        let row = self.k * self.element();
        let len = (count * row) as usize;
        self.data.with_range(from * row, len, then)?
    }

    /// Calls `then` with columns `cols` of the `height` rows from `from` on. They are put together in
    /// `scratch` when they lie apart.
    pub(super) fn with_panel<R>(
        &self,
        from: u64,
        height: u64,
        cols: Range<u64>,
        scratch: &mut Vec<u8>,
        then: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        let (row, width) = (self.n * self.element(), cols.end - cols.start);
        if width == self.n {
            let len = (height * row) as usize;
            return self.data.with_range(from * row, len, then)?;
        }
        let width = width * self.element();
        scratch.resize((height * width) as usize, 0);
        for (i, stretch) in scratch.chunks_mut(width as usize).enumerate() {
            let at = (from + i as u64) * row + cols.start * self.element();
            self.data.read_at(at, stretch)?;
        }
        then(scratch)
    }
}
