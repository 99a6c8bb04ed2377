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
}

impl PassManager<'_> {
    /// Runs `pipeline` on `model`.
    ///
    /// # Errors
    /// A pass fails, or (with `verify_each`) leaves an invalid model or misreports what
    /// it did. The message names the pass; `model` is then of no more use.
    pub fn run(&mut self, pipeline: &Pipeline, model: &mut Model) -> Result<Report> {
        let mut run = Run {
            rewrites_left: self.instruments.stop_after,
            instruments: &mut self.instruments,
            model,
            done: pipeline.steps().into_iter().map(Done::new).collect(),
            changes: 0,
            facts: None,
        };
        run.elements(&pipeline.elements, 0)?;
        let mut report = Report::default();
        for done in run.done {
            report.passes.push(done.report);
            report.remarks.extend(done.remarks);
            report.quantized.extend(done.quantized);
        }
        Ok(report)
    }
}

/// What is known of one step so far.
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
}

impl Run<'_, '_> {
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
            ..PassContext::default()
        };
        let start = Instant::now();
        let changed = step.pass.run(self.model, &mut cx).map_err(at)?;
        let time = start.elapsed();
        self.rewrites_left = cx.rewrites_left;
        match changed {
            Changed::No => self.facts = cx.facts.take(),
            Changed::Yes(_) => self.changes += 1,
        }
        if let Some(before) = before {
            check(self.model, name, changed, before).map_err(at)?;
        }
        self.done[index].add(time, changed, cx);
        self.print(index, changed);
        Ok(changed)
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
mod tests {
    use super::*;
    use crate::{
        ir::NodeId,
        pass::{Left, Options, Pass, PassInfo, Reason, Registry, plan_nodes},
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
                // Always finds something to do.
                "swing" => {
                    let node = model.graphs[main].nodes[2];
                    let op = if model.nodes[node].is("Abs") {
                        "Sign"
                    } else {
                        "Abs"
                    };
                    model.nodes[node].op_type = op.into();
                    return Ok(Changed::Yes(1));
                }
                "unnegate-one" => return Ok(unnegate_one(model, cx)),
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

    /// Makes the first Neg an Exp; says of each other one that it is left.
    fn unnegate_one(model: &mut Model, cx: &mut PassContext) -> Changed {
        let nodes = model.reachable_nodes().into_iter();
        let mut plans: Vec<NodeId> = nodes.filter(|&n| model.nodes[n].is("Neg")).collect();
        for &node in plans.iter().skip(1) {
            let remark = Remark::new(model, "unnegate-one", node, Reason::Operator, "".into(), 0);
            cx.remarks.push(remark);
        }
        plans.truncate(1);
        cx.limit(&mut plans);
        for &node in &plans {
            model.nodes[node].op_type = "Exp".into();
        }
        cx.count("made", plans.len() as u64);
        Changed::count(plans.len())
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
        passes: &[
            info!("negate"),
            info!("fail"),
            info!("lie"),
            info!("break"),
            info!("swing"),
            info!("unnegate-one"),
        ],
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
    fn a_group_runs_until_a_round_changes_nothing() {
        let (report, ops) = run("negate,(unnegate-one,negate)*,negate", verifying());
        assert_eq!(ops, "Exp Exp Abs Exp");
        let report = report.unwrap();
        let runs: Vec<(u32, Changed)> = report.passes.iter().map(|p| (p.runs, p.changed)).collect();
        let none = Changed::No;
        assert_eq!(
            runs,
            [
                (1, Changed::Yes(3)),
                (4, Changed::Yes(3)),
                // The last run was on the model that it had left as it was before.
                (3, none),
                (1, none)
            ]
        );
        assert_eq!(report.passes[1].statistics["made"], 3);
        assert!(
            report.remarks.is_empty(),
            "only those of the last run count"
        );
        let (report, _) = run("negate,unnegate-one", verifying());
        assert_eq!(report.unwrap().remarks.len(), 2);
    }

    #[test]
    fn a_group_that_never_settles_ends() {
        let (report, ops) = run("(swing)*", verifying());
        assert_eq!(
            (report.unwrap().passes[0].runs, &*ops),
            (10, "Relu Relu Abs Relu")
        );
        let (report, _) = run("((swing)*,negate)*", verifying());
        let runs: Vec<u32> = report.unwrap().passes.iter().map(|p| p.runs).collect();
        assert_eq!(runs, [100, 10]);
    }

    #[test]
    fn stop_after_counts_over_all_rounds() {
        for (limit, expected) in [
            (3, "Neg Neg Abs Neg"),
            (4, "Exp Neg Abs Neg"),
            (5, "Exp Exp Abs Neg"),
            (9, "Exp Exp Abs Exp"),
        ] {
            let instruments = Instruments {
                stop_after: Some(limit),
                ..verifying()
            };
            let (report, ops) = run("negate,(unnegate-one)*", instruments);
            assert!(report.is_ok());
            assert_eq!(ops, expected, "{limit}");
        }
    }

    #[test]
    fn rounds_are_numbered_where_the_model_is_printed() {
        let mut printed = Vec::new();
        let mut print = |text: &str| printed.push(text.lines().next().map(str::to_owned));
        let instruments = Instruments {
            print_ir: PrintIr::After(vec!["unnegate-one".into()]),
            print: Some(&mut print),
            ..Instruments::default()
        };
        run("negate,(unnegate-one)*", instruments).0.unwrap();
        let first: Vec<String> = printed.into_iter().flatten().collect();
        assert_eq!(first[0], "// after unnegate-one");
        assert_eq!(first[3], "// after unnegate-one, round 4");
        assert_eq!(first.len(), 4);
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
