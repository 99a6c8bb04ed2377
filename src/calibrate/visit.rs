//! Runs segments over all items, and shows activations to the visitor.

use std::{fs, ops::Range, path::Path, sync::atomic::Ordering};

use super::{
    Sequence,
    plan::Segment,
    rows::{Mask, rows},
    runner::{Place, Runner},
    segment::Replaced,
    sequence::{Steps, remove_values},
    store::cannot,
};
use crate::{
    engine::Array,
    error::{Error, ErrorKind, Result},
    ir::ValueId,
};

/// What messages call the model with the weights that it had.
const FLOAT: &str = "the float model";

/// Which weights a model has.
#[derive(Clone, Copy)]
enum Stream {
    /// Its own.
    Float,
    /// New ones, where they are made.
    Quantized,
}

/// What an item is fed.
struct Item {
    number: usize,
    inputs: Vec<(String, Array)>,
    mask: Option<Mask>,
}

impl Item {
    fn at(&self, error: Error) -> Error {
        error.at(format!("item {}", self.number))
    }
}

impl Sequence<'_> {
    /// Runs the float model, cut into `plan`, and shows the activations of `groups[pending]`.
    /// Returns how many rows each had.
    pub(super) fn observe(
        &self,
        plan: &[Segment],
        pending: Range<usize>,
        steps: &mut Steps<'_>,
    ) -> Result<Vec<u64>> {
        let mut counts = vec![0; pending.len()];
        let values = self.folder.float();
        if !plan.is_empty() {
            empty(&values)?;
        }
        let at = |e: Error| e.at(FLOAT);
        for segment in plan {
            let mut runner = self.load(segment, Stream::Float).map_err(at)?;
            for number in 0..self.feed.len()? {
                let item = self.item(number)?;
                let targets = runner.step(&item.inputs).map_err(|e| at(item.at(e)))?;
                for (&value, array) in segment.targets.iter().zip(&targets) {
                    for group in pending.clone() {
                        let rows = self.show(group, value, array, &item, steps)?;
                        counts[group - pending.start] += rows;
                    }
                }
                steps.advance(FLOAT);
            }
            runner.finish()?;
            remove_values(&values, &segment.frees)?;
        }
        Ok(counts)
    }

    /// Shows `value` as the activations of `group`, if it is one of them. Returns how many rows.
    fn show(
        &self,
        group: usize,
        value: ValueId,
        array: &Array,
        item: &Item,
        steps: &mut Steps<'_>,
    ) -> Result<u64> {
        let at = |e: Error| e.at(self.describe(group));
        let k = self.groups[group].k;
        let mut count = 0;
        for activation in &self.groups[group].activations {
            if activation.value != value {
                continue;
            }
            let rows = rows(array.clone(), activation.terms, k, item.mask.as_ref());
            let rows = rows.map_err(|e| at(item.at(e)))?;
            count += rows.len() as u64 / k;
            let float = self.options.float_rows.then_some(&*rows);
            let shown = steps.visitor.activations(group, item.number, &rows, float);
            shown.map_err(at)?;
        }
        Ok(count)
    }

    /// Runs segment `at` and shows the activations of its group. Returns how many rows.
    pub(super) fn advance(&self, at: usize, steps: &mut Steps<'_>) -> Result<u64> {
        let (segment, group) = (&self.plan[at], self.first + at);
        let at = |e: Error| e.at(self.describe(group));
        let float = self.options.float_rows;
        let mut runner = self.load(segment, Stream::Quantized).map_err(at)?;
        let mut beside = float
            .then(|| self.load(segment, Stream::Float))
            .transpose()
            .map_err(at)?;
        let mut count = 0;
        for number in 0..self.feed.len()? {
            let item = self.item(number)?;
            let rows = self.step(group, &mut runner, &item);
            let rows = rows.map_err(|e| at(item.at(e)))?;
            let float = beside.as_mut().map(|b| self.step(group, b, &item));
            let float = float.transpose().map_err(|e| at(item.at(e.at(FLOAT))))?;
            count += rows.len() as u64 / self.groups[group].k;
            if let Some(float) = float.as_ref().filter(|f| f.len() != rows.len()) {
                return Err(at(item.at(Error::input(format!(
                    "{} numbers, and {} in the float model",
                    rows.len(),
                    float.len()
                )))));
            }
            let shown = {
                let visitor = &mut steps.visitor;
                visitor.activations(group, number, &rows, float.as_deref())
            };
            shown.map_err(at)?;
            steps.advance(&self.groups[group].name);
        }
        runner.finish()?;
        beside.map_or(Ok(()), Runner::finish)?;
        Ok(count)
    }

    /// The rows of `group`, one that has a segment of its own, for one item.
    fn step(&self, group: usize, runner: &mut Runner, item: &Item) -> Result<Vec<f32>> {
        let group = &self.groups[group];
        let target = runner.step(&item.inputs)?.swap_remove(0);
        rows(
            target,
            group.activations[0].terms,
            group.k,
            item.mask.as_ref(),
        )
    }

    /// Loads `segment` for one of the two models.
    fn load(&self, segment: &Segment, stream: Stream) -> Result<Runner> {
        let original = Replaced::new();
        let (values, model, replaced) = match stream {
            Stream::Float => (self.folder.float(), "float", &original),
            Stream::Quantized => (self.folder.values(), "quantized", &self.replaced),
        };
        let place = Place {
            engine: self.engine,
            load: self.options.load,
            values: &values,
            model: &self.folder.model(model),
        };
        Runner::load(&self.flow, &self.base, segment, replaced, place)
    }

    fn item(&self, number: usize) -> Result<Item> {
        if self
            .options
            .cancel
            .is_some_and(|c| c.load(Ordering::Relaxed))
        {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        let inputs = self.feed.item(number);
        let inputs = inputs.map_err(|e| e.at(format!("item {number}")))?;
        Ok(Item {
            mask: Mask::of(&self.feed.signature, &inputs),
            number,
            inputs,
        })
    }
}

/// Removes what an interrupted run has left in `folder`.
fn empty(folder: &Path) -> Result<()> {
    let emptied = fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder));
    emptied.map_err(|e| cannot("write", folder, e))
}
