//! The weights that `MatMulNBits` and `GatherBlockQuantized` read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    ir::{Model, Node},
    verify::contracts::{constant_origin, constant_shape},
};

/// Block-quantized weights.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Quantized {
    /// By operator, bits and block.
    pub groups: Vec<QuantizedGroup>,
    /// Elements of the different weights: one that several nodes read counts once.
    pub elements: u64,
    /// Bytes of their codes, scales and zero points, each counted once.
    pub bytes: u64,
    /// Bits for each element, scales and zero points included; none without such weights.
    pub bits_per_weight: Option<f64>,
}

/// The weights of one operator, width and block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizedGroup {
    /// The operator.
    pub op_type: String,
    /// Width of a code.
    pub bits: i64,
    /// How many elements share a scale.
    pub block_size: i64,
    /// How many have zero points.
    pub asymmetric: usize,
    /// How many nodes.
    pub nodes: usize,
    /// Elements of their weights, counted for each node.
    pub elements: u64,
}

pub(super) fn quantized(model: &Model) -> Quantized {
    let mut groups = BTreeMap::<(&str, i64, i64), QuantizedGroup>::new();
    let mut weights = BTreeSet::new();
    let mut parts = BTreeSet::new();
    let mut total = Quantized::default();
    for node in model.reachable_nodes() {
        let n = &model.nodes[node];
        let Some(weight) = weight(model, n) else {
            continue;
        };
        let group = groups
            .entry((&n.op_type, weight.bits, weight.block_size))
            .or_insert_with(|| QuantizedGroup {
                op_type: n.op_type.to_string(),
                bits: weight.bits,
                block_size: weight.block_size,
                asymmetric: 0,
                nodes: 0,
                elements: 0,
            });
        group.nodes += 1;
        group.elements += weight.elements;
        group.asymmetric += usize::from(n.input(3).is_some());
        for slot in weight.slots {
            let Some(tensor) = n.input(slot).and_then(|v| constant_origin(model, v)) else {
                continue;
            };
            let Some(data) = tensor.data() else { continue };
            if slot == weight.slots[0] && weights.insert(data.identity()) {
                total.elements += weight.elements;
            }
            if parts.insert(data.identity()) {
                total.bytes += data.len();
            }
        }
    }
    total.bits_per_weight =
        (total.elements > 0).then(|| total.bytes as f64 * 8.0 / total.elements as f64);
    total.groups = groups.into_values().collect();
    total
}

struct Weight {
    bits: i64,
    block_size: i64,
    elements: u64,
    /// Operands that hold codes, scales and zero points.
    slots: [usize; 3],
}

fn weight(model: &Model, n: &Node) -> Option<Weight> {
    if n.domain() != "com.microsoft" {
        return None;
    }
    let bits = n.int("bits", 4).filter(|b| [2, 4, 8].contains(b))?;
    let (elements, slots, block) = match &*n.op_type {
        "MatMulNBits" => {
            let size = |name| u64::try_from(n.int(name, 0)?).ok();
            (size("K")?.checked_mul(size("N")?)?, [1, 2, 3], 0)
        }
        "GatherBlockQuantized" => {
            let data = constant_shape(model, n.input(0)?)?;
            let stored = crate::ir::element_count(&data.dims)?;
            let per_entry = match data.dtype {
                crate::ir::DataType::Uint8 => 8 / bits as u64,
                _ => 1,
            };
            (stored.checked_mul(per_entry)?, [0, 2, 3], 128)
        }
        _ => return None,
    };
    Some(Weight {
        bits,
        block_size: n.int("block_size", block)?,
        elements,
        slots,
    })
}
