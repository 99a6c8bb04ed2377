//! The main graph cut into segments, each computed with what those before have left.

use std::collections::BTreeSet;

use super::flow::Flow;
use crate::ir::{Def, Model, NodeId, SideTable, ValueId};

/// The nodes between two cuts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// What is wanted of it.
    pub(super) targets: Vec<ValueId>,
    /// Its nodes, in order. Those of constants are not among them: every segment computes the
    /// constants that it reads.
    pub(super) nodes: Vec<NodeId>,
    /// The inputs of the model that it takes.
    pub(super) inputs: Vec<ValueId>,
    /// What it takes of that which segments before have left.
    pub(super) reads: Vec<ValueId>,
    /// What it leaves for later ones.
    pub(super) keeps: Vec<ValueId>,
    /// What no later one reads.
    pub(super) frees: Vec<ValueId>,
}

/// A segment for each of `targets`, in order. A node is in the first one that needs it, so that
/// nothing is computed that no target depends on, and results that grow are not kept long.
/// Where a result cannot be kept, the node is in each segment that needs it.
pub(super) fn segments(flow: &Flow<'_>, targets: &[Vec<ValueId>]) -> Vec<Segment> {
    let mut kept = SideTable::<ValueId, bool>::new(false);
    let mut segments: Vec<Segment> = Vec::new();
    for targets in targets {
        let nodes = needed(flow, targets, &kept);
        let outputs: Vec<ValueId> = outputs(flow, &nodes).collect();
        let made: BTreeSet<ValueId> = outputs.iter().copied().collect();
        let operands = nodes.iter().flat_map(|&n| flow.operands(n));
        let outside: BTreeSet<ValueId> = operands
            .chain(targets)
            .copied()
            .filter(|v| flow.varies(*v) && !made.contains(v))
            .collect();
        let (inputs, reads) = outside.into_iter().partition(|&v| flow.is_input(v));
        kept.extend(outputs.into_iter().filter(|&v| flow.is_storable(v)));
        segments.push(Segment {
            targets: targets.clone(),
            nodes,
            inputs,
            reads,
            ..Segment::default()
        });
    }
    settle(flow, &mut segments);
    segments
}

/// The nodes that compute `targets` from what is `kept`.
pub(super) fn needed(
    flow: &Flow<'_>,
    targets: &[ValueId],
    kept: &SideTable<ValueId, bool>,
) -> Vec<NodeId> {
    let mut seen = SideTable::<NodeId, bool>::new(false);
    let mut nodes = Vec::new();
    let mut open = targets.to_vec();
    while let Some(value) = open.pop() {
        if !flow.varies(value) || kept[value] {
            continue;
        }
        if let Def::Node(node, _) = flow.model.values[value].def
            && seen.insert(node)
        {
            nodes.push(node);
            open.extend(flow.operands(node));
        }
    }
    nodes.sort_by_key(|&n| flow.position(n));
    nodes
}

/// Decides what segments leave, from what later ones read.
fn settle(flow: &Flow<'_>, segments: &mut [Segment]) {
    let mut later = SideTable::<ValueId, bool>::new(false);
    for at in (0..segments.len()).rev() {
        let read = segments[at].reads.iter().copied();
        let last: Vec<ValueId> = read.filter(|&v| later.insert(v)).collect();
        segments[at].frees = last;
    }
    let mut made = SideTable::<ValueId, bool>::new(false);
    for segment in segments {
        let results = outputs(flow, &segment.nodes);
        // One that is computed again is there already.
        segment.keeps = results.filter(|&v| made.insert(v) && later[v]).collect();
    }
}

fn outputs<'f>(flow: &'f Flow<'_>, nodes: &'f [NodeId]) -> impl Iterator<Item = ValueId> + 'f {
    let outputs = nodes.iter().flat_map(|&n| &flow.model.nodes[n].outputs);
    outputs.flatten().copied()
}

/// The constants that some nodes read.
#[derive(Default)]
pub(super) struct Constants {
    /// The nodes that compute them.
    pub(super) nodes: Vec<NodeId>,
    /// The initializers.
    pub(super) initializers: BTreeSet<ValueId>,
}

/// The constants behind `values` in `model`, which has the entities of the flow's model and may
/// have more.
pub(super) fn constants(
    flow: &Flow<'_>,
    model: &Model,
    values: impl IntoIterator<Item = ValueId>,
) -> Constants {
    let mut seen = SideTable::<NodeId, bool>::new(false);
    let mut found = Constants::default();
    let mut open: Vec<ValueId> = values.into_iter().collect();
    while let Some(value) = open.pop() {
        if flow.varies(value) {
            continue;
        }
        match model.values[value].def {
            Def::Node(node, _) => {
                if seen.insert(node) {
                    found.nodes.push(node);
                    open.extend(model.operands(node));
                }
            }
            _ => {
                found.initializers.insert(value);
            }
        }
    }
    found
}
