//! Runs a pipeline, with the instruments around the passes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Changed, PassContext, Pipeline, QuantizedWeight, Remark,
    pipeline::{Element, ROUNDS, Step},
};
use crate::{
    error::{Error, Result},
    infer::Facts,
    ir::{Model, NodeId, SideTable},
    onnx, text, verify,
    weights::{Calibrated, HalfScans},
};

/// Larger constants are left out when the model is printed between passes.
const PRINTED_ELEMENTS: u64 = 16;

/// When to print the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrintIr {
    /// Never.
    #[default]
    Never,
    /// After every pass.
    All,
    /// After every pass that changed it.
    Changed,
    /// After these passes.
    After(Vec<String>),
}

/// What surrounds the passes. They know nothing of it.
#[derive(Default)]
pub struct Instruments<'a> {
    /// Verify the model after every pass, and check that a pass which says it changed
    /// nothing changed nothing.
    pub verify_each: bool,
    /// Stop after so many rewrites, counted over all passes: to find the rewrite that
    /// breaks something by bisection.
    pub stop_after: Option<u64>,
    /// When to print the model.
    pub print_ir: PrintIr,
    /// Where to print it.
    pub print: Option<&'a mut dyn FnMut(&str)>,
}

/// What one pass of a pipeline did, over all its runs: in a group it has several.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u32,
    /// Time it took.
    pub time: Duration,
    /// What it changed.
    pub changed: Changed,
    /// Its counters.
    pub statistics: BTreeMap<&'static str, u64>,
}

/// What a pipeline did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The passes, in order.
    pub passes: Vec<PassReport>,
    /// What they declined, each in its last run.
    pub remarks: Vec<Remark>,
    /// What they quantized.
    pub quantized: Vec<QuantizedWeight>,
}

/// Runs pipelines.
#[derive(Default)]
pub struct PassManager<'a> {
    /// The instruments in use.
    pub instruments: Instruments<'a>,
    /// What a calibration found of the weights, for passes that choose codes by it.
    pub calibrated: Option<Arc<Calibrated>>,
}

impl PassManager<'_> {
    /// Runs `pipeline` on `model`.
    ///
    /// # Errors
    /// A pass fails, or (with `verify_each`) leaves an invalid model or misreports what
    /// it did. The message names the pass; `model` is then of no more use.
    pub fn run(&mut self, pipeline: &Pipeline, model: &mut Model) -> Result<Report> {
        let mut run = Run::new(self, model);
        run.on(&pipeline.elements)?;
        Ok(run.report())
    }

    /// Runs each of `pipelines` on `model`: the results, in their order. What all of them begin with
    /// runs once.
    ///
    /// # Errors
    /// As [`PassManager::run`].
    pub fn run_all(
        &mut self,
        pipelines: &[&Pipeline],
        mut model: Model,
    ) -> Result<Vec<(Model, Report)>> {
        let Some(first) = pipelines.first() else {
            return Ok(Vec::new());
        };
        let common = common_elements(first, &pipelines[1..]);
        let mut run = Run::new(self, &mut model);
        run.on(&first.elements[..common])?;
        let (done, changes, facts, half_scans) = (run.done, run.changes, run.facts, run.half_scans);
        let calibrated = run.calibrated;
        let rewrites_left = run.rewrites_left;
        let mut results = Vec::with_capacity(pipelines.len());
        let copies = std::iter::repeat_n(model, pipelines.len());
        for (pipeline, mut model) in pipelines.iter().zip(copies) {
            let mut run = Run {
                rewrites_left,
                done: done.clone(),
                changes,
                facts: facts.clone(),
                half_scans: half_scans.clone(),
                calibrated: calibrated.clone(),
                ..Run::new(self, &mut model)
            };
            run.on(&pipeline.elements[common..])?;
            let report = run.report();
            results.push((model, report));
        }
        Ok(results)
    }
}

/// How many elements `first` and all `others` begin with.
fn common_elements(first: &Pipeline, others: &[&Pipeline]) -> usize {
    let shared = |i: usize, element: &Element| {
        let text = element.to_string();
        let same = |p: &&Pipeline| p.elements.get(i).is_some_and(|e| e.to_string() == text);
        others.iter().all(same)
    };
    let elements = first.elements.iter().enumerate();
    elements.take_while(|(i, e)| shared(*i, e)).count()
}

/// What is known of one step so far.
#[derive(Clone)]
struct Done {
    report: PassReport,
    /// Of the last run: what an earlier one declined may have been rewritten since, and the
    /// rest was declined again.
    remarks: Vec<Remark>,
    quantized: Vec<QuantizedWeight>,
    /// How often the model had changed when the last run began.
    seen: Option<u64>,
}

impl Done {
    fn new(step: &Step) -> Done {
        Done {
            report: PassReport {
                name: step.info.name,
                runs: 0,
                time: Duration::ZERO,
                changed: Changed::No,
                statistics: BTreeMap::new(),
            },
            remarks: Vec::new(),
            quantized: Vec::new(),
            seen: None,
        }
    }

    fn add(&mut self, time: Duration, changed: Changed, cx: PassContext) {
        self.report.runs += 1;
        self.report.time += time;
        self.report.changed = self.report.changed.and(changed);
        for (name, n) in cx.statistics {
            *self.report.statistics.entry(name).or_default() += n;
        }
        self.remarks = cx.remarks;
        self.quantized.extend(cx.quantized);
    }
}

/// A pipeline while it runs.
struct Run<'r, 'i> {
    instruments: &'r mut Instruments<'i>,
    rewrites_left: Option<u64>,
    model: &'r mut Model,
    done: Vec<Done>,
    /// How often a step has changed the model.
    changes: u64,
    /// What was inferred of the model as it is now.
    facts: Option<Arc<Facts>>,
    half_scans: Arc<HalfScans>,
    calibrated: Option<Arc<Calibrated>>,
}

impl<'r, 'i> Run<'r, 'i> {
    fn new(manager: &'r mut PassManager<'i>, model: &'r mut Model) -> Run<'r, 'i> {
        Run {
            rewrites_left: manager.instruments.stop_after,
            instruments: &mut manager.instruments,
            model,
            done: Vec::new(),
            changes: 0,
            facts: None,
            half_scans: Arc::default(),
            calibrated: manager.calibrated.clone(),
        }
    }

    /// Runs `elements`, which follow what was run before.
    fn on(&mut self, elements: &[Element]) -> Result<()> {
        let index = self.done.len();
        let steps = elements.iter().flat_map(Element::steps);
        self.done.extend(steps.map(Done::new));
        self.elements(elements, index).map(drop)
    }

    fn report(self) -> Report {
        let mut report = Report::default();
        for done in self.done {
            report.passes.push(done.report);
            report.remarks.extend(done.remarks);
            report.quantized.extend(done.quantized);
        }
        report
    }

    /// Runs `elements`, the first step of which is step `index` of the pipeline.
    fn elements(&mut self, elements: &[Element], mut index: usize) -> Result<Changed> {
        let mut changed = Changed::No;
        for element in elements {
            changed = changed.and(match element {
                Element::Step(step) => self.step(step, index)?,
                Element::Group(inner) => self.group(inner, index)?,
            });
            index += element.steps().len();
        }
        Ok(changed)
    }

    fn group(&mut self, elements: &[Element], index: usize) -> Result<Changed> {
        let mut changed = Changed::No;
        for _ in 0..ROUNDS {
            match self.elements(elements, index)? {
                Changed::No => break,
                round => changed = changed.and(round),
            }
        }
        Ok(changed)
    }

    fn step(&mut self, step: &Step, index: usize) -> Result<Changed> {
        let name = step.info.name;
        // What a pass does follows from the model alone: on the same one it does nothing new.
        if self.done[index].seen.replace(self.changes) == Some(self.changes) {
            return Ok(Changed::No);
        }
        let at = |e: Error| e.at(format!("pass `{name}`"));
        let before = match self.instruments.verify_each {
            true => Some(onnx::fingerprint(self.model).map_err(at)?),
            false => None,
        };
        let mut cx = PassContext {
            rewrites_left: self.rewrites_left,
            facts: self.facts.take(),
            half_scans: Arc::clone(&self.half_scans),
            calibrated: self.calibrated.take(),
            ..PassContext::default()
        };
        let start = Instant::now();
        let changed = step.pass.run(self.model, &mut cx).map_err(at)?;
        let time = start.elapsed();
        self.rewrites_left = cx.rewrites_left;
        self.calibrated = cx.calibrated.take();
        if changed == Changed::No || cx.tells {
            self.facts = cx.facts.take();
        }
        if changed != Changed::No {
            self.changes += 1;
        }
        if let Some(before) = before {
            check(self.model, name, changed, before).map_err(at)?;
        }
        self.done[index].add(time, changed, cx);
        if changed != Changed::No {
            self.forget_remarks(index);
        }
        self.print(index, changed);
        Ok(changed)
    }

    /// Drops what other steps than this one said of nodes that it removed.
    fn forget_remarks(&mut self, index: usize) {
        let others = self.done.iter().enumerate().filter(|(i, _)| *i != index);
        if others.map(|(_, d)| d.remarks.len()).sum::<usize>() == 0 {
            return;
        }
        let mut left = SideTable::<NodeId, bool>::new(false);
        for node in self.model.reachable_nodes() {
            left[node] = true;
        }
        for (i, done) in self.done.iter_mut().enumerate() {
            if i != index {
                done.remarks.retain(|r| left[r.node]);
            }
        }
    }

    fn print(&mut self, index: usize, changed: Changed) {
        let PassReport { name, runs, .. } = self.done[index].report;
        let wanted = match &self.instruments.print_ir {
            PrintIr::Never => false,
            PrintIr::All => true,
            PrintIr::Changed => changed != Changed::No,
            PrintIr::After(names) => names.iter().any(|n| n == name),
        };
        if let (true, Some(print)) = (wanted, &mut self.instruments.print) {
            let options = text::PrintOptions {
                elide_above: Some(PRINTED_ELEMENTS),
                elide_computed_above: Some(PRINTED_ELEMENTS),
                ..text::PrintOptions::default()
            };
            let round = match runs {
                1 => String::new(),
                n => format!(", round {n}"),
            };
            print(&format!(
                "// after {name}{round}\n{}",
                text::print(self.model, &options)
            ));
        }
    }
}

fn check(model: &Model, name: &str, changed: Changed, before: u64) -> Result<()> {
    verify::verify(model).map_err(|e| {
        Error::from(e).at("left an invalid model; --print-ir-after shows the model after each pass")
    })?;
    if changed == Changed::No && onnx::fingerprint(model)? != before {
        return Err(Error::input(format!(
            "`{name}` says that it changed nothing, but the model is not the same"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
