use super::plain::sums;
use super::*;

/// Cut at odd places.
fn in_pieces(k: usize, tokens: &[f32], add: &mut dyn FnMut(usize, &[f32])) {
    let mut at = 0;
    let mut size = 1;
    while at < tokens.len() {
        let end = (at + size * k).min(tokens.len());
        add(at, &tokens[at..end]);
        at = end;
        size = (3 * size + 1) % 700 + 1;
    }
}

#[test]
fn sums_are_right() {
    for (k, tokens) in [(1, 3), (5, 700), (70, 300), (130, 256)] {
        let x = Numbers(3).tokens(tokens, k);
        let h = hessian(k, &x);
        let want = sums(k, &x, &x);
        let got = h.lower();
        let (diagonal, magnitudes) = (h.diagonal(), h.magnitudes());
        for i in 0..k {
            for j in 0..=i {
                // 256 products in f32, of the size of the squares.
                let size = (want[i][i] * want[j][j]).sqrt();
                assert!((got[i * (i + 1) / 2 + j] - want[i][j]).abs() < 2e-6 * size);
            }
            let mean = want[i][i] / tokens as f64;
            approx::assert_relative_eq!(f64::from(diagonal[i]), mean, max_relative = 2e-6);
            let magnitude = x.iter().skip(i).step_by(k).map(|x| x.abs()).sum::<f32>();
            let magnitude = magnitude / tokens as f32;
            approx::assert_relative_eq!(magnitudes[i], magnitude, max_relative = 1e-5);
        }
        let y = Numbers(5).tokens(tokens, k);
        let mut cross = Cross::new(k);
        cross.add(&y, &x).unwrap();
        let moved: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
        let (want, sizes) = (sums(k, &moved, &x), sums(k, &moved, &moved));
        let squares = sums(k, &x, &x);
        let got = cross.all();
        for i in 0..k {
            for j in 0..k {
                let size = (sizes[i][i] * squares[j][j]).sqrt();
                assert!((got[i * k + j] - want[i][j]).abs() < 2e-6 * size);
            }
        }
    }
}

#[test]
fn neither_threads_nor_calls_matter() {
    let (k, tokens) = (90, 1500);
    let x = Numbers(1).tokens(tokens, k);
    let y = Numbers(2).tokens(tokens, k);
    let want = hessian(k, &x).to_bytes();
    let mut cross = Cross::new(k);
    cross.add(&y, &x).unwrap();
    let want_cross = cross.to_bytes();
    for threads in [1, 2, 5] {
        let (h, cross) = on(threads, || {
            let (mut h, mut cross) = (Hessian::new(k), Cross::new(k));
            in_pieces(k, &x, &mut |at, x| {
                h.add(x).unwrap();
                cross.add(&y[at..at + x.len()], x).unwrap();
            });
            (h, cross)
        });
        assert_eq!(h.tokens(), tokens as u64);
        assert!(h.to_bytes() == want, "{threads} threads");
        assert!(cross.to_bytes() == want_cross, "{threads} threads");
    }
}

#[test]
fn saved_and_continued() {
    let (k, tokens) = (33, 600);
    let x = Numbers(1).tokens(tokens, k);
    let want = hessian(k, &x).to_bytes();
    for first in [0, 1, 255, 256, 257, 600] {
        let h = hessian(k, &x[..first * k]);
        let mut h = Hessian::from_bytes(&h.to_bytes()).unwrap();
        assert_eq!(h.tokens(), first as u64);
        h.add(&x[first * k..]).unwrap();
        assert!(h.to_bytes() == want, "after {first}");

        let mut cross = Cross::new(k);
        cross.add(&x[..first * k], &x[..first * k]).unwrap();
        let mut cross = Cross::from_bytes(&cross.to_bytes()).unwrap();
        cross.add(&x[first * k..], &x[first * k..]).unwrap();
        assert_eq!((cross.k(), cross.tokens()), (k, 600));
        assert!(cross.all().iter().all(|&x| x == 0.0));
    }
}

#[test]
fn what_is_not_finite_is_told() {
    let mut h = Hessian::new(3);
    h.add(&[1.0; 6]).unwrap();
    let before = h.to_bytes();
    let error = h.add(&[1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "activation of token 3, channel 1 is NaN or infinite"
    );
    assert_eq!(h.to_bytes(), before);

    let mut cross = Cross::new(2);
    let difference = cross.add(&[f32::MAX, 0.0], &[f32::MIN, 0.0]).unwrap_err();
    let (token, channel) = (0, 0);
    assert_eq!(difference, StatisticsError::NonFinite { token, channel });
    cross.add(&[f32::INFINITY, 0.0], &[0.0, 0.0]).unwrap_err();
    cross.add(&[0.0, 0.0], &[0.0, f32::NAN]).unwrap_err();
    assert_eq!(cross.tokens(), 0);
}

#[test]
fn malformed_bytes_are_told() {
    let k = 3;
    let bytes = hessian(k, &Numbers(1).tokens(4, k)).to_bytes();
    assert!(Hessian::from_bytes(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Hessian::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Hessian::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    assert!(Cross::from_bytes(&bytes).is_err());
    for at in 0..bytes.len() {
        for value in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            // Whatever was read can be used.
            if let Ok(mut h) = Hessian::from_bytes(&bytes) {
                h.add(&[1.0; 3]).unwrap();
                let spec = spec(4, 16, false, ScaleType::F16);
                let options = GptqOptions::default();
                let mut out = Buffers::new(&spec, 2, k);
                gptq(&spec, &[0.5; 6], &h, None, &options, out.out()).unwrap();
            }
        }
    }
    let mut negative = hessian(1, &[0.0; 256]).to_bytes();
    negative[24..32].copy_from_slice(&(-1f64).to_le_bytes());
    let error = Hessian::from_bytes(&negative).unwrap_err();
    assert_eq!(
        error.to_string(),
        "saved statistics: a sum of squares is negative"
    );
}

#[test]
fn any_size_of_activations() {
    // The product of the two lies beyond f32, either way.
    for factor in [1e-35f32, 1e-20, 1.0, 1e20, 1e35] {
        let x: Vec<f32> = Numbers(1)
            .tokens(300, 4)
            .iter()
            .map(|x| x * factor)
            .collect();
        let want = sums(4, &x, &x);
        let got = hessian(4, &x).lower();
        for i in 0..4 {
            let square = got[i * (i + 1) / 2 + i];
            approx::assert_relative_eq!(square, want[i][i], max_relative = 2e-6);
        }
    }
}
