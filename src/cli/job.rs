//! What `opt` and `quantize` have in common: read a model, run a pipeline, write the result.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use onnxq::{
    Error, Result,
    eval::Evaluation,
    infer::facts,
    ir::Model,
    onnx::Saved,
    package::{LoaderConfig, Origin, Provenance},
    pass::{Changed, Options, Pipeline, Report},
    passes::REGISTRY,
    target::{self, Effect, Target, Targets},
    weights::Calibrated,
};
use rayon::prelude::*;

use super::{
    Cx, ExitStatus, ReadArgs, WriteArgs, at_option,
    check::{Check, CheckArgs, Spare, Staging},
    context::{Inputs, at_file},
    instruments::InstrumentArgs,
    package::{Folder, loader_config},
    summary::{Outcome, Summary},
    verify::faults,
};

#[derive(Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Give an extent that callers choose a number, before the passes run: NAME=N, or
    /// INPUT:AXIS=N for an axis without a name; may be repeated [example: --dim batch_size=1]
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Say what would be done, and write nothing [example: --dry-run --json plan.json]
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write a report; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    instruments: InstrumentArgs,
}

impl JobArgs {
    /// Prints the reports, and writes them where asked.
    pub(crate) fn report(&self, summaries: &[Summary], cx: &Cx) -> Result<()> {
        Summary::finish(summaries, cx, self.json.as_deref())
    }

    /// Whether standard output has the report as JSON.
    pub(crate) fn reports_to_stdout(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

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

/// One of the outputs of a job.
pub(crate) struct Variant<'a> {
    /// What is done to the model.
    pub(crate) pipeline: Pipeline,
    /// Tells from the path of the model where the result goes.
    pub(crate) output: Box<dyn Fn(&Path) -> PathBuf + 'a>,
}

/// A result that is ready to be written.
struct Ready<'v> {
    model: Model,
    report: Report,
    pipeline: &'v Pipeline,
    output: PathBuf,
    planned: Saved,
    runs_from: Option<Target>,
}

impl Demands<'_> {
    /// The oldest release of ONNX Runtime that runs `model`, when that is known.
    ///
    /// # Errors
    /// A target does not run it, or gets it wrong.
    fn runs(&self, model: &Model) -> Result<Option<Target>> {
        let facts = facts(model);
        let mut assessment = target::check(model, &facts, self.targets);
        assessment
            .findings
            .retain(|f| f.because.effect > Effect::Slow);
        match assessment.findings.is_empty() {
            true => Ok(target::oldest_onnxruntime(model, &facts)),
            false => Err(Error::input(format!(
                "--target: the result would not run there, so it is not written\n{}",
                faults(&[], &assessment).trim_end()
            ))),
        }
    }
}

/// What has to hold of the outputs of a job, or is told of them.
pub(crate) struct Demands<'a> {
    /// The runtimes that have to run them.
    pub(crate) targets: &'a Targets,
    /// An evaluation.
    pub(crate) check: &'a CheckArgs,
    /// What it is on, where no text is given for it.
    pub(crate) spare: Option<Spare>,
    /// The folder that they go to, which the caller publishes.
    pub(crate) folder: Option<&'a Folder<'a>>,
}

/// What became of a job, or of several.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    /// A report of each output.
    pub(crate) summaries: Vec<Summary>,
    /// What a check found of each output.
    pub(crate) checked: Vec<Evaluation>,
    /// What loaders are told of each output that missed no limit.
    pub(crate) models: Vec<LoaderConfig>,
}

impl Done {
    /// Adds what became of another.
    pub(crate) fn add(&mut self, other: Done) {
        if other.status != ExitStatus::Done {
            self.status = other.status;
        }
        self.summaries.extend(other.summaries);
        self.checked.extend(other.checked);
        self.models.extend(other.models);
    }
}

/// Runs the pipelines of `variants` on one model, writes what they make of it where that meets the
/// demands, and reports. `calibrated` is for their passes.
pub(crate) fn run(
    args: &JobArgs,
    variants: &[Variant<'_>],
    calibrated: Option<Arc<Calibrated>>,
    demands: Option<&Demands<'_>>,
    cx: &Cx,
) -> Result<ExitStatus> {
    let done = make(args, variants, calibrated, demands, cx)?;
    args.report(&done.summaries, cx)?;
    Ok(done.status)
}

/// As [`run`], with the reports in the caller's hands.
pub(crate) fn make(
    args: &JobArgs,
    variants: &[Variant<'_>],
    calibrated: Option<Arc<Calibrated>>,
    demands: Option<&Demands<'_>>,
    cx: &Cx,
) -> Result<Done> {
    let (path, opened) = cx.open(&args.read)?;
    let inputs = Inputs::of(&path, &opened);
    inputs.keep_from(args.json.as_deref())?;
    let check = match demands {
        Some(demands) => demands.check.prepare(&path, demands.spare.as_ref(), cx)?,
        None => None,
    };
    let summary = Summary::start(&path, &opened);
    let pipelines: Vec<&Pipeline> = variants.iter().map(|v| &v.pipeline).collect();
    let run = args
        .instruments
        .run(&pipelines, opened.model, calibrated, cx);
    let results = run.map_err(at_file(&path))?;
    let runs_from = results
        .par_iter()
        .map(|(model, _)| demands.map_or(Ok(None), |d| d.runs(model)))
        .collect::<Result<Vec<_>>>()
        .map_err(at_file(&path))?;
    let folder = demands.and_then(|d| d.folder);
    // What is given away tells where it comes from.
    let with_sha = args.write.record_sha || folder.is_some();
    let mut ready = Vec::with_capacity(results.len());
    let results = results.into_iter().zip(runs_from);
    for (variant, ((mut model, report), runs_from)) in variants.iter().zip(results) {
        let pipeline = &variant.pipeline;
        // A model that nothing changed is written back as it was.
        if report.passes.iter().any(|p| p.changed != Changed::No) {
            let text = pipeline.to_string();
            let origin = match &args.read.how.verify_sha {
                Some(sha) => Origin::Sha256(sha),
                None if with_sha => Origin::File(opened.file.clone()),
                None => Origin::Unrecorded,
            };
            Provenance::record(&mut model, &text, origin);
        }
        let output = (variant.output)(&path);
        let output = folder.map_or(output.clone(), |f| f.output(&output));
        let planned = cx
            .plan(&model, &output, &args.write, &inputs, args.json.as_deref())
            .map_err(at_file(&path))?;
        folder.map_or(Ok(()), |f| f.check(&planned))?;
        ready.push(Ready {
            model,
            report,
            pipeline,
            output,
            planned,
            runs_from,
        });
    }
    for (i, r) in ready.iter().enumerate() {
        if ready[..i].iter().any(|other| other.output == r.output) {
            return Err(Error::input(format!(
                "two outputs would be `{}`; expected different dtypes",
                r.output.display()
            )));
        }
    }
    let place = |r: &Ready<'_>| match folder {
        Some(folder) if !args.dry_run || check.is_some() => folder.place(&r.output),
        _ => Ok(r.output.clone()),
    };
    let targets = ready.iter().map(place).collect::<Result<Vec<_>>>()?;
    let mut checked = Vec::new();
    if let Some(check) = &check {
        checked = publish_checked(&ready, &targets, check, &path, args, cx)?;
    } else if !args.dry_run {
        save(&ready, &targets, args, cx).map_err(at_file(&path))?;
    }
    let passed = checked.iter().all(Evaluation::passed);
    let mut evaluations = checked.iter();
    let keeps = check.is_some_and(|c| c.keeps());
    let mut models = Vec::new();
    let summaries: Vec<Summary> = ready
        .into_iter()
        .map(|r| {
            let evaluation = evaluations.next();
            let published = keeps || evaluation.is_none_or(Evaluation::passed);
            if published {
                models.push(loader_config(&r.model, &r.planned));
            }
            summary.of(Outcome {
                pipeline: r.pipeline,
                report: r.report,
                saved: r.planned,
                runs_from: r.runs_from,
                dry_run: args.dry_run,
                check: evaluation.cloned(),
                published,
            })
        })
        .collect();
    let status = match passed {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    };
    Ok(Done {
        status,
        summaries,
        checked,
        models,
    })
}

/// Writes all of `ready`, each to its target.
fn save(ready: &[Ready<'_>], targets: &[PathBuf], args: &JobArgs, cx: &Cx) -> Result<Vec<Saved>> {
    let models: Vec<(&Model, &Path)> = ready
        .iter()
        .zip(targets)
        .map(|(r, target)| (&r.model, &**target))
        .collect();
    let bytes = ready.iter().map(|r| r.planned.bytes()).sum();
    cx.save(&models, &args.write, bytes)
}

/// Evaluates all of `ready`, and gives those their names that missed no limit, unless nothing is to be
/// written: then it was for the evaluation alone.
fn publish_checked(
    ready: &[Ready<'_>],
    targets: &[PathBuf],
    check: &Check<'_>,
    model: &Path,
    args: &JobArgs,
    cx: &Cx,
) -> Result<Vec<Evaluation>> {
    let staged = targets
        .iter()
        .map(|target| Staging::new(target))
        .collect::<Result<Vec<_>>>()?;
    let places: Vec<PathBuf> = staged.iter().map(Staging::path).collect();
    let saved = save(ready, &places, args, cx).map_err(at_file(model))?;
    let evaluations = places
        .iter()
        .map(|place| check.evaluate(place))
        .collect::<Result<Vec<_>>>()?;
    for ((staging, saved), evaluation) in staged.into_iter().zip(saved).zip(&evaluations) {
        if !args.dry_run && (evaluation.passed() || check.keeps()) {
            staging.publish(&saved.files)?;
        }
    }
    Ok(evaluations)
}
