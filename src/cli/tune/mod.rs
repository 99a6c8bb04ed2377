//! `onnxq tune`: ways to quantize a model, by size and distance from it.

mod folder;
mod tuner;
mod way;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
    slice,
};

use clap::Args;
use onnxq::{
    Error, Result,
    report::{frontier_html, frontier_text},
    tune::Report,
};

use self::{
    folder::Folder,
    tuner::{Source, Tuner},
    way::{Calibration, Common, Way},
};
use super::{
    Cx, ExitStatus,
    engine_args::EngineArgs,
    feed_args::FeedArgs,
    places::Places,
    quantize::Dtype,
    text_args::{WINDOW, parse_count},
};

/// Quantize a model in several ways, and show what each costs: size against distance from the model
#[derive(Args)]
#[command(after_help = "Examples:\n  onnxq tune model.onnx --text test.txt\n  \
                  onnxq tune model.onnx --text test.txt --calibrate valid.txt -o models --html tune.html\n  \
                  onnxq tune model.onnx --text test.txt --try '--method mse' --try '--method hqq --block-size 32'\n  \
                  onnxq tune vision.onnx --inputs images.npz --try '--dtype int8' --try '--dtype q4'")]
pub(crate) struct TuneArgs {
    /// An ONNX file, or a folder that holds model.onnx or onnx/model.onnx
    model: PathBuf,
    /// A folder to keep the models in, named after their ways; what it has of an interrupted run is not
    /// made again [default: none is kept; example: -o models]
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// A way to quantize: options of `onnxq quantize` that say how, in one argument; may be repeated
    /// [default: a list of usual ways; example: --try '--method mse --asymmetric --block-size 32']
    #[arg(long = "try", value_name = "OPTIONS", allow_hyphen_values = true)]
    tries: Vec<String>,
    /// The dtype of ways that name none [example: --dtype q4]
    #[arg(long, value_name = "DTYPE", default_value = "q4f16")]
    dtype: Dtype,
    /// What the ways that are calibrated run the model on: a text, or tensors; it must not be what the
    /// models are compared on. Those that name a method without calibration do without it
    /// [example: --calibrate valid.txt]
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// How many windows of that text; or `all` [default: 64; example: --calibration-windows 128]
    #[arg(long, value_name = "N", requires = "calibrate", value_parser = checked_count)]
    calibration_windows: Option<String>,
    #[command(flatten)]
    feed: FeedArgs,
    /// Measure the engine's own noise on the begin of the first N windows, or on N items; 0: not at
    /// all [example: --noise 0]
    #[arg(long, value_name = "N", default_value_t = 1)]
    noise: usize,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write everything as JSON; `-` is standard output [example: --json tune.json]
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    json: Option<PathBuf>,
    /// Write a page with a chart of size against distance [example: --html tune.html]
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    html: Option<PathBuf>,
}

fn checked_count(text: &str) -> Result<String, String> {
    parse_count(text).map(|_| text.to_owned())
}

pub(crate) fn run(args: &TuneArgs, cx: &Cx) -> Result<ExitStatus> {
    // From here on Ctrl-C ends the work at its next step, so that what is temporary goes away.
    drop(cx.steps());
    args.check_files()?;
    let source = Source::open(args, cx)?;
    let common = args.common(&source.path);
    let ways = Way::all(&args.tries, &common)?;
    let folder = Folder::new(args.output.as_deref())?;
    let kept = folder.kept()?;
    let report = Tuner::new(args, &common, &source, &folder, cx)?.run(&ways, kept)?;
    if let Some(path) = &args.html {
        let title = format!("Ways to quantize {}", report.baseline.name);
        cx.file(path, &frontier_html(&title, &report))?;
    }
    if let Some(path) = &args.json {
        cx.json(path, &report)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        cx.summary(&frontier_text(&report))?;
    }
    verdict(&report, &ways)?;
    folder.finish();
    Ok(ExitStatus::Done)
}

/// A way that was asked for and made nothing is an error, once everything else is told.
fn verdict(report: &Report, ways: &[Way]) -> Result<()> {
    let asked = ways.iter().any(|w| w.is_asked_for);
    match &report.failed[..] {
        [first, ..] if asked || report.ways.is_empty() => Err(Error::input(format!(
            "{} of {} ways made nothing; the first is `{}`: {}",
            report.failed.len(),
            ways.len(),
            first.options,
            first.error
        ))),
        _ => Ok(()),
    }
}

impl TuneArgs {
    /// Fails when there is no text to calibrate on, or a report would be written over a file that is read.
    fn check_files(&self) -> Result<()> {
        if let Some(file) = &self.calibrate {
            let missing = |e| Error::io(format!("--calibrate `{}`", file.display()), e);
            fs::metadata(file).map_err(missing)?;
        }
        let mut places = Places::reading(
            self.feed
                .files(slice::from_ref(&self.model))
                .iter()
                .chain(&self.calibrate),
        );
        let mut outputs = self.json.iter().chain(&self.html);
        outputs.try_for_each(|output| places.write(output))
    }

    fn common<'a>(&'a self, model: &'a Path) -> Common<'a> {
        let how = &self.feed.how;
        Common {
            model,
            dtype: self.dtype,
            calibration: self.calibrate.as_deref().map(|file| Calibration {
                file,
                windows: self.calibration_windows.as_deref(),
                window: Some(how.window).filter(|&n| n != WINDOW),
                tokenizer: how.tokenizer.as_deref(),
            }),
        }
    }
}
