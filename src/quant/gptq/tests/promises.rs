//! What holds for every input: the loss never rises, and neither threads nor the other rows matter.

use proptest::prelude::*;

use super::plain::{inverse, quadratic, sums};
use super::*;

fn options(refits: usize, sweeps: usize) -> GptqOptions {
    GptqOptions {
        refits,
        sweeps,
        ..GptqOptions::default()
    }
}

#[test]
fn neither_threads_nor_other_rows_matter() {
    let (n, k) = (150, 72);
    let tokens = Numbers(1).tokens(400, k);
    let weight = Numbers(2).some(n * k);
    let spec = spec(4, 16, false, ScaleType::F16);
    let h = hessian(k, &tokens);
    let want = run(&spec, &weight, &h, &options(2, 2)).unwrap();
    for threads in [1, 2, 5] {
        let got = on(threads, || {
            run(&spec, &weight, &hessian(k, &tokens), &options(2, 2))
        });
        assert_eq!(got.unwrap(), want, "{threads} threads");
    }
    let objective = Objective::new(&h, None, &options(2, 2));
    let mut at = 0;
    for rows in [1, 16, 33, 100] {
        let mut got = Buffers::new(&spec, rows, k);
        let part = &weight[at * k..(at + rows) * k];
        objective.quantize(&spec, part, got.out()).unwrap();
        let begin = spec.codes_len(at, k);
        assert_eq!(got.codes, want.0.codes[begin..begin + got.codes.len()]);
        at += rows;
    }
}

/// A factorization over several panels, and blocks of every length.
#[test]
fn large_blocks_and_many_columns() {
    let (n, k) = (20, 330);
    let h = hessian(k, &Numbers(1).tokens(700, k));
    let weight = Numbers(2).some(n * k);
    for (bits, block) in [(4, 64), (2, 128), (8, 256)] {
        let spec = spec(bits, block, false, ScaleType::F16);
        let (got, report) = run(&spec, &weight, &h, &options(2, 2)).unwrap();
        assert!(report.loss < 0.7 * report.plain, "{report:?}");
        let decoded = got.decoded(&spec, n, k);
        let errors: Vec<f32> = weight.iter().zip(&decoded).map(|(w, q)| w - q).collect();
        assert!(weighted_loss(&errors, &h) < report.loss);
    }
}

fn cases() -> impl Strategy<Value = (BlockSpec, usize, usize, usize, u64)> {
    let scales = prop::sample::select(vec![ScaleType::F32, ScaleType::F16, ScaleType::BF16]);
    let bits = prop::sample::select(vec![2u8, 4, 8]);
    let block = prop::sample::select(vec![16usize, 32, 64, 128, 256]);
    (
        bits,
        block,
        any::<bool>(),
        scales,
        1usize..40,
        1usize..90,
        0usize..200,
        any::<u64>(),
    )
        .prop_map(|(bits, block, symmetric, scale, n, k, tokens, seed)| {
            (spec(bits, block, symmetric, scale), n, k, tokens, seed)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn more_work_is_never_worse((spec, n, k, tokens, seed) in cases()) {
        let mut numbers = Numbers(seed);
        let tokens = numbers.tokens(tokens, k);
        let weight = numbers.some(n * k);
        let h = hessian(k, &tokens);
        let mut last = f64::INFINITY;
        let squares = sums(k, &tokens, &tokens);
        for (refits, sweeps) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
            let (got, report) = run(&spec, &weight, &h, &options(refits, sweeps)).unwrap();
            prop_assert!(report.loss <= report.plain);
            // The losses of one step are computed anew in the next, in f32.
            prop_assert!(report.loss <= last * (1.0 + 1e-5), "{} after {last}", report.loss);
            last = report.loss;

            // What is reported is what was written, row by row no more than plain rounding.
            let count = (tokens.len() / k).max(1) as f64;
            let mut damped = squares.clone();
            let mean = (0..k).map(|i| damped[i][i]).sum::<f64>() / k as f64;
            let mean = if mean == 0.0 { 1.0 } else { mean };
            (0..k).for_each(|i| damped[i][i] += report.damping * mean);
            let losses = |buffers: &Buffers| -> Vec<f64> {
                let decoded = buffers.decoded(&spec, n, k);
                let errors = weight.iter().zip(&decoded).map(|(w, q)| f64::from(w - q));
                let errors: Vec<f64> = errors.collect();
                errors.chunks(k).map(|e| quadratic(&damped, e) / count).collect()
            };
            let (now, plain) = (losses(&got), losses(&nearest(&spec, &weight, k).unwrap()));
            // Sums of up to 90 products in f32, relative to terms that may cancel; a step of 8 bits
            // leaves some digits fewer.
            let sum: f64 = now.iter().sum();
            prop_assert!((sum - report.loss).abs() <= 1e-3 * sum + 1e-12, "{sum} {}", report.loss);
            for (now, plain) in now.iter().zip(&plain) {
                prop_assert!(*now <= plain * (1.0 + 1e-4) + 1e-12, "{now} {plain}");
            }
        }
    }
}

#[test]
fn the_loss_of_any_error() {
    let (n, k) = (21, 50);
    let tokens = Numbers(1).tokens(300, k);
    let errors = Numbers(2).some(n * k);
    let h = sums(k, &tokens, &tokens);
    let want: f64 = errors
        .chunks(k)
        .map(|e| quadratic(&h, &e.iter().map(|&e| f64::from(e)).collect::<Vec<_>>()))
        .sum();
    let got = weighted_loss(&errors, &hessian(k, &tokens));
    // Five digits are promised.
    approx::assert_relative_eq!(got, want / 300.0, max_relative = 1e-5);
    assert_eq!(weighted_loss(&errors, &Hessian::new(k)), 0.0);
    assert_eq!(weighted_loss(&[], &hessian(k, &tokens)), 0.0);
}

#[test]
fn moved_inputs_are_made_up_for() {
    let (n, k, count) = (18, 45, 400);
    let mut numbers = Numbers(4);
    let float = numbers.tokens(count, k);
    let moved: Vec<f32> = float
        .iter()
        .map(|x| 0.9 * x + 0.2 * numbers.next())
        .collect();
    let weight = numbers.some(n * k);
    let spec = spec(4, 16, false, ScaleType::F16);
    let h = hessian(k, &moved);
    let mut cross = Cross::new(k);
    cross.add(&float, &moved).unwrap();

    // Squared error of the outputs, summed over all tokens.
    let outputs = |weight: &[f32], x: &[f32]| -> Vec<f64> {
        let dot = |w: &[f32], x: &[f32]| -> f64 {
            w.iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum()
        };
        x.chunks(k)
            .flat_map(|x| weight.chunks(k).map(move |w| dot(w, x)))
            .collect()
    };
    let want = outputs(&weight, &float);
    let error = |alpha: f32| -> f64 {
        let mut got = Buffers::new(&spec, n, k);
        let options = GptqOptions {
            alpha,
            ..GptqOptions::default()
        };
        gptq(&spec, &weight, &h, Some(&cross), &options, got.out()).unwrap();
        let got = outputs(&got.decoded(&spec, n, k), &moved);
        got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let (none, half, all) = (error(0.0), error(0.5), error(1.0));
    assert!(all < half && half < none, "{all} {half} {none}");
    assert!(all < 0.5 * none, "{all} {none}");
    let (without, _) = run(&spec, &weight, &h, &GptqOptions::default()).unwrap();
    let mut got = Buffers::new(&spec, n, k);
    let options = GptqOptions {
        alpha: 0.0,
        ..GptqOptions::default()
    };
    gptq(&spec, &weight, &h, Some(&cross), &options, got.out()).unwrap();
    assert_eq!(got, without);
}

/// Quantizing with a cross is quantizing the weight that makes up for what has moved.
#[test]
fn the_target_is_the_least_squares_one() {
    let (n, k, count) = (5, 30, 200);
    let mut numbers = Numbers(8);
    let float = numbers.tokens(count, k);
    let quantized: Vec<f32> = float.iter().map(|x| x + 0.3 * numbers.next()).collect();
    let weight = numbers.some(n * k);
    let difference: Vec<f32> = float.iter().zip(&quantized).map(|(x, q)| x - q).collect();
    let c = sums(k, &difference, &quantized);
    let mut damped = sums(k, &quantized, &quantized);
    let mean = (0..k).map(|i| damped[i][i]).sum::<f64>() / k as f64;
    (0..k).for_each(|i| damped[i][i] += 0.01 * mean);
    let inverse = inverse(&damped);
    let product = |row: &[f64], m: &[Vec<f64>]| -> Vec<f64> {
        (0..k)
            .map(|j| (0..k).map(|i| row[i] * m[i][j]).sum())
            .collect()
    };
    let mut target = Vec::new();
    for row in weight.chunks(k) {
        let row: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
        let shift = product(&product(&row, &c), &inverse);
        target.extend(row.iter().zip(shift).map(|(w, s)| (w + s) as f32));
    }

    let h = hessian(k, &quantized);
    let mut cross = Cross::new(k);
    cross.add(&float, &quantized).unwrap();
    let spec = spec(4, 16, true, ScaleType::F16);
    let options = GptqOptions {
        scales: Scales::Search,
        alpha: 1.0,
        ..GptqOptions::default()
    };
    let mut got = Buffers::new(&spec, n, k);
    let report = gptq(&spec, &weight, &h, Some(&cross), &options, got.out()).unwrap();
    let (_, direct) = run(&spec, &target, &h, &options).unwrap();
    // The search begins with the scales of the weight in one, of the target in the other.
    approx::assert_relative_eq!(report.loss, direct.loss, max_relative = 0.05);
    let loss = |buffers: &Buffers| -> f64 {
        let decoded = buffers.decoded(&spec, n, k);
        let errors: Vec<f64> = target
            .iter()
            .zip(&decoded)
            .map(|(w, q)| f64::from(w - q))
            .collect();
        errors.chunks(k).map(|e| quadratic(&damped, e)).sum::<f64>() / count as f64
    };
    // Differences of the target in f32 against f64.
    approx::assert_relative_eq!(report.loss, loss(&got), max_relative = 1e-3);
}
