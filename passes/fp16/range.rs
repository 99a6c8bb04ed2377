//! Constants with numbers beyond half's range.

use rayon::prelude::*;

use crate::{
    error::Result,
    ir::{AttributeValue, Node, SideTable, Use, ValueId},
    pass::Reason,
    weights::{count_beyond_half, source_tensor},
};

use super::survey::{Survey, Want};

/// How many elements of each constant are beyond half's range.
pub(super) type Beyond = SideTable<ValueId, usize>;

/// Operators that only move numbers about: what they read of a weight beyond half's range
/// they hand on.
const MOVING: [&str; 11] = [
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Reads the constants that something wants to be half.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn read(survey: &Survey<'_>) -> Result<Beyond> {
    let mut values = Vec::new();
    for &graph in &survey.graphs {
        let listed = survey.model.values_of(graph).into_iter();
        values.extend(listed.filter(|&v| survey.is_constant(v) && is_wanted(survey, v)));
    }
    let counts: Vec<usize> = values
        .par_iter()
        .map(|&value| match source_tensor(survey.model, value) {
            Some(tensor) => tensor.data().map_or(Ok(0), count_beyond_half),
            None => Ok(count_listed(survey, value)),
        })
        .collect::<Result<_>>()?;
    let mut beyond = Beyond::new(0);
    for (value, count) in values.into_iter().zip(counts) {
        beyond[value] = count;
    }
    Ok(beyond)
}

fn is_wanted(survey: &Survey<'_>, value: ValueId) -> bool {
    survey.uses.of_value(value).iter().any(|u| match *u {
        Use::Operand(node, slot) => {
            !survey.stays(node) && survey.operand(node, slot as usize) == Want::Half
        }
        Use::Output(..) => true,
    })
}

/// The same for a `Constant` with a list of floats.
fn count_listed(survey: &Survey<'_>, value: ValueId) -> usize {
    let node = survey.model.producer(value).map(|n| &survey.model.nodes[n]);
    let elements = node.and_then(listed_floats).unwrap_or_default();
    let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
    crate::quant::count_beyond_f16(&bytes)
}

/// The elements of a `Constant` that has them in a list, or as a number.
pub(super) fn listed_floats(node: &Node) -> Option<Vec<f32>> {
    match (
        node.attribute("value_float"),
        node.attribute("value_floats"),
    ) {
        (Some(AttributeValue::Float(x)), _) => Some(vec![*x]),
        (_, Some(AttributeValue::Floats(x))) => Some(x.clone()),
        _ => None,
    }
}

/// Leaves the nodes that read a weight beyond half's range, also through nodes that only
/// move it about.
pub(super) fn leave(survey: &mut Survey<'_>, beyond: &Beyond) {
    let mut carried = SideTable::<ValueId, bool>::new(false);
    let mut work = Vec::new();
    for graph in survey.graphs.clone() {
        let values = survey.model.values_of(graph).into_iter();
        work.extend(values.filter(|&v| beyond[v] > 0 && !survey.is_small_constant(v)));
    }
    while let Some(value) = work.pop() {
        if !carried.insert(value) {
            continue;
        }
        let name = &survey.model.values[value].name;
        let message = format!("reads `{name}`, with numbers beyond 65504");
        let bytes = source_tensor(survey.model, value).map_or(0, |t| t.byte_len());
        for u in survey.uses.of_value(value).to_vec() {
            let node = match u {
                Use::Operand(node, _) => node,
                Use::Output(graph, _) => match survey.model.graphs[graph].owner {
                    Some(owner) => owner,
                    None => continue,
                },
            };
            survey.leave(node, Reason::HalfRange, message.as_str(), bytes);
            let n = &survey.model.nodes[node];
            if n.domain().is_empty() && MOVING.contains(&&*n.op_type) {
                work.extend(n.outputs.iter().flatten());
            }
        }
    }
}
