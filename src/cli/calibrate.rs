//! `quantize --calibrate`: what a model computes, before its precision is chosen.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::{
    Error, Result,
    calibrate::{self, Choice, Options, Wanted},
    engine::read_tensors,
    eval::{self, Items, Windows},
    ir::Model,
    maxima::Maxima,
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
    weights::Calibrated,
};

use super::{
    Cx, ReadArgs,
    context::at_file,
    engine_args::EngineArgs,
    text_args::{Count, TextArgs, parse_count},
};

/// What to measure on.
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Run the model on this text, or on the tensors in an .npz or .safetensors file, and choose by what
    /// it computes: codes of 2, 4 and 8 bits (--method), and what stays float because half precision
    /// cannot hold it (fp16, q4f16, q2f16) [example: --calibrate text.txt]
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,
    /// How many windows of the text weights are chosen on; or `all`
    /// [example: --calibration-windows 64]
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count, requires = "calibrate")]
    calibration_windows: Count,
    /// Where the calibration keeps what it has, so that a run which was interrupted goes on from there,
    /// and one that is repeated is done at once [default: nowhere;
    /// example: --calibration-folder work]
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    calibration_folder: Option<PathBuf>,
}

/// What weights are chosen for.
pub(crate) struct Plan<'a> {
    /// What runs before, which leaves a model in its own types.
    pub(crate) before: Pipeline,
    /// What quantizes, with a method that needs no calibration.
    pub(crate) pipelines: Vec<Pipeline>,
    pub(crate) wanted: Wanted,
    pub(crate) read: &'a ReadArgs,
}

/// The extensions of files that hold tensors.
const TENSORS: [&str; 2] = ["npz", "safetensors"];

impl CalibrateArgs {
    /// What was measured of the model that `read` names, after `before`: of the values that half
    /// precision cannot hold, the largest magnitude.
    ///
    /// # Errors
    /// The model or the file cannot be read, or the engine cannot run the model.
    pub(crate) fn measure(
        &self,
        read: &ReadArgs,
        before: &Pipeline,
        how: &TextArgs,
        engine: &EngineArgs,
        cx: &Cx,
    ) -> Result<Vec<(String, f64)>> {
        let Some(file) = &self.calibrate else {
            return Ok(Vec::new());
        };
        // Before the tokenizer is looked for: it is the file that is missing.
        let missing = |e| Error::io(format!("--calibrate `{}`", file.display()), e);
        std::fs::metadata(file).map_err(missing)?;
        let (path, opened) = cx.open(read)?;
        let mut model = opened.model;
        // As the pass does, so that values have the names it will find.
        let inline = Pipeline::parse("inline-functions", REGISTRY)?;
        for pipeline in [before, &inline] {
            PassManager::default()
                .run(pipeline, &mut model)
                .map_err(at_file(&path))?;
        }
        let load = engine.load_options(cx);
        let engine = engine.engine(cx)?;
        let at = |e: Error| e.at("--calibrate");
        let maxima = match is_tensors(file) {
            true => {
                let set = read_tensors(file).map_err(at)?;
                let items = Items::Tensors {
                    sets: &[set],
                    source: &file.display().to_string(),
                };
                eval::measure(&*engine, &model, items, load)
            }
            false => {
                let tokens = how.text(file, &path).map_err(at)?;
                let items = Items::Texts {
                    tokens: &tokens,
                    window: how.window,
                    given: &[],
                };
                eval::measure(&*engine, &model, items, load)
            }
        };
        let maxima: Maxima = maxima.map_err(at)?;
        let beyond = maxima.beyond_half();
        Ok(beyond.map(|(name, most)| (name.to_owned(), most)).collect())
    }
}

impl CalibrateArgs {
    /// Chooses codes for all that the pipelines of `plan` quantize, or finds what counts in it.
    ///
    /// # Errors
    /// There is no file to calibrate on, or it cannot be read; the engine cannot run the model; the
    /// calibration fails.
    pub(crate) fn choose(
        &self,
        plan: &Plan<'_>,
        how: &TextArgs,
        engine: &EngineArgs,
        cx: &Cx,
    ) -> Result<Calibrated> {
        let Some(file) = &self.calibrate else {
            return Err(Error::input(
                "--method imatrix and gptq choose by what the model computes: expected --calibrate FILE, a text \
                 or tensors",
            ));
        };
        let missing = |e| Error::io(format!("--calibrate `{}`", file.display()), e);
        std::fs::metadata(file).map_err(missing)?;
        let (path, opened) = cx.open(plan.read)?;
        let mut model = opened.model;
        let run = |pipeline: &Pipeline, model: &mut Model| {
            let mut manager = PassManager::default();
            manager.run(pipeline, model).map_err(at_file(&path))
        };
        let mut weights = Vec::new();
        for pipeline in &plan.pipelines {
            let report = run(pipeline, &mut model.clone())?;
            weights.extend(report.quantized.into_iter().filter_map(|w| w.blocks));
        }
        run(&plan.before, &mut model)?;
        let load = engine.load_options(cx);
        let engine = engine.engine(cx)?;
        let at = |e: Error| e.at("--calibrate");
        let options = Options {
            load,
            folder: self.calibration_folder.as_deref(),
            cancel: Some(cx.cancelled()),
            ..Options::default()
        };
        let (set, tokens);
        let items = match is_tensors(file) {
            true => {
                set = [read_tensors(file).map_err(at)?];
                Items::Tensors {
                    sets: &set,
                    source: &file.display().to_string(),
                }
            }
            false => {
                let windows = Windows {
                    window: how.window,
                    stride: how.window,
                    limit: self.calibration_windows.0,
                };
                tokens = how.text_of(file, &path, windows).map_err(at)?;
                Items::Texts {
                    tokens: &tokens,
                    window: how.window,
                    given: &[],
                }
            }
        };
        let bar = cx.steps();
        let mut tell = |done, total, what: &str| {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(what.to_owned());
        };
        let chosen = calibrate::choose(
            &*engine,
            &model,
            items,
            &weights,
            plan.wanted,
            options,
            &mut tell,
        );
        bar.finish_and_clear();
        let chosen = chosen.map_err(at)?;
        if cx.verbose {
            for choice in &chosen.choices {
                cx.note(&told(choice));
            }
        }
        Ok(chosen.calibrated)
    }
}

/// A line for the reader.
fn told(choice: &Choice) -> String {
    let (name, rows) = (&choice.weight.name, choice.rows);
    match choice.losses {
        Some([plain, chosen]) if plain > 0.0 => {
            format!(
                "calibrated: {name}: {rows} rows, error {:.3} of plain rounding\n",
                chosen / plain
            )
        }
        _ => format!("calibrated: {name}: {rows} rows\n"),
    }
}

fn is_tensors(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    TENSORS.iter().any(|t| extension.eq_ignore_ascii_case(t))
}
