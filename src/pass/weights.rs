//! What passes that quantize weights have in common.

use globset::GlobSet;

use super::{Left, OptionInfo, OptionKind, Options, Reason, Remark};
use crate::{
    error::Result,
    infer::Facts,
    ir::{Model, Node, NodeId, ValueId},
    weights::{self, Untraceable, Weight, trace},
};

/// Constants below this many elements are not worth a remark when their operator has no
/// quantized form: norms, biases, scalars.
const REMARK_FROM: u64 = 4096;

/// The option `include` of a pass that has a [`Selection`].
pub const INCLUDE: OptionInfo = OptionInfo {
    name: "include",
    kind: OptionKind::List,
    default: "",
    help: "only nodes whose name matches this glob",
};

/// The option `exclude`, likewise.
pub const EXCLUDE: OptionInfo = OptionInfo {
    name: "exclude",
    kind: OptionKind::List,
    default: "",
    help: "no node whose name matches this glob",
};

/// The option `nonfinite` of a pass that quantizes weights.
pub const NONFINITE: OptionInfo = OptionInfo {
    name: "nonfinite",
    kind: OptionKind::Choice(&["refuse", "skip"]),
    default: "refuse",
    help: "a weight with NaN or infinity: an error when it is written, or left as it is \
           (reads every weight beforehand)",
};

/// The option `bits` of a pass that quantizes in blocks, or prepares that.
pub const BITS: OptionInfo = OptionInfo {
    name: "bits",
    kind: OptionKind::Int(&[2, 4, 8]),
    default: "4",
    help: "bits of a code",
};

/// The option `block`, likewise.
pub const BLOCK: OptionInfo = OptionInfo {
    name: "block",
    kind: OptionKind::Int(&[16, 32, 64, 128, 256]),
    default: "16",
    help: "elements that share a scale",
};

/// The option `asymmetric`, likewise.
pub const ASYMMETRIC: OptionInfo = OptionInfo {
    name: "asymmetric",
    kind: OptionKind::Flag,
    default: "false",
    help: "a zero point for each block, too",
};

/// What is planned on: a model, and what is inferred of it.
#[derive(Clone, Copy)]
pub struct Look<'m> {
    /// The model.
    pub model: &'m Model,
    /// What is inferred of it.
    pub facts: &'m Facts,
    /// The opset that it will have at least.
    pub opset: i64,
}

impl Look<'_> {
    /// How many axes `value` has, if that is known or declared.
    pub fn rank(&self, value: ValueId) -> Option<usize> {
        let inferred = self.facts.shape(value).map(<[_]>::len);
        inferred.or_else(|| self.model.rank_of(value))
    }

    /// The opset of the default domain for `node`.
    pub fn opset(&self, node: NodeId) -> i64 {
        let own = self.model.opset(self.model.nodes[node].graph, "");
        own.unwrap_or(1).max(self.opset)
    }
}

/// The attributes of a `Gemm`.
#[derive(Clone, Copy)]
pub struct Gemm {
    /// Whether A is transposed.
    pub trans_a: bool,
    /// Whether B is transposed.
    pub trans_b: bool,
    /// What multiplies the product.
    pub alpha: f32,
    /// What multiplies C.
    pub beta: f32,
}

impl Gemm {
    /// Of `node`.
    ///
    /// # Errors
    /// It is declined: an attribute refers to the caller of the function.
    pub fn of(node: &Node) -> Result<Gemm, Left> {
        let attributes = (
            node.int("transA", 0),
            node.int("transB", 0),
            node.float("alpha", 1.0),
            node.float("beta", 1.0),
        );
        let (Some(trans_a), Some(trans_b), Some(alpha), Some(beta)) = attributes else {
            let message = "an attribute refers to the caller of the function";
            return Err(Left::declined(Reason::Attribute, message, 0));
        };
        Ok(Gemm {
            trans_a: trans_a != 0,
            trans_b: trans_b != 0,
            alpha,
            beta,
        })
    }

    /// Whether it can be a product of a quantized `weight`.
    ///
    /// # Errors
    /// It is declined: the weight is no matrix, or a factor makes no sense.
    pub fn fits(&self, weight: &Weight) -> Result<(), Left> {
        let bytes = weight.bytes();
        if weight.dims.len() != 2 {
            let message = format!("B has shape {:?}; Gemm takes a matrix", weight.dims);
            return Err(Left::declined(Reason::Rank, message, bytes));
        }
        let Gemm { alpha, beta, .. } = self;
        if !alpha.is_finite() || !beta.is_finite() || *alpha == 0.0 {
            let message = format!("alpha is {alpha} and beta {beta}; expected finite, alpha not 0");
            return Err(Left::declined(Reason::Attribute, message, bytes));
        }
        Ok(())
    }
}

/// The nodes that the user named by the options `include` and `exclude`.
pub struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Selection {
    /// Of the options of a pass that declares both.
    ///
    /// # Errors
    /// A glob is none.
    pub fn new(options: &Options) -> Result<Selection> {
        let include = options.has("include").then(|| options.globs("include"));
        Ok(Selection {
            include: include.transpose()?,
            exclude: options.globs("exclude")?,
        })
    }

    /// Declines a node that the user does not want; `bytes` of its weight stay.
    ///
    /// # Errors
    /// The node is declined.
    pub fn check(&self, model: &Model, node: NodeId, bytes: u64) -> Result<(), Left> {
        let name = model.nodes[node].name.as_deref().unwrap_or_default();
        if self.exclude.is_match(name) {
            let message = "excluded by name";
            return Err(Left::declined(Reason::Excluded, message, bytes));
        }
        if self.include.as_ref().is_some_and(|set| !set.is_match(name)) {
            let message = "not among the names to quantize";
            return Err(Left::declined(Reason::NotIncluded, message, bytes));
        }
        Ok(())
    }
}

/// The constant behind `operand`.
///
/// # Errors
/// There is none that can be quantized, or a small constant on the way cannot be read.
pub fn constant_weight(model: &Model, pass: &str, operand: ValueId) -> Result<Weight, Left> {
    trace(model, operand)?.map_err(|why| untraceable(model, pass, operand, &why))
}

fn untraceable(model: &Model, pass: &str, operand: ValueId, why: &Untraceable) -> Left {
    let name = &model.values[operand].name;
    match why {
        Untraceable::NotConstant => Left::declined(
            Reason::WeightNotConstant,
            format!("operand `{name}` is not constant"),
            0,
        ),
        Untraceable::Overridable => {
            let bytes = model.tensor(operand).map_or(0, |t| t.byte_len());
            let message = format!(
                "weight `{name}` is a graph input too, so callers may replace it; expected an initializer alone"
            );
            Left::declined(Reason::Overridable, message, bytes)
        }
        Untraceable::Dtype(dtype) => {
            let bytes = weights::source_tensor(model, operand).map_or(0, |t| t.byte_len());
            let message = format!(
                "weight `{name}` is {dtype}; {pass} takes float, float16, bfloat16 and double"
            );
            Left::declined(Reason::Dtype, message, bytes)
        }
        Untraceable::Rearranged(op) => Left::declined(
            Reason::Rank,
            format!("the constant behind `{name}` goes through {op}"),
            0,
        ),
    }
}

/// Why a node whose operator has no quantized form is left: for a reason if it reads a float
/// constant of some size. `kind` is of which form it has none.
pub fn other_operator(model: &Model, node: NodeId, kind: &str) -> Left {
    let n = &model.nodes[node];
    if n.is("Constant") || weights::rearranges(n) {
        return Left::Ignored;
    }
    let large = n.inputs.iter().flatten().filter_map(|&v| {
        let tensor = weights::source_tensor(model, v)?;
        let large = tensor.dtype.is_float() && tensor.element_count() >= Some(REMARK_FROM);
        large.then(|| tensor.byte_len())
    });
    match large.sum() {
        0 => Left::Ignored,
        bytes => {
            let message = format!("{} has no {kind} form", n.op_type);
            Left::declined(Reason::Operator, message, bytes)
        }
    }
}

/// That something else still reads `root`, of so many bytes, although it was quantized for
/// `node`; `None` when nothing does.
pub fn kept_float(
    model: &Model,
    pass: &'static str,
    node: NodeId,
    root: ValueId,
    bytes: u64,
) -> Option<Remark> {
    let graph = &model.graphs[model.home(root)];
    let listed = match model.producer(root) {
        Some(maker) => graph.nodes.contains(&maker),
        None => graph.initializers.contains(&root),
    };
    listed.then(|| {
        let message = format!(
            "weight `{}` was quantized, but something else still reads the original",
            model.values[root].name
        );
        Remark::new(model, pass, node, Reason::KeptFloat, message, bytes)
    })
}
