//! Which weights are to be quantized, and how.

use std::collections::BTreeMap;

use super::{Site, Sites};
use crate::{digest::sha256_of, error::Result, ir::Model, quant::BlockSpec, weights::WeightKey};

/// How weights are to be quantized: each in one way, or in several where there are several outputs. It is
/// collected from what runs of pipelines tell: [`QuantizedWeight::blocks`](crate::pass::QuantizedWeight).
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// In an order that does not depend on the run, for [`digest_of`].
    specs: BTreeMap<WeightKey, Vec<BlockSpec>>,
}

impl FromIterator<(WeightKey, BlockSpec)> for Planned {
    fn from_iter<I: IntoIterator<Item = (WeightKey, BlockSpec)>>(plan: I) -> Planned {
        let mut planned = Planned::default();
        for (key, spec) in plan {
            let specs = planned.specs.entry(key).or_default();
            if !specs.contains(&spec) {
                specs.push(spec);
            }
        }
        planned
    }
}

impl Planned {
    /// The ways in which a weight is quantized, in the order of the pipelines; none for one that stays.
    pub fn specs(&self, key: &WeightKey) -> &[BlockSpec] {
        self.specs.get(key).map_or(&[], Vec::as_slice)
    }
}

/// The sites of `model` whose weights one of `plans` quantizes.
///
/// # Errors
/// As [`Sites::of`].
pub(super) fn planned_sites(model: &Model, plans: &[Planned]) -> Result<Vec<Site>> {
    let mut sites = Sites::of(model)?.sites;
    sites.retain(|site| {
        let key = WeightKey::of(model, &site.matrix);
        plans.iter().any(|plan| !plan.specs(&key).is_empty())
    });
    Ok(sites)
}

/// SHA-256 of what a visitor does, for [`Options::key`](super::Options::key).
pub(super) fn digest_of(what: &impl std::fmt::Debug) -> String {
    sha256_of(format!("{what:?}").as_bytes())
}
