//! `onnxq quantize`: the main job.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use onnxq::{
    Result,
    pass::{Options, Pipeline},
    passes::REGISTRY,
};

use super::{
    Cx, ExitStatus, External,
    check::CheckArgs,
    context::output_path,
    job::{self, JobArgs},
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
    /// What becomes of the weights [example: --dtype q4]
    #[arg(long, default_value = "q4")]
    dtype: Dtype,
    /// Bits of a code [example: --bits 8]
    #[arg(long, value_name = "N", default_value = "4", value_parser = ["2", "4", "8"])]
    bits: String,
    /// Elements that share a scale: 16 is the most accurate; 32 is smaller, and faster on most
    /// runtimes [example: --block-size 32]
    #[arg(long, value_name = "N", default_value = "16", value_parser = ["16", "32", "64", "128", "256"])]
    block_size: String,
    /// A zero point for each block, too: more accurate, a little larger [example: --asymmetric]
    #[arg(long)]
    asymmetric: bool,
    /// MatMulNBits' accuracy_level: 4 computes with int8 activations, which is faster on the CPU
    /// and less accurate [default: unset for 4 bits, 4 for 2 and 8;
    /// example: --accuracy-level 4]
    #[arg(long, value_name = "N", value_parser = ["0", "1", "2", "3", "4"])]
    accuracy_level: Option<String>,
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
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    check: CheckArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    /// Weights in blocks of few bits; everything else keeps its type
    Q4,
}

pub(crate) fn run(args: &QuantizeArgs, cx: &Cx) -> Result<ExitStatus> {
    let pipeline = args.pipeline()?;
    let output = |input: &Path| args.output(input);
    job::run(&args.job, &pipeline, output, Some(&args.check), cx)
}

impl QuantizeArgs {
    fn pipeline(&self) -> Result<Pipeline> {
        let Dtype::Q4 = self.dtype;
        let before = if self.no_clean { "" } else { &self.passes };
        let mut pipeline = self.job.pipeline("--passes", before)?;
        let nbits = REGISTRY.pass("nbits").expect("nbits is registered");
        let mut options = Options::none(nbits.options);
        options.set("bits", Some(&self.bits))?;
        options.set("block", Some(&self.block_size))?;
        if self.asymmetric {
            options.set("asymmetric", None)?;
        }
        if let Some(level) = &self.accuracy_level {
            options.set("accuracy-level", Some(level))?;
        }
        self.include
            .iter()
            .try_for_each(|glob| options.set("include", Some(glob)))?;
        self.exclude
            .iter()
            .try_for_each(|glob| options.set("exclude", Some(glob)))?;
        if self.allow_nonfinite {
            options.set("nonfinite", Some("skip"))?;
        }
        if self.job.write.external_data == External::Always {
            options.set("tie", Some("alias"))?;
        }
        pipeline.push(nbits, options)?;
        Ok(pipeline)
    }

    /// Where the output goes: as asked, else beside the input with the suffix that
    /// transformers.js loads.
    fn output(&self, input: &Path) -> PathBuf {
        let stem = input.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}_q{}.onnx", self.bits);
        match &self.output {
            Some(output) => output_path(output, &name),
            None => input.with_file_name(name),
        }
    }
}
