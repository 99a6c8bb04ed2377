//! The recipe that quantizes a weight while it is written.

use std::{cell::RefCell, ops::Range};

use super::{Chosen, Layout, MatrixView, reader::MatrixReader};
use crate::{
    error::{Error, Result},
    ir::{Data, Produce},
    quant::{
        BlockSpec, Buffers, Matrix, Out, multiply_scales, quantize_columns_by, quantize_rows_by,
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

/// Output bytes of all tiles in work, so that many threads get smaller tiles and memory
/// stays bounded. What is written does not depend on how it is cut.
const TILES: u64 = 128 << 20;

/// Columns of a panel, at least: shorter stretches would make the reading slow.
const PANEL: u64 = 256;

/// The size of a tile on this many threads.
fn tile_bytes(threads: usize) -> u64 {
    (TILES / threads as u64).min(TILE)
}

/// Codes, scales and (asymmetric) zero points of one weight, from one reading of it.
#[derive(Debug)]
pub struct QuantizeBlocks {
    matrix: MatrixReader,
    spec: BlockSpec,
    chosen: Chosen,
    factor: f32,
    /// Bytes of codes a row: of whole blocks, or only of the k elements.
    row_codes: u64,
    /// Rows (of n) a tile.
    tile: u64,
}

impl QuantizeBlocks {
    /// Quantizes `matrix`, called `name` in messages, to nearest; scales are multiplied by `factor`.
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
        let tile_bytes = tile_bytes(rayon::current_num_threads());
        let tile = match matrix.layout {
            Layout::Rows => STEP / (k * element).max(1),
            Layout::Columns if n * row_out <= tile_bytes => n,
            Layout::Columns => (tile_bytes / row_out).max(PANEL),
        };
        QuantizeBlocks {
            matrix: MatrixReader::new(name, matrix),
            spec,
            chosen: Chosen::default(),
            factor,
            row_codes,
            tile: tile.clamp(1, n),
        }
    }

    /// Quantizes by another method.
    ///
    /// # Panics
    /// When an importance is given that is not of k columns.
    #[must_use]
    pub fn by(self, chosen: Chosen) -> QuantizeBlocks {
        chosen.check(&self.matrix.name, self.matrix.k);
        QuantizeBlocks { chosen, ..self }
    }

    /// Bytes a row takes in an output.
    fn row_len(&self, output: usize) -> u64 {
        let k = self.matrix.k as usize;
        match output {
            CODES => self.row_codes,
            SCALES => self.spec.scales_len(1, k) as u64,
            _ => self.spec.zero_points_len(1, k) as u64,
        }
    }

    /// Rows of the weight are rows of the result: read them and quantize them at once.
    fn rows(&self, rows: Range<u64>, scratch: &mut Scratch, out: &mut [&mut [u8]]) -> Result<()> {
        let (count, k) = ((rows.end - rows.start) as usize, self.matrix.k as usize);
        let padded = self.spec.codes_len(1, k);
        let unpadded = padded as u64 != self.row_codes;
        let (codes, rest) = out.split_at_mut(1);
        let (scales, zero_points) = rest.split_at_mut(1);
        if unpadded {
            scratch.parts.codes.resize(count * padded, 0);
        }
        let written = Out {
            codes: if unpadded {
                &mut scratch.parts.codes
            } else {
                &mut *codes[0]
            },
            scales: &mut *scales[0],
            zero_points: zero_points.first_mut().map_or(&mut [], |z| &mut **z),
        };
        let rule = self.chosen.rule(0..k);
        let rounded = &mut scratch.rounded;
        self.matrix.with_rows(rows.start, count as u64, |bytes| {
            let matrix = Matrix::new(self.matrix.view(bytes, rounded), count, k);
            quantize_rows_by(&self.spec, &rule, matrix, written)
                .map_err(|e| self.matrix.failed(e, rows.start, 0))
        })?;
        if unpadded {
            let width = self.row_codes as usize;
            for (to, from) in codes[0]
                .chunks_mut(width)
                .zip(scratch.parts.codes.chunks(padded))
            {
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
        let element = self.matrix.element();
        // A step ends where the blocks before it fill whole bytes of zero points.
        let quantum = (self.spec.block() * 8 / usize::from(self.spec.bits())) as u64;
        let fitting = STEP / (width as u64 * element).max(1);
        let step = (fitting / quantum * quantum).max(quantum);
        for from in (0..self.matrix.k).step_by(step as usize) {
            let height = step.min(self.matrix.k - from) as usize;
            scratch.parts.resize(&self.spec, width, height);
            let part = scratch.parts.out();
            let before = from as usize;
            let rule = self.chosen.rule(before..before + height);
            let (bytes, rounded) = (&mut scratch.bytes, &mut scratch.rounded);
            self.matrix
                .with_panel(from, height as u64, cols.clone(), bytes, |bytes| {
                    let source = self.matrix.view(bytes, rounded);
                    quantize_columns_by(&self.spec, &rule, Matrix::new(source, height, width), part)
                        .map_err(|e| self.matrix.failed(e, cols.start, from))
                })?;
            let spec = &self.spec;
            scatter(
                &scratch.parts.codes,
                width,
                out[CODES],
                spec.codes_len(1, before),
            );
            scatter(
                &scratch.parts.scales,
                width,
                out[SCALES],
                spec.scales_len(1, before),
            );
            if let Some(zero_points) = out.get_mut(ZERO_POINTS) {
                let at = spec.zero_points_len(1, before);
                scatter(&scratch.parts.zero_points, width, zero_points, at);
            }
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
    parts: Buffers,
}

impl Produce for QuantizeBlocks {
    fn source(&self) -> Option<&Data> {
        Some(&self.matrix.data)
    }

    fn outputs(&self) -> usize {
        if self.spec.symmetric() { 2 } else { 3 }
    }

    fn len(&self, output: usize) -> u64 {
        self.matrix.n * self.row_len(output)
    }

    fn tiles(&self) -> u64 {
        self.matrix.n.div_ceil(self.tile)
    }

    fn range(&self, tile: u64, output: usize) -> Range<u64> {
        let row = self.row_len(output);
        tile * self.tile * row..((tile + 1) * self.tile).min(self.matrix.n) * row
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        let range = tile * self.tile..((tile + 1) * self.tile).min(self.matrix.n);
        // Taken, not borrowed: reading a source that is itself computed may come back here.
        let mut scratch = SCRATCH.take();
        let done = match self.matrix.layout {
            Layout::Rows => self.rows(range, &mut scratch, out),
            Layout::Columns => self.columns(range, &mut scratch, out),
        };
        SCRATCH.replace(scratch);
        done?;
        if self.factor != 1.0 {
            multiply_scales(self.spec.scale(), out[SCALES], self.factor)
                .map_err(|e| Error::input(format!("weight `{}`: {e}", self.matrix.name)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{
        ir::{DataType, EntityId, ValueId},
        quant::{BlockMethod, ScaleType, Source, quantize_columns_by_ref, quantize_rows_by_ref},
        weights::Weight,
    };

    struct Case {
        layout: Layout,
        n: u64,
        k: u64,
        stored: DataType,
        rounding: Option<DataType>,
        spec: BlockSpec,
        chosen: Chosen,
        factor: f32,
        padded: bool,
    }

    fn spec(bits: u8, block: usize, symmetric: bool, scale: ScaleType) -> BlockSpec {
        BlockSpec::new(bits, block, symmetric, scale).unwrap()
    }

    impl Case {
        fn new(layout: Layout, n: u64, k: u64) -> Case {
            Case {
                layout,
                n,
                k,
                stored: DataType::Float,
                rounding: None,
                spec: spec(4, 16, false, ScaleType::F32),
                chosen: Chosen::default(),
                factor: 1.0,
                padded: true,
            }
        }

        /// No two blocks alike; no value that all types hold exactly.
        fn source(&self) -> Vec<u8> {
            let value = |i: u64| {
                let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                (hash % 20011) as f64 / 7919.0 - 1.2
            };
            let values = (0..self.n * self.k).map(value);
            match self.stored {
                DataType::Float => values.flat_map(|x| (x as f32).to_le_bytes()).collect(),
                DataType::Float16 => values
                    .flat_map(|x| f16::from_f64(x).to_le_bytes())
                    .collect(),
                DataType::Bfloat16 => values
                    .flat_map(|x| bf16::from_f64(x).to_le_bytes())
                    .collect(),
                _ => values.flat_map(f64::to_le_bytes).collect(),
            }
        }

        fn recipe(&self, source: Vec<u8>) -> QuantizeBlocks {
            let weight = Weight {
                root: ValueId::from_index(0),
                data: Data::Bytes(source.into()),
                stored: self.stored,
                dtype: self.rounding.unwrap_or(self.stored),
                rounding: self.rounding,
                dims: Vec::new(),
                strides: Vec::new(),
            };
            let matrix = MatrixView {
                weight,
                n: self.n,
                k: self.k,
                layout: self.layout,
            };
            QuantizeBlocks::new("W", &matrix, self.spec, self.factor, self.padded)
                .by(self.chosen.clone())
        }

        /// The whole matrix by the definition, element by element.
        fn expected(&self, source: &[u8]) -> [Vec<u8>; 3] {
            let (n, k, spec) = (self.n as usize, self.k as usize, &self.spec);
            let typed = match self.stored {
                DataType::Float => Source::F32Le(source),
                DataType::Float16 => Source::F16Le(source),
                DataType::Bfloat16 => Source::Bf16Le(source),
                _ => Source::F64Le(source),
            };
            let round = |x: f32| match self.rounding {
                Some(DataType::Float16) => f16::from_f32(x).to_f32(),
                Some(_) => bf16::from_f32(x).to_f32(),
                None => x,
            };
            let floats: Vec<f32> = (0..n * k).map(|i| round(typed.get(i))).collect();
            let mut codes = vec![0; spec.codes_len(n, k)];
            let mut scales = vec![0; spec.scales_len(n, k)];
            let mut zero_points = vec![0; spec.zero_points_len(n, k)];
            let out = Out {
                codes: &mut codes,
                scales: &mut scales,
                zero_points: &mut zero_points,
            };
            let (rule, source) = (self.chosen.rule(0..k), Source::F32(&floats));
            match self.layout {
                Layout::Rows => quantize_rows_by_ref(spec, &rule, Matrix::new(source, n, k), out),
                Layout::Columns => {
                    quantize_columns_by_ref(spec, &rule, Matrix::new(source, k, n), out)
                }
            }
            .unwrap();
            if !self.padded {
                let width = k * usize::from(spec.bits()) / 8;
                let rows = codes.chunks(spec.codes_len(1, k));
                codes = rows.flat_map(|row| &row[..width]).copied().collect();
            }
            let factor = self.factor;
            let scales = match spec.scale() {
                ScaleType::F16 => scales
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32() * factor)
                    .flat_map(|x| f16::from_f32(x).to_le_bytes())
                    .collect(),
                _ => scales
                    .as_chunks()
                    .0
                    .iter()
                    .flat_map(|b| (f32::from_le_bytes(*b) * factor).to_le_bytes())
                    .collect(),
            };
            [codes, scales, zero_points]
        }

        /// Checks every output; how many tiles there are.
        fn check(&self) -> u64 {
            let source = self.source();
            let expected = self.expected(&source);
            let recipe = self.recipe(source);
            let mut whole: Vec<Vec<u8>> = (0..recipe.outputs())
                .map(|o| vec![0xff; recipe.len(o) as usize])
                .collect();
            for tile in 0..recipe.tiles() {
                let range = |o: usize| {
                    let r = recipe.range(tile, o);
                    r.start as usize..r.end as usize
                };
                let parts = whole.iter_mut().enumerate();
                let mut parts: Vec<&mut [u8]> =
                    parts.map(|(o, whole)| &mut whole[range(o)]).collect();
                recipe.produce(tile, &mut parts).unwrap();
            }
            for (output, found) in whole.iter().enumerate() {
                let same = *found == expected[output];
                assert!(same, "output {output} of [{}, {}]", self.n, self.k);
            }
            recipe.tiles()
        }
    }

    #[test]
    fn rows_cross_tiles() {
        use Layout::Rows;
        assert_eq!(Case::new(Rows, 5, 48).check(), 1);
        assert_eq!(Case::new(Rows, 9001, 40).check(), 2);
        // Rows longer than a step are a tile each.
        assert_eq!(Case::new(Rows, 3, 263_001).check(), 3);
    }

    #[test]
    fn columns_cross_steps() {
        use Layout::Columns;
        for (n, k) in [(5, 48), (600, 1000), (20_001, 37)] {
            assert_eq!(Case::new(Columns, n, k).check(), 1);
        }
        // A step then ends where zero points do not fill a byte of their own accord.
        for bits in [2, 8] {
            let spec = spec(bits, 32, false, ScaleType::F32);
            let case = Case::new(Columns, 3000, 200);
            assert_eq!(Case { spec, ..case }.check(), 1);
        }
    }

    #[test]
    fn columns_cross_panels() {
        let spec = spec(8, 16, false, ScaleType::F32);
        let case = Case::new(Layout::Columns, 2103, 3201);
        assert_eq!(Case { spec, ..case }.check(), 2);
    }

    #[test]
    fn every_source_type_and_rounding() {
        let types = [
            (DataType::Float16, None),
            (DataType::Bfloat16, None),
            (DataType::Double, None),
            (DataType::Float, Some(DataType::Float16)),
            (DataType::Float, Some(DataType::Bfloat16)),
            (DataType::Double, Some(DataType::Float16)),
        ];
        for (stored, rounding) in types {
            for layout in [Layout::Rows, Layout::Columns] {
                for scale in [ScaleType::F32, ScaleType::F16] {
                    let case = Case {
                        stored,
                        rounding,
                        spec: spec(4, 32, true, scale),
                        factor: 0.3,
                        ..Case::new(layout, 70, 211)
                    };
                    case.check();
                }
            }
        }
    }

    #[test]
    fn rows_without_padding() {
        for layout in [Layout::Rows, Layout::Columns] {
            for (n, k, bits) in [(7, 38, 4), (7, 20, 2), (20_001, 38, 4), (9001, 36, 8)] {
                let case = Case {
                    spec: spec(bits, 16, true, ScaleType::F32),
                    padded: false,
                    ..Case::new(layout, n, k)
                };
                case.check();
            }
        }
    }

    /// The importance of a column goes with it into every step.
    #[test]
    fn methods_cross_steps_and_tiles() {
        let importance = |k: u64| (0..k).map(|i| (i * i % 97) as f32).collect();
        for (layout, n, k) in [(Layout::Rows, 700, 411), (Layout::Columns, 300, 1000)] {
            for (method, importance) in [
                (BlockMethod::Mse, None),
                (BlockMethod::Mse, Some(importance(k))),
                (BlockMethod::Hqq, None),
            ] {
                for floats in [false, true] {
                    let spec = spec(4, 16, false, ScaleType::F16);
                    let case = Case {
                        spec: if floats {
                            spec.with_float_zero_points()
                        } else {
                            spec
                        },
                        chosen: Chosen {
                            method,
                            importance: importance.clone(),
                        },
                        ..Case::new(layout, n, k)
                    };
                    case.check();
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "importance of the columns of `W`")]
    fn an_importance_of_other_columns() {
        let chosen = Chosen {
            method: BlockMethod::Mse,
            importance: Some(vec![1.0; 47].into()),
        };
        let case = Case {
            chosen,
            ..Case::new(Layout::Rows, 5, 48)
        };
        case.recipe(case.source());
    }

    #[test]
    fn any_range_can_be_read() {
        use std::sync::Arc;

        let case = Case::new(Layout::Rows, 9001, 40);
        let source = case.source();
        let expected = case.expected(&source);
        let recipe: Arc<dyn Produce> = Arc::new(case.recipe(source));
        for output in [CODES, SCALES, ZERO_POINTS] {
            let data = Data::Computed {
                recipe: recipe.clone(),
                output,
            };
            let (len, tile) = (data.len(), recipe.range(0, output).end);
            assert_eq!(len, expected[output].len() as u64);
            for (from, to) in [(0, 1), (tile - 1, tile + 1), (tile, tile), (1, len - 1)] {
                let mut out = vec![0xff; (to - from) as usize];
                data.read_at(from, &mut out).unwrap();
                let same = out == expected[output][from as usize..to as usize];
                assert!(same, "{from}..{to} of output {output}");
            }
        }
    }

    #[test]
    fn errors_name_the_weight_and_the_element_as_it_is_stored() {
        let message = |layout, at: usize, x: f32, factor: f32| {
            let case = Case {
                factor,
                spec: spec(4, 16, true, ScaleType::F16),
                ..Case::new(layout, 600, 1000)
            };
            let mut source = case.source();
            source[4 * at..4 * at + 4].copy_from_slice(&x.to_le_bytes());
            let recipe: std::sync::Arc<dyn Produce> = std::sync::Arc::new(case.recipe(source));
            let data = Data::Computed { recipe, output: 0 };
            data.read_all().unwrap_err().chain()
        };
        let nan = "is NaN or infinite as float; --allow-nonfinite leaves such weights as they are";
        assert_eq!(
            message(Layout::Rows, 599 * 1000 + 7, f32::NAN, 1.0),
            format!("weight `W`: element [599, 7] {nan}")
        );
        // In the last of several steps.
        assert_eq!(
            message(Layout::Columns, 999 * 600 + 7, f32::INFINITY, 1.0),
            format!("weight `W`: element [999, 7] {nan}")
        );
        assert_eq!(
            message(Layout::Columns, 999 * 600 + 7, 1e7, 1.0),
            "weight `W` ([600, 1000] as quantized): the scale of a block in row 7 overflows its type"
        );
        assert!(message(Layout::Rows, 0, 0.0, 1e9).starts_with("weight `W`: "));
    }
}
