//! What each way to quantize a weight would do to its products.

use super::{
    Group, Options, Sequence, Visitor,
    planned::{Planned, digest_of, planned_sites},
    spill::{Spill, Spilled, take_f64},
};
use crate::{
    engine::Engine,
    error::{Error, Result},
    eval::Items,
    ir::Model,
    quant::{
        BlockMethod, BlockSpec, Buffers, Matrix, Method, Needs, Rule, Source,
        gptq::{GptqOptions, Hessian, Objective, Scales, StatisticsError, weighted_loss},
        quantize_rows_by,
    },
    weights::{Blocks, MatrixView, WeightKey},
};

/// Weights that are multiplied by the same, and are quantized alike.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What messages call it.
    pub name: String,
    /// The weights.
    pub weights: Vec<UnitWeight>,
    /// The squares of the products, summed over results and averaged over tokens. Without activations, those of
    /// the weights.
    pub power: f64,
    /// For each candidate the squared error that it makes in them; `None` where not all weights can be
    /// quantized so.
    pub errors: Vec<Option<f64>>,
    /// Which of the candidates made the codes of the weights: the first that can.
    pub reference: Option<usize>,
}

/// A weight of a [`Unit`].
#[derive(Clone, Debug)]
pub struct UnitWeight {
    /// Its key.
    pub key: WeightKey,
    /// Its matrix.
    pub matrix: MatrixView,
    /// What the reference makes of it.
    pub codes: Option<(BlockSpec, Blocks)>,
}

/// Of so many items one is kept from the choice of codes, and errors are measured on it: on the items that
/// codes are fitted to, they look better than they are, and the more so the fewer bits there are.
const HELD_OUT: usize = 4;

/// Whether item number `item` is one that codes are not fitted to.
pub fn is_held_out(item: usize) -> bool {
    item % HELD_OUT == HELD_OUT - 1
}

/// Runs `model` over `items` and finds the errors of all weights that one of the `candidates` quantizes, by
/// each of them, with codes by `method`. Weights before a weight are as they were. Errors are those on every fourth
/// item, and codes are chosen on the others; with fewer than four items, both on all. Of
/// [`gptq`](crate::quant::gptq::gptq()) it is the first part alone, since which candidate is better shows already; no
/// channels are scaled for [`Method::Awq`].
///
/// Memory: as [`choose`](super::choose()), with twice the statistics. Codes go to a file without a name.
///
/// # Errors
/// As [`Sequence::run`]; a weight cannot be quantized.
pub fn survey(
    engine: &dyn Engine,
    model: &Model,
    items: Items<'_>,
    candidates: &[Planned],
    method: Method,
    options: Options<'_>,
    tell: &mut dyn FnMut(u64, u64, &str),
) -> Result<Vec<Unit>> {
    let sites = planned_sites(model, candidates)?;
    let key = survey_key(method, candidates);
    let options = Options {
        key: &key,
        ..options
    };
    let mut sequence = Sequence::new(engine, model, sites, items, options)?;
    let unit = |group: &Group| {
        let matrices = group.weights.iter().map(|w| &w.sites[0].matrix);
        let weight = |matrix: &MatrixView| UnitWeight {
            key: WeightKey::of(model, matrix),
            matrix: matrix.clone(),
            codes: None,
        };
        Surveyed {
            unit: Unit {
                name: group.name.clone(),
                weights: matrices.map(weight).collect(),
                power: 0.0,
                errors: Vec::new(),
                reference: None,
            },
            fitted: None,
            held_out: None,
            spilled: Vec::new(),
        }
    };
    let mut surveyor = Surveyor {
        groups: sequence.groups().iter().map(unit).collect(),
        candidates,
        method,
        spill: Spill::new()?,
        tell,
    };
    sequence.run(&mut surveyor)?;
    surveyor.finished()
}

/// SHA-256 of what [`survey`] does, as far as it does not follow from the model, the items and the engine:
/// it is its [`Options::key`], and may name the folder.
pub fn survey_key(method: Method, candidates: &[Planned]) -> String {
    digest_of(&("survey", method, candidates))
}

struct Surveyor<'a> {
    groups: Vec<Surveyed>,
    candidates: &'a [Planned],
    method: Method,
    spill: Spill,
    tell: &'a mut dyn FnMut(u64, u64, &str),
}

/// A unit, while its activations come and after.
struct Surveyed {
    unit: Unit,
    fitted: Option<Hessian>,
    held_out: Option<Hessian>,
    /// Of each weight, what the reference makes of it.
    spilled: Vec<Spilled>,
}

impl Surveyed {
    fn k(&self) -> usize {
        self.unit.weights[0].matrix.k as usize
    }
}

impl Visitor for Surveyor<'_> {
    fn activations(
        &mut self,
        group: usize,
        item: usize,
        rows: &[f32],
        _: Option<&[f32]>,
    ) -> Result<()> {
        let group = &mut self.groups[group];
        let k = group.k();
        let hessian = match is_held_out(item) {
            true => &mut group.held_out,
            false => &mut group.fitted,
        };
        let hessian = hessian.get_or_insert_with(|| Hessian::new(k));
        let refused = |e: StatisticsError| Error::input(e.to_string());
        hessian.add(rows).map_err(refused)
    }

    fn finish(&mut self, group: usize, _: u64) -> Result<Vec<Option<Vec<f32>>>> {
        let group = &mut self.groups[group];
        let k = group.k();
        let fitted = group.fitted.take().unwrap_or_else(|| Hessian::new(k));
        let held_out = group.held_out.take();
        let judge = held_out.as_ref().unwrap_or(&fitted);
        let chooser = Chooser::new(self.method, &fitted);
        let unit = &mut group.unit;
        unit.reference = self.candidates.iter().position(|c| unit.has_all(c));
        unit.errors = vec![None; self.candidates.len()];
        for (i, candidate) in self.candidates.iter().enumerate() {
            unit.errors[i] = unit.has_all(candidate).then_some(0.0);
        }
        for weight in &unit.weights {
            let elements = weight.matrix.elements()?;
            unit.power += loss(&elements, judge);
            let errors = self.candidates.iter().zip(&mut unit.errors).enumerate();
            for (i, (candidate, error)) in errors {
                let (Some(error), [spec, ..]) = (error, candidate.specs(&weight.key)) else {
                    continue;
                };
                let n = weight.matrix.n as usize;
                let mut buffers = Buffers::new(spec, n, k);
                let made = chooser.quantize(spec, &elements, [n, k], &mut buffers);
                made.map_err(|e| e.at(format!("weight `{}`", weight.key.name)))?;
                let mut differences = buffers.decode(spec, n, k);
                differences
                    .iter_mut()
                    .zip(&elements)
                    .for_each(|(d, x)| *d -= x);
                *error += loss(&differences, judge);
                if unit.reference == Some(i) {
                    group.spilled.push(self.spill.keep(&buffers)?);
                }
            }
        }
        Ok(vec![None; unit.weights.len()])
    }

    fn save(&mut self, group: usize) -> Result<Vec<u8>> {
        let Surveyed { unit, spilled, .. } = &self.groups[group];
        let errors = unit.errors.iter().map(|e| e.unwrap_or(f64::NAN));
        let numbers = errors.chain([unit.power]);
        let mut saved = numbers.flat_map(f64::to_le_bytes).collect();
        for spilled in spilled {
            self.spill.save(*spilled, &mut saved)?;
        }
        Ok(saved)
    }

    fn restore(&mut self, group: usize, saved: &[u8]) -> Result<()> {
        let Surveyed { unit, spilled, .. } = &mut self.groups[group];
        unit.reference = self.candidates.iter().position(|c| unit.has_all(c));
        let weights = if unit.reference.is_some() {
            unit.weights.len()
        } else {
            0
        };
        let mut rest = saved;
        let mut read = || {
            for _ in self.candidates {
                let error = take_f64(&mut rest)?;
                unit.errors.push((!error.is_nan()).then_some(error));
            }
            unit.power = take_f64(&mut rest)?;
            for _ in 0..weights {
                spilled.push(self.spill.restore(&mut rest)?);
            }
            rest.is_empty().then_some(())
        };
        read().ok_or_else(|| Error::input("what was kept of it is cut short"))
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        (self.tell)(done, total, what);
    }
}

impl Surveyor<'_> {
    fn finished(self) -> Result<Vec<Unit>> {
        let file = self.spill.finish()?;
        let mut units = Vec::new();
        for Surveyed {
            mut unit, spilled, ..
        } in self.groups
        {
            for (weight, spilled) in unit.weights.iter_mut().zip(spilled) {
                let specs = unit
                    .reference
                    .map(|r| self.candidates[r].specs(&weight.key));
                weight.codes = specs.map(|specs| (specs[0], spilled.of(&file)));
            }
            units.push(unit);
        }
        Ok(units)
    }
}

impl Unit {
    /// The share that the errors of its reference have in the squares of the products.
    pub fn share(&self) -> f64 {
        let errors = self.reference.and_then(|r| self.errors[r]);
        errors
            .filter(|_| self.power > 0.0)
            .map_or(0.0, |e| e / self.power)
    }

    /// Whether `candidate` quantizes all of its weights.
    fn has_all(&self, candidate: &Planned) -> bool {
        let mut weights = self.weights.iter();
        weights.all(|w| !candidate.specs(&w.key).is_empty())
    }
}

/// Chooses codes by the statistics of a group.
enum Chooser {
    Gptq(Box<Objective>),
    Blocks {
        method: BlockMethod,
        importance: Option<Vec<f32>>,
    },
}

impl Chooser {
    fn new(method: Method, hessian: &Hessian) -> Chooser {
        let importance = match method.needs() {
            Needs::Codes => {
                let options = GptqOptions {
                    scales: Scales::Search,
                    refits: 0,
                    ..GptqOptions::default()
                };
                return Chooser::Gptq(Box::new(Objective::new(hessian, None, &options)));
            }
            Needs::Importance => (hessian.tokens() > 0).then(|| hessian.diagonal()),
            Needs::Nothing => None,
        };
        Chooser::Blocks {
            method: method.of_blocks(),
            importance,
        }
    }

    fn quantize(
        &self,
        spec: &BlockSpec,
        elements: &[f32],
        [n, k]: [usize; 2],
        buffers: &mut Buffers,
    ) -> Result<()> {
        let made = match self {
            Chooser::Gptq(objective) => objective
                .quantize(spec, elements, buffers.out())
                .map(|_| ()),
            Chooser::Blocks { method, importance } => {
                let rule = Rule {
                    method: *method,
                    importance: importance.as_deref(),
                };
                let matrix = Matrix::new(Source::F32(elements), n, k);
                quantize_rows_by(spec, &rule, matrix, buffers.out())
            }
        };
        made.map_err(|e| Error::input(e.to_string()))
    }
}

/// The squares of the products with `errors`; of themselves, where nothing is known of what they are
/// multiplied by.
fn loss(errors: &[f32], hessian: &Hessian) -> f64 {
    match hessian.tokens() {
        0 => errors.iter().map(|&x| f64::from(x) * f64::from(x)).sum(),
        _ => weighted_loss(errors, hessian),
    }
}
