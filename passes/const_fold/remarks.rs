//! What is said about constants that stay computations.

use std::collections::HashMap;

use super::{INFO, budget::Choice, values::Values};
use crate::{
    fold::Unfolded,
    ir::{Model, NodeId},
    pass::{Reason, Remark},
};

/// What is said about nodes that could have been folded.
pub(super) fn remarks(model: &Model, values: &Values, choice: &Choice) -> Vec<Remark> {
    let remark =
        |node: NodeId, reason, message| Remark::new(model, INFO.name, node, reason, message, 0);
    let failed = values.failed.iter().filter_map(|(node, why)| match why {
        Unfolded::Unknown => None,
        Unfolded::Unsupported(what) => {
            let message = format!("constant, but {what} cannot be folded");
            Some(remark(*node, Reason::Operator, message))
        }
        Unfolded::Invalid(what) => {
            let message = format!("its operands are constant, and it fails on them: {what}");
            Some(remark(*node, Reason::FoldFails, message))
        }
        Unfolded::TooLarge(bytes) => {
            let message = format!("constant, but too large to be folded: {bytes} bytes");
            Some(remark(*node, Reason::FoldTooLarge, message))
        }
    });
    // One more copy of a constant under another name is not what anybody wants.
    let copies = |node: NodeId| model.nodes[node].is("Identity");
    let kept = choice.kept.iter().filter(|k| !copies(k.0));
    let grown = kept.map(|&(node, bytes)| {
        let message = format!("constant, but its {bytes} bytes would make the file larger");
        remark(node, Reason::FoldGrows, message)
    });
    let mut all: Vec<Remark> = failed.chain(grown).collect();
    let order: HashMap<NodeId, usize> = model
        .reachable_nodes()
        .into_iter()
        .enumerate()
        .map(|(i, n)| (n, i))
        .collect();
    all.sort_by_key(|r| order.get(&r.node));
    all
}
