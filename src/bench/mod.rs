//! How fast models run, and how much memory they take.
//!
//! Models take turns, one run each per round, so whatever else the machine does hits all of
//! them alike. A run is one call of the engine: inputs given, every output computed and copied
//! out. For a causal language model it is the reading of a prompt, followed by tokens that are
//! decoded with the cache where there is one.
//!
//! All models are loaded at the same time while they are timed. Memory is a matter of the whole
//! process, so [`once`] is for a process that runs one model and nothing else, at the end of
//! which [`peak_memory`] tells what it took.

mod decode;
mod inputs;
mod stats;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

pub use inputs::{items, select};
pub use stats::{Ratio, Timing};

use crate::{
    engine::{Array, Engine, InputRole, LoadOptions, Program, Session, Signature},
    error::{Error, Result},
    ir::Model,
};
use decode::{Decoded, can_decode, decode};

/// Version of the form of [`Report`].
pub const SCHEMA: &str = "onnxq.bench/1";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs of each model that count.
    pub runs: usize,
    /// Runs before them that do not.
    pub warmup: usize,
    /// Tokens to decode after each prompt.
    pub decode: usize,
    /// How models are loaded.
    pub load: LoadOptions,
}

/// A model to measure.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its file.
    pub path: PathBuf,
    /// The model in it.
    pub model: Model,
    /// Length of the file and its side files.
    pub bytes: u64,
    /// What every run gets; see [`crate::engine::random_inputs`] and [`select`].
    pub inputs: Vec<(String, Array)>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form: [`SCHEMA`].
    pub schema: &'static str,
    /// What ran the models.
    pub engine: EngineReport,
    /// Runs of each model that count; the models took turns.
    pub runs: usize,
    /// Runs before them that do not.
    pub warmup: usize,
    /// Where inputs came from.
    pub inputs: Source,
    /// The models, in the order they were given. Ratios are to the first.
    pub models: Vec<ModelReport>,
}

/// Where inputs came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Made up, from this seed.
    Seed(u64),
    /// Read from this file.
    File(String),
}

/// What ran the models.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// Its library, when it is not part of onnxq.
    pub path: Option<PathBuf>,
    /// Threads that compute one operator.
    pub threads: usize,
}

/// What was measured of one model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// Its file.
    pub path: String,
    /// Length of the file and its side files.
    pub bytes: u64,
    /// What a run got.
    pub inputs: Vec<InputReport>,
    /// Items in a run: the extent of the batch axis.
    pub items: usize,
    /// Time of loading it, once. The system may have had the file in memory.
    pub load_ms: f64,
    /// Time of a run.
    pub latency: Timing,
    /// Items a second: items of a run over its mean time.
    pub items_per_s: f64,
    /// Mean time of a run to that of the first model; none for the first itself.
    pub ratio: Option<Ratio>,
    /// The most memory that a process which loads it and runs it twice had resident; none where
    /// that is not measured.
    pub peak_memory_bytes: Option<u64>,
    /// What there is to say of a causal language model.
    pub language: Option<LanguageReport>,
}

/// An input of a run.
#[derive(Clone, Debug, Serialize)]
pub struct InputReport {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
}

/// What was measured of a causal language model.
#[derive(Clone, Debug, Serialize)]
pub struct LanguageReport {
    /// Tokens of the prompt, of one item.
    pub prompt_tokens: usize,
    /// Tokens of prompts read a second, all items together.
    pub prefill_tokens_per_s: f64,
    /// Decoding with the cache; none for a model without one.
    pub decode: Option<DecodeReport>,
}

/// What was measured of decoding.
#[derive(Clone, Debug, Serialize)]
pub struct DecodeReport {
    /// Tokens decoded after each prompt, of one item.
    pub steps: usize,
    /// Time of one step, over all steps of all runs.
    pub latency: Timing,
    /// Tokens a second, all items together.
    pub tokens_per_s: f64,
    /// Mean time of a step to that of the first model, by runs; none for the first itself, and
    /// when that one does not decode.
    pub ratio: Option<Ratio>,
    /// The tokens that the last run chose, greedily, for each item.
    pub tokens: Vec<Vec<i64>>,
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Measures `subjects` on `engine`. Their memory is left to the caller: see [`peak_memory`].
///
/// # Errors
/// No run is asked for; the engine refuses a model or its inputs: which, and why.
pub fn run(
    engine: &dyn Engine,
    subjects: &[Subject],
    source: Source,
    options: &Options,
) -> Result<Report> {
    if options.runs == 0 {
        return Err(Error::input("0 runs, expected at least 1"));
    }
    let mut runners = subjects
        .iter()
        .map(|s| Runner::new(engine, s, options))
        .collect::<Result<Vec<_>>>()?;
    let made_up = matches!(source, Source::Seed(_));
    for round in 0..options.warmup + options.runs {
        for runner in &mut runners {
            let done = runner.round(round >= options.warmup);
            done.map_err(|e| match made_up {
                true => {
                    e.at("inputs are made up, other extents (--dim) or real ones (--inputs) may do")
                }
                false => e,
            })?;
        }
    }
    let mut models: Vec<ModelReport> = runners.iter().map(Runner::report).collect();
    for (report, runner) in models.iter_mut().zip(&runners).skip(1) {
        report.ratio = Some(Ratio::of(&runner.times_ms, &runners[0].times_ms));
        if let Some(decode) = report.language.as_mut().and_then(|l| l.decode.as_mut())
            && runners[0].decodes > 0
        {
            decode.ratio = Some(Ratio::of(&runner.by_run(), &runners[0].by_run()));
        }
    }
    Ok(Report {
        schema: SCHEMA,
        engine: EngineReport {
            name: engine.name(),
            version: engine.version().to_owned(),
            path: engine.path().map(Path::to_path_buf),
            threads: options.load.threads,
        },
        runs: options.runs,
        warmup: options.warmup,
        inputs: source,
        models,
    })
}

/// Loads `subject` and runs it twice: what a process does whose memory is measured.
///
/// # Errors
/// As [`run`].
pub fn once(engine: &dyn Engine, subject: &Subject, options: &Options) -> Result<()> {
    let mut runner = Runner::new(engine, subject, options)?;
    runner.round(false)?;
    runner.round(false)
}

/// The most memory that this process had resident so far; none where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// A model that takes its turn.
struct Runner<'a> {
    subject: &'a Subject,
    signature: Signature,
    session: Box<dyn Session>,
    load_ms: f64,
    /// Tokens to decode after each prompt.
    decodes: usize,
    times_ms: Vec<f64>,
    decoded: Vec<Decoded>,
}

impl<'a> Runner<'a> {
    fn new(engine: &dyn Engine, subject: &'a Subject, options: &Options) -> Result<Runner<'a>> {
        let signature = Signature::of(&subject.model);
        let program = Program {
            model: &subject.model,
            file: Some(&subject.path),
        };
        let start = Instant::now();
        let session = engine
            .load(program, options.load)
            .map_err(|e| e.at(format!("`{}`", subject.path.display())))?;
        Ok(Runner {
            load_ms: milliseconds(start),
            decodes: if can_decode(&signature) {
                options.decode
            } else {
                0
            },
            subject,
            signature,
            session,
            times_ms: Vec::new(),
            decoded: Vec::new(),
        })
    }

    /// One turn; `counts` when it is no warm-up.
    fn round(&mut self, counts: bool) -> Result<()> {
        let (time, decoded) = self
            .turn()
            .map_err(|e| e.at(format!("`{}`", self.subject.path.display())))?;
        if counts {
            self.times_ms.push(time);
            self.decoded.push(decoded);
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(f64, Decoded)> {
        let prompt = &self.subject.inputs;
        let inputs: Vec<(&str, &Array)> = prompt.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let names: Vec<&str> = self
            .signature
            .outputs
            .iter()
            .map(|o| o.name.as_str())
            .collect();
        let start = Instant::now();
        let outputs = self.session.run(&inputs, &names)?;
        let time = milliseconds(start);
        let decoded = match self.decodes {
            0 => Decoded::default(),
            steps => decode(&mut *self.session, &self.signature, prompt, outputs, steps)?,
        };
        Ok((time, decoded))
    }

    /// Mean time of a step, for each run.
    fn by_run(&self) -> Vec<f64> {
        let mean = |d: &Decoded| d.times_ms.iter().sum::<f64>() / d.times_ms.len() as f64;
        self.decoded.iter().map(mean).collect()
    }

    fn report(&self) -> ModelReport {
        let inputs = &self.subject.inputs;
        let latency = Timing::of(self.times_ms.clone());
        let items = items(&self.signature, inputs);
        ModelReport {
            path: self.subject.path.display().to_string(),
            bytes: self.subject.bytes,
            inputs: inputs
                .iter()
                .map(|(name, array)| InputReport {
                    name: name.clone(),
                    dtype: array.dtype().name(),
                    shape: array.dims().to_vec(),
                })
                .collect(),
            items,
            load_ms: self.load_ms,
            items_per_s: items as f64 * 1e3 / latency.mean_ms,
            ratio: None,
            peak_memory_bytes: None,
            language: self.language(&latency),
            latency,
        }
    }

    fn language(&self, prefill: &Timing) -> Option<LanguageReport> {
        if !self.signature.is_causal_lm() {
            return None;
        }
        let ids = &self.signature.input(InputRole::InputIds)?.name;
        let (_, ids) = self.subject.inputs.iter().find(|(name, _)| name == ids)?;
        let &[batch, prompt_tokens] = ids.dims() else {
            return None;
        };
        let decode = (self.decodes > 0).then(|| {
            let times = self.decoded.iter().flat_map(|d| d.times_ms.iter().copied());
            let latency = Timing::of(times.collect());
            DecodeReport {
                steps: self.decodes,
                tokens_per_s: batch as f64 * 1e3 / latency.mean_ms,
                latency,
                ratio: None,
                tokens: self
                    .decoded
                    .last()
                    .map(|d| d.tokens.clone())
                    .unwrap_or_default(),
            }
        });
        Some(LanguageReport {
            prompt_tokens,
            prefill_tokens_per_s: (batch * prompt_tokens) as f64 * 1e3 / prefill.mean_ms,
            decode,
        })
    }
}
