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
            let options = text::PrintOptions {
                elide_above: Some(PRINTED_ELEMENTS),
                elide_computed_above: Some(PRINTED_ELEMENTS),
                ..text::PrintOptions::default()
            };
            print(&format!(
                "// after {name}\n{}",
                text::print(model, &options)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pass::{Left, Options, Pass, PassInfo, Registry, plan_nodes},
        text,
    };

    /// Makes every Relu a Neg, or does what its name says.
    struct Test(&'static str);

    impl Pass for Test {
        fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
            let main = model.main;
            match self.0 {
                "fail" => return Err(Error::input("cannot")),
                "lie" => {
                    model.graphs[main].name = Some("other".into());
                    return Ok(Changed::No);
                }
                // The order is then not topological.
                "break" => {
                    model.graphs[main].nodes.reverse();
                    return Ok(Changed::Yes(1));
                }
                _ => {}
            }
            let plans = plan_nodes(model, "negate", cx, |node| {
                match model.nodes[node].is("Relu") {
                    true => Ok(()),
                    false => Err(Left::Ignored),
                }
            })?;
            for &(node, ()) in &plans {
                model.nodes[node].op_type = "Neg".into();
            }
            cx.count("negated", plans.len() as u64);
            Ok(Changed::count(plans.len()))
        }
    }

    macro_rules! info {
        ($name:literal) => {
            &PassInfo {
                name: $name,
                summary: "",
                doc: "",
                options: &[],
                build: |_: &Options| Ok(Box::new(Test($name))),
            }
        };
    }

    const REGISTRY: Registry = Registry {
        passes: &[info!("negate"), info!("fail"), info!("lie"), info!("break")],
        pipelines: &[],
    };

    fn model() -> Model {
        let text = "<ir_version: 10, opset_import: [\"\" : 21]>
            g (float x) => (float y) { a = Relu (x) b = Relu (a) c = Abs (b) y = Relu (c) }";
        text::parse(text).unwrap()
    }

    fn run(pipeline: &str, instruments: Instruments<'_>) -> (Result<Report>, String) {
        let mut model = model();
        let pipeline = Pipeline::parse(pipeline, REGISTRY).unwrap();
        let report = PassManager { instruments }.run(&pipeline, &mut model);
        let nodes = &model.graphs[model.main].nodes;
        let ops: Vec<&str> = nodes.iter().map(|&n| &*model.nodes[n].op_type).collect();
        (report, ops.join(" "))
    }

    fn verifying() -> Instruments<'static> {
        Instruments {
            verify_each: true,
            ..Instruments::default()
        }
    }

    #[test]
    fn reports_what_each_pass_did() {
        let (report, ops) = run("negate,negate", verifying());
        assert_eq!(ops, "Neg Neg Abs Neg");
        let report = report.unwrap();
        let changed: Vec<Changed> = report.passes.iter().map(|p| p.changed).collect();
        assert_eq!(changed, [Changed::Yes(3), Changed::No]);
        assert_eq!(report.passes[0].statistics["negated"], 3);
    }

    #[test]
    fn stop_after_counts_over_all_passes() {
        for (limit, expected, changed) in [
            (0, "Relu Relu Abs Relu", [Changed::No, Changed::No]),
            (2, "Neg Neg Abs Relu", [Changed::Yes(2), Changed::No]),
            (3, "Neg Neg Abs Neg", [Changed::Yes(3), Changed::No]),
            (9, "Neg Neg Abs Neg", [Changed::Yes(3), Changed::No]),
        ] {
            let instruments = Instruments {
                stop_after: Some(limit),
                ..verifying()
            };
            let (report, ops) = run("negate,negate", instruments);
            assert_eq!(ops, expected, "{limit}");
            let passes = report.unwrap().passes;
            assert_eq!([passes[0].changed, passes[1].changed], changed, "{limit}");
        }
    }

    #[test]
    fn a_pass_that_fails_is_named() {
        let (report, _) = run("negate,fail,negate", Instruments::default());
        assert_eq!(report.unwrap_err().chain(), "pass `fail`: cannot");
    }

    #[test]
    fn a_pass_that_lies_is_caught() {
        let (report, _) = run("negate,lie,negate", verifying());
        assert_eq!(
            report.unwrap_err().chain(),
            "pass `lie`: `lie` says that it changed nothing, but the model is not the same"
        );
        let (report, _) = run("lie", Instruments::default());
        assert!(report.is_ok(), "nothing is checked unless asked for");
    }

    #[test]
    fn a_pass_that_breaks_the_model_is_named() {
        let (report, _) = run("negate,break,negate", verifying());
        let message = report.unwrap_err().chain();
        let expected = "pass `break`: left an invalid model; --print-ir-after shows the model";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn prints_after_the_passes_asked_for() {
        let after = |names: &[&str]| {
            PrintIr::After(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>())
        };
        for (print_ir, expected) in [
            (PrintIr::Never, 0),
            (PrintIr::All, 3),
            (PrintIr::Changed, 1),
            (after(&["negate"]), 2),
            (after(&["lie"]), 1),
            (after(&[]), 0),
        ] {
            let mut printed = Vec::new();
            let mut print = |text: &str| printed.push(text.to_owned());
            let instruments = Instruments {
                print_ir: print_ir.clone(),
                print: Some(&mut print),
                ..Instruments::default()
            };
            run("negate,negate,lie", instruments).0.unwrap();
            assert_eq!(printed.len(), expected, "{print_ir:?}");
            for text in &printed {
                assert!(text.starts_with("// after ") && text.contains("Neg (x)"));
            }
        }
    }
}
