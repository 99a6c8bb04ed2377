//! Where models are written, and what an interrupted run has finished there.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use onnxq::{
    Error, Result,
    digest::sha256,
    eval::{OpenSubject, report::InputInfo},
    ir::SourceFile,
    output_file::write_whole,
    tune::Way,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The folder inside for everything but models.
const INSIDE: &str = ".tune";

/// The file in it that stays.
const FINISHED: &str = "finished.json";

/// The folder of the models.
pub(super) struct Folder {
    path: PathBuf,
    /// Removes it at the end.
    temporary: Option<tempfile::TempDir>,
    /// Whether it was not there before.
    is_new: bool,
}

impl Folder {
    /// The folder `output`, or a temporary one.
    pub(super) fn new(output: Option<&Path>) -> Result<Folder> {
        let (path, temporary) = match output {
            Some(path) => (path.to_path_buf(), None),
            None => {
                let made = tempfile::tempdir();
                let made = made.map_err(|e| Error::io("a folder for the models", e))?;
                (made.path().to_path_buf(), Some(made))
            }
        };
        let is_new = !path.exists();
        let work = path.join(INSIDE);
        let cannot = |e| Error::io(format!("-o: cannot create folder `{}`", work.display()), e);
        fs::create_dir_all(&work).map_err(cannot)?;
        Ok(Folder {
            path,
            temporary,
            is_new,
        })
    }

    /// What an earlier run has finished; `None` where nothing stays.
    ///
    /// # Errors
    /// The file that tells cannot be read, or is of something else.
    pub(super) fn kept(&self) -> Result<Option<Kept>> {
        match self.temporary {
            Some(_) => Ok(None),
            None => Kept::open(self.work(FINISHED)).map(Some),
        }
    }

    /// The model with that file name.
    pub(super) fn model(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is needed until everything is done.
    pub(super) fn work(&self, name: &str) -> PathBuf {
        self.path.join(INSIDE).join(name)
    }

    /// Removes the models.
    pub(super) fn clear(&self) -> Result<()> {
        let cannot = |e| Error::io(format!("cannot empty `{}`", self.path.display()), e);
        for entry in fs::read_dir(&self.path).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.is_file() {
                fs::remove_file(&path).map_err(cannot)?;
            }
        }
        Ok(())
    }

    /// Everything is done: only what tells that stays.
    pub(super) fn finish(&self) {
        let Ok(entries) = fs::read_dir(self.path.join(INSIDE)) else {
            return;
        };
        for entry in entries.flatten().filter(|e| e.file_name() != FINISHED) {
            let path = entry.path();
            // What cannot be removed says nothing wrong, it only takes space.
            let _ = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only empty ones go: nothing came of the run.
        let _ = fs::remove_dir(self.path.join(INSIDE));
        if self.is_new {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Its form. Another name or number is another form.
const SCHEMA: &str = "onnxq.tune-folder/1";

/// All that the figures of a way follow from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// Version of onnxq.
    pub(super) onnxq: String,
    /// SHA-256 of the model.
    pub(super) model: String,
    /// Name and version of the engine.
    pub(super) engine: String,
    /// What the models are fed, and how: all but where it is from.
    pub(super) input: String,
    /// Windows that the engine's noise is measured on.
    pub(super) noise: usize,
    /// Options of `quantize`.
    pub(super) options: String,
    /// SHA-256 of the other files that they name.
    pub(super) files: Vec<String>,
}

impl Key {
    /// What tells `input` from others, whatever its files are called.
    pub(super) fn of_input(input: &InputInfo) -> String {
        let unnamed = InputInfo {
            source: String::new(),
            ..input.clone()
        };
        serde_json::to_string(&unnamed).expect("its keys are strings")
    }

    /// A short name that no other key has.
    pub(super) fn name(&self) -> String {
        let text = serde_json::to_vec(self).expect("its keys are strings");
        let hash = Sha256::digest(&text);
        hash.iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// SHA-256 of the file at `path`.
    pub(super) fn of_file(path: &Path) -> Result<String> {
        sha256(&SourceFile::open(path)?)
    }
}

#[derive(Serialize, Deserialize)]
struct Finished {
    key: Key,
    way: Way,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    schema: String,
    finished: Vec<Finished>,
}

/// What is finished.
pub(super) struct Kept {
    path: PathBuf,
    state: State,
}

impl Kept {
    fn open(path: PathBuf) -> Result<Kept> {
        let state = match fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(|e| e.at(format!("`{}`", path.display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => State {
                schema: SCHEMA.to_owned(),
                ..State::default()
            },
            Err(e) => return Err(Error::io(format!("cannot read `{}`", path.display()), e)),
        };
        Ok(Kept { path, state })
    }

    /// The way of that key, if it is finished and its output, `file`, is what it was.
    pub(super) fn find(&self, key: &Key, file: &Path) -> Option<Way> {
        let found = self.state.finished.iter().find(|f| f.key == *key)?;
        let output = OpenSubject::open(file).ok()?;
        let way = Way {
            path: Some(file.display().to_string()),
            ..found.way.clone()
        };
        (output.subject().sha256 == way.sha256).then_some(way)
    }

    /// Adds a way that is finished.
    pub(super) fn add(&mut self, key: Key, way: &Way) -> Result<()> {
        let finished = &mut self.state.finished;
        // What stood in the output's place is there no longer.
        let name = |way: &Way| {
            way.path
                .as_ref()
                .map(|p| Path::new(p).file_name().map(OsStr::to_owned))
        };
        finished.retain(|f| f.key != key && name(&f.way) != name(way));
        let way = way.clone();
        finished.push(Finished { key, way });
        let text = serde_json::to_string_pretty(&self.state).expect("its keys are strings");
        write_whole(&self.path, (text + "\n").as_bytes())
    }
}

fn read(bytes: &[u8]) -> Result<State> {
    let expected = || {
        Error::input(
            "it is not what onnxq tune keeps of a folder; expected another folder (-o), or one without this file",
        )
    };
    let state: State = serde_json::from_slice(bytes).map_err(|e| expected().with_source(e))?;
    match state.schema == SCHEMA {
        true => Ok(state),
        false => Err(expected()),
    }
}
