//! The run of the float model that comes before all others, with its memory bounded alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    flow::Flow,
    group::Group,
    plan::{Segment, constants, needed, segments},
};
use crate::ir::{NodeId, SideTable, ValueId};

/// Constants of a segment, in bytes, unless a single one has more. Fewer segments are loaded
/// faster; this many bytes are little beside what an engine takes. The models of tests are cut, too.
const SEGMENT: u64 = if cfg!(test) { 1 << 6 } else { 256 << 20 };

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
    let all: Vec<ValueId> = observed.iter().copied().collect();
    let before = needed(flow, &all, &SideTable::new(false));
    let before: BTreeSet<NodeId> = before.into_iter().collect();
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

/// Bytes of the constants that `segment` reads.
fn constant_bytes(flow: &Flow<'_>, segment: &Segment) -> u64 {
    let model = flow.model;
    let read = segment.nodes.iter().flat_map(|&n| model.operands(n));
    let mut tensors: BTreeMap<_, u64> = BTreeMap::new();
    for value in constants(flow, model, read).initializers {
        if let Some((tensor, data)) = model.tensor(value).and_then(|t| Some((t, t.data()?))) {
            tensors.insert(data.identity(), tensor.byte_len());
        }
    }
    tensors.values().sum()
}
