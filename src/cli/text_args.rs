//! Options of commands that feed text to models, and that judge them.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::{
    Error, Result,
    eval::{Limits, Tokens, Windows},
};

use super::context::model_path;

/// Tokens of a window.
pub(crate) const WINDOW: usize = 256;

/// How text becomes windows of tokens.
#[derive(Args, Clone)]
pub(crate) struct TextArgs {
    /// The tokenizer [default: tokenizer.json beside the model, or in the folder above;
    /// example: --tokenizer tokenizer.json]
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens of a window [example: --window 512]
    #[arg(long, value_name = "N", default_value_t = WINDOW, help_heading = "Text")]
    pub(crate) window: usize,
    /// Tokens from one window to the next; the others are context only [default: the window;
    /// example: --stride 128]
    #[arg(long, value_name = "N", help_heading = "Text")]
    stride: Option<usize>,
    /// How many windows, or lines, at most; or `all` [example: --windows all]
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_count, help_heading = "Text")]
    windows: Count,
}

/// A number, or all.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) Option<usize>);

pub(crate) fn parse_count(text: &str) -> Result<Count, String> {
    match text.parse::<usize>() {
        _ if text == "all" => Ok(Count(None)),
        Ok(n) if n > 0 => Ok(Count(Some(n))),
        _ => Err("expected a number above 0, or `all`".to_owned()),
    }
}

impl TextArgs {
    pub(crate) fn windows(&self) -> Windows {
        Windows {
            window: self.window,
            stride: self.stride.unwrap_or(self.window),
            limit: self.windows.0,
        }
    }

    /// The text at `path` as one sequence, as much of it as the windows take; the tokenizer is
    /// looked for beside `model`.
    pub(crate) fn text(&self, path: &Path, model: &Path) -> Result<Tokens> {
        self.text_of(path, model, self.windows())
    }

    /// The same, of other windows.
    pub(crate) fn text_of(&self, path: &Path, model: &Path, windows: Windows) -> Result<Tokens> {
        let Windows {
            window,
            stride,
            limit,
        } = windows;
        let most = limit.map(|n| window.saturating_add((n - 1).saturating_mul(stride)));
        Tokens::from_text(path, &self.tokenizer(model)?, most)
    }

    /// The lines of the text at `path`.
    pub(crate) fn lines(&self, path: &Path, model: &Path) -> Result<Tokens> {
        Tokens::from_lines(path, &self.tokenizer(model)?, self.windows.0)
    }

    /// The token ids in the JSON at `path`.
    pub(crate) fn ids(&self, path: &Path, model: &Path) -> Result<Tokens> {
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => Some(tokenizer.clone()),
            // It only tells what a token stands for.
            None => beside(model),
        };
        Tokens::from_json(path, tokenizer.as_deref())
    }

    /// The tokenizer that is named, and those that lie beside `models`.
    pub(crate) fn tokenizers(&self, models: &[PathBuf]) -> Vec<PathBuf> {
        let paths = models.iter().filter_map(|model| model_path(model).ok());
        let found = paths.filter_map(|path| beside(&path));
        self.tokenizer.iter().cloned().chain(found).collect()
    }

    fn tokenizer(&self, model: &Path) -> Result<PathBuf> {
        let found = || {
            beside(model).ok_or_else(|| {
                Error::input(format!(
                    "no tokenizer.json beside `{}`, nor in the folder above; name one with \
                     --tokenizer, or give token ids with --tokens",
                    model.display()
                ))
            })
        };
        self.tokenizer.clone().map_or_else(found, Ok)
    }
}

/// The tokenizer beside `model`, or in the folder above.
pub(crate) fn beside(model: &Path) -> Option<PathBuf> {
    let model = std::path::absolute(model).ok()?;
    let folders = model.ancestors().skip(1).take(2);
    let mut files = folders.map(|folder| folder.join("tokenizer.json"));
    files.find(|file| file.is_file())
}

/// The heading of the limits in the help. It stands at each: given to the whole, it would be that of what follows, too.
const LIMITS: &str = "Limits (status 1 when one is missed)";

/// What must hold. None is assumed.
#[derive(Args, Clone, Default)]
pub(crate) struct LimitArgs {
    /// Mean Kullback-Leibler divergence from the baseline, in nats, at most
    /// [example: --max-mean-kld 0.05]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    max_mean_kld: Option<f64>,
    /// 99th percentile of the divergence, in nats, at most [example: --max-p99-kld 0.5]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    max_p99_kld: Option<f64>,
    /// Share of most probable tokens, or labels, that are the baseline's, 0 to 1, at least
    /// [example: --min-top1 0.9]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    min_top1: Option<f64>,
    /// Perplexity by the baseline's at most [example: --max-ppl-ratio 1.05]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    max_ppl_ratio: Option<f64>,
    /// Difference of the log-prob of any reference token, in nats, at most
    /// [example: --max-logprob-diff 2]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    max_logprob_diff: Option<f64>,
    /// Difference of any number of any output at most; for models that predict no tokens, as the next two
    /// [example: --max-diff 0.01]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    max_diff: Option<f64>,
    /// Signal-to-noise ratio of every output, in dB, at least [example: --min-snr 20]
    #[arg(long, value_name = "DB", help_heading = LIMITS)]
    min_snr: Option<f64>,
    /// Cosine between every output and the baseline's, 0 to 1, at least [example: --min-cosine 0.99]
    #[arg(long, value_name = "X", help_heading = LIMITS)]
    min_cosine: Option<f64>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_mean_kld: self.max_mean_kld,
            max_p99_kld: self.max_p99_kld,
            min_top1: self.min_top1,
            max_ppl_ratio: self.max_ppl_ratio,
            max_logprob_diff: self.max_logprob_diff,
            max_diff: self.max_diff,
            min_snr: self.min_snr,
            min_cosine: self.min_cosine,
        }
    }
}
