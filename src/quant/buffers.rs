//! A quantized matrix in memory of its own.

use super::{dequantize::dequantize_rows, rtn::Out, spec::BlockSpec};

/// What the kernels write, as [`Out`] describes it, and whose it is.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    /// Codes, [`BlockSpec::codes_len`] bytes.
    pub codes: Vec<u8>,
    /// Scales, [`BlockSpec::scales_len`] bytes.
    pub scales: Vec<u8>,
    /// Zero points, [`BlockSpec::zero_points_len`] bytes: empty when symmetric.
    pub zero_points: Vec<u8>,
}

impl Buffers {
    /// Room for an `[n, k]` matrix.
    pub fn new(spec: &BlockSpec, n: usize, k: usize) -> Buffers {
        let mut buffers = Buffers::default();
        buffers.resize(spec, n, k);
        buffers
    }

    /// Makes room for an `[n, k]` matrix; what is there is not cleared.
    pub fn resize(&mut self, spec: &BlockSpec, n: usize, k: usize) {
        self.codes.resize(spec.codes_len(n, k), 0);
        self.scales.resize(spec.scales_len(n, k), 0);
        self.zero_points.resize(spec.zero_points_len(n, k), 0);
    }

    /// To be written to.
    pub fn out(&mut self) -> Out<'_> {
        Out {
            codes: &mut self.codes,
            scales: &mut self.scales,
            zero_points: &mut self.zero_points,
        }
    }

    /// The elements, `[n, k]`: see [`dequantize_rows`].
    ///
    /// # Panics
    /// If there is no room for such a matrix.
    pub fn decode(&self, spec: &BlockSpec, n: usize, k: usize) -> Vec<f32> {
        let mut elements = vec![0.0; n * k];
        let Buffers {
            codes,
            scales,
            zero_points,
        } = self;
        dequantize_rows(spec, n, k, codes, scales, zero_points, &mut elements);
        elements
    }
}
