//! What to do with a node: decided from the model, which stays as it is.

use super::{INFO, Nbits};
use crate::{
    error::Result,
    ir::{Constant, DataType, Dim, DimSize, Model, NodeId, ValueId},
    pass::{Gemm, Left, Look, Reason, constant_weight, other_operator},
    weights::{self, Layout, MatrixView, Untraceable, trace},
};

/// Before it, the operators that go around the new node (Add, Cast, Reshape) have other
/// forms, and no ONNX Runtime has kernels for them.
const OLDEST_OPSET: i64 = 7;

/// How to rewrite a node.
pub(super) struct Plan {
    /// The weight, as the matrix that gets quantized.
    pub(super) matrix: MatrixView,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Linear(Linear),
    Gather {
        indices: ValueId,
        /// The rank of the indices, where operators of the standard do it.
        spelled: Option<usize>,
    },
}

/// `y = x * W`, and what a `MatMul` or `Gemm` has around that.
pub(super) struct Linear {
    pub(super) gemm: bool,
    /// The activations.
    pub(super) x: ValueId,
    /// Their last two axes change places first; the rank of x.
    pub(super) transpose_x: Option<usize>,
    /// So many axes of extent 1 go in front of x.
    pub(super) unsqueeze: usize,
    /// The last two axes of the result change places; its rank.
    pub(super) transpose_y: Option<usize>,
    /// Goes into the scales.
    pub(super) alpha: f32,
    /// The product is multiplied by it: for float16, whose scales have no room for alpha.
    pub(super) factor: f32,
    pub(super) addend: Addend,
}

/// beta * C.
pub(super) enum Addend {
    None,
    /// An existing value that can be the bias as it is.
    Bias(ValueId),
    /// A constant row of n elements, beta included.
    Row(Vec<f32>),
    /// To be added to the result.
    Value {
        c: ValueId,
        beta: f32,
    },
}

/// Ends the planning of a node with a decision.
pub(super) type Step<T> = std::result::Result<T, Left>;

pub(super) fn decline<T>(reason: Reason, message: impl Into<String>, bytes: u64) -> Step<T> {
    Err(Left::declined(reason, message, bytes))
}

impl Nbits {
    pub(super) fn plan(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let model = look.model;
        let n = &model.nodes[node];
        match &*n.op_type {
            "MatMul" if n.domain().is_empty() => self.plan_matmul(look, node),
            "Gemm" if n.domain().is_empty() => self.plan_gemm(look, node),
            "Gather" if n.domain().is_empty() => self.plan_gather(look, node),
            _ => Err(left_operator(model, node)),
        }
    }

    /// The weight behind `operand`, unless the node is left for a reason of its own.
    fn weight(
        &self,
        look: Look<'_>,
        node: NodeId,
        operand: ValueId,
        n_axis: usize,
    ) -> Step<MatrixView> {
        let model = look.model;
        let weight = constant_weight(model, INFO.name, operand)?;
        let bytes = weight.bytes();
        let opset = look.opset(node);
        if opset < OLDEST_OPSET {
            let message = format!("the model has opset {opset}, expected {OLDEST_OPSET} or newer");
            return decline(Reason::Opset, message, bytes);
        }
        self.selection.check(model, node, bytes)?;
        let root = &model.values[weight.root].name;
        if self.weights.as_ref().is_some_and(|w| !w.is_match(&**root)) {
            let message = format!("weight `{root}` is none of those named");
            return decline(Reason::NotIncluded, message, bytes);
        }
        let dims = weight.dims.clone();
        let Some(matrix) = MatrixView::new(weight, n_axis) else {
            let message = format!("weight `{root}` has shape {dims:?}; expected a matrix");
            return decline(Reason::Rank, message, bytes);
        };
        if matrix.n == 0 || matrix.k == 0 {
            return decline(
                Reason::Empty,
                format!("weight `{root}` has shape {dims:?}"),
                bytes,
            );
        }
        if self.qdq {
            decodable(model, &matrix)?;
        }
        if self.skip_nonfinite && weights::has_nonfinite(&matrix.weight)? {
            let message = format!("weight `{root}` holds NaN or infinity");
            return decline(Reason::NonFinite, message, bytes);
        }
        Ok(matrix)
    }

    fn plan_matmul(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let model = look.model;
        let n = &model.nodes[node];
        let (Some(a), Some(b)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let linear = Linear {
            gemm: false,
            x: a,
            transpose_x: None,
            unsqueeze: 0,
            transpose_y: None,
            alpha: 1.0,
            factor: 1.0,
            addend: Addend::None,
        };
        let not_on_right = match self.weight(look, node, b, 1) {
            Ok(matrix) => {
                let unsqueeze = match self.qdq {
                    true => 0,
                    false => missing_axes(look, &matrix, a)?,
                };
                activations_fit(model, &matrix, a, 1)?;
                self.linear_runs(look, node, &matrix, false)?;
                return Ok(Plan {
                    matrix,
                    kind: Kind::Linear(Linear {
                        unsqueeze,
                        ..linear
                    }),
                });
            }
            Err(why) => why,
        };
        // A weight on the left: (W x)^T = x^T W^T, and W is stored as [n, k] already.
        let matrix = match self.weight(look, node, a, 0) {
            Ok(matrix) => matrix,
            // Neither operand is constant: what the right one is decides the message.
            Err(Left::Declined {
                reason: Reason::WeightNotConstant,
                ..
            }) => return Err(not_on_right),
            Err(why) => return Err(why),
        };
        let bytes = matrix.weight.bytes();
        let rank = matrix.weight.dims.len();
        let linear = Linear { x: b, ..linear };
        let kind = match look.rank(b) {
            _ if self.qdq => Kind::Linear(linear),
            None => {
                let message =
                    "the weight is on the left, and the rank of the other operand is not known";
                return decline(Reason::RankUnknown, message, bytes);
            }
            Some(1) if rank == 2 => Kind::Linear(linear),
            Some(r) if r >= rank => Kind::Linear(Linear {
                transpose_x: Some(r),
                transpose_y: Some(r),
                ..linear
            }),
            Some(r) => {
                let message =
                    format!("a weight of rank {rank} on the left of an operand of rank {r}");
                return decline(Reason::Rank, message, bytes);
            }
        };
        let axis = look.rank(b).map_or(1, |rank| rank.min(2));
        activations_fit(model, &matrix, b, axis)?;
        self.linear_runs(look, node, &matrix, false)?;
        Ok(Plan { matrix, kind })
    }

    fn plan_gemm(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let model = look.model;
        let n = &model.nodes[node];
        let (Some(a), Some(b)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let gemm = Gemm::of(n)?;
        let matrix = self.weight(look, node, b, usize::from(!gemm.trans_b))?;
        gemm.fits(&matrix.weight)?;
        let Gemm { alpha, beta, .. } = gemm;
        activations_fit(model, &matrix, a, 1 + usize::from(gemm.trans_a))?;
        let compute = self.compute_type(&matrix);
        let half = compute == DataType::Float16 && alpha != 1.0;
        let (alpha, factor) = if half { (1.0, alpha) } else { (alpha, 1.0) };
        let mut addend = match n.input(2).filter(|_| beta != 0.0) {
            None => Addend::None,
            // The bias of MatMulNBits would be multiplied, too.
            Some(c) if half => Addend::Value { c, beta },
            Some(c) => addend(model, c, beta, matrix.n, compute)?,
        };
        // A target without the bias may have the product.
        let bias = matches!(addend, Addend::Bias(_) | Addend::Row(_));
        if let Err(refused) = self.linear_runs(look, node, &matrix, bias) {
            let Some(c) = n.input(2).filter(|_| bias) else {
                return Err(refused);
            };
            self.linear_runs(look, node, &matrix, false)?;
            addend = Addend::Value { c, beta };
        }
        Ok(Plan {
            matrix,
            kind: Kind::Linear(Linear {
                gemm: true,
                x: a,
                transpose_x: gemm.trans_a.then_some(2),
                unsqueeze: 0,
                transpose_y: None,
                alpha,
                factor,
                addend,
            }),
        })
    }

    fn plan_gather(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let model = look.model;
        let n = &model.nodes[node];
        let (Some(data), Some(indices)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        // Gathers from shapes and index tables are no weights.
        let traced = trace(model, data)?;
        if let Err(Untraceable::NotConstant | Untraceable::Dtype(_)) = traced {
            return Err(Left::Ignored);
        }
        let matrix = self.weight(look, node, data, 0)?;
        let bytes = matrix.weight.bytes();
        let rank = matrix.weight.dims.len();
        if rank != 2 {
            let message = format!("the table has rank {rank}; GatherBlockQuantized is used for 2");
            return decline(Reason::Rank, message, bytes);
        }
        let axis = n.int("axis", 0);
        if axis != Some(0) && axis != Some(-2) {
            let message =
                "gathers along the last axis; uint8 data of GatherBlockQuantized allows axis 0";
            return decline(Reason::Axis, message, bytes);
        }
        if !self.qdq && !(matrix.k * u64::from(self.bits)).is_multiple_of(8) {
            let message = format!(
                "a row has {} elements, which do not fill whole bytes",
                matrix.k
            );
            return decline(Reason::OddWidth, message, bytes);
        }
        let index_types = [DataType::Int32, DataType::Int64];
        if let Some(found) = model.dtype_of(indices)
            && !index_types.contains(&found)
        {
            let name = &model.values[indices].name;
            let message = format!("indices `{name}` are {found}; expected int32 or int64");
            return decline(Reason::Mismatch, message, bytes);
        }
        let spelled = self.gather_runs(look, node, &matrix, indices)?;
        Ok(Plan {
            matrix,
            kind: Kind::Gather { indices, spelled },
        })
    }
}

/// Declines where the codes cannot stand in the place of the stored elements: these are cast on the way, or
/// lie there in another shape than that of the matrix.
fn decodable(model: &Model, matrix: &MatrixView) -> Step<()> {
    let weight = &matrix.weight;
    let (name, bytes) = (&model.values[weight.root].name, weight.bytes());
    if weight.dtype != weight.stored || weight.rounding.is_some() {
        let message = format!(
            "weight `{name}` is {} and cast to {} on the way; expected no cast (fold it first)",
            weight.stored, weight.dtype
        );
        return decline(Reason::Dtype, message, bytes);
    }
    let dims = weights::source_tensor(model, weight.root).map_or(&[][..], |t| &t.dims);
    let expected = match matrix.layout {
        Layout::Rows => [matrix.n, matrix.k],
        Layout::Columns => [matrix.k, matrix.n],
    };
    match dims {
        [lead @ .., a, b] if lead.iter().all(|&d| d == 1) && [*a as u64, *b as u64] == expected => {
            Ok(())
        }
        _ => {
            let message = format!("weight `{name}` is stored as {dims:?} and read as {expected:?}");
            decline(Reason::Rank, message, bytes)
        }
    }
}

/// Operators that have a quantized form already are no news.
fn left_operator(model: &Model, node: NodeId) -> Left {
    let n = &model.nodes[node];
    let quantized = ["MatMulNBits", "GatherBlockQuantized"];
    match n.domain() == "com.microsoft" && quantized.contains(&&*n.op_type) {
        true => Left::Ignored,
        false => other_operator(model, node, "block-quantized"),
    }
}

/// How many axes `x` lacks, so that MatMulNBits gives a result of the rank that a weight
/// with leading axes of extent 1 gives.
fn missing_axes(look: Look<'_>, matrix: &MatrixView, x: ValueId) -> Step<usize> {
    let weight_rank = matrix.weight.dims.len();
    if weight_rank == 2 {
        return Ok(0);
    }
    match look.rank(x) {
        // A vector loses the axis that it was given for the product.
        Some(1) => Ok(weight_rank - 2),
        Some(rank) => Ok(weight_rank.saturating_sub(rank)),
        None => {
            let message = format!(
                "the weight has rank {weight_rank}, and the rank of the other operand is not known"
            );
            decline(Reason::RankUnknown, message, matrix.weight.bytes())
        }
    }
}

/// Declines when the model says of `x` that it has another type than the weight, or other
/// than k terms along `axis`, counted from the back: no runtime takes such a model, and the
/// quantized one would not be valid either.
fn activations_fit(model: &Model, matrix: &MatrixView, x: ValueId, axis: usize) -> Step<()> {
    let ty = model.type_of(x);
    let Some(tensor) = ty.as_ref().and_then(|ty| ty.as_tensor()) else {
        return Ok(());
    };
    let size = |shape: &Vec<Dim>| match shape.iter().nth_back(axis - 1).map(|d| &d.size) {
        None => false,
        // A negative extent is read as unknown.
        Some(DimSize::Known(size)) => *size < 0 || *size as u64 == matrix.k,
        Some(DimSize::Symbol(_) | DimSize::Unknown) => true,
    };
    let dtype = matrix.weight.dtype;
    if tensor.elem.is_none_or(|e| e == dtype) && tensor.shape.as_ref().is_none_or(size) {
        return Ok(());
    }
    let message = format!(
        "operand `{}` is {tensor}; expected {dtype} with {} terms along axis -{axis}",
        model.values[x].name, matrix.k
    );
    decline(Reason::Mismatch, message, matrix.weight.bytes())
}

/// What becomes of `beta * c`.
fn addend(model: &Model, c: ValueId, beta: f32, n: u64, compute: DataType) -> Result<Addend> {
    let dynamic = Addend::Value { c, beta };
    let Some(tensor) = weights::source_tensor(model, c) else {
        return Ok(dynamic);
    };
    let last = tensor.dims.last().map_or(1, |&d| d as u64);
    let is_row = tensor.element_count() == Some(last) && (last == 1 || last == n);
    if !is_row {
        return Ok(dynamic);
    }
    let as_is = tensor.dims.len() == 1 && last == n && beta == 1.0;
    if as_is
        && tensor.dtype == compute
        && matches!(model.values[c].constant, Some(Constant::Dense(_)))
    {
        return Ok(Addend::Bias(c));
    }
    Ok(match weights::float_elements(tensor)? {
        Some(row) if row.len() == 1 => Addend::Row(vec![row[0] * beta; n as usize]),
        Some(row) => Addend::Row(row.iter().map(|x| x * beta).collect()),
        None => dynamic,
    })
}
