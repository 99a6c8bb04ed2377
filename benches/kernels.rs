//! Throughput of the quantization kernels, one thread, in bytes of input, beside a copy of
//! the same input. The matrix is larger than the caches.

use divan::Bencher;
use divan::counter::BytesCount;
use onnxq::quant::{
    BlockSpec, Matrix, Method, Out, Rule, ScaleType, Source, dequantize_rows, f32_from_f16,
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
struct Search(Method, BlockSpec);

impl std::fmt::Display for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.0, Case(self.1))
    }
}

fn searches() -> impl Iterator<Item = Search> {
    [
        (Method::Mse, 4, 16, true),
        (Method::Mse, 4, 32, true),
        (Method::Mse, 4, 16, false),
        (Method::Mse, 4, 32, false),
        (Method::Hqq, 4, 16, false),
        (Method::Hqq, 4, 32, false),
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
