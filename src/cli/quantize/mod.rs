//! `onnxq quantize`: the main job.

mod budget;
mod dtype;
mod least;
mod output;
mod pipeline;
mod used;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use onnxq::{
    Error, Result,
    mix::Recipe,
    quant::{Method, Needs},
    target::Targets,
    weights::Calibrated,
};

pub(super) use self::dtype::Dtype;
use self::{
    budget::Spend,
    dtype::{Asked, AskedParser},
    pipeline::DATA_FREE,
};
use super::{
    Cx, ExitStatus, at_option,
    calibrate::{CalibrateArgs, Prepared},
    card::card,
    check::CheckArgs,
    job::{self, Demands, Done, JobArgs, Variant},
    package::{Folder, PackageArgs},
};

/// Quantize the weights of a model
#[derive(Args)]
#[command(
    after_help = "Examples:\n  onnxq quantize model.onnx\n  onnxq quantize model.onnx -o small.onnx \
                        --block-size 32 --exclude '*lm_head*'\n  onnxq quantize model.onnx --dry-run"
)]
pub(crate) struct QuantizeArgs {
    /// Output: a file, or a folder to put it in [default: beside the input, as
    /// model_q4.onnx; example: -o small.onnx]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// What becomes of the weights; several at once write a model each while the input is read
    /// once [example: --dtype q4,q4f16,fp16,int8].
    /// Of a folder with several models, NAME=DTYPE is for the model of this name, without .onnx, and others are as
    /// what has no name says [example: --dtype decoder_model_merged=q4,encoder_model=fp16]
    #[arg(long, value_delimiter = ',', default_value = "q4", value_name = "[NAME=]DTYPE", value_parser = AskedParser)]
    dtype: Vec<Asked>,
    /// Bits of a code of q4 and q4f16 [default: 4; example: --bits 8]
    #[arg(long, value_name = "N", value_parser = ["2", "4", "8"])]
    bits: Option<String>,
    /// Elements that share a scale in q2 and q4: 16 is the most accurate; 32 is smaller, and faster
    /// on most runtimes [default: 16, of 2 bits 32; example: --block-size 32]
    #[arg(long, value_name = "N", value_parser = ["16", "32", "64", "128", "256"])]
    block_size: Option<String>,
    /// A zero point for each block, too, or for each activation of 8 bits: more accurate, a little larger
    /// [default: for codes of 2 and 4 bits, unless a target takes none; example: --asymmetric]
    #[arg(long)]
    asymmetric: bool,
    /// No zero points: a sixteenth smaller, for runtimes that take none [example: --symmetric]
    #[arg(long, conflicts_with = "asymmetric")]
    symmetric: bool,
    /// How the codes of q2 and q4 are chosen: by the range of each block (rtn), by its least weighted
    /// squared error (mse), by half-quadratic quantization (hqq), and with --calibrate by that error
    /// weighted with the activations (imatrix), the same after channels were scaled (awq), or by the
    /// error of the products (gptq)
    /// [default: mse, with --calibrate gptq; example: --method rtn]
    #[arg(long, value_name = "NAME", value_parser = method_names())]
    method: Option<Method>,
    /// MatMulNBits' accuracy_level: 4 computes with int8 activations, which is faster on the CPU
    /// and less accurate [default: unset for 4 bits, 4 for 2 and 8;
    /// example: --accuracy-level 4]
    #[arg(long, value_name = "N", value_parser = ["0", "1", "2", "3", "4"])]
    accuracy_level: Option<String>,
    /// Types of the model's inputs and outputs where it becomes half: as they are, half, or half
    /// only for a cache (past and present keys and values) [default: keep, of q4f16 and q2f16
    /// cache; example: --io-types half]
    #[arg(long, value_name = "WHICH", value_parser = ["keep", "half", "cache"])]
    io_types: Option<String>,
    /// A runtime that has to run the result: forms are chosen, and weights left, accordingly; may be
    /// repeated, and `onnxq targets` lists them [example: --target onnxruntime@1.20]
    #[arg(long, value_name = "NAME[@VERSION]", value_delimiter = ',')]
    target: Vec<String>,
    /// What reads the codes of q2 and q4: the operators of ONNX Runtime (contrib), or the node as it
    /// was behind a DequantizeLinear of opset 21 (qdq) [default: contrib; example: --format qdq]
    #[arg(long, value_name = "FORM", value_parser = ["contrib", "qdq"])]
    format: Option<String>,
    /// Only nodes whose name matches this glob; may be repeated [example: --include '*mlp*']
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No node whose name matches this glob; may be repeated [example: --exclude '*lm_head*']
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave weights with NaN or infinity as they are, instead of refusing the model
    /// [example: --allow-nonfinite]
    #[arg(long)]
    allow_nonfinite: bool,
    /// What runs before the quantization [default: clean; example: --passes 'strip-attrs']
    #[arg(
        long,
        value_name = "PIPELINE",
        default_value = "clean",
        hide_default_value = true
    )]
    passes: String,
    /// Run nothing before the quantization [example: --no-clean]
    #[arg(long, conflicts_with = "passes")]
    no_clean: bool,
    /// Give each weight as many bits as it needs, within so many bits a weight or so large a file: how much
    /// each counts is measured on --calibrate. What was decided is written beside the output, as a
    /// recipe, and it is checked on the windows of the text that follow, unless there is a --check. `least`: as
    /// small as --max-mean-kld allows [example: --budget 4.75bpw, --budget 90MB, or --budget least --max-mean-kld 0.05]
    #[arg(long, value_name = "SIZE", requires = "calibrate",
          conflicts_with_all = ["recipe", "bits", "block_size", "asymmetric", "symmetric", "format"])]
    budget: Option<Spend>,
    /// Quantize each weight as this file says, which --budget wrote [example: --recipe model_q4.recipe.toml]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bits", "block_size", "asymmetric", "symmetric", "format", "method"])]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    calibrate: CalibrateArgs,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    package: PackageArgs,
}

/// One of the methods, by its name.
fn method_names() -> impl TypedValueParser<Value = Method> {
    let named = |name: String| name.parse().expect("a method, by its declaration");
    PossibleValuesParser::new(Method::names(Method::ALL)).map(named)
}

pub(crate) fn run(args: &mut QuantizeArgs, cx: &Cx) -> Result<ExitStatus> {
    let models = args.models()?;
    let package = args.package.clone();
    let folder = package.folder(args.output.as_deref(), &models[0])?;
    if let Some(folder) = &folder {
        args.check_names(folder)?;
    }
    let mut done = Done::default();
    for model in models {
        args.job.read.model = model;
        done.add(make(args, true, folder.as_ref(), cx)?);
    }
    let mut beside = String::new();
    if let Some(folder) = folder
        && !args.job.dry_run
        && !done.models.is_empty()
    {
        let card = match folder.has_card() {
            true => Some(card(&done, &folder)?),
            false => None,
        };
        beside = folder.publish(&done.models, card.as_deref())?;
    }
    args.job.report(&done.summaries, cx)?;
    if !args.job.reports_to_stdout() {
        cx.summary(&beside)?;
    }
    Ok(done.status)
}

/// Makes the outputs, and leaves it to the caller to report, to publish `folder`, and to `verify` what a budget
/// makes.
pub(super) fn make(
    args: &QuantizeArgs,
    verify: bool,
    folder: Option<&Folder<'_>>,
    cx: &Cx,
) -> Result<Done> {
    let targets = args.target.iter().map(String::as_str);
    let targets = Targets::parse(targets).map_err(at_option("--target"))?;
    args.check_used()?;
    args.check_outputs(folder)?;
    let (how, engine) = (&args.check.how, &args.check.engine);
    let before = args.before()?;
    let read = &args.job.read;
    let prepared = args.calibrate.prepare(read, &before, how, engine, cx)?;
    let mut demands = Demands {
        targets: &targets,
        check: &args.check,
        spare: None,
        folder,
    };
    let mut decided = args.decide(prepared.as_ref(), cx)?;
    match (args.budget, &prepared) {
        (Some(budget), Some(prepared)) => {
            demands.spare = prepared.spare().filter(|_| verify);
            args.spend(budget, prepared, decided, &demands, cx)
        }
        _ => {
            decided.calibrated = args.calibrated(prepared.as_ref(), &decided, cx)?;
            args.write(&decided, &demands, cx)
        }
    }
}

/// What is decided before the passes run.
#[derive(Default)]
struct Decided {
    /// Values that half precision cannot hold.
    large: Vec<(String, f64)>,
    /// Each weight in a form of its own.
    recipe: Option<Recipe>,
    /// What was found of the weights.
    calibrated: Option<Arc<Calibrated>>,
}

impl QuantizeArgs {
    /// The one output that is asked for, when what can be refused without the model has been.
    ///
    /// # Errors
    /// There are several, or an option has no use or is malformed.
    pub(super) fn alone(&self) -> Result<Dtype> {
        let [dtype] = self.dtypes()[..] else {
            return Err(Error::input("--dtype: expected one"));
        };
        self.check_used()?;
        let targets = self.target.iter().map(String::as_str);
        Targets::parse(targets).map_err(at_option("--target"))?;
        self.bits_of(dtype)?;
        self.before()?;
        Ok(dtype)
    }

    /// Whether a calibration decides something besides what half precision cannot hold. Methods that need
    /// none are named to say so.
    pub(super) fn is_calibrated(&self) -> bool {
        let data_free = |m: Method| m.needs() == Needs::Nothing;
        let dtypes = self.dtypes();
        let in_blocks = dtypes.iter().any(|d| d.in_blocks());
        let half = dtypes.contains(&Dtype::Fp16);
        let method = self.method.is_some_and(data_free);
        half || in_blocks && (self.budget.is_some() || !method)
    }

    /// The recipe's file, if there is one.
    pub(super) fn recipe(&self) -> Option<&Path> {
        self.recipe.as_deref()
    }

    /// Keeps in the folder `survey` what runs with other budgets have in common, and in the folder `peaks` what
    /// those with other forms and methods have.
    pub(super) fn share(&mut self, survey: PathBuf, peaks: PathBuf) {
        self.calibrate.survey_folder = Some(survey);
        self.calibrate.peaks_folder = Some(peaks);
    }

    /// The outputs that are asked for.
    fn variants<'a>(&'a self, decided: &'a Decided) -> Result<Vec<Variant<'a>>> {
        let variant = |dtype: Dtype| {
            let bits = self.bits_of(dtype)?;
            let output = move |input: &Path| self.output(input, dtype, bits);
            let method = self.method(decided);
            let blocks = self.blocks_of(dtype, decided, method)?;
            Ok(Variant {
                pipeline: self.pipeline(dtype, blocks, &decided.large)?,
                output: Box::new(output),
            })
        };
        self.dtypes().into_iter().map(variant).collect()
    }

    /// What is decided before codes are chosen.
    fn decide(&self, prepared: Option<&Prepared<'_>>, cx: &Cx) -> Result<Decided> {
        let mut decided = Decided::default();
        if let Some(prepared) = prepared.filter(|_| self.dtypes().iter().any(|d| d.is_half())) {
            decided.large = prepared.beyond_half(cx)?;
        }
        if let Some(path) = &self.recipe {
            decided.recipe = Some(self.read_recipe(path, prepared, &decided.large, cx)?);
        }
        Ok(decided)
    }

    /// Writes what is decided.
    fn write(&self, decided: &Decided, demands: &Demands<'_>, cx: &Cx) -> Result<Done> {
        let variants = self.variants(decided)?;
        job::make(
            &self.job,
            &variants,
            decided.calibrated.clone(),
            Some(demands),
            cx,
        )
    }

    /// What the method wants to know of the activations.
    fn calibrated(
        &self,
        prepared: Option<&Prepared<'_>>,
        decided: &Decided,
        cx: &Cx,
    ) -> Result<Option<Arc<Calibrated>>> {
        let method = self.method(decided);
        if method.needs() == Needs::Nothing {
            return Ok(None);
        }
        let dtypes = self.dtypes().into_iter().filter(|d| d.in_blocks());
        let pipeline = |dtype| {
            let blocks = self.blocks_of(dtype, decided, DATA_FREE)?;
            self.pipeline(dtype, blocks, &decided.large)
        };
        let pipelines = dtypes.map(pipeline).collect::<Result<Vec<_>>>()?;
        if pipelines.is_empty() {
            return Ok(None);
        }
        let prepared = prepared.ok_or_else(|| {
            Error::input(format!(
                "--method {method} chooses by what the model computes: expected --calibrate FILE, a text or tensors"
            ))
        })?;
        let calibrated = prepared.choose(&pipelines, method, cx)?;
        Ok(Some(Arc::new(calibrated)))
    }
}
