//! Rewrites that look at one node: planning runs in parallel and changes nothing, the
//! pass then commits the plans in document order.

use rayon::prelude::*;

use super::{PassContext, Reason, Remark};
use crate::ir::{Model, NodeId};

/// What a rewrite makes of a node.
#[derive(Debug)]
pub enum Verdict<P> {
    /// None of its business.
    Ignore,
    /// It matched, and declines.
    Decline {
        /// Why.
        reason: Reason,
        /// The same in words.
        message: String,
        /// Bytes of the weight that stay.
        bytes: u64,
    },
    /// It will be rewritten so.
    Rewrite(P),
}

/// Asks `plan` about every node. Returns the rewrites in document order, as many as may
/// be made, and adds the remarks to `cx` in the same order.
pub fn plan_nodes<P: Send>(
    model: &Model,
    pass: &'static str,
    cx: &mut PassContext,
    plan: impl Fn(NodeId) -> Verdict<P> + Sync,
) -> Vec<(NodeId, P)> {
    let nodes = model.reachable_nodes();
    let verdicts: Vec<Verdict<P>> = nodes
        .par_iter()
        .with_min_len(64)
        .map(|&n| plan(n))
        .collect();
    let mut plans = Vec::new();
    for (node, verdict) in nodes.into_iter().zip(verdicts) {
        match verdict {
            Verdict::Ignore => {}
            Verdict::Rewrite(plan) => plans.push((node, plan)),
            Verdict::Decline {
                reason,
                message,
                bytes,
            } => cx
                .remarks
                .push(Remark::new(model, pass, node, reason, message, bytes)),
        }
    }
    cx.limit(&mut plans);
    plans
}

impl Remark {
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
            label: model.label(node),
            op_type: model.nodes[node].op_type.to_string(),
            reason,
            message,
            bytes,
        }
    }
}
