use half::f16;

use super::*;
use crate::{
    ir::{EntityId, ValueId},
    quant::Range,
};

/// A float operand of extents `dims` whose axes lie in memory in the order `order`.
fn operand(dims: &[u64], order: &[usize], bytes: Vec<u8>, stored: DataType) -> Weight {
    let mut strides = vec![0; dims.len()];
    let mut stride = 1;
    for &axis in order.iter().rev() {
        strides[axis] = if dims[axis] == 1 { 0 } else { stride };
        stride *= dims[axis];
    }
    Weight {
        root: ValueId::from_index(0),
        data: Data::Bytes(bytes.into()),
        stored,
        dtype: stored,
        rounding: None,
        dims: dims.to_vec(),
        strides,
    }
}

/// No two channels alike; no element that float16 holds exactly.
fn element(i: u64) -> f32 {
    let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    ((hash % 20011) as f32 / 7919.0 - 1.2) * (1.0 + (i % 7) as f32)
}

fn floats(dims: &[u64]) -> Vec<u8> {
    let all = 0..dims.iter().product();
    all.flat_map(|i| element(i).to_le_bytes()).collect()
}

fn spec(signed: bool, symmetric: bool) -> ChannelSpec {
    ChannelSpec {
        signed,
        symmetric,
        reduced: false,
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.data().unwrap().read_all().unwrap().to_vec()
}

/// Codes, scales and zero points by the definition, element by element.
fn expected(weight: &Weight, axes: &[usize], spec: ChannelSpec) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let source = weight.data.read_all().unwrap();
    let at = |index: &[u64]| {
        let place: u64 = index.iter().zip(&weight.strides).map(|(i, s)| i * s).sum();
        match weight.stored {
            DataType::Float16 => {
                let place = place as usize * 2;
                f16::from_le_bytes([source[place], source[place + 1]]).to_f32()
            }
            _ => f32::from_le_bytes(source[place as usize * 4..][..4].try_into().unwrap()),
        }
    };
    let index = |mut n: u64| {
        let mut index = vec![0; weight.dims.len()];
        for (i, d) in index.iter_mut().zip(&weight.dims).rev() {
            (*i, n) = (n % d, n / d);
        }
        index
    };
    let channel =
        |index: &[u64]| axes.iter().fold(0, |c, &a| c * weight.dims[a] + index[a]) as usize;
    let count = axes.iter().map(|&a| weight.dims[a]).product::<u64>() as usize;
    let total = weight.dims.iter().product();
    let mut ranges = vec![Range::EMPTY; count];
    for i in (0..total).map(index) {
        let x = at(&i);
        ranges[channel(&i)] = ranges[channel(&i)].union(Range { min: x, max: x });
    }
    let params: Vec<_> = ranges.iter().map(|&r| spec.params(r)).collect();
    let code = |i: Vec<u64>| spec.encode_ref(at(&i), params[channel(&i)]);
    (
        (0..total).map(index).map(code).collect(),
        params.iter().flat_map(|p| p.scale.to_le_bytes()).collect(),
        params.iter().map(|p| p.zero_point as u8).collect(),
    )
}

#[test]
fn every_layout_is_what_the_definition_says() {
    let cases: [(&[u64], &[usize], &[usize]); 13] = [
        // Columns and rows of a matrix, as stored and transposed; one scale for all.
        (&[300, 70], &[0, 1], &[1]),
        (&[300, 70], &[1, 0], &[1]),
        (&[300, 70], &[0, 1], &[0]),
        (&[300, 70], &[0, 1], &[]),
        (&[300, 70], &[1, 0], &[]),
        // More than one piece and tile.
        (&[1100, 1003], &[0, 1], &[1]),
        (&[1100, 1003], &[1, 0], &[1]),
        // Batches of matrices; the weights of Conv and ConvTranspose; two directions of an LSTM.
        (&[3, 40, 9], &[0, 1, 2], &[0, 2]),
        (&[3, 40, 9], &[0, 2, 1], &[0, 2]),
        (&[8, 3, 5, 5], &[0, 1, 2, 3], &[0]),
        (&[8, 3, 5, 5], &[0, 1, 2, 3], &[1]),
        (&[1, 1, 7], &[0, 1, 2], &[0]),
        (&[5, 1], &[0, 1], &[0]),
    ];
    for (dims, order, axes) in cases {
        let specs = [
            spec(true, true),
            spec(false, true),
            spec(false, false),
            spec(true, false),
        ];
        // One will do where the point is the number of elements.
        let specs = if dims[0] > 1000 { &specs[..1] } else { &specs };
        for &spec in specs {
            let weight = operand(dims, order, floats(dims), DataType::Float);
            let made = EightBits::new("W", &weight, axes, spec, 1.0).unwrap();
            let (codes, scales, zero_points) = expected(&weight, axes, spec);
            let count = made.channels() as i64;
            let found = (
                bytes(&made.codes(&weight).unwrap()),
                bytes(&made.scales(vec![count])),
                bytes(&made.zero_points(vec![count])),
            );
            assert!(found.0 == codes, "{dims:?} {order:?} {axes:?} {spec:?}");
            assert_eq!(
                (found.1, found.2),
                (scales, zero_points),
                "{dims:?} {order:?} {axes:?}"
            );
        }
    }
}

#[test]
fn tiles_and_any_range_agree_on_many_threads() {
    let dims = [1700, 1301];
    let weight = operand(&dims, &[0, 1], floats(&dims), DataType::Float);
    let made = EightBits::new("W", &weight, &[1], spec(true, true), 1.0).unwrap();
    let codes = made.codes(&weight).unwrap();
    let Some(Data::Computed { recipe, .. }) = codes.data() else {
        panic!("a recipe")
    };
    assert!(recipe.tiles() > 2);
    let tile = |tile: u64| {
        let mut out = vec![0; recipe.range(tile, 0).count()];
        recipe.produce(tile, &mut [&mut out]).unwrap();
        out
    };
    let tiles: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..recipe.tiles())
            .map(|t| scope.spawn(move || tile(t)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let (all, ..) = expected(&weight, &[1], spec(true, true));
    assert!(tiles.concat() == all);
    for (from, len) in [(0, 1), (1299, 5), (2_000_000, 77)] {
        let mut out = vec![0; len];
        recipe.read_at(0, from as u64, &mut out).unwrap();
        assert_eq!(out, all[from..from + len]);
    }
}

#[test]
fn narrow_weights_have_float_scales() {
    let dims = [6, 5];
    let half: Vec<u8> = (0..30)
        .flat_map(|i| f16::from_f32(element(i) * 1e-6).to_le_bytes())
        .collect();
    let weight = operand(&dims, &[0, 1], half, DataType::Float16);
    let made = EightBits::new("W", &weight, &[1], spec(true, true), 1.0).unwrap();
    let (codes, scales, _) = expected(&weight, &[1], spec(true, true));
    assert_eq!(
        (
            bytes(&made.codes(&weight).unwrap()),
            bytes(&made.scales(vec![5]))
        ),
        (codes, scales)
    );
}

#[test]
fn a_factor_multiplies_the_scales() {
    let dims = [4, 2];
    let weight = operand(&dims, &[0, 1], floats(&dims), DataType::Float);
    let scales = |factor: f32| {
        let made = EightBits::new("W", &weight, &[1], spec(true, true), factor).unwrap();
        let raw = made.scales(vec![2]).data().unwrap().read_all();
        raw.map(|raw| {
            let scales = raw.as_chunks().0.iter();
            scales.map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
        })
    };
    let (plain, half) = (scales(1.0).unwrap(), scales(0.5).unwrap());
    assert_eq!(half, [plain[0] * 0.5, plain[1] * 0.5]);
    let error = scales(f32::INFINITY).unwrap_err();
    assert_eq!(error.to_string(), "weight `W`: a scale overflows as float");
}

#[test]
fn what_is_not_finite_is_named() {
    let mut source = floats(&[700, 800]);
    for at in [500_000, 3] {
        source[at * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let weight = operand(&[700, 800], &[0, 1], source, DataType::Float);
    let made = EightBits::new("W", &weight, &[1], spec(true, true), 1.0).unwrap();
    for output in [made.codes(&weight).unwrap(), made.scales(vec![800])] {
        let error = output.data().unwrap().read_all().unwrap_err();
        assert!(
            error
                .chain()
                .starts_with("weight `W`: element 3 is NaN or infinite"),
            "{error}"
        );
    }
}

#[test]
fn irregular_channels_are_declined() {
    let dims = [4, 3, 2];
    let weight = |order: &[usize]| operand(&dims, order, floats(&dims), DataType::Float);
    // Scales would come in the order of memory.
    assert!(channels_of(&weight(&[2, 1, 0]), &[0, 2]).is_none());
    let mut part = weight(&[0, 1, 2]);
    part.strides[0] = 8;
    assert!(
        channels_of(&part, &[0]).is_none(),
        "part of a larger tensor"
    );
    let found = channels_of(&weight(&[0, 1, 2]), &[0, 2]);
    assert_eq!(
        found,
        Some(Channels {
            run: 1,
            count: 2,
            group: 6
        })
    );
}
