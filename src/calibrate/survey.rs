//! What each way to quantize a weight would do to its products.

use super::{Group, Options, Sequence, Site, Sites, Visitor};
use crate::{
    engine::Engine,
    error::{Error, Result},
    eval::Items,
    ir::Model,
    quant::{
        BlockSpec, Buffers,
        gptq::{GptqOptions, Hessian, Objective, Scales, StatisticsError},
    },
    weights::{MatrixView, WeightKey},
};

/// Weights that are multiplied by the same, and are quantized alike.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What messages call it.
    pub name: String,
    /// The weights, and their matrices.
    pub weights: Vec<(WeightKey, MatrixView)>,
    /// For each candidate the squared error of the products, summed over results and averaged over
    /// tokens, by plain rounding and by GPTQ; `None` where not all weights can be quantized
    /// so. Without activations it is that of the weights themselves.
    pub errors: Vec<Option<[f64; 2]>>,
}

/// Of a candidate: how it quantizes each weight that it can.
pub type Candidate = Vec<(WeightKey, BlockSpec)>;

/// Runs `model` over `items` and finds the errors of all weights that one of the `candidates` quantizes, by
/// each of them. Weights before a weight are as they were.
///
/// Memory: as [`choose`](super::choose()).
///
/// # Errors
/// As [`Sequence::run`]; a weight cannot be quantized.
pub fn survey(
    engine: &dyn Engine,
    model: &Model,
    items: Items<'_>,
    candidates: &[Candidate],
    options: Options<'_>,
    tell: &mut dyn FnMut(u64, u64, &str),
) -> Result<Vec<Unit>> {
    let planned = |site: &Site| {
        let key = WeightKey::of(model, &site.matrix);
        candidates.iter().flatten().any(|(k, _)| *k == key)
    };
    let mut sites = Sites::of(model)?.sites;
    sites.retain(planned);
    let key = format!("survey {candidates:?}");
    let options = Options {
        key: &key,
        ..options
    };
    let mut sequence = Sequence::new(engine, model, sites, items, options)?;
    let unit = |group: &Group| {
        let sites = group.weights.iter().map(|w| &w.sites[0].matrix);
        let weights = sites.map(|m| (WeightKey::of(model, m), m.clone()));
        Unit {
            name: group.name.clone(),
            weights: weights.collect(),
            errors: Vec::new(),
        }
    };
    let mut surveyor = Surveyor {
        units: sequence.groups().iter().map(unit).collect(),
        hessians: sequence.groups().iter().map(|_| None).collect(),
        candidates,
        tell,
    };
    sequence.run(&mut surveyor)?;
    Ok(surveyor.units)
}

struct Surveyor<'a> {
    units: Vec<Unit>,
    hessians: Vec<Option<Hessian>>,
    candidates: &'a [Candidate],
    tell: &'a mut dyn FnMut(u64, u64, &str),
}

impl Visitor for Surveyor<'_> {
    fn activations(&mut self, group: usize, rows: &[f32], _: Option<&[f32]>) -> Result<()> {
        let k = self.units[group].weights[0].1.k as usize;
        let hessian = self.hessians[group].get_or_insert_with(|| Hessian::new(k));
        let refused = |e: StatisticsError| Error::input(e.to_string());
        hessian.add(rows).map_err(refused)
    }

    fn finish(&mut self, group: usize, _: u64) -> Result<Vec<Option<Vec<f32>>>> {
        let unit = &mut self.units[group];
        let k = unit.weights[0].1.k as usize;
        let hessian = self.hessians[group]
            .take()
            .unwrap_or_else(|| Hessian::new(k));
        // The first part of GPTQ alone: which candidate is better shows already.
        let options = GptqOptions {
            scales: Scales::Search,
            refits: 0,
            ..GptqOptions::default()
        };
        let objective = Objective::new(&hessian, None, &options);
        unit.errors = vec![Some([0.0; 2]); self.candidates.len()];
        for (key, matrix) in &unit.weights {
            let elements = matrix.elements()?;
            let errors = self.candidates.iter().zip(&mut unit.errors);
            for (candidate, errors) in errors.filter(|(_, e)| e.is_some()) {
                let Some((_, spec)) = candidate.iter().find(|(k, _)| k == key) else {
                    *errors = None;
                    continue;
                };
                let one = one(&objective, spec, &elements, matrix.n as usize, k);
                let one = one.map_err(|e| e.at(format!("weight `{}`", key.name)))?;
                *errors = errors.map(|sum| [sum[0] + one[0], sum[1] + one[1]]);
            }
        }
        Ok(vec![None; unit.weights.len()])
    }

    fn save(&mut self, group: usize) -> Result<Vec<u8>> {
        let errors = self.units[group].errors.iter();
        let numbers = errors.flat_map(|e| e.unwrap_or([f64::NAN; 2]));
        Ok(numbers.flat_map(f64::to_le_bytes).collect())
    }

    fn restore(&mut self, group: usize, saved: &[u8]) -> Result<()> {
        let numbers = saved.as_chunks::<8>().0.iter();
        let numbers: Vec<f64> = numbers.map(|b| f64::from_le_bytes(*b)).collect();
        if numbers.len() != 2 * self.candidates.len() {
            return Err(Error::input("what was kept of it is cut short"));
        }
        let pairs = numbers.as_chunks::<2>().0.iter();
        self.units[group].errors = pairs.map(|e| (!e[0].is_nan()).then_some(*e)).collect();
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        (self.tell)(done, total, what);
    }
}

/// The errors of one weight by one specification.
fn one(
    objective: &Objective,
    spec: &BlockSpec,
    elements: &[f32],
    n: usize,
    k: usize,
) -> Result<[f64; 2]> {
    let mut buffers = Buffers::new(spec, n, k);
    let report = objective.quantize(spec, elements, buffers.out());
    let report = report.map_err(|e| Error::input(e.to_string()))?;
    Ok([report.plain, report.loss])
}
