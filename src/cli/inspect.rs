//! `onnxq inspect`: what a model is.

use std::path::PathBuf;

use clap::Args;
use onnxq::{Result, inspect::inspect};

use super::{Cx, ExitStatus, ReadArgs, context::Inputs};

/// Show what a model is: inputs and outputs, dynamic axes, operators, weights, SHA-256
///
/// Tells whether a batch larger than 1 is allowed, and what forbids it.
#[derive(Args)]
#[command(after_help = "Example:\n  onnxq inspect model.onnx --json -")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Write it as JSON; `-` is standard output [example: --json model.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave out SHA-256, which reads every byte of the files
    #[arg(long)]
    no_hash: bool,
}

pub(crate) fn run(args: &InspectArgs, cx: &Cx) -> Result<ExitStatus> {
    let (path, opened) = cx.look_at(&args.read.model, &args.read.how)?;
    Inputs::of(&path, &opened).keep_from(args.json.as_deref())?;
    let inspection = inspect(&opened, !args.no_hash)?;
    match &args.json {
        Some(path) => cx.json(path, &inspection)?,
        None => cx.out(&inspection.to_string())?,
    }
    Ok(ExitStatus::Done)
}
