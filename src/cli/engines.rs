//! `onnxq engines`: what can run models on this machine.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use onnxq::{
    Result,
    engine::{Candidate, FoundBy, candidates},
};
use serde::Serialize;

use super::{Cx, ExitStatus, engine_args::LibraryArgs};

/// Show what can run models here: engines, versions, libraries, and which one is taken
///
/// The one that is marked runs models when no `--engine` says which.
#[derive(Args)]
#[command(after_help = "Example:\n  onnxq engines --ort-lib /usr/lib/libonnxruntime.so")]
pub(crate) struct EnginesArgs {
    #[command(flatten)]
    library: LibraryArgs,
    /// Write it as JSON; `-` is standard output [example: --json engines.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    /// Version of this form of the report.
    schema: u32,
    engines: Vec<Candidate>,
}

pub(crate) fn run(args: &EnginesArgs, cx: &Cx) -> Result<ExitStatus> {
    let engines = candidates(args.library.ort_lib.as_deref())?;
    match &args.json {
        Some(path) => cx.json(path, &Report { schema: 1, engines })?,
        None => cx.out(&text(&engines))?,
    }
    Ok(ExitStatus::Done)
}

fn text(engines: &[Candidate]) -> String {
    let mut text = String::new();
    for engine in engines {
        let mark = if engine.taken { "*" } else { " " };
        let version = engine.version.as_deref().unwrap_or("?");
        let found = engine.found_by.map_or("part of onnxq", FoundBy::name);
        let line = format!("{mark} {:<12} {version:<10} {found:<15}", engine.engine);
        let path = engine.path.as_ref().map(|p| p.display().to_string());
        let line = format!("{line} {}", path.unwrap_or_default());
        // Nothing can go wrong in writing to a string.
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(why) = &engine.unusable {
            let _ = writeln!(text, "  unusable: {why}");
        }
    }
    let taken = engines.iter().find(|e| e.taken);
    let taken = taken.map_or("nothing: what was named cannot be used".to_owned(), |e| {
        format!("{} {}", e.engine, e.version.as_deref().unwrap_or("?"))
    });
    let _ = writeln!(text, "\n--engine auto takes {taken}");
    text
}
