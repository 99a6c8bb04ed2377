//! `onnxq diff`: what is different between two models.

use std::path::PathBuf;

use onnxq::{
    diff::{Difference, diff},
    error::{Error, Result},
    onnx::Opened,
};
use serde::Serialize;

use super::{Cx, ExitStatus};

/// Shows what is different between two models: nodes, operators, weights, inputs and
/// outputs, versions, metadata
///
/// Exit status 0 when they say the same (their files may still encode it differently), 1
/// when they differ, 2 when they could not be compared.
#[derive(clap::Args)]
#[command(after_help = "Example: onnxq diff model.onnx model_q4.onnx")]
pub(crate) struct DiffArgs {
    /// Model A: a file, or a folder that holds one
    a: PathBuf,
    /// Model B
    b: PathBuf,
    /// Write JSON, with every entry of every list; for example `--json > diff.json`
    #[arg(long)]
    json: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Output<'a> {
    a: Side,
    b: Side,
    #[serde(flatten)]
    difference: &'a Difference,
}

#[derive(Serialize)]
struct Side {
    path: String,
    /// Length of the model and its side files.
    bytes: u64,
}

impl Side {
    fn of(opened: &Opened) -> Side {
        let side_files = opened.side_files.iter().map(|f| f.len());
        Side {
            path: opened.file.path().display().to_string(),
            bytes: opened.file.len() + side_files.sum::<u64>(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &DiffArgs, cx: &Cx) -> Result<ExitStatus> {
    let (a, b) = (cx.open(&args.a)?, cx.open(&args.b)?);
    let difference = diff(&a.model, &b.model)?;
    let (a, b) = (Side::of(&a), Side::of(&b));
    if args.json {
        let output = Output {
            a,
            b,
            difference: &difference,
        };
        let json = serde_json::to_string_pretty(&output);
        let json = json.map_err(|e| Error::input("the difference as JSON").with_source(e))?;
        cx.out(&(json + "\n"))?;
    } else {
        let header = format!(
            "a           {}, {} bytes\nb           {}, {} bytes\n",
            a.path, a.bytes, b.path, b.bytes
        );
        cx.out(&(header + &difference.to_string()))?;
    }
    Ok(match difference.same {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    })
}
