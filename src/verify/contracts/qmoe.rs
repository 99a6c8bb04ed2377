//! `QMoE`: what all of its layouts have in common. (Its weights were laid out in another way
//! before ONNX Runtime 1.24, and are for some devices.)

use super::Check;
use crate::ir::DataType;

/// Weights and scales of the projections: of the first and the second, and of an optional third.
const PROJECTIONS: [(usize, &str, usize, &str); 3] = [
    (2, "fc1_experts_weights", 3, "fc1_scales"),
    (5, "fc2_experts_weights", 6, "fc2_scales"),
    (8, "fc3_experts_weights", 9, "fc3_scales"),
];

pub(super) fn qmoe(c: &mut Check<'_, '_>) -> Option<()> {
    // Codes of floating-point types are another matter.
    if c.node().attribute("quant_type").is_some() {
        return None;
    }
    let bits = |b| [2, 4, 8].contains(&b);
    c.int("expert_weight_bits", Some(4), bits, "2, 4 or 8");
    c.int("k", Some(1), |k| k > 0, "how many experts a token gets");
    if c.node().attribute("block_size").is_some() {
        let power = |b: i64| b >= 16 && b.count_ones() == 1;
        c.int("block_size", None, power, "a power of two from 16 on");
    }
    c.required(0, "input");
    c.required(1, "router_probs");
    let mut experts = None;
    for (weight, name, scales, scales_name) in PROJECTIONS {
        let ty = c.dtype(c.node().input(weight));
        c.one_of_types(name, ty, &[DataType::Uint8]);
        let Some(dims) = c.constant(weight).map(|w| w.dims) else {
            continue;
        };
        if dims.len() != 3 {
            let found = format!("`{name}` has shape {dims:?}");
            c.fault(found, "three axes, the first for experts");
            continue;
        }
        let expected = *experts.get_or_insert(dims[0]);
        let scales = c.constant(scales).map(|s| (scales_name, s.dims));
        for (name, dims) in [(name, dims)].into_iter().chain(scales) {
            if dims.first() != Some(&expected) {
                let found = format!("`{name}` has shape {dims:?}");
                c.fault(found, format!("{expected} experts"));
            }
        }
    }
    Some(())
}
