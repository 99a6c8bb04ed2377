//! What every command works with: standard streams, progress, opening and saving models.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use onnxq::{
    Error, Result,
    digest::sha256,
    ir::{Model, SourceFile},
    onnx::{self, OpenOptions, Opened, Progress, SaveOptions, Saved},
    output_file::write_whole,
    package::models,
    verify,
};
use serde::Serialize;

use super::{Global, ReadArgs, ReadOptions, WriteArgs};

/// Set by Ctrl-C, and by a polite request to end, while a model is being written.
static CANCELLED: AtomicBool = AtomicBool::new(false);

pub(crate) struct Cx {
    quiet: bool,
    pub(crate) verbose: bool,
    threads: Option<usize>,
}

impl Cx {
    pub(crate) fn new(global: &Global) -> Result<Cx> {
        if let Some(threads) = global.threads {
            if threads == 0 {
                return Err(Error::input("--threads is 0, expected at least 1"));
            }
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global()
                .map_err(|e| Error::unsupported("--threads").with_source(e))?;
        }
        Ok(Cx {
            quiet: global.quiet,
            verbose: global.verbose,
            threads: global.threads,
        })
    }

    /// How many threads to work on.
    pub(crate) fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(all)
    }

    /// Set when the run is to end.
    pub(crate) fn cancelled(&self) -> &'static AtomicBool {
        &CANCELLED
    }

    /// Writes a result to standard output. A reader that has gone away is no error.
    pub(crate) fn out(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::io("standard output", e)),
        }
    }

    /// Writes `value` as JSON to `path`; `-` is standard output.
    pub(crate) fn json(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).expect("reports have string keys") + "\n";
        if path == Path::new("-") {
            return self.out(&text);
        }
        write_whole(path, text.as_bytes())
    }

    /// Writes `text` to `path`.
    pub(crate) fn file(&self, path: &Path, text: &str) -> Result<()> {
        write_whole(path, text.as_bytes())
    }

    /// A result that `--quiet` leaves out.
    pub(crate) fn summary(&self, text: &str) -> Result<()> {
        match self.quiet {
            true => Ok(()),
            false => self.out(text),
        }
    }

    /// Writes to standard error: everything that is no result.
    pub(crate) fn note(&self, text: &str) {
        // Nowhere is left to say that standard error is closed.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Progress, which `--quiet` leaves out.
    pub(crate) fn progress(&self, text: &str) {
        if !self.quiet {
            self.note(text);
        }
    }

    /// Opens and verifies the model that `args` name.
    pub(crate) fn open(&self, args: &ReadArgs) -> Result<(PathBuf, Opened)> {
        let (path, opened) = self.look_at(&args.model, &args.how)?;
        verify::verify(&opened.model).map_err(|e| at_file(&path)(e.into()))?;
        Ok((path, opened))
    }

    /// Opens the model that `path`, a file or a folder, means, valid or not.
    pub(crate) fn look_at(&self, path: &Path, args: &ReadOptions) -> Result<(PathBuf, Opened)> {
        let path = model_path(path)?;
        let options = OpenOptions {
            drop_unknown: args.drop_unknown,
        };
        args.check_sha(&path)?;
        let opened = onnx::open(&path, options)?;
        note_dropped(&opened, self);
        Ok((path, opened))
    }

    /// The files that [`Cx::save`] would write: none of `inputs` but the model itself, which
    /// may be replaced as a whole, and not the report `json`.
    pub(crate) fn plan(
        &self,
        model: &Model,
        path: &Path,
        args: &WriteArgs,
        inputs: &Inputs,
        json: Option<&Path>,
    ) -> Result<Saved> {
        let planned = onnx::estimate(model, path, args.storage())?;
        let in_place = entry(path) == entry(&inputs.model);
        let real = |path: &Path| path.canonicalize().ok();
        if !in_place && real(path).is_some() && real(path) == real(&inputs.model) {
            return Err(Error::input(format!(
                "cannot write `{}`: `{}`, which is read, is a link to it; expected another name (-o)",
                path.display(),
                inputs.model.display()
            )));
        }
        for (output, _) in &planned.files {
            let side_file = inputs.side_files.iter().find(|f| entry(f) == entry(output));
            if side_file.is_some() && !in_place {
                return Err(Error::input(format!(
                    "cannot write `{}`: it is a side file of `{}`; expected another name (-o)",
                    output.display(),
                    inputs.model.display()
                )));
            }
            if json.is_some_and(|json| entry(json) == entry(output)) {
                return Err(Error::input(format!(
                    "--json `{}`: the model goes there; expected another name",
                    output.display()
                )));
            }
        }
        Ok(planned)
    }

    /// Writes `models`, of so many bytes together, with a progress bar on a terminal.
    pub(crate) fn save(
        &self,
        models: &[(&Model, &Path)],
        args: &WriteArgs,
        bytes: u64,
    ) -> Result<Vec<Saved>> {
        // Until here Ctrl-C ends the process at once: nothing has its name on disk yet.
        let _ = ctrlc::set_handler(|| CANCELLED.store(true, Ordering::Relaxed));
        let bar = self.bar(bytes);
        let saved = onnx::save_all(
            models,
            &SaveOptions {
                storage: args.storage(),
                sync: args.sync,
                progress: Some(&Bar(&bar)),
                cancel: Some(&CANCELLED),
            },
        );
        bar.finish_and_clear();
        saved
    }

    /// A bar for work in steps; Ctrl-C ends such work at its next step.
    pub(crate) fn steps(&self) -> Steps {
        let _ = ctrlc::set_handler(|| CANCELLED.store(true, Ordering::Relaxed));
        if self.quiet || !io::stderr().is_terminal() {
            return Steps(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {eta} {msg}");
        bar.set_style(style.expect("the template is valid"));
        Steps(bar)
    }

    fn bar(&self, bytes: u64) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(bytes);
        let style =
            ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// Warns of fields that were dropped.
pub(crate) fn note_dropped(opened: &Opened, cx: &Cx) {
    if !opened.dropped.is_empty() {
        let fields = opened.dropped.join(", ");
        cx.note(&format!(
            "onnxq: warning: dropped unknown fields: {fields}\n"
        ));
    }
}

impl ReadOptions {
    /// Fails when the file at `path` is another one than was asked for.
    pub(crate) fn check_sha(&self, path: &Path) -> Result<()> {
        let Some(expected) = &self.verify_sha else {
            return Ok(());
        };
        let found = sha256(&SourceFile::open(path)?)?;
        match found == *expected {
            true => Ok(()),
            false => Err(Error::input(format!(
                "`{}` has SHA-256 {found}, expected {expected}",
                path.display()
            ))),
        }
    }
}

/// How far work in steps is; goes away with it.
pub(crate) struct Steps(ProgressBar);

impl Steps {
    /// `done` steps of `total`, now at `what`.
    pub(crate) fn tell(&self, done: u64, total: u64, what: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

struct Bar<'a>(&'a ProgressBar);

impl Progress for Bar<'_> {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// The files that a model was read from.
pub(crate) struct Inputs {
    model: PathBuf,
    side_files: Vec<PathBuf>,
}

impl Inputs {
    pub(crate) fn of(path: &Path, opened: &Opened) -> Inputs {
        let side_files = opened.side_files.iter();
        Inputs {
            model: path.to_path_buf(),
            side_files: side_files.map(|f| f.path().to_path_buf()).collect(),
        }
    }

    /// Fails when the report `json` would be written over one of them.
    pub(crate) fn keep_from(&self, json: Option<&Path>) -> Result<()> {
        let mut files = std::iter::once(&self.model).chain(&self.side_files);
        let real = |path: &Path| path.canonicalize().ok();
        let Some(json) = json.filter(|j| real(j).is_some()) else {
            return Ok(());
        };
        match files.find(|f| real(f) == real(json)) {
            None => Ok(()),
            Some(_) => Err(Error::input(format!(
                "cannot write `{}`: it is a file of the model that is read; expected another name",
                json.display()
            ))),
        }
    }
}

/// The place of a file by its name in its folder: what a rename replaces.
fn entry(path: &Path) -> Option<PathBuf> {
    let folder = match path.parent()? {
        p if p.as_os_str().is_empty() => Path::new("."),
        p => p,
    };
    Some(folder.canonicalize().ok()?.join(path.file_name()?))
}

/// Adds the file that an error is about to its message.
pub(crate) fn at_file(path: &Path) -> impl Fn(Error) -> Error {
    move |e| e.at(format!("`{}`", path.display()))
}

/// The model file that `path` means.
pub(crate) fn model_path(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let names = ["model.onnx", "onnx/model.onnx"];
    if let Some(found) = names.iter().map(|n| path.join(n)).find(|p| p.is_file()) {
        return Ok(found);
    }
    match &models(path)?[..] {
        [one] => Ok(one.clone()),
        several => Err(Error::input(format!(
            "folder `{}` holds {} models, and none is model.onnx; expected the path of one: {}",
            path.display(),
            several.len(),
            listed(several)
        ))),
    }
}

/// Their paths, as a part of a sentence.
pub(crate) fn listed(models: &[PathBuf]) -> String {
    let paths: Vec<String> = models
        .iter()
        .map(|m| format!("`{}`", m.display()))
        .collect();
    paths.join(", ")
}

/// Whether `-o` means a folder: it is one, or is written as one.
pub(crate) fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.to_string_lossy().ends_with(['/', '\\'])
}

/// The file that `-o` means: itself, or `name` in a folder.
pub(crate) fn output_path(output: &Path, name: &str) -> PathBuf {
    match is_folder(output) {
        true => output.join(name),
        false => output.to_path_buf(),
    }
}
