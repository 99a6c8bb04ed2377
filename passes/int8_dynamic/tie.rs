//! A table that is a projection too (a tied embedding) is stored once.

use std::collections::HashMap;

use super::{
    constants::Key,
    plan::{Kind, Look, Operand, Plan},
};
use crate::ir::NodeId;

/// Lets tables whose codes a projection has read those, and makes these symmetric: a table
/// has no zero points.
pub(super) fn tie(look: Look<'_>, plans: &mut [(NodeId, Plan)]) {
    let mut tables: HashMap<Key, Option<Operand>> = plans
        .iter()
        .filter_map(|(_, plan)| Some((table_key(look, plan)?, None)))
        .collect();
    for (_, plan) in plans.iter_mut() {
        if !matches!(plan.kind, Kind::Product(_)) || plan.weights[0].weight.dims.len() != 2 {
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
        table.tied = look.rank(table.indices);
        table.axis = 1;
        table.block = None;
        plan.weights[0] = projection.clone();
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
