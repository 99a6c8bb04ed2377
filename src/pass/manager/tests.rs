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
    let mut manager = PassManager {
        instruments,
        calibrated: None,
    };
    let report = manager.run(&pipeline, &mut model);
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
    let after =
        |names: &[&str]| PrintIr::After(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
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
