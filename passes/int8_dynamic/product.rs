//! `MatMul` and `Gemm`.

use super::{
    Int8,
    plan::{Addend, Kind, Operand, Plan, Product, Step, activation_fits, decline, enough_terms},
};
use crate::{
    error::Result,
    ir::{DataType, NodeId, ValueId},
    pass::{Gemm, Left, Look, Reason},
    quant::ChannelSpec,
    weights::{Weight, float_tensor, small_floats},
};

/// Elements of a C that is multiplied by beta here and not while the model runs.
const SMALL: u64 = 1 << 16;

impl Int8 {
    pub(super) fn plan_matmul(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(a), Some(b)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let not_on_right = match self.weight(look, node, b) {
            Ok(weight) => return self.on_the_right(look, node, a, weight),
            Err(why) => why,
        };
        let weight = match self.weight(look, node, a) {
            Ok(weight) => weight,
            // Neither operand is constant: what the right one is decides the message.
            Err(Left::Declined {
                reason: Reason::WeightNotConstant,
                ..
            }) => return Err(not_on_right),
            Err(why) => return Err(why),
        };
        let rank = weight.dims.len();
        if rank < 2 {
            return vector(&weight);
        }
        enough_terms(weight.dims[rank - 1], weight.bytes())?;
        let axis = look.rank(b).map_or(1, |rank| rank.clamp(1, 2));
        activation_fits(look, b, axis, weight.dims[rank - 1], &weight)?;
        self.stored(weight, (0..rank - 1).collect(), 0)
    }

    /// `x * weight`.
    fn on_the_right(&self, look: Look<'_>, node: NodeId, x: ValueId, weight: Weight) -> Step<Plan> {
        let rank = weight.dims.len();
        if rank < 2 {
            return vector(&weight);
        }
        let terms = weight.dims[rank - 2];
        enough_terms(terms, weight.bytes())?;
        activation_fits(look, x, 1, terms, &weight)?;
        let axes = columns(&weight);
        let spec = self.product_spec();
        let fused = self.fused && self.runs_fused(spec);
        // Of a stack of matrices ONNX Runtime loses the bias that follows the product, and a vector gives
        // no axis for the rows of its scales. A stack of one is a matrix where x has as many axes.
        let stack = weight.dims[..rank - 2].iter().any(|&d| d != 1);
        let matrix = !stack && (rank == 2 || look.rank(x) >= Some(rank));
        if !matrix || !self.multiplies(look, node, terms, spec) {
            return self.stored(weight, axes, 1);
        }
        let weight = without_unit_axes(weight);
        let axes = vec![1];
        Ok(Plan {
            kind: Kind::Product(Product {
                gemm: false,
                fused,
                x,
                transpose_x: false,
                addend: None,
            }),
            weights: vec![self.operand(weight, axes, spec)?],
        })
    }

    pub(super) fn plan_gemm(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(x), Some(b)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let gemm = Gemm::of(n)?;
        let weight = self.weight(look, node, b)?;
        gemm.fits(&weight)?;
        let (bytes, Gemm { alpha, beta, .. }) = (weight.bytes(), gemm);
        let (k_axis, n_axis) = if gemm.trans_b { (1, 0) } else { (0, 1) };
        let terms = weight.dims[k_axis];
        enough_terms(terms, bytes)?;
        activation_fits(look, x, 1 + usize::from(gemm.trans_a), terms, &weight)?;
        let spec = self.product_spec();
        if !self.multiplies(look, node, terms, spec) {
            return self.stored(weight, vec![n_axis], 1);
        }
        let c = n.input(2).filter(|_| beta != 0.0);
        let addend = c.map(|c| addend(look, c, beta, weight.dtype)).transpose()?;
        let weight = permuted(&weight, &[k_axis, n_axis]);
        let mut operand: Operand = self.operand(weight, vec![1], spec)?;
        operand.factor = alpha;
        Ok(Plan {
            kind: Kind::Product(Product {
                gemm: true,
                fused: self.fused && !gemm.trans_a && self.runs_fused(spec),
                x,
                transpose_x: gemm.trans_a,
                addend,
            }),
            weights: vec![operand],
        })
    }

    fn multiplies(&self, look: Look<'_>, node: NodeId, terms: u64, spec: ChannelSpec) -> bool {
        self.multiply
            && self.computes_on_integers(look, node, terms, spec)
            && self.runs_integer(look, node, "MatMulInteger", spec)
    }

    /// The codes that MatMulInteger multiplies.
    fn product_spec(&self) -> ChannelSpec {
        ChannelSpec {
            signed: self.signed != Some(false),
            symmetric: self.symmetric,
            reduced: self.reduced,
        }
    }
}

/// A matrix without the axes of extent 1 before it.
fn without_unit_axes(weight: Weight) -> Weight {
    let lead = weight.dims.len() - 2;
    Weight {
        dims: weight.dims[lead..].to_vec(),
        strides: weight.strides[lead..].to_vec(),
        ..weight
    }
}

fn vector<T>(weight: &Weight) -> Step<T> {
    let message = format!("the weight has shape {:?}; expected a matrix", weight.dims);
    decline(Reason::Rank, message, weight.bytes())
}

/// `beta * c`: computed here where c is a small constant.
fn addend(look: Look<'_>, c: ValueId, beta: f32, dtype: DataType) -> Result<Addend> {
    if beta == 1.0 {
        return Ok(Addend::Value(c));
    }
    Ok(match small_floats(look.model, c, SMALL)? {
        Some((elements, dims)) => {
            let scaled: Vec<f64> = elements.iter().map(|x| x * f64::from(beta)).collect();
            Addend::Constant(float_tensor(dtype, dims, &scaled))
        }
        None => Addend::Scaled(c, beta),
    })
}

/// The axes of the columns of a matrix, or of matrices: all but the last but one.
fn columns(weight: &Weight) -> Vec<usize> {
    let rank = weight.dims.len();
    (0..rank).filter(|&a| a != rank - 2).collect()
}

/// `weight` with its axes in the order `perm`.
pub(super) fn permuted(weight: &Weight, perm: &[usize]) -> Weight {
    let mut out = weight.clone();
    out.dims = perm.iter().map(|&a| weight.dims[a]).collect();
    out.strides = perm.iter().map(|&a| weight.strides[a]).collect();
    out
}
