//! The command line: one file a subcommand.

mod bench;
mod calibrate;
mod card;
mod check;
mod completions;
mod context;
mod diff;
mod engine_args;
mod engines;
mod eval;
mod feed_args;
mod half;
mod inspect;
mod instruments;
mod job;
mod man;
mod opt;
mod package;
mod passes;
mod places;
mod quantize;
mod repack;
mod summary;
mod table;
mod targets;
mod text_args;
mod tune;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use onnxq::{
    Error, Result,
    onnx::{ExternalData, Storage},
};

pub(crate) use context::Cx;

/// A compiler for ONNX files: quantizes, cleans and checks models.
#[derive(Parser)]
#[command(name = "onnxq", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Options of every command.
#[derive(Args)]
pub(crate) struct Global {
    /// Work on N threads [default: as many as there are processors; example: --threads 4]
    #[arg(long, global = true, value_name = "N", help_heading = "Every command")]
    threads: Option<usize>,
    /// Print no progress, and no summary [example: -q]
    #[arg(long, short, global = true, help_heading = "Every command")]
    quiet: bool,
    /// Print every remark: what was matched and left, and why [example: -v]
    #[arg(long, short, global = true, help_heading = "Every command")]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    Quantize(Box<quantize::QuantizeArgs>),
    Opt(opt::OptArgs),
    Passes(passes::PassesArgs),
    Inspect(inspect::InspectArgs),
    Diff(diff::DiffArgs),
    Repack(repack::RepackArgs),
    Verify(verify::VerifyArgs),
    Targets(targets::TargetsArgs),
    Eval(Box<eval::EvalArgs>),
    Tune(Box<tune::TuneArgs>),
    Bench(bench::BenchArgs),
    Engines(engines::EnginesArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// How a command that did its work ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// All is well.
    #[default]
    Done = 0,
    /// A limit was missed, or models differ.
    Differs = 1,
}

/// Runs the command line. An error means exit status 2.
pub(crate) fn run() -> Result<ExitStatus> {
    let mut cli = Cli::parse();
    let cx = Cx::new(&cli.global)?;
    match &mut cli.command {
        Command::Quantize(args) => quantize::run(args, &cx),
        Command::Opt(args) => opt::run(args, &cx),
        Command::Passes(args) => passes::run(args, &cx),
        Command::Inspect(args) => inspect::run(args, &cx),
        Command::Diff(args) => diff::run(args, &cx),
        Command::Repack(args) => repack::run(args, &cx),
        Command::Verify(args) => verify::run(args, &cx),
        Command::Targets(args) => targets::run(args, &cx),
        Command::Eval(args) => eval::run(args, &cx),
        Command::Tune(args) => tune::run(args, &cx),
        Command::Bench(args) => bench::run(args, &cx),
        Command::Engines(args) => engines::run(args, &cx),
        Command::Completions(args) => completions::run(args, &cx),
        Command::Man(args) => man::run(args, &cx),
    }
}

/// The model that a command reads.
#[derive(Args)]
pub(crate) struct ReadArgs {
    /// An ONNX file, or a folder that holds model.onnx or onnx/model.onnx
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) how: ReadOptions,
}

/// How a command reads a model.
#[derive(Args)]
pub(crate) struct ReadOptions {
    /// Go on when the file has fields that ONNX does not define, and lose them
    /// [example: --drop-unknown]
    #[arg(long)]
    pub(crate) drop_unknown: bool,
    /// Refuse the model unless its file has this SHA-256 [example: --verify-sha $(cat model.sha)]
    #[arg(long, value_name = "HEX", value_parser = parse_sha)]
    pub(crate) verify_sha: Option<String>,
}

/// How a command writes its output.
#[derive(Args)]
pub(crate) struct WriteArgs {
    /// Where weights go: a side file when a single one would reach 2 GiB (auto), always, or never
    /// [example: --external-data always]
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) external_data: External,
    /// No file larger than this: weights go to side files model.onnx_data, model.onnx_data_1, ..., in the order
    /// in which they are used [example: --chunk-size 500MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) chunk_size: Option<u64>,
    /// Flush the output to the disk before it takes the place of an older one [example: --sync]
    #[arg(long)]
    pub(crate) sync: bool,
    /// Record the SHA-256 of the input in the output's metadata; it costs a reading of the whole
    /// file (with --verify-sha it is known, and recorded anyway) [example: --record-sha]
    #[arg(long)]
    pub(crate) record_sha: bool,
}

impl WriteArgs {
    /// How constants are stored.
    pub(crate) fn storage(&self) -> Storage {
        Storage {
            external_data: self.external_data.into(),
            chunk: self.chunk_size,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum External {
    Auto,
    Always,
    Never,
}

impl From<External> for ExternalData {
    fn from(e: External) -> Self {
        match e {
            External::Auto => ExternalData::Auto,
            External::Always => ExternalData::Always,
            External::Never => ExternalData::Never,
        }
    }
}

fn parse_sha(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected 64 hexadecimal digits".to_owned()),
    }
}

/// A number of bytes: digits, and a unit of which each is a thousand of the one before.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 4] = [("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("", 1.0)];
    let parse = |(unit, factor): (&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some((number * factor) as u64).filter(|n| *n > 0 && number.is_finite())
    };
    let found = UNITS.into_iter().find_map(parse);
    found.ok_or_else(|| "expected a size, such as 500MB or 1.5GB".to_owned())
}

/// Adds the option that an error is about to its message.
pub(crate) fn at_option(option: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.at(option)
}
