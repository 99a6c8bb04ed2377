//! The files that a command reads and writes.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use onnxq::Error;

/// Files that a command reads, and those that it is going to write: no file is two of them. Asked before any work, so
/// that none is lost to a name.
pub(crate) struct Places {
    taken: HashSet<PathBuf>,
}

impl Places {
    /// Of a command that reads these. A model that may be replaced by what becomes of it is none of them.
    pub(crate) fn reading(files: impl IntoIterator<Item = impl AsRef<Path>>) -> Places {
        let real = files.into_iter().map(|file| file.as_ref().canonicalize());
        Places {
            taken: real.filter_map(Result::ok).collect(),
        }
    }

    /// Takes a place to write to; `-` is standard output.
    ///
    /// # Errors
    /// It is taken, or its folder is not there.
    pub(crate) fn write(&mut self, output: &Path) -> onnxq::Result<()> {
        if output.as_os_str() == "-" {
            return Ok(());
        }
        let cannot = |why| Error::input(format!("cannot write `{}`: {why}", output.display()));
        match output.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                return Err(cannot(format!("`{}` is not a folder", folder.display())));
            }
            _ => {}
        }
        let place = output
            .canonicalize()
            .or_else(|_| std::path::absolute(output));
        // Whatever is no file, as a pipe, has room for several.
        let is_file = output.is_file() || !output.exists();
        match is_file && place.is_ok_and(|place| !self.taken.insert(place)) {
            false => Ok(()),
            true => Err(cannot(
                "the command reads it, or writes something else there; expected another name"
                    .to_owned(),
            )),
        }
    }
}
