//! `Gather` of a constant table.

use super::{
    Embedding, INFO, Int8,
    plan::{Kind, Plan, Step, Table, decline},
};
use crate::{
    ir::{DataType, NodeId},
    pass::{Left, Look, Reason, constant_weight},
    quant::ChannelSpec,
};

impl Int8 {
    pub(super) fn plan_gather(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(data), Some(indices)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        // Gathers from shapes and index tables are no weights.
        if let Err(Left::Declined {
            reason: Reason::WeightNotConstant | Reason::Dtype,
            ..
        }) = constant_weight(look.model, INFO.name, data)
        {
            return Err(Left::Ignored);
        }
        let weight = self.weight(look, node, data)?;
        let (bytes, rank) = (weight.bytes(), weight.dims.len());
        if self.embedding == Embedding::Float {
            return decline(Reason::NotIncluded, "tables are to stay as they are", bytes);
        }
        let Some(axis) = n.int("axis", 0) else {
            let message = "`axis` refers to the caller of the function";
            return decline(Reason::Attribute, message, bytes);
        };
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let Some(axis) = usize::try_from(axis).ok().filter(|&a| a < rank) else {
            let message = format!("axis {axis} of a table of rank {rank}");
            return decline(Reason::Attribute, message, bytes);
        };
        let index_types = [DataType::Int32, DataType::Int64];
        if let Some(found) = look.facts.dtype(indices)
            && !index_types.contains(&found)
        {
            let name = &look.model.values[indices].name;
            let message = format!("indices `{name}` are {found}; expected int32 or int64");
            return decline(Reason::Mismatch, message, bytes);
        }
        let rows = rank == 2 && axis == 0 && self.per_channel;
        let block = (self.embedding == Embedding::GatherBlock && rows)
            .then(|| weight.dims[1].next_power_of_two().max(16) as i64)
            .filter(|&block| self.runs_gather_block(block));
        let spec = match block {
            Some(_) => ChannelSpec {
                signed: false,
                ..self.stored_spec()
            },
            None => self.stored_spec(),
        };
        Ok(Plan {
            kind: Kind::Table(Table {
                indices,
                axis,
                block,
                tied: None,
            }),
            weights: vec![self.operand(weight, vec![axis], spec)?],
        })
    }
}
