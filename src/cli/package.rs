//! A folder that loads: models with what loaders read beside them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use onnxq::{
    Error, Result,
    ir::{DataType, Model, ValueId},
    onnx::Saved,
    package::{LoaderConfig, SUMS, Source, Staged, config_with, sums},
};

use super::context::is_folder;

const CONFIG: &str = "config.json";

/// What goes into a folder.
#[derive(Args, Clone)]
pub(crate) struct PackageArgs {
    /// For -o DIR/: the configuration of the model, which Optimum and transformers.js read
    /// [default: config.json beside the model, or above its folder `onnx`; example: --config config.json]
    #[arg(long, value_name = "FILE", conflicts_with = "no_config")]
    config: Option<PathBuf>,
    /// For -o DIR/: write models alone, without configuration, tokenizer and preprocessor files
    /// [example: --no-config]
    #[arg(long)]
    no_config: bool,
    /// For -o DIR/: where models lie in it: in its folder `onnx`, where transformers.js looks, or beside the
    /// configuration [default: as in the source, or as they are there; example: --layout onnx]
    #[arg(long, value_name = "WHERE")]
    layout: Option<Layout>,
    /// For -o DIR/: replace files of the same name that are there already [example: --force]
    #[arg(long)]
    force: bool,
    /// For -o DIR/: write SHA256SUMS, which `sha256sum -c` and `onnxq verify` check [example: --sums]
    #[arg(long)]
    sums: bool,
    /// For -o DIR/: write a model card, README.md, with sizes, origin, and what --check measured
    /// [example: --card]
    #[arg(long)]
    card: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Onnx,
    Flat,
}

/// A folder that is being made.
pub(crate) struct Folder<'a> {
    args: &'a PackageArgs,
    staged: Staged,
    source: Source,
    in_onnx: bool,
}

impl PackageArgs {
    /// The folder that `output` means, for models like `model`; `None` where it is a file.
    ///
    /// # Errors
    /// An option is given that only a folder has a use for, there is no configuration, the folder cannot be
    /// written, or what would come along is there with another content.
    pub(crate) fn folder(&self, output: Option<&Path>, model: &Path) -> Result<Option<Folder<'_>>> {
        let Some(output) = output.filter(|o| is_folder(o)) else {
            return self.check_unused().map(|()| None);
        };
        let source = Source::of(model)?;
        let config = self.config.clone().unwrap_or(source.root.join(CONFIG));
        if !self.no_config && !config.is_file() {
            return Err(Error::input(format!(
                "there is no `{}`, which Optimum and transformers.js read: expected one there, --config FILE, or \
                 --no-config for a folder without",
                config.display()
            )));
        }
        let usual = source.in_onnx || output.join("onnx").is_dir();
        let in_onnx = self.layout.map_or(usual, |l| l == Layout::Onnx);
        let folder = Folder {
            args: self,
            staged: Staged::new(output, self.force)?,
            source,
            in_onnx,
        };
        folder.check_beside().map(|()| Some(folder))
    }

    fn check_unused(&self) -> Result<()> {
        let used = [
            (self.config.is_some(), "--config"),
            (self.no_config, "--no-config"),
            (self.layout.is_some(), "--layout"),
            (self.force, "--force"),
            (self.sums, "--sums"),
            (self.card, "--card"),
        ];
        match used.iter().find(|(used, _)| *used) {
            None => Ok(()),
            Some((_, option)) => Err(Error::input(format!(
                "{option} is for a folder; expected -o DIR/"
            ))),
        }
    }
}

impl Folder<'_> {
    /// Where the model `file` will be.
    pub(crate) fn output(&self, file: &Path) -> PathBuf {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.staged.target().join(self.relative(&name))
    }

    /// Where the model `output` is written until then.
    ///
    /// # Errors
    /// There is one already, or nothing can be written.
    pub(crate) fn place(&self, output: &Path) -> Result<PathBuf> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        self.staged.place(&self.relative(&name))
    }

    /// Whether all of `planned` may be written.
    ///
    /// # Errors
    /// One of them exists.
    pub(crate) fn check(&self, planned: &Saved) -> Result<()> {
        let names = planned
            .files
            .iter()
            .filter_map(|(path, _)| path.file_name());
        names
            .map(|name| self.relative(&name.to_string_lossy()))
            .try_for_each(|file| self.staged.check(&file))
    }

    /// Whether a model of this name may be written.
    ///
    /// # Errors
    /// There is one.
    pub(crate) fn check_name(&self, model: &Path) -> Result<()> {
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        self.staged.check(&self.relative(&name))
    }

    fn relative(&self, name: &str) -> PathBuf {
        match self.in_onnx {
            true => Path::new("onnx").join(name),
            false => name.into(),
        }
    }

    /// Where the model of this name was written.
    ///
    /// # Errors
    /// The folder that is being filled cannot be made.
    pub(crate) fn written(&self, name: &str) -> Result<PathBuf> {
        Ok(self.staged.folder()?.join(self.relative(name)))
    }

    /// Whether it is laid out, and configured, as transformers.js wants it.
    pub(crate) fn is_for_transformers_js(&self) -> bool {
        self.in_onnx && !self.args.no_config
    }

    /// Whether a model card is asked for.
    pub(crate) fn has_card(&self) -> bool {
        self.args.card
    }

    /// Adds what loaders read beside `models`, and the model card, if there is one, and gives the folder its
    /// name; tells what that comes to.
    ///
    /// # Errors
    /// A file cannot be read or written, or exists already with another content.
    pub(crate) fn publish(self, models: &[LoaderConfig], card: Option<&str>) -> Result<String> {
        let mut text = String::new();
        if !self.args.no_config && !self.is_source() {
            let (files, bytes) = self.companions(models)?;
            text = format!(
                "and {files} file{} that loaders read: {:.1} KB\n",
                if files == 1 { "" } else { "s" },
                bytes as f64 / 1e3
            );
        }
        if let Some(card) = card {
            write(&self.staged.place(Path::new("README.md"))?, card.as_bytes())?;
        }
        let target = self.staged.target();
        if self.args.sums || target.join(SUMS).is_file() {
            let files = self.staged.files()?;
            let sums = sums(self.staged.folder()?, &files, target)?;
            write(&self.staged.folder()?.join(SUMS), sums.as_bytes())?;
        }
        // Both tell of what is in the folder, so that they change with it.
        self.staged.publish(&[Path::new(SUMS), Path::new(CONFIG)])?;
        Ok(text)
    }

    /// Whether models are added to the folder that they come from.
    fn is_source(&self) -> bool {
        let target = self.staged.target().canonicalize();
        target.is_ok_and(|t| t == self.source.root)
    }

    /// Copies the files that come along; how many there are, and their bytes.
    fn companions(&self, models: &[LoaderConfig]) -> Result<(usize, u64)> {
        let names = self.copied()?;
        let mut bytes = 0;
        for name in &names {
            let content = read(&self.source.root.join(name))?;
            bytes += content.len() as u64;
            self.add(name, &content)?;
        }
        let config = Path::new(CONFIG);
        let content = self.config(models)?;
        bytes += content.len() as u64;
        match self.args.config {
            // Another one than what is there is a file like any other.
            Some(_) => self.add(config, &content)?,
            None => write(&self.staged.folder()?.join(config), &content)?,
        }
        Ok((names.len() + 1, bytes))
    }

    /// The files that come along as they are.
    fn copied(&self) -> Result<Vec<PathBuf>> {
        let mut names = self.source.companions()?;
        names.retain(|n| n != Path::new(CONFIG));
        Ok(names)
    }

    /// Whether what comes beside the models may be written, as far as that is known before there are models.
    fn check_beside(&self) -> Result<()> {
        if self.args.card {
            self.staged.check(Path::new("README.md"))?;
        }
        if self.args.no_config || self.is_source() {
            return Ok(());
        }
        for name in self.copied()? {
            if !self.has(&name, &read(&self.source.root.join(&name))?)? {
                self.staged.check(&name)?;
            }
        }
        Ok(())
    }

    /// Whether the target has this very file.
    fn has(&self, name: &Path, content: &[u8]) -> Result<bool> {
        let target = self.staged.target().join(name);
        Ok(target.is_file() && read(&target)? == content)
    }

    /// Adds a file, unless the target has the same.
    fn add(&self, name: &Path, content: &[u8]) -> Result<()> {
        match self.has(name, content)? {
            true => Ok(()),
            false => write(&self.staged.place(name)?, content),
        }
    }

    /// The `config.json` of the folder.
    fn config(&self, models: &[LoaderConfig]) -> Result<Vec<u8>> {
        let there = self.staged.target().join(CONFIG);
        let keeps = there.is_file() && self.args.config.is_none();
        let from = match (&self.args.config, keeps) {
            (Some(given), _) => given.clone(),
            (None, true) => there,
            (None, false) => self.source.root.join(CONFIG),
        };
        let content = read(&from)?;
        if !self.in_onnx {
            return Ok(content);
        }
        let at = |e: Error| e.at(format!("`{}`", from.display()));
        let text =
            String::from_utf8(content).map_err(|e| at(Error::input("not UTF-8").with_source(e)))?;
        Ok(config_with(&text, models, keeps).map_err(at)?.into_bytes())
    }
}

/// What a loader has to know of `model`, which is written as `saved`.
pub(crate) fn loader_config(model: &Model, saved: &Saved) -> LoaderConfig {
    let half = |&value: &ValueId| {
        let is_cache = model.values[value].name.starts_with("past");
        is_cache && model.dtype_of(value) == Some(DataType::Float16)
    };
    let name = saved.files[0].0.file_name().unwrap_or_default();
    LoaderConfig {
        name: name.to_string_lossy().into_owned(),
        chunks: saved.files.len() - 1,
        half_cache: model.graphs[model.main].inputs.iter().any(half),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io(format!("`{}`", path.display()), e))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).map_err(|e| Error::io(format!("cannot write `{}`", path.display()), e))
}
