//! The run over all groups: what is planned, what is finished, what is still needed.

use sha2::{Digest, Sha256};

use super::{
    Group, GroupWeight, Options, Site, Visitor,
    feed::Feed,
    first,
    flow::Flow,
    folder::{Folder, Identity},
    group::groups,
    plan::{Segment, segments},
    replace,
    runner::value_file,
    segment::{Replaced, base},
};
use crate::{
    digest,
    engine::{Array, Engine},
    error::{Error, Result},
    eval::Items,
    ir::{Model, NodeId, SideTable, Tensor, ValueId},
};

/// A run of a model over data, group by group.
pub struct Sequence<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) options: Options<'a>,
    pub(super) flow: Flow<'a>,
    pub(super) feed: Feed<'a>,
    /// What segments are taken from.
    pub(super) base: Model,
    pub(super) groups: Vec<Group>,
    /// How many of them come first.
    pub(super) first: usize,
    /// A segment for each of the others.
    pub(super) plan: Vec<Segment>,
    /// The last segment that has a node, counted from 1.
    last: SideTable<NodeId, usize>,
    pub(super) folder: Folder,
    /// New weights, for the segments to come.
    pub(super) replaced: Replaced,
}

impl<'a> Sequence<'a> {
    /// Plans the run of `model` over `items` for the weights of `sites`, which are some or all
    /// of [`Sites::of`](super::Sites::of) this model. A text longer than the window is fed window
    /// by window.
    ///
    /// # Errors
    /// There is nothing to feed; a site is none of the main graph; the folder holds something
    /// else; a constant cannot be read.
    pub fn new(
        engine: &'a dyn Engine,
        model: &'a Model,
        sites: Vec<Site>,
        items: Items<'a>,
        options: Options<'a>,
    ) -> Result<Sequence<'a>> {
        let mut feed = Feed::new(model, items)?;
        let flow = Flow::of(model, |name| feed.gives(name))?;
        feed.set_defaults(defaults(&flow)?);
        let groups = groups(&flow, sites)?;
        let first = groups.iter().filter(|g| g.first).count();
        let targets = groups[first..].iter().map(|g| vec![g.activations[0].value]);
        let plan = segments(&flow, &targets.collect::<Vec<_>>());
        let mut last = SideTable::new(0);
        for (at, segment) in plan.iter().enumerate() {
            segment.nodes.iter().for_each(|&n| last[n] = at + 1);
        }
        let identity = || {
            let whole = Identity::of(engine, model, &feed, options.load)?;
            Ok(Identity {
                weights: weights_sha256(model, &groups),
                options: format!(
                    "{}; float rows: {}; {}",
                    options.key, options.float_rows, whole.options
                ),
                ..whole
            })
        };
        let folder = Folder::open(options.folder, groups.len(), identity)?;
        Ok(Sequence {
            engine,
            options,
            base: base(&flow),
            flow,
            feed,
            groups,
            first,
            plan,
            last,
            folder,
            replaced: Replaced::new(),
        })
    }

    /// The groups, in the order in which they are visited.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Visits all groups, or those that the run before has not finished. Once: after an error
    /// the visitor may have seen some rows of a group, so that a new one and a new sequence are
    /// to go on.
    ///
    /// # Errors
    /// The engine refuses or cannot run a segment; an activation is not finite: which, and for
    /// which item; the disk is full; the visitor ends the run; it was cancelled.
    pub fn run(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let done = self.folder.finished();
        for group in 0..done {
            visitor.restore(group, &self.folder.saved(group)?)?;
            self.use_weights(group)?;
        }
        let behind = done.saturating_sub(self.first);
        (0..behind).try_for_each(|at| self.free(at))?;
        let pending = done.min(self.first)..self.first;
        let observed = &self.groups[pending.clone()];
        let first = match observed.iter().any(|g| !g.activations.is_empty()) {
            true => first::plan(&self.flow, &self.groups, pending.clone()),
            false => Vec::new(),
        };
        let items = self.feed.len()?;
        let mut steps = Steps {
            done: (behind * items) as u64,
            total: ((first.len() + self.plan.len()) * items) as u64,
            visitor,
        };
        let counts = self.observe(&first, pending.clone(), &mut steps)?;
        for (group, rows) in pending.zip(counts) {
            self.finish(group, rows, steps.visitor)?;
        }
        for at in behind..self.plan.len() {
            let rows = self.advance(at, &mut steps)?;
            self.finish(self.first + at, rows, steps.visitor)?;
            self.free(at)?;
        }
        Ok(())
    }

    /// Takes the new weights of `group`, the next one, of whose activations there were `rows`.
    fn finish(&mut self, group: usize, rows: u64, visitor: &mut dyn Visitor) -> Result<()> {
        let at = |e: Error| e.at(self.describe(group));
        let new = visitor.finish(group, rows).map_err(at)?;
        let weights = &self.groups[group].weights;
        if new.len() != weights.len() {
            return Err(at(Error::input(format!(
                "new elements of {} weights, expected {}",
                new.len(),
                weights.len()
            ))));
        }
        let mut replaced = Vec::new();
        for (i, (weight, new)) in weights.iter().zip(new).enumerate() {
            let new = new.filter(|_| self.until(weight) > self.behind(group + 1));
            if let Some(elements) = &new {
                let path = self.folder.weight(group, i);
                replace::write(&path, weight, elements).map_err(at)?;
            }
            replaced.push(new.is_some());
        }
        let saved = visitor.save(group).map_err(at)?;
        self.folder.finish(replaced, &saved)?;
        self.use_weights(group)
    }

    /// How many segments are computed when so many groups are finished.
    fn behind(&self, groups: usize) -> usize {
        groups.saturating_sub(self.first)
    }

    /// The last segment that reads `weight`, counted from 1; 0 if none does.
    fn until(&self, weight: &GroupWeight) -> usize {
        let until = |site: &Site| {
            let outputs = &self.flow.model.nodes[site.node].outputs;
            let varies = outputs.iter().flatten().any(|&v| self.flow.varies(v));
            // Every segment computes the constants that it reads.
            match varies {
                true => self.last[site.node],
                false => self.plan.len(),
            }
        };
        weight.sites.iter().map(until).max().unwrap_or(0)
    }

    /// Lets the segments to come read the new weights of `group`.
    fn use_weights(&mut self, group: usize) -> Result<()> {
        let behind = self.behind(self.folder.finished());
        for (at, weight) in self.groups[group].weights.iter().enumerate() {
            if self.until(weight) <= behind || !self.folder.is_replaced(group, at) {
                continue;
            }
            let path = self.folder.weight(group, at);
            for site in &weight.sites {
                let operand = replace::operand(&path, site)?;
                self.replaced.insert(site.node, (site.slot, operand));
            }
        }
        Ok(())
    }

    /// Removes what is read by segment `at` for the last time.
    fn free(&mut self, at: usize) -> Result<()> {
        for (g, group) in self.groups[..=self.first + at].iter().enumerate() {
            for (w, weight) in group.weights.iter().enumerate() {
                if self.until(weight) == at + 1 {
                    for site in &weight.sites {
                        self.replaced.remove(&site.node);
                    }
                    replace::remove(&self.folder.weight(g, w))?;
                }
            }
        }
        for folder in [self.folder.values(), self.folder.float()] {
            remove_values(&folder, &self.plan[at].frees)?;
        }
        Ok(())
    }

    /// What messages call `group`.
    pub(super) fn describe(&self, group: usize) -> String {
        format!("activations `{}`", self.groups[group].name)
    }
}

/// Removes the files of `values` in `folder`.
pub(super) fn remove_values(folder: &std::path::Path, values: &[ValueId]) -> Result<()> {
    let mut files = values.iter().map(|&v| value_file(folder, v));
    files.try_for_each(|file| replace::remove(&file))
}

/// Counts what is done.
pub(super) struct Steps<'v> {
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) visitor: &'v mut dyn Visitor,
}

impl Steps<'_> {
    pub(super) fn advance(&mut self, what: &str) {
        self.done += 1;
        self.visitor.progress(self.done, self.total, what);
    }
}

/// The defaults of inputs that only some items give.
fn defaults(flow: &Flow<'_>) -> Result<Vec<(String, Array)>> {
    let default = |(value, tensor): (ValueId, &Tensor)| {
        let name = flow.model.values[value].name.to_string();
        let array = Array::of_tensor(tensor).map_err(|e| e.at(format!("input `{name}`")))?;
        Ok((name, array))
    };
    flow.defaults().map(default).collect()
}

/// SHA-256 over which weights are visited, and in which groups.
fn weights_sha256(model: &Model, groups: &[Group]) -> String {
    let mut hash = Sha256::new();
    for group in groups {
        hash.update(format!("group {} {}\n", group.name, group.k));
        for weight in &group.weights {
            for site in &weight.sites {
                let node = model.node_name(site.node);
                hash.update(format!("{node} {}\n", weight.matrix.n));
            }
        }
    }
    digest::hex(hash)
}
