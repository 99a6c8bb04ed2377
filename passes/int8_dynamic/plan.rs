//! What to do with a node: decided from the model, which stays as it is.

use super::{INFO, Int8};
use crate::{
    error::{Error, Result},
    ir::{DataType, Model, NodeId, Tensor, ValueId},
    pass::{Left, Look, Options, Reason, constant_weight, other_operator},
    quant::ChannelSpec,
    weights::{self, EightBits, Weight},
};

/// The operators that have an 8-bit form.
const OPERATORS: [&str; 8] = [
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "Gather",
    "LSTM",
    "GRU",
    "RNN",
];

/// Before it, the operators of a decoded weight (Mul that broadcasts, Cast to a number) have other
/// forms, and no ONNX Runtime has kernels for them.
const OLDEST_OPSET: i64 = 7;

/// The first opset with `DynamicQuantizeLinear`.
const INTEGER_OPSET: i64 = 11;

/// With fewer terms the rounding of an activation does not average out; the products of positions
/// and angles have one.
const FEWEST_TERMS: u64 = 16;

/// With more terms a sum of products of 8-bit numbers may not fit in 32 bits: 255 times 128, or times 255
/// where the weights have zero points.
const MOST_TERMS: u64 = 1 << 16;
const MOST_TERMS_ASYMMETRIC: u64 = (i32::MAX / (255 * 255)) as u64;

/// How to rewrite a node.
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// The weights that are quantized.
    pub(super) weights: Vec<Operand>,
}

/// A weight, and how it is quantized.
#[derive(Clone)]
pub(super) struct Operand {
    /// Its axes are those of the codes.
    pub(super) weight: Weight,
    /// One scale for each index along these; none: one for all.
    pub(super) axes: Vec<usize>,
    pub(super) spec: ChannelSpec,
    /// The scales are multiplied by it.
    pub(super) factor: f32,
}

pub(super) enum Kind {
    Product(Product),
    /// `ConvInteger`, with the bias of the Conv.
    Conv {
        x: ValueId,
        bias: Option<ValueId>,
    },
    Table(Table),
    Lstm,
    /// The operands in these places are decoded in front of the node.
    Stored(Vec<usize>),
}

/// `MatMulInteger`, and what a `MatMul` or `Gemm` has around that.
pub(super) struct Product {
    pub(super) gemm: bool,
    /// `DynamicQuantizeMatMul`.
    pub(super) fused: bool,
    pub(super) x: ValueId,
    pub(super) transpose_x: bool,
    pub(super) addend: Option<Addend>,
}

/// What is added to a product.
pub(super) enum Addend {
    /// A value.
    Value(ValueId),
    /// A value, multiplied by this first.
    Scaled(ValueId, f32),
    /// A constant.
    Constant(Tensor),
}

/// A `Gather` of a constant.
pub(super) struct Table {
    pub(super) indices: ValueId,
    /// The axis of the codes that indices are of.
    pub(super) axis: usize,
    /// `GatherBlockQuantized` with blocks of so many elements.
    pub(super) block: Option<i64>,
    /// The codes lie as a projection wants them, `[row, index]`: the rank of the indices.
    pub(super) tied: Option<usize>,
}

/// Ends the planning of a node with a decision.
pub(super) type Step<T> = std::result::Result<T, Left>;

pub(super) fn decline<T>(reason: Reason, message: impl Into<String>, bytes: u64) -> Step<T> {
    Err(Left::declined(reason, message, bytes))
}

/// The option `ops`.
pub(super) fn operators(options: &Options) -> Result<Vec<String>> {
    let named = options.list("ops");
    if let Some(unknown) = named.iter().find(|op| !OPERATORS.contains(op)) {
        let known = OPERATORS.join(", ");
        let message = format!("ops: `{unknown}` has no 8-bit form; expected one of {known}");
        return Err(Error::input(message));
    }
    Ok(named.into_iter().map(str::to_owned).collect())
}

impl Int8 {
    pub(super) fn plan(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        if !n.domain().is_empty() || !OPERATORS.contains(&&*n.op_type) {
            return Err(left_operator(look.model, node));
        }
        match &*n.op_type {
            "MatMul" => self.plan_matmul(look, node),
            "Gemm" => self.plan_gemm(look, node),
            "Gather" => self.plan_gather(look, node),
            "Conv" => self.plan_conv(look, node),
            "ConvTranspose" => self.plan_conv_transpose(look, node),
            _ => self.plan_recurrent(look, node),
        }
    }

    /// The weight behind `operand`, unless the node is left for a reason of its own.
    pub(super) fn weight(&self, look: Look<'_>, node: NodeId, operand: ValueId) -> Step<Weight> {
        let model = look.model;
        let weight = constant_weight(model, INFO.name, operand)?;
        let bytes = weight.bytes();
        let opset = look.opset(node);
        if opset < OLDEST_OPSET {
            let message = format!("the model has opset {opset}, expected {OLDEST_OPSET} or newer");
            return decline(Reason::Opset, message, bytes);
        }
        self.selection.check(model, node, bytes)?;
        let op_type = &*model.nodes[node].op_type;
        if !self.ops.is_empty() && !self.ops.iter().any(|op| op == op_type) {
            let message = format!("{op_type} is not among the operators to quantize");
            return decline(Reason::NotIncluded, message, bytes);
        }
        let name = &model.values[weight.root].name;
        if weight.dims.contains(&0) {
            let message = format!("weight `{name}` has shape {:?}", weight.dims);
            return decline(Reason::Empty, message, bytes);
        }
        if self.skip_nonfinite && weights::has_nonfinite(&weight)? {
            let message = format!("weight `{name}` holds NaN or infinity");
            return decline(Reason::NonFinite, message, bytes);
        }
        Ok(weight)
    }

    /// A weight with one scale for each index along `axes`, or one for all when the user wants that.
    pub(super) fn operand(
        &self,
        weight: Weight,
        axes: Vec<usize>,
        spec: ChannelSpec,
    ) -> Step<Operand> {
        let axes = if self.per_channel { axes } else { Vec::new() };
        checked(weight, axes, spec)
    }

    /// Codes of a weight that is decoded in front of its reader.
    pub(super) fn stored_spec(&self) -> ChannelSpec {
        ChannelSpec {
            signed: self.signed != Some(false),
            symmetric: true,
            reduced: false,
        }
    }

    /// The operand in place `slot`, decoded in front of the node.
    pub(super) fn stored(&self, weight: Weight, axes: Vec<usize>, slot: usize) -> Step<Plan> {
        Ok(Plan {
            kind: Kind::Stored(vec![slot]),
            weights: vec![self.operand(weight, axes, self.stored_spec())?],
        })
    }

    /// Whether a sum of `terms` products can be computed on integers in the place of `node`.
    pub(super) fn computes_on_integers(
        &self,
        look: Look<'_>,
        node: NodeId,
        terms: u64,
        spec: ChannelSpec,
    ) -> bool {
        let most = match spec.symmetric {
            true => MOST_TERMS,
            false => MOST_TERMS_ASYMMETRIC,
        };
        look.opset(node) >= INTEGER_OPSET && (FEWEST_TERMS..=most).contains(&terms)
    }
}

/// A weight with one scale for each index along `axes`, if that can be made and is smaller.
pub(super) fn checked(weight: Weight, axes: Vec<usize>, spec: ChannelSpec) -> Step<Operand> {
    let bytes = weight.bytes();
    let bits = EightBits::new("", &weight, &axes, spec, 1.0);
    if bits.and_then(|bits| bits.codes(&weight)).is_none() {
        let message = format!("the weight is rearranged: extents {:?}", weight.dims);
        return decline(Reason::Rank, message, bytes);
    }
    let channels: u64 = axes.iter().map(|&a| weight.dims[a]).product();
    let elements: u64 = weight.dims.iter().product();
    if elements + 4 * channels >= elements * weight.stored.bits() / 8 {
        let message = format!("{elements} elements in {channels} channels take less as they are");
        return decline(Reason::NoGain, message, bytes);
    }
    Ok(Operand {
        weight,
        axes,
        spec,
        factor: 1.0,
    })
}

/// Declines a product of too few terms.
pub(super) fn enough_terms(terms: u64, bytes: u64) -> Step<()> {
    if terms >= FEWEST_TERMS {
        return Ok(());
    }
    let message = format!("sums of {terms} terms; rounding averages out from {FEWEST_TERMS} on");
    decline(Reason::NoGain, message, bytes)
}

/// Declines when the model says of `x` that it has another type than the weight, or other than
/// `terms` elements along `axis`, counted from the back: no runtime takes such a model, and the
/// quantized one would not be valid either.
pub(super) fn activation_fits(
    look: Look<'_>,
    x: ValueId,
    axis: usize,
    terms: u64,
    weight: &Weight,
) -> Step<()> {
    let extent = look
        .facts
        .shape(x)
        .and_then(|shape| shape.iter().nth_back(axis - 1));
    let short = look.rank(x).is_some_and(|rank| rank < axis);
    let other = |found: i64| u64::try_from(found) != Ok(terms);
    let found: Option<DataType> = look.facts.dtype(x);
    let wrong = found.is_some_and(|t| t != weight.dtype)
        || short
        || extent.and_then(|e| e.known()).is_some_and(other);
    if !wrong {
        return Ok(());
    }
    let message = format!(
        "operand `{}` does not fit the weight: expected {} with {terms} terms along axis -{axis}",
        look.model.values[x].name, weight.dtype
    );
    decline(Reason::Mismatch, message, weight.bytes())
}

/// Operators that are 8-bit already are no news.
fn left_operator(model: &Model, node: NodeId) -> Left {
    let n = &model.nodes[node];
    let quantized = [
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "GatherBlockQuantized",
        "MatMulNBits",
    ];
    let arithmetic = ["Mul", "Add", "Sub", "Div"];
    let plain = n.domain().is_empty() && arithmetic.contains(&&*n.op_type);
    match plain || n.domain() == "com.microsoft" && quantized.contains(&&*n.op_type) {
        true => Left::Ignored,
        false => other_operator(model, node, "8-bit"),
    }
}
