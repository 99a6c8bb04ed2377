//! Rows of a quantized table by operators of the standard, for runtimes without
//! `GatherBlockQuantized`: the rows of codes are gathered and decoded, which is little work.

use super::{
    commit::{cast_node, floats, unsqueeze_node},
    group::{Group, Made},
    plan::Plan,
};
use crate::{
    ir::{
        Data, DataType, Node, NodeId, Tensor, ValueId,
        edit::{Chain, Edit},
    },
    quant::BlockSpec,
};

/// A quantized table.
pub(super) struct Table {
    made: Made,
    spec: BlockSpec,
    /// Elements of a row: whole blocks.
    k: usize,
    /// The type of the scales.
    compute: DataType,
    /// The type of the result.
    dtype: DataType,
}

impl Table {
    pub(super) fn of(group: &Group, made: Made, plan: &Plan) -> Table {
        Table {
            made,
            spec: group.spec,
            k: plan.matrix.k as usize,
            compute: group.key.compute,
            dtype: plan.matrix.weight.dtype,
        }
    }

    /// The nodes that make floats of packed codes, `[.., bytes]`, of which `rank` axes come first: first
    /// they are `[.., bytes, codes of a byte]`, and in the end `[.., shape]`.
    fn unpack(&self, chain: &mut Chain<'_, '_>, rank: usize, shape: &[i64]) -> Vec<Node> {
        let mut nodes = Vec::new();
        let bits = self.spec.bits();
        if bits < 8 {
            let wide = cast_node(chain, DataType::Int32);
            let apart = unsqueeze_node(chain, vec![rank as i64 + 1]);
            let per_byte = 8 / i32::from(bits);
            let places: Vec<i32> = (0..per_byte).map(|i| 1 << (i32::from(bits) * i)).collect();
            let places = chain.constant("places", int32(vec![i64::from(per_byte)], &places));
            let codes = chain.constant("codes", int32(vec![], &[1 << bits]));
            let shifted = chain.node("", "Div", vec![None, Some(places)]);
            let cut = chain.node("", "Mod", vec![None, Some(codes)]);
            nodes.extend([wide, apart, shifted, cut]);
        }
        nodes.push(cast_node(chain, self.compute));
        nodes.push(reshape(chain, rank, shape));
        nodes
    }

    /// The zero points of the rows, `[.., blocks, 1]`, or the one of all.
    fn zero_points(&self, chain: &mut Chain<'_, '_>, indices: ValueId, rank: usize) -> ValueId {
        let Some(points) = self.made.zero_points else {
            let mid = floats(self.compute, vec![], &[f32::from(self.spec.mid())]);
            return chain.constant("zero_point", mid);
        };
        let blocks = self.spec.blocks(self.k);
        let stored = self.spec.zero_points_len(1, self.k) * 8 / usize::from(self.spec.bits());
        let gather = chain.node("", "Gather", vec![Some(points), None]);
        let mut nodes = vec![gather];
        nodes.extend(self.unpack(chain, rank, &[stored as i64, 1]));
        if stored > blocks {
            let bounds = [0, blocks as i64, rank as i64];
            let bounds = ["starts", "ends", "axes"]
                .into_iter()
                .zip(bounds)
                .map(|(name, n)| Some(chain.constant(name, Tensor::from_i64(vec![1], &[n]))));
            let inputs = std::iter::once(None).chain(bounds).collect();
            nodes.push(chain.node("", "Slice", inputs));
        }
        chain.beside_all(nodes, indices)
    }
}

/// Puts the decoding of the rows of `table` at `indices`, of this rank, in the place of `node`.
pub(super) fn gather(
    edit: &mut Edit<'_>,
    node: NodeId,
    table: &Table,
    indices: ValueId,
    rank: usize,
) {
    let mut chain = Chain::new(edit, node, indices);
    let rows = table.made.rows(&mut chain);
    let zero_points = table.zero_points(&mut chain, indices, rank);
    let scales = chain.node("", "Gather", vec![Some(table.made.scales), None]);
    let apart = unsqueeze_node(&mut chain, vec![rank as i64 + 1]);
    let scales = chain.beside_all(vec![scales, apart], indices);
    let gather = chain.node("", "Gather", vec![Some(rows), None]);
    chain.push(gather);
    let block = table.spec.block() as i64;
    let blocked = [table.spec.blocks(table.k) as i64, block];
    for node in table.unpack(&mut chain, rank, &blocked) {
        chain.push(node);
    }
    let centred = chain.node("", "Sub", vec![None, Some(zero_points)]);
    chain.push(centred);
    let scaled = chain.node("", "Mul", vec![None, Some(scales)]);
    chain.push(scaled);
    let row = reshape(&mut chain, rank, &[table.k as i64]);
    chain.push(row);
    if table.dtype != table.compute {
        let cast = cast_node(&chain, table.dtype);
        chain.push(cast);
    }
    chain.replace();
}

/// `[.., anything]` as `[.., shape]`, where so many axes stay.
fn reshape(chain: &mut Chain<'_, '_>, kept: usize, shape: &[i64]) -> Node {
    let dims: Vec<i64> = std::iter::repeat_n(0, kept)
        .chain(shape.iter().copied())
        .collect();
    let dims = Tensor::from_i64(vec![dims.len() as i64], &dims);
    let dims = chain.constant("shape", dims);
    chain.node("", "Reshape", vec![None, Some(dims)])
}

fn int32(dims: Vec<i64>, elements: &[i32]) -> Tensor {
    let bytes: Vec<u8> = elements.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor::new(DataType::Int32, dims, Data::Bytes(bytes.into()))
}
