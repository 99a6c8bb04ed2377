//! A table that is a projection too (a tied embedding) is stored once.

use std::collections::HashMap;

use super::{
    constants::Key,
    plan::{Kind, Operand, Plan},
};
use crate::{ir::NodeId, pass::Look};

/// Lets tables whose codes a projection has read those, and makes these symmetric: a table
/// has no zero points.
pub(super) fn tie(look: Look<'_>, plans: &mut [(NodeId, Plan)]) {
    let mut tables: HashMap<Key, Option<Operand>> = plans
        .iter()
        .filter_map(|(_, plan)| Some((table_key(look, plan)?, None)))
        .collect();
    for (node, plan) in plans.iter_mut() {
        if !is_projection(look, *node, plan) || plan.weights[0].weight.dims.len() != 2 {
            continue;
        }
        let projection = &mut plan.weights[0];
        if let Some(found) = tables.get_mut(&Key::of(projection).without_spec()) {
            projection.spec.symmetric = true;
            found.get_or_insert_with(|| projection.clone());
        }
    }
    for (_, plan) in plans {
        let Some(Some(projection)) = table_key(look, plan).and_then(|key| tables.get(&key)) else {
            continue;
        };
        let Kind::Table(table) = &mut plan.kind else {
            continue;
        };
        // With one scale for all, the rows of both may be the same.
        let (rows, turned) = (&plan.weights[0].weight, &projection.weight);
        if (rows.dims[0], rows.strides[0]) != (turned.dims[1], turned.strides[1]) {
            continue;
        }
        table.tied = look.rank(table.indices);
        table.axis = 1;
        table.block = None;
        plan.weights[0] = projection.clone();
    }
}

/// Whether the columns of the codes that `node` reads are the rows of a table that it may be tied to.
/// The gathered scales get one more axis, counted from the back, which opset 11 introduced.
fn is_projection(look: Look<'_>, node: NodeId, plan: &Plan) -> bool {
    match &plan.kind {
        Kind::Product(_) => true,
        Kind::Stored(_) => plan.weights[0].axes == [1] && look.opset(node) >= 11,
        _ => false,
    }
}

/// The key of a table that may be tied: of rows, with indices of known rank, since the gathered columns
/// have to be turned.
fn table_key(look: Look<'_>, plan: &Plan) -> Option<Key> {
    let Kind::Table(table) = &plan.kind else {
        return None;
    };
    let operand = &plan.weights[0];
    let rows = operand.weight.dims.len() == 2 && table.axis == 0;
    (rows && look.rank(table.indices).is_some()).then(|| Key::of(operand).without_spec())
}
