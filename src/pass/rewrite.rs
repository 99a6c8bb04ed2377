//! Rewrites that look at one node: planning runs in parallel and changes nothing, the
//! pass then commits the plans in document order.

use rayon::prelude::*;

use super::{PassContext, Reason, Remark};
use crate::{
    error::{Error, Result},
    infer::Conflict,
    ir::{Model, NodeId},
};

/// Why a node is left as it is.
#[derive(Debug)]
pub enum Left {
    /// It is none of the pass's business.
    Ignored,
    /// It matched, and the pass declines.
    Declined {
        /// Why.
        reason: Reason,
        /// The same in words.
        message: String,
        /// Bytes of the weight that stay.
        bytes: u64,
    },
    /// Something that the decision needs cannot be read.
    Failed(Error),
}

impl Left {
    /// A declined node.
    pub fn declined(reason: Reason, message: impl Into<String>, bytes: u64) -> Left {
        Left::Declined {
            reason,
            message: message.into(),
            bytes,
        }
    }
}

impl From<Error> for Left {
    fn from(error: Error) -> Left {
        Left::Failed(error)
    }
}

/// Asks `plan` about every node. Returns the rewrites in document order, as many as may
/// be made, and adds the remarks to `cx` in the same order.
///
/// # Errors
/// The first failure, in document order.
pub fn plan_nodes<P: Send>(
    model: &Model,
    pass: &'static str,
    cx: &mut PassContext,
    plan: impl Fn(NodeId) -> Result<P, Left> + Sync,
) -> Result<Vec<(NodeId, P)>> {
    let nodes = model.reachable_nodes();
    let planned: Vec<_> = nodes
        .par_iter()
        .with_min_len(64)
        .map(|&n| plan(n))
        .collect();
    let mut plans = Vec::new();
    for (node, planned) in nodes.into_iter().zip(planned) {
        match planned {
            Ok(plan) => plans.push((node, plan)),
            Err(Left::Ignored) => {}
            Err(Left::Declined {
                reason,
                message,
                bytes,
            }) => {
                cx.remarks
                    .push(Remark::new(model, pass, node, reason, message, bytes));
            }
            Err(Left::Failed(error)) => return Err(error.at(model.label(node))),
        }
    }
    cx.limit(&mut plans);
    Ok(plans)
}

impl Remark {
    /// That something of a node does not fit; the pass concludes nothing from it.
    pub fn contradiction(model: &Model, pass: &'static str, conflict: &Conflict) -> Remark {
        let message = conflict.message.clone();
        Remark::new(
            model,
            pass,
            conflict.node,
            Reason::Contradiction,
            message,
            0,
        )
    }

    /// A remark of `pass` on `node`.
    pub fn new(
        model: &Model,
        pass: &'static str,
        node: NodeId,
        reason: Reason,
        message: String,
        bytes: u64,
    ) -> Remark {
        Remark {
            pass,
            node,
            name: model.node_name(node).to_string(),
            label: model.label(node),
            op_type: model.nodes[node].op_type.to_string(),
            reason,
            message,
            bytes,
        }
    }
}
