//! Compares outputs as numbers: of any model, over any inputs.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Subject, Tokens,
    language::Evaluated,
    lm::{Named, empty_past, given_beside_tokens, given_to, token_feeds, with_given},
    report::{InputInfo, ModelResult, Noise, OutputDifference},
    tokens::sha256,
};
use crate::{
    engine::{Array, Engine, InputRole, LoadOptions, OutputRole, Session, Signature},
    error::{Error, Result},
};

/// What models are fed, item by item.
#[derive(Clone, Copy)]
pub enum Items<'a> {
    /// Named tensors, each set an item.
    Tensors {
        /// The sets.
        sets: &'a [Vec<Named>],
        /// Where they come from.
        source: &'a str,
    },
    /// Every text an item, cut to so many tokens.
    Texts {
        /// The texts.
        tokens: &'a Tokens,
        /// Tokens of the longest.
        window: usize,
        /// Inputs beside the tokens.
        given: &'a [Named],
    },
}

/// Runs everything. The first error of a model ends it.
pub(crate) fn evaluate(
    engine: &dyn Engine,
    baseline: Option<&Subject<'_>>,
    models: &[Subject<'_>],
    items: Items<'_>,
    noise_items: usize,
    load: LoadOptions,
) -> Result<Evaluated> {
    let feeds = Feeds::of(items)?;
    let start = |subject| Runner::load(engine, subject, load, noise_items);
    let mut base = baseline.map(start).transpose()?;
    let mut runners: Vec<Runner<'_>> = models.iter().map(start).collect::<Result<_>>()?;
    let mut warnings: Vec<String> = models.iter().filter_map(Subject::randomness).collect();
    if let Some(base) = &base {
        for runner in &runners {
            runner.check(base, &mut warnings)?;
        }
    }
    for item in 0..feeds.len() {
        let reference = match &mut base {
            Some(base) => Some(base.outputs(&feeds, item)?),
            None => None,
        };
        for runner in &mut runners {
            let outputs = runner.outputs(&feeds, item)?;
            if let Some(reference) = &reference {
                let at = |e: Error| e.at(format!("`{}`, item {item}", runner.subject.name));
                let logits = runner.logits();
                add(
                    &mut runner.differences,
                    reference,
                    &outputs,
                    logits.as_deref(),
                )
                .map_err(at)?;
            }
        }
    }
    let base = base.map(Runner::finish);
    let floor = base.as_ref().and_then(|b| b.noise.as_ref());
    let finish = |runner: Runner<'_>| {
        let mut result = runner.finish();
        // A difference is blurred by both sides.
        if let (Some(noise), Some(floor)) = (&mut result.noise, floor) {
            noise.raise(floor);
        }
        result
    };
    Ok(Evaluated {
        models: runners.into_iter().map(finish).collect(),
        baseline: base,
        input: feeds.info(),
        warnings,
    })
}

/// The inputs of the first item, for a model with this signature.
pub(crate) fn first_item(items: Items<'_>, signature: &Signature) -> Result<Vec<Named>> {
    Feeds::of(items)?.item(0, signature)
}

/// What the items are, one form for both kinds.
pub(crate) struct Feeds<'a> {
    items: Items<'a>,
    texts: Vec<&'a [u32]>,
}

impl<'a> Feeds<'a> {
    pub(crate) fn of(items: Items<'a>) -> Result<Feeds<'a>> {
        let texts = match items {
            Items::Tensors { .. } => Vec::new(),
            Items::Texts { window: 0, .. } => {
                return Err(Error::input("a window of 0: expected at least 1 token"));
            }
            Items::Texts { tokens, window, .. } => {
                let all = tokens.sequences().iter();
                all.filter(|ids| !ids.is_empty())
                    .map(|ids| &ids[..ids.len().min(window)])
                    .collect()
            }
        };
        let feeds = Feeds { items, texts };
        match feeds.len() {
            0 => Err(Error::input(
                "there is nothing to feed, expected at least one text",
            )),
            _ => Ok(feeds),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self.items {
            Items::Tensors { sets, .. } => sets.len(),
            Items::Texts { .. } => self.texts.len(),
        }
    }

    /// The inputs of item `i` for a model with this signature.
    pub(crate) fn item(&self, i: usize, signature: &Signature) -> Result<Vec<Named>> {
        let (feeds, given) = match self.items {
            Items::Tensors { sets, .. } => {
                let rest = rest_of(signature, &sets[i])?;
                (rest, given_to(signature, &sets[i])?)
            }
            Items::Texts { given, .. } => {
                let ids = self.texts[i];
                let feeds = token_feeds(signature, &[ids], &(0..ids.len()), Vec::new())?;
                (feeds, given_beside_tokens(signature, given)?)
            }
        };
        let all = with_given(&feeds, &given).into_iter();
        Ok(all
            .map(|(name, array)| (name.to_owned(), array.clone()))
            .collect())
    }

    pub(crate) fn info(&self) -> InputInfo {
        let (source, given) = match self.items {
            Items::Tensors { sets, source } => (source, sets.iter().flatten().collect::<Vec<_>>()),
            Items::Texts { tokens, given, .. } => (tokens.source(), given.iter().collect()),
        };
        InputInfo {
            source: source.to_owned(),
            tokens: self.texts.iter().map(|t| t.len()).sum(),
            items: self.len(),
            batch: 1,
            sha256: sha256(self.texts.iter().copied(), given),
            ..InputInfo::default()
        }
    }
}

/// What given tensors leave out and can be told: a cache of no tokens.
fn rest_of(signature: &Signature, given: &[Named]) -> Result<Vec<Named>> {
    let mut rest = Vec::new();
    for input in &signature.inputs {
        if given.iter().any(|(name, _)| *name == input.name) || input.has_default {
            continue;
        }
        let array = match input.role {
            InputRole::Past { axis } => empty_past(input, axis, 1)?,
            InputRole::UseCacheBranch => Array::new(
                vec![1; input.dims.as_ref().map_or(1, Vec::len)],
                vec![false],
            ),
            _ => {
                let names: Vec<_> = given.iter().map(|(n, _)| n.as_str()).collect();
                return Err(Error::input(format!(
                    "input `{}` is not given; found {}",
                    input.name,
                    names.join(", ")
                )));
            }
        };
        rest.push((input.name.clone(), array));
    }
    Ok(rest)
}

struct Runner<'a> {
    subject: &'a Subject<'a>,
    engine: &'a dyn Engine,
    load: LoadOptions,
    signature: Signature,
    session: Box<dyn Session>,
    unoptimized: Option<Box<dyn Session>>,
    load_time: Duration,
    run_time: Duration,
    noise_items: usize,
    /// How many were run.
    items: usize,
    noise: BTreeMap<String, Sums>,
    differences: BTreeMap<String, Sums>,
}

impl<'a> Runner<'a> {
    fn load(
        engine: &'a dyn Engine,
        subject: &'a Subject<'a>,
        load: LoadOptions,
        noise_items: usize,
    ) -> Result<Runner<'a>> {
        let at = |e: Error| e.at(format!("`{}`", subject.name));
        let start = Instant::now();
        let session = engine.load(subject.program(), load).map_err(at)?;
        let load_time = start.elapsed();
        Ok(Runner {
            subject,
            engine,
            load,
            signature: Signature::of(subject.model),
            session,
            unoptimized: None,
            load_time,
            run_time: Duration::ZERO,
            noise_items,
            items: 0,
            noise: BTreeMap::new(),
            differences: BTreeMap::new(),
        })
    }

    /// That it can be compared with `base`.
    fn check(&self, base: &Runner<'_>, warnings: &mut Vec<String>) -> Result<()> {
        let at = |e: Error| e.at(format!("`{}`", self.subject.name));
        let names = |r: &Runner<'_>| -> Vec<String> {
            let needed = r.signature.inputs.iter().filter(|i| !i.has_default);
            let mut names: Vec<_> = needed.map(|i| i.name.clone()).collect();
            names.sort();
            names
        };
        let (mine, theirs) = (names(self), names(base));
        if mine != theirs {
            return Err(at(Error::input(format!(
                "its inputs are {}, the baseline's {}",
                mine.join(", "),
                theirs.join(", ")
            ))));
        }
        let has = |r: &Runner<'_>, name: &str| r.signature.outputs.iter().any(|o| o.name == name);
        let (shared, own): (Vec<_>, Vec<_>) = self
            .signature
            .outputs
            .iter()
            .map(|o| o.name.as_str())
            .partition(|name| has(base, name));
        if shared.is_empty() {
            return Err(at(Error::input(format!(
                "no output has the name of one of the baseline's; found {}",
                own.join(", ")
            ))));
        }
        if !own.is_empty() {
            warnings.push(format!(
                "`{}`: not compared, as the baseline has no such output: {}",
                self.subject.name,
                own.join(", ")
            ));
        }
        Ok(())
    }

    fn logits(&self) -> Option<String> {
        self.signature
            .output(OutputRole::Logits)
            .map(|o| o.name.clone())
    }

    fn outputs(&mut self, feeds: &Feeds<'_>, item: usize) -> Result<Vec<Named>> {
        let at = |e: Error| e.at(format!("`{}`, item {item}", self.subject.name));
        let inputs = feeds.item(item, &self.signature).map_err(at)?;
        let inputs: Vec<_> = inputs.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let names: Vec<_> = self
            .signature
            .outputs
            .iter()
            .map(|o| o.name.as_str())
            .collect();
        let named = |arrays: Vec<Array>| -> Vec<Named> {
            names.iter().map(|n| n.to_string()).zip(arrays).collect()
        };
        let start = Instant::now();
        let outputs = named(self.session.run(&inputs, &names).map_err(at)?);
        self.run_time += start.elapsed();
        self.items += 1;
        if item < self.noise_items {
            let load = LoadOptions {
                optimize: false,
                ..self.load
            };
            let program = self.subject.program();
            let session = match &mut self.unoptimized {
                Some(session) => session,
                none => none.insert(self.engine.load(program, load).map_err(at)?),
            };
            let other = named(session.run(&inputs, &names).map_err(at)?);
            add(&mut self.noise, &outputs, &other, None).map_err(at)?;
        }
        // It takes as much memory as the model itself.
        if item + 1 >= self.noise_items.min(feeds.len()) {
            self.unoptimized = None;
        }
        Ok(outputs)
    }

    fn finish(self) -> ModelResult {
        let mut result = self.subject.result();
        result.load_seconds = self.load_time.as_secs_f64();
        result.run_seconds = self.run_time.as_secs_f64();
        if self.noise_items > 0 {
            result.noise = Some(Noise {
                method: "with and without the engine's graph optimizations",
                items: self.noise_items.min(self.items),
                mean_kld: None,
                max_kld: None,
                max_log_prob: None,
                perplexity_ratio: None,
                max_difference: Some(self.noise.values().map(|s| s.max).fold(0.0, f64::max)),
            });
        }
        result.outputs = self
            .differences
            .into_iter()
            .map(|(name, sums)| sums.finish(name))
            .collect();
        result
    }
}

/// Sums over the elements of one output.
#[derive(Default)]
struct Sums {
    elements: usize,
    max: f64,
    absolute: f64,
    noise: f64,
    base: f64,
    other: f64,
    product: f64,
    /// Rows with the same largest element, and rows; only where rows are scores.
    agreement: Option<(usize, usize)>,
}

/// Adds the outputs of one item that both have. `scores` is the output whose rows are scores.
fn add(
    sums: &mut BTreeMap<String, Sums>,
    base: &[Named],
    other: &[Named],
    scores: Option<&str>,
) -> Result<()> {
    for (name, array) in other {
        let Some((_, reference)) = base.iter().find(|(n, _)| n == name) else {
            continue;
        };
        let at = |e: Error| e.at(format!("output `{name}`"));
        if array.dims() != reference.dims() {
            return Err(at(Error::input(format!(
                "its extents are {:?}, the baseline's {:?}",
                array.dims(),
                reference.dims()
            ))));
        }
        let (a, b) = (reference.to_f64(), array.to_f64());
        let sums = sums.entry(name.clone()).or_default();
        sums.add(&a, &b).map_err(at)?;
        if scores == Some(name.as_str()) {
            let width = array.dims().last().copied().unwrap_or(1).max(1);
            sums.agree(&a, &b, width);
        }
    }
    Ok(())
}

impl Sums {
    fn add(&mut self, base: &[f64], other: &[f64]) -> Result<()> {
        self.elements += base.len();
        for (i, (&b, &o)) in base.iter().zip(other).enumerate() {
            if b.is_nan() || o.is_nan() {
                let whose = if b.is_nan() {
                    "the baseline"
                } else {
                    "the model"
                };
                return Err(Error::input(format!(
                    "element {i} of {whose} is not a number"
                )));
            }
            // Masks have infinities in both.
            let difference = if b == o { 0.0 } else { (o - b).abs() };
            self.max = self.max.max(difference);
            self.absolute += difference;
            self.noise += difference * difference;
            if b.is_finite() && o.is_finite() {
                self.base += b * b;
                self.other += o * o;
                self.product += b * o;
            }
        }
        Ok(())
    }

    fn agree(&mut self, base: &[f64], other: &[f64], width: usize) {
        let (same, rows) = self.agreement.get_or_insert_default();
        for (b, o) in base.chunks(width).zip(other.chunks(width)) {
            *same += usize::from(largest(b) == largest(o));
            *rows += 1;
        }
    }

    fn finish(self, name: String) -> OutputDifference {
        let norms = (self.base * self.other).sqrt();
        OutputDifference {
            name,
            elements: self.elements,
            max: self.max,
            mean: self.absolute / self.elements.max(1) as f64,
            snr_db: (self.noise > 0.0 && self.base > 0.0)
                .then(|| 10.0 * (self.base / self.noise).log10()),
            cosine: (norms > 0.0).then(|| (self.product / norms).min(1.0)),
            agreement: self
                .agreement
                .map(|(same, rows)| same as f64 / rows.max(1) as f64),
        }
    }
}

/// Index of the largest element; of equal ones the first.
fn largest(row: &[f64]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    fn named(name: &str, dims: &[usize], elements: &[f32]) -> Vec<Named> {
        vec![(
            name.to_owned(),
            Array::new(dims.to_vec(), elements.to_vec()),
        )]
    }

    #[test]
    fn differences_computed_by_hand() {
        let base = named("y", &[2, 2], &[3.0, 4.0, 0.0, 1.0]);
        let other = named("y", &[2, 2], &[4.0, 3.0, 0.0, 1.0]);
        let mut sums = BTreeMap::new();
        add(&mut sums, &base, &other, Some("y")).unwrap();
        let d = sums.remove("y").unwrap().finish("y".to_owned());
        assert_eq!((d.elements, d.max, d.mean), (4, 1.0, 0.5));
        // Power 26 by noise 2.
        assert_relative_eq!(d.snr_db.unwrap(), 10.0 * 13f64.log10());
        assert_relative_eq!(d.cosine.unwrap(), 25.0 / 26.0);
        assert_eq!(d.agreement, Some(0.5));
    }

    #[test]
    fn equal_outputs() {
        let base = named("y", &[3], &[f32::NEG_INFINITY, 2.0, 0.0]);
        let mut sums = BTreeMap::new();
        add(&mut sums, &base, &base, None).unwrap();
        let d = sums.remove("y").unwrap().finish("y".to_owned());
        assert_eq!((d.max, d.snr_db, d.cosine), (0.0, None, Some(1.0)));
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let base = named("y", &[2], &[1.0, 2.0]);
        let mut sums = BTreeMap::new();
        let nan = named("y", &[2], &[1.0, f32::NAN]);
        let e = add(&mut sums, &base, &nan, None).unwrap_err().chain();
        assert_eq!(e, "output `y`: element 1 of the model is not a number");
        let e = add(&mut sums, &base, &named("y", &[1, 2], &[1.0, 2.0]), None);
        assert!(
            e.unwrap_err()
                .chain()
                .contains("[1, 2], the baseline's [2]")
        );
    }
}
