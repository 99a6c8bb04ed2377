//! Rewrites the planned nodes, in document order.

use half::{bf16, f16};

use super::{
    INFO, Nbits,
    group::{Group, Made},
    plan::{Addend, Kind, Linear, Plan},
    spelled::{self, Table},
};
use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Data, DataType, Model, Node, NodeId, Tensor, ValueId,
        edit::{Chain, Edit, remove_unused},
    },
    pass::{PassContext, QuantizedWeight, kept_float},
    weights::{Blocks, WeightKey},
};

const CONTRIB: &str = "com.microsoft";

impl Nbits {
    pub(super) fn commit(
        &self,
        model: &mut Model,
        plans: Vec<(NodeId, Plan)>,
        cx: &mut PassContext,
    ) -> Result<()> {
        let (mut groups, members) = self.group(model, &plans, cx);
        // Any of these may be read no more: the weight, and a C that went into the bias.
        let operands = plans
            .iter()
            .flat_map(|(node, _)| &model.nodes[*node].inputs);
        let operands: Vec<ValueId> = operands.flatten().copied().collect();
        let mut edit = Edit::new(model);
        for ((node, plan), &group) in plans.iter().zip(&members) {
            let group = &mut groups[group];
            let made = match group.made {
                Some(made) => made,
                None => {
                    let blocks = self.blocks(edit.model(), *node, group, cx)?;
                    *group.made.insert(self.make(&mut edit, group, &blocks))
                }
            };
            if !matches!(
                plan.kind,
                Kind::Gather {
                    spelled: Some(_),
                    ..
                }
            ) {
                let graph = edit.model().nodes[*node].graph;
                edit.import_opset(graph, CONTRIB, 1);
            }
            match &plan.kind {
                Kind::Linear(linear) => {
                    self.linear(&mut edit, *node, plan, linear, group, made);
                    cx.count(if linear.gemm { "gemm" } else { "matmul" }, 1);
                }
                Kind::Gather { indices, spelled } => {
                    match spelled {
                        None => self.gather(&mut edit, *node, plan, *indices, group, made),
                        Some(rank) => {
                            let table = Table::of(group, made, plan);
                            spelled::gather(&mut edit, *node, &table, *indices, *rank);
                        }
                    }
                    cx.count("gather", 1);
                }
            }
        }
        edit.finish();
        cx.count("weights", groups.len() as u64);
        remove_unused(model, &operands);
        self.report(model, &groups, cx);
        Ok(())
    }

    /// Adds the constants of a group, beside the weight they come from.
    fn make(&self, edit: &mut Edit<'_>, group: &Group, blocks: &Blocks) -> Made {
        let (spec, n, k) = (&group.spec, group.matrix.n as i64, group.matrix.k as usize);
        let root = &edit.model().values[group.key.root].name.clone();
        let home = edit.model().home(group.key.root);
        let codes = || blocks.codes.clone();
        let row_bytes = (blocks.codes.len() / n as u64) as i64;
        let name = format!("{root}_Q{}", spec.bits());
        let blocked = (!group.linear.is_empty()).then(|| {
            let dims = vec![n, spec.blocks(k) as i64, spec.blob() as i64];
            edit.add_constant(home, &name, Tensor::new(DataType::Uint8, dims, codes()))
        });
        let tied = blocked.is_some() && !group.gather.is_empty();
        let rows = (!group.gather.is_empty() && (!tied || self.alias)).then(|| {
            let tensor = Tensor::new(DataType::Uint8, vec![n, row_bytes], codes());
            let name = if tied {
                format!("{name}_rows")
            } else {
                name.clone()
            };
            edit.add_constant(home, &name, tensor)
        });
        let rows_shape = (tied && !self.alias).then(|| {
            let shape = Tensor::from_i64(vec![2], &[n, row_bytes]);
            edit.add_constant(home, &format!("{name}_rows_shape"), shape)
        });
        let scale_dims = vec![n, spec.blocks(k) as i64];
        let scales = Tensor::new(group.key.compute, scale_dims, blocks.scales.clone());
        let scales = edit.add_constant(home, &format!("{root}_scales"), scales);
        let zero_points = blocks.zero_points.clone().map(|data| {
            let (dtype, width) = match spec.float_zero_points() {
                true => (group.key.compute, spec.blocks(k)),
                false => (DataType::Uint8, spec.zero_points_len(1, k)),
            };
            let tensor = Tensor::new(dtype, vec![n, width as i64], data);
            edit.add_constant(home, &format!("{root}_zero_points"), tensor)
        });
        Made {
            blocked,
            rows,
            rows_shape,
            scales,
            zero_points,
        }
    }

    fn linear(
        &self,
        edit: &mut Edit<'_>,
        node: NodeId,
        plan: &Plan,
        linear: &Linear,
        group: &Group,
        made: Made,
    ) {
        let (n, k) = (plan.matrix.n as i64, plan.matrix.k as i64);
        let mut chain = Chain::new(edit, node, linear.x);
        if let Some(rank) = linear.transpose_x {
            transpose(&mut chain, rank);
        }
        if linear.unsqueeze > 0 {
            unsqueeze(&mut chain, linear.unsqueeze);
        }
        let (dtype, compute) = (plan.matrix.weight.dtype, group.key.compute);
        if dtype != compute {
            cast(&mut chain, compute);
        }
        let bias = match &linear.addend {
            Addend::Bias(value) => Some(*value),
            Addend::Row(row) => Some(chain.constant("bias", floats(compute, vec![n], row))),
            Addend::None | Addend::Value { .. } => None,
        };
        let mut inputs = vec![
            None,
            made.blocked,
            Some(made.scales),
            made.zero_points,
            None,
            bias,
        ];
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let mut product = chain.node(CONTRIB, "MatMulNBits", inputs);
        product.attributes = vec![
            int("K", k),
            int("N", n),
            int("bits", i64::from(self.bits)),
            int("block_size", self.block as i64),
        ];
        if self.accuracy_level != 0 {
            product
                .attributes
                .push(int("accuracy_level", self.accuracy_level));
        }
        chain.push(product);
        if dtype != compute {
            cast(&mut chain, dtype);
        }
        if linear.factor != 1.0 {
            let factor = chain.constant("alpha", floats(dtype, vec![], &[linear.factor]));
            let scaled = chain.node("", "Mul", vec![None, Some(factor)]);
            chain.push(scaled);
        }
        if let Addend::Value { c, beta } = linear.addend {
            let mut addend = c;
            if beta != 1.0 {
                let beta = chain.constant("beta", floats(dtype, vec![], &[beta]));
                let scaled = chain.node("", "Mul", vec![Some(c), Some(beta)]);
                addend = chain.beside(scaled);
            }
            let add = chain.node("", "Add", vec![None, Some(addend)]);
            chain.push(add);
        }
        if let Some(rank) = linear.transpose_y {
            transpose(&mut chain, rank);
        }
        chain.replace();
    }

    fn gather(
        &self,
        edit: &mut Edit<'_>,
        node: NodeId,
        plan: &Plan,
        indices: ValueId,
        group: &Group,
        made: Made,
    ) {
        let mut chain = Chain::new(edit, node, indices);
        let rows = made.rows(&mut chain);
        let mut inputs = vec![Some(rows), None, Some(made.scales)];
        inputs.extend(made.zero_points.map(Some));
        let mut gather = chain.node(CONTRIB, "GatherBlockQuantized", inputs);
        gather.attributes = vec![
            int("block_size", self.block as i64),
            int("gather_axis", 0),
            int("quantize_axis", 1),
        ];
        // The default, and ONNX Runtime before 1.23 has no such attribute.
        if self.bits != 4 {
            gather
                .attributes
                .insert(0, int("bits", i64::from(self.bits)));
        }
        chain.push(gather);
        if plan.matrix.weight.dtype != group.key.compute {
            cast(&mut chain, plan.matrix.weight.dtype);
        }
        chain.replace();
    }

    /// What was quantized, and which originals something else still reads.
    pub(super) fn report(&self, model: &Model, groups: &[Group], cx: &mut PassContext) {
        for group in groups {
            let matrix = &group.matrix;
            let (n, k, spec) = (matrix.n as usize, matrix.k as usize, &group.spec);
            let codes = match group.key.padded {
                true => spec.codes_len(n, k),
                false => n * k * usize::from(spec.bits()) / 8,
            };
            let after = codes + spec.scales_len(n, k) + spec.zero_points_len(n, k);
            let nodes = || group.linear.iter().chain(&group.gather);
            cx.quantized.push(QuantizedWeight {
                name: model.values[group.key.root].name.to_string(),
                nodes: nodes()
                    .map(|&node| model.node_name(node).to_string())
                    .collect(),
                shape: [matrix.n, matrix.k],
                bits: self.bits,
                block: self.block,
                bytes_before: matrix.weight.bytes(),
                bytes_after: after as u64,
                blocks: Some((WeightKey::of(model, matrix), *spec)),
            });
            let first = *nodes().next().expect("a group has a node");
            let bytes = matrix.weight.bytes();
            cx.remarks
                .extend(kept_float(model, INFO.name, first, group.key.root, bytes));
        }
    }
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute::new(name, AttributeValue::Int(value))
}

/// Changes the last two of `rank` axes.
fn transpose(chain: &mut Chain<'_, '_>, rank: usize) {
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 2, rank - 1);
    let mut node = chain.node("", "Transpose", vec![None]);
    node.attributes = vec![Attribute::new("perm", AttributeValue::Ints(perm))];
    chain.push(node);
}

/// A Cast for this place, to be fed.
pub(super) fn cast_node(chain: &Chain<'_, '_>, to: DataType) -> Node {
    let mut node = chain.node("", "Cast", vec![None]);
    node.attributes = vec![int("to", i64::from(to.code()))];
    node
}

fn cast(chain: &mut Chain<'_, '_>, to: DataType) {
    let node = cast_node(chain, to);
    chain.push(node);
}

/// Puts `count` axes of extent 1 in front.
fn unsqueeze(chain: &mut Chain<'_, '_>, count: usize) {
    let node = unsqueeze_node(chain, (0..count as i64).collect());
    chain.push(node);
}

/// An Unsqueeze for this place, to be fed.
pub(super) fn unsqueeze_node(chain: &mut Chain<'_, '_>, axes: Vec<i64>) -> Node {
    let mut node = chain.node("", "Unsqueeze", vec![None]);
    // From opset 13 on the axes are an operand.
    if chain.opset() >= 13 {
        let axes = Tensor::from_i64(vec![axes.len() as i64], &axes);
        node.inputs.push(Some(chain.constant("axes", axes)));
    } else {
        node.attributes = vec![Attribute::new("axes", AttributeValue::Ints(axes))];
    }
    node
}

/// A constant of `elements`, which are f32, in `dtype`.
pub(super) fn floats(dtype: DataType, dims: Vec<i64>, elements: &[f32]) -> Tensor {
    let bytes: Vec<u8> = match dtype {
        DataType::Float16 => elements
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
        DataType::Bfloat16 => elements
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
            .collect(),
        DataType::Double => elements
            .iter()
            .flat_map(|&x| f64::from(x).to_le_bytes())
            .collect(),
        _ => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    Tensor::new(dtype, dims, Data::Bytes(bytes.into()))
}
