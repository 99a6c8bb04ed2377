//! Matrix products. Floating-point sums are made in double and rounded once.

use super::{
    Array, Result, Unfolded,
    args::Args,
    array::{Builder, Places},
    elementwise::{broadcast_dims, broadcast_strides, no_type},
    moves::permute,
    number::Class,
};

/// More products than this take too long for a compiler.
const PRODUCTS: u64 = 1 << 28;

/// `MatMul`.
pub(super) fn mat_mul(args: &Args<'_>) -> Result<Array> {
    let (a, b) = (args.tensor(0)?, args.tensor(1)?);
    if a.dtype() != b.dtype() || a.rank() == 0 || b.rank() == 0 {
        return Err(Unfolded::invalid("operands that cannot be multiplied"));
    }
    // A vector is a row on the left and a column on the right.
    let row = if a.rank() == 1 {
        a.with_dims(vec![1, a.len()])
    } else {
        a.clone()
    };
    let column = if b.rank() == 1 {
        b.with_dims(vec![b.len(), 1])
    } else {
        b.clone()
    };
    let product = batches(&row, &column)?;
    let mut dims = product.dims().to_vec();
    if b.rank() == 1 {
        dims.pop();
    }
    if a.rank() == 1 {
        dims.remove(dims.len() - if b.rank() == 1 { 1 } else { 2 });
    }
    Ok(product.with_dims(dims))
}

fn batches(a: &Array, b: &Array) -> Result<Array> {
    let (lead_a, lead_b) = (a.rank() - 2, b.rank() - 2);
    let (m, k) = (a.dims()[lead_a], a.dims()[lead_a + 1]);
    let (k2, n) = (b.dims()[lead_b], b.dims()[lead_b + 1]);
    if k != k2 {
        return Err(Unfolded::invalid("matrices that do not fit"));
    }
    let lead = broadcast_dims(&[&a.dims()[..lead_a], &b.dims()[..lead_b]])?;
    let dims = [&lead[..], &[m, n]].concat();
    let mut out = Builder::new(a.dtype(), dims.clone())?;
    let work = super::array::count(&dims)?.saturating_mul(k as u64);
    if work > PRODUCTS {
        return Err(Unfolded::TooLarge(work));
    }
    if dims.contains(&0) {
        return Ok(out.finish());
    }
    let starts = |dims: &[usize], lead_own: usize| {
        let by = broadcast_strides(&dims[..lead_own], &lead);
        Places::new(&lead, [by])
    };
    let (firsts, seconds) = (starts(a.dims(), lead_a)?, starts(b.dims(), lead_b)?);
    for ([x], [y]) in firsts.zip(seconds) {
        let (x, y) = (x * m * k, y * k * n);
        for i in 0..m {
            for j in 0..n {
                let pair = |l: usize| (x + i * k + l, y + l * n + j);
                match a.class() {
                    Class::Int => out.int((0..k).map(pair).fold(0, |sum: i128, (p, q)| {
                        sum.wrapping_add(a.int(p).wrapping_mul(b.int(q)))
                    })),
                    Class::Float => {
                        out.float((0..k).map(pair).map(|(p, q)| a.float(p) * b.float(q)).sum());
                    }
                    Class::Other => return Err(no_type(a.dtype())),
                }
            }
        }
    }
    Ok(out.finish())
}

/// `Gemm`.
pub(super) fn gemm(args: &Args<'_>) -> Result<Array> {
    let turned = |i: usize, name: &str| {
        let a = args.tensor(i)?;
        match (a.rank(), args.int(name, 0)?) {
            (2, 0) => Ok(a.clone()),
            (2, _) => permute(a, &[1, 0]),
            _ => Err(Unfolded::invalid("no matrix")),
        }
    };
    let (a, b) = (turned(0, "transA")?, turned(1, "transB")?);
    let (alpha, beta) = (args.float("alpha", 1.0)?, args.float("beta", 1.0)?);
    if a.class() != Class::Float || a.dtype() != b.dtype() {
        return Err(no_type(a.dtype()));
    }
    let wide = |a: &Array| super::cast::to(a, crate::ir::DataType::Double);
    let product = batches(&wide(&a)?, &wide(&b)?)?;
    let dims = product.dims().to_vec();
    let mut out = Builder::new(a.dtype(), dims.clone())?;
    let mut bias = match args.optional(2)? {
        None => None,
        Some(c) if broadcast_dims(&[c.dims(), &dims])? != dims => {
            return Err(Unfolded::invalid("a bias of another shape"));
        }
        Some(c) => {
            let from = Places::new(&dims, [broadcast_strides(c.dims(), &dims)])?;
            Some(from.map(|[place]| beta * c.float(place)))
        }
    };
    for i in 0..product.len() {
        let bias = bias.as_mut().and_then(Iterator::next).unwrap_or(0.0);
        out.float(alpha * product.float(i) + bias);
    }
    Ok(out.finish())
}
