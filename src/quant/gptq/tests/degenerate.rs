//! Statistics and weights at the limits.

use super::*;

const PLAIN: GptqOptions = GptqOptions {
    damping: 0.01,
    activation_order: true,
    scales: Scales::Plain,
    alpha: 1.0,
    sweeps: 2,
    refits: 0,
};

#[test]
fn without_statistics_it_is_plain_rounding() {
    for (k, n) in [(1, 1), (15, 17), (16, 3), (50, 20)] {
        let weight = Numbers(1).some(n * k);
        for spec in [
            spec(4, 16, true, ScaleType::F16),
            spec(4, 16, false, ScaleType::F16),
            spec(2, 32, false, ScaleType::F32),
            spec(8, 64, false, ScaleType::BF16),
        ] {
            let want = nearest(&spec, &weight, k).unwrap();
            for h in [Hessian::new(k), hessian(k, &vec![0.0; 300 * k])] {
                let (got, report) = run(&spec, &weight, &h, &PLAIN).unwrap();
                assert_eq!(got, want);
                assert_eq!(report.damping, 1.0);
                // Nothing better is known for the codes, but scales may still be.
                run(&spec, &weight, &h, &GptqOptions::default()).unwrap();
            }
        }
    }
}

#[test]
fn a_channel_that_is_never_used_is_rounded_by_itself() {
    let (n, k) = (3, 32);
    let spec = spec(4, 16, true, ScaleType::F32);
    let mut tokens = Numbers(1).tokens(100, k);
    tokens.iter_mut().skip(5).step_by(k).for_each(|x| *x = 0.0);
    let weight = Numbers(2).some(n * k);
    let plain = nearest(&spec, &weight, k).unwrap().decoded(&spec, n, k);
    let (got, _) = run(&spec, &weight, &hessian(k, &tokens), &PLAIN).unwrap();
    let got = got.decoded(&spec, n, k);
    for row in 0..n {
        assert_eq!(got[row * k + 5], plain[row * k + 5]);
    }
}

#[test]
fn few_tokens_and_equal_channels() {
    let (n, k) = (5, 48);
    let weight = Numbers(2).some(n * k);
    let one = Numbers(1).tokens(1, k);
    let equal: Vec<f32> = Numbers(1)
        .some(60)
        .into_iter()
        .flat_map(|x| [x; 48])
        .collect();
    for tokens in [one, equal] {
        let h = hessian(k, &tokens);
        for damping in [0.0, f64::NAN, -1.0, 1e-12, 0.01, f64::INFINITY] {
            let options = GptqOptions {
                damping,
                ..GptqOptions::default()
            };
            let spec = spec(4, 16, false, ScaleType::F16);
            let (got, report) = run(&spec, &weight, &h, &options).unwrap();
            assert!(report.loss <= report.plain, "{damping}: {report:?}");
            assert!(got.decoded(&spec, n, k).iter().all(|x| x.is_finite()));
            assert!(report.damping > 0.0);
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    let (n, k) = (4, 40);
    let mut weight = Numbers(2).some(n * k);
    weight[k..2 * k].fill(0.0);
    weight[2 * k..2 * k + 16].fill(0.0);
    let h = hessian(k, &Numbers(1).tokens(90, k));
    for symmetric in [true, false] {
        let spec = spec(4, 16, symmetric, ScaleType::F16);
        let (got, _) = run(&spec, &weight, &h, &GptqOptions::default()).unwrap();
        let got = got.decoded(&spec, n, k);
        assert!(got[k..2 * k + 16].iter().all(|&x| x == 0.0));
    }
    let (got, report) = run(
        &spec(4, 16, true, ScaleType::F32),
        &[],
        &h,
        &GptqOptions::default(),
    )
    .unwrap();
    assert!(got.codes.is_empty());
    assert_eq!((report.plain, report.loss), (0.0, 0.0));
}

#[test]
fn weights_of_any_size_are_as_good() {
    let (n, k) = (3, 48);
    let h = hessian(k, &Numbers(1).tokens(200, k));
    let weight = Numbers(2).some(n * k);
    let spec = spec(4, 16, false, ScaleType::F32);
    let options = GptqOptions::default();
    let (unit, _) = run(&spec, &weight, &h, &options).unwrap();
    for exponent in [-110, -64, 64, 120] {
        let factor = 2f32.powi(exponent);
        let scaled: Vec<f32> = weight.iter().map(|w| w * factor).collect();
        let (got, report) = run(&spec, &scaled, &h, &options).unwrap();
        assert_eq!(got.codes, unit.codes, "2^{exponent}");
        assert_eq!(got.zero_points, unit.zero_points);
        assert!(report.loss > 0.0 && report.loss < report.plain);
    }
    // The first elements of two blocks are the largest and the smallest number there is.
    let mut mixed = weight;
    mixed[0] = f32::MAX;
    mixed[16] = f32::from_bits(1);
    let (got, report) = run(&spec, &mixed, &h, &options).unwrap();
    assert!(report.loss.is_finite());
    assert!(got.decoded(&spec, n, k).iter().all(|x| x.is_finite()));
}

#[test]
fn errors_are_those_of_plain_rounding() {
    let (n, k) = (70, 40);
    let h = hessian(k, &Numbers(1).tokens(90, k));
    let spec = spec(4, 16, true, ScaleType::F16);
    let clean = Numbers(2).some(n * k);
    for (row, col, bad) in [
        (69, 39, f32::NAN),
        (3, 17, f32::INFINITY),
        (40, 0, 1e6),
        (0, 39, -f32::MAX),
    ] {
        let mut weight = clean.clone();
        weight[row * k + col] = bad;
        // A later one, that must not be the one that is told.
        weight[69 * k + 39] = f32::NAN;
        let want = nearest(&spec, &weight, k).unwrap_err();
        let got = run(&spec, &weight, &h, &GptqOptions::default()).unwrap_err();
        assert_eq!(got, want);
    }
}
