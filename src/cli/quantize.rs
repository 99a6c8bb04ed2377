//! `onnxq quantize`: the main job.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use onnxq::{
    Error, Result,
    calibrate::{Codes, Wanted},
    eval::Evaluation,
    ir::DataType,
    mix::{Budget, Form, Recipe},
    pass::{Options, Pipeline},
    passes::REGISTRY,
    quant::{Method, gptq::GptqOptions},
    target::{self, Targets, Verdict, ZeroPoints},
    weights::Calibrated,
};

use super::{
    Cx, ExitStatus, External, at_option,
    calibrate::{CalibrateArgs, Prepared, check_recipe},
    check::CheckArgs,
    context::{is_folder, output_path},
    job::{self, Demands, Done, JobArgs, Variant},
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
    /// once [example: --dtype q4,q4f16,fp16,int8]
    #[arg(long, value_delimiter = ',', default_value = "q4")]
    dtype: Vec<Dtype>,
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
    #[arg(long, value_name = "NAME", value_parser = ["rtn", "mse", "hqq", "imatrix", "awq", "gptq"])]
    method: Option<String>,
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
}

/// Names of transformers.js, and what they mean there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Dtype {
    /// Everything in half precision
    Fp16,
    /// Weights in blocks of 2 bits; everything else keeps its type
    Q2,
    /// Weights in blocks of 2 bits; everything else in half precision
    Q2f16,
    /// Weights in blocks of 4 bits; everything else keeps its type
    Q4,
    /// Weights in blocks of 4 bits; everything else in half precision
    Q4f16,
    /// Weights and activations of 8 bits, with the signs that the operators in the model run with
    Q8,
    /// Weights of 8 bits with sign, activations quantized while the model runs
    Int8,
    /// Weights of 8 bits without sign, activations quantized while the model runs
    Uint8,
}

impl Dtype {
    /// As on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dtype::Fp16 => "fp16",
            Dtype::Q2 => "q2",
            Dtype::Q2f16 => "q2f16",
            Dtype::Q4 => "q4",
            Dtype::Q4f16 => "q4f16",
            Dtype::Q8 => "q8",
            Dtype::Int8 => "int8",
            Dtype::Uint8 => "uint8",
        }
    }

    pub(super) fn in_blocks(self) -> bool {
        matches!(self, Dtype::Q2 | Dtype::Q2f16 | Dtype::Q4 | Dtype::Q4f16)
    }

    fn is_half(self) -> bool {
        matches!(self, Dtype::Fp16 | Dtype::Q2f16 | Dtype::Q4f16)
    }
}

pub(crate) fn run(args: &QuantizeArgs, cx: &Cx) -> Result<ExitStatus> {
    let done = make(args, true, cx)?;
    args.job.report(&done.summaries, cx)?;
    Ok(done.status)
}

/// Makes the outputs, and leaves it to the caller to report, and to `verify` what a budget makes.
pub(super) fn make(args: &QuantizeArgs, verify: bool, cx: &Cx) -> Result<Done> {
    let targets = args.target.iter().map(String::as_str);
    let targets = Targets::parse(targets).map_err(at_option("--target"))?;
    args.check_used()?;
    let (how, engine) = (&args.check.how, &args.check.engine);
    let before = args.before()?;
    let read = &args.job.read;
    let prepared = args.calibrate.prepare(read, &before, how, engine, cx)?;
    let mut demands = Demands {
        targets: &targets,
        check: &args.check,
        spare: None,
        folder: None,
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

/// What `--budget` says.
#[derive(Clone, Copy)]
enum Spend {
    /// A size.
    Within(Budget),
    /// As little as the limit of the mean divergence allows.
    Least,
}

impl FromStr for Spend {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Spend, String> {
        match text {
            "least" => Ok(Spend::Least),
            _ => text
                .parse()
                .map(Spend::Within)
                .map_err(|e: String| format!("{e}, or `least`")),
        }
    }
}

/// How often a mix is made for `--budget least`, where what is measured of it is above what was expected.
const ATTEMPTS: usize = 3;

/// The method where there is no calibration. What a pipeline quantizes does not depend on the method.
const DATA_FREE: &str = "mse";

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

/// How weights in blocks are quantized: in which form, and by which method.
#[derive(Clone, Copy)]
enum Blocks<'a> {
    /// All alike.
    Alike(Form, &'a str),
    /// Each as the recipe says.
    Recipe(&'a Recipe, &'a str),
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
        let data_free = |m: &String| matches!(&**m, "rtn" | "mse" | "hqq");
        let in_blocks = self.dtype.iter().any(|d| d.in_blocks());
        let half = self.dtype.contains(&Dtype::Fp16);
        let method = self.method.as_ref().is_some_and(data_free);
        half || in_blocks && (self.budget.is_some() || !method)
    }

    /// The forms that a budget tries; none without one.
    pub(super) fn tried_forms(&self) -> &'static [Form] {
        match self.budget {
            Some(Spend::Within(budget)) => budget.forms(),
            Some(Spend::Least) => Budget::Divergence(0.0).forms(),
            None => &[],
        }
    }

    /// The recipe's file, if there is one.
    pub(super) fn recipe(&self) -> Option<&Path> {
        self.recipe.as_deref()
    }

    /// Keeps in the folder `survey` what runs with other budgets have in common, and in the file `peaks` what
    /// those with other forms and methods have.
    pub(super) fn share(&mut self, survey: PathBuf, peaks: PathBuf) {
        self.calibrate.survey_folder = Some(survey);
        self.calibrate.peaks_file = Some(peaks);
    }

    /// The dtypes that are asked for, each once.
    fn dtypes(&self) -> Vec<Dtype> {
        let mut dtypes: Vec<Dtype> = Vec::new();
        for &dtype in &self.dtype {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        dtypes
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

    /// The method by which codes in blocks are chosen.
    fn method<'a>(&'a self, decided: &'a Decided) -> &'a str {
        match (&decided.recipe, &self.method, &self.calibrate.calibrate) {
            (Some(recipe), ..) => &recipe.method,
            (None, Some(method), _) => method,
            // The codes of gptq are for the operators of ONNX Runtime.
            (None, None, Some(_)) if self.format.as_deref() == Some("qdq") => "imatrix",
            (None, None, Some(_)) => "gptq",
            (None, None, None) => DATA_FREE,
        }
    }

    /// How the weights of `dtype` are quantized, if in blocks.
    fn blocks_of<'a>(
        &self,
        dtype: Dtype,
        decided: &'a Decided,
        method: &'a str,
    ) -> Result<Option<Blocks<'a>>> {
        if let Some(recipe) = &decided.recipe {
            return Ok(Some(Blocks::Recipe(recipe, method)));
        }
        let alike = |bits| {
            // Blocks of 16 have no fast kernel for 2 bits.
            let block = if bits == 2 { "32" } else { "16" };
            let block = self.block_size.as_deref().unwrap_or(block);
            let block = block.parse().expect("a number, by its declaration");
            let form = Form {
                bits,
                block,
                asymmetric: self.has_zero_points(dtype, bits, block)?,
            };
            Ok(Blocks::Alike(form, method))
        };
        self.bits_of(dtype)?.map(alike).transpose()
    }

    /// Whether blocks of `dtype` get zero points.
    fn has_zero_points(&self, dtype: Dtype, bits: u8, block: usize) -> Result<bool> {
        // Codes of 8 bits have more levels than they need.
        if self.asymmetric || self.symmetric || bits == 8 {
            return Ok(self.asymmetric);
        }
        let float = match dtype.is_half() {
            true => DataType::Float16,
            false => DataType::Float,
        };
        let level = self.accuracy_level.as_ref();
        let level = level.map_or(0, |l| l.parse().expect("a digit, by its declaration"));
        let zero_points = ZeroPoints::Codes;
        let form = target::Form::matmul_nbits(bits.into(), block as i64, float, zero_points, level);
        let targets = Targets::parse(self.target.iter().map(String::as_str))?;
        let verdict = targets.verdict(&form);
        Ok(matches!(verdict, Verdict::Runs | Verdict::Slow(_)))
    }

    /// What is decided before codes are chosen.
    fn decide(&self, prepared: Option<&Prepared<'_>>, cx: &Cx) -> Result<Decided> {
        let mut decided = Decided::default();
        if let Some(prepared) = prepared.filter(|_| self.dtype.iter().any(|d| d.is_half())) {
            decided.large = prepared.beyond_half()?;
        }
        if let Some(path) = &self.recipe {
            decided.recipe = Some(self.read_recipe(path, prepared, &decided.large, cx)?);
        }
        Ok(decided)
    }

    /// Quantizes each weight in the form that `budget` has for it.
    fn spend(
        &self,
        budget: Spend,
        prepared: &Prepared<'_>,
        mut decided: Decided,
        demands: &Demands<'_>,
        cx: &Cx,
    ) -> Result<Done> {
        let dtype = self.one()?;
        if self.method.as_deref() == Some("awq") {
            return Err(Error::input(
                "--method awq: it scales channels for weights that are all quantized alike, and --budget gives each a \
                 form of its own; expected imatrix or gptq",
            ));
        }
        let limit = self.check.max_mean_kld();
        let mut goal = match (budget, limit) {
            (Spend::Within(budget), _) => budget,
            (Spend::Least, Some(limit)) => Budget::Divergence(limit),
            (Spend::Least, None) => {
                return Err(Error::input(
                    "--budget least: as little as which divergence allows? expected --max-mean-kld X, too",
                ));
            }
        };
        // What a check would refuse, it refuses before the work.
        drop(
            self.check
                .prepare(&prepared.path, demands.spare.as_ref(), cx)?,
        );
        let alike = |form| {
            let blocks = Blocks::Alike(form, DATA_FREE);
            self.pipeline(dtype, Some(blocks), &decided.large)
        };
        let codes = match self.method(&decided) {
            "gptq" => Codes::Gptq,
            "imatrix" => Codes::Importance,
            "hqq" => Codes::Blocks(Method::Hqq),
            "rtn" => Codes::Blocks(Method::Rtn),
            _ => Codes::Blocks(Method::Mse),
        };
        let survey = prepared.survey(goal.forms(), codes, &alike, cx)?;
        let calibration = prepared.calibration()?;
        for attempt in 1.. {
            let mix = survey.within(goal)?;
            cx.note(&format!(
                "mixed: {:.3} bits a weight, expected mean KLD {:.4}\n",
                mix.bits, mix.cost
            ));
            let method = self.method(&decided).to_owned();
            let recipe = Recipe::new(
                dtype.name(),
                &method,
                Some(calibration.clone()),
                mix.entries,
            );
            decided.recipe = Some(recipe);
            decided.calibrated = self.calibrated(Some(prepared), &decided, cx)?;
            let done = self.write(&decided, demands, cx)?;
            let measured = done.checked.first().and_then(Evaluation::mean_kld);
            match (&done.status, goal, limit, measured) {
                // As much below the limit as the expectation was too low.
                (ExitStatus::Differs, Budget::Divergence(from), Some(limit), Some(measured))
                    if measured > limit && attempt < ATTEMPTS =>
                {
                    cx.note(&format!(
                        "measured {measured:.4}, expected at most {limit}\n"
                    ));
                    goal = Budget::Divergence(from.min(mix.cost) * (limit / measured) * 0.97);
                }
                (ExitStatus::Done, ..) => {
                    self.write_recipe(prepared, &decided, cx)?;
                    return Ok(done);
                }
                _ => return Ok(done),
            }
        }
        unreachable!("it ends within its attempts")
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

    /// Writes the recipe beside the output.
    fn write_recipe(&self, prepared: &Prepared<'_>, decided: &Decided, cx: &Cx) -> Result<()> {
        let Some(recipe) = decided.recipe.as_ref().filter(|_| !self.job.dry_run) else {
            return Ok(());
        };
        let variants = self.variants(decided)?;
        let output = (variants[0].output)(&prepared.path).with_extension("recipe.toml");
        cx.file(&output, &recipe.text()?)?;
        cx.note(&format!(
            "how each weight is quantized: {}\n",
            output.display()
        ));
        Ok(())
    }

    /// The one dtype in blocks that is asked for.
    fn one(&self) -> Result<Dtype> {
        match self.dtypes().as_slice() {
            [dtype] if dtype.in_blocks() => Ok(*dtype),
            _ => Err(Error::input(
                "--budget and --recipe are for one output in blocks; expected one --dtype of q4, q4f16, q2, q2f16",
            )),
        }
    }

    /// The recipe in the file at `path`.
    fn read_recipe(
        &self,
        path: &Path,
        prepared: Option<&Prepared<'_>>,
        large: &[(String, f64)],
        cx: &Cx,
    ) -> Result<Recipe> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| Error::io(format!("--recipe `{}`", path.display()), e))?;
        let recipe = Recipe::parse(&text, path)?;
        let dtype = self.one()?;
        if recipe.dtype != dtype.name() {
            return Err(Error::input(format!(
                "--recipe: it is for --dtype {}, found {}",
                recipe.dtype,
                dtype.name()
            )));
        }
        let all = Blocks::Alike(Form::EIGHT_BITS, DATA_FREE);
        let all = self.pipeline(dtype, Some(all), large)?;
        check_recipe(&recipe, &self.job.read, &all, cx)?;
        if let Some(prepared) = prepared {
            prepared.check(&recipe)?;
        }
        Ok(recipe)
    }

    /// What the method wants to know of the activations.
    fn calibrated(
        &self,
        prepared: Option<&Prepared<'_>>,
        decided: &Decided,
        cx: &Cx,
    ) -> Result<Option<Arc<Calibrated>>> {
        let method = self.method(decided);
        let wanted = match method {
            "imatrix" | "awq" => Wanted::Importance,
            "gptq" => Wanted::Codes(GptqOptions::default()),
            _ => return Ok(None),
        };
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
        let calibrated = prepared.choose(&pipelines, wanted, cx)?;
        Ok(Some(Arc::new(calibrated)))
    }

    /// Refuses options that none of the dtypes has a use for, and several outputs in one file.
    fn check_used(&self) -> Result<()> {
        if let [_, _, ..] = self.dtype.as_slice()
            && let Some(output) = &self.output
            && !is_folder(output)
        {
            return Err(Error::input(format!(
                "-o `{}`: several dtypes make several files; expected a folder (`{}/`)",
                output.display(),
                output.display()
            )));
        }
        let (blocks, half) = (
            self.dtype.iter().any(|d| d.in_blocks()),
            self.dtype.iter().any(|d| d.is_half()),
        );
        let in_blocks = "q2, q2f16, q4 or q4f16";
        let given = [
            ("--block-size", self.block_size.is_some(), blocks, in_blocks),
            ("--format", self.format.is_some(), blocks, in_blocks),
            ("--method", self.method.is_some(), blocks, in_blocks),
            (
                "--accuracy-level",
                self.accuracy_level.is_some(),
                blocks,
                in_blocks,
            ),
            (
                "--io-types",
                self.io_types.is_some(),
                half,
                "fp16, q2f16 or q4f16",
            ),
            ("--symmetric", self.symmetric, blocks, in_blocks),
            (
                "--asymmetric",
                self.asymmetric,
                self.dtype.iter().any(|&d| d != Dtype::Fp16),
                "a dtype that quantizes",
            ),
        ];
        match given
            .into_iter()
            .find(|(_, given, used, _)| *given && !used)
        {
            None => self.check_calibration(),
            Some((option, _, _, expected)) => Err(Error::input(format!(
                "{option}: no dtype given has a use for it; expected --dtype {expected}"
            ))),
        }
    }

    /// Refuses a calibration that nothing is decided by.
    fn check_calibration(&self) -> Result<()> {
        let used = |d: &Dtype| d.is_half() || d.in_blocks();
        if self.calibrate.calibrate.is_none() {
            return Ok(());
        }
        if !self.dtype.iter().any(used) {
            return Err(Error::input(
                "--calibrate: it is for codes in blocks and what becomes half; expected --dtype q4, q4f16, q2, \
                 q2f16 or fp16",
            ));
        }
        let free = |m: &String| !matches!(&**m, "imatrix" | "awq" | "gptq");
        match self.method.as_ref().filter(|m| free(m)) {
            Some(method) if self.budget.is_none() && !self.dtype.iter().any(|d| d.is_half()) => {
                Err(Error::input(format!(
                    "--calibrate: --method {method} has no use for it; expected imatrix, awq or gptq"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Bits of a code, where weights are quantized in blocks.
    fn bits_of(&self, dtype: Dtype) -> Result<Option<u8>> {
        let own = match dtype {
            Dtype::Q2 | Dtype::Q2f16 => Some(2),
            Dtype::Q4 | Dtype::Q4f16 => Some(4),
            _ => None,
        };
        let Some(bits) = self.bits.as_ref().map(|b| b.parse().expect("a digit")) else {
            return Ok(own);
        };
        match own {
            Some(4) => Ok(Some(bits)),
            Some(own) if own == bits => Ok(Some(own)),
            _ => Err(Error::input(format!(
                "--bits {bits}: it is for --dtype q4 and q4f16, found {}",
                dtype.name()
            ))),
        }
    }

    /// What runs before the quantization.
    fn before(&self) -> Result<Pipeline> {
        let text = if self.no_clean { "" } else { &self.passes };
        self.job.pipeline("--passes", text)
    }

    fn pipeline(
        &self,
        dtype: Dtype,
        blocks: Option<Blocks<'_>>,
        large: &[(String, f64)],
    ) -> Result<Pipeline> {
        let mut pipeline = self.before()?;
        if let Some(Blocks::Alike(form, "awq")) = blocks {
            scale_channels(&mut pipeline, form)?;
        }
        match (dtype, blocks) {
            (Dtype::Q8, _) => self.int8(&mut pipeline, "auto")?,
            (Dtype::Int8, _) => self.int8(&mut pipeline, "int8")?,
            (Dtype::Uint8, _) => self.int8(&mut pipeline, "uint8")?,
            (Dtype::Fp16, _) => self.half(&mut pipeline, "keep", large)?,
            (_, None) => {}
            (Dtype::Q2f16 | Dtype::Q4f16, Some(blocks)) => {
                self.half(&mut pipeline, "cache", large)?;
                self.blocks(&mut pipeline, blocks)?;
            }
            (_, Some(blocks)) => self.blocks(&mut pipeline, blocks)?,
        }
        Ok(pipeline)
    }

    /// Half precision; `io` says what becomes of inputs and outputs unless told otherwise.
    fn half(&self, pipeline: &mut Pipeline, io: &str, large: &[(String, f64)]) -> Result<()> {
        let pass = REGISTRY.pass("fp16").expect("fp16 is registered");
        let mut options = Options::none(pass.options);
        options.set("io", Some(self.io_types.as_deref().unwrap_or(io)))?;
        for glob in &self.exclude {
            options.set("exclude", Some(glob))?;
        }
        for (name, most) in large {
            options.set("peak", Some(&format!("{name}={most:.4e}")))?;
        }
        pipeline.push(pass, options)
    }

    /// Weights and activations of 8 bits; `weights` is the type of the weights.
    fn int8(&self, pipeline: &mut Pipeline, weights: &str) -> Result<()> {
        let pass = REGISTRY
            .pass("int8-dynamic")
            .expect("int8-dynamic is registered");
        let mut options = Options::none(pass.options);
        options.set("weights", Some(weights))?;
        if self.asymmetric {
            options.set("asymmetric", None)?;
        }
        self.common(&mut options)?;
        pipeline.push(pass, options)
    }

    /// Weights in blocks.
    fn blocks(&self, pipeline: &mut Pipeline, blocks: Blocks<'_>) -> Result<()> {
        match blocks {
            // Of what was scaled before.
            Blocks::Alike(form, "awq") => self.nbits(pipeline, form, "imatrix", &[]),
            Blocks::Alike(form, method) => self.nbits(pipeline, form, method, &[]),
            Blocks::Recipe(recipe, method) => {
                for form in recipe.forms() {
                    let own = recipe.weights.iter().filter(|e| e.form() == form);
                    let names: Vec<&str> = own.map(|e| &*e.name).collect();
                    // Without zero points there is nothing for hqq to choose.
                    let fits = method != "hqq" || form.asymmetric;
                    self.nbits(pipeline, form, if fits { method } else { "rtn" }, &names)?;
                }
                Ok(())
            }
        }
    }

    /// Weights in blocks of one form: those with these names, or all.
    fn nbits(
        &self,
        pipeline: &mut Pipeline,
        form: Form,
        method: &str,
        names: &[&str],
    ) -> Result<()> {
        let pass = REGISTRY.pass("nbits").expect("nbits is registered");
        let mut options = Options::none(pass.options);
        set_form(&mut options, form)?;
        if method != "rtn" {
            options.set("method", Some(method))?;
        }
        if let Some(format) = &self.format {
            options.set("format", Some(format))?;
        }
        if let Some(level) = &self.accuracy_level {
            options.set("accuracy-level", Some(level))?;
        }
        self.common(&mut options)?;
        for name in names {
            options.set("weight", Some(&globset::escape(name)))?;
        }
        if self.job.write.external_data == External::Always {
            options.set("tie", Some("alias"))?;
        }
        pipeline.push(pass, options)
    }

    /// Which weights are quantized at all, and what they must run on.
    fn common(&self, options: &mut Options) -> Result<()> {
        for target in &self.target {
            options.set("target", Some(target))?;
        }
        for glob in &self.include {
            options.set("include", Some(glob))?;
        }
        for glob in &self.exclude {
            options.set("exclude", Some(glob))?;
        }
        if self.allow_nonfinite {
            options.set("nonfinite", Some("skip"))?;
        }
        Ok(())
    }

    /// Where the output goes: as asked, else beside the input with the suffix that
    /// transformers.js loads.
    fn output(&self, input: &Path, dtype: Dtype, bits: Option<u8>) -> PathBuf {
        let stem = input.file_stem().unwrap_or_default().to_string_lossy();
        let suffix = match (dtype, bits) {
            (Dtype::Q8, _) => "quantized".to_owned(),
            (Dtype::Q2f16 | Dtype::Q4f16, Some(bits)) => format!("q{bits}f16"),
            (_, Some(bits)) => format!("q{bits}"),
            (Dtype::Int8, _) => "int8".to_owned(),
            (Dtype::Uint8, _) => "uint8".to_owned(),
            (_, None) => "fp16".to_owned(),
        };
        let name = format!("{stem}_{suffix}.onnx");
        match &self.output {
            Some(output) => output_path(output, &name),
            None => input.with_file_name(name),
        }
    }
}

/// Scales channels for weights that will be quantized in this form.
fn scale_channels(pipeline: &mut Pipeline, form: Form) -> Result<()> {
    let pass = REGISTRY.pass("awq").expect("awq is registered");
    let mut options = Options::none(pass.options);
    set_form(&mut options, form)?;
    pipeline.push(pass, options)
}

/// The options by which a pass is told of a form.
fn set_form(options: &mut Options, form: Form) -> Result<()> {
    options.set("bits", Some(&form.bits.to_string()))?;
    options.set("block", Some(&form.block.to_string()))?;
    if form.asymmetric {
        options.set("asymmetric", None)?;
    }
    Ok(())
}
