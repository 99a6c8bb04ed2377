//! Evaluates causal language models: all of them window by window, in step, so that of the
//! distributions no more than one batch of windows is ever in memory.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rayon::prelude::*;

use super::{
    Limits, Subject, Tokens, Windows,
    lm::LanguageModel,
    log_probs::{Form, Key, Reader, SCHEMA, Writer},
    metrics::{BadRow, Row},
    report::{InputInfo, ModelResult, Noise},
    summary::{Compared, WorstOf, mean, perplexity, perplexity_ratio, summarize},
    tokens::{Window, sha256},
};
use crate::{
    engine::{Array, Engine, LoadOptions, Signature},
    error::{Error, ErrorKind, Result},
};

/// How language models are evaluated.
#[derive(Clone, Debug)]
pub struct LanguageOptions {
    /// How the tokens are cut.
    pub windows: Windows,
    /// Feed this many tokens at once, through the cache; `None`: a whole window.
    pub chunk: Option<usize>,
    /// Windows fed at once.
    pub batch: usize,
    /// On how many windows the engine's own noise is measured; 0: not at all.
    pub noise_windows: usize,
    /// Inputs that every model gets beside the tokens.
    pub given: Vec<(String, Array)>,
    /// Where to save the baseline's distributions for later.
    pub save_baseline: Option<PathBuf>,
    /// Where to write the (only) model's distributions for other programs.
    pub log_probs: Option<PathBuf>,
    /// How the engine loads models.
    pub load: LoadOptions,
    /// Set to stop.
    pub cancel: Option<&'static AtomicBool>,
}

impl Default for LanguageOptions {
    fn default() -> Self {
        LanguageOptions {
            windows: Windows::default(),
            chunk: None,
            batch: 1,
            noise_windows: 1,
            given: Vec::new(),
            save_baseline: None,
            log_probs: None,
            load: LoadOptions::default(),
            cancel: None,
        }
    }
}

/// What models are compared with.
pub enum Baseline<'a> {
    /// A model, which is run.
    Model(Subject<'a>),
    /// Its distributions, from a run before.
    Saved {
        /// The file.
        path: &'a Path,
        /// The model that they must come from, when it is known.
        of: Option<Subject<'a>>,
    },
}

/// Numbers about the models: the baseline's, the others', and what they were fed.
pub(crate) struct Evaluated {
    pub(crate) baseline: Option<ModelResult>,
    pub(crate) models: Vec<ModelResult>,
    pub(crate) input: InputInfo,
    pub(crate) warnings: Vec<String>,
}

/// Runs everything.
pub(crate) fn evaluate(
    engine: &dyn Engine,
    baseline: Option<&Baseline<'_>>,
    models: &[Subject<'_>],
    tokens: &Tokens,
    options: &LanguageOptions,
    limits: &Limits,
) -> Result<Evaluated> {
    if options.chunk == Some(0) {
        return Err(Error::input("a chunk of 0: expected at least 1 token"));
    }
    let windows = tokens.windows(options.windows)?;
    let mut input = InputInfo {
        source: tokens.source().to_owned(),
        tokens: windows.iter().map(|w| w.ids.len()).sum(),
        items: windows.len(),
        window: windows.iter().map(|w| w.ids.len()).max(),
        stride: Some(options.windows.stride),
        chunk: options.chunk,
        batch: options.batch,
        sha256: sha256(windows.iter().map(|w| w.ids), &options.given),
    };
    let key = |model_sha256: String| Key {
        schema: SCHEMA.to_owned(),
        engine: engine.name().to_owned(),
        model_sha256,
        tokens_sha256: input.sha256.clone(),
        window: options.windows.window.to_string(),
        stride: options.windows.stride.to_string(),
    };
    let mut warnings: Vec<String> = models.iter().filter_map(Subject::randomness).collect();
    let load = |subject| Runner::load(engine, subject, tokens, options);
    let mut base = match baseline {
        None => Base::None,
        Some(Baseline::Model(subject)) => Base::Runner(Box::new(load(subject)?)),
        Some(Baseline::Saved { path, of }) => {
            warnings.push(
                "the baseline was saved in half precision: divergences below 1e-6 nats say nothing"
                    .to_owned(),
            );
            Base::Saved(Box::new(Reader::open(path, &windows, |found| {
                let of = of.as_ref().map(|of| of.sha256.clone());
                key(of.unwrap_or_else(|| found.model_sha256.clone()))
            })?))
        }
    };
    let mut runners: Vec<Runner<'_>> = models.iter().map(load).collect::<Result<_>>()?;
    let mut writers = Writers::new(options, baseline, models, &key)?;
    input.batch = batch_size(
        options.batch,
        base.runner().into_iter().chain(&runners),
        &mut warnings,
    );

    let mut begin = 0;
    while begin < windows.len() {
        if options.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        let len = windows[begin].ids.len();
        let alike = windows[begin..].iter().take_while(|w| w.ids.len() == len);
        let group = begin..begin + alike.count().min(input.batch);
        begin = group.end;
        for from in (0..len).step_by(options.chunk.unwrap_or(len)) {
            let part = Part::new(
                &windows,
                group.clone(),
                from..len.min(from + options.chunk.unwrap_or(len)),
            );
            let reference = base.rows(&part)?;
            if let Some(rows) = &reference {
                writers.baseline(&part, rows)?;
            }
            for runner in &mut runners {
                let rows = runner.rows(&part)?;
                runner.compare(&part, &rows, reference.as_ref())?;
                writers.model(&part, &rows)?;
            }
        }
    }
    writers.finish()?;
    let base = base.finish(baseline, &windows, tokens);
    let floor = base.as_ref().and_then(|b| b.noise.as_ref());
    let finish = |runner: Runner<'_>| {
        let mut result = runner.finish(&windows, tokens, limits);
        // A difference is blurred by both sides.
        if let (Some(noise), Some(floor)) = (&mut result.noise, floor) {
            noise.raise(floor);
        }
        result
    };
    Ok(Evaluated {
        models: runners.into_iter().map(finish).collect(),
        baseline: base,
        input,
        warnings,
    })
}

/// As many windows at once as asked, or 1 where a model does not allow it.
fn batch_size<'r, 'a: 'r>(
    asked: usize,
    runners: impl Iterator<Item = &'r Runner<'a>>,
    warnings: &mut Vec<String>,
) -> usize {
    let mut batch = asked.max(1);
    for runner in runners {
        let verdict = runner.lm.signature().batch();
        if asked > 1 && !verdict.allowed {
            batch = 1;
            let reason = verdict.reasons.first().map_or("", String::as_str);
            warnings.push(format!(
                "batch 1 instead of {asked}: `{}` takes one window at a time ({reason})",
                runner.subject.name
            ));
        }
    }
    batch
}

/// Some rows of a group of windows that are fed together.
pub(super) struct Part<'w> {
    windows: &'w [Window<'w>],
    group: Range<usize>,
    /// Which tokens of each.
    rows: Range<usize>,
    /// The rows whose distributions count.
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    window: usize,
    position: usize,
    /// The token that follows in the window.
    next: Option<u32>,
    /// The row of the engine's output.
    row: usize,
}

impl<'w> Part<'w> {
    pub(super) fn new(
        windows: &'w [Window<'w>],
        group: Range<usize>,
        rows: Range<usize>,
    ) -> Part<'w> {
        let in_window = |window: usize| {
            let Window { ids, first } = &windows[window];
            let start = group.start;
            let (from, len) = (rows.start, rows.len());
            (rows.start.max(*first)..rows.end).map(move |position| Place {
                window,
                position,
                next: ids.get(position + 1).copied(),
                row: (window - start) * len + position - from,
            })
        };
        let places = group.clone().flat_map(in_window).collect();
        Part {
            windows,
            group,
            rows,
            places,
        }
    }
}

/// The distributions of a part.
pub(super) struct Rows {
    /// One row a place, or more: see [`Place::row`].
    logits: Vec<f32>,
    vocabulary: usize,
    /// One a place, as the following.
    rows: Vec<Row>,
    /// Log-prob of the token that follows.
    references: Vec<Option<f64>>,
    /// Where a place's logits are.
    index: Vec<usize>,
}

impl Rows {
    fn new(
        part: &Part<'_>,
        logits: Vec<f32>,
        vocabulary: usize,
        index: Vec<usize>,
    ) -> Result<Rows> {
        let logits_of = |i: usize| &logits[index[i] * vocabulary..][..vocabulary];
        let check = |i: usize| {
            let place = &part.places[i];
            let row = Row::of(logits_of(i)).map_err(|bad| bad_row(bad, place))?;
            let reference = place.next.map(|next| {
                let logit = logits_of(i).get(next as usize);
                logit.map(|&logit| row.log_prob(logit)).ok_or_else(|| {
                    Error::input(format!(
                        "window {}, position {}: token {next} is beyond the vocabulary of \
                         {vocabulary}; is the tokenizer this model's?",
                        place.window,
                        place.position + 1
                    ))
                })
            });
            Ok((row, reference.transpose()?))
        };
        let all: Vec<(Row, Option<f64>)> = (0..part.places.len())
            .into_par_iter()
            .map(check)
            .collect::<Result<_>>()?;
        let (rows, references) = all.into_iter().unzip();
        Ok(Rows {
            logits,
            vocabulary,
            rows,
            references,
            index,
        })
    }

    fn logits(&self, place: usize) -> &[f32] {
        &self.logits[self.index[place] * self.vocabulary..][..self.vocabulary]
    }
}

fn bad_row(bad: BadRow, place: &Place) -> Error {
    let at = format!("window {}, position {}", place.window, place.position);
    Error::input(match bad {
        BadRow::NotANumber(token) => {
            format!("{at}: the logit of token {token} is infinite or not a number")
        }
        BadRow::Empty => format!("{at}: no token has a probability"),
    })
}

/// Tokens of a window that are run again to measure noise. It does not grow with the text, and a
/// check should not take much longer than what it checks.
const NOISE_TOKENS: usize = 64;

/// That every reference token has a log-prob: perplexity would be infinite else.
fn check_references(part: &Part<'_>, references: &[Option<f64>]) -> Result<()> {
    let bad = |r: &Option<f64>| r.is_some_and(|r| !r.is_finite());
    match references.iter().position(bad) {
        None => Ok(()),
        Some(i) => {
            let place = &part.places[i];
            Err(Error::input(format!(
                "window {}, position {}: the token that follows has probability 0, so the \
                 perplexity is infinite",
                place.window, place.position
            )))
        }
    }
}

/// A model, and what is known about it so far.
struct Runner<'a> {
    subject: &'a Subject<'a>,
    engine: &'a dyn Engine,
    options: &'a LanguageOptions,
    lm: LanguageModel,
    load_time: Duration,
    nll: Vec<f64>,
    compared: Vec<Compared>,
    noise: NoiseRun,
}

/// The same model without graph optimizations, and how the two differ.
#[derive(Default)]
struct NoiseRun {
    /// There only while it is needed: it takes as much memory as the model itself.
    lm: Option<LanguageModel>,
    compared: Vec<Compared>,
    items: usize,
}

impl<'a> Runner<'a> {
    fn load(
        engine: &'a dyn Engine,
        subject: &'a Subject<'a>,
        tokens: &Tokens,
        options: &'a LanguageOptions,
    ) -> Result<Runner<'a>> {
        let at = |e: Error| e.at(format!("`{}`", subject.name));
        check_vocabulary(&Signature::of(subject.model), tokens).map_err(at)?;
        let start = Instant::now();
        let lm = load(engine, subject, options, true).map_err(at)?;
        let load_time = start.elapsed();
        Ok(Runner {
            subject,
            engine,
            options,
            lm,
            load_time,
            nll: Vec::new(),
            compared: Vec::new(),
            noise: NoiseRun::default(),
        })
    }

    /// The distributions of a part; measures the noise on the way.
    fn rows(&mut self, part: &Part<'_>) -> Result<Rows> {
        let at = |e: Error| e.at(format!("`{}`", self.subject.name));
        let rows = run(&mut self.lm, part).map_err(at)?;
        self.nll
            .extend(rows.references.iter().flatten().map(|lp| -lp));
        if part.group.start < self.options.noise_windows {
            self.add_noise(part, &rows).map_err(at)?;
        }
        Ok(rows)
    }

    /// Runs the first tokens of a window again, without graph optimizations.
    fn add_noise(&mut self, part: &Part<'_>, rows: &Rows) -> Result<()> {
        let group = part.group.start..part.group.end.min(self.options.noise_windows);
        let noise = &mut self.noise;
        if part.rows.start == 0 {
            let first = part.windows[group.start].first;
            let short = Part::new(
                part.windows,
                group,
                0..part.rows.end.min(first + NOISE_TOKENS),
            );
            let lm = match &mut noise.lm {
                Some(lm) => lm,
                none => none.insert(load(self.engine, self.subject, self.options, false)?),
            };
            let other = run(lm, &short)?;
            let is_short = |i: &usize| {
                let place = &part.places[*i];
                place.window < short.group.end && place.position < short.rows.end
            };
            let pairs: Vec<_> = (0..part.places.len())
                .filter(is_short)
                .enumerate()
                .collect();
            let compared = pairs
                .into_par_iter()
                .map(|(i, j)| compare_row(&short.places[i], (rows, j), (&other, i)));
            noise.compared.par_extend(compared);
            noise.items = short.group.end;
        }
        if part.group.end >= self.options.noise_windows {
            noise.lm = None;
        }
        Ok(())
    }

    fn compare(&mut self, part: &Part<'_>, rows: &Rows, base: Option<&Rows>) -> Result<()> {
        let Some(base) = base else { return Ok(()) };
        let at = |e: Error| e.at(format!("`{}`", self.subject.name));
        if base.vocabulary != rows.vocabulary {
            return Err(at(Error::input(format!(
                "its vocabulary has {} tokens, the baseline's {}",
                rows.vocabulary, base.vocabulary
            ))));
        }
        let compared = compare(part, base, rows);
        if let Some(c) = compared.iter().find(|c| !c.kld().is_finite()) {
            return Err(at(Error::input(format!(
                "window {}, position {}: it gives probability 0 to a token that the baseline \
                 holds possible, so the divergence is infinite",
                c.window, c.position
            ))));
        }
        self.compared.extend(compared);
        Ok(())
    }

    fn finish(self, windows: &[Window<'_>], tokens: &Tokens, limits: &Limits) -> ModelResult {
        let mut result = self.subject.result();
        result.load_seconds = self.load_time.as_secs_f64();
        result.run_seconds = self.lm.time.as_secs_f64();
        let noise = &self.noise;
        result.noise = (noise.items > 0).then(|| noise_of(&noise.compared, noise.items));
        let mut ppl = perplexity(&self.nll);
        ppl.ratio = perplexity_ratio(&self.compared);
        result.divergence = summarize(&self.compared, windows, tokens);
        if let Some(divergence) = &result.divergence {
            let worst = WorstOf::of(&self.compared, windows, tokens);
            result.limits = limits.judge(divergence, &ppl, &worst);
        }
        result.perplexity = Some(ppl);
        result
    }
}

fn load(
    engine: &dyn Engine,
    subject: &Subject<'_>,
    options: &LanguageOptions,
    optimize: bool,
) -> Result<LanguageModel> {
    let load = LoadOptions {
        optimize,
        ..options.load
    };
    let session = engine.load(subject.program(), load)?;
    let lm = LanguageModel::new(session, Signature::of(subject.model), &options.given)?;
    if options.chunk.is_some() && !lm.has_cache() {
        return Err(Error::input(
            "it has no cache (inputs past_key_values.*), and cannot be fed in chunks",
        ));
    }
    Ok(lm)
}

/// A token that no embedding stands for, before an engine stumbles over it.
fn check_vocabulary(signature: &Signature, tokens: &Tokens) -> Result<()> {
    let Some((token, sequence, at)) = tokens.largest() else {
        return Ok(());
    };
    match signature.vocabulary() {
        Some(vocabulary) if u64::from(token) >= vocabulary => Err(Error::input(format!(
            "token {token} (text {sequence}, position {at}) is beyond the vocabulary of \
             {vocabulary}; is the tokenizer this model's?"
        ))),
        _ => Ok(()),
    }
}

/// The distributions of `part`, by a model.
pub(super) fn run(lm: &mut LanguageModel, part: &Part<'_>) -> Result<Rows> {
    if part.rows.start == 0 {
        lm.restart();
    }
    let group = &part.windows[part.group.clone()];
    let ids: Vec<&[u32]> = group.iter().map(|w| w.ids).collect();
    let count = part.rows.end;
    let logits = lm
        .feed(&ids, part.rows.clone())
        .map_err(|e| e.at(format!("on {count} tokens")))?;
    let vocabulary = logits.dims()[2];
    let logits = logits
        .into_f32()
        .ok_or_else(|| Error::input("its logits are truth values, expected numbers"))?;
    let index = part.places.iter().map(|p| p.row).collect();
    let rows = Rows::new(part, logits, vocabulary, index)?;
    check_references(part, &rows.references)?;
    Ok(rows)
}

/// Compares all rows of `part`.
pub(super) fn compare(part: &Part<'_>, base: &Rows, other: &Rows) -> Vec<Compared> {
    let each = part.places.par_iter().enumerate();
    each.map(|(i, place)| compare_row(place, (base, i), (other, i)))
        .collect()
}

/// Compares a row of each, by its index there.
fn compare_row(place: &Place, (base, i): (&Rows, usize), (other, j): (&Rows, usize)) -> Compared {
    Compared::new(
        (place.window, place.position),
        place.next.zip(base.references[i]),
        (&base.rows[i], base.logits(i)),
        (&other.rows[j], other.logits(j)),
    )
}

fn noise_of(compared: &[Compared], items: usize) -> Noise {
    let klds: Vec<f64> = compared.iter().map(Compared::kld).collect();
    let differences = compared.iter().filter_map(Compared::log_prob_difference);
    Noise {
        method: "the first 64 tokens of a window, with and without the engine's graph optimizations",
        items,
        mean_kld: Some(mean(&klds).value),
        max_kld: Some(klds.iter().copied().fold(0.0, f64::max)),
        max_log_prob: Some(differences.map(f64::abs).fold(0.0, f64::max)),
        perplexity_ratio: perplexity_ratio(compared).map(|r| r.value),
        max_difference: None,
    }
}

/// Where the baseline's distributions come from.
enum Base<'a> {
    None,
    Runner(Box<Runner<'a>>),
    Saved(Box<Reader>),
}

impl<'a> Base<'a> {
    fn runner(&self) -> Option<&Runner<'a>> {
        match self {
            Base::Runner(runner) => Some(runner),
            _ => None,
        }
    }

    fn rows(&mut self, part: &Part<'_>) -> Result<Option<Rows>> {
        Ok(Some(match self {
            Base::None => return Ok(None),
            Base::Runner(runner) => runner.rows(part)?,
            Base::Saved(reader) => saved_rows(reader, part)?,
        }))
    }

    fn finish(
        self,
        baseline: Option<&Baseline<'_>>,
        windows: &[Window<'_>],
        tokens: &Tokens,
    ) -> Option<ModelResult> {
        match (self, baseline) {
            (Base::Runner(runner), _) => Some(runner.finish(windows, tokens, &Limits::default())),
            (Base::Saved(reader), Some(Baseline::Saved { path, of })) => {
                Some(reader.result(path, of.as_ref()))
            }
            _ => None,
        }
    }
}

fn saved_rows(reader: &mut Reader, part: &Part<'_>) -> Result<Rows> {
    let mut logits = Vec::new();
    let mut references = Vec::new();
    for window in part.group.clone() {
        let first = part.windows[window].first;
        let rows = part.rows.start.max(first) - first..part.rows.end.max(first) - first;
        let (l, r) = reader.rows(window, rows)?;
        logits.extend(l);
        references.extend(r);
    }
    let index = (0..part.places.len()).collect();
    let mut rows = Rows::new(part, logits, reader.vocabulary, index)?;
    // The exact ones, instead of those that half precision leaves.
    for (reference, exact) in rows.references.iter_mut().zip(references) {
        *reference = reference.map(|_| exact);
    }
    check_references(part, &rows.references)?;
    reader.add(&rows.references);
    Ok(rows)
}

/// The files of distributions that are asked for.
struct Writers<'a> {
    baseline: Option<Pending<'a>>,
    model: Option<Pending<'a>>,
}

/// A file that begins with the first distribution, when the vocabulary is known.
struct Pending<'a> {
    path: &'a Path,
    form: Form,
    key: Key,
    writer: Option<Writer>,
}

impl<'a> Writers<'a> {
    fn new(
        options: &'a LanguageOptions,
        baseline: Option<&Baseline<'_>>,
        models: &[Subject<'_>],
        key: &dyn Fn(String) -> Key,
    ) -> Result<Writers<'a>> {
        let pending = |path, form, subject: &Subject<'_>| Pending {
            path,
            form,
            key: key(subject.sha256.clone()),
            writer: None,
        };
        let saved = match (&options.save_baseline, baseline) {
            (None, _) => None,
            (Some(path), Some(Baseline::Model(subject))) => {
                Some(pending(path.as_path(), Form::Compact, subject))
            }
            (Some(_), _) => {
                return Err(Error::input(
                    "there is no baseline that is run, and none to save",
                ));
            }
        };
        let written = match (&options.log_probs, models) {
            (None, _) => None,
            (Some(path), [subject]) => Some(pending(path.as_path(), Form::Full, subject)),
            (Some(_), _) => {
                return Err(Error::input(format!(
                    "log-probs are written of one model, found {}",
                    models.len()
                )));
            }
        };
        Ok(Writers {
            baseline: saved,
            model: written,
        })
    }

    fn baseline(&mut self, part: &Part<'_>, rows: &Rows) -> Result<()> {
        self.baseline
            .as_mut()
            .map_or(Ok(()), |p| p.write(part, rows))
    }

    fn model(&mut self, part: &Part<'_>, rows: &Rows) -> Result<()> {
        self.model.as_mut().map_or(Ok(()), |p| p.write(part, rows))
    }

    fn finish(self) -> Result<()> {
        let writers = [self.baseline, self.model].into_iter().flatten();
        let mut writers = writers.filter_map(|p| p.writer);
        writers.try_for_each(Writer::finish)
    }
}

impl Pending<'_> {
    fn write(&mut self, part: &Part<'_>, rows: &Rows) -> Result<()> {
        if self.writer.is_none() {
            let key = self.key.clone();
            let writer = Writer::create(self.path, self.form, key, part.windows, rows.vocabulary)?;
            self.writer = Some(writer);
        }
        let writer = self.writer.as_ref().expect("made above");
        (0..part.places.len()).into_par_iter().try_for_each(|i| {
            let place = &part.places[i];
            let row = place.position - part.windows[place.window].first;
            let at = (place.window, row);
            writer.row(at, &rows.rows[i], rows.logits(i), rows.references[i])
        })
    }
}
