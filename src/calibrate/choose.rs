//! Codes, or what to choose them by, from the activations of a model.

use std::sync::Arc;

use super::{
    GroupWeight, Options, Sequence, Visitor,
    planned::{Planned, digest_of, planned_sites},
    spill::{Spill, Spilled, take, take_f64, take_u64},
};
use crate::{
    engine::Engine,
    error::{Error, Result},
    eval::Items,
    ir::Model,
    quant::{
        BlockMethod, BlockSpec, Buffers, Matrix, Method, Needs, Rule, Source,
        gptq::{Cross, GptqOptions, Hessian, Objective, StatisticsError},
        quantize_rows_by,
    },
    weights::{Calibrated, MatrixView, WeightKey},
};

/// What [`choose`] did with a weight.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The weight.
    pub weight: WeightKey,
    /// Rows of activations that it was chosen on.
    pub rows: u64,
    /// Of codes: the squared error of the products, by plain rounding and by what was chosen.
    pub losses: Option<[f64; 2]>,
}

/// What [`choose`] found.
#[derive(Debug)]
pub struct Chosen {
    /// For the passes.
    pub calibrated: Calibrated,
    /// What was done, in order.
    pub choices: Vec<Choice>,
}

/// Runs `model` over `items` and finds what `method` needs of the weights that are to be quantized, `plan`.
/// Weights that are no operands of nodes of the main graph are passed over.
///
/// Codes are those of [`gptq`](crate::quant::gptq::gptq()): weight after weight, each on the activations that
/// the ones before it leave, with the tables first. Cross terms (GPTAQ) are taken
/// when [`GptqOptions::alpha`] is above 0; the float model then runs beside.
///
/// `tell` is told how far it is: steps done, of how many, and at what.
///
/// Memory: as [`Sequence`](super) says, and of a group of weights its statistics (`12 k^2` bytes, as
/// much again for cross terms) and one weight as float, twice. Codes go to a file without a name.
///
/// # Errors
/// As [`Sequence::run`]; there are no rows to choose a weight on.
pub fn choose(
    engine: &dyn Engine,
    model: &Model,
    items: Items<'_>,
    plan: &Planned,
    method: Method,
    options: Options<'_>,
    tell: &mut dyn FnMut(u64, u64, &str),
) -> Result<Chosen> {
    let sites = planned_sites(model, std::slice::from_ref(plan))?;
    let gptq = gptq_of(method);
    let key = choose_key(method, plan);
    let options = Options {
        key: &key,
        float_rows: gptq.is_some_and(|gptq| gptq.alpha > 0.0),
        ..options
    };
    let mut sequence = Sequence::new(engine, model, sites, items, options)?;
    let groups = sequence.groups().iter().map(|group| Group {
        name: group.name.clone(),
        k: group.k as usize,
        multiplied: !group.activations.is_empty(),
        weights: group
            .weights
            .iter()
            .map(|w| Target::of(model, w, plan))
            .collect(),
        hessian: None,
        cross: None,
        squares: Vec::new(),
        found: None,
    });
    let mut chooser = Chooser {
        groups: groups.collect(),
        gptq,
        spill: Spill::new()?,
        tell,
    };
    sequence.run(&mut chooser)?;
    chooser.finished()
}

/// SHA-256 of what [`choose`] does, as far as it does not follow from the model, the items and the engine:
/// it is their [`Options::key`], and may name the folder.
pub fn choose_key(method: Method, plan: &Planned) -> String {
    digest_of(&(method.needs(), gptq_of(method), plan))
}

/// How codes are chosen, if `method` needs them.
fn gptq_of(method: Method) -> Option<GptqOptions> {
    (method.needs() == Needs::Codes).then(GptqOptions::default)
}

/// A weight of a group.
struct Target {
    matrix: MatrixView,
    /// Each name that it has, and how it is quantized there.
    keys: Vec<(WeightKey, BlockSpec)>,
}

impl Target {
    fn of(model: &Model, weight: &GroupWeight, planned: &Planned) -> Target {
        let mut keys: Vec<(WeightKey, BlockSpec)> = Vec::new();
        for site in &weight.sites {
            let key = WeightKey::of(model, &site.matrix);
            for &spec in planned.specs(&key) {
                let entry = (key.clone(), spec);
                if !keys.contains(&entry) {
                    keys.push(entry);
                }
            }
        }
        Target {
            matrix: weight.matrix.clone(),
            keys,
        }
    }
}

/// Weights with the same activations, while these come and after.
struct Group {
    name: String,
    k: usize,
    multiplied: bool,
    weights: Vec<Target>,
    hessian: Option<Hessian>,
    cross: Option<Cross>,
    squares: Vec<f64>,
    found: Option<Found>,
}

/// What was found of a group.
struct Found {
    rows: u64,
    /// Mean squares, unless nothing is multiplied by the weights.
    importance: Option<Arc<[f32]>>,
    /// Of each weight, for each of its specifications.
    blocks: Vec<Vec<Blocks>>,
}

/// Codes in the spill file.
struct Blocks {
    spilled: Spilled,
    losses: [f64; 2],
}

struct Chooser<'a> {
    groups: Vec<Group>,
    /// How codes are chosen, where they are; else only what counts is found.
    gptq: Option<GptqOptions>,
    spill: Spill,
    tell: &'a mut dyn FnMut(u64, u64, &str),
}

impl Visitor for Chooser<'_> {
    fn activations(
        &mut self,
        group: usize,
        _: usize,
        rows: &[f32],
        float: Option<&[f32]>,
    ) -> Result<()> {
        let group = &mut self.groups[group];
        let k = group.k;
        let refused = |e: StatisticsError| Error::input(e.to_string());
        if self.gptq.is_none() {
            group.squares.resize(k, 0.0);
            for row in rows.chunks_exact(k) {
                let squares = group.squares.iter_mut().zip(row);
                squares.for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
            return Ok(());
        }
        let hessian = group.hessian.get_or_insert_with(|| Hessian::new(k));
        hessian.add(rows).map_err(refused)?;
        if let Some(float) = float {
            let cross = group.cross.get_or_insert_with(|| Cross::new(k));
            cross.add(float, rows).map_err(refused)?;
        }
        Ok(())
    }

    fn finish(&mut self, group: usize, rows: u64) -> Result<Vec<Option<Vec<f32>>>> {
        let group = &mut self.groups[group];
        if group.multiplied && rows == 0 {
            return Err(Error::input(
                "the calibration data give it no rows; expected data that reach it",
            ));
        }
        let mut found = Found {
            rows,
            importance: None,
            blocks: Vec::new(),
        };
        let mut replaced = vec![None; group.weights.len()];
        match self.gptq {
            None => {
                let mean = |sum: &f64| (sum / rows as f64) as f32;
                let means = std::mem::take(&mut group.squares);
                found.importance = group.multiplied.then(|| means.iter().map(mean).collect());
            }
            Some(options) => {
                let hessian = group.hessian.take();
                let cross = group.cross.take();
                found.importance = hessian.as_ref().map(|h| h.diagonal().into());
                let objective = hessian.map(|h| Objective::new(&h, cross.as_ref(), &options));
                for (target, replaced) in group.weights.iter().zip(&mut replaced) {
                    let (blocks, decoded) =
                        quantize(target, objective.as_ref(), &mut self.spill)
                            .map_err(|e| e.at(format!("weight `{}`", target.keys[0].0.name)))?;
                    found.blocks.push(blocks);
                    *replaced = decoded;
                }
            }
        }
        group.found = Some(found);
        Ok(replaced)
    }

    fn save(&mut self, group: usize) -> Result<Vec<u8>> {
        let found = self.groups[group].found.as_ref();
        found.expect("it is finished").write(&self.spill)
    }

    fn restore(&mut self, group: usize, saved: &[u8]) -> Result<()> {
        let group = &mut self.groups[group];
        let weights = match self.gptq {
            None => Vec::new(),
            Some(_) => group.weights.iter().map(|w| w.keys.len()).collect(),
        };
        group.found = Found::read(saved, &weights, &mut self.spill);
        match group.found {
            Some(_) => Ok(()),
            None => Err(Error::input(format!(
                "what was kept of `{}` is cut short",
                group.name
            ))),
        }
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        (self.tell)(done, total, what);
    }
}

/// Quantizes a weight in all ways that it is wanted, and decodes the first of them.
fn quantize(
    target: &Target,
    objective: Option<&Objective>,
    spill: &mut Spill,
) -> Result<(Vec<Blocks>, Option<Vec<f32>>)> {
    let weight = target.matrix.elements()?;
    let (n, k) = (target.matrix.n as usize, target.matrix.k as usize);
    let (mut blocks, mut decoded) = (Vec::new(), None);
    for (_, spec) in &target.keys {
        let mut buffers = Buffers::new(spec, n, k);
        let out = buffers.out();
        let losses = match objective {
            Some(objective) => objective
                .quantize(spec, &weight, out)
                .map(|report| [report.plain, report.loss]),
            // Rows are looked up in it, and nothing is multiplied: its own error is what counts.
            None => {
                let rule = Rule::of(BlockMethod::Mse);
                let matrix = Matrix::new(Source::F32(&weight), n, k);
                quantize_rows_by(spec, &rule, matrix, out).map(|()| [0.0; 2])
            }
        };
        let losses = losses.map_err(|e| Error::input(e.to_string()))?;
        if decoded.is_none() {
            decoded = Some(buffers.decode(spec, n, k));
        }
        blocks.push(Blocks {
            spilled: spill.keep(&buffers)?,
            losses,
        });
    }
    Ok((blocks, decoded))
}

impl Chooser<'_> {
    fn finished(self) -> Result<Chosen> {
        let file = self.spill.finish()?;
        let mut calibrated = Calibrated::default();
        let mut choices = Vec::new();
        for group in self.groups {
            let found = group.found.expect("every group is visited");
            for (i, target) in group.weights.iter().enumerate() {
                for (j, (key, spec)) in target.keys.iter().enumerate() {
                    if let Some(importance) = &found.importance {
                        let importance = importance.clone();
                        calibrated.importance.insert(key.clone(), importance);
                    }
                    let blocks = found.blocks.get(i).map(|b| &b[j]);
                    if let Some(blocks) = blocks {
                        let made = blocks.spilled.of(&file);
                        calibrated.blocks.insert((key.clone(), *spec), made);
                    }
                    choices.push(Choice {
                        weight: key.clone(),
                        rows: found.rows,
                        losses: blocks.map(|b| b.losses),
                    });
                }
            }
        }
        Ok(Chosen {
            calibrated,
            choices,
        })
    }
}

impl Found {
    /// All of it, little-endian.
    fn write(&self, spill: &Spill) -> Result<Vec<u8>> {
        let mut out = self.rows.to_le_bytes().to_vec();
        let importance = self.importance.as_deref().unwrap_or_default();
        out.extend((importance.len() as u64).to_le_bytes());
        out.extend(importance.iter().flat_map(|x| x.to_le_bytes()));
        for blocks in self.blocks.iter().flatten() {
            out.extend(blocks.losses.iter().flat_map(|x| x.to_le_bytes()));
            spill.save(blocks.spilled, &mut out)?;
        }
        Ok(out)
    }

    /// Reads what [`Found::write`] gave, of weights with so many specifications each; `None` when it is
    /// something else.
    fn read(saved: &[u8], weights: &[usize], spill: &mut Spill) -> Option<Found> {
        let mut rest = saved;
        let rows = take_u64(&mut rest)?;
        let len = take_u64(&mut rest)?;
        let importance = take(&mut rest, usize::try_from(len).ok()?.checked_mul(4)?)?;
        let floats = importance.as_chunks().0.iter();
        let floats: Arc<[f32]> = floats.map(|b| f32::from_le_bytes(*b)).collect();
        let mut blocks = Vec::new();
        for &specs in weights {
            let mut own = Vec::new();
            for _ in 0..specs {
                own.push(Blocks {
                    losses: [take_f64(&mut rest)?, take_f64(&mut rest)?],
                    spilled: spill.restore(&mut rest)?,
                });
            }
            blocks.push(own);
        }
        rest.is_empty().then_some(Found {
            rows,
            importance: (!floats.is_empty()).then_some(floats),
            blocks,
        })
    }
}
