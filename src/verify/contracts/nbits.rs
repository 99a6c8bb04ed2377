//! `MatMulNBits` and `GatherBlockQuantized`.

use super::{Check, SCALE_TYPES, div_up};
use crate::ir::{DataType, element_count};

pub(super) fn matmul_nbits(c: &mut Check<'_, '_>) -> Option<()> {
    let positive = |i: i64| i > 0;
    let k = c.int("K", None, positive, "the number of rows of the weight");
    let n = c.int("N", None, positive, "the number of columns of the weight");
    let packing = c.bits_and_block(None);
    let level = |l| (0..=4).contains(&l);
    c.int("accuracy_level", Some(0), level, "0 to 4");
    let a = c.required(0, "A");
    let b = c.required(1, "B");
    let scales = c.required(2, "scales");

    let scale_type = c.dtype(scales);
    c.one_of_types("scales", scale_type, &SCALE_TYPES);
    let (a_type, bias_type) = (c.dtype(a), c.dtype(c.node().input(5)));
    for (name, ty) in [("A", a_type), ("bias", bias_type)] {
        if let Some(scale_type) = scale_type {
            c.one_of_types(name, ty, &[scale_type]);
        }
    }
    let b_type = c.dtype(b);
    c.one_of_types("B", b_type, &[DataType::Uint8]);
    let group_type = c.dtype(c.node().input(4));
    c.one_of_types("g_idx", group_type, &[DataType::Int32]);

    let (k, n, (bits, block)) = (k?, n?, packing?);
    c.last_axis(a?, k);
    let too_large = |c: &mut Check<'_, '_>| {
        let found = format!("`K` {k}, `N` {n} and `block_size` {block}");
        c.fault(found, "a weight of fewer than 2^63 elements");
    };
    let blocks = div_up(k, block);
    if element_count(&[n, blocks, block]).is_none_or(|e| e > i64::MAX as u64 / 8) {
        too_large(c);
        return None;
    }
    if c.node().int("weight_prepacked", 0)? == 0 {
        c.one_of_shapes(1, "B", &[&[n, blocks, block * bits / 8]]);
    }
    c.one_of_shapes(2, "scales", &[&[n, blocks], &[n * blocks]]);
    let zero_type = c.dtype(c.node().input(3));
    match zero_type {
        Some(DataType::Uint8) => {
            let row = div_up(blocks * bits, 8);
            c.one_of_shapes(3, "zero_points", &[&[n, row], &[n * row]]);
        }
        Some(_) => {
            let like_scales = [DataType::Uint8, scale_type.unwrap_or(DataType::Float)];
            c.one_of_types("zero_points", zero_type, &like_scales);
            c.one_of_shapes(3, "zero_points", &[&[n, blocks], &[n * blocks]]);
        }
        None => {}
    }
    c.one_of_shapes(4, "g_idx", &[&[k], &[blocks * block]]);
    c.one_of_shapes(5, "bias", &[&[n]]);
    Some(())
}

pub(super) fn gather_block_quantized(c: &mut Check<'_, '_>) -> Option<()> {
    let data = c.required(0, "data");
    let indices = c.required(1, "indices");
    let scales = c.required(2, "scales");
    let index_type = c.dtype(indices);
    c.one_of_types("indices", index_type, &[DataType::Int32, DataType::Int64]);
    let scale_type = c.dtype(scales);
    c.one_of_types("scales", scale_type, &SCALE_TYPES);

    use DataType::{
        Float4e2m1, Float8e4m3fn, Float8e4m3fnuz, Float8e5m2, Float8e5m2fnuz, Int4, Uint4, Uint8,
    };
    let dtype = c.dtype(data)?;
    let recent = [
        Float8e4m3fn,
        Float8e4m3fnuz,
        Float8e5m2,
        Float8e5m2fnuz,
        Float4e2m1,
    ];
    if recent.contains(&dtype) {
        return None;
    }
    c.one_of_types("data", Some(dtype), &[Int4, Uint4, Uint8]);
    let zero_type = c.dtype(c.node().input(3));
    c.one_of_types("zero_points", zero_type, &[dtype]);
    let packing = c.bits_and_block(Some(128));

    let dims = c.constant(0)?.dims;
    let rank = dims.len() as i64;
    let inside = |a: i64| (-rank..rank).contains(&a);
    let expected = "an axis of `data`";
    let gather = c.int("gather_axis", Some(0), inside, expected);
    let quantize = c.int("quantize_axis", Some(1), inside, expected);
    let axis = |a: i64| if a < 0 { a + rank } else { a };
    let (gather, quantize) = (axis(gather?), axis(quantize?));
    let (bits, block) = packing?;
    let packed = dtype == Uint8;
    if gather == quantize {
        let found = format!("`gather_axis` and `quantize_axis` are both {gather}");
        c.fault(found, "different axes");
    }
    if packed && (gather != 0 || quantize != rank - 1) {
        let found = format!("`gather_axis` {gather}, `quantize_axis` {quantize} for uint8 data");
        c.fault(found, format!("0 and {}", rank - 1));
        return None;
    }
    let quantize = quantize as usize;
    let per_byte = if packed { 8 / bits } else { 1 };
    let blocks = div_up(dims[quantize].checked_mul(per_byte)?, block);
    let mut shape = dims;
    shape[quantize] = blocks;
    c.one_of_shapes(2, "scales", &[&shape]);
    if packed {
        shape[quantize] = div_up(blocks * bits, 8);
    }
    c.one_of_shapes(3, "zero_points", &[&shape]);
    Some(())
}
