//! `onnxq targets`: which runtimes are known, and what of them.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use onnxq::{
    Result,
    target::{Row, Runtime, Target, rows},
};
use serde::Serialize;

use super::{Cx, ExitStatus, at_option};

/// List the targets, or what is known of one
///
/// A target is a runtime and a version of it: `--target` takes them. What is listed of one is
/// what its releases do other than a model would expect. Which operators and types ONNX Runtime
/// has kernels for is known besides, from the registries of its releases; a device leaves what it
/// has no kernel for to the CPU.
#[derive(Args)]
#[command(after_help = "Example:\n  onnxq targets onnxruntime@1.20")]
pub(crate) struct TargetsArgs {
    /// A target [example: onnxq targets webgpu]
    name: Option<String>,
    /// Write it as JSON; `-` is standard output [example: --json targets.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    /// Version of this form of the report.
    schema: u32,
    targets: Vec<Listed>,
    rows: Vec<RowReport>,
}

#[derive(Serialize)]
struct Listed {
    target: &'static str,
    /// Other names.
    aliases: Vec<&'static str>,
    versions: Vec<String>,
}

#[derive(Serialize)]
struct RowReport {
    scope: &'static str,
    versions: &'static str,
    operator: String,
    condition: &'static str,
    effect: &'static str,
    reason: &'static str,
    instead: &'static str,
    source: &'static str,
}

pub(crate) fn run(args: &TargetsArgs, cx: &Cx) -> Result<ExitStatus> {
    let target = match &args.name {
        Some(name) => Some(Target::parse(name).map_err(at_option("NAME"))?),
        None => None,
    };
    if let Some(json) = &args.json {
        cx.json(json, &report(target))?;
        return Ok(ExitStatus::Done);
    }
    cx.out(&match target {
        Some(target) => rows_of(target),
        None => list(),
    })?;
    Ok(ExitStatus::Done)
}

/// The rows about `target`, or all.
fn about(target: Option<Target>) -> impl Iterator<Item = &'static Row> {
    let rows = rows().iter();
    rows.filter(move |row| target.is_none_or(|t| row.is_about(t)))
}

fn report(target: Option<Target>) -> Report {
    let runtimes = Runtime::all().filter(|r| target.is_none_or(|t| t.runtime == *r));
    let listed = runtimes.map(|runtime| Listed {
        target: runtime.name(),
        aliases: runtime.aliases().to_vec(),
        versions: runtime.versions().map(|v| v.to_string()).collect(),
    });
    let rows = about(target).map(|row| RowReport {
        scope: row.scope(),
        versions: row.versions(),
        operator: row.operator(),
        condition: row.condition,
        effect: row.effect.name(),
        reason: row.reason,
        instead: row.instead,
        source: row.source,
    });
    Report {
        schema: 1,
        targets: listed.collect(),
        rows: rows.collect(),
    }
}

fn list() -> String {
    let mut text = "Targets:\n".to_owned();
    for runtime in Runtime::all() {
        let versions: Vec<String> = runtime.versions().map(|v| v.to_string()).collect();
        let span = match &versions[..] {
            [first, .., last] => format!("{first} to {last}"),
            _ => versions.concat(),
        };
        let aliases = match runtime.aliases() {
            [] => String::new(),
            aliases => format!("also {}", aliases.join(", ")),
        };
        let line = format!("  {:<22} {span:<14} {aliases}", runtime.name());
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for (name, target) in Target::shipped() {
        let _ = writeln!(text, "  {name:<22} {target}");
    }
    text + "\nA name without a version means the newest. `onnxq targets NAME` lists what is \
            known.\n"
}

fn rows_of(target: Target) -> String {
    let mut text = format!("{target}\n");
    if let Some((ir, opset)) = target.newest_formats() {
        let _ = writeln!(text, "loads IR version {ir} and opset {opset} at most");
    }
    let mut operator = String::new();
    for row in about(Some(target)) {
        if row.operator() != operator {
            operator = row.operator();
            let _ = writeln!(text, "\n{operator}");
        }
        let condition = match row.condition {
            "-" => "always",
            condition => condition,
        };
        let instead = match row.instead {
            "" => String::new(),
            instead => format!("; use {instead}"),
        };
        let reason = match row.reason {
            "" => String::new(),
            reason => format!(": {reason}{instead}"),
        };
        let _ = writeln!(
            text,
            "  {:<8} {condition}{reason} ({})",
            row.effect.name(),
            row.source
        );
    }
    text
}
