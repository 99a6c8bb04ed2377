//! `onnxq diff`: what is different between two models.

use std::path::PathBuf;

use clap::Args;
use onnxq::{
    Result,
    diff::{Difference, diff},
    onnx::Opened,
};
use serde::Serialize;

use super::{Cx, ExitStatus, ReadOptions, context::Inputs, parse_sha};

/// Show what is different between two models
///
/// Nodes, operators, weights, inputs and outputs, versions, metadata. Exit status 0 when they
/// say the same (their files may still encode it differently), 1 when they differ.
#[derive(Args)]
#[command(after_help = "Example:\n  onnxq diff model.onnx model_q4.onnx")]
pub(crate) struct DiffArgs {
    /// Model A: a file, or a folder that holds one
    a: PathBuf,
    /// Model B
    b: PathBuf,
    #[command(flatten)]
    how: ReadOptions,
    /// The same as --verify-sha, for model B
    #[arg(long, value_name = "HEX", value_parser = parse_sha)]
    verify_sha_b: Option<String>,
    /// Write it as JSON, every list whole; `-` is standard output [example: --json diff.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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

pub(crate) fn run(args: &DiffArgs, cx: &Cx) -> Result<ExitStatus> {
    let how_b = ReadOptions {
        drop_unknown: args.how.drop_unknown,
        verify_sha: args.verify_sha_b.clone(),
    };
    let (path_a, a) = cx.look_at(&args.a, &args.how)?;
    let (path_b, b) = cx.look_at(&args.b, &how_b)?;
    for (path, opened) in [(path_a, &a), (path_b, &b)] {
        Inputs::of(&path, opened).keep_from(args.json.as_deref())?;
    }
    let difference = diff(&a.model, &b.model)?;
    let (a, b) = (Side::of(&a), Side::of(&b));
    match &args.json {
        Some(path) => cx.json(
            path,
            &Output {
                a,
                b,
                difference: &difference,
            },
        )?,
        None => cx.out(&format!(
            "a           {}, {} bytes\nb           {}, {} bytes\n{difference}",
            a.path, a.bytes, b.path, b.bytes
        ))?,
    }
    Ok(match difference.same {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    })
}
