//! The kernels against plain implementations in `f64`, and what they promise for every input.

use super::*;
use crate::quant::{BlockSpec, Matrix, Out, QuantizeError, ScaleType, Source, dequantize_rows};

mod degenerate;
mod equal;
mod plain;
mod promises;
mod statistics;

/// A generator of uniform numbers from -1 to 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn some(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    /// Tokens whose channels are correlated and of different size.
    fn tokens(&mut self, tokens: usize, k: usize) -> Vec<f32> {
        let factors = k.div_ceil(3);
        let mix = self.some(factors * k);
        let sizes: Vec<f32> = (0..k).map(|_| (1.5 * self.next()).exp()).collect();
        let mut x = Vec::with_capacity(tokens * k);
        for _ in 0..tokens {
            let common = self.some(factors);
            for (i, size) in sizes.iter().enumerate() {
                let sum: f32 = (0..factors).map(|f| common[f] * mix[f * k + i]).sum();
                x.push((sum + 0.3 * self.next()) * size);
            }
        }
        x
    }
}

fn hessian(k: usize, tokens: &[f32]) -> Hessian {
    let mut h = Hessian::new(k);
    h.add(tokens).unwrap();
    h
}

fn spec(bits: u8, block: usize, symmetric: bool, scale: ScaleType) -> BlockSpec {
    BlockSpec::new(bits, block, symmetric, scale).unwrap()
}

#[derive(Clone, Debug, PartialEq)]
struct Buffers {
    codes: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Buffers {
    /// Filled with something, so that a byte that is not written shows.
    fn new(spec: &BlockSpec, n: usize, k: usize) -> Self {
        Self {
            codes: vec![0x5a; spec.codes_len(n, k)],
            scales: vec![0x5a; spec.scales_len(n, k)],
            zero_points: vec![0x5a; spec.zero_points_len(n, k)],
        }
    }

    fn out(&mut self) -> Out<'_> {
        Out {
            codes: &mut self.codes,
            scales: &mut self.scales,
            zero_points: &mut self.zero_points,
        }
    }

    fn decoded(&self, spec: &BlockSpec, n: usize, k: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; n * k];
        let (codes, scales, zero_points) = (&self.codes, &self.scales, &self.zero_points);
        dequantize_rows(spec, n, k, codes, scales, zero_points, &mut out);
        out
    }
}

/// Runs `gptq`.
fn run(
    spec: &BlockSpec,
    weight: &[f32],
    h: &Hessian,
    options: &GptqOptions,
) -> Result<(Buffers, Report), QuantizeError> {
    let mut buffers = Buffers::new(spec, weight.len() / h.k(), h.k());
    let report = gptq(spec, weight, h, None, options, buffers.out())?;
    Ok((buffers, report))
}

/// Plain rounding.
fn nearest(spec: &BlockSpec, weight: &[f32], k: usize) -> Result<Buffers, QuantizeError> {
    let n = weight.len() / k;
    let mut buffers = Buffers::new(spec, n, k);
    let weight = Matrix::new(Source::F32(weight), n, k);
    crate::quant::quantize_rows(spec, weight, buffers.out())?;
    Ok(buffers)
}

/// `f` on a pool of that many threads.
fn on<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(f)
}
