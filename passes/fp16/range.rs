//! Constants with numbers beyond half's range.

use rayon::prelude::*;

use crate::{
    error::Result,
    ir::{AttributeValue, Data, DataType, Model, Node, SideTable, Tensor, Use, ValueId},
    pass::Reason,
    weights::{Beyond, HalfScans, source_tensor},
};

use super::{
    Io,
    operators::MOVING,
    survey::{SMALL, Survey, Want},
};

/// What half's range does to a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Range {
    /// Nothing.
    Fits,
    /// So many elements beyond it stand for infinity, and become its largest numbers.
    StandsIn(usize),
    /// It has numbers beyond it: who reads it stays float.
    Wide(Beyond),
}

/// The range of each constant that was read.
pub(super) type Ranges = SideTable<ValueId, Range>;

/// From here on a number in a small constant stands for infinity: masks have 1e9, 1e30 or the
/// largest float. Numbers below it and beyond 65504 are coefficients, limits, variances.
pub(super) const STANDS_IN: f64 = 1e8;

/// Operators for which the largest number of half does in place of infinity, besides those
/// that move numbers: how masks are made and applied.
pub(super) const MASKING: [&str; 12] = [
    "Add",
    "Clip",
    "ConstantOfShape",
    "Max",
    "Min",
    "Mul",
    "Pad",
    "ScatterElements",
    "ScatterND",
    "Sub",
    "Trilu",
    "Where",
];

/// Reads the constants that something wants to be half.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn read(survey: &Survey<'_>, io: Io, scans: &HalfScans) -> Result<Ranges> {
    let mut values = Vec::new();
    for &graph in &survey.graphs {
        let listed = survey.model.values_of(graph).into_iter();
        values.extend(listed.filter(|&v| survey.is_float(v) && is_wanted(survey, v)));
    }
    let found: Vec<Range> = values
        .par_iter()
        .map(|&value| range(survey, value, scans))
        .collect::<Result<_>>()?;
    let mut ranges = Ranges::new(Range::Fits);
    for (value, range) in values.into_iter().zip(found) {
        ranges[value] = match range {
            // An output that has to be half has no better numbers.
            Range::Wide(b) if is_half_output(survey, io, value) => Range::StandsIn(b.count),
            range => range,
        };
    }
    Ok(ranges)
}

fn is_half_output(survey: &Survey<'_>, io: Io, value: ValueId) -> bool {
    let main = survey.model.main;
    let mut uses = survey.uses.of_value(value).iter();
    io.is_half(&survey.model.values[value].name)
        && uses.any(|u| matches!(u, Use::Output(g, _) if *g == main))
}

fn range(survey: &Survey<'_>, value: ValueId, scans: &HalfScans) -> Result<Range> {
    let found = elements(survey.model, value);
    let declared = survey.float_type(value);
    let Some((data, dtype)) = found.filter(|(_, dtype)| declared == Some(*dtype)) else {
        return Ok(Range::Fits);
    };
    let beyond = scans.beyond_half(&data, dtype)?;
    // All that are beyond, that is: the least of them is.
    let stands_in = data.len() * 8 / dtype.bits() <= SMALL && beyond.least >= STANDS_IN;
    Ok(match beyond.count {
        0 => Range::Fits,
        n if stands_in && is_masking(survey, value) => Range::StandsIn(n),
        _ => Range::Wide(beyond),
    })
}

/// The elements of a constant of floating-point numbers, or the one that a `ConstantOfShape` repeats.
pub(super) fn elements(model: &Model, value: ValueId) -> Option<(Data, DataType)> {
    let of = |t: &Tensor| Some((t.data().filter(|_| t.dtype.is_float())?.clone(), t.dtype));
    if let Some(tensor) = source_tensor(model, value) {
        return of(tensor);
    }
    let node = &model.nodes[model.producer(value)?];
    match node.attribute("value") {
        Some(AttributeValue::Tensor(t)) if node.is("ConstantOfShape") => of(t),
        _ if node.is("Constant") => {
            let bytes = listed_floats(node)?.into_iter().flat_map(f32::to_le_bytes);
            let bytes: Vec<u8> = bytes.collect();
            Some((Data::Bytes(bytes.into()), DataType::Float))
        }
        _ => None,
    }
}

/// Whether all that read `value` do with it what is done with masks.
fn is_masking(survey: &Survey<'_>, value: ValueId) -> bool {
    survey.uses.of_value(value).iter().all(|u| match *u {
        Use::Operand(node, _) => {
            let n = &survey.model.nodes[node];
            let op = &&*n.op_type;
            survey.is_control_flow(node)
                || n.domain().is_empty() && (MASKING.contains(op) || MOVING.contains(op))
        }
        Use::Output(..) => true,
    })
}

fn is_wanted(survey: &Survey<'_>, value: ValueId) -> bool {
    survey.uses.of_value(value).iter().any(|u| match *u {
        Use::Operand(node, slot) => {
            !survey.stays(node) && survey.operand(node, slot as usize) == Want::Half
        }
        Use::Output(..) => true,
    })
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
pub(super) fn leave(survey: &mut Survey<'_>, ranges: &Ranges) {
    let mut carried = SideTable::<ValueId, bool>::new(false);
    let mut work = Vec::new();
    for graph in survey.graphs.clone() {
        let values = survey.model.values_of(graph).into_iter();
        work.extend(values.filter(|&v| matches!(ranges[v], Range::Wide(_))));
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
