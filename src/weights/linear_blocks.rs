//! The recipe that quantizes a weight in blocks for `DequantizeLinear`: codes in the place of the
//! elements.

use std::{cell::RefCell, ops::Range};

use super::{CODES, Chosen, Layout, MatrixView, SCALES, ZERO_POINTS, reader::MatrixReader};
use crate::{
    error::Result,
    ir::{Data, Produce},
    quant::{BlockSpec, Buffers, Matrix, quantize_columns_by, quantize_rows_by},
};

/// Source bytes that are quantized at once.
const STEP: u64 = 1 << 20;

/// Source bytes of a tile, about.
const TILE: u64 = 4 << 20;

/// Columns of a panel, at least: shorter stretches would make the reading slow.
const PANEL: u64 = 256;

/// Codes, scales and (asymmetric) zero points of one weight, from one reading of it, as blocked
/// `DequantizeLinear` takes them: codes in the order of the weight's own elements, scales and zero points
/// in the order of the blocks, all packed without padding, low bits first.
///
/// Symmetric codes are two's complement (int2, int4, int8), and there are no zero points; others are
/// unsigned. The codes are those of [`super::QuantizeBlocks`], less the middle where they are signed.
#[derive(Debug)]
pub struct QuantizeLinearBlocks {
    matrix: MatrixReader,
    spec: BlockSpec,
    chosen: Chosen,
    /// Rows (of n) a tile, or blocks (of k) where the weight is stored as `[k, n]`. The parts of a tile
    /// then begin at whole bytes.
    tile: u64,
}

impl QuantizeLinearBlocks {
    /// Quantizes `matrix`, called `name` in messages, to nearest.
    ///
    /// # Panics
    /// When the zero points of `spec` are floats: `DequantizeLinear` takes codes.
    pub fn new(name: &str, matrix: &MatrixView, spec: BlockSpec) -> QuantizeLinearBlocks {
        assert!(
            !spec.float_zero_points(),
            "zero points have the type of the codes"
        );
        let matrix = MatrixReader::new(name, matrix);
        let unit = match matrix.layout {
            Layout::Rows => matrix.k,
            Layout::Columns => spec.block() as u64 * matrix.n,
        };
        let per_byte = 8 / u64::from(spec.bits());
        let fitting = TILE / (unit * matrix.element()).max(1);
        QuantizeLinearBlocks {
            tile: (fitting / per_byte * per_byte).max(per_byte),
            matrix,
            spec,
            chosen: Chosen::default(),
        }
    }

    /// Quantizes by another method.
    ///
    /// # Panics
    /// When an importance is given that is not of k columns.
    #[must_use]
    pub fn by(self, chosen: Chosen) -> QuantizeLinearBlocks {
        chosen.check(&self.matrix.name, self.matrix.k);
        QuantizeLinearBlocks { chosen, ..self }
    }

    /// Blocks along k.
    fn blocks(&self) -> u64 {
        self.spec.blocks(self.matrix.k as usize) as u64
    }

    /// What tiles are counted in: rows of n, or blocks of k.
    fn units(&self) -> u64 {
        match self.matrix.layout {
            Layout::Rows => self.matrix.n,
            Layout::Columns => self.blocks(),
        }
    }

    /// Entries of `output` before unit `unit`.
    fn entries(&self, output: usize, unit: u64) -> u64 {
        let (n, k) = (self.matrix.n, self.matrix.k);
        match (self.matrix.layout, output) {
            (Layout::Rows, CODES) => unit * k,
            (Layout::Rows, _) => unit * self.blocks(),
            (Layout::Columns, CODES) => (unit * self.spec.block() as u64).min(k) * n,
            (Layout::Columns, _) => unit * n,
        }
    }

    /// Bytes of so many entries of `output`.
    fn bytes(&self, output: usize, entries: u64) -> u64 {
        match output {
            SCALES => entries * self.spec.scale().size() as u64,
            _ => (entries * u64::from(self.spec.bits())).div_ceil(8),
        }
    }

    fn units_of(&self, tile: u64) -> Range<u64> {
        tile * self.tile..((tile + 1) * self.tile).min(self.units())
    }

    /// Rows of the weight are rows of the result.
    fn rows(&self, rows: Range<u64>, scratch: &mut Scratch, out: &mut [&mut [u8]]) -> Result<()> {
        let k = self.matrix.k as usize;
        let step = (STEP / (self.matrix.k * self.matrix.element()).max(1)).max(1);
        for from in rows.clone().step_by(step as usize) {
            let count = step.min(rows.end - from) as usize;
            let done = (from - rows.start) as usize;
            scratch.parts.resize(&self.spec, count, k);
            let rule = self.chosen.rule(0..k);
            let (rounded, parts) = (&mut scratch.rounded, &mut scratch.parts);
            self.matrix.with_rows(from, count as u64, |bytes| {
                let source = self.matrix.view(bytes, rounded);
                quantize_rows_by(
                    &self.spec,
                    &rule,
                    Matrix::new(source, count, k),
                    parts.out(),
                )
                .map_err(|e| self.matrix.failed(e, from, 0))
            })?;
            let blocks = self.spec.blocks(k);
            self.put(
                &scratch.parts,
                [count, k],
                |row, col| (done + row) * k + col,
                CODES,
                out,
            );
            self.put(
                &scratch.parts,
                [count, blocks],
                |row, block| (done + row) * blocks + block,
                ZERO_POINTS,
                out,
            );
            let size = self.spec.scale().size();
            let at = done * blocks * size;
            out[SCALES][at..at + scratch.parts.scales.len()].copy_from_slice(&scratch.parts.scales);
        }
        Ok(())
    }

    /// Columns of the weight are rows of the result: a panel of columns at a time.
    fn columns(
        &self,
        blocks: Range<u64>,
        scratch: &mut Scratch,
        out: &mut [&mut [u8]],
    ) -> Result<()> {
        let (n, block) = (self.matrix.n as usize, self.spec.block() as u64);
        let (first, end) = (
            blocks.start * block,
            (blocks.end * block).min(self.matrix.k),
        );
        let height = (end - first) as usize;
        let fitting = STEP / (height as u64 * self.matrix.element()).max(1);
        let panel = fitting.max(PANEL).min(self.matrix.n);
        for from in (0..self.matrix.n).step_by(panel as usize) {
            let cols = from..(from + panel).min(self.matrix.n);
            let (width, left) = ((cols.end - cols.start) as usize, from as usize);
            scratch.parts.resize(&self.spec, width, height);
            let (rounded, parts) = (&mut scratch.rounded, &mut scratch.parts);
            let rule = self.chosen.rule(first as usize..end as usize);
            let bytes = &mut scratch.bytes;
            self.matrix
                .with_panel(first, height as u64, cols, bytes, |bytes| {
                    let matrix = Matrix::new(self.matrix.view(bytes, rounded), height, width);
                    quantize_columns_by(&self.spec, &rule, matrix, parts.out())
                        .map_err(|e| self.matrix.failed(e, from, first))
                })?;
            let blocks = self.spec.blocks(height);
            let at = |col: usize, row: usize| row * n + left + col;
            self.put(&scratch.parts, [width, height], at, CODES, out);
            self.put(&scratch.parts, [width, blocks], at, ZERO_POINTS, out);
            let size = self.spec.scale().size();
            let scales = scratch.parts.scales.chunks_exact(size).enumerate();
            for (i, scale) in scales {
                let to = at(i / blocks, i % blocks) * size;
                out[SCALES][to..to + size].copy_from_slice(scale);
            }
        }
        Ok(())
    }

    /// Puts `[rows, cols]` codes or zero points, which the kernels packed row by row, where `place` says.
    fn put(
        &self,
        parts: &Buffers,
        [rows, cols]: [usize; 2],
        place: impl Fn(usize, usize) -> usize,
        output: usize,
        out: &mut [&mut [u8]],
    ) {
        let (packed, width) = match output {
            CODES => (&parts.codes, self.spec.codes_len(1, cols)),
            _ => (
                &parts.zero_points,
                (cols * usize::from(self.spec.bits())).div_ceil(8),
            ),
        };
        let Some(out) = out.get_mut(output) else {
            return;
        };
        // Less the middle, in two's complement, is the highest bit turned.
        let turned = if self.spec.symmetric() {
            self.spec.mid()
        } else {
            0
        };
        let (bits, mask) = (usize::from(self.spec.bits()), self.spec.max_code());
        let per_byte = 8 / bits;
        // Few rows at a time, so that the places of one column of codes lie near each other.
        const BAND: usize = 64;
        for band in (0..rows).step_by(BAND) {
            for col in 0..cols {
                let (byte, shift) = (col / per_byte, col % per_byte * bits);
                for row in band..(band + BAND).min(rows) {
                    let code = packed[row * width + byte] >> shift & mask ^ turned;
                    let at = place(row, col);
                    out[at / per_byte] |= code << (at % per_byte * bits);
                }
            }
        }
    }
}

/// Buffers that a thread keeps between tiles.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    rounded: Vec<f32>,
    parts: Buffers,
}

impl Produce for QuantizeLinearBlocks {
    fn source(&self) -> Option<&Data> {
        Some(&self.matrix.data)
    }

    fn outputs(&self) -> usize {
        if self.spec.symmetric() { 2 } else { 3 }
    }

    fn len(&self, output: usize) -> u64 {
        self.bytes(output, self.entries(output, self.units()))
    }

    fn tiles(&self) -> u64 {
        self.units().div_ceil(self.tile)
    }

    fn range(&self, tile: u64, output: usize) -> Range<u64> {
        let units = self.units_of(tile);
        let bytes = |unit| self.bytes(output, self.entries(output, unit));
        bytes(units.start)..bytes(units.end)
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        // Codes are put in with `|=`.
        out.iter_mut().for_each(|o| o.fill(0));
        // Taken, not borrowed: reading a source that is itself computed may come back here.
        let mut scratch = SCRATCH.take();
        let units = self.units_of(tile);
        let done = match self.matrix.layout {
            Layout::Rows => self.rows(units, &mut scratch, out),
            Layout::Columns => self.columns(units, &mut scratch, out),
        };
        SCRATCH.replace(scratch);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{DataType, EntityId, ValueId},
        quant::{BlockMethod, ScaleType},
        weights::{QuantizeBlocks, Weight},
    };

    /// Entry `i` of a packed list.
    fn entry(packed: &[u8], bits: u8, i: usize) -> u8 {
        let per_byte = 8 / usize::from(bits);
        packed[i / per_byte] >> (i % per_byte * usize::from(bits)) & (0xff >> (8 - bits))
    }

    fn outputs(recipe: &dyn Produce) -> Vec<Vec<u8>> {
        let mut whole: Vec<Vec<u8>> = (0..recipe.outputs())
            .map(|o| vec![0xa5; recipe.len(o) as usize])
            .collect();
        for tile in 0..recipe.tiles() {
            let mut parts: Vec<&mut [u8]> = whole
                .iter_mut()
                .enumerate()
                .map(|(o, w)| {
                    let r = recipe.range(tile, o);
                    &mut w[r.start as usize..r.end as usize]
                })
                .collect();
            recipe.produce(tile, &mut parts).unwrap();
        }
        whole
    }

    /// Compares with what [`QuantizeBlocks`] makes of the same weight, entry by entry.
    fn check(layout: Layout, n: usize, k: usize, bits: u8, block: usize, symmetric: bool) -> u64 {
        check_by(Chosen::default(), layout, n, k, (bits, block, symmetric))
    }

    fn check_by(
        chosen: Chosen,
        layout: Layout,
        n: usize,
        k: usize,
        (bits, block, symmetric): (u8, usize, bool),
    ) -> u64 {
        let floats = (0..n * k).map(|i| ((i * 2_654_435_761) % 1009) as f32 / 500.0 - 1.0);
        let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
        let (dims, strides) = match layout {
            Layout::Rows => (vec![n as u64, k as u64], vec![k as u64, 1]),
            Layout::Columns => (vec![k as u64, n as u64], vec![n as u64, 1]),
        };
        let weight = Weight {
            root: ValueId::from_index(0),
            data: Data::Bytes(bytes.into()),
            stored: DataType::Float,
            dtype: DataType::Float,
            rounding: None,
            dims,
            strides,
        };
        let n_axis = usize::from(layout == Layout::Columns);
        let matrix = MatrixView::new(weight, n_axis).unwrap();
        let spec = BlockSpec::new(bits, block, symmetric, ScaleType::F32).unwrap();
        let expected = QuantizeBlocks::new("W", &matrix, spec, 1.0, true).by(chosen.clone());
        let expected = outputs(&expected);
        let recipe = QuantizeLinearBlocks::new("W", &matrix, spec).by(chosen);
        let found = outputs(&recipe);
        let blocks = spec.blocks(k);
        let (row_codes, row_points) = (spec.codes_len(1, k), spec.zero_points_len(1, k));
        for row in 0..n {
            for col in 0..k {
                let at = match layout {
                    Layout::Rows => row * k + col,
                    Layout::Columns => col * n + row,
                };
                let code = entry(&expected[CODES][row * row_codes..], bits, col);
                let less = if symmetric { spec.mid() } else { 0 };
                let code = code.wrapping_sub(less) & spec.max_code();
                assert_eq!(entry(&found[CODES], bits, at), code, "[{row}, {col}]");
            }
            for b in 0..blocks {
                let at = match layout {
                    Layout::Rows => row * blocks + b,
                    Layout::Columns => b * n + row,
                };
                let scale = |o: &[u8], i: usize| o[4 * i..4 * i + 4].to_vec();
                let own = scale(&expected[SCALES], row * blocks + b);
                assert_eq!(scale(&found[SCALES], at), own, "scale [{row}, {b}]");
                if !symmetric {
                    let points = &expected[ZERO_POINTS][row * row_points..];
                    let own = entry(points, bits, b);
                    assert_eq!(entry(&found[ZERO_POINTS], bits, at), own, "[{row}, {b}]");
                }
            }
        }
        recipe.tiles()
    }

    #[test]
    fn the_codes_are_those_of_the_other_layout() {
        for layout in [Layout::Rows, Layout::Columns] {
            for symmetric in [true, false] {
                for (n, k, bits, block) in [
                    (7, 33, 4, 16),
                    (5, 70, 2, 32),
                    (300, 64, 8, 16),
                    (3, 16, 4, 32),
                ] {
                    check(layout, n, k, bits, block, symmetric);
                }
            }
        }
    }

    #[test]
    fn methods_and_importances() {
        for layout in [Layout::Rows, Layout::Columns] {
            let importance: Vec<f32> = (0..1001).map(|i| (i * i % 97) as f32).collect();
            let mse = Chosen {
                method: BlockMethod::Mse,
                importance: Some(importance.into()),
            };
            for chosen in [mse, BlockMethod::Hqq.into()] {
                for symmetric in [true, false] {
                    check_by(chosen.clone(), layout, 40, 1001, (4, 16, symmetric));
                }
            }
        }
        let tiles = check_by(
            BlockMethod::Mse.into(),
            Layout::Columns,
            2103,
            1001,
            (4, 16, false),
        );
        assert!(tiles > 1);
    }

    #[test]
    fn tiles_and_panels_follow_each_other() {
        assert!(check(Layout::Rows, 5001, 333, 4, 16, false) > 1);
        assert!(check(Layout::Columns, 2103, 1001, 4, 16, false) > 1);
    }
}
