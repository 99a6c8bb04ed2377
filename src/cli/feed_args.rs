//! Options of commands that feed models, to compare what they compute.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use onnxq::{
    Error, Result,
    engine::{Array, Signature, read_tensors},
    eval::{self, OpenSubject, report::Task},
};

use super::{context::at_file, text_args::TextArgs};

/// What the models are fed.
#[derive(Args, Clone)]
pub(crate) struct FeedArgs {
    /// What kind of model it is, where its outputs do not tell [example: --task causal-lm]
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<TaskName>,

    /// Text: predicted by language models; a text a line for classifiers and encoders
    /// [example: --text wikitext-2-test.txt]
    #[arg(long, value_name = "FILE", help_heading = "Input", conflicts_with_all = ["tokens", "random"])]
    pub(crate) text: Option<PathBuf>,
    /// Token ids instead, as a JSON list or a list of lists [example: --tokens ids.json]
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Input",
        conflicts_with = "random"
    )]
    pub(crate) tokens: Option<PathBuf>,
    /// Tensors by name, .npz or .safetensors; each file is fed on its own, or beside text and
    /// tokens (an encoder's states) [example: --inputs image.npz]
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Input",
        conflicts_with = "random"
    )]
    pub(crate) inputs: Vec<PathBuf>,
    /// Made-up tensors, N times [example: --random 4]
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub(crate) random: Option<u64>,
    /// Seed of --random [example: --seed 7]
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Input")]
    pub(crate) seed: u64,
    /// Extent of an axis of --random [example: --dim batch_size=4]
    #[arg(long, value_name = "NAME=N", help_heading = "Input", value_parser = parse_dim, requires = "random")]
    pub(crate) dim: Vec<(String, i64)>,
    #[command(flatten)]
    pub(crate) how: TextArgs,
    /// Feed N tokens at once, through the cache, instead of a whole window [example: --chunk 64]
    #[arg(long, value_name = "N", help_heading = "Text")]
    pub(crate) chunk: Option<usize>,
    /// Feed N windows at once, where the models allow it [example: --batch 4]
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Text")]
    pub(crate) batch: usize,
}

impl FeedArgs {
    /// The tensors in the files given.
    pub(crate) fn given(&self) -> Result<Vec<Vec<(String, Array)>>> {
        self.inputs.iter().map(|file| read_tensors(file)).collect()
    }

    /// The files that are read to feed `models`.
    pub(crate) fn files(&self, models: &[PathBuf]) -> Vec<PathBuf> {
        let named = [&self.text, &self.tokens].into_iter().flatten();
        let named = named.chain(&self.inputs).cloned();
        named.chain(self.how.tokenizers(models)).collect()
    }

    /// Whether it is text, with tensors beside it or without.
    pub(crate) fn is_text(&self) -> bool {
        self.text.is_some() || self.tokens.is_some()
    }

    /// What kind of model `model` is when it is fed this.
    ///
    /// # Errors
    /// There is nothing to feed, or not what the task takes; its outputs do not tell.
    pub(crate) fn task(&self, model: &OpenSubject) -> Result<Task> {
        let is_text = self.is_text();
        if !is_text && self.inputs.is_empty() && self.random.is_none() {
            return Err(Error::input(
                "there is nothing to feed: expected --text, --tokens, --inputs or --random",
            ));
        }
        let signature = Signature::of(model.model());
        match self.task {
            Some(TaskName::CausalLm) if !is_text => Err(Error::input(
                "--task causal-lm: tokens are what it is fed: expected --text or --tokens",
            )),
            Some(task) => Ok(task.into()),
            None if !is_text => Ok(Task::Tensors),
            // With its other inputs given, a decoder is a language model, too.
            None if !self.inputs.is_empty() && eval::gives_logits_per_token(&signature) => {
                Ok(Task::CausalLm)
            }
            None => {
                let path = model.subject().path.map(Path::to_path_buf);
                eval::task_of(&signature).map_err(at_file(&path.unwrap_or_default()))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskName {
    /// Predicts the next token
    CausalLm,
    /// Scores labels
    Classifier,
    /// Gives vectors
    Encoder,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Task {
        match name {
            TaskName::CausalLm => Task::CausalLm,
            TaskName::Classifier => Task::Classifier,
            TaskName::Encoder => Task::Encoder,
        }
    }
}

/// Whether a file holds tensors, by its name; else it is a text.
pub(crate) fn is_tensors(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    ["npz", "safetensors"]
        .iter()
        .any(|tensors| extension.eq_ignore_ascii_case(tensors))
}

fn parse_dim(text: &str) -> Result<(String, i64), String> {
    let parsed = text
        .rsplit_once('=')
        .and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    parsed.ok_or_else(|| "expected NAME=N".to_owned())
}
