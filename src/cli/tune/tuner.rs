//! Makes models in several ways, and compares each with the model they are made from.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use onnxq::{
    Error, ErrorKind, Result,
    eval::{
        Evaluation, OpenSubject,
        report::{ModelResult, Task},
    },
    report::way_line,
    tune::{self, Failed, Measure, Report, mark_frontier},
};

use super::{
    TuneArgs,
    folder::{Folder, Kept, Key},
    way::{Common, Way},
};
use crate::cli::{
    Cx, ReadArgs, ReadOptions,
    context::at_file,
    engine_args::{EngineArgs, EngineName},
    eval::{self, Comparison, EvalArgs},
    feed_args::FeedArgs,
    quantize,
    text_args::beside,
};

/// The model as it came.
pub(super) struct Source {
    pub(super) path: PathBuf,
    sha256: String,
    task: Task,
}

impl Source {
    /// Opens the model that `args` name, and finds what kind it is.
    pub(super) fn open(args: &TuneArgs, cx: &Cx) -> Result<Source> {
        let read = ReadArgs {
            model: args.model.clone(),
            how: ReadOptions {
                drop_unknown: false,
                verify_sha: None,
            },
        };
        let (path, opened) = cx.open(&read)?;
        let subject = OpenSubject::of(&path, opened).map_err(at_file(&path))?;
        let task = args.feed.task(&subject)?;
        let sha256 = subject.subject().sha256;
        Ok(Source { path, sha256, task })
    }
}

/// A mean divergence below this is not far from what holding a baseline in half precision costs.
const NEAR: f64 = 1e-5;

/// Makes and compares models.
pub(super) struct Tuner<'a> {
    args: &'a TuneArgs,
    common: &'a Common<'a>,
    source: &'a Source,
    folder: &'a Folder,
    cx: &'a Cx,
    /// What models are fed, with the tokenizer that is beside the model.
    feed: FeedArgs,
    /// The engine that was found.
    engine: EngineArgs,
    /// The distributions of a language model, which is run once.
    log_probs: Option<PathBuf>,
    /// What the model computes by itself.
    baseline: Evaluation,
}

impl<'a> Tuner<'a> {
    /// Runs the model alone.
    pub(super) fn new(
        args: &'a TuneArgs,
        common: &'a Common<'a>,
        source: &'a Source,
        folder: &'a Folder,
        cx: &'a Cx,
    ) -> Result<Tuner<'a>> {
        let engine = found_engine(&args.engine, cx)?;
        let mut feed = args.feed.clone();
        feed.how.tokenizer = feed.how.tokenizer.or_else(|| beside(&source.path));
        let log_probs = (source.task == Task::CausalLm)
            .then(|| folder.work(&format!("baseline-{}.lp", std::process::id())));
        cx.progress(&format!("running {}\n", source.path.display()));
        let comparison = EvalArgs::from(Comparison {
            model: None,
            baseline: Some(&source.path),
            save_baseline: log_probs.clone(),
            baseline_logprobs: None,
            feed: feed.clone(),
            engine: engine.clone(),
            noise: args.noise,
            json: args.json.clone(),
            html: args.html.clone(),
        });
        let (baseline, _) = eval::evaluate(&comparison, cx)?;
        Ok(Tuner {
            args,
            common,
            source,
            folder,
            cx,
            feed,
            engine,
            log_probs,
            baseline,
        })
    }

    fn measure(&self) -> Measure {
        match self.source.task {
            Task::CausalLm => Measure::MeanKld,
            _ => Measure::RelativeError,
        }
    }

    /// Makes and compares all of `ways`.
    pub(super) fn run(&self, ways: &[Way], mut kept: Option<Kept>) -> Result<Report> {
        let names = names(ways);
        let (mut made, mut failed) = (Vec::new(), Vec::new());
        for (i, (way, name)) in ways.iter().zip(&names).enumerate() {
            if self.cx.cancelled().load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
            }
            let place = format!("{}/{}", i + 1, ways.len());
            match self.way(way, name, &mut kept) {
                Ok((found, how)) => {
                    let line = way_line(&found, self.measure());
                    self.cx.progress(&format!("{place} {line}{how}\n"));
                    made.push(found);
                }
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    let (options, error) = (way.options(), e.chain());
                    self.cx
                        .note(&format!("onnxq: warning: {options}: {error}\n"));
                    failed.push(Failed { options, error });
                }
            }
        }
        mark_frontier(&mut made);
        let warnings = self.warnings(&made);
        let baseline = self.baseline.baseline.clone();
        Ok(Report {
            schema: tune::SCHEMA,
            onnxq: self.baseline.onnxq,
            engine: self.baseline.engine.clone(),
            task: self.baseline.task,
            measure: self.measure(),
            input: self.baseline.input.clone(),
            baseline: baseline.unwrap_or_else(|| ModelResult::named("")),
            ways: made,
            failed,
            warnings,
        })
    }

    /// What makes figures say less than they seem to.
    fn warnings(&self, ways: &[tune::Way]) -> Vec<String> {
        let mut warnings = self.baseline.warnings.clone();
        let real = |path: &PathBuf| path.canonicalize().ok();
        let calibrated_on = self.args.calibrate.as_ref().and_then(real);
        if calibrated_on.is_some() && self.args.feed.text.as_ref().and_then(real) == calibrated_on {
            let same =
                "ways are calibrated on what they are compared on: they seem nearer than they are";
            warnings.push(same.to_owned());
        }
        let divergences = ways.iter().filter_map(|w| w.mean_kld);
        if divergences.map(|mean| mean.value).any(|mean| mean < NEAR) {
            let half = "the baseline's distributions are held in half precision: divergences below 1e-6 nats say \
                        nothing";
            warnings.push(half.to_owned());
        }
        warnings
    }

    /// One way, and a word when it was finished before.
    fn way(
        &self,
        way: &Way,
        name: &str,
        kept: &mut Option<Kept>,
    ) -> Result<(tune::Way, &'static str)> {
        let output = self.output(name);
        let key = self.key(way)?;
        if let Some(found) = kept.as_ref().and_then(|kept| kept.find(&key, &output)) {
            return Ok((found, " (kept)"));
        }
        let work = self.folder.work(&key.name());
        let start = Instant::now();
        let bits = self.quantize(way, &key, &work, &output)?;
        let seconds = start.elapsed().as_secs_f64();
        let evaluation = self.evaluate(&output)?;
        let mut found = tune::Way::new(way.options(), seconds, bits, &evaluation)
            .ok_or_else(|| Error::input("no model was evaluated"))?;
        // What is finished is not gone back to.
        let _ = fs::remove_dir_all(&work);
        match kept {
            Some(kept) => kept.add(key, &found)?,
            None => {
                found.path = None;
                self.folder.clear()?;
            }
        }
        Ok((found, ""))
    }

    fn output(&self, name: &str) -> PathBuf {
        let stem = self.source.path.file_stem().unwrap_or_default();
        self.folder
            .model(&format!("{}_{name}.onnx", stem.to_string_lossy()))
    }

    fn key(&self, way: &Way) -> Result<Key> {
        let quantize = way.arguments(&[], self.common)?;
        let calibration = self.args.calibrate.as_deref();
        let calibration = calibration.filter(|_| quantize.is_calibrated());
        let files = calibration.into_iter().chain(quantize.recipe());
        let engine = &self.baseline.engine;
        Ok(Key {
            onnxq: self.baseline.onnxq.to_owned(),
            model: self.source.sha256.clone(),
            engine: format!("{} {}", engine.name, engine.version),
            input: Key::of_input(&self.baseline.input),
            noise: self.args.noise,
            options: way.options(),
            files: files.map(Key::of_file).collect::<Result<_>>()?,
        })
    }

    /// Makes the output. Returns its bits a weight.
    fn quantize(&self, way: &Way, key: &Key, work: &Path, output: &Path) -> Result<Option<f64>> {
        let mut more: Vec<OsString> = vec!["--output".into(), output.into()];
        let is_calibrated = way.arguments(&[], self.common)?.is_calibrated();
        if is_calibrated && self.args.calibrate.is_some() {
            more.extend(["--calibration-folder".into(), work.into()]);
        }
        if let Some(library) = &self.engine.library.ort_lib {
            more.extend(["--ort-lib".into(), library.into()]);
        }
        more.extend(["--engine".into(), self.engine.engine.name().into()]);
        let mut args = way.arguments(&more, self.common)?;
        let forms = args.tried_forms();
        let survey = Key {
            options: format!("{} {forms:?}", way.without_budget()),
            ..key.clone()
        };
        args.share(
            self.folder.work(&format!("survey-{}", survey.name())),
            self.folder.work("peaks"),
        );
        // It is compared by itself.
        let made = quantize::make(&args, false, None, self.cx)?;
        Ok(made.summaries.first().and_then(|s| s.bits_per_weight()))
    }

    fn evaluate(&self, output: &Path) -> Result<Evaluation> {
        let comparison = EvalArgs::from(Comparison {
            model: Some(output),
            baseline: Some(&*self.source.path).filter(|_| self.log_probs.is_none()),
            save_baseline: None,
            baseline_logprobs: self.log_probs.clone(),
            feed: self.feed.clone(),
            engine: self.engine.clone(),
            noise: self.args.noise,
            json: None,
            html: None,
        });
        Ok(eval::evaluate(&comparison, self.cx)?.0)
    }
}

impl Drop for Tuner<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.log_probs {
            // Each process has its own; one that stays only takes space.
            let _ = fs::remove_file(path);
        }
    }
}

/// A name for each way, unlike those of the others.
fn names(ways: &[Way]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(ways.len());
    for way in ways {
        let name = way.name();
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let mut all = std::iter::once(name.clone()).chain(numbered);
        names.extend(all.find(|name| !names.contains(name)));
    }
    names
}

/// The engine that is found, said so that it is found again without another word.
fn found_engine(args: &EngineArgs, cx: &Cx) -> Result<EngineArgs> {
    let engine = args.engine(cx)?;
    let mut found = args.clone();
    found.engine = EngineName::of(&*engine);
    found.library.ort_lib = engine
        .path()
        .map(Path::to_path_buf)
        .or(found.library.ort_lib);
    Ok(found)
}
