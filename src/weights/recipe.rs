//! The recipe that quantizes a weight while it is written.

use std::{cell::RefCell, ops::Range};

use half::{bf16, f16};

use super::{Layout, MatrixView};
use crate::{
    error::{Error, Result},
    ir::{Data, DataType, Produce},
    quant::{
        self, BlockSpec, Matrix, Out, QuantizeError, Source, multiply_scales, quantize_columns,
        quantize_rows,
    },
};

/// Number of the output that holds the codes.
pub const CODES: usize = 0;
/// Number of the output that holds the scales.
pub const SCALES: usize = 1;
/// Number of the output that holds the zero points.
pub const ZERO_POINTS: usize = 2;

/// Source bytes that one step reads: small enough to stay in a core's cache between
/// reading and quantizing, large enough that system calls do not count.
const STEP: u64 = 1 << 20;

/// Output bytes of a tile of a `[k, n]` weight, at most. Up to that a weight is one tile,
/// and its rows are read as they lie; a larger one is cut into panels of columns, whose
/// rows are read stretch by stretch.
const TILE: u64 = 8 << 20;

/// Columns of a panel, at least: shorter stretches would make the reading slow.
const PANEL: u64 = 1024;

/// Codes, scales and (asymmetric) zero points of one weight, from one reading of it.
#[derive(Debug)]
pub struct QuantizeBlocks {
    name: String,
    data: Data,
    stored: DataType,
    rounding: Option<DataType>,
    layout: Layout,
    n: u64,
    k: u64,
    spec: BlockSpec,
    factor: f32,
    /// Bytes of codes a row: of whole blocks, or only of the k elements.
    row_codes: u64,
    /// Rows (of n) a tile.
    tile: u64,
}

impl QuantizeBlocks {
    /// Quantizes `matrix`, called `name` in messages; scales are multiplied by `factor`.
    ///
    /// With `padded` a row of codes takes whole blocks, as `MatMulNBits` has it; without,
    /// only k elements, as `GatherBlockQuantized` has it.
    pub fn new(
        name: &str,
        matrix: &MatrixView,
        spec: BlockSpec,
        factor: f32,
        padded: bool,
    ) -> QuantizeBlocks {
        let (n, k) = (matrix.n, matrix.k);
        let weight = &matrix.weight;
        let element = weight.stored.bits() / 8;
        let row_codes = match padded {
            true => spec.codes_len(1, k as usize) as u64,
            false => k * u64::from(spec.bits()) / 8,
        };
        let row_out = row_codes + spec.scales_len(1, k as usize) as u64;
        let tile = match matrix.layout {
            Layout::Rows => STEP / (k * element).max(1),
            Layout::Columns if n * row_out <= TILE => n,
            Layout::Columns => (TILE / row_out).max(PANEL),
        };
        QuantizeBlocks {
            name: name.to_owned(),
            data: weight.data.clone(),
            stored: weight.stored,
            rounding: weight.rounding,
            layout: matrix.layout,
            n,
            k,
            spec,
            factor,
            row_codes,
            tile: tile.clamp(1, n),
        }
    }

    /// Bytes a row takes in an output.
    fn row_len(&self, output: usize) -> u64 {
        let k = self.k as usize;
        match output {
            CODES => self.row_codes,
            SCALES => self.spec.scales_len(1, k) as u64,
            _ => self.spec.zero_points_len(1, k) as u64,
        }
    }

    fn element(&self) -> u64 {
        self.stored.bits() / 8
    }

    fn failed(&self, error: QuantizeError, row: u64, col: u64) -> Error {
        let (n, k) = (self.n, self.k);
        Error::input(match error {
            QuantizeError::NonFinite { row: r, col: c } => {
                let at = match self.layout {
                    Layout::Rows => format!("[{}, {}]", row + r as u64, col + c as u64),
                    Layout::Columns => format!("[{}, {}]", col + c as u64, row + r as u64),
                };
                format!(
                    "weight `{}`: element {at} is NaN or infinite; --allow-nonfinite leaves such \
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
    fn view<'a>(&self, bytes: &'a [u8], rounded: &'a mut Vec<f32>) -> Source<'a> {
        let Some(to) = self.rounding else {
            return match self.stored {
                DataType::Float => Source::F32Le(bytes),
                DataType::Float16 => Source::F16Le(bytes),
                DataType::Bfloat16 => Source::Bf16Le(bytes),
                _ => Source::F64Le(bytes),
            };
        };
        rounded.resize(bytes.len() / self.element() as usize, 0.0);
        match self.stored {
            DataType::Double => quant::f32_from_f64(bytes, rounded),
            _ => quant::f32_from_le(bytes, rounded),
        }
        match to {
            DataType::Float16 => rounded
                .iter_mut()
                .for_each(|x| *x = f16::from_f32(*x).to_f32()),
            _ => rounded
                .iter_mut()
                .for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        }
        Source::F32(rounded)
    }

    /// Rows of the weight are rows of the result: read them and quantize them at once.
    fn rows(&self, rows: Range<u64>, scratch: &mut Scratch, out: &mut [&mut [u8]]) -> Result<()> {
        let (count, k) = ((rows.end - rows.start) as usize, self.k as usize);
        scratch.bytes.resize(count * k * self.element() as usize, 0);
        self.data
            .read_at(rows.start * self.k * self.element(), &mut scratch.bytes)?;
        let matrix = Matrix::new(self.view(&scratch.bytes, &mut scratch.rounded), count, k);
        let padded = self.spec.codes_len(1, k);
        let unpadded = padded as u64 != self.row_codes;
        let (codes, rest) = out.split_at_mut(1);
        let (scales, zero_points) = rest.split_at_mut(1);
        if unpadded {
            scratch.codes.resize(count * padded, 0);
        }
        let written = Out {
            codes: if unpadded {
                &mut scratch.codes
            } else {
                &mut *codes[0]
            },
            scales: &mut *scales[0],
            zero_points: zero_points.first_mut().map_or(&mut [], |z| &mut **z),
        };
        quantize_rows(&self.spec, matrix, written).map_err(|e| self.failed(e, rows.start, 0))?;
        if unpadded {
            let width = self.row_codes as usize;
            for (to, from) in codes[0].chunks_mut(width).zip(scratch.codes.chunks(padded)) {
                to.copy_from_slice(&from[..width]);
            }
        }
        Ok(())
    }

    /// Columns of the weight are rows of the result: go down a panel step by step.
    fn columns(
        &self,
        cols: Range<u64>,
        scratch: &mut Scratch,
        out: &mut [&mut [u8]],
    ) -> Result<()> {
        let width = (cols.end - cols.start) as usize;
        let element = self.element();
        // A step ends where the blocks before it fill whole bytes of zero points.
        let quantum = (self.spec.block() * 8 / usize::from(self.spec.bits())) as u64;
        let fitting = STEP / (width as u64 * element).max(1);
        let step = (fitting / quantum * quantum).max(quantum);
        for from in (0..self.k).step_by(step as usize) {
            let height = step.min(self.k - from) as usize;
            scratch.bytes.resize(height * width * element as usize, 0);
            self.read_panel(from, cols.clone(), &mut scratch.bytes)?;
            let source = self.view(&scratch.bytes, &mut scratch.rounded);
            let matrix = Matrix::new(source, height, width);
            scratch.codes.resize(self.spec.codes_len(width, height), 0);
            scratch
                .scales
                .resize(self.spec.scales_len(width, height), 0);
            scratch
                .zero_points
                .resize(self.spec.zero_points_len(width, height), 0);
            let part = Out {
                codes: &mut scratch.codes,
                scales: &mut scratch.scales,
                zero_points: &mut scratch.zero_points,
            };
            quantize_columns(&self.spec, matrix, part)
                .map_err(|e| self.failed(e, cols.start, from))?;
            let before = from as usize;
            let spec = &self.spec;
            scatter(&scratch.codes, width, out[CODES], spec.codes_len(1, before));
            scatter(
                &scratch.scales,
                width,
                out[SCALES],
                spec.scales_len(1, before),
            );
            if let Some(zero_points) = out.get_mut(ZERO_POINTS) {
                let at = spec.zero_points_len(1, before);
                scatter(&scratch.zero_points, width, zero_points, at);
            }
        }
        Ok(())
    }

    /// Reads columns `cols` of the rows from `from` on, as many as `out` holds.
    fn read_panel(&self, from: u64, cols: Range<u64>, out: &mut [u8]) -> Result<()> {
        let element = self.element();
        let width = ((cols.end - cols.start) * element) as usize;
        if cols.end - cols.start == self.n {
            return self.data.read_at(from * self.n * element, out);
        }
        for (i, row) in out.chunks_mut(width).enumerate() {
            let at = ((from + i as u64) * self.n + cols.start) * element;
            self.data.read_at(at, row)?;
        }
        Ok(())
    }
}

/// Copies `rows` rows into the rows of `out`, each from its byte `at` on. Rows of codes
/// for `GatherBlockQuantized` are shorter than whole blocks: the padding is cut off.
fn scatter(part: &[u8], rows: usize, out: &mut [u8], at: usize) {
    if out.len() == part.len() {
        return out.copy_from_slice(part);
    }
    let (from, to) = (part.len() / rows, out.len() / rows);
    let width = from.min(to - at);
    for (row, part) in out.chunks_mut(to).zip(part.chunks(from)) {
        row[at..at + width].copy_from_slice(&part[..width]);
    }
}

/// Buffers that a thread keeps between tiles.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    rounded: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Produce for QuantizeBlocks {
    fn outputs(&self) -> usize {
        if self.spec.symmetric() { 2 } else { 3 }
    }

    fn len(&self, output: usize) -> u64 {
        self.n * self.row_len(output)
    }

    fn tiles(&self) -> u64 {
        self.n.div_ceil(self.tile)
    }

    fn range(&self, tile: u64, output: usize) -> Range<u64> {
        let row = self.row_len(output);
        tile * self.tile * row..((tile + 1) * self.tile).min(self.n) * row
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        let range = tile * self.tile..((tile + 1) * self.tile).min(self.n);
        // Taken, not borrowed: reading a source that is itself computed may come back here.
        let mut scratch = SCRATCH.take();
        let done = match self.layout {
            Layout::Rows => self.rows(range, &mut scratch, out),
            Layout::Columns => self.columns(range, &mut scratch, out),
        };
        SCRATCH.replace(scratch);
        done?;
        if self.factor != 1.0 {
            multiply_scales(self.spec.scale(), out[SCALES], self.factor)
                .map_err(|e| Error::input(format!("weight `{}`: {e}", self.name)))?;
        }
        Ok(())
    }
}
