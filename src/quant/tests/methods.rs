//! What the methods beyond round to nearest find.

use super::*;
use crate::quant::{fit, lanes};

/// Errors of each block of `x` as `out` stands for it, by the measure of the method.
fn errors(
    spec: &BlockSpec,
    method: BlockMethod,
    importance: &[f32],
    x: &[f32],
    out: &Buffers,
) -> Vec<f64> {
    let k = importance.len();
    let n = x.len() / k;
    let mut decoded = vec![0.0; x.len()];
    dequantize_rows(
        spec,
        n,
        k,
        &out.codes,
        &out.scales,
        &out.zero_points,
        &mut decoded,
    );
    let mut errors = Vec::new();
    for (x, decoded) in x.chunks(k).zip(decoded.chunks(k)) {
        for begin in (0..k).step_by(spec.block()) {
            let places = begin..(begin + spec.block()).min(k);
            let squares: f64 = x[places.clone()]
                .iter()
                .map(|&x| f64::from(x).powi(2))
                .sum();
            // The mean is that of the padded block.
            let root = (squares / spec.block() as f64).sqrt();
            let importance = |i: usize| importance[i].clamp(0.0, f32::MAX);
            let even = places.clone().all(|i| importance(i) == 0.0);
            let error = |i: usize| {
                let off = f64::from(x[i]) - f64::from(decoded[i]);
                let importance = if even { 1.0 } else { importance(i) };
                match method {
                    BlockMethod::Mse => {
                        f64::from(importance) * (root + f64::from(x[i]).abs()) * off * off
                    }
                    _ => off * off,
                }
            };
            errors.push(places.map(error).sum());
        }
    }
    errors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 2000 }))]

    /// No block is worse than round to nearest has it.
    #[test]
    fn no_worse_than_to_nearest((spec, n, k, x) in cases(), floats: bool, weighted: bool) {
        let spec = if floats { spec.with_float_zero_points() } else { spec };
        let weights = if weighted { importance(k, &x) } else { vec![1.0; k] };
        let matrix = Matrix::new(Source::F32(&x), n, k);
        let mut rtn = Buffers::new(&spec, n, k, 0);
        if quantize_rows(&spec, matrix, rtn.out()).is_err() {
            return Ok(());
        }
        for method in [BlockMethod::Mse, BlockMethod::Hqq] {
            let rule = Rule { method, importance: Some(&weights) };
            let mut found = Buffers::new(&spec, n, k, 0);
            prop_assert!(quantize_rows_by(&spec, &rule, matrix, found.out()).is_ok());
            let before = errors(&spec, method, &weights, &x, &rtn);
            let after = errors(&spec, method, &weights, &x, &found);
            for (before, after) in before.iter().zip(&after) {
                // The kernels sum in f32, and weights of a block that differ by more than 2^126
                // become 0. A step of the largest scales may decode to infinity.
                let bound = before * 1.0001 + f64::from(f32::MIN_POSITIVE);
                prop_assert!(!before.is_finite() || *after <= bound, "{method:?}: {after} over {before}");
            }
        }
    }
}

/// What the search is for: on what most weights look like it finds much.
#[test]
fn errors_of_normal_numbers_fall() {
    let mut state = 7u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let x: Vec<f32> = (0..64 * 512)
        .map(|_| (0..6).map(|_| uniform()).sum())
        .collect();
    let matrix = Matrix::new(Source::F32(&x), 64, 512);
    // By how much, at least: bits, block, symmetric.
    let cases = [
        (4, 16, true, 0.90),
        (4, 16, false, 0.84),
        (4, 32, true, 0.93),
        (4, 32, false, 0.91),
        (2, 32, true, 0.92),
        (2, 32, false, 0.76),
        (8, 32, true, 0.90),
        (8, 32, false, 0.92),
    ];
    for (bits, block, symmetric, part) in cases {
        let spec = BlockSpec::new(bits, block, symmetric, ScaleType::F16).unwrap();
        let total = |method| {
            let mut out = Buffers::new(&spec, 64, 512, 0);
            quantize_rows_by(&spec, &Rule::of(method), matrix, out.out()).unwrap();
            errors(&spec, BlockMethod::Mse, &[1.0; 512], &x, &out)
                .iter()
                .sum::<f64>()
        };
        let ratio = total(BlockMethod::Mse) / total(BlockMethod::Rtn);
        assert!(ratio < part, "{spec:?}: {ratio}");
    }
}

/// Importances are those of the columns, also of later blocks and of panels.
#[test]
fn what_counts_is_kept() {
    let sign = |i: usize| if i.is_multiple_of(3) { -1.0 } else { 1.0 };
    let x: Vec<f32> = (0..96)
        .map(|i| sign(i) * (1.0 + ((i * 37) % 96) as f32 / 96.0))
        .collect();
    let spec = BlockSpec::new(2, 16, true, ScaleType::F32).unwrap();
    let mut importance = vec![0.0; 48];
    (importance[5], importance[21], importance[40]) = (3.0, 1e-9, 1e20);
    let rule = Rule {
        method: BlockMethod::Mse,
        importance: Some(&importance),
    };
    let mut out = Buffers::new(&spec, 2, 48, 0);
    quantize_rows_by(&spec, &rule, Matrix::new(Source::F32(&x), 2, 48), out.out()).unwrap();
    let mut decoded = vec![0.0; 96];
    dequantize_rows(&spec, 2, 48, &out.codes, &out.scales, &[], &mut decoded);
    for at in [5, 21, 40, 48 + 5, 48 + 21, 48 + 40] {
        approx::assert_relative_eq!(decoded[at], x[at], max_relative = 1e-6);
    }
}

/// The one lane-wise path of a processor without AVX2.
#[test]
fn searches_of_the_bare_target() {
    let x: Vec<f32> = (0..32 * 64)
        .map(|i| ((i * 7919) % 10_007) as f32 * 1e-3 - 5.0)
        .collect();
    let mut tile = [[0.0; 16]; 64];
    (0..64 * 16).for_each(|i| tile[i / 16][i % 16] = x[i]);
    for symmetric in [true, false] {
        for method in [BlockMethod::Mse, BlockMethod::Hqq] {
            let spec = BlockSpec::new(4, 64, symmetric, ScaleType::F16).unwrap();
            let mut ranges = lanes::Ranges::new();
            tile.iter().for_each(|x| ranges.add(x));
            let of = |bare| {
                let mut params = lanes::params(&spec, &ranges, &tile[0]);
                fit::tile(&spec, Rule::of(method), &tile, &ranges, &mut params, bare);
                (params.scales, params.zero_points)
            };
            assert_eq!(of(true), of(false), "{method:?}");
        }
    }
}
