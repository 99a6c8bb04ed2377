//! `onnxq opt`: run a pipeline.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::Result;

use super::{
    Cx, ExitStatus,
    context::{model_path, output_path},
    job::{self, JobArgs, Variant},
    places::Places,
};

/// Run a pipeline of passes over a model
#[derive(Args)]
#[command(
    after_help = "Example:\n  onnxq opt model.onnx -o clean.onnx --passes 'strip-attrs,share-weights'\n\
                        \n`onnxq passes` lists the passes. An empty pipeline reads and writes the model."
)]
pub(crate) struct OptArgs {
    /// Output: a file, or a folder to put it in under its own name; may be the input
    /// [example: -o clean.onnx]
    #[arg(long, short)]
    output: PathBuf,
    /// The passes [example: --passes 'strip-attrs,nbits{bits=4,block=32}']
    #[arg(long, value_name = "PIPELINE")]
    passes: String,
    #[command(flatten)]
    job: JobArgs,
}

pub(crate) fn run(args: &OptArgs, cx: &Cx) -> Result<ExitStatus> {
    let pipeline = args.job.pipeline("--passes", &args.passes)?;
    let output = |input: &Path| {
        let name = input.file_name().unwrap_or_default().to_string_lossy();
        output_path(&args.output, &name)
    };
    let steps = pipeline.steps();
    let mut places = Places::reading(steps.iter().flat_map(|step| step.options.files()));
    let written = [output(&model_path(&args.job.read.model)?)];
    for path in written.iter().chain(&args.job.json) {
        places.write(path)?;
    }
    let variant = Variant {
        pipeline,
        output: Box::new(output),
    };
    job::run(&args.job, &[variant], None, None, cx)
}
