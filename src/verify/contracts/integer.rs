//! `MatMulBnb4`, `DynamicQuantizeMatMul` and `MatMulIntegerToFloat`.

use super::{Check, SCALE_TYPES, div_up};
use crate::ir::DataType;

pub(super) fn matmul_bnb4(c: &mut Check<'_, '_>) -> Option<()> {
    let positive = |i: i64| i > 0;
    let k = c.int("K", None, positive, "the number of rows of the weight");
    let n = c.int("N", None, positive, "the number of columns of the weight");
    let power = |b: i64| b >= 16 && b.count_ones() == 1;
    let block = c.int("block_size", None, power, "a power of two from 16 on");
    let kind = |t| (0..=1).contains(&t);
    c.int("quant_type", None, kind, "0 (FP4) or 1 (NF4)");
    let a = c.required(0, "A");
    let b = c.required(1, "B");
    let absmax = c.required(2, "absmax");
    let b_type = c.dtype(b);
    c.one_of_types("B", b_type, &[DataType::Uint8]);
    let scale_type = c.dtype(absmax);
    c.one_of_types("absmax", scale_type, &SCALE_TYPES);
    c.type_like(0, "A", 2);

    let (k, n, block) = (k?, n?, block?);
    c.last_axis(a?, k);
    let Some(elements) = k.checked_mul(n) else {
        let found = format!("`K` {k} and `N` {n}");
        c.fault(found, "a weight of fewer than 2^63 elements");
        return None;
    };
    c.count(1, "B", div_up(elements, 2));
    c.count(2, "absmax", div_up(elements, block));
    Some(())
}

pub(super) fn dynamic_quantize_matmul(c: &mut Check<'_, '_>) -> Option<()> {
    c.required(0, "A");
    c.required(2, "b_scale");
    let a_type = c.dtype(c.node().input(0));
    c.one_of_types("A", a_type, &[DataType::Float]);
    for (slot, name) in [(2, "b_scale"), (4, "bias")] {
        let ty = c.dtype(c.node().input(slot));
        c.one_of_types(name, ty, &[DataType::Float]);
    }
    weight(c, [2, 3, 4])
}

pub(super) fn matmul_integer_to_float(c: &mut Check<'_, '_>) -> Option<()> {
    c.required(0, "A");
    c.required(2, "a_scale");
    c.required(3, "b_scale");
    let a_type = c.dtype(c.node().input(0));
    c.one_of_types("A", a_type, &[DataType::Int8, DataType::Uint8]);
    c.type_like(4, "a_zero_point", 0);
    c.type_like(3, "b_scale", 2);
    c.type_like(6, "bias", 2);
    weight(c, [3, 5, 6])
}

/// Operand 1, an integer weight, with its scale, zero point and bias at `slots`.
fn weight(c: &mut Check<'_, '_>, [scale, zero_point, bias]: [usize; 3]) -> Option<()> {
    let b = c.required(1, "B");
    let b_type = c.dtype(b);
    c.one_of_types("B", b_type, &[DataType::Int8, DataType::Uint8]);
    c.type_like(zero_point, "b_zero_point", 1);
    // A stack of matrices may have a scale for each column of each.
    let &[k, n] = &c.constant(1)?.dims[..] else {
        return None;
    };
    let shapes: [&[i64]; 4] = [&[], &[1], &[n], &[1, n]];
    c.one_of_shapes(scale, "b_scale", &shapes);
    c.one_of_shapes(zero_point, "b_zero_point", &shapes);
    c.one_of_shapes(bias, "bias", &[&[n]]);
    let a = c.node().input(0)?;
    c.last_axis(a, k)
}
