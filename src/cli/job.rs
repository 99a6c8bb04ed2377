//! What `opt` and `quantize` have in common: read a model, run a pipeline, write the result.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::{
    Result,
    pass::{Changed, Options, Pipeline},
    passes::REGISTRY,
};

use super::{
    Cx, ExitStatus, ReadArgs, WriteArgs, at_option,
    check::{CheckArgs, Staging},
    context::{Inputs, at_file, record},
    instruments::InstrumentArgs,
    summary::Summary,
};

#[derive(Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Give an extent that callers choose a number, before the passes run: NAME=N, or
    /// INPUT:AXIS=N for an axis without a name; may be repeated [example: --dim batch_size=1]
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Say what would be done, and write nothing [example: --dry-run --json plan.json]
    #[arg(long)]
    dry_run: bool,
    /// Write a report; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    instruments: InstrumentArgs,
}

impl JobArgs {
    /// The pipeline of `text`, given by `option`, after the extents are fixed.
    ///
    /// # Errors
    /// One of the two is malformed.
    pub(crate) fn pipeline(&self, option: &'static str, text: &str) -> Result<Pipeline> {
        let pipeline = Pipeline::parse(text, REGISTRY).map_err(at_option(option))?;
        if self.dim.is_empty() {
            return Ok(pipeline);
        }
        let pass = REGISTRY.pass("fix-dims").expect("fix-dims is registered");
        let mut options = Options::none(pass.options);
        for dim in &self.dim {
            options.set("dim", Some(dim))?;
        }
        (pass.build)(&options).map_err(at_option("--dim"))?;
        let comma = if pipeline.steps().is_empty() { "" } else { "," };
        Pipeline::parse(
            &format!("{}{options}{comma}{pipeline}", pass.name),
            REGISTRY,
        )
    }
}

/// Runs `pipeline`; `output` tells from the path of the model where the result goes, and `check`
/// whether it may.
pub(crate) fn run(
    args: &JobArgs,
    pipeline: &Pipeline,
    output: impl FnOnce(&Path) -> PathBuf,
    check: Option<&CheckArgs>,
    cx: &Cx,
) -> Result<ExitStatus> {
    Summary::check_path(args.json.as_deref())?;
    let (path, opened) = cx.open(&args.read)?;
    let inputs = Inputs::of(&path, &opened);
    inputs.keep_from(args.json.as_deref())?;
    let check = match check {
        Some(check) => check.prepare(&path, cx)?,
        None => None,
    };
    let mut summary = Summary::new(&path, &opened, pipeline);
    let mut model = opened.model;
    let run = args.instruments.run(pipeline, &mut model, cx);
    let report = run.map_err(at_file(&path))?;
    // A model that nothing changed is written back as it was.
    if report.passes.iter().any(|p| p.changed != Changed::No) {
        let pipeline = pipeline.to_string();
        record(&mut model, &opened.file, &pipeline, &args.read, &args.write);
    }
    let output = output(&path);
    let planned = cx
        .plan(&model, &output, &args.write, &inputs, args.json.as_deref())
        .map_err(at_file(&path))?;
    let mut status = ExitStatus::Done;
    if let Some(check) = &check {
        let staging = Staging::new(&output)?;
        let saved = cx
            .save(&model, &staging.path(), &args.write, &planned)
            .map_err(at_file(&path))?;
        let evaluation = check.evaluate(&staging.path())?;
        let passed = evaluation.passed();
        if passed || check.keeps() {
            staging.publish(&saved.files)?;
        }
        if !passed {
            status = ExitStatus::Differs;
        }
        summary.checked(evaluation, passed || check.keeps());
    } else if !args.dry_run {
        cx.save(&model, &output, &args.write, &planned)
            .map_err(at_file(&path))?;
    }
    summary.written(planned, args.dry_run);
    summary.report(report);
    summary.finish(cx, args.json.as_deref())?;
    Ok(status)
}
