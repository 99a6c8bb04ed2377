//! `onnxq eval`: what a rewrite did to a model.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use onnxq::{
    Error, Result,
    eval::{self, Baseline, LanguageOptions, Limits, OpenSubject, Subject, Tokens, Windows},
    engine::{self, Choice},
};

use super::{Cx, ExitStatus};

/// Compare what models compute: next-token distributions, or any outputs
#[derive(Args)]
#[command(
    after_help = "Examples:\n  onnxq eval model_q4.onnx --baseline model.onnx --text test.txt\n  \
                  onnxq eval model.onnx model_q4.onnx --baseline fp16 --text test.txt --html report.html\n  \
                  onnxq eval model_q4.onnx --baseline model.onnx --text test.txt --max-mean-kld 0.05"
)]
#[command(group(ArgGroup::new("input").required(true).args(["text", "tokens"])))]
pub(crate) struct EvalArgs {
    /// ONNX files, or folders that hold model.onnx or onnx/model.onnx
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// What the models are compared with: another model, or `fp16`, the first model in half
    /// precision [example: --baseline model.onnx]
    #[arg(long, value_name = "BASE")]
    baseline: Option<PathBuf>,
    /// Text to predict [example: --text wikitext-2-test.txt]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    text: Option<PathBuf>,
    /// Token ids to predict, as a JSON list, or a list of lists [example: --tokens ids.json]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    tokens: Option<PathBuf>,
    /// The tokenizer [default: tokenizer.json beside the model; example: --tokenizer tokenizer.json]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    tokenizer: Option<PathBuf>,
    /// Tokens of a window [example: --window 512]
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Input")]
    window: usize,
    /// Tokens from one window to the next; the others are context only [default: the window;
    /// example: --stride 128]
    #[arg(long, value_name = "N", help_heading = "Input")]
    stride: Option<usize>,
    /// How many windows at most, or `all` [example: --windows all]
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_count, help_heading = "Input")]
    windows: Count,
    /// Write a report; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct Count(Option<usize>);

fn parse_count(text: &str) -> Result<Count, String> {
    match text.parse::<usize>() {
        _ if text == "all" => Ok(Count(None)),
        Ok(n) if n > 0 => Ok(Count(Some(n))),
        _ => Err("expected a number above 0, or `all`".to_owned()),
    }
}

pub(crate) fn run(args: &EvalArgs, cx: &Cx) -> Result<ExitStatus> {
    let engine = engine::find(Choice::Auto, None)?;
    let models: Vec<OpenSubject> = args.models.iter().map(|p| OpenSubject::open(p)).collect::<Result<_>>()?;
    let base = args.baseline.as_ref().map(|p| OpenSubject::open(p)).transpose()?;
    let subjects: Vec<Subject<'_>> = models.iter().map(OpenSubject::subject).collect();
    let windows = Windows { window: args.window, stride: args.stride.unwrap_or(args.window), limit: args.windows.0 };
    let most = args.windows.0.map(|n| n * args.window);
    let tokens = Tokens::from_text(args.text.as_ref().unwrap(), args.tokenizer.as_ref().unwrap(), most)?;
    let base = base.as_ref().map(|b| Baseline::Model(b.subject()));
    let options = LanguageOptions { windows, ..LanguageOptions::default() };
    let e = eval::language_models(engine.as_ref(), base.as_ref(), &subjects, &tokens, &options, &Limits::default())?;
    cx.json(Path::new("-"), &e)?;
    Ok(ExitStatus::Done)
}
