//! The rules, and what they share.

use std::{collections::HashMap, sync::Arc};

use super::{
    at::At,
    cast, conv,
    dequantize::{Dequantize, Key},
    known::refused,
    matmul, misc, nbits, qdq, qlinear, softmax,
};
use crate::{
    error::Result,
    ir::{Data, DataType, Model, NodeId, Produce, Tensor, ValueId, edit::Edit},
};

/// A rule looks at one node and leaves it, or replaces it.
type Rule = fn(&mut Lowering<'_>, NodeId) -> Result<()>;

/// The rule for an operator.
fn rule(domain: &str, op_type: &str) -> Option<Rule> {
    Some(match (domain, op_type) {
        ("", "Cast") => cast::cast,
        ("", "Conv" | "MaxPool" | "AveragePool") => conv::conv,
        ("", "ConvInteger") => conv::conv_integer,
        ("", "DequantizeLinear") => qdq::dequantize_linear,
        ("", "Dropout") => misc::dropout,
        ("", "LogSoftmax" | "Softmax") => softmax::softmax,
        ("", "QLinearConv") => qlinear::conv,
        ("", "QLinearMatMul") => qlinear::matmul,
        ("", "QuantizeLinear") => qdq::quantize_linear,
        ("", "Resize") => misc::resize,
        ("com.microsoft", "DynamicQuantizeMatMul") => matmul::dynamic_quantize_matmul,
        ("com.microsoft", "FusedMatMul") => matmul::fused_matmul,
        ("com.microsoft", "GatherBlockQuantized") => nbits::gather_block_quantized,
        ("com.microsoft", "MatMulIntegerToFloat") => matmul::matmul_integer_to_float,
        ("com.microsoft", "MatMulNBits") => nbits::matmul_nbits,
        ("com.microsoft", "QGemm") => qlinear::gemm,
        ("com.microsoft", "QLinearAdd" | "QLinearMul") => qlinear::binary,
        ("com.microsoft", "QLinearConcat") => qlinear::concat,
        (
            "com.microsoft",
            "QLinearAveragePool"
            | "QLinearGlobalAveragePool"
            | "QLinearLeakyRelu"
            | "QLinearSigmoid"
            | "QLinearSoftmax",
        ) => qlinear::unary,
        ("com.microsoft", "DequantizeLinear") => qdq::dequantize_linear,
        ("com.microsoft", "QuantizeLinear") => qdq::quantize_linear,
        _ => return None,
    })
}

/// A model on its way.
pub(super) struct Lowering<'m> {
    edit: Edit<'m>,
    changed: bool,
    tables: HashMap<Key, ValueId>,
    /// Operands of replaced nodes, which may have no other reader.
    operands: Vec<ValueId>,
}

impl<'m> Lowering<'m> {
    pub(super) fn new(model: &'m mut Model) -> Lowering<'m> {
        Lowering {
            edit: Edit::new(model),
            changed: false,
            tables: HashMap::new(),
            operands: Vec::new(),
        }
    }

    /// Applies the rule for `node`, if there is one.
    ///
    /// # Errors
    /// The node has a form that rten does not compute, nor a rule.
    pub(super) fn apply(&mut self, node: NodeId) -> Result<()> {
        let n = &self.model().nodes[node];
        match rule(n.domain(), &n.op_type) {
            Some(rule) => rule(self, node),
            None => Ok(()),
        }
    }

    /// Ends it: whether anything changed, and what may have lost its readers.
    pub(super) fn finish(self) -> (bool, Vec<ValueId>) {
        self.edit.finish();
        (self.changed, self.operands)
    }

    pub(super) fn model(&self) -> &Model {
        self.edit.model()
    }

    /// Begins to replace `node`.
    pub(super) fn at(&mut self, node: NodeId) -> At<'_, 'm> {
        self.changed = true;
        let operands = &self.edit.model().nodes[node].inputs;
        self.operands.extend(operands.iter().flatten());
        At::new(&mut self.edit, node)
    }

    /// Changes something of a node that stays.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Edit<'m>)) {
        self.changed = true;
        change(&mut self.edit);
    }

    /// The float32 constant of extents `dims` that `recipe` makes: the one made before, when
    /// it would be the same.
    pub(super) fn table(
        &mut self,
        node: NodeId,
        recipe: Dequantize,
        dims: &[u64],
    ) -> Result<ValueId> {
        if let Err(e) = recipe.check() {
            return Err(refused(self.model(), node, e));
        }
        if let Some(&made) = self.tables.get(&recipe.key()) {
            return Ok(made);
        }
        let key = recipe.key();
        let dims = dims.iter().map(|&d| d as i64).collect();
        let recipe: Arc<dyn Produce> = Arc::new(recipe);
        let data = Data::Computed { recipe, output: 0 };
        let name = format!("{}/dequantized", self.model().node_name(node));
        let tensor = Tensor::new(DataType::Float, dims, data);
        let made = self.at(node).shared(&name, tensor);
        self.tables.insert(key, made);
        Ok(made)
    }
}
