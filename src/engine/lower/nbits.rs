//! `com.microsoft::MatMulNBits`, `com.microsoft::GatherBlockQuantized`.

use super::{
    at::int,
    dequantize::{Codes, Dequantize, Grid, Strides, Zero},
    known::{Known, integer, known, operand, refused, required},
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{DataType, Model, NodeId},
};

/// `Y = A * transposed(dequantized B) + bias`.
pub(super) fn matmul_nbits(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let form = Form::of(model, node)?;
    if form.is_native(model, node)? {
        // rten takes three operands at most, also when the others are absent.
        if model.nodes[node].inputs.len() > 3 {
            low.change(|edit| edit.model_mut().nodes[node].inputs.truncate(3));
        }
        return Ok(());
    }
    let a = model.nodes[node].input(0);
    let bias = model.nodes[node].input(5);
    let recipe = form.recipe(model, node)?;
    let Some(a) = a else {
        return Err(refused(model, node, "`A` is missing"));
    };
    let table = low.table(node, recipe, &[form.n, form.k])?;
    let mut at = low.at(node);
    // As a Gemm with a transposed operand: the rows of the table stay as they are, so that a
    // gather can read the same ones.
    let columns = at.ints(&[-1, form.k as i64]);
    let rows = at.op("Reshape", &[a, columns]);
    let product = at.op_with(
        "Gemm",
        vec![Some(rows), Some(table), bias],
        vec![int("transB", 1)],
    );
    let head = at.op_with("Shape", vec![Some(a)], vec![int("end", -1)]);
    let width = at.ints(&[form.n as i64]);
    let shape = at.op_with(
        "Concat",
        vec![Some(head), Some(width)],
        vec![int("axis", 0)],
    );
    at.replace("Reshape", &[product, shape]);
    Ok(())
}

/// The attributes of a `MatMulNBits`.
struct Form {
    n: u64,
    k: u64,
    bits: u32,
    block: u64,
}

impl Form {
    fn of(model: &Model, node: NodeId) -> Result<Form> {
        let positive = |name: &str, default| {
            let i = integer(model, node, name, default)?;
            let why = || refused(model, node, format!("attribute `{name}` is {i}"));
            u64::try_from(i).ok().filter(|&i| i > 0).ok_or_else(why)
        };
        let form = Form {
            n: positive("N", None)?,
            k: positive("K", None)?,
            bits: positive("bits", Some(4))? as u32,
            block: positive("block_size", None)?,
        };
        if ![2, 4, 8].contains(&form.bits) {
            let why = format!("attribute `bits` is {}, expected 2, 4 or 8", form.bits);
            return Err(refused(model, node, why));
        }
        Ok(form)
    }

    /// Whether rten runs it as it is.
    fn is_native(&self, model: &Model, node: NodeId) -> Result<bool> {
        let n = &model.nodes[node];
        let b = n.input(1).map(|b| known(model, b)).transpose()?.flatten();
        Ok(self.bits == 4
            && (3..=5).all(|i| n.input(i).is_none())
            && self.block >= 16
            && self.block.is_power_of_two()
            && self.k.is_multiple_of(self.block)
            && n.input(0).and_then(|a| model.rank_of(a)) != Some(1)
            && b.is_none_or(|b| b.dims.len() == 3))
    }

    fn recipe(&self, model: &Model, node: NodeId) -> Result<Dequantize> {
        let blocks = self.k.div_ceil(self.block);
        let codes = required(model, node, 1, "B")?;
        let scales = required(model, node, 2, "scales")?;
        let zeros = operand(model, node, 3, "zero_points")?;
        let group = operand(model, node, 4, "g_idx")?;
        let grid = blocked(&[self.n, self.k], 1, self.block);
        let per_block = grid.scales;
        let (zero, zeros) = match zeros {
            None => (Zero::Is(1 << (self.bits - 1)), Strides::default()),
            Some(z) if z.dtype.is_float() => (Zero::Floats(z.data, z.dtype), per_block),
            Some(z) => packed_zeros(&z, self.bits, blocks)
                .ok_or_else(|| refused(model, node, format!("`zero_points` are {}", z.dtype)))?,
        };
        let codes = Codes::of(&codes, Some(self.bits))
            .filter(|c| c.bits == self.bits)
            .ok_or_else(|| refused(model, node, format!("`B` is {}", codes.dtype)))?;
        Ok(Dequantize {
            codes,
            scales: (scales.data, scales.dtype),
            zero,
            grid: Grid {
                stored: blocks * self.block,
                zeros,
                ..grid
            },
            group: group.map(|g| g.data),
        })
    }
}

/// Zero points of uint8 that hold several codes, each row of them padded to a byte.
fn packed_zeros(zeros: &Known, bits: u32, blocks: u64) -> Option<(Zero, Strides)> {
    let codes = Codes::of(zeros, Some(bits))?;
    let row = (blocks * u64::from(bits)).next_multiple_of(8) / u64::from(bits);
    let strides = Strides {
        outer: row,
        block: 1,
        inner: 1,
    };
    Some((Zero::Codes(codes), strides))
}

/// Rows of a dequantized table.
pub(super) fn gather_block_quantized(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let data = required(model, node, 0, "data")?;
    let scales = required(model, node, 2, "scales")?;
    let zeros = operand(model, node, 3, "zero_points")?;
    let Some(indices) = model.nodes[node].input(1) else {
        return Err(refused(model, node, "`indices` is missing"));
    };
    let rank = data.dims.len() as i64;
    let axis = |name: &str, default: i64| {
        let axis = integer(model, node, name, Some(default))?;
        let axis = if axis < 0 { axis + rank } else { axis };
        let why = || {
            refused(
                model,
                node,
                format!("attribute `{name}` is no axis of `data`"),
            )
        };
        usize::try_from(axis)
            .ok()
            .filter(|&a| a < data.dims.len())
            .ok_or_else(why)
    };
    let gather = axis("gather_axis", 0)?;
    let quantized = axis("quantize_axis", 1)?;
    let bits = integer(model, node, "bits", Some(4))?;
    let block = integer(model, node, "block_size", Some(128))?;
    let block = u64::try_from(block).ok().filter(|&b| b > 0);
    let (Some(block), 2 | 4 | 8) = (block, bits) else {
        let why = "`bits` or `block_size` is none that the operator has";
        return Err(refused(model, node, why));
    };
    let codes = Codes::of(&data, Some(bits as u32)).filter(|c| c.bits <= 8);
    let Some(codes) = codes else {
        return Err(refused(model, node, format!("`data` is {}", data.dtype)));
    };
    // Only uint8 holds several codes an element.
    let packed = data.dtype == DataType::Uint8;
    let mut dims = data.dims.clone();
    if packed {
        dims[quantized] *= 8 / bits as u64;
    }
    let grid = blocked(&dims, quantized, block);
    let (zero, zeros) = match zeros {
        Some(z) if packed && grid.inner == 1 => packed_zeros(&z, codes.bits, grid.scales.outer)
            .ok_or_else(|| refused(model, node, format!("`zero_points` are {}", z.dtype)))?,
        Some(z) => match Codes::of(&z, Some(bits as u32)) {
            Some(codes) => (Zero::Codes(codes), grid.scales),
            None => {
                let why = format!("`zero_points` are {}", z.dtype);
                return Err(refused(model, node, why));
            }
        },
        None if packed => (Zero::Is(1 << (bits - 1)), Strides::default()),
        None => (Zero::Is(0), Strides::default()),
    };
    let recipe = Dequantize {
        codes,
        scales: (scales.data, scales.dtype),
        zero,
        grid: Grid { zeros, ..grid },
        group: None,
    };
    let table = low.table(node, recipe, &dims)?;
    low.at(node).replace_with(
        "Gather",
        vec![Some(table), Some(indices)],
        vec![int("axis", gather as i64)],
    );
    Ok(())
}

/// The grid of a tensor of extents `dims` with blocks of `block` along `axis`, and one scale
/// for each block: scales have the same rank.
pub(super) fn blocked(dims: &[u64], axis: usize, block: u64) -> Grid {
    let inner = dims[axis + 1..].iter().product();
    let blocks = dims[axis].div_ceil(block);
    let scales = Strides {
        outer: blocks * inner,
        block: inner,
        inner: 1,
    };
    Grid {
        outer: dims[..axis].iter().product(),
        axis: dims[axis],
        inner,
        stored: dims[axis],
        block,
        scales,
        zeros: scales,
    }
}
