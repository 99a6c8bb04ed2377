//! The fast kernels against their definition, on every source, both by the function that
//! is chosen at run time and as compiled for the bare target.

use half::{bf16, f16};
use proptest::prelude::*;

use super::matrix::{Bf16Le, F16Le, F32Le, F64Le};
use super::rtn::Refused;
use super::*;

mod awq;
mod methods;

#[derive(Clone, Debug, PartialEq)]
struct Buffers {
    codes: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Buffers {
    /// Filled with something, so that a byte that is not written shows.
    fn new(spec: &BlockSpec, n: usize, k: usize, fill: u8) -> Self {
        Self {
            codes: vec![fill; spec.codes_len(n, k)],
            scales: vec![fill; spec.scales_len(n, k)],
            zero_points: vec![fill; spec.zero_points_len(n, k)],
        }
    }

    fn out(&mut self) -> Out<'_> {
        Out {
            codes: &mut self.codes,
            scales: &mut self.scales,
            zero_points: &mut self.zero_points,
        }
    }
}

fn specs() -> impl Strategy<Value = BlockSpec> {
    (
        prop::sample::select(vec![2u8, 4, 8]),
        prop::sample::select(vec![16usize, 32, 64, 128, 256]),
        any::<bool>(),
        prop::sample::select(vec![ScaleType::F32, ScaleType::F16, ScaleType::BF16]),
    )
        .prop_map(|(bits, block, symmetric, scale)| {
            BlockSpec::new(bits, block, symmetric, scale).unwrap()
        })
}

/// A method, whether there are importances, and whether zero points are floats.
fn rules() -> impl Strategy<Value = (BlockMethod, bool, bool)> {
    let methods = prop::sample::select(vec![BlockMethod::Rtn, BlockMethod::Mse, BlockMethod::Hqq]);
    (methods, any::<bool>(), any::<bool>())
}

/// Importances of `k` columns, some of them useless, from zeros to many orders of magnitude.
fn importance(k: usize, seed: &[f32]) -> Vec<f32> {
    let at = |i: usize| seed[i * 7 % seed.len()];
    (0..k)
        .map(|i| match i / 16 % 4 {
            0 => at(i) * at(i),
            1 => at(i).abs() * 1e-30,
            2 => 0.0,
            _ => at(i),
        })
        .collect()
}

/// A kind of value; a matrix mixes two of them.
fn values() -> impl Strategy<Value = f32> {
    let finite = any::<u32>().prop_map(|bits| {
        let x = f32::from_bits(bits);
        if x.is_finite() { x } else { 0.0 }
    });
    prop_oneof![
        4 => -1.0f32..1.0,
        2 => (-16i32..=16, -3i32..=3).prop_map(|(m, e)| m as f32 * 0.5 * 2f32.powi(e)),
        2 => prop::sample::select(vec![
            0.0f32, -0.0, 0.499_999_97, 0.5, 1.0, 3.0, 7.5, -8.0, 15.0, 255.0,
            f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(3), 6e-8, 3e-8, -1e-40,
        ]),
        1 => -1e30f32..1e30,
        1 => prop::sample::select(vec![f32::MAX, f32::MIN, 1e38, -1e38, 65504.0, 1e6]),
        1 => finite,
    ]
}

/// Specification, n, k and `n * k` values. K of a few blocks, seldom whole ones.
fn cases() -> impl Strategy<Value = (BlockSpec, usize, usize, Vec<f32>)> {
    (specs(), 1usize..40, 1usize..5, 0usize..256)
        .prop_flat_map(|(spec, n, blocks, short)| {
            let k = blocks * spec.block()
                - if short % 3 == 0 {
                    0
                } else {
                    short % spec.block()
                };
            let pool = prop::collection::vec(values(), 1..6);
            let picks = prop::collection::vec((any::<bool>(), any::<u8>(), -1.0f32..1.0), n * k);
            (Just(spec), Just(n), Just(k), pool, picks)
        })
        .prop_map(|(spec, n, k, pool, picks)| {
            // A common magnitude, and values from the pool among it.
            let scale = pool[0];
            let x = picks.into_iter().map(|(from_pool, i, x)| {
                if from_pool {
                    pool[usize::from(i) % pool.len()]
                } else {
                    x * scale
                }
            });
            (spec, n, k, x.collect())
        })
}

fn transposed(x: &[f32], n: usize, k: usize) -> Vec<f32> {
    (0..n * k).map(|i| x[i % n * k + i / n]).collect()
}

fn f32_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Every result has to be that of the definition: bytes, or error.
fn check(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    n: usize,
    k: usize,
    source: Source<'_>,
    down: Source<'_>,
) {
    let along = Matrix::new(source, n, k);
    let down = Matrix::new(down, k, n);
    let mut want = Buffers::new(spec, n, k, 0xa5);
    let result = quantize_rows_by_ref(spec, rule, along, want.out());
    let mut got = Buffers::new(spec, n, k, 0x5a);
    assert_eq!(quantize_rows_by(spec, rule, along, got.out()), result);
    if result.is_ok() {
        assert_eq!(got, want, "rows of {spec:?} [{n}, {k}]");
    }
    let mut got = Buffers::new(spec, n, k, 0x5a);
    assert_eq!(quantize_columns_by_ref(spec, rule, down, got.out()), result);
    if result.is_ok() {
        assert_eq!(got, want, "columns by definition of {spec:?} [{n}, {k}]");
    }
    let mut got = Buffers::new(spec, n, k, 0x5a);
    assert_eq!(quantize_columns_by(spec, rule, down, got.out()), result);
    if result.is_ok() {
        assert_eq!(got, want, "columns of {spec:?} [{n}, {k}]");
    }
    let Ok(()) = result else { return };

    for body in [Body::Rows, Body::Columns] {
        let mut got = Buffers::new(spec, n, k, 0x5a);
        assert!(body.run(spec, *rule, n, k, along, down, got.out()).is_ok());
        assert_eq!(got, want, "bare {body:?} of {spec:?} [{n}, {k}]");
    }

    let Buffers {
        codes,
        scales,
        zero_points,
    } = want;
    let (mut fast, mut slow) = (vec![f32::NAN; n * k], vec![f32::NAN; n * k]);
    dequantize_rows(spec, n, k, &codes, &scales, &zero_points, &mut fast);
    dequantize_rows_ref(spec, n, k, &codes, &scales, &zero_points, &mut slow);
    assert_eq!(f32_bytes(&fast), f32_bytes(&slow));
}

#[derive(Debug)]
enum Body {
    Rows,
    Columns,
}

impl Body {
    #[expect(clippy::too_many_arguments, reason = "those of the bodies")]
    fn run(
        &self,
        spec: &BlockSpec,
        rule: Rule<'_>,
        n: usize,
        k: usize,
        along: Matrix<'_>,
        down: Matrix<'_>,
        out: Out<'_>,
    ) -> Result<(), Refused> {
        match self {
            Body::Rows => match along.source() {
                Source::F32(s) => rows::body(spec, rule, s, n, k, k, out),
                Source::F32Le(s) => rows::body(spec, rule, F32Le(s), n, k, k, out),
                Source::F16Le(s) => rows::body(spec, rule, F16Le(s), n, k, k, out),
                Source::Bf16Le(s) => rows::body(spec, rule, Bf16Le(s), n, k, k, out),
                Source::F64Le(s) => rows::body(spec, rule, F64Le(s), n, k, k, out),
            },
            Body::Columns => match down.source() {
                Source::F32(s) => columns::body(spec, rule, s, n, k, n, out),
                Source::F32Le(s) => columns::body(spec, rule, F32Le(s), n, k, n, out),
                Source::F16Le(s) => columns::body(spec, rule, F16Le(s), n, k, n, out),
                Source::Bf16Le(s) => columns::body(spec, rule, Bf16Le(s), n, k, n, out),
                Source::F64Le(s) => columns::body(spec, rule, F64Le(s), n, k, n, out),
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 2000 }))]

    #[test]
    fn fast_is_the_definition((spec, n, k, x) in cases(), (method, weighted, floats) in rules()) {
        let spec = if floats { spec.with_float_zero_points() } else { spec };
        let importance = importance(k, &x);
        let importance = weighted.then_some(&importance[..]);
        let rule = &Rule { method, importance };
        let down = transposed(&x, n, k);
        check(&spec, rule, n, k, Source::F32(&x), Source::F32(&down));
        let (x, down) = (f32_bytes(&x), f32_bytes(&down));
        check(&spec, rule, n, k, Source::F32Le(&x), Source::F32Le(&down));
    }

    #[test]
    fn of_16_and_64_bits((spec, n, k, x) in cases(), (method, weighted, floats) in rules()) {
        let spec = if floats { spec.with_float_zero_points() } else { spec };
        let importance = importance(k, &x);
        let importance = weighted.then_some(&importance[..]);
        let rule = &Rule { method, importance };
        let down = transposed(&x, n, k);
        let short = |x: &[f32]| -> Vec<u8> {
            x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
        };
        check(&spec, rule, n, k, Source::F16Le(&short(&x)), Source::F16Le(&short(&down)));
        let brain = |x: &[f32]| -> Vec<u8> {
            x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
        };
        check(&spec, rule, n, k, Source::Bf16Le(&brain(&x)), Source::Bf16Le(&brain(&down)));
        // Thirds, so that there is something to round.
        let double = |x: &[f32]| -> Vec<u8> {
            x.iter().flat_map(|&x| (f64::from(x) / 3.0).to_le_bytes()).collect()
        };
        check(&spec, rule, n, k, Source::F64Le(&double(&x)), Source::F64Le(&double(&down)));
    }

    #[test]
    fn nonfinite_is_found(
        (spec, n, k, mut x) in cases(),
        bad in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3), 1..4),
    ) {
        for x in &mut x {
            *x = x.clamp(-1e3, 1e3);
        }
        for (at, which) in &bad {
            x[at.index(n * k)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][*which];
        }
        let at = bad.iter().map(|(at, _)| at.index(n * k)).min().unwrap();
        prop_assert_eq!(first_nonfinite(&x), Some(at));
        let error = Err(QuantizeError::NonFinite { row: at / k, col: at % k });
        let mut out = Buffers::new(&spec, n, k, 0);
        let along = Matrix::new(Source::F32(&x), n, k);
        prop_assert_eq!(quantize_rows(&spec, along, out.out()), error);
        prop_assert_eq!(quantize_rows_ref(&spec, along, out.out()), error);
        let down = transposed(&x, n, k);
        let down = Matrix::new(Source::F32(&down), k, n);
        prop_assert_eq!(quantize_columns(&spec, down, out.out()), error);
        prop_assert_eq!(quantize_columns_ref(&spec, down, out.out()), error);
        for method in [BlockMethod::Mse, BlockMethod::Hqq] {
            let rule = Rule::of(method);
            prop_assert_eq!(quantize_rows_by(&spec, &rule, along, out.out()), error);
            prop_assert_eq!(quantize_columns_by(&spec, &rule, down, out.out()), error);
        }
    }
}

/// Wider than a panel and longer than a group, and cut into panels of a wider matrix.
#[test]
fn panels_are_the_whole() {
    let (n, k) = (300, 1100);
    let x: Vec<f32> = (0..n * k)
        .map(|i| ((i * 7919) % 10_007) as f32 * 1e-3 - 5.0)
        .collect();
    for (bits, block) in [(4, 16), (4, 256), (2, 16), (2, 256), (8, 16), (8, 256)] {
        for symmetric in [true, false] {
            let spec = BlockSpec::new(bits, block, symmetric, ScaleType::F16).unwrap();
            let mut want = Buffers::new(&spec, n, k, 0xa5);
            let whole = Matrix::new(Source::F32(&x), k, n);
            quantize_columns_ref(&spec, whole, want.out()).unwrap();
            let mut got = Buffers::new(&spec, n, k, 0x5a);
            quantize_columns(&spec, whole, got.out()).unwrap();
            assert_eq!(got, want);

            let mut pieces = Buffers::new(&spec, 0, k, 0);
            for (begin, end) in [(0, 1), (1, 18), (18, 275), (275, 300)] {
                let mut piece = Buffers::new(&spec, end - begin, k, 0x5a);
                let panel = Matrix::with_stride(Source::F32(&x[begin..]), k, end - begin, n);
                quantize_columns(&spec, panel, piece.out()).unwrap();
                pieces.codes.extend(piece.codes);
                pieces.scales.extend(piece.scales);
                pieces.zero_points.extend(piece.zero_points);
            }
            assert_eq!(pieces, want);
        }
    }
}

#[test]
fn a_strided_matrix_by_rows() {
    let x: Vec<f32> = (0..7 * 50).map(|i| (i % 23) as f32 - 11.0).collect();
    let spec = BlockSpec::new(4, 16, false, ScaleType::F32).unwrap();
    let panel = Matrix::with_stride(Source::F32(&x[1..]), 7, 48, 50);
    let mut want = Buffers::new(&spec, 7, 48, 0xa5);
    quantize_rows_ref(&spec, panel, want.out()).unwrap();
    let mut got = Buffers::new(&spec, 7, 48, 0x5a);
    quantize_rows(&spec, panel, got.out()).unwrap();
    assert_eq!(got, want);
}

#[test]
fn empty() {
    let spec = BlockSpec::new(4, 16, false, ScaleType::F32).unwrap();
    for (n, k) in [(0, 5), (5, 0), (0, 0)] {
        let x = Matrix::new(Source::F32(&[]), n, k);
        quantize_rows(&spec, x, Buffers::new(&spec, n, k, 0).out()).unwrap();
        let x = Matrix::new(Source::F32(&[]), k, n);
        quantize_columns(&spec, x, Buffers::new(&spec, n, k, 0).out()).unwrap();
        dequantize_rows(&spec, n, k, &[], &[], &[], &mut []);
    }
}

/// One block that can be checked by hand.
#[test]
fn a_block_by_hand() {
    let x: Vec<f32> = (0..13).map(|i| i as f32 - 8.0).collect();
    let spec = BlockSpec::new(4, 16, true, ScaleType::F32).unwrap();
    let mut out = Buffers::new(&spec, 1, 13, 0);
    quantize_rows(&spec, Matrix::new(Source::F32(&x), 1, 13), out.out()).unwrap();
    // -8 is the widest, the scale 1, and -8..=4 are the codes 0..=12; 8 pads.
    assert_eq!(out.codes, [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0x8c, 0x88]);
    assert_eq!(out.scales, 1f32.to_le_bytes());

    let spec = BlockSpec::new(4, 16, false, ScaleType::F16).unwrap();
    let x: Vec<f32> = (0..17).map(|i| (i % 16) as f32 - 3.0).collect();
    let mut out = Buffers::new(&spec, 1, 17, 0);
    quantize_rows(&spec, Matrix::new(Source::F32(&x), 1, 17), out.out()).unwrap();
    // -3..=12 with scale 1 and zero point 3; then a block of -3 alone: scale 0.2, zero
    // point 15, code 0.
    assert_eq!(
        out.codes[..8],
        [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]
    );
    assert_eq!(out.codes[8], 0xf0);
    assert_eq!(out.codes[9..], [0xff; 7]);
    assert_eq!(out.zero_points, [0xf3]);
    let scales: Vec<u8> = [1.0, 0.2]
        .iter()
        .flat_map(|&x| f16::from_f32(x).to_le_bytes())
        .collect();
    assert_eq!(out.scales, scales);
}

#[test]
fn a_scale_that_overflows() {
    let spec = BlockSpec::new(4, 16, true, ScaleType::F16).unwrap();
    let mut x = vec![1.0; 3 * 40];
    x[40 + 20] = 1e6;
    let error = QuantizeError::ScaleOverflow { row: 1, block: 1 };
    let mut out = Buffers::new(&spec, 3, 40, 0);
    let along = Matrix::new(Source::F32(&x), 3, 40);
    assert_eq!(quantize_rows(&spec, along, out.out()), Err(error));
    assert_eq!(
        error.to_string(),
        "block 1 of row 1 has a scale that overflows its type"
    );

    let spec = BlockSpec::new(8, 32, false, ScaleType::F32).unwrap();
    let x = [f32::MAX, f32::MIN];
    let mut out = Buffers::new(&spec, 1, 2, 0);
    assert_eq!(
        quantize_rows(&spec, Matrix::new(Source::F32(&x), 1, 2), out.out()),
        Err(QuantizeError::ScaleOverflow { row: 0, block: 0 })
    );
}
