//! The run of the float model that comes before all others, with its memory bounded alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    flow::{Flow, operands},
    group::Group,
    plan::{Segment, constants, segments},
};
use crate::ir::{NodeId, ValueId};

/// Constants of a segment, in bytes, unless a single one has more. Fewer segments are loaded
/// faster; this many bytes are little beside what an engine takes.
const SEGMENT: u64 = 256 << 20;

/// The segments that compute the activations of `groups[pending]`: cut where groups are, as far
/// as the weights in between are worth it.
pub(super) fn plan(
    flow: &Flow<'_>,
    groups: &[Group],
    pending: std::ops::Range<usize>,
) -> Vec<Segment> {
    let values = |groups: &[Group]| -> BTreeSet<ValueId> {
        let activations = groups.iter().flat_map(|g| &g.activations);
        activations.map(|a| a.value).collect()
    };
    let observed = values(&groups[pending]);
    let before = ancestors(flow, &observed);
    let cuts = values(groups);
    let cuts = cuts.into_iter().filter(|v| {
        let producer = flow.model.producer(*v);
        observed.contains(v) || producer.is_some_and(|node| before.contains(&node))
    });
    let mut cuts: Vec<Vec<ValueId>> = cuts.map(|v| vec![v]).collect();
    cuts.sort_by_key(|cut| flow.made(cut[0]));
    let fine = segments(flow, &cuts);
    let bytes: Vec<u64> = fine.iter().map(|s| constant_bytes(flow, s)).collect();
    let limit = bytes.iter().copied().max().unwrap_or(0).max(SEGMENT);
    let mut merged: Vec<Vec<ValueId>> = Vec::new();
    let mut sum = 0;
    for (cut, bytes) in cuts.into_iter().zip(bytes) {
        sum += bytes;
        match merged.last_mut() {
            Some(last) if sum <= limit => {
                // What is only a cut is one no more.
                last.retain(|v| observed.contains(v));
                last.extend(cut);
            }
            _ => {
                sum = bytes;
                merged.push(cut);
            }
        }
    }
    segments(flow, &merged)
}

/// The nodes that `values` depend on.
fn ancestors(flow: &Flow<'_>, values: &BTreeSet<ValueId>) -> BTreeSet<NodeId> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<ValueId> = values.iter().copied().collect();
    while let Some(value) = open.pop() {
        if let Some(node) = flow.model.producer(value)
            && seen.insert(node)
        {
            open.extend(flow.operands(node));
        }
    }
    seen
}

/// Bytes of the constants that `segment` reads.
fn constant_bytes(flow: &Flow<'_>, segment: &Segment) -> u64 {
    let model = flow.model;
    let read = segment.nodes.iter().flat_map(|&n| operands(model, n));
    let mut tensors: BTreeMap<_, u64> = BTreeMap::new();
    for value in constants(flow, model, read).initializers {
        if let Some((tensor, data)) = model.tensor(value).and_then(|t| Some((t, t.data()?))) {
            tensors.insert(data.identity(), tensor.byte_len());
        }
    }
    tensors.values().sum()
}
