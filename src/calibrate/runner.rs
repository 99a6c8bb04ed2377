//! Runs a segment, item by item.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    flow::Flow,
    plan::Segment,
    segment::{Replaced, extract, made},
    store::{Reader, Writer},
};
use crate::{
    engine::{Array, Engine, LoadOptions, Program, Session},
    error::{Error, Result},
    ir::{Model, ValueId},
    onnx::{self, ExternalData, SaveOptions},
};

/// A model of more bytes goes to the engine in a file: in memory it is there twice while it is
/// loaded, and above 2 GiB not at all. Tests have smaller models, and take both ways.
const IN_MEMORY: u64 = if cfg!(test) { 1 << 12 } else { 1 << 30 };

/// Where a segment runs, and where its values are put aside.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) engine: &'p dyn Engine,
    pub(super) load: LoadOptions,
    /// The folder of the values.
    pub(super) values: &'p Path,
    /// The file of a large model.
    pub(super) model: &'p Path,
}

/// The file of `value` in `folder`.
pub(super) fn value_file(folder: &Path, value: ValueId) -> PathBuf {
    folder.join(format!("{value:?}"))
}

/// A value that a segment takes from before.
struct Read {
    value: ValueId,
    name: String,
    reader: Reader,
}

/// Where a target comes from.
enum Source {
    /// The segment makes it: which of what it gives.
    Made(usize),
    /// A segment before has left it: which of what is read.
    Read(usize),
    /// It is an input of the model, of this name.
    Input(String),
}

/// A segment that is ready to run.
pub(super) struct Runner {
    /// `None` where there is nothing to compute.
    session: Option<Box<dyn Session>>,
    /// What the engine may still read.
    _file: Option<ModelFile>,
    /// Names of the inputs that the session takes.
    takes: BTreeSet<String>,
    reads: Vec<Read>,
    /// What the session gives: first what is kept, in the order of `writers`.
    gives: Vec<String>,
    writers: Vec<Writer>,
    targets: Vec<Source>,
}

impl Runner {
    /// Loads `segment`.
    pub(super) fn load(
        flow: &Flow<'_>,
        base: &Model,
        segment: &Segment,
        replaced: &Replaced,
        place: Place<'_>,
    ) -> Result<Runner> {
        let name = |v: ValueId| flow.model.values[v].name.to_string();
        let read = |&value: &ValueId| {
            Ok(Read {
                value,
                name: name(value),
                reader: Reader::open(value_file(place.values, value))?,
            })
        };
        let reads: Vec<Read> = segment.reads.iter().map(read).collect::<Result<_>>()?;
        let made = made(flow, segment);
        let target = |target: &ValueId| {
            let made = made.iter().position(|v| v == target).map(Source::Made);
            let read = || reads.iter().position(|r| r.value == *target);
            made.or_else(|| read().map(Source::Read))
                .unwrap_or_else(|| Source::Input(name(*target)))
        };
        let targets = segment.targets.iter().map(target).collect();
        let write = |&v: &ValueId| Writer::create(value_file(place.values, v));
        let mut runner = Runner {
            session: None,
            _file: None,
            takes: BTreeSet::new(),
            targets,
            gives: made.iter().map(|&v| name(v)).collect(),
            writers: segment.keeps.iter().map(write).collect::<Result<_>>()?,
            reads,
        };
        if !segment.nodes.is_empty() {
            let stored = |v: ValueId| {
                let read = runner.reads.iter().find(|r| r.value == v)?;
                read.reader.first().cloned()
            };
            let model = extract(flow, base, segment, replaced, stored);
            runner.start(&model, place)?;
        }
        Ok(runner)
    }

    fn start(&mut self, model: &Model, place: Place<'_>) -> Result<()> {
        let inputs = model.graphs[model.main].inputs.iter();
        self.takes = inputs.map(|&v| model.values[v].name.to_string()).collect();
        let size = onnx::estimate(model, place.model, ExternalData::Auto.into())?.bytes();
        if size > IN_MEMORY {
            self._file = Some(ModelFile::write(model, place.model)?);
        }
        let program = Program {
            model,
            file: self._file.as_ref().map(|f| f.0.as_path()),
        };
        self.session = Some(place.engine.load(program, place.load)?);
        Ok(())
    }

    /// Runs the next item, of which `inputs` are the inputs of the model; returns the targets.
    pub(super) fn step(&mut self, inputs: &[(String, Array)]) -> Result<Vec<Array>> {
        let read = |read: &mut Read| read.reader.read();
        let stored: Vec<Array> = self.reads.iter_mut().map(read).collect::<Result<_>>()?;
        let mut results = Vec::new();
        if let Some(session) = &mut self.session {
            let own = inputs.iter().map(|(name, array)| (name.as_str(), array));
            let names = self.reads.iter().map(|read| read.name.as_str());
            let feeds: Vec<_> = own
                .chain(names.zip(&stored))
                .filter(|(name, _)| self.takes.contains(*name))
                .collect();
            let names: Vec<&str> = self.gives.iter().map(String::as_str).collect();
            results = session.run(&feeds, &names)?;
        }
        for (writer, array) in self.writers.iter_mut().zip(&results) {
            writer.push(array)?;
        }
        let target = |source: &Source| match source {
            Source::Made(at) => Ok(results[*at].clone()),
            Source::Read(at) => Ok(stored[*at].clone()),
            Source::Input(name) => {
                let input = inputs.iter().find(|(n, _)| n == name);
                let given = || Error::input(format!("input `{name}` is not given"));
                input.map(|(_, array)| array.clone()).ok_or_else(given)
            }
        };
        self.targets.iter().map(target).collect()
    }

    /// Gives the files of what is kept their names.
    pub(super) fn finish(self) -> Result<()> {
        self.writers.into_iter().try_for_each(Writer::finish)
    }
}

/// A model in a file, with its side file: both are removed in the end.
struct ModelFile(PathBuf);

impl ModelFile {
    fn write(model: &Model, path: &Path) -> Result<ModelFile> {
        let file = ModelFile(path.to_path_buf());
        let options = SaveOptions {
            storage: ExternalData::Always.into(),
            ..SaveOptions::default()
        };
        onnx::save(model, path, &options)?;
        Ok(file)
    }
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        // What cannot be removed is written over by the next one.
        let side = self.0.with_file_name(onnx::side_file_name(&self.0, 0));
        let _ = fs::remove_file(side);
        let _ = fs::remove_file(&self.0);
    }
}
