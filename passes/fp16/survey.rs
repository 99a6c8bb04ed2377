//! What the pass knows of a model before it decides anything.

use std::collections::HashSet;

use crate::{
    infer::{self, Kind},
    ir::{
        AttributeValue, DataType, Def, GraphId, Model, Node, NodeId, SideTable, Str, Use, Uses,
        ValueId,
    },
    pass::{Left, PassContext, Reason, Remark},
    schema::{self, OpSchema, Param},
    weights::source_tensor,
};

use super::INFO;

/// Constants up to this many elements are masks, limits and coefficients, not weights: where
/// they stand for infinity they are clamped, and they may exist in both types.
pub(super) const SMALL: u64 = 4096;

/// Operators that stay float whatever their schema says. Because of what their numbers mean: scales
/// that quantized values are exact multiples of, and windows, which are constants. Because of their
/// form: trees have attributes of the type of the operand, and what ONNX Runtime puts in the place of
/// MeanVarianceNormalization has float constants.
const FLOAT: [(&str, &str); 8] = [
    ("", "MeanVarianceNormalization"),
    ("", "QuantizeLinear"),
    ("", "DequantizeLinear"),
    ("", "HannWindow"),
    ("", "HammingWindow"),
    ("", "BlackmanWindow"),
    ("", "MelWeightMatrix"),
    ("ai.onnx.ml", "TreeEnsemble"),
];

/// Operands that are coordinates, counts or scales: they stay float.
const FLOAT_OPERANDS: [(&str, usize); 6] = [
    ("Resize", 1),
    ("Resize", 2),
    ("Upsample", 1),
    ("OneHot", 0),
    ("OneHot", 1),
    ("CenterCropPad", 1),
];

/// A node that stays float, and why.
#[derive(Clone)]
struct Stays {
    reason: Reason,
    message: String,
    bytes: u64,
}

/// What one operand or result of a node is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// float16.
    Half,
    /// float.
    Float,
    /// Either of them.
    Any,
}

pub(super) struct Survey<'m> {
    pub(super) model: &'m Model,
    pub(super) kinds: SideTable<ValueId, Option<Kind>>,
    pub(super) uses: Uses,
    /// The main graph and those inside it. Bodies of functions are not converted.
    pub(super) graphs: Vec<GraphId>,
    /// Their nodes, in document order.
    pub(super) nodes: Vec<NodeId>,
    inside: SideTable<NodeId, bool>,
    schemas: SideTable<NodeId, Option<&'static OpSchema>>,
    /// The types that become half.
    types: &'static [DataType],
    stays: SideTable<NodeId, Option<Stays>>,
}

impl<'m> Survey<'m> {
    /// Of tensors of `types`, that is, which are called float.
    pub(super) fn new(model: &'m Model, types: &'static [DataType]) -> Survey<'m> {
        let graphs = model.graphs_within(model.main);
        let listed = graphs.iter().flat_map(|&g| model.graphs[g].nodes.iter());
        let mut survey = Survey {
            model,
            kinds: infer::kinds(model),
            uses: Uses::of(model),
            nodes: listed.copied().collect(),
            graphs,
            inside: SideTable::new(false),
            schemas: SideTable::new(None),
            types,
            stays: SideTable::new(None),
        };
        let overload = |o: &'m Option<Str>| o.as_deref().unwrap_or_default();
        let functions = model.functions.iter();
        let functions: HashSet<_> = functions
            .map(|f| (f.domain(), &*f.name, overload(&f.overload)))
            .collect();
        for node in survey.nodes.clone() {
            survey.inside[node] = true;
            let n = &model.nodes[node];
            if functions.contains(&(n.domain(), &*n.op_type, overload(&n.overload))) {
                let message = "calls a local function, which stays float";
                survey.leave(node, Reason::Function, message, 0);
                continue;
            }
            let opset = model.opset(n.graph, n.domain());
            survey.schemas[node] = opset.and_then(|o| schema::lookup(n.domain(), &n.op_type, o));
            survey.by_operator(node, opset);
        }
        survey
    }

    /// Lets `node` stay float, unless it does already.
    pub(super) fn leave(
        &mut self,
        node: NodeId,
        reason: Reason,
        message: impl Into<String>,
        bytes: u64,
    ) {
        self.stays[node].get_or_insert_with(|| Stays {
            reason,
            message: message.into(),
            bytes,
        });
    }

    pub(super) fn stays(&self, node: NodeId) -> bool {
        self.stays[node].is_some()
    }

    /// The type of `value`, if it is a tensor of one that becomes half.
    pub(super) fn float_type(&self, value: ValueId) -> Option<DataType> {
        match self.kinds[value] {
            Some(Kind::Tensor(dtype)) if self.types.contains(&dtype) => Some(dtype),
            _ => None,
        }
    }

    /// Whether `value` is a tensor of a type that becomes half.
    pub(super) fn is_float(&self, value: ValueId) -> bool {
        self.float_type(value).is_some()
    }

    /// Whether the float tensors of `node`, in the main graph or inside it, become half.
    pub(super) fn verdict(&self, node: NodeId) -> Result<(), Left> {
        // Constants and casts are what their users make them.
        if !self.inside[node] || !self.touches_float(node) || self.follows_users(node) {
            return Err(Left::Ignored);
        }
        match &self.stays[node] {
            None if self.wants_half(node) => Ok(()),
            None => Err(Left::Ignored),
            Some(s) => Err(Left::declined(s.reason, s.message.clone(), s.bytes)),
        }
    }

    fn touches_float(&self, node: NodeId) -> bool {
        let n = &self.model.nodes[node];
        let slots = n.inputs.iter().chain(&n.outputs).flatten();
        slots.copied().any(|v| self.is_float(v))
    }

    /// Whether any operand or result of `node` is to be half.
    fn wants_half(&self, node: NodeId) -> bool {
        let n = &self.model.nodes[node];
        let operand = |slot: usize| self.operand(node, slot) == Want::Half;
        let result = |slot: usize| self.result(node, slot) == Want::Half;
        let float = |v: &Option<ValueId>| v.is_some_and(|v| self.is_float(v));
        (0..n.inputs.len()).any(|i| float(&n.inputs[i]) && operand(i))
            || (0..n.outputs.len()).any(|i| float(&n.outputs[i]) && result(i))
    }

    /// Whether `node` makes whichever type its users want: a cast to float, a constant.
    pub(super) fn follows_users(&self, node: NodeId) -> bool {
        let n = &self.model.nodes[node];
        let made = n.output(0).is_some_and(|v| self.is_float(v));
        let follows = n.is("Cast") || n.is("ConstantOfShape") || n.is("Constant");
        made && follows && !self.stays(node)
    }

    /// `If`, `Loop` and `Scan`: their bodies take part in the conversion.
    pub(super) fn is_control_flow(&self, node: NodeId) -> bool {
        let n = &self.model.nodes[node];
        n.is("If") || n.is("Loop") || n.is("Scan")
    }

    /// What float operand `slot` of `node` is to be, if the node does not stay float.
    pub(super) fn operand(&self, node: NodeId, slot: usize) -> Want {
        let n = &self.model.nodes[node];
        if n.is("Cast") {
            return Want::Any;
        }
        if self.is_control_flow(node) {
            return Want::Half;
        }
        let takes = self.schemas[node]
            .and_then(|s| s.input(slot))
            .is_some_and(|p| infer::takes(p, DataType::Float16));
        if !takes || is_float_operand(n, slot) {
            return Want::Float;
        }
        // Nothing else depends on the type: as in Shape, ArgMax, IsNaN.
        let others = n.inputs.iter().chain(&n.outputs).flatten();
        match others.filter(|v| self.is_float(**v)).count() {
            1 => Want::Any,
            _ => Want::Half,
        }
    }

    /// What float result `slot` of `node` is to be, if the node does not stay float.
    pub(super) fn result(&self, node: NodeId, slot: usize) -> Want {
        let takes = |s: &OpSchema| {
            let param = s.output(slot);
            param.is_some_and(|p| infer::takes(p, DataType::Float16))
        };
        match self.is_control_flow(node) || self.schemas[node].is_some_and(takes) {
            true => Want::Half,
            false => Want::Float,
        }
    }

    /// Leaves `node` when its operator does not compute in half precision.
    fn by_operator(&mut self, node: NodeId, opset: Option<i64>) {
        let n = &self.model.nodes[node];
        if !self.touches_float(node) || self.is_control_flow(node) {
            return;
        }
        let operator = match n.domain() {
            "" => n.op_type.to_string(),
            domain => format!("{domain}.{}", n.op_type),
        };
        let Some(schema) = self.schemas[node] else {
            let message = format!("operator `{operator}` is not known");
            return self.leave(node, Reason::Operator, message, 0);
        };
        let tensor = |v: &ValueId| matches!(self.kinds[*v], None | Some(Kind::Tensor(_)));
        if !n.inputs.iter().chain(&n.outputs).flatten().all(tensor) {
            let message =
                format!("`{operator}` works with sequences or optionals, which stay float");
            return self.leave(node, Reason::Operator, message, 0);
        }
        if n.is("Constant") && !n.output(0).is_some_and(|v| self.is_constant(v)) {
            return self.leave(node, Reason::Operator, "a sparse constant", 0);
        }
        if FLOAT.contains(&(n.domain(), &*n.op_type)) {
            let message = format!("`{operator}` is not for numbers of half precision");
            return self.leave(node, Reason::Operator, message, 0);
        }
        let reduction = n.attribute("reduction");
        let plain = matches!(reduction, Some(AttributeValue::String(s)) if &**s == b"none");
        if (n.is("ScatterElements") || n.is("ScatterND")) && reduction.is_some() && !plain {
            let message = format!("ONNX Runtime does not reduce halves with `{operator}`");
            return self.leave(node, Reason::Operator, message, 0);
        }
        let float = |v: &Option<ValueId>| v.is_some_and(|v| self.is_float(v));
        // ONNX Runtime computes with float where it has no kernel for half, when an operand is
        // half; of what makes halves of nothing else it wants the kernel, and has none.
        if !n.inputs.iter().any(float) && !self.follows_users(node) {
            let message = format!("`{operator}` makes numbers, and reads none that become half");
            return self.leave(node, Reason::Operator, message, 0);
        }
        let half = |p: Option<&Param>| p.is_some_and(|p| infer::takes(p, DataType::Float16));
        let takes = |s: &OpSchema| {
            (0..n.inputs.len()).any(|i| float(&n.inputs[i]) && half(s.input(i)))
                || (0..n.outputs.len()).any(|i| float(&n.outputs[i]) && half(s.output(i)))
        };
        if takes(schema) {
            return;
        }
        let newer = schema::versions(n.domain(), &n.op_type);
        let newer = newer
            .iter()
            .filter(|s| Some(s.since_version) > opset)
            .find(|s| takes(s));
        match newer {
            Some(s) => {
                let since = s.since_version;
                let message = format!("`{operator}` takes float16 from opset {since} on");
                self.leave(node, Reason::Opset, message, 0);
            }
            None => {
                let message = format!("`{operator}` takes no float16");
                self.leave(node, Reason::Operator, message, 0);
            }
        }
    }

    /// Whether `value` is a float constant that callers cannot replace.
    pub(super) fn is_constant(&self, value: ValueId) -> bool {
        self.is_float(value) && source_tensor(self.model, value).is_some()
            || self.is_short_constant(value)
    }

    /// Whether `value` is made by a `Constant` whose elements are in a list.
    fn is_short_constant(&self, value: ValueId) -> bool {
        let node = self.model.producer(value).map(|n| &self.model.nodes[n]);
        let short = |n: &Node| {
            n.attribute("value_float")
                .or(n.attribute("value_floats"))
                .is_some()
        };
        node.is_some_and(|n| n.is("Constant") && short(n))
    }

    /// Whether `value` is a float constant of few elements.
    pub(super) fn is_small_constant(&self, value: ValueId) -> bool {
        let few = |count: Option<u64>| count.is_some_and(|n| n <= SMALL);
        let tensor = source_tensor(self.model, value);
        self.is_float(value)
            && (tensor.is_some_and(|t| few(t.element_count())) || self.is_short_constant(value))
    }

    /// Remarks on values of floating-point types that are left, at their first reader.
    pub(super) fn other_types(&self, cx: &mut PassContext) {
        for &graph in &self.graphs {
            for value in self.model.values_of(graph) {
                let given = matches!(
                    self.model.values[value].def,
                    Def::Input(_) | Def::Initializer(_)
                );
                let Some(Kind::Tensor(dtype @ (DataType::Double | DataType::Bfloat16))) =
                    self.kinds[value]
                else {
                    continue;
                };
                if self.is_float(value) {
                    continue;
                }
                if let (true, Some(node)) = (given, self.first_reader(value)) {
                    let bytes = self.model.tensor(value).map_or(0, |t| t.byte_len());
                    let name = &self.model.values[value].name;
                    let message = format!("`{name}` is {dtype}; float alone was to be converted");
                    cx.remarks.push(Remark::new(
                        self.model,
                        INFO.name,
                        node,
                        Reason::Dtype,
                        message,
                        bytes,
                    ));
                }
            }
        }
    }

    pub(super) fn first_reader(&self, value: ValueId) -> Option<NodeId> {
        self.uses.of_value(value).iter().find_map(|u| match u {
            Use::Operand(node, _) => Some(*node),
            Use::Output(..) => None,
        })
    }
}

fn is_float_operand(node: &Node, slot: usize) -> bool {
    node.domain().is_empty() && FLOAT_OPERANDS.contains(&(&*node.op_type, slot))
}
