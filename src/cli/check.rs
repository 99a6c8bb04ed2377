//! `quantize --check`: the output is evaluated before it gets its name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use onnxq::{
    Error, Result,
    engine::{Array, Engine, LoadOptions, Signature, read_tensors},
    eval::{self, Baseline, Evaluation, Items, LanguageOptions, OpenSubject, Tokens, report::Task},
};

use super::{
    Cx,
    context::at_file,
    engine_args::EngineArgs,
    feed_args::is_tensors,
    half::Half,
    text_args::{LimitArgs, TextArgs},
};

/// Options of the check.
#[derive(Args, Clone)]
pub(crate) struct CheckArgs {
    /// Evaluate the output on this text (a text a line for classifiers and encoders), or on the tensors in an
    /// .npz or .safetensors file, against the input in half precision, before it gets its name; with a limit
    /// missed there is no output, and the status is 1 [example: --check test.txt --max-mean-kld 0.1]
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) check: Option<PathBuf>,
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
    engine: Box<dyn Engine>,
    load: LoadOptions,
    half: Half,
    feed: Feed,
    cx: &'a Cx,
}

/// What both models are fed.
enum Feed {
    /// Windows of a text, to language models.
    Windows(Tokens),
    /// Texts, to models of other kinds.
    Texts(Task, Tokens),
    /// Tensors by name, to any model.
    Tensors(PathBuf, [Vec<(String, Array)>; 1]),
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

    /// What the model at `path` is fed; `None` where too little is left of a `spare` text.
    fn feed(
        &self,
        source: &OpenSubject,
        path: &Path,
        spare: Option<&Spare>,
    ) -> Result<Option<Feed>> {
        let Some(file) = &self.check else {
            let left = spare
                .map(|spare| spare.tokens(&self.how, path))
                .transpose()?;
            return Ok(left.flatten().map(Feed::Windows));
        };
        if is_tensors(file) {
            let set = read_tensors(file).map_err(|e| e.at("--check"))?;
            return Ok(Some(Feed::Tensors(file.clone(), [set])));
        }
        let task = eval::task_of(&Signature::of(source.model()));
        Ok(Some(
            match task.map_err(|e| at_file(path)(e.at("--check")))? {
                Task::CausalLm => Feed::Windows(self.how.text(file, path)?),
                task => Feed::Texts(task, self.how.lines(file, path)?),
            },
        ))
    }

    /// The check of what becomes of the model at `path`, if one is asked for, or there is a `spare` text.
    pub(crate) fn prepare<'a>(
        &'a self,
        path: &Path,
        spare: Option<&Spare>,
        cx: &'a Cx,
    ) -> Result<Option<Check<'a>>> {
        let limits = self.limits.limits();
        let nothing = |why| match limits.is_empty() {
            true => Ok(None),
            false => Err(Error::input(format!("{why}: expected --check FILE"))),
        };
        if self.check.is_none() && spare.is_none() {
            return nothing("limits are on what --check finds");
        }
        let source = OpenSubject::open(path)?;
        let Some(feed) = self.feed(&source, path, spare)? else {
            return nothing(
                "no window of the text is left after the calibration to check the limits on",
            );
        };
        limits.check(feed.task())?;
        if let Some(items) = feed.items(self.how.window) {
            let signature = Signature::of(source.model());
            let fed = limits.need_outputs(&signature);
            let fed = fed.and_then(|()| eval::feeds(items, &signature));
            fed.map_err(|e| at_file(path)(e.at("--check")))?;
        }
        Ok(Some(Check {
            args: self,
            engine: self.engine.engine(cx)?,
            load: self.engine.load_options(cx),
            half: Half::of(&source)?,
            feed,
            cx,
        }))
    }
}

impl Feed {
    fn task(&self) -> Task {
        match self {
            Feed::Windows(_) => Task::CausalLm,
            Feed::Texts(task, _) => *task,
            Feed::Tensors(..) => Task::Tensors,
        }
    }

    /// What is fed item by item, texts cut to `window` tokens; `None` for windows.
    fn items(&self, window: usize) -> Option<Items<'_>> {
        match self {
            Feed::Windows(_) => None,
            Feed::Texts(_, tokens) => Some(Items::Texts {
                tokens,
                window,
                given: &[],
            }),
            Feed::Tensors(file, sets) => Some(Items::Tensors {
                sets,
                source: file.as_os_str().to_str().unwrap_or_default(),
            }),
        }
    }
}

impl Check<'_> {
    /// Evaluates the model at `path`.
    pub(crate) fn evaluate(&self, path: &Path) -> Result<Evaluation> {
        let output = OpenSubject::open(path)?;
        let (engine, models) = (&*self.engine, [output.subject()]);
        let limits = self.args.limits.limits();
        let half = self.half.subject();
        let how = &self.args.how;
        match &self.feed {
            Feed::Windows(tokens) => {
                let options = LanguageOptions {
                    windows: how.windows(),
                    load: self.load,
                    cancel: Some(self.cx.cancelled()),
                    ..LanguageOptions::default()
                };
                let half = Baseline::Model(half);
                eval::language_models(engine, Some(&half), &models, tokens, &options, &limits)
            }
            feed => {
                let items = feed.items(how.window).expect("it is no window");
                let what = (feed.task(), items);
                eval::outputs(engine, Some(&half), &models, what, 1, self.load, &limits)
            }
        }
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
