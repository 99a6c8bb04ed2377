//! `onnxq opt`: run a pipeline.

use std::path::PathBuf;

use clap::Args;
use onnxq::{
    Result,
    pass::{Changed, Pipeline},
    passes::REGISTRY,
};

use super::{
    Cx, ExitStatus, ReadArgs, WriteArgs, at_option,
    context::{Inputs, at_file, output_path, record},
    instruments::InstrumentArgs,
    summary::Summary,
};

/// Run a pipeline of passes over a model
#[derive(Args)]
#[command(
    after_help = "Example:\n  onnxq opt model.onnx -o clean.onnx --passes 'strip-attrs,share-weights'\n\
                        \n`onnxq passes` lists the passes. An empty pipeline reads and writes the model."
)]
pub(crate) struct OptArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Output: a file, or a folder to put it in under its own name; may be the input
    #[arg(long, short)]
    output: PathBuf,
    /// The passes [example: --passes 'strip-attrs,nbits{bits=4,block=32}']
    #[arg(long, value_name = "PIPELINE")]
    passes: String,
    /// Write a report; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    instruments: InstrumentArgs,
}

pub(crate) fn run(args: &OptArgs, cx: &Cx) -> Result<ExitStatus> {
    let pipeline = Pipeline::parse(&args.passes, REGISTRY).map_err(at_option("--passes"))?;
    Summary::check_path(args.json.as_deref())?;
    let (path, opened) = cx.open(&args.read)?;
    let inputs = Inputs::of(&path, &opened);
    inputs.keep_from(args.json.as_deref())?;
    let mut summary = Summary::new(&path, &opened, &pipeline);
    let mut model = opened.model;
    let report = args
        .instruments
        .run(&pipeline, &mut model, cx)
        .map_err(at_file(&path))?;
    // A model that nothing changed is written back as it was.
    if report.passes.iter().any(|p| p.changed != Changed::No) {
        record(
            &mut model,
            &opened.file,
            &pipeline.to_string(),
            &args.read,
            &args.write,
        );
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let output = output_path(&args.output, &name);
    let planned = cx
        .plan(&model, &output, &args.write, &inputs, args.json.as_deref())
        .map_err(at_file(&path))?;
    summary.written(
        cx.save(&model, &output, &args.write, &planned)
            .map_err(at_file(&path))?,
    );
    summary.report(report);
    summary.finish(cx, args.json.as_deref())?;
    Ok(ExitStatus::Done)
}
