//! Passes: what they are, how a pipeline of them is written and run.

mod manager;
mod options;
mod pipeline;
mod rewrite;
mod weights;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use manager::{Instruments, PassManager, PassReport, PrintIr, Report};
pub use options::{OptionInfo, OptionKind, Options};
pub use pipeline::{Element, Pipeline, PipelineInfo, ROUNDS, Registry, Step};
pub use rewrite::{Left, plan_nodes};
pub use weights::{
    ASYMMETRIC, BITS, BLOCK, EXCLUDE, Gemm, INCLUDE, Look, NONFINITE, Selection, constant_weight,
    kept_float, other_operator,
};

use crate::{
    error::Result,
    infer::{Facts, facts},
    ir::{Model, NodeId},
    quant::BlockSpec,
    weights::{Calibrated, HalfScans, WeightKey},
};

/// A transformation of a model, with its options already parsed.
pub trait Pass: Send + Sync {
    /// Transforms `model`. What was done and what was declined goes to `cx`.
    ///
    /// # Errors
    /// The model holds something that the pass cannot leave alone, or a small constant
    /// that it needs cannot be read.
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed>;
}

/// What is known of a pass before it is built: its entry in the registry.
pub struct PassInfo {
    /// The name in pipelines: a verb phrase in kebab case.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The documentation: prose and the sections Scope, Options, Statistics, Example.
    pub doc: &'static str,
    /// Its options.
    pub options: &'static [OptionInfo],
    /// Builds it from its options.
    pub build: fn(&Options) -> Result<Box<dyn Pass>>,
}

impl PassInfo {
    /// Its documentation as Markdown, options included.
    pub fn document(&self) -> String {
        let mut out = format!(
            "# `{}`\n\n{}.\n\n{}\n## Options\n\n",
            self.name, self.summary, self.doc
        );
        for o in self.options {
            let default = match o.default {
                "" => String::new(),
                default => format!(", default `{default}`"),
            };
            out.push_str(&format!(
                "- `{}` ({}{default}): {}\n",
                o.name, o.kind, o.help
            ));
        }
        if self.options.is_empty() {
            out.push_str("None.\n");
        }
        out
    }
}

/// Whether a pass changed the model, counted where the change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The model is as it was.
    No,
    /// So many rewrites were made.
    Yes(u64),
}

impl Changed {
    /// `count` rewrites.
    pub fn count(count: usize) -> Changed {
        match count {
            0 => Changed::No,
            n => Changed::Yes(n as u64),
        }
    }

    /// This, and then `other`.
    pub fn and(self, other: Changed) -> Changed {
        match (self, other) {
            (Changed::Yes(a), Changed::Yes(b)) => Changed::Yes(a + b),
            (Changed::No, c) | (c, Changed::No) => c,
        }
    }
}

/// Why a node or weight that a pass could have rewritten was left. The texts are stable:
/// scripts and tests match them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No operand is a constant that can be rewritten.
    WeightNotConstant,
    /// The rank of the weight has no quantized form.
    Rank,
    /// The rewrite depends on the rank of the other operand, which is not known.
    RankUnknown,
    /// The element type is none that the pass rewrites.
    Dtype,
    /// The user excluded the node.
    Excluded,
    /// The user named other nodes.
    NotIncluded,
    /// The quantized operator works along another axis only.
    Axis,
    /// A row of the weight does not fill whole bytes.
    OddWidth,
    /// Callers may replace the weight: it is a graph input too.
    Overridable,
    /// The weight holds NaN or infinity.
    NonFinite,
    /// The weight has no elements.
    Empty,
    /// The operator has no form of the kind wanted.
    Operator,
    /// The weight was quantized, but something else still reads the original.
    KeptFloat,
    /// The weight was quantized symmetrically although asymmetric was asked for: an odd
    /// number of blocks a row with zero points is computed wrongly by some runtimes.
    OddBlocks,
    /// The model's opset is too old.
    Opset,
    /// An attribute of the node has a value that the rewrite does not cover.
    Attribute,
    /// The model says of the other operand what does not fit the weight.
    Mismatch,
    /// It calls a local function.
    Function,
    /// Its results are whole numbers, or angles made of them, and half precision has whole
    /// numbers only up to 2048.
    WholeNumbers,
    /// It works with numbers beyond the range of half precision.
    HalfRange,
    /// Numbers beyond the range of half precision became its largest.
    Clamped,
    /// The node fails on its constant operands, or the standard does not say what it does.
    FoldFails,
    /// The result of a constant node is too large to be computed by the compiler.
    FoldTooLarge,
    /// The result of a constant node would make the file larger.
    FoldGrows,
    /// Operands do not fit each other, or a result is not what it is declared to be.
    Contradiction,
    /// Something else reads the weight too, so that a changed copy would be one more.
    Shared,
    /// Something else reads what the rewrite would no longer compute.
    ResultRead,
    /// A runtime that the user named does not run the result, or it is not known to.
    Target,
    /// The quantized form would not be smaller.
    NoGain,
    /// The weight was quantized without what the method wants to know of its activations.
    NotCalibrated,
}

impl Reason {
    /// The code that reports show.
    pub fn code(self) -> &'static str {
        match self {
            Reason::WeightNotConstant => "weight-not-constant",
            Reason::Rank => "rank",
            Reason::RankUnknown => "rank-unknown",
            Reason::Dtype => "dtype",
            Reason::Excluded => "excluded",
            Reason::NotIncluded => "not-included",
            Reason::Axis => "axis",
            Reason::OddWidth => "odd-width",
            Reason::Overridable => "overridable",
            Reason::NonFinite => "nonfinite",
            Reason::Empty => "empty",
            Reason::Operator => "operator",
            Reason::KeptFloat => "kept-float",
            Reason::OddBlocks => "odd-blocks",
            Reason::Opset => "opset",
            Reason::Attribute => "attribute",
            Reason::Mismatch => "mismatch",
            Reason::Function => "function",
            Reason::WholeNumbers => "whole-numbers",
            Reason::HalfRange => "half-range",
            Reason::Clamped => "clamped",
            Reason::FoldFails => "fold-fails",
            Reason::FoldTooLarge => "fold-too-large",
            Reason::FoldGrows => "fold-grows",
            Reason::Contradiction => "contradiction",
            Reason::Shared => "shared",
            Reason::ResultRead => "result-read",
            Reason::Target => "target",
            Reason::NoGain => "no-gain",
            Reason::NotCalibrated => "not-calibrated",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Something a pass matched and declined, or did otherwise than asked.
#[derive(Clone, Debug)]
pub struct Remark {
    /// The pass.
    pub pass: &'static str,
    /// The node.
    pub node: NodeId,
    /// Its name, or that of its first output.
    pub name: String,
    /// How messages name it.
    pub label: String,
    /// Its operator.
    pub op_type: String,
    /// Why.
    pub reason: Reason,
    /// The same in words, with what was found and what was expected.
    pub message: String,
    /// Bytes of the weight that stay as they were.
    pub bytes: u64,
}

/// A weight that a pass quantized.
#[derive(Clone, Debug)]
pub struct QuantizedWeight {
    /// Its name.
    pub name: String,
    /// The nodes that read it now.
    pub nodes: Vec<String>,
    /// Its elements: rows and columns of the matrix.
    pub shape: [u64; 2],
    /// Bits a code.
    pub bits: u8,
    /// Elements a block.
    pub block: usize,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes of codes, scales and zero points.
    pub bytes_after: u64,
    /// Of a weight in blocks: what it is, and how it was quantized.
    pub blocks: Option<(WeightKey, BlockSpec)>,
}

/// What a pass tells while it runs.
#[derive(Debug, Default)]
pub struct PassContext {
    /// What was declined, in document order.
    pub remarks: Vec<Remark>,
    /// What was quantized.
    pub quantized: Vec<QuantizedWeight>,
    /// Named counters.
    pub statistics: BTreeMap<&'static str, u64>,
    /// How many more rewrites may be made; `None`: any number.
    pub(crate) rewrites_left: Option<u64>,
    /// What was inferred of the model that the pass is given.
    pub(crate) facts: Option<Arc<Facts>>,
    /// Whether the pass says itself when that does not hold any more.
    pub(crate) tells: bool,
    /// What was found by reading constants, in this pipeline and in those that run beside it.
    pub(crate) half_scans: Arc<HalfScans>,
    /// What a calibration found, if there was one, of the weights as they are now: a pass that changes
    /// weights says so in it ([`Calibrated::change`]), and the passes after it see that.
    pub(crate) calibrated: Option<Arc<Calibrated>>,
}

impl PassContext {
    /// What can be inferred of `model`, which the pass has not changed since it was given it or
    /// said so by [`PassContext::model_changed`]. Computed when it is not known from before.
    pub fn facts(&mut self, model: &Model) -> Arc<Facts> {
        let facts = self.facts.get_or_insert_with(|| Arc::new(facts(model)));
        Arc::clone(facts)
    }

    /// Tells that the model is another one now. A pass that works in rounds says so after each;
    /// what it inferred in the last one then holds for the next pass, too.
    pub fn model_changed(&mut self) {
        self.facts = None;
        self.tells = true;
    }

    /// Adds `n` to the counter `name`.
    pub fn count(&mut self, name: &'static str, n: u64) {
        *self.statistics.entry(name).or_default() += n;
    }

    /// Whether one more rewrite may be made, which is then made (`--stop-after`).
    pub fn permit(&mut self) -> bool {
        let mut one = vec![()];
        self.limit(&mut one);
        !one.is_empty()
    }

    /// Cuts a list of rewrites to how many may still be made (`--stop-after`).
    pub fn limit<T>(&mut self, rewrites: &mut Vec<T>) {
        if let Some(left) = &mut self.rewrites_left {
            rewrites.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= rewrites.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_used_up() {
        let mut cx = PassContext {
            rewrites_left: Some(3),
            ..PassContext::default()
        };
        let mut left = |count: usize| {
            let mut rewrites = vec![(); count];
            cx.limit(&mut rewrites);
            rewrites.len()
        };
        assert_eq!([left(2), left(0), left(2), left(2)], [2, 0, 1, 0]);
        let mut rewrites = vec![(); 5];
        PassContext::default().limit(&mut rewrites);
        assert_eq!(rewrites.len(), 5, "no limit");
    }

    #[test]
    fn counters_add_up() {
        let mut cx = PassContext::default();
        cx.count("a", 2);
        cx.count("a", 3);
        cx.count("b", 0);
        assert_eq!((cx.statistics["a"], cx.statistics["b"]), (5, 0));
        assert_eq!(
            [Changed::count(0), Changed::count(2)],
            [Changed::No, Changed::Yes(2)]
        );
    }
}
