//! `onnxq eval`: what a rewrite did to a model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use clap::Args;
use onnxq::{
    Error, Result, bench,
    engine::{Engine, LoadOptions, Signature, inputs_of},
    eval::{
        self, Baseline, Evaluation, Items, LanguageOptions, OpenSubject, Subject, Tokens,
        report::Task,
    },
    report,
};

use super::{
    Cx, ExitStatus, ReadArgs, ReadOptions,
    bench::{plotted, token_axis},
    context::{Inputs, at_file},
    engine_args::EngineArgs,
    feed_args::FeedArgs,
    half::Half,
    places::Places,
    text_args::{LimitArgs, TextArgs},
};

/// Compare what models compute: next-token distributions, or any outputs
#[derive(Args)]
#[command(
    after_help = "Examples:\n  onnxq eval model_q4.onnx --baseline model.onnx --text test.txt\n  \
                  onnxq eval model.onnx model_q4.onnx --baseline fp16 --text test.txt --html report.html\n  \
                  onnxq eval model_q4.onnx --baseline model.onnx --text test.txt --max-mean-kld 0.05\n  \
                  onnxq eval vision_q4.onnx --baseline vision.onnx --inputs images.npz --min-cosine 0.99"
)]
pub(crate) struct EvalArgs {
    /// ONNX files, or folders that hold model.onnx or onnx/model.onnx
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// What the models are compared with: another model, or `fp16`: the first model in half
    /// precision, made in memory [example: --baseline model.onnx]
    #[arg(long, value_name = "BASE")]
    baseline: Option<PathBuf>,
    /// Save the baseline's distributions, to compare with again [example: --save-baseline b.lp]
    #[arg(long, value_name = "FILE", requires = "baseline")]
    save_baseline: Option<PathBuf>,
    /// Compare with distributions saved before; with --baseline they must be of that model
    /// [example: --baseline-logprobs b.lp]
    #[arg(long, value_name = "FILE", conflicts_with = "save_baseline")]
    baseline_logprobs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) feed: FeedArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Measure the engine's own noise on the begin of the first N windows, or on N items: the
    /// difference that its graph optimizations make; 0: not at all [example: --noise 0]
    #[arg(long, value_name = "N", default_value_t = 1)]
    noise: usize,
    /// Rank the nodes by the error that each adds, and show the worst N
    /// [example: --per-node, --per-node 50]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    per_node: Option<usize>,
    /// Write the next-token log-probs of the one model, as safetensors, for other programs
    /// [example: --log-probs logits.safetensors]
    #[arg(long, value_name = "FILE")]
    log_probs: Option<PathBuf>,
    /// Measure the latency of each model, too, by N runs in turn, for the page
    /// [example: --bench 20 --html report.html]
    #[arg(long, value_name = "N", requires = "html", value_parser = clap::value_parser!(u32).range(1..))]
    bench: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,

    /// Write everything as JSON; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    json: Option<PathBuf>,
    /// Write the limits as a JUnit report, for CI [example: --junit junit.xml]
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    junit: Option<PathBuf>,
    /// Write a page with plots [example: --html report.html]
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &EvalArgs, cx: &Cx) -> Result<ExitStatus> {
    let (evaluation, bench) = evaluate(args, cx)?;
    write_reports(args, &evaluation, bench.as_ref(), cx)?;
    Ok(match evaluation.passed() {
        true => ExitStatus::Done,
        false => ExitStatus::Differs,
    })
}

fn write_reports(
    args: &EvalArgs,
    evaluation: &Evaluation,
    bench: Option<&report::Bench>,
    cx: &Cx,
) -> Result<()> {
    if let Some(path) = &args.json {
        cx.json(path, evaluation)?;
    }
    if let Some(path) = &args.junit {
        cx.file(path, &report::junit(evaluation))?;
    }
    if let Some(path) = &args.html {
        let names: Vec<_> = evaluation.models.iter().map(|m| m.name.as_str()).collect();
        let page = report::html(
            &format!("Evaluation of {}", names.join(", ")),
            std::slice::from_ref(evaluation),
            bench,
        );
        cx.file(path, &page)?;
    }
    match args.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => Ok(()),
        _ => cx.summary(&report::text(evaluation)),
    }
}

/// What the arguments name, open.
struct Opened {
    models: Vec<OpenSubject>,
    base: Option<OpenSubject>,
    half: Option<Half>,
}

impl Opened {
    fn new(args: &EvalArgs, cx: &Cx) -> Result<Opened> {
        let open = |path: &PathBuf| -> Result<OpenSubject> {
            let read = ReadArgs {
                model: path.clone(),
                how: ReadOptions {
                    drop_unknown: false,
                    verify_sha: None,
                },
            };
            let (path, opened) = cx.open(&read)?;
            let inputs = Inputs::of(&path, &opened);
            for output in args.outputs() {
                inputs.keep_from(Some(output))?;
            }
            OpenSubject::of(&path, opened).map_err(at_file(&path))
        };
        let models: Vec<OpenSubject> = args.models.iter().map(open).collect::<Result<_>>()?;
        let (base, half) = match &args.baseline {
            None => (None, None),
            // A folder or file of that name is what is meant when it is there.
            Some(path) if path.as_os_str() == "fp16" && !path.exists() => {
                (None, Some(Half::of(&models[0])?))
            }
            Some(path) => (Some(open(path)?), None),
        };
        Ok(Opened { models, base, half })
    }

    /// The first model; the baseline, where that is run alone.
    fn first(&self) -> &OpenSubject {
        let first = self.models.first().or(self.base.as_ref());
        first.expect("a model is required")
    }

    fn baseline(&self) -> Option<Subject<'_>> {
        let base = self.base.as_ref().map(|open| self.named(open));
        base.or_else(|| self.half.as_ref().map(Half::subject))
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        self.models.iter().map(|open| self.named(open)).collect()
    }

    /// A model with a name that tells it from the others: its file's, or the whole path.
    fn named<'a>(&'a self, open: &'a OpenSubject) -> Subject<'a> {
        let mut subject = open.subject();
        let all = self.models.iter().chain(&self.base);
        if all.filter(|o| o.subject().name == subject.name).count() > 1
            && let Some(path) = subject.path
        {
            subject.name = path.display().to_string();
        }
        subject
    }
}

/// A comparison that another command makes: of one model, or a run of the baseline alone.
pub(super) struct Comparison<'a> {
    /// What is compared; without it the baseline runs alone.
    pub(super) model: Option<&'a Path>,
    /// What it is compared with.
    pub(super) baseline: Option<&'a Path>,
    /// Where the baseline's distributions are saved, or where they are.
    pub(super) save_baseline: Option<PathBuf>,
    pub(super) baseline_logprobs: Option<PathBuf>,
    pub(super) feed: FeedArgs,
    pub(super) engine: EngineArgs,
    pub(super) noise: usize,
    /// What the other command writes.
    pub(super) json: Option<PathBuf>,
    pub(super) html: Option<PathBuf>,
}

impl From<Comparison<'_>> for EvalArgs {
    fn from(comparison: Comparison<'_>) -> EvalArgs {
        EvalArgs {
            models: comparison
                .model
                .map(Path::to_path_buf)
                .into_iter()
                .collect(),
            baseline: comparison.baseline.map(Path::to_path_buf),
            save_baseline: comparison.save_baseline,
            baseline_logprobs: comparison.baseline_logprobs,
            feed: comparison.feed,
            limits: LimitArgs::default(),
            noise: comparison.noise,
            per_node: None,
            log_probs: None,
            bench: None,
            engine: comparison.engine,
            json: comparison.json,
            junit: None,
            html: comparison.html,
        }
    }
}

impl EvalArgs {
    /// The files that the command writes.
    fn outputs(&self) -> impl Iterator<Item = &Path> {
        let files = [
            &self.json,
            &self.junit,
            &self.html,
            &self.save_baseline,
            &self.log_probs,
        ];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Fails when a file would be written over one that is read, or over another that is written.
    fn check_outputs(&self) -> Result<()> {
        let read = self.feed.files(&self.models);
        let mut places = Places::reading(read.iter().chain(&self.baseline_logprobs));
        for output in self.outputs() {
            if output.as_os_str() == "-" && self.json.as_deref() != Some(output) {
                return Err(Error::input("only --json writes to standard output"));
            }
            places.write(output)?;
        }
        Ok(())
    }
}

/// Evaluates what `args` name; reports are not written.
pub(super) fn evaluate(args: &EvalArgs, cx: &Cx) -> Result<(Evaluation, Option<report::Bench>)> {
    args.check_outputs()?;
    let opened = Opened::new(args, cx)?;
    if args.per_node.is_some() && args.baseline.is_none() {
        return Err(Error::input("--per-node: expected --baseline, a model"));
    }
    if args.feed.batch == 0 {
        return Err(Error::input("--batch is 0, expected at least 1"));
    }
    let engine = args.engine.engine(cx)?;
    let load = args.engine.load_options(cx);
    let first = opened.first();
    let task = args.feed.task(first)?;
    let signature = Signature::of(first.model());
    let job = Job {
        args,
        opened: &opened,
        engine: &*engine,
        load,
        cancel: cx.cancelled(),
    };
    let evaluation = match task {
        Task::CausalLm => job.language(),
        _ if args.feed.is_text() => job.texts(task),
        _ => job.tensors(task, &signature),
    }?;
    Ok((evaluation, job.bench()?))
}

/// An evaluation whose models are open.
struct Job<'a> {
    args: &'a EvalArgs,
    opened: &'a Opened,
    engine: &'a dyn Engine,
    load: LoadOptions,
    /// Set to stop.
    cancel: &'static AtomicBool,
}

/// Tokens of the text that nodes are ranked on: every value of every layer is held.
const RANKED: usize = 64;

impl Job<'_> {
    fn language(&self) -> Result<Evaluation> {
        let args = self.args;
        let tokens = self.tokens(TextArgs::text)?;
        let given = args.feed.given()?.into_iter().flatten().collect();
        let options = LanguageOptions {
            windows: args.feed.how.windows(),
            chunk: args.feed.chunk,
            batch: args.feed.batch,
            noise_windows: args.noise,
            given,
            save_baseline: args.save_baseline.clone(),
            log_probs: args.log_probs.clone(),
            load: self.load,
            cancel: Some(self.cancel),
        };
        let known = self.opened.baseline();
        let baseline = match (&args.baseline_logprobs, known.clone()) {
            (Some(path), of) => Some(Baseline::Saved { path, of }),
            (None, model) => model.map(Baseline::Model),
        };
        let limits = args.limits.limits();
        let subjects = self.opened.subjects();
        let engine = self.engine;
        let baseline = baseline.as_ref();
        let mut evaluation =
            eval::language_models(engine, baseline, &subjects, &tokens, &options, &limits)?;
        let items = Items::Texts {
            tokens: &tokens,
            window: RANKED.min(args.feed.how.window),
            given: &options.given,
        };
        self.rank(&mut evaluation, items)?;
        Ok(evaluation)
    }

    fn texts(&self, task: Task) -> Result<Evaluation> {
        let tokens = self.tokens(TextArgs::lines)?;
        let given: Vec<_> = self.args.feed.given()?.into_iter().flatten().collect();
        let items = Items::Texts {
            tokens: &tokens,
            window: self.args.feed.how.window,
            given: &given,
        };
        self.outputs(task, items)
    }

    fn tensors(&self, task: Task, signature: &Signature) -> Result<Evaluation> {
        let args = self.args;
        let dims: BTreeMap<String, i64> = args.feed.dim.iter().cloned().collect();
        let (sets, source) = match args.feed.random {
            Some(n) => {
                let sets =
                    (0..n).map(|i| inputs_of(signature, args.feed.seed.wrapping_add(i), &dims));
                (
                    sets.collect::<Result<_>>()?,
                    format!("random, seed {}", args.feed.seed),
                )
            }
            None => {
                let names: Vec<_> = args
                    .feed
                    .inputs
                    .iter()
                    .map(|p| p.display().to_string())
                    .collect();
                (args.feed.given()?, names.join(", "))
            }
        };
        let items = Items::Tensors {
            sets: &sets,
            source: &source,
        };
        self.outputs(task, items)
    }

    /// Compares outputs as numbers.
    fn outputs(&self, task: Task, items: Items<'_>) -> Result<Evaluation> {
        let args = self.args;
        let only_lm = [
            ("--save-baseline", args.save_baseline.is_some()),
            ("--baseline-logprobs", args.baseline_logprobs.is_some()),
            ("--log-probs", args.log_probs.is_some()),
            ("--chunk", args.feed.chunk.is_some()),
            ("--batch", args.feed.batch != 1),
        ];
        if let Some((option, _)) = only_lm.iter().find(|(_, used)| *used) {
            return Err(Error::input(format!(
                "{option}: it is for language models on text, and this is none (--task causal-lm \
                 if it is)"
            )));
        }
        let base = self.opened.baseline();
        let subjects = self.opened.subjects();
        let mut evaluation = eval::outputs(
            self.engine,
            base.as_ref(),
            &subjects,
            (task, items),
            args.noise,
            self.load,
            &args.limits.limits(),
        )?;
        self.rank(&mut evaluation, items)?;
        Ok(evaluation)
    }

    fn tokens(&self, of_text: fn(&TextArgs, &Path, &Path) -> Result<Tokens>) -> Result<Tokens> {
        let args = self.args;
        // Of a folder, what is beside the file in it.
        let model = self.opened.first().subject().path.map(Path::to_path_buf);
        let model = model.unwrap_or_default();
        match (&args.feed.text, &args.feed.tokens) {
            (Some(text), _) => of_text(&args.feed.how, text, &model),
            (None, Some(tokens)) => args.feed.how.ids(tokens, &model),
            (None, None) => unreachable!("the task is one on text"),
        }
    }

    /// The latency of the models on inputs that are made up: as many tokens as a window has.
    fn bench(&self) -> Result<Option<report::Bench>> {
        let Some(runs) = self.args.bench else {
            return Ok(None);
        };
        let options = bench::Options {
            runs: runs as usize,
            warmup: 2,
            decode: 0,
            load: self.load,
        };
        let subject = |open: &OpenSubject| {
            let signature = Signature::of(open.model());
            let mut dims: BTreeMap<String, i64> = self.args.feed.dim.iter().cloned().collect();
            let window = self.args.feed.how.window as i64;
            dims.extend(token_axis(&signature).map(|axis| (axis, window)));
            let subject = open.subject();
            Ok(bench::Subject {
                path: subject.path.map(Path::to_path_buf).unwrap_or_default(),
                model: open.model().clone(),
                bytes: subject.bytes,
                inputs: inputs_of(&signature, self.args.feed.seed, &dims)?,
            })
        };
        let files = self.opened.base.iter().chain(&self.opened.models);
        let subjects: Vec<_> = files.map(subject).collect::<Result<_>>()?;
        let source = bench::Source::Seed(self.args.feed.seed);
        let report = bench::run(self.engine, &subjects, source, &options)?;
        Ok(Some(plotted(&report)))
    }

    /// Adds the ranking of nodes, if it is asked for.
    fn rank(&self, evaluation: &mut Evaluation, items: Items<'_>) -> Result<()> {
        let Some((most, base)) = self.args.per_node.zip(self.opened.baseline()) else {
            return Ok(());
        };
        for (subject, result) in self.opened.subjects().iter().zip(&mut evaluation.models) {
            let ranking = eval::per_node(self.engine, base.model, subject.model, items, self.load);
            result.per_node = ranking.map_err(|e| e.at(format!("`{}`", subject.name)))?;
            result.per_node.truncate(most);
        }
        Ok(())
    }
}
