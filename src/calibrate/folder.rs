//! The folder that a run works in, so that it can go on after an interruption.
//!
//! | file | what |
//! |---|---|
//! | `run.json` | what the run is, and how far it is ([`Manifest`]) |
//! | `groups/G` | what the caller saved of group G |
//! | `weights/G-W` | the new elements of weight W of group G, until they are read for the last time |
//! | `values/`, `float/` | values at the cut that the run has reached, of the quantized and of the float model |
//!
//! A group is finished when `run.json` says so; whatever belongs to later ones is written again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{feed::Feed, store::cannot};
use crate::{
    engine::{Engine, LoadOptions},
    error::{Error, Result},
    ir::Model,
    onnx,
    output_file::write_whole,
};

const MANIFEST: &str = "run.json";

/// The form of the folder. Another number is another form.
const FORMAT: u32 = 1;

/// What a run works on. Runs can go on from each other when all of it is equal.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// SHA-256 of the model.
    pub(super) model: String,
    /// Of what it is fed.
    pub(super) items: String,
    /// Of the weights that are visited, and how they are grouped.
    pub(super) weights: String,
    pub(super) engine: String,
    /// How the engine runs, and what the caller says of itself.
    pub(super) options: String,
}

impl Identity {
    /// Of a run over a whole model.
    ///
    /// # Errors
    /// A constant cannot be read, or there is nothing to feed.
    pub(super) fn of(
        engine: &dyn Engine,
        model: &Model,
        feed: &Feed<'_>,
        load: LoadOptions,
    ) -> Result<Identity> {
        Ok(Identity {
            model: onnx::sha256(model)?,
            items: feed.sha256()?,
            weights: String::new(),
            engine: format!("{} {}", engine.name(), engine.version()),
            options: format!("optimize: {}", load.optimize),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    run: Identity,
    /// For each group that is finished, which of its weights have new elements.
    finished: Vec<Vec<bool>>,
}

/// The folder of a run.
pub(super) struct Folder {
    path: PathBuf,
    /// Removed at the end.
    temporary: bool,
    manifest: Manifest,
}

impl Folder {
    /// Opens the folder `path` for a `run` over so many groups, or a temporary one.
    ///
    /// # Errors
    /// It holds something else: what.
    pub(super) fn open(
        path: Option<&Path>,
        groups: usize,
        run: impl FnOnce() -> Result<Identity>,
    ) -> Result<Folder> {
        let Some(path) = path else {
            return Folder::temporary();
        };
        let run = run()?;
        let place = path.join(MANIFEST);
        let manifest = match fs::read(&place) {
            Ok(bytes) => {
                read(&bytes, groups, &run).map_err(|e| e.at(format!("`{}`", place.display())))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                check_empty(path)?;
                begin(run)
            }
            Err(e) => return Err(cannot("read", &place, e)),
        };
        let folder = Folder {
            path: path.to_path_buf(),
            temporary: false,
            manifest,
        };
        folder.prepare()?;
        Ok(folder)
    }

    fn temporary() -> Result<Folder> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let id = std::process::id();
        let path = loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("onnxq-calibrate-{id}-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(cannot("create", &path, e)),
            }
        };
        let folder = Folder {
            path,
            temporary: true,
            manifest: begin(Identity::default()),
        };
        folder.prepare()?;
        Ok(folder)
    }

    /// Makes the folders inside, and removes what an interrupted run has left of a group that
    /// it did not finish.
    fn prepare(&self) -> Result<()> {
        for inside in ["groups", "weights", "values", "float"] {
            let path = self.path.join(inside);
            fs::create_dir_all(&path).map_err(|e| cannot("create", &path, e))?;
        }
        self.commit()
    }

    /// How many groups are finished.
    pub(super) fn finished(&self) -> usize {
        self.manifest.finished.len()
    }

    /// Whether a weight of a finished group has new elements.
    pub(super) fn is_replaced(&self, group: usize, weight: usize) -> bool {
        let weights = self.manifest.finished.get(group);
        weights.and_then(|w| w.get(weight)) == Some(&true)
    }

    /// Where values of the quantized model are put aside.
    pub(super) fn values(&self) -> PathBuf {
        self.path.join("values")
    }

    /// Where those of the float model are.
    pub(super) fn float(&self) -> PathBuf {
        self.path.join("float")
    }

    /// Where a model goes that is too large to be handed over in memory.
    pub(super) fn model(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.onnx"))
    }

    /// Where the new elements of a weight are.
    pub(super) fn weight(&self, group: usize, weight: usize) -> PathBuf {
        self.path.join("weights").join(format!("{group}-{weight}"))
    }

    fn group(&self, group: usize) -> PathBuf {
        self.path.join("groups").join(group.to_string())
    }

    /// What the caller saved of a finished group.
    pub(super) fn saved(&self, group: usize) -> Result<Vec<u8>> {
        let path = self.group(group);
        fs::read(&path).map_err(|e| cannot("read", &path, e))
    }

    /// The next group is finished: which of its weights have new elements, which are in their
    /// files, and what the caller saves of it.
    pub(super) fn finish(&mut self, replaced: Vec<bool>, saved: &[u8]) -> Result<()> {
        if !self.temporary {
            write_whole(&self.group(self.finished()), saved)?;
        }
        self.manifest.finished.push(replaced);
        self.commit()
    }

    fn commit(&self) -> Result<()> {
        if self.temporary {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|e| Error::input("the state of the run").with_source(e))?;
        write_whole(&self.path.join(MANIFEST), &text)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What is left lies where the system cleans up.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn begin(run: Identity) -> Manifest {
    Manifest {
        format: FORMAT,
        run,
        finished: Vec::new(),
    }
}

fn read(bytes: &[u8], groups: usize, run: &Identity) -> Result<Manifest> {
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|e| Error::input("it does not describe a calibration run").with_source(e))?;
    if manifest.format != FORMAT {
        return Err(Error::input(format!(
            "its format is {}, expected {FORMAT}: it is of another version",
            manifest.format
        )));
    }
    let old = &manifest.run;
    let differences = [
        ("the model", &old.model, &run.model),
        ("what the model is fed", &old.items, &run.items),
        ("the choice of weights", &old.weights, &run.weights),
        ("the engine", &old.engine, &run.engine),
        ("the options", &old.options, &run.options),
    ];
    let differences = differences.into_iter().filter(|(_, old, new)| old != new);
    let differences: Vec<String> = differences
        .map(|(what, old, new)| format!("{what} ({old}, now {new})"))
        .collect();
    match differences.is_empty() {
        true if manifest.finished.len() > groups => Err(Error::input(format!(
            "it has {} groups, expected at most {groups}: it is damaged",
            manifest.finished.len()
        ))),
        true => Ok(manifest),
        false => Err(Error::input(format!(
            "the folder is of another run, which differs in {}; expected an empty folder or that \
             of the same run",
            differences.join(", ")
        ))),
    }
}

fn check_empty(path: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot("read", path, e)),
    };
    // A run that was stopped before it had a manifest has written nothing.
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::input(format!(
            "`{}` is neither empty nor the folder of a calibration run",
            path.display()
        ))),
    }
}
