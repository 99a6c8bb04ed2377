//! `onnxq bench`: how fast models run, and how much memory they take.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;
use onnxq::{
    Error, Result,
    bench::{self, InputReport, ModelReport, Options, Ratio, Report, Source, Subject},
    engine::{Array, Engine, InputRole, Signature, free_axes, inputs_of, read_tensors},
    report,
};

use super::{
    Cx, ExitStatus, ReadArgs, ReadOptions,
    context::{Inputs, at_file},
    engine_args::EngineArgs,
    places::Places,
    table,
};

/// Tokens of a prompt when nobody says.
const PROMPT: i64 = 128;

/// Measure how fast models run: latency, throughput, tokens a second, memory
///
/// The models take turns, so that noise hits all of them alike. Ratios are to the first one.
#[derive(Args)]
#[command(
    after_help = "Example:\n  onnxq bench model.onnx model_q4.onnx --runs 50 --json bench.json"
)]
pub(crate) struct BenchArgs {
    /// ONNX files, or folders that hold model.onnx or onnx/model.onnx
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// Run each model N times [example: --runs 50]
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: usize,
    /// Run each model N times before that [example: --warmup 10]
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Take the inputs from this file, .npz or .safetensors, by their names; without it they are
    /// made up [example: --inputs image.npz]
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Extent of an axis of the inputs that are made up, by its name or by input and place
    /// [example: --dim batch_size=4 --dim pixel_values.2=384]
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Tokens of a prompt [default: 128; example: --seq 512]
    #[arg(long, value_name = "N")]
    seq: Option<i64>,
    /// Tokens to decode after each prompt, with the cache; 0 for none [example: --decode 64]
    #[arg(long, value_name = "N", default_value_t = 16)]
    decode: usize,
    /// Seed of the inputs that are made up [example: --seed 7]
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write everything, every single time included, as JSON; `-` is standard output
    /// [example: --json bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots [example: --html bench.html]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Run the one model, and print what memory it took
    #[arg(long, hide = true)]
    measure_memory: bool,
}

pub(crate) fn run(args: &BenchArgs, cx: &Cx) -> Result<ExitStatus> {
    if args.runs == 0 {
        return Err(Error::input("--runs is 0, expected at least 1"));
    }
    let options = Options {
        runs: args.runs,
        warmup: args.warmup,
        decode: args.decode,
        load: args.engine.load_options(cx),
    };
    let mut places = Places::reading(&args.inputs);
    let mut outputs = args.json.iter().chain(&args.html);
    outputs.try_for_each(|output| places.write(output))?;
    let subjects = subjects(args, cx)?;
    let engine = args.engine.engine(cx)?;
    if args.measure_memory {
        subjects
            .iter()
            .try_for_each(|s| bench::once(&*engine, s, &options))?;
        let peak = bench::peak_memory().map_or("none".to_owned(), |n| n.to_string());
        return cx.out(&peak).map(|()| ExitStatus::Done);
    }
    let source = match &args.inputs {
        Some(file) => Source::File(file.display().to_string()),
        None => Source::Seed(args.seed),
    };
    let mut report = bench::run(&*engine, &subjects, source, &options)?;
    for (model, subject) in report.models.iter_mut().zip(&subjects) {
        model.peak_memory_bytes = memory(args, &*engine, subject, cx);
    }
    if let Some(path) = &args.json {
        cx.json(path, &report)?;
    }
    if let Some(path) = &args.html {
        cx.file(
            path,
            &report::html("Benchmark", &[], Some(&plotted(&report))),
        )?;
    }
    match args.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => {}
        _ => cx.out(&text(&report))?,
    }
    Ok(ExitStatus::Done)
}

/// The models and what they get.
fn subjects(args: &BenchArgs, cx: &Cx) -> Result<Vec<Subject>> {
    let mut opened = Vec::new();
    for model in &args.models {
        let read = ReadArgs {
            model: model.clone(),
            how: ReadOptions {
                drop_unknown: false,
                verify_sha: None,
            },
        };
        let (path, model) = cx.open(&read)?;
        let inputs = Inputs::of(&path, &model);
        inputs.keep_from(args.json.as_deref())?;
        inputs.keep_from(args.html.as_deref())?;
        let signature = Signature::of(&model.model);
        opened.push((path, model, signature));
    }
    let signatures: Vec<&Signature> = opened.iter().map(|(_, _, s)| s).collect();
    let feed = Feed::new(args, &signatures)?;
    let subjects = opened.into_iter().map(|(path, opened, signature)| {
        let side_files: u64 = opened.side_files.iter().map(|f| f.len()).sum();
        Ok(Subject {
            inputs: feed.inputs(&signature).map_err(at_file(&path))?,
            bytes: opened.file.len() + side_files,
            model: opened.model,
            path,
        })
    });
    subjects.collect()
}

/// Where inputs come from.
enum Feed {
    File(Vec<(String, Array)>),
    Random {
        seed: u64,
        dims: BTreeMap<String, i64>,
        prompt: Option<i64>,
    },
}

impl Feed {
    fn new(args: &BenchArgs, signatures: &[&Signature]) -> Result<Feed> {
        let Some(path) = &args.inputs else {
            return Feed::random(args, signatures);
        };
        if !args.dim.is_empty() || args.seq.is_some() {
            return Err(Error::input(
                "--dim and --seq are for inputs that are made up, but --inputs gives them",
            ));
        }
        let tensors = read_tensors(path)?;
        let known = |name: &str| {
            signatures
                .iter()
                .any(|s| s.inputs.iter().any(|i| i.name == name))
        };
        match tensors.iter().find(|(name, _)| !known(name)) {
            None => Ok(Feed::File(tensors)),
            Some((name, _)) => Err(Error::input(format!(
                "--inputs `{}`: no model has an input `{name}`",
                path.display()
            ))),
        }
    }

    fn random(args: &BenchArgs, signatures: &[&Signature]) -> Result<Feed> {
        let mut dims = BTreeMap::new();
        for dim in &args.dim {
            let parsed = dim
                .rsplit_once('=')
                .and_then(|(n, e)| Some((n, e.parse::<i64>().ok()?)));
            let Some((name, extent)) = parsed else {
                return Err(Error::input(format!("--dim `{dim}`, expected NAME=N")));
            };
            let axes = signatures.iter().map(|s| free_axes(s));
            let mut axes: Vec<String> = axes.flatten().collect();
            axes.sort();
            axes.dedup();
            if !axes.iter().any(|a| a == name) {
                let known = if axes.is_empty() {
                    "none, every extent is fixed".to_owned()
                } else {
                    axes.join(", ")
                };
                return Err(Error::input(format!(
                    "--dim `{dim}`: no input has such an axis, expected one of: {known}"
                )));
            }
            if extent < 0
                || dims
                    .insert(name.to_owned(), extent)
                    .is_some_and(|e| e != extent)
            {
                return Err(Error::input(format!(
                    "--dim `{dim}`, expected one extent for each axis, 0 or more"
                )));
            }
        }
        if let Some(n) = args.seq {
            if n < 1 {
                return Err(Error::input(format!("--seq is {n}, expected at least 1")));
            }
            if signatures.iter().all(|s| token_axis(s).is_none()) {
                return Err(Error::input(
                    "--seq: no model takes tokens in a number that is free",
                ));
            }
        }
        Ok(Feed::Random {
            seed: args.seed,
            dims,
            prompt: args.seq,
        })
    }

    fn inputs(&self, signature: &Signature) -> Result<Vec<(String, Array)>> {
        match self {
            Feed::File(tensors) => bench::select(signature, tensors),
            Feed::Random { seed, dims, prompt } => {
                let axes = free_axes(signature);
                let mut dims = dims.clone();
                dims.retain(|name, _| axes.contains(name));
                if let Some(axis) = token_axis(signature) {
                    let given = dims.get(&axis).copied();
                    match (prompt, given) {
                        (Some(n), Some(given)) if *n != given => {
                            return Err(Error::input(format!(
                                "--seq is {n}, but --dim `{axis}` is {given}"
                            )));
                        }
                        (_, Some(_)) => {}
                        (n, None) => drop(dims.insert(axis, n.unwrap_or(PROMPT))),
                    }
                }
                inputs_of(signature, *seed, &dims)
            }
        }
    }
}

/// What the page shows of a report.
pub(crate) fn plotted(report: &Report) -> report::Bench {
    let first = report.models.first();
    let inputs = first.map_or(&[][..], |m| &m.inputs);
    let shape = |i: &InputReport| {
        let extents: Vec<_> = i.shape.iter().map(usize::to_string).collect();
        format!("{} [{}]", i.name, extents.join(", "))
    };
    let input = match first.and_then(|m| m.language.as_ref()) {
        Some(language) => format!("a prompt of {} tokens", language.prompt_tokens),
        None => inputs.iter().map(shape).collect::<Vec<_>>().join(", "),
    };
    let threads = report.engine.threads;
    report::Bench {
        engine: format!(
            "{} {}, {threads} thread{}",
            report.engine.name,
            report.engine.version,
            if threads == 1 { "" } else { "s" }
        ),
        input,
        models: report.models.iter().map(latency).collect(),
    }
}

fn latency(model: &ModelReport) -> report::Latency {
    let (per_second, unit) = match &model.language {
        Some(language) => (language.prefill_tokens_per_s, "tokens"),
        None => (model.items_per_s, "items"),
    };
    let name = Path::new(&model.path).file_stem().unwrap_or_default();
    report::Latency {
        name: name.to_string_lossy().into_owned(),
        runs: model.latency.times_ms.len(),
        mean_ms: model.latency.mean_ms,
        sd_ms: model.latency.sd_ms.unwrap_or_default(),
        p50_ms: model.latency.p50_ms,
        p95_ms: model.latency.p95_ms,
        p99_ms: model.latency.p99_ms,
        throughput: Some(report::Throughput {
            per_second,
            unit: unit.to_owned(),
        }),
    }
}

/// The axis along which tokens are counted, as `--dim` names it; none when it is fixed.
pub(crate) fn token_axis(signature: &Signature) -> Option<String> {
    let ids = signature.input(InputRole::InputIds)?;
    let axes = free_axes(signature);
    let name = ids.dims.as_deref()?.get(1)?.to_string();
    let place = format!("{}.1", ids.name);
    [name, place].into_iter().find(|axis| axes.contains(axis))
}

/// Peak memory of a process that runs nothing but this model.
fn memory(args: &BenchArgs, engine: &dyn Engine, subject: &Subject, cx: &Cx) -> Option<u64> {
    bench::peak_memory()?;
    let mut child = Command::new(std::env::current_exe().ok()?);
    child.args(["bench", "--measure-memory", "--engine", engine.name()]);
    let mut option = |name: &str, value: OsString| {
        let mut text = OsString::from(format!("--{name}="));
        text.push(value);
        child.arg(text);
    };
    if let Some(library) = engine.path() {
        option("ort-lib", library.into());
    }
    if let Some(inputs) = &args.inputs {
        option("inputs", inputs.into());
    } else {
        let axes = free_axes(&Signature::of(&subject.model));
        for dim in &args.dim {
            let (name, _) = dim.rsplit_once('=')?;
            if axes.iter().any(|a| a == name) {
                option("dim", dim.into());
            }
        }
        if let Some(seq) = args
            .seq
            .filter(|_| token_axis(&Signature::of(&subject.model)).is_some())
        {
            option("seq", seq.to_string().into());
        }
    }
    option("seed", args.seed.to_string().into());
    option("decode", args.decode.to_string().into());
    option("threads", cx.threads().to_string().into());
    let output = child
        .arg("--")
        .arg(&subject.path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn text(report: &Report) -> String {
    let engine = &report.engine;
    let source = match &report.inputs {
        Source::Seed(seed) => format!("made up, seed {seed}"),
        Source::File(file) => file.clone(),
    };
    let head = format!(
        "engine      {} {}, {} threads\nruns        {} of each model in turn, {} before that\n\
         inputs      {source}\n",
        engine.name, engine.version, engine.threads, report.runs, report.warmup
    );
    let mut text = head + "\n" + &latencies(&report.models);
    if report.models.iter().any(|m| m.language.is_some()) {
        text += "\n";
        text += &tokens(&report.models);
    }
    text
}

fn latencies(models: &[ModelReport]) -> String {
    let titles = [
        "model", "size", "load ms", "mean ms", "sd", "min", "p50", "p95", "p99", "items/s",
        "memory", "ratio", "95%",
    ];
    let rows = models.iter().map(|m| {
        let t = &m.latency;
        let memory = m
            .peak_memory_bytes
            .map_or("not measured".to_owned(), table::bytes);
        let mut row = vec![
            m.path.clone(),
            table::bytes(m.bytes),
            table::figure(m.load_ms),
        ];
        row.push(table::figure(t.mean_ms));
        row.push(t.sd_ms.map_or("-".to_owned(), table::figure));
        row.extend([t.min_ms, t.p50_ms, t.p95_ms, t.p99_ms, m.items_per_s].map(table::figure));
        row.push(memory);
        row.extend(ratio(m.ratio));
        row
    });
    table::table(&titles, rows)
}

fn tokens(models: &[ModelReport]) -> String {
    let titles = [
        "model", "prompt", "tokens/s", "decoded", "tokens/s", "p50 ms", "p95", "ratio", "95%",
    ];
    let rows = models.iter().filter_map(|m| {
        let language = m.language.as_ref()?;
        let mut row = vec![m.path.clone(), language.prompt_tokens.to_string()];
        row.push(table::figure(language.prefill_tokens_per_s));
        match &language.decode {
            Some(d) => {
                row.push(d.steps.to_string());
                row.extend([d.tokens_per_s, d.latency.p50_ms, d.latency.p95_ms].map(table::figure));
                row.extend(ratio(d.ratio));
            }
            None => row.extend(std::iter::repeat_n("-".to_owned(), 6)),
        }
        Some(row)
    });
    table::table(&titles, rows)
}

/// A ratio and its interval.
fn ratio(ratio: Option<Ratio>) -> [String; 2] {
    let Some(Ratio { ratio, low, high }) = ratio else {
        return ["-".to_owned(), "-".to_owned()];
    };
    let interval = low
        .zip(high)
        .map(|(low, high)| format!("{low:.3}-{high:.3}"));
    [
        format!("{ratio:.3}"),
        interval.unwrap_or_else(|| "-".to_owned()),
    ]
}
