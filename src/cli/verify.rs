//! `onnxq verify`: is a model valid, and will it run there.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use onnxq::{
    Result, infer,
    target::{Assessment, Effect, Finding, Target, Targets, check},
    verify::{self, Violation},
};
use serde::Serialize;

use super::{Cx, ExitStatus, ReadArgs, at_option, context::Inputs};

/// Check that a model is valid, and that targets run it
///
/// Reports every fault: where it is, what was found, what was expected. With --target also what the
/// target refuses, fails in, computes wrongly (these are faults) or slowly (a warning), with
/// how that is known: executed or observed with the release, read in its source or registry,
/// documented, or an issue.
///
/// Exit status 0: no fault, at most warnings. 1: faults. 2: the file could not be read.
#[derive(Args)]
#[command(
    after_help = "Example:\n  onnxq verify model_q4.onnx --target onnxruntime@1.20 --target webgpu"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// A runtime that has to run the model; may be given more than once. `onnxq targets` lists
    /// them [example: --target onnxruntime@1.20]
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// Write it as JSON; `-` is standard output [example: --json faults.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    /// Version of this form of the report.
    schema: u32,
    model: String,
    valid: bool,
    violations: &'a [Violation],
    targets: Vec<Target>,
    #[serde(flatten)]
    assessment: &'a Assessment,
}

pub(crate) fn run(args: &VerifyArgs, cx: &Cx) -> Result<ExitStatus> {
    let targets = args.target.iter().map(String::as_str);
    let targets = Targets::parse(targets).map_err(at_option("--target"))?;
    let (path, opened) = cx.look_at(&args.read.model, &args.read.how)?;
    Inputs::of(&path, &opened).keep_from(args.json.as_deref())?;
    let verified = verify::verify(&opened.model);
    let violations = verified.as_ref().err().map_or(&[][..], |v| v.as_slice());
    // What a node means is only known when the model is valid.
    let assessment = match violations {
        [] if !targets.is_empty() => check(&opened.model, &infer::facts(&opened.model), &targets),
        _ => Assessment::default(),
    };
    let path = path.display().to_string();
    if let Some(json) = &args.json {
        let report = Report {
            schema: 1,
            model: path.clone(),
            valid: violations.is_empty(),
            violations,
            targets: targets.iter().collect(),
            assessment: &assessment,
        };
        cx.json(json, &report)?;
    }
    if args.json.as_deref() != Some("-".as_ref()) {
        cx.out(&faults(violations, &assessment))?;
        cx.summary(&summary(&path, violations, &targets, &assessment))?;
    }
    let clean = violations.is_empty() && assessment.worst() <= Effect::Slow;
    Ok(match clean {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    })
}

/// One line a fault; targets' findings that differ in the node only are one.
fn faults(violations: &[Violation], assessment: &Assessment) -> String {
    let mut text = String::new();
    for violation in violations {
        let _ = writeln!(text, "error: {violation}");
    }
    let mut groups: Vec<(&Finding, Vec<&str>)> = Vec::new();
    for finding in &assessment.findings {
        let same = |g: &&mut (&Finding, Vec<&str>)| {
            g.0.because == finding.because && g.0.operator == finding.operator
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.1.push(&finding.location),
            None => groups.push((finding, vec![&finding.location])),
        }
    }
    for (finding, places) in groups {
        let _ = writeln!(text, "{}", line(finding, &places));
    }
    text
}

fn line(finding: &Finding, places: &[&str]) -> String {
    let because = &finding.because;
    let kind = match because.effect {
        Effect::Runs | Effect::Slow => "warning",
        Effect::Wrong | Effect::Fails | Effect::Refused => "error",
    };
    let mut text = format!("{kind}: {}: ", because.target);
    match places {
        [] | [""] => {}
        [place] => text += &format!("{place}: "),
        [place, others @ ..] => text += &format!("{place} and {} more: ", others.len()),
    }
    let found = match because.found.is_empty() {
        true => String::new(),
        false => format!(" with {}", because.found),
    };
    match finding.operator.is_empty() {
        true => text += &because.found,
        false => text += &format!("{}{found}", finding.operator),
    }
    text += &format!(" {}: {}", outcome(because.effect), because.reason);
    if !because.instead.is_empty() {
        text += &format!("; use {}", because.instead);
    }
    format!("{text} ({})", because.source)
}

/// What becomes of it, as the end of a sentence.
fn outcome(effect: Effect) -> &'static str {
    match effect {
        Effect::Runs => "runs",
        Effect::Slow => "is slow",
        Effect::Wrong => "gives a wrong result",
        Effect::Fails => "fails when it runs",
        Effect::Refused => "is refused",
    }
}

fn summary(
    path: &str,
    violations: &[Violation],
    targets: &Targets,
    assessment: &Assessment,
) -> String {
    match violations.len() {
        0 => {}
        1 => return format!("{path}: not valid: one fault\n"),
        n => return format!("{path}: not valid: {n} faults\n"),
    }
    let mut text = format!("{path}: valid\n");
    for target in targets.iter() {
        let findings = assessment.findings.iter();
        let effects = findings.filter(|f| f.because.target == target);
        let worst = effects.map(|f| f.because.effect).max();
        let not_known = assessment.not_known.iter().filter(|n| n.target == target);
        let nodes: usize = not_known.clone().map(|n| n.nodes).sum();
        let mut operators: Vec<&str> = not_known.map(|n| &*n.operator).collect();
        let total = operators.len();
        operators.truncate(8);
        let more = if total > 8 { ", ..." } else { "" };
        let verdict = outcome(worst.unwrap_or(Effect::Runs));
        let known = match (worst, nodes) {
            (_, 0) => format!("{target}: {verdict}"),
            (None, n) => format!(
                "{target}: nothing is known against it; of {n} nodes it is not known that they run"
            ),
            (Some(_), n) => format!("{target}: {verdict}; of {n} nodes it is not known"),
        };
        let list = match nodes {
            0 => String::new(),
            _ => format!(" ({}{more})", operators.join(", ")),
        };
        let _ = writeln!(text, "{known}{list}");
    }
    text
}
