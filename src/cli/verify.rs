//! `onnxq verify`: is a model valid, and will it run there.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use onnxq::{
    Result,
    digest::sha256,
    infer,
    ir::SourceFile,
    package::{Provenance, check_sums, chunk_faults, models},
    target::{Assessment, Effect, Finding, Target, Targets, check},
    verify::{self, Violation},
};
use serde::Serialize;

use super::{Cx, ExitStatus, ReadArgs, at_option, context::Inputs};

/// Check that a model is valid, that targets run it, and that it is what it says it is
///
/// Reports every fault: where it is, what was found, what was expected. With --target also what the
/// target refuses, fails in, computes wrongly (these are faults) or slowly (a warning), with
/// how that is known: executed or observed with the release, read in its source or registry,
/// documented, or an issue.
///
/// Of a folder all models are checked, its SHA256SUMS, and whether config.json tells loaders of the side files
/// that there are. With --source a model's record of what it was made from is compared with that file.
///
/// Exit status 0: no fault, at most warnings. 1: faults. 2: the file could not be read.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  onnxq verify model_q4.onnx --target onnxruntime@1.20 --target webgpu\n  \
                  onnxq verify folder/\n  onnxq verify model_q4.onnx --source model.onnx"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// A runtime that has to run the model; may be given more than once. `onnxq targets` lists
    /// them [example: --target onnxruntime@1.20]
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// What the model says that it was made from: its SHA-256 has to be the one recorded
    /// [example: --source model.onnx]
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Write it as JSON; `-` is standard output [example: --json faults.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `--json` writes; of a folder with several models a list.
#[derive(Serialize)]
struct Report {
    /// Version of this form of the report.
    schema: u32,
    model: String,
    valid: bool,
    violations: Vec<Violation>,
    targets: Vec<Target>,
    #[serde(flatten)]
    assessment: Assessment,
    /// What made it, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<Provenance>,
    /// What is wrong with its record, and, told with the first model of a folder, with the files around it.
    faults: Vec<String>,
}

pub(crate) fn run(args: &VerifyArgs, cx: &Cx) -> Result<ExitStatus> {
    let targets = args.target.iter().map(String::as_str);
    let targets = Targets::parse(targets).map_err(at_option("--target"))?;
    let path = &args.read.model;
    let models = match path.is_dir() {
        true => models(path)?,
        false => vec![path.clone()],
    };
    let source = args.source.as_deref().map(SourceFile::open).transpose()?;
    let source = source.as_ref().map(sha256).transpose()?;
    let around = if path.is_dir() {
        around(path)?
    } else {
        Vec::new()
    };
    let reports = models
        .iter()
        .map(|model| args.report(model, &targets, source.as_deref(), cx))
        .collect::<Result<Vec<_>>>();
    if reports.is_err() {
        // What is wrong around a model often is why it cannot be opened.
        cx.out(&lines(&around))?;
    }
    let mut reports = reports?;
    reports[0].faults.extend(around);
    if let Some(json) = &args.json {
        match &reports[..] {
            [one] => cx.json(json, one)?,
            several => cx.json(json, &several)?,
        }
    }
    if args.json.as_deref() != Some("-".as_ref()) {
        for report in &reports {
            cx.out(&faults(&report.violations, &report.assessment))?;
            cx.out(&lines(&report.faults))?;
            cx.summary(&summary(report, &targets))?;
        }
    }
    Ok(match reports.iter().all(Report::is_clean) {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    })
}

impl VerifyArgs {
    fn report(
        &self,
        model: &Path,
        targets: &Targets,
        source: Option<&str>,
        cx: &Cx,
    ) -> Result<Report> {
        let (path, opened) = cx.look_at(model, &self.read.how)?;
        Inputs::of(&path, &opened).keep_from(self.json.as_deref())?;
        let violations = match verify::verify(&opened.model) {
            Ok(()) => Vec::new(),
            Err(found) => found.as_slice().to_vec(),
        };
        // What a node means is only known when the model is valid.
        let assessment = match &violations[..] {
            [] if !targets.is_empty() => {
                check(&opened.model, &infer::facts(&opened.model), targets)
            }
            _ => Assessment::default(),
        };
        let provenance = Provenance::of(&opened.model);
        let faults = source.and_then(|sha| differs(provenance.as_ref(), sha));
        Ok(Report {
            schema: 1,
            model: path.display().to_string(),
            valid: violations.is_empty(),
            violations,
            targets: targets.iter().collect(),
            assessment,
            provenance,
            faults: faults.into_iter().collect(),
        })
    }
}

impl Report {
    fn is_clean(&self) -> bool {
        self.valid && self.faults.is_empty() && self.assessment.worst() <= Effect::Slow
    }
}

/// How the record of a model differs from the SHA-256 of what it should have been made from.
fn differs(provenance: Option<&Provenance>, sha: &str) -> Option<String> {
    match provenance.map(|p| p.source_sha256.as_deref()) {
        Some(Some(recorded)) if recorded == sha => None,
        Some(Some(recorded)) => Some(format!(
            "--source has SHA-256 {sha}, and the model was made from {recorded}"
        )),
        Some(None) => {
            Some("the model does not tell the SHA-256 of its source (--record-sha)".into())
        }
        None => Some("the model does not tell what it was made from".into()),
    }
}

/// What is wrong with the files of a folder.
fn around(folder: &Path) -> Result<Vec<String>> {
    let mut faults = check_sums(folder)?.unwrap_or_default();
    faults.extend(chunk_faults(folder)?);
    Ok(faults)
}

fn lines(faults: &[String]) -> String {
    faults.iter().map(|f| format!("error: {f}\n")).collect()
}

/// One line a fault; targets' findings that differ in the node only are one.
pub(crate) fn faults(violations: &[Violation], assessment: &Assessment) -> String {
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

fn summary(report: &Report, targets: &Targets) -> String {
    let Report {
        model: path,
        assessment,
        ..
    } = report;
    match report.violations.len() {
        0 => {}
        1 => return format!("{path}: not valid: one fault\n"),
        n => return format!("{path}: not valid: {n} faults\n"),
    }
    let mut text = format!("{path}: valid\n");
    if let Some(made) = &report.provenance {
        let source = made.source_sha256.as_deref();
        let from = source.map_or(String::new(), |sha| format!(" from {sha}"));
        let _ = writeln!(
            text,
            "made by onnxq {}{from}: {}",
            made.version, made.pipeline
        );
    }
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
