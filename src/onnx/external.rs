//! Side files: which file an `external_data` entry means, and whether it may be read.
//!
//! A model comes from anywhere, so a location is only followed inside the folder of the
//! model: no absolute path, no `..`, no link that leads out of it (except to the folder
//! that the model's own path is a link to). Offset and length are
//! checked against the file before anything is read.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    ir::{Data, SourceFile},
    onnx::proto::StringStringEntryProto,
};

/// A side file, as a model means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// What the model calls it.
    pub location: String,
    /// Bytes that it has to have, at least.
    pub bytes: u64,
    /// How many constants lie in it.
    pub constants: usize,
}

/// Opens each side file of a model once.
pub(super) struct SideFiles {
    folder: PathBuf,
    /// Where the model itself lies when its path is a link: the caches of model hubs hold a
    /// folder of links to files that lie side by side elsewhere.
    linked_folder: Option<PathBuf>,
    open: HashMap<String, Arc<SourceFile>>,
    /// Where files are that are not where the model says.
    moved: HashMap<String, PathBuf>,
    /// What is needed, where nothing is opened.
    survey: Option<BTreeMap<String, SideFile>>,
}

impl SideFiles {
    /// For a model in `folder`; `model` is its path, when it has one.
    pub(super) fn new(folder: &Path, model: Option<&Path>) -> SideFiles {
        let real = model.and_then(|m| m.canonicalize().ok());
        let folder = match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder.to_path_buf(),
        };
        SideFiles {
            folder,
            linked_folder: real.and_then(|r| r.parent().map(Path::to_path_buf)),
            open: HashMap::new(),
            moved: HashMap::new(),
            survey: None,
        }
    }

    /// Files that are elsewhere, by what the model calls them.
    pub(super) fn moved(mut self, moved: HashMap<String, PathBuf>) -> SideFiles {
        self.moved = moved;
        self
    }

    /// Opens nothing: every constant is empty, and [`SideFiles::needed`] tells what they would need.
    pub(super) fn survey(mut self) -> SideFiles {
        self.survey = Some(BTreeMap::new());
        self
    }

    /// What a survey found, by location.
    pub(super) fn needed(self) -> Vec<SideFile> {
        self.survey
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .collect()
    }

    /// The files opened so far, sorted by path.
    pub(super) fn files(&self) -> Vec<Arc<SourceFile>> {
        let mut files: Vec<_> = self.open.values().cloned().collect();
        files.sort_by(|a, b| a.path().cmp(b.path()));
        files
    }

    /// The bytes that `entries` name; `expected` is their length by type and shape.
    pub(super) fn data(
        &mut self,
        entries: &[StringStringEntryProto],
        expected: u64,
    ) -> Result<Data> {
        let get = |key: &str| {
            let entry = entries.iter().find(|e| e.key() == key);
            entry.map(|e| e.value())
        };
        let number = |key: &str| -> Result<Option<u64>> {
            let Some(text) = get(key) else {
                return Ok(None);
            };
            text.parse().map(Some).map_err(|_| {
                Error::input(format!(
                    "external data has {key} `{text}`, expected a number from 0 to 2^64-1"
                ))
            })
        };
        let location = get("location")
            .filter(|l| !l.is_empty())
            .ok_or_else(|| Error::input("external data without `location`"))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?;
        if let Some(survey) = &mut self.survey {
            let side = survey.entry(location.to_owned()).or_insert(SideFile {
                location: location.to_owned(),
                bytes: 0,
                constants: 0,
            });
            side.bytes = side
                .bytes
                .max(offset.saturating_add(length.unwrap_or(expected)));
            side.constants += 1;
            return Ok(Data::Bytes(Bytes::new()));
        }
        let file = self.file(location)?;
        let rest = file.len().checked_sub(offset).ok_or_else(|| {
            Error::input(format!(
                "external data starts at offset {offset} of `{location}`, which has {} bytes",
                file.len()
            ))
        })?;
        let len = length.unwrap_or(expected);
        if len != expected {
            return Err(Error::input(format!(
                "external data has length {len}, but type and shape need {expected} bytes"
            )));
        }
        if len > rest {
            return Err(Error::input(format!(
                "external data needs bytes {offset}..{} of `{location}`, which has {} bytes",
                u128::from(offset) + u128::from(len),
                file.len()
            )));
        }
        Ok(Data::File { file, offset, len })
    }

    fn file(&mut self, location: &str) -> Result<Arc<SourceFile>> {
        if let Some(file) = self.open.get(location) {
            return Ok(file.clone());
        }
        let path = match self.moved.get(location) {
            Some(path) => path.clone(),
            None => self.resolve(location)?,
        };
        let file = Arc::new(SourceFile::open(&path).map_err(|e| {
            e.at(format!(
                "side file `{location}` in `{}`",
                self.folder.display()
            ))
        })?);
        self.open.insert(location.to_owned(), file.clone());
        Ok(file)
    }

    fn resolve(&self, location: &str) -> Result<PathBuf> {
        let refuse = |why: &str| {
            Err(Error::input(format!(
                "side file `{location}` {why}; expected a relative path inside the model's folder"
            )))
        };
        // Files written on Windows may use its separator.
        let relative = PathBuf::from(location.replace('\\', "/"));
        for part in relative.components() {
            match part {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return refuse("contains `..`"),
                _ => return refuse("is an absolute path"),
            }
        }
        let path = self.folder.join(&relative);
        let missing = |e| {
            let folder = self.folder.display();
            Error::io(format!("side file `{location}` in `{folder}`"), e)
        };
        let real = path.canonicalize().map_err(missing)?;
        let folder = self.folder.canonicalize().map_err(missing)?;
        let linked = self.linked_folder.as_deref();
        if !real.starts_with(&folder) && real.parent() != linked {
            return refuse("is a link that leaves the folder");
        }
        Ok(path)
    }
}
