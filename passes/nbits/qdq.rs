//! The portable form: the weight becomes codes behind a blocked `DequantizeLinear`, and the nodes
//! that read it stay as they are.

use std::{collections::HashSet, sync::Arc};

use super::{
    INFO, Nbits,
    commit::int,
    group::Group,
    plan::{Kind, Plan},
};
use crate::{
    ir::{
        Data, DataType, Model, Node, NodeId, Tensor, Use, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{PassContext, Reason, Remark},
    weights::{CODES, Layout, QuantizeLinearBlocks, SCALES, WeightKey, ZERO_POINTS, rearranges},
};

/// The type of the codes.
pub(super) fn code_type(bits: u8, symmetric: bool) -> DataType {
    match (bits, symmetric) {
        (2, true) => DataType::Int2,
        (2, false) => DataType::Uint2,
        (4, true) => DataType::Int4,
        (4, false) => DataType::Uint4,
        (_, true) => DataType::Int8,
        (_, false) => DataType::Uint8,
    }
}

/// Which operand of the planned node is the weight.
fn weight_slot(model: &Model, node: NodeId, plan: &Plan) -> u32 {
    match &plan.kind {
        Kind::Gather { .. } => 0,
        Kind::Linear(linear) => u32::from(model.nodes[node].input(0) == Some(linear.x)),
    }
}

impl Nbits {
    /// Rewrites the planned nodes; how many were.
    pub(super) fn commit_qdq(
        &self,
        model: &mut Model,
        plans: Vec<(NodeId, Plan)>,
        cx: &mut PassContext,
    ) -> usize {
        let (groups, members) = self.group(model, &plans, cx);
        let uses = Uses::of(model);
        let operands: HashSet<(NodeId, u32)> = plans
            .iter()
            .map(|(node, plan)| (*node, weight_slot(model, *node, plan)))
            .collect();
        let mut taken: HashSet<ValueId> = HashSet::new();
        let mut done = Vec::with_capacity(groups.len());
        let mut edit = Edit::new(model);
        for (i, mut group) in groups.into_iter().enumerate() {
            let root = group.key.root;
            let nodes = plans.iter().zip(&members).filter(|(_, m)| **m == i);
            let nodes: Vec<(NodeId, u32)> = nodes
                .map(|((node, plan), _)| (*node, weight_slot(edit.model(), *node, plan)))
                .collect();
            let direct = |&(node, slot): &(NodeId, u32)| {
                edit.model().nodes[node].inputs[slot as usize] == Some(root)
            };
            let whole = covered(edit.model(), &uses, root, &operands);
            let reached: Vec<(NodeId, u32)> = match whole {
                true => nodes.clone(),
                false => nodes.iter().copied().filter(direct).collect(),
            };
            let other = taken.contains(&root);
            if other && whole {
                // It reads the codes of the other axis.
                continue;
            }
            if other || reached.is_empty() {
                self.left(edit.model(), &group, nodes[0].0, other, cx);
                continue;
            }
            taken.insert(root);
            let decoded = self.decode(&mut edit, &group, cx);
            match whole {
                true => edit.redirect(&uses, root, decoded),
                false => {
                    for &(node, slot) in &reached {
                        edit.set_operand(node, slot as usize, decoded);
                    }
                }
            }
            let is_reached = |node: &NodeId| reached.iter().any(|(n, _)| n == node);
            group.linear.retain(is_reached);
            group.gather.retain(is_reached);
            done.push(group);
        }
        edit.finish();
        let roots: Vec<ValueId> = done.iter().map(|g| g.key.root).collect();
        remove_unused(model, &roots);
        cx.count("weights", done.len() as u64);
        let mut count = 0;
        for group in &done {
            count += group.linear.len() + group.gather.len();
            cx.count("gather", group.gather.len() as u64);
            for &node in &group.linear {
                let gemm = model.nodes[node].is("Gemm");
                cx.count(if gemm { "gemm" } else { "matmul" }, 1);
            }
        }
        self.report(model, &done, cx);
        count
    }

    /// A weight that is read in a way that its codes cannot serve.
    fn left(
        &self,
        model: &Model,
        group: &Group,
        node: NodeId,
        other_axis: bool,
        cx: &mut PassContext,
    ) {
        let name = &model.values[group.key.root].name;
        let (reason, message) = match other_axis {
            true => (
                Reason::Axis,
                format!("weight `{name}` has blocks along its other axis, for another node"),
            ),
            false => (
                Reason::Rank,
                format!("weight `{name}` is rearranged on the way, for other nodes too"),
            ),
        };
        let bytes = group.matrix.weight.bytes();
        cx.remarks
            .push(Remark::new(model, INFO.name, node, reason, message, bytes));
    }

    /// The constants of a group and the node that decodes them; its result, of the weight's own type
    /// and extents.
    fn decode(&self, edit: &mut Edit<'_>, group: &Group, cx: &mut PassContext) -> ValueId {
        let (spec, root, matrix) = (&group.spec, group.key.root, &group.matrix);
        let model = edit.model();
        let (name, home) = (model.values[root].name.clone(), model.home(root));
        let dims = crate::weights::source_tensor(model, root)
            .expect("the weight was planned")
            .dims
            .clone();
        let axis = match matrix.layout {
            Layout::Rows => dims.len() - 1,
            Layout::Columns => dims.len() - 2,
        };
        let mut block_dims = dims.clone();
        block_dims[axis] = spec.blocks(matrix.k as usize) as i64;
        let key = WeightKey::of(edit.model(), matrix);
        let chosen = self.chosen(&key, cx);
        let first = group.linear.iter().chain(&group.gather).next();
        let first = *first.expect("a group has a node");
        self.uncalibrated(edit.model(), first, &key, &chosen, cx);
        let recipe = QuantizeLinearBlocks::new(&name, matrix, *spec).by(chosen);
        let recipe = Arc::new(recipe);
        let data = |output| Data::Computed {
            recipe: recipe.clone(),
            output,
        };
        let code_type = code_type(spec.bits(), spec.symmetric());
        let codes = Tensor::new(code_type, dims, data(CODES));
        let codes = edit.add_constant(home, &format!("{name}_Q{}", spec.bits()), codes);
        let scales = Tensor::new(group.key.compute, block_dims.clone(), data(SCALES));
        let scales = edit.add_constant(home, &format!("{name}_scales"), scales);
        let mut inputs = vec![Some(codes), Some(scales)];
        if !spec.symmetric() {
            let points = Tensor::new(code_type, block_dims, data(ZERO_POINTS));
            let points = edit.add_constant(home, &format!("{name}_zero_points"), points);
            inputs.push(Some(points));
        }
        let mut node = Node::new(home, "", "DequantizeLinear");
        node.name = Some(format!("{name}/DequantizeLinear").into());
        node.inputs = inputs;
        node.attributes = vec![
            int("axis", axis as i64),
            int("block_size", spec.block() as i64),
        ];
        // After the constants, where these are nodes.
        let mut decoded = edit.insert_first(node, &format!("{name}_decoded"));
        if matrix.weight.dtype != group.key.compute {
            let mut cast = Node::new(home, "", "Cast");
            cast.inputs = vec![Some(decoded)];
            cast.attributes = vec![int("to", i64::from(matrix.weight.dtype.code()))];
            decoded = edit.insert_after(decoded, cast, &format!("{name}_decoded_cast"));
        }
        decoded
    }
}

/// Whether every node that reads `value`, through nodes that rearrange it, does so as one of
/// `operands`.
fn covered(model: &Model, uses: &Uses, value: ValueId, operands: &HashSet<(NodeId, u32)>) -> bool {
    uses.of_value(value).iter().all(|u| match *u {
        Use::Output(..) => false,
        Use::Operand(node, slot) if operands.contains(&(node, slot)) => true,
        Use::Operand(node, 0) if rearranges(&model.nodes[node]) => {
            let mut outputs = model.nodes[node].outputs.iter().flatten();
            outputs.all(|&v| covered(model, uses, v, operands))
        }
        Use::Operand(..) => false,
    })
}
