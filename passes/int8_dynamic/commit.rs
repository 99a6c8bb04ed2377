//! Rewrites the planned nodes, in document order.

use std::collections::HashMap;

use super::{
    constants::{Constants, Quantized, broadcast_dims, cast_to},
    plan::{Addend, Kind, Operand, Plan, Product, Table},
};
use crate::{
    ir::{
        Attribute, AttributeValue, DataType, Model, Node, NodeId, Tensor, ValueId,
        edit::{Chain, Edit, remove_unused},
    },
    pass::PassContext,
    weights::float_tensor,
};

const CONTRIB: &str = "com.microsoft";

/// An activation in 8 bits: the results of `DynamicQuantizeLinear`.
#[derive(Clone, Copy)]
struct Activation {
    codes: ValueId,
    scale: ValueId,
    zero_point: ValueId,
}

struct Commit<'e, 'm, 'c> {
    edit: &'e mut Edit<'m>,
    cx: &'c mut PassContext,
    constants: Constants,
    activations: HashMap<ValueId, Activation>,
}

pub(super) fn commit(model: &mut Model, plans: Vec<(NodeId, Plan)>, cx: &mut PassContext) {
    // Any of these may be read no more: weights, and biases that got another shape.
    let operands = plans
        .iter()
        .flat_map(|(node, _)| &model.nodes[*node].inputs);
    let operands: Vec<ValueId> = operands.flatten().copied().collect();
    let mut edit = Edit::new(model);
    let mut commit = Commit {
        edit: &mut edit,
        cx,
        constants: Constants::default(),
        activations: HashMap::new(),
    };
    for (node, plan) in &plans {
        commit.rewrite(*node, plan);
    }
    let (constants, cx) = (commit.constants, commit.cx);
    edit.finish();
    remove_unused(model, &operands);
    constants.report(model, cx);
}

impl<'m> Commit<'_, 'm, '_> {
    fn rewrite(&mut self, node: NodeId, plan: &Plan) {
        let quantized: Vec<Quantized> = plan
            .weights
            .iter()
            .map(|operand| self.constants.of(self.edit, node, operand))
            .collect();
        match &plan.kind {
            Kind::Product(product) => {
                self.product(node, product, &plan.weights[0], quantized[0]);
                self.cx
                    .count(if product.gemm { "gemm" } else { "matmul" }, 1);
            }
            Kind::Conv { x, bias } => {
                self.conv(node, *x, *bias, &plan.weights[0], quantized[0]);
                self.cx.count("conv", 1);
            }
            Kind::Table(table) => {
                self.table(node, table, &plan.weights[0], quantized[0]);
                self.cx.count("gather", 1);
            }
            Kind::Lstm => {
                self.lstm(node, &plan.weights, &quantized);
                self.cx.count("lstm", 1);
            }
            Kind::Stored(slots) => {
                for ((&slot, operand), &of) in slots.iter().zip(&plan.weights).zip(&quantized) {
                    let value = self.constants.decoded(self.edit, of, operand);
                    self.edit.set_operand(node, slot, value);
                }
                self.cx.count("stored", 1);
            }
        }
    }

    /// `x`, which is of `dtype`, in 8 bits: once for all its readers, where it is made.
    fn activation(&mut self, x: ValueId, dtype: DataType) -> Activation {
        if let Some(&made) = self.activations.get(&x) {
            return made;
        }
        let name = self.edit.model().values[x].name.clone();
        let graph = self.edit.model().home(x);
        let node = |op: &str, input: ValueId| {
            let mut node = Node::new(graph, "", op);
            node.name = Some(format!("{name}/{op}").into());
            node.inputs = vec![Some(input)];
            node
        };
        let mut float = x;
        if dtype != DataType::Float {
            let mut cast = node("Cast", x);
            cast.attributes = vec![cast_to(DataType::Float)];
            float = self.edit.insert_after(x, cast, &format!("{name}_float"));
        }
        let quantize = node("DynamicQuantizeLinear", float);
        let codes = self
            .edit
            .insert_after(float, quantize, &format!("{name}_quantized"));
        let maker = self.edit.model().producer(codes);
        let maker = maker.expect("a node was just inserted");
        let made = Activation {
            codes,
            scale: self.edit.add_output(maker, &format!("{name}_scale")),
            zero_point: self.edit.add_output(maker, &format!("{name}_zero_point")),
        };
        self.activations.insert(x, made);
        self.cx.count("activations", 1);
        made
    }

    fn product(&mut self, node: NodeId, product: &Product, operand: &Operand, of: Quantized) {
        let dtype = operand.weight.dtype;
        let codes = self.constants.codes(self.edit, of, &operand.weight);
        let dims = column_dims(operand);
        let scales = self.constants.scales(self.edit, of, dims.clone());
        // ONNX Runtime wants the zero points of matrices with all axes.
        let dims = match operand.weight.dims.len() {
            2 => dims,
            _ => broadcast_dims(operand),
        };
        let zero_point = self.constants.zero_point(self.edit, of, dims);
        let weight = [Some(codes), Some(scales), zero_point];
        let mut chain = match product.fused {
            true => self.fused_product(node, product.x, dtype, weight),
            false => self.plain_product(node, product, dtype, weight),
        };
        if dtype != DataType::Float {
            cast(&mut chain, dtype);
        }
        if let Some(addend) = &product.addend {
            let addend = match addend {
                Addend::Value(c) => *c,
                Addend::Constant(c) => chain.constant("bias", c.clone()),
                Addend::Scaled(c, beta) => {
                    let beta = float_tensor(dtype, Vec::new(), &[f64::from(*beta)]);
                    let beta = chain.constant("beta", beta);
                    let scaled = chain.node("", "Mul", vec![Some(*c), Some(beta)]);
                    chain.beside(scaled)
                }
            };
            let add = chain.node("", "Add", vec![None, Some(addend)]);
            chain.push(add);
        }
        chain.replace();
    }

    /// The form that ONNX Runtime fuses: nothing may stand between these nodes.
    fn plain_product(
        &mut self,
        node: NodeId,
        product: &Product,
        dtype: DataType,
        [codes, scales, zero_point]: [Option<ValueId>; 3],
    ) -> Chain<'_, 'm> {
        let x = self.activation(product.x, dtype);
        let mut chain = Chain::new(self.edit, node, x.codes);
        if product.transpose_x {
            transpose(&mut chain, vec![1, 0]);
        }
        let mut inputs = vec![None, codes, Some(x.zero_point)];
        inputs.extend(zero_point.map(Some));
        let integer = chain.node("", "MatMulInteger", inputs);
        chain.push(integer);
        rescale(&mut chain, x.scale, scales);
        chain
    }

    fn fused_product(
        &mut self,
        node: NodeId,
        x: ValueId,
        dtype: DataType,
        [codes, scales, zero_point]: [Option<ValueId>; 3],
    ) -> Chain<'_, 'm> {
        let graph = self.edit.model().nodes[node].graph;
        self.edit.import_opset(graph, CONTRIB, 1);
        let mut chain = Chain::new(self.edit, node, x);
        if dtype != DataType::Float {
            cast(&mut chain, DataType::Float);
        }
        let mut inputs = vec![None, codes, scales];
        inputs.extend(zero_point.map(Some));
        let product = chain.node(CONTRIB, "DynamicQuantizeMatMul", inputs);
        chain.push(product);
        chain
    }

    fn conv(
        &mut self,
        node: NodeId,
        x: ValueId,
        bias: Option<ValueId>,
        operand: &Operand,
        of: Quantized,
    ) {
        let dtype = operand.weight.dtype;
        let codes = self.constants.codes(self.edit, of, &operand.weight);
        let rank = operand.weight.dims.len();
        let mut dims = vec![1; rank];
        dims[1] = -1;
        let scale_dims = match operand.axes.as_slice() {
            [] => Vec::new(),
            _ => channel_dims(rank, operand.weight.dims[0]),
        };
        let scales = self.constants.scales(self.edit, of, scale_dims);
        let zero_point = self.constants.zero_point(self.edit, of, Vec::new());
        let x = self.activation(x, dtype);
        let attributes = self.edit.model().nodes[node].attributes.clone();
        let mut chain = Chain::new(self.edit, node, x.codes);
        let inputs = vec![None, Some(codes), Some(x.zero_point), zero_point];
        let mut integer = chain.node("", "ConvInteger", inputs);
        integer.attributes = attributes;
        chain.push(integer);
        rescale(&mut chain, x.scale, Some(scales));
        if dtype != DataType::Float {
            cast(&mut chain, dtype);
        }
        if let Some(bias) = bias {
            let shape = chain.constant("shape", Tensor::from_i64(vec![rank as i64], &dims));
            let reshape = chain.node("", "Reshape", vec![Some(bias), Some(shape)]);
            let bias = chain.beside(reshape);
            let add = chain.node("", "Add", vec![None, Some(bias)]);
            chain.push(add);
        }
        chain.replace();
    }

    fn lstm(&mut self, node: NodeId, weights: &[Operand], quantized: &[Quantized]) {
        let mut codes = Vec::new();
        let mut params = Vec::new();
        for (operand, &of) in weights.iter().zip(quantized) {
            let extent = |&axis: &usize| operand.weight.dims[axis] as i64;
            let dims: Vec<i64> = operand.axes.iter().map(extent).collect();
            codes.push(self.constants.codes(self.edit, of, &operand.weight));
            params.push(self.constants.scales(self.edit, of, dims.clone()));
            params.push(self.constants.zero_points(self.edit, of, dims));
        }
        let old = &self.edit.model().nodes[node];
        let graph = old.graph;
        let mut new = Node::new(graph, CONTRIB, "DynamicQuantizeLSTM");
        new.inputs = old.inputs.clone();
        new.inputs.resize(8, None);
        (new.inputs[1], new.inputs[2]) = (Some(codes[0]), Some(codes[1]));
        new.inputs.extend(params.into_iter().map(Some));
        let kept = |a: &&Attribute| &*a.name != "layout";
        new.attributes = old.attributes.iter().filter(kept).cloned().collect();
        self.edit.import_opset(graph, CONTRIB, 1);
        self.edit.replace(node, new);
    }

    fn table(&mut self, node: NodeId, table: &Table, operand: &Operand, of: Quantized) {
        let codes = self.constants.codes(self.edit, of, &operand.weight);
        let scale_dims = match (table.tied, operand.axes.is_empty()) {
            (Some(_), false) => column_dims(operand),
            _ => broadcast_dims(operand),
        };
        let scales = self.constants.scales(self.edit, of, scale_dims);
        let dtype = operand.weight.dtype;
        if let Some(block) = table.block {
            return self.gather_block(node, table, [codes, scales], block, dtype);
        }
        let offset = self.constants.offset(self.edit, of);
        let mut chain = Chain::new(self.edit, node, table.indices);
        let gathered = |chain: &mut Chain<'_, '_>, from: ValueId, axis: usize| {
            let mut gather = chain.node("", "Gather", vec![Some(from), Some(table.indices)]);
            if axis != 0 {
                gather.attributes = vec![int("axis", axis as i64)];
            }
            chain.beside(gather)
        };
        let mut factor = scales;
        if !operand.axes.is_empty() {
            let axis = if table.tied.is_some() { 0 } else { table.axis };
            factor = gathered(&mut chain, scales, axis);
            if table.tied.is_some() {
                factor = unsqueeze_last(&mut chain, factor);
            }
        }
        let mut gather = chain.node("", "Gather", vec![Some(codes), None]);
        if table.axis != 0 {
            gather.attributes = vec![int("axis", table.axis as i64)];
        }
        chain.push(gather);
        match table.tied {
            Some(rank) if rank > 0 => transpose(&mut chain, (1..=rank as i64).chain([0]).collect()),
            _ => {}
        }
        cast(&mut chain, DataType::Float);
        if let Some(offset) = offset {
            let sub = chain.node("", "Sub", vec![None, Some(offset)]);
            chain.push(sub);
        }
        let mul = chain.node("", "Mul", vec![None, Some(factor)]);
        chain.push(mul);
        if dtype != DataType::Float {
            cast(&mut chain, dtype);
        }
        chain.replace();
    }

    fn gather_block(
        &mut self,
        node: NodeId,
        table: &Table,
        [codes, scales]: [ValueId; 2],
        block: i64,
        dtype: DataType,
    ) {
        let graph = self.edit.model().nodes[node].graph;
        self.edit.import_opset(graph, CONTRIB, 1);
        let mut chain = Chain::new(self.edit, node, table.indices);
        let inputs = vec![Some(codes), None, Some(scales)];
        let mut gather = chain.node(CONTRIB, "GatherBlockQuantized", inputs);
        gather.attributes = vec![
            int("bits", 8),
            int("block_size", block),
            int("gather_axis", 0),
            int("quantize_axis", 1),
        ];
        chain.push(gather);
        if dtype != DataType::Float {
            cast(&mut chain, dtype);
        }
        chain.replace();
    }
}

/// Extents of the scales of a product: those of its columns.
fn column_dims(operand: &Operand) -> Vec<i64> {
    let mut dims = broadcast_dims(operand);
    // Extents of 1 in front multiply nothing, and ONNX Runtime fuses a vector.
    let lead = dims.iter().take(dims.len().saturating_sub(1));
    let units = lead.take_while(|&&d| d == 1).count();
    dims.drain(..units);
    dims
}

/// `[1, channels, 1, ...]`.
fn channel_dims(rank: usize, channels: u64) -> Vec<i64> {
    let mut dims = vec![1; rank];
    dims[1] = channels as i64;
    dims
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute::new(name, AttributeValue::Int(value))
}

fn cast(chain: &mut Chain<'_, '_>, to: DataType) {
    let mut node = chain.node("", "Cast", vec![None]);
    node.attributes = vec![cast_to(to)];
    chain.push(node);
}

fn transpose(chain: &mut Chain<'_, '_>, perm: Vec<i64>) {
    let mut node = chain.node("", "Transpose", vec![None]);
    node.attributes = vec![Attribute::new("perm", AttributeValue::Ints(perm))];
    chain.push(node);
}

/// Integers to float, times both scales.
fn rescale(chain: &mut Chain<'_, '_>, x_scale: ValueId, scales: Option<ValueId>) {
    cast(chain, DataType::Float);
    let both = chain.node("", "Mul", vec![Some(x_scale), scales]);
    let both = chain.beside(both);
    let scaled = chain.node("", "Mul", vec![None, Some(both)]);
    chain.push(scaled);
}

/// One more axis of extent 1 at the end.
fn unsqueeze_last(chain: &mut Chain<'_, '_>, value: ValueId) -> ValueId {
    let mut node = chain.node("", "Unsqueeze", vec![Some(value)]);
    // From opset 13 on the axes are an operand.
    if chain.opset() >= 13 {
        let axes = chain.constant("axes", Tensor::from_i64(vec![1], &[-1]));
        node.inputs.push(Some(axes));
    } else {
        node.attributes = vec![Attribute::new("axes", AttributeValue::Ints(vec![-1]))];
    }
    chain.beside(node)
}
