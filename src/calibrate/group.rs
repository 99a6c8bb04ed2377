//! Which weights share their activations, and in which order they are visited.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    flow::Flow,
    site::{Activation, Site},
};
use crate::{
    error::{Error, Result},
    ir::{DataType, data::DataIdentity},
    weights::{Layout, MatrixView},
};

/// Weights that are multiplied by the same: q, k and v, for example.
#[derive(Debug)]
#[non_exhaustive]
pub struct Group {
    /// The name of the first activation, or of the weight where there is none.
    pub name: String,
    /// What the weights are multiplied by: one value; several for a weight that is used several
    /// times; none for a table that is only looked up in, and where nothing depends on inputs.
    pub activations: Vec<Activation>,
    /// The weights, each once, in order of first use.
    pub weights: Vec<GroupWeight>,
    /// Terms of a product: what a row of the activations has.
    pub k: u64,
    /// Whether the activations are those of the float model: see [`Sequence`](super::Sequence).
    pub first: bool,
}

/// A weight, and what reads it.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupWeight {
    /// The weight.
    pub matrix: MatrixView,
    /// What reads it, in order; its own view of the weight is of the same elements.
    pub sites: Vec<Site>,
}

/// What tells one weight from another: the same elements, read as the same matrix.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    data: DataIdentity,
    stored: DataType,
    dtype: DataType,
    rounding: Option<DataType>,
    layout: Layout,
    extents: (u64, u64),
}

impl Key {
    fn of(matrix: &MatrixView) -> Key {
        let weight = &matrix.weight;
        Key {
            data: weight.data.identity(),
            stored: weight.stored,
            dtype: weight.dtype,
            rounding: weight.rounding,
            layout: matrix.layout,
            extents: (matrix.n, matrix.k),
        }
    }
}

/// The groups of `sites`, in the order they are visited: first those that the float model is
/// asked for, then the others as they are computed.
///
/// # Errors
/// A site is not one of the main graph, or is there twice.
pub(super) fn groups(flow: &Flow<'_>, mut sites: Vec<Site>) -> Result<Vec<Group>> {
    let model = flow.model;
    let mut seen = BTreeSet::new();
    for site in &sites {
        if !flow.is_listed(site.node) || !seen.insert(site.node) {
            return Err(Error::input(format!(
                "{} is no node of the main graph, or is there twice",
                model.label(site.node)
            )));
        }
    }
    sites.sort_by_key(|site| flow.position(site.node));
    let mut weights: Vec<GroupWeight> = Vec::new();
    let mut index = HashMap::new();
    for site in sites {
        let at = *index.entry(Key::of(&site.matrix)).or_insert(weights.len());
        if at == weights.len() {
            weights.push(GroupWeight {
                matrix: site.matrix.clone(),
                sites: Vec::new(),
            });
        }
        weights[at].sites.push(site);
    }
    let mut groups: BTreeMap<_, Group> = BTreeMap::new();
    for (number, weight) in weights.into_iter().enumerate() {
        let (key, group) = group(flow, number, weight);
        match groups.entry(key) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(group);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                place.get_mut().weights.extend(group.weights);
            }
        }
    }
    Ok(groups.into_values().collect())
}

/// The group of one weight, and what it is ordered by.
fn group(flow: &Flow<'_>, number: usize, weight: GroupWeight) -> (impl Ord + use<>, Group) {
    let activations = weight.sites.iter().filter_map(|s| s.activation);
    let mut used: Vec<Activation> = activations.filter(|a| flow.varies(a.value)).collect();
    let order = |a: &Activation| (flow.made(a.value), *a);
    used.sort_by_key(order);
    used.dedup();
    let looked_up = weight.sites.iter().any(|s| s.activation.is_none());
    let first = looked_up || used.len() != 1;
    let named = used.first().map_or(weight.matrix.weight.root, |a| a.value);
    let k = weight.matrix.k;
    // Without activations there is nothing to share.
    let own = used.is_empty().then_some(number);
    let key = (!first, used.iter().map(order).collect::<Vec<_>>(), own, k);
    let group = Group {
        name: flow.model.values[named].name.to_string(),
        activations: used,
        weights: vec![weight],
        k,
        first,
    };
    (key, group)
}
