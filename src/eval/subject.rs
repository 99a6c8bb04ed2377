//! A model that is evaluated.

use std::path::{Path, PathBuf};

use super::report::ModelResult;
use crate::{
    digest,
    engine::Program,
    error::{Error, Result},
    ir::{Model, SourceFile},
    onnx::{self, OpenOptions, Opened},
    schema, verify,
};

/// A model that is evaluated, and what is known about it.
#[derive(Clone)]
pub struct Subject<'a> {
    /// A short name that tells it from the others.
    pub name: String,
    /// The model.
    pub model: &'a Model,
    /// The file that holds exactly this model; `None` for one that was made in memory.
    pub path: Option<&'a Path>,
    /// Length of its files in bytes.
    pub bytes: u64,
    /// SHA-256 of its file, and of its side files, joined with `+`; with a word for what was
    /// done to it in memory.
    pub sha256: String,
}

impl Subject<'_> {
    pub(crate) fn program(&self) -> Program<'_> {
        Program {
            model: self.model,
            file: self.path,
        }
    }

    /// A warning when the model draws random numbers, so that two runs differ.
    pub(crate) fn randomness(&self) -> Option<String> {
        let graphs = self.model.reachable_graphs().into_iter();
        let nodes = graphs.flat_map(|g| &self.model.graphs[g].nodes);
        let mut nodes = nodes.map(|&n| &self.model.nodes[n]);
        let random = nodes.find(|n| schema::is_random(n.domain(), &n.op_type))?;
        let operator = &random.op_type;
        Some(format!(
            "`{}` draws random numbers ({operator}): it differs from itself from run to run",
            self.name
        ))
    }

    pub(crate) fn result(&self) -> ModelResult {
        ModelResult {
            path: self.path.map(|p| p.display().to_string()),
            bytes: self.bytes,
            sha256: Some(self.sha256.clone()),
            ..ModelResult::named(&self.name)
        }
    }
}

/// A model of a file, open.
pub struct OpenSubject {
    path: PathBuf,
    opened: Opened,
    bytes: u64,
    sha256: String,
}

impl OpenSubject {
    /// Opens the model at `path` and verifies it.
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn open(path: &Path) -> Result<OpenSubject> {
        let opened = onnx::open(path, OpenOptions::default())?;
        let at = |e: Error| e.at(format!("`{}`", path.display()));
        verify::verify(&opened.model).map_err(|e| at(e.into()))?;
        OpenSubject::of(path, opened)
    }

    /// A model that is open already, from `path`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(path: &Path, opened: Opened) -> Result<OpenSubject> {
        let side_files = opened.side_files.iter().map(|f| f.len());
        let bytes = opened.file.len() + side_files.sum::<u64>();
        let side_files = opened.side_files.iter();
        let files = std::iter::once(&opened.file).chain(side_files);
        let hashes: Vec<String> = files.map(|f| digest::sha256(f)).collect::<Result<_>>()?;
        Ok(OpenSubject {
            path: path.to_path_buf(),
            opened,
            bytes,
            sha256: hashes.join("+"),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.opened.model
    }

    /// The file it is from.
    pub fn file(&self) -> &SourceFile {
        &self.opened.file
    }

    /// What [`super::language_models`] takes.
    pub fn subject(&self) -> Subject<'_> {
        let stem = self.path.file_stem().unwrap_or_default();
        Subject {
            name: stem.to_string_lossy().into_owned(),
            model: &self.opened.model,
            path: Some(&self.path),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
        }
    }
}
