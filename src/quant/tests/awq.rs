//! Scales of channels.

use super::*;
use crate::quant::{ChannelScales, awq_scales, divided};

/// Numbers between -1 and 1, no two alike.
fn some(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * i + 7 * i) as f32 * 0.731).sin())
        .collect()
}

fn spec(bits: u8, block: usize) -> BlockSpec {
    BlockSpec::new(bits, block, true, ScaleType::F16).unwrap()
}

/// By the definition: what the products lose when channels are independent.
fn loss(spec: &BlockSpec, importance: &[f32], rows: &[f32], scales: &[f32]) -> f64 {
    let k = importance.len();
    let n = rows.len() / k;
    let scaled = rows.iter().zip(scales.iter().cycle()).map(|(w, s)| w * s);
    let scaled: Vec<f32> = scaled.collect();
    let weights = divided(importance, scales);
    let rule = Rule {
        method: BlockMethod::Mse,
        importance: Some(&weights),
    };
    let mut out = Buffers::new(spec, n, k, 0);
    let matrix = Matrix::new(Source::F32(&scaled), n, k);
    quantize_rows_by_ref(spec, &rule, matrix, out.out()).unwrap();
    let mut decoded = vec![0.0; n * k];
    dequantize_rows_ref(
        spec,
        n,
        k,
        &out.codes,
        &out.scales,
        &out.zero_points,
        &mut decoded,
    );
    let error = |i: usize| {
        let column = i % k;
        let off = f64::from(rows[i]) - f64::from(decoded[i]) / f64::from(scales[column]);
        f64::from(importance[column]) * off * off
    };
    (0..n * k).map(error).sum()
}

#[test]
fn large_channels_get_large_scales() {
    let (n, k) = (40, 64);
    let mut importance = vec![1.0; k];
    (importance[7], importance[33], importance[50]) = (1600.0, 600.0, 0.0);
    let rows = some(n * k);
    for spec in [spec(4, 32), spec(2, 16), spec(4, 128)] {
        let found = awq_scales(&spec, &importance, &rows, 20).unwrap();
        let ChannelScales { scales, .. } = &found;
        // What counts is in two of 64 channels, which the weighted search sees, too.
        assert!(
            found.alpha > 0.0 && found.loss < 0.95 * found.plain,
            "{found:?}"
        );
        assert!(scales[7] > scales[33] && scales[33] > scales[0]);
        let least = scales.iter().fold(f32::MAX, |a, &s| a.min(s));
        assert_eq!((least, scales[50]), (1.0, 1.0), "one that is never used");
        assert!(scales.iter().all(|&s| s <= 256.0));
        // Those are the losses of the reference, up to roundings of the scaled weights.
        for (scales, want) in [(&vec![1.0; k], found.plain), (scales, found.loss)] {
            let got = loss(&spec, &importance, &rows, scales);
            approx::assert_relative_eq!(got, want, max_relative = 1e-4);
        }
    }
}

#[test]
fn nothing_is_scaled_without_need() {
    let (n, k) = (8, 32);
    let rows = some(n * k);
    // Nothing is known of the channels, or they are alike.
    for importance in [vec![0.0; k], vec![2.0; k], vec![f32::NAN; k]] {
        let found = awq_scales(&spec(4, 16), &importance, &rows, 20).unwrap();
        assert_eq!((found.alpha, found.scales), (0.0, vec![1.0; k]));
    }
    let none = awq_scales(&spec(4, 16), &[], &[], 20).unwrap();
    assert!(none.scales.is_empty());
    let infinite = vec![f32::INFINITY; k];
    assert!(awq_scales(&spec(4, 16), &vec![1.0; k], &infinite, 20).is_err());
}
