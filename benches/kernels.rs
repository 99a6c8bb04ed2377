//! Throughput of the quantization kernels, one thread, in bytes of input, beside a copy of
//! the same input. The matrix is larger than the caches.
//!
//! The second-order kernels run on all threads, and count multiplications, of those that an `n x k`
//! weight takes: those of a symmetric product once.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use onnxq::quant::gptq::{GptqOptions, Hessian, Objective, weighted_loss};
use onnxq::quant::{
    BlockMethod, BlockSpec, Matrix, Out, Rule, ScaleType, Source, dequantize_rows, f32_from_f16,
    first_nonfinite, quantize_columns, quantize_columns_by, quantize_rows, quantize_rows_by,
};

/// 67 MB of `f32`.
const K: usize = 4096;
const N: usize = 4096;

fn main() {
    divan::main();
}

fn weights() -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..K * N).map(|_| next() + next() + next()).collect()
}

fn f32_bytes() -> Vec<u8> {
    weights().iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn f16_bytes() -> Vec<u8> {
    let x = weights();
    x.iter()
        .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
        .collect()
}

/// A specification and how it is shown: bits, block, `s` or `a`.
struct Case(BlockSpec);

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.0.symmetric() { "s" } else { "a" };
        write!(f, "{}b{}{kind}", self.0.bits(), self.0.block())
    }
}

fn cases(scale: ScaleType) -> impl Iterator<Item = Case> {
    [
        (4, 16, true),
        (4, 32, true),
        (4, 64, true),
        (4, 128, true),
        (4, 256, true),
        (4, 16, false),
        (4, 32, false),
        (8, 32, true),
        (2, 32, true),
    ]
    .into_iter()
    .map(move |(bits, block, symmetric)| {
        Case(BlockSpec::new(bits, block, symmetric, scale).expect("valid"))
    })
}

struct Buffers(Vec<u8>, Vec<u8>, Vec<u8>);

impl Buffers {
    fn new(spec: &BlockSpec) -> Self {
        Self(
            vec![1; spec.codes_len(N, K)],
            vec![1; spec.scales_len(N, K)],
            vec![1; spec.zero_points_len(N, K)],
        )
    }

    fn out(&mut self) -> Out<'_> {
        Out {
            codes: &mut self.0,
            scales: &mut self.1,
            zero_points: &mut self.2,
        }
    }
}

#[divan::bench]
fn memcpy_f32(bencher: Bencher) {
    let (from, mut to) = (f32_bytes(), vec![1; 4 * N * K]);
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| divan::black_box(&mut to).copy_from_slice(divan::black_box(&from)));
}

#[divan::bench]
fn memcpy_f16(bencher: Bencher) {
    let (from, mut to) = (f16_bytes(), vec![1; 2 * N * K]);
    bencher
        .counter(BytesCount::new(2 * N * K))
        .bench_local(|| divan::black_box(&mut to).copy_from_slice(divan::black_box(&from)));
}

#[divan::bench(args = cases(ScaleType::F32))]
fn columns_f32(bencher: Bencher, case: &Case) {
    let (from, mut to) = (f32_bytes(), Buffers::new(&case.0));
    let x = Matrix::new(Source::F32Le(&from), K, N);
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| quantize_columns(&case.0, divan::black_box(x), to.out()).expect("finite"));
}

#[divan::bench(args = cases(ScaleType::F16))]
fn columns_f16(bencher: Bencher, case: &Case) {
    let (from, mut to) = (f16_bytes(), Buffers::new(&case.0));
    let x = Matrix::new(Source::F16Le(&from), K, N);
    bencher
        .counter(BytesCount::new(2 * N * K))
        .bench_local(|| quantize_columns(&case.0, divan::black_box(x), to.out()).expect("finite"));
}

#[divan::bench(args = cases(ScaleType::F32))]
fn rows_f32(bencher: Bencher, case: &Case) {
    let (from, mut to) = (f32_bytes(), Buffers::new(&case.0));
    let x = Matrix::new(Source::F32Le(&from), N, K);
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| quantize_rows(&case.0, divan::black_box(x), to.out()).expect("finite"));
}

#[divan::bench(args = cases(ScaleType::F16))]
fn rows_f16(bencher: Bencher, case: &Case) {
    let (from, mut to) = (f16_bytes(), Buffers::new(&case.0));
    let x = Matrix::new(Source::F16Le(&from), N, K);
    bencher
        .counter(BytesCount::new(2 * N * K))
        .bench_local(|| quantize_rows(&case.0, divan::black_box(x), to.out()).expect("finite"));
}

/// A method with what it is used for.
struct Search(BlockMethod, BlockSpec);

impl std::fmt::Display for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.0, Case(self.1))
    }
}

fn searches() -> impl Iterator<Item = Search> {
    [
        (BlockMethod::Mse, 4, 16, true),
        (BlockMethod::Mse, 4, 32, true),
        (BlockMethod::Mse, 4, 16, false),
        (BlockMethod::Mse, 4, 32, false),
        (BlockMethod::Hqq, 4, 16, false),
        (BlockMethod::Hqq, 4, 32, false),
    ]
    .into_iter()
    .map(|(method, bits, block, symmetric)| {
        let spec = BlockSpec::new(bits, block, symmetric, ScaleType::F32).expect("valid");
        Search(method, spec)
    })
}

#[divan::bench(args = searches(), sample_count = 5)]
fn columns_by(bencher: Bencher, Search(method, spec): &Search) {
    let (from, mut to) = (f32_bytes(), Buffers::new(spec));
    let x = Matrix::new(Source::F32Le(&from), K, N);
    let rule = Rule::of(*method);
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| quantize_columns_by(spec, &rule, divan::black_box(x), to.out()));
}

#[divan::bench(args = searches(), sample_count = 5)]
fn rows_by(bencher: Bencher, Search(method, spec): &Search) {
    let (from, mut to) = (f32_bytes(), Buffers::new(spec));
    let x = Matrix::new(Source::F32Le(&from), N, K);
    let rule = Rule::of(*method);
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| quantize_rows_by(spec, &rule, divan::black_box(x), to.out()));
}

#[divan::bench(args = cases(ScaleType::F32))]
fn dequantize(bencher: Bencher, case: &Case) {
    let mut to = Buffers::new(&case.0);
    let x = weights();
    quantize_rows(&case.0, Matrix::new(Source::F32(&x), N, K), to.out()).expect("finite");
    let mut out = vec![1.0; N * K];
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| dequantize_rows(&case.0, N, K, &to.0, &to.1, &to.2, &mut out));
}

#[divan::bench]
fn convert_f16(bencher: Bencher) {
    let (from, mut to) = (f16_bytes(), vec![1.0; N * K]);
    bencher
        .counter(BytesCount::new(2 * N * K))
        .bench_local(|| f32_from_f16(divan::black_box(&from), &mut to));
}

#[divan::bench]
fn finite(bencher: Bencher) {
    let x = weights();
    bencher
        .counter(BytesCount::new(4 * N * K))
        .bench_local(|| first_nonfinite(divan::black_box(&x)));
}

/// Tokens of a calibration.
const TOKENS: usize = 2048;

/// Inputs of the layers of a small language model, and of a larger one.
const CHANNELS: [usize; 3] = [576, 1536, 4096];

fn hessian_of(k: usize) -> Hessian {
    let mut h = Hessian::new(k);
    h.add(&weights()[..TOKENS * k]).expect("finite");
    h
}

#[divan::bench(args = CHANNELS, sample_count = 10)]
fn hessian(bencher: Bencher, k: usize) {
    let x = weights();
    bencher
        .counter(ItemsCount::new(TOKENS * k * k / 2))
        .with_inputs(|| Hessian::new(k))
        .bench_local_values(|mut h| {
            h.add(divan::black_box(&x[..TOKENS * k])).expect("finite");
            h
        });
}

#[divan::bench(args = CHANNELS, sample_count = 10)]
fn factorization(bencher: Bencher, k: usize) {
    let h = hessian_of(k);
    bencher
        .counter(ItemsCount::new(k * k * k / 6))
        .bench_local(|| Objective::new(divan::black_box(&h), None, &GptqOptions::default()));
}

/// Shape `[n, k]` of a layer, and refits.
const LAYERS: [(usize, usize, usize); 5] = [
    (960, 576, 0),
    (960, 576, 2),
    (3072, 576, 2),
    (576, 1536, 2),
    (1024, 4096, 2),
];

#[divan::bench(args = LAYERS, sample_count = 10)]
fn gptq(bencher: Bencher, (n, k, refits): (usize, usize, usize)) {
    let options = GptqOptions {
        refits,
        ..GptqOptions::default()
    };
    let objective = Objective::new(&hessian_of(k), None, &options);
    let spec = BlockSpec::new(4, 16, false, ScaleType::F16).expect("valid");
    let (weight, mut to) = (weights(), Buffers::new(&spec));
    // Halves of n k^2: plain rounding, three sweeps, and seven for each refit with two descents.
    let halves = 4 + 7 * refits;
    bencher
        .counter(ItemsCount::new(n * k * k / 2 * halves))
        .bench_local(|| {
            let out = Out {
                codes: &mut to.0[..spec.codes_len(n, k)],
                scales: &mut to.1[..spec.scales_len(n, k)],
                zero_points: &mut to.2[..spec.zero_points_len(n, k)],
            };
            objective.quantize(&spec, divan::black_box(&weight[..n * k]), out)
        });
}

#[divan::bench(sample_count = 10)]
fn loss(bencher: Bencher) {
    let (n, k) = (960, 576);
    let (h, errors) = (hessian_of(k), weights());
    bencher
        .counter(ItemsCount::new(n * k * k))
        .bench_local(|| weighted_loss(divan::black_box(&errors[..n * k]), &h));
}
