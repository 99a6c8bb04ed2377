//! Runs a pipeline, with the instruments around the passes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Changed, PassContext, Pipeline, QuantizedWeight, Remark};
use crate::{
    error::{Error, Result},
    ir::Model,
    onnx, text, verify,
};

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

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
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
    /// What they declined.
    pub remarks: Vec<Remark>,
    /// What they quantized.
    pub quantized: Vec<QuantizedWeight>,
}

/// Runs pipelines.
#[derive(Default)]
pub struct PassManager<'a> {
    /// The instruments in use.
    pub instruments: Instruments<'a>,
}

impl PassManager<'_> {
    /// Runs `pipeline` on `model`.
    ///
    /// # Errors
    /// A pass fails, or (with `verify_each`) leaves an invalid model or misreports what
    /// it did. The message names the pass; `model` is then of no more use.
    pub fn run(&mut self, pipeline: &Pipeline, model: &mut Model) -> Result<Report> {
        let mut report = Report::default();
        let mut rewrites_left = self.instruments.stop_after;
        for step in &pipeline.steps {
            let name = step.info.name;
            let at = |e: Error| e.at(format!("pass `{name}`"));
            let before = match self.instruments.verify_each {
                true => Some(onnx::fingerprint(model).map_err(at)?),
                false => None,
            };
            let mut cx = PassContext {
                rewrites_left,
                ..PassContext::default()
            };
            let start = Instant::now();
            let changed = step.pass.run(model, &mut cx).map_err(at)?;
            let time = start.elapsed();
            rewrites_left = cx.rewrites_left;
            if let Some(before) = before {
                self.check(model, name, changed, before).map_err(at)?;
            }
            self.print(model, name, changed);
            report.passes.push(PassReport {
                name,
                time,
                changed,
                statistics: cx.statistics,
            });
            report.remarks.extend(cx.remarks);
            report.quantized.extend(cx.quantized);
        }
        Ok(report)
    }

    fn check(&self, model: &Model, name: &str, changed: Changed, before: u64) -> Result<()> {
        verify::verify(model).map_err(|e| {
            Error::from(e)
                .at("left an invalid model; --print-ir-after shows the model after each pass")
        })?;
        if changed == Changed::No && onnx::fingerprint(model)? != before {
            return Err(Error::input(format!(
                "`{name}` says that it changed nothing, but the model is not the same"
            )));
        }
        Ok(())
    }

    fn print(&mut self, model: &Model, name: &str, changed: Changed) {
        let wanted = match &self.instruments.print_ir {
            PrintIr::Never => false,
            PrintIr::All => true,
            PrintIr::Changed => changed != Changed::No,
            PrintIr::After(names) => names.iter().any(|n| n == name),
        };
        if let (true, Some(print)) = (wanted, &mut self.instruments.print) {
            let options = text::PrintOptions::default();
            print(&format!(
                "// after {name}\n{}",
                text::print(model, &options)
            ));
        }
    }
}
