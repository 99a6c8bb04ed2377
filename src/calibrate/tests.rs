//! Sequences on rten, against the model run as a whole.

use std::collections::BTreeMap;

use super::*;
use crate::{
    engine::{Array, Engine, LoadOptions, Program, Rten},
    error::Error,
    eval::Items,
    ir::{Constant, GraphOutput, Model, Tensor, ValueId, ValueInfo},
    text, verify,
    weights::{MatrixView, float_data},
};

mod models;
mod peaks;
mod resume;
mod structure;

type Named = (String, Array);

fn parse(text: &str) -> Model {
    let model = text::parse(text).unwrap_or_else(|e| panic!("{}", e.chain()));
    verify::verify(&model).unwrap();
    model
}

/// What rten computes without rewriting the graph: the same for a node wherever it stands.
fn load() -> LoadOptions {
    LoadOptions {
        optimize: false,
        threads: 1,
    }
}

/// Numbers that differ from item to item.
fn floats(dims: &[usize], seed: usize) -> Array {
    let len: usize = dims.iter().product();
    let element = |i: usize| ((i * 37 + seed * 11) % 23) as f32 / 8.0 - 1.25;
    Array::new(dims.to_vec(), (0..len).map(element).collect())
}

fn named(arrays: &[(&str, Array)]) -> Vec<Named> {
    let named = arrays.iter().map(|(n, a)| (n.to_string(), a.clone()));
    named.collect()
}

/// An element with error, as that of a quantized weight.
fn perturbed(x: f32) -> f32 {
    x * 0.75 + 0.125
}

/// What becomes of weights.
#[derive(Clone, Copy, PartialEq)]
enum New {
    /// They stay, by themselves.
    None,
    /// They are given as they were.
    Same,
    /// They are perturbed.
    Perturbed,
}

/// Remembers all that it is shown.
#[derive(Default)]
struct Collect {
    weights: Vec<Vec<MatrixView>>,
    new: Option<New>,
    rows: BTreeMap<usize, Vec<f32>>,
    float: BTreeMap<usize, Vec<f32>>,
    counts: BTreeMap<usize, u64>,
    /// Groups in the order in which they were finished or restored.
    order: Vec<usize>,
    steps: Vec<(u64, u64)>,
    /// Ends the run after so many calls.
    calls_left: Option<usize>,
}

impl Collect {
    fn call(&mut self) -> Result<()> {
        match &mut self.calls_left {
            Some(0) => Err(Error::input("killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Visitor for Collect {
    fn activations(
        &mut self,
        group: usize,
        _: usize,
        rows: &[f32],
        float: Option<&[f32]>,
    ) -> Result<()> {
        self.call()?;
        self.rows.entry(group).or_default().extend(rows);
        self.float
            .entry(group)
            .or_default()
            .extend(float.unwrap_or_default());
        Ok(())
    }

    fn finish(&mut self, group: usize, rows: u64) -> Result<Vec<Option<Vec<f32>>>> {
        self.call()?;
        self.order.push(group);
        self.counts.insert(group, rows);
        let new = |matrix: &MatrixView| match self.new {
            None | Some(New::None) => None,
            Some(New::Same) => Some(matrix.elements().unwrap()),
            Some(New::Perturbed) => {
                let elements = matrix.elements().unwrap();
                Some(elements.into_iter().map(perturbed).collect())
            }
        };
        Ok(self.weights[group].iter().map(new).collect())
    }

    fn save(&mut self, group: usize) -> Result<Vec<u8>> {
        self.call()?;
        let rows = self.rows.get(&group).into_iter().flatten();
        Ok(rows.flat_map(|x| x.to_le_bytes()).collect())
    }

    fn restore(&mut self, group: usize, saved: &[u8]) -> Result<()> {
        self.order.push(group);
        let (rows, _) = saved.as_chunks();
        let rows: Vec<f32> = rows.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if !rows.is_empty() {
            self.rows.insert(group, rows);
        }
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64, _: &str) {
        self.steps.push((done, total));
    }
}

/// What a run has shown, and the groups it was for.
struct Shown {
    seen: Collect,
    /// Name, activations, whether it comes first, and how many weights.
    groups: Vec<(String, Vec<Activation>, bool, usize)>,
}

fn run(model: &Model, sets: &[Vec<Named>], new: New, options: Options<'_>) -> Result<Shown> {
    let seen = Collect {
        new: Some(new),
        ..Collect::default()
    };
    run_with(model, sets, seen, options).map_err(|stopped| stopped.1)
}

fn run_with(
    model: &Model,
    sets: &[Vec<Named>],
    mut seen: Collect,
    options: Options<'_>,
) -> Result<Shown, Box<(Collect, Error)>> {
    let items = Items::Tensors { sets, source: "" };
    let engine = Rten::new();
    let found = Sites::of(model).and_then(|found| {
        let options = Options {
            load: load(),
            ..options
        };
        Sequence::new(&engine, model, found.sites, items, options)
    });
    let mut sequence = match found {
        Ok(sequence) => sequence,
        Err(e) => return Err(Box::new((seen, e))),
    };
    let groups = sequence.groups().iter();
    let groups = groups.map(|g| {
        (
            g.name.clone(),
            g.activations.clone(),
            g.first,
            g.weights.len(),
        )
    });
    let groups = groups.collect();
    let views = |g: &Group| g.weights.iter().map(|w| w.matrix.clone()).collect();
    seen.weights = sequence.groups().iter().map(views).collect();
    match sequence.run(&mut seen) {
        Ok(()) => Ok(Shown { seen, groups }),
        Err(e) => Err(Box::new((seen, e))),
    }
}

/// `value` for every item, from a run of the whole model.
fn observed(model: &Model, sets: &[Vec<Named>], value: ValueId) -> Vec<Array> {
    let input = &*model.values[value].name;
    if model.graphs[model.main].inputs.contains(&value) {
        let of = |set: &Vec<Named>| set.iter().find(|(n, _)| n == input).unwrap().1.clone();
        return sets.iter().map(of).collect();
    }
    let mut model = model.clone();
    let main = model.main;
    model.graphs[main].outputs = vec![GraphOutput {
        value,
        info: ValueInfo::default(),
    }];
    let program = Program {
        model: &model,
        file: None,
    };
    let mut session = Rten::new().load(program, load()).unwrap();
    let run = |set: &Vec<Named>| {
        let feeds: Vec<_> = set.iter().map(|(n, a)| (n.as_str(), a)).collect();
        session.run(&feeds, &[input]).unwrap().remove(0)
    };
    sets.iter().map(run).collect()
}

/// `model` with all weights of its sites perturbed.
fn perturb(model: &Model) -> Model {
    let mut out = model.clone();
    for site in Sites::of(model).unwrap().sites {
        let root = site.matrix.weight.root;
        let tensor = model.tensor(root).unwrap();
        let stored = float_data(tensor.data().unwrap(), tensor.dtype).unwrap();
        let new: Vec<f32> = stored.into_iter().map(perturbed).collect();
        let new = Tensor::from_f32(tensor.dims.clone(), &new);
        out.values[root].constant = Some(Constant::Dense(new));
    }
    out
}

/// The rows of a group over all items, from runs of the whole model.
fn expected(model: &Model, sets: &[Vec<Named>], activations: &[Activation], k: u64) -> Vec<f32> {
    let mut arrays: Vec<Vec<Array>> = activations
        .iter()
        .map(|a| observed(model, sets, a.value))
        .collect();
    let mut all = Vec::new();
    for item in 0..sets.len() {
        for (arrays, activation) in arrays.iter_mut().zip(activations) {
            let array = arrays[item].clone();
            all.extend(rows::rows(array, activation.terms, k, None).unwrap());
        }
    }
    all
}

/// Runs `model` with weights as they are, given as they are, and perturbed; compares what is
/// shown with runs of the whole model. Returns the groups: name, whether first, weights.
fn check(model: &Model, sets: &[Vec<Named>]) -> Vec<(String, bool, usize)> {
    let mut found = Vec::new();
    for new in [New::None, New::Same, New::Perturbed] {
        for float_rows in [false, true] {
            found = compare(model, sets, new, float_rows);
        }
    }
    found
}

/// As [`check`], once.
fn compare(
    model: &Model,
    sets: &[Vec<Named>],
    new: New,
    float_rows: bool,
) -> Vec<(String, bool, usize)> {
    let options = Options {
        float_rows,
        ..Options::default()
    };
    let shown = run(model, sets, new, options).unwrap_or_else(|e| panic!("{}", e.chain()));
    let changed = perturb(model);
    let seen = &shown.seen;
    assert_eq!(seen.order, (0..shown.groups.len()).collect::<Vec<_>>());
    for (g, (name, activations, first, _)) in shown.groups.iter().enumerate() {
        let k = seen.weights[g][0].k;
        let of = |model| expected(model, sets, activations, k);
        let float = of(model);
        let rows = match new == New::Perturbed && !first {
            true => of(&changed),
            false => float.clone(),
        };
        let none = Vec::new();
        assert_eq!(*seen.rows.get(&g).unwrap_or(&none), rows, "{name}");
        assert_eq!(seen.counts[&g], rows.len() as u64 / k, "{name}");
        let beside = seen.float.get(&g).unwrap_or(&none);
        assert_eq!(
            *beside,
            if float_rows { float } else { Vec::new() },
            "{name}"
        );
    }
    let last = seen.steps.last().copied();
    assert!(last.is_none_or(|(done, total)| done == total), "{last:?}");
    let brief = shown.groups.into_iter();
    brief
        .map(|(name, _, first, weights)| (name, first, weights))
        .collect()
}
