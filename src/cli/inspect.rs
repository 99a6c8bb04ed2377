//! `onnxq inspect`: what a model is.

use std::path::PathBuf;

use onnxq::{
    error::{Error, Result},
    inspect::inspect,
};

use super::{Cx, ExitStatus};

/// Shows inputs and outputs, dynamic axes, whether a batch is allowed, operators, weights
/// by type, versions, metadata, and SHA-256 of the files
#[derive(clap::Args)]
#[command(after_help = "Example: onnxq inspect model.onnx --json")]
pub(crate) struct InspectArgs {
    /// The model: a file, or a folder that holds one
    model: PathBuf,
    /// Write JSON; for example `--json > model.json`
    #[arg(long)]
    json: bool,
    /// Leave out SHA-256, which reads every byte; for example with a model of gigabytes
    #[arg(long)]
    no_hash: bool,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, cx: &Cx) -> Result<ExitStatus> {
    let opened = cx.open(&args.model)?;
    let inspection = inspect(&opened, !args.no_hash)?;
    if args.json {
        let json = serde_json::to_string_pretty(&inspection);
        let json = json.map_err(|e| Error::input("the inspection as JSON").with_source(e))?;
        cx.out(&(json + "\n"))?;
    } else {
        cx.out(&inspection.to_string())?;
    }
    Ok(ExitStatus::Done)
}
