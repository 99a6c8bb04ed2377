//! `quantize --check`: the output is evaluated before it gets its name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use onnxq::{
    Error, Result,
    engine::{Engine, Signature},
    eval::{self, Baseline, Evaluation, LanguageOptions, OpenSubject, Tokens},
};

use super::{
    Cx,
    context::at_file,
    engine_args::EngineArgs,
    half::Half,
    text_args::{LimitArgs, TextArgs},
};

/// Options of the check.
#[derive(Args, Clone)]
pub(crate) struct CheckArgs {
    /// Evaluate the output on this text against the input in half precision, before it gets its
    /// name; with a limit missed there is no output, and the status is 1
    /// [example: --check test.txt --max-mean-kld 0.1]
    #[arg(long, value_name = "TEXT", conflicts_with = "dry_run")]
    check: Option<PathBuf>,
    /// Keep an output that missed a limit [example: --keep]
    #[arg(long, requires = "check")]
    keep: bool,
    #[command(flatten)]
    pub(crate) how: TextArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// A check that is ready: what can be refused has been.
pub(crate) struct Check<'a> {
    args: &'a CheckArgs,
    options: LanguageOptions,
    engine: Box<dyn Engine>,
    half: Half,
    tokens: Tokens,
}

/// A text to check on where none is given: that of a calibration, after what this has taken.
#[derive(Clone)]
pub(crate) struct Spare {
    pub(crate) text: PathBuf,
    /// Windows that were taken.
    pub(crate) taken: usize,
}

impl Spare {
    /// What is left of it, as much as `how` takes; `None` when that is less than a window.
    fn tokens(&self, how: &TextArgs, model: &Path) -> Result<Option<Tokens>> {
        let mut windows = how.windows();
        // As the calibration cuts it, whatever the stride of the check.
        windows.stride = windows.window;
        let taken = self.taken.saturating_mul(windows.window);
        windows.limit = windows.limit.map(|n| n.saturating_add(self.taken));
        let left = how.text_of(&self.text, model, windows)?.after(taken);
        let enough = |t: &Tokens| t.sequences()[0].len() >= windows.window;
        Ok(left.filter(enough))
    }
}

impl CheckArgs {
    /// Whether there is a text to check on.
    pub(crate) fn is_asked(&self) -> bool {
        self.check.is_some()
    }

    /// The same, which keeps nothing that missed a limit.
    pub(crate) fn without_keep(&self) -> CheckArgs {
        CheckArgs {
            keep: false,
            ..self.clone()
        }
    }

    /// The most that the mean divergence may be.
    pub(crate) fn max_mean_kld(&self) -> Option<f64> {
        self.limits.limits().max_mean_kld
    }

    /// The tokens to check on, if a check is asked for.
    fn tokens(&self, model: &Path, spare: Option<&Spare>) -> Result<Option<Tokens>> {
        let limits = self.limits.limits();
        let tokens = match (&self.check, spare) {
            (Some(text), _) => Some(self.how.text(text, model)?),
            (None, Some(spare)) => spare.tokens(&self.how, model)?,
            (None, None) => None,
        };
        if tokens.is_none() && !limits.is_empty() {
            let why = match spare {
                Some(_) => {
                    "no window of the text is left after the calibration to check the limits on"
                }
                None => "limits are on what --check finds",
            };
            return Err(Error::input(format!("{why}: expected --check TEXT")));
        }
        limits.check()?;
        Ok(tokens)
    }

    /// The check of what becomes of `model`, if one is asked for, or there is a `spare` text.
    pub(crate) fn prepare(
        &self,
        model: &Path,
        spare: Option<&Spare>,
        cx: &Cx,
    ) -> Result<Option<Check<'_>>> {
        let Some(tokens) = self.tokens(model, spare)? else {
            return Ok(None);
        };
        let source = OpenSubject::open(model)?;
        if !Signature::of(source.model()).is_causal_lm() {
            return Err(at_file(model)(Error::input(
                "--check: it is no causal language model; compare its outputs with onnxq eval \
                 --inputs or --random",
            )));
        }
        Ok(Some(Check {
            args: self,
            options: LanguageOptions {
                windows: self.how.windows(),
                load: self.engine.load_options(cx),
                cancel: Some(cx.cancelled()),
                ..LanguageOptions::default()
            },
            engine: self.engine.engine(cx)?,
            half: Half::of(&source)?,
            tokens,
        }))
    }
}

impl Check<'_> {
    /// Evaluates the model at `path`.
    pub(crate) fn evaluate(&self, path: &Path) -> Result<Evaluation> {
        let output = OpenSubject::open(path)?;
        eval::language_models(
            &*self.engine,
            Some(&Baseline::Model(self.half.subject())),
            &[output.subject()],
            &self.tokens,
            &self.options,
            &self.args.limits.limits(),
        )
    }

    pub(crate) fn keeps(&self) -> bool {
        self.args.keep
    }
}

/// A folder beside the output, on the same file system, where it waits for its name. Dropped, it
/// is removed with all that is in it.
pub(crate) struct Staging {
    folder: PathBuf,
    target: PathBuf,
}

impl Staging {
    pub(crate) fn new(target: &Path) -> Result<Staging> {
        // A rename would replace a pipe or a device.
        if fs::metadata(target).is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::input(format!(
                "cannot write `{}`: it exists and is not a regular file",
                target.display()
            )));
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let process = std::process::id();
        // A run that was killed may have left one, and containers number processes alike.
        let named = |n: u32| target.with_file_name(format!(".{name}.check-{process}-{n}"));
        let mut n = 0;
        while named(n).exists() {
            n += 1;
        }
        let folder = named(n);
        fs::create_dir(&folder)
            .map_err(|e| Error::io(format!("cannot write `{}`", target.display()), e))?;
        Ok(Staging {
            folder,
            target: target.to_path_buf(),
        })
    }

    /// Where the model is written: under its own name, which its side file's is made from.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder
            .join(self.target.file_name().unwrap_or_default())
    }

    /// Gives `files` their place, the model, which is the first, last.
    pub(crate) fn publish(self, files: &[(PathBuf, u64)]) -> Result<()> {
        for (file, _) in files.iter().rev() {
            let target = self
                .target
                .with_file_name(file.file_name().unwrap_or_default());
            fs::rename(file, &target)
                .map_err(|e| Error::io(format!("cannot write `{}`", target.display()), e))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left of a run that failed; nobody can be told any more.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
