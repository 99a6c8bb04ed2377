//! `quantize --calibrate`: what a model computes, before its precision is chosen.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::{
    Error, Result,
    calibrate::{self, Choice, Options, Planned, choose_key, survey_key},
    digest::sha256,
    engine::{Array, Engine, LoadOptions, Signature, read_tensors},
    eval::{Items, Tokens, Windows},
    ir::{Model, SourceFile},
    mix::{Budget, Calibration, Choices, Form, Measured, Mix, Recipe},
    onnx::{self, ExternalData},
    pass::{PassManager, Pipeline, QuantizedWeight},
    passes::REGISTRY,
    quant::Method,
    weights::Calibrated,
};

use super::{
    Cx, ReadArgs,
    check::Spare,
    context::at_file,
    engine_args::EngineArgs,
    feed_args::is_tensors,
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
    /// How many windows of the text the model is run on; or `all`
    /// [example: --calibration-windows 128]
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_count, requires = "calibrate")]
    calibration_windows: Count,
    /// Where the calibration keeps what it has, so that a run which was interrupted goes on from there,
    /// and one that is repeated is done at once [default: nowhere;
    /// example: --calibration-folder work]
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    calibration_folder: Option<PathBuf>,
    /// Where the errors of all forms are kept, when not in the folder: for several runs with the same forms.
    #[arg(skip)]
    pub(super) survey_folder: Option<PathBuf>,
    /// Where the values that half precision cannot hold are kept, when not in the folder: for several runs
    /// with folders of their own.
    #[arg(skip)]
    pub(super) peaks_folder: Option<PathBuf>,
}

impl CalibrateArgs {
    /// The model that `read` names, after `before`, and what it is run on; `None` when there is nothing to
    /// calibrate on.
    ///
    /// # Errors
    /// The file or the model cannot be read; there is no such engine.
    pub(crate) fn prepare(
        &self,
        read: &ReadArgs,
        before: &Pipeline,
        how: &TextArgs,
        engine: &EngineArgs,
        cx: &Cx,
    ) -> Result<Option<Prepared<'_>>> {
        let Some(file) = &self.calibrate else {
            return Ok(None);
        };
        // Before the tokenizer is looked for: it is the file that is missing.
        let missing = |e| Error::io(format!("--calibrate `{}`", file.display()), e);
        std::fs::metadata(file).map_err(missing)?;
        let (path, opened) = cx.open(read)?;
        let load = engine.load_options(cx);
        let engine = engine.engine(cx)?;
        let at = |e: Error| e.at("--calibrate");
        let data = match is_tensors(file) {
            true => Data::Tensors([read_tensors(file).map_err(at)?]),
            false => {
                let windows = Windows {
                    window: how.window,
                    stride: how.window,
                    limit: self.calibration_windows.0,
                };
                Data::Text(how.text_of(file, &path, windows).map_err(at)?)
            }
        };
        let mut prepared = Prepared {
            args: self,
            file: file.clone(),
            path,
            source: opened.model.clone(),
            model: opened.model,
            engine,
            load,
            data,
            window: how.window,
        };
        let mut manager = PassManager::default();
        let ran = manager.run(before, &mut prepared.model);
        ran.map_err(at_file(&prepared.path))?;
        Ok(Some(prepared))
    }
}

/// What a calibration runs on.
enum Data {
    Tensors([Vec<(String, Array)>; 1]),
    Text(Tokens),
}

/// A calibration that is ready.
pub(crate) struct Prepared<'a> {
    args: &'a CalibrateArgs,
    file: PathBuf,
    pub(crate) path: PathBuf,
    /// The model as it came.
    source: Model,
    /// After what runs before the quantization.
    model: Model,
    engine: Box<dyn Engine>,
    load: LoadOptions,
    data: Data,
    window: usize,
}

impl Prepared<'_> {
    fn items<'i>(&'i self, name: &'i str) -> Items<'i> {
        match &self.data {
            Data::Tensors(sets) => Items::Tensors { sets, source: name },
            Data::Text(tokens) => Items::Texts {
                tokens,
                window: self.window,
                given: &[],
            },
        }
    }

    fn options<'o>(&self, folder: Option<&'o Path>, cx: &Cx) -> Options<'o> {
        Options {
            load: self.load,
            folder,
            cancel: Some(cx.cancelled()),
            ..Options::default()
        }
    }

    /// A folder for one part of the work, by the SHA-256 of what it does: another has a folder of its own.
    fn folder(&self, part: &str, key: &str) -> Option<PathBuf> {
        let folder = self.args.calibration_folder.as_ref()?;
        Some(folder.join(format!("{part}-{}", &key[..12])))
    }

    /// Refuses a text that is too short to choose weights on.
    fn enough(&self) -> Result<()> {
        let Data::Text(tokens) = &self.data else {
            return Ok(());
        };
        let found: usize = tokens.sequences().iter().map(Vec::len).sum();
        match found < self.window {
            false => Ok(()),
            true => Err(Error::input(format!(
                "--calibrate: `{}` has {found} tokens, expected a window of {} at least; the default is 64 windows",
                self.file.display(),
                self.window
            ))),
        }
    }

    /// Of the values that half precision cannot hold, the largest magnitude.
    pub(crate) fn beyond_half(&self, cx: &Cx) -> Result<Vec<(String, f64)>> {
        let mut model = self.model.clone();
        // As the pass does, so that values have the names it will find.
        let inline = Pipeline::parse("inline-functions", REGISTRY)?;
        let ran = PassManager::default().run(&inline, &mut model);
        ran.map_err(at_file(&self.path))?;
        let name = self.file.display().to_string();
        let (own, shared) = (&self.args.calibration_folder, &self.args.peaks_folder);
        let folder = shared.as_ref().or(own.as_ref()).map(PathBuf::as_path);
        let items = self.items(&name);
        let found = calibrate::beyond_half(&*self.engine, &model, items, self.load, folder);
        let found = found.map_err(|e| e.at("--calibrate"))?;
        if let Some(kept) = found.kept.filter(|_| shared.is_none()) {
            cx.progress(&format!(
                "half precision: the values that it cannot hold are those in {}\n",
                kept.display()
            ));
        }
        Ok(found.values)
    }

    /// What `pipeline`, which needs no calibration, quantizes.
    fn quantized(&self, pipeline: &Pipeline) -> Result<(Model, Vec<QuantizedWeight>)> {
        let mut model = self.source.clone();
        let report = PassManager::default().run(pipeline, &mut model);
        let report = report.map_err(at_file(&self.path))?;
        Ok((model, report.quantized))
    }

    /// Checks that `recipe` was made with these data.
    pub(crate) fn check(&self, recipe: &Recipe) -> Result<()> {
        match &recipe.calibration {
            Some(known) if *known != self.calibration()? => Err(Error::input(format!(
                "--calibrate `{}`: the recipe was made with another text or other windows: SHA-256 {}, {} windows \
                 of {} tokens",
                self.file.display(),
                known.sha256,
                known.windows.map_or("all".to_owned(), |n| n.to_string()),
                known.window
            ))),
            _ => Ok(()),
        }
    }

    /// What recipes say of the data.
    pub(crate) fn calibration(&self) -> Result<Calibration> {
        Ok(Calibration {
            sha256: sha256(&SourceFile::open(&self.file)?)?,
            window: self.window,
            windows: self.args.calibration_windows.0,
        })
    }

    /// Finds what `method` needs of all that `pipelines` quantize.
    pub(crate) fn choose(
        &self,
        pipelines: &[Pipeline],
        method: Method,
        cx: &Cx,
    ) -> Result<Calibrated> {
        self.enough()?;
        let mut quantized = Vec::new();
        for pipeline in pipelines {
            quantized.extend(self.quantized(pipeline)?.1);
        }
        let plan: Planned = quantized.into_iter().filter_map(|w| w.blocks).collect();
        let steps = cx.steps();
        let name = self.file.display().to_string();
        let folder = self.folder("codes", &choose_key(method, &plan));
        let chosen = calibrate::choose(
            &*self.engine,
            &self.model,
            self.items(&name),
            &plan,
            method,
            self.options(folder.as_deref(), cx),
            &mut |done, total, what| steps.tell(done, total, what),
        );
        drop(steps);
        let chosen = chosen.map_err(|e| e.at("--calibrate"))?;
        if cx.verbose {
            for choice in &chosen.choices {
                cx.note(&told(choice));
            }
        }
        Ok(chosen.calibrated)
    }

    /// What each form of each weight costs; `pipeline` quantizes all that can be in one form.
    pub(crate) fn survey(
        &self,
        forms: &'static [Form],
        method: Method,
        pipeline: &dyn Fn(Form) -> Result<Pipeline>,
        cx: &Cx,
    ) -> Result<Survey<'_>> {
        self.enough()?;
        let mut choices = Choices {
            model: &self.model,
            forms,
            candidates: Vec::new(),
            method,
            other_bytes: 0,
        };
        for &form in forms {
            let (model, quantized) = self.quantized(&pipeline(form)?)?;
            let all = onnx::estimate(&model, &self.path, ExternalData::Auto.into())?.bytes();
            let weights: u64 = quantized.iter().map(|w| w.bytes_after).sum();
            choices.other_bytes = choices.other_bytes.max(all.saturating_sub(weights));
            let blocks = quantized.into_iter().filter_map(|w| w.blocks);
            choices.candidates.push(blocks.collect());
        }
        let name = self.file.display().to_string();
        let shared = self.args.survey_folder.clone();
        let folder =
            shared.or_else(|| self.folder("survey", &survey_key(method, &choices.candidates)));
        let options = self.options(folder.as_deref(), cx);
        let steps = cx.steps();
        let mut tell = |done, total, what: &str| steps.tell(done, total, what);
        let measured = choices.measure(&*self.engine, self.items(&name), options, &mut tell);
        let measured = measured.map_err(|e| e.at("--calibrate"))?;
        Ok(Survey { choices, measured })
    }

    /// What is left of the text, for a check of what was chosen by it.
    pub(crate) fn spare(&self) -> Option<Spare> {
        let is_lm = Signature::of(&self.source).is_causal_lm();
        let taken = self.args.calibration_windows.0.filter(|_| is_lm)?;
        let spare = Spare {
            text: self.file.clone(),
            taken,
        };
        matches!(self.data, Data::Text(_)).then_some(spare)
    }
}

/// What a budget is spent by.
pub(crate) struct Survey<'a> {
    choices: Choices<'a>,
    measured: Measured,
}

impl Survey<'_> {
    /// The form of each weight within `budget`.
    pub(crate) fn within(&self, budget: Budget) -> Result<Mix> {
        let mix = self.choices.within(&self.measured, budget);
        mix.map_err(|e| e.at("--budget"))
    }
}

/// Checks that `recipe` is for the model that `read` names, of which `pipeline` quantizes all that can be.
///
/// # Errors
/// It is for another, or the model cannot be read.
pub(crate) fn check_recipe(
    recipe: &Recipe,
    read: &ReadArgs,
    pipeline: &Pipeline,
    cx: &Cx,
) -> Result<()> {
    let (path, opened) = cx.open(read)?;
    let report = PassManager::default().run(pipeline, &mut { opened.model });
    recipe.check(&report.map_err(at_file(&path))?.quantized)
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
