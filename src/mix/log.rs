//! Numbers that took long to find, kept as they are found.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The file, in the folder of a survey, which is that of one model, one text and one engine.
const NAME: &str = "divergences";

/// Numbers, and the file that has them.
pub(super) struct Log {
    pub(super) numbers: Vec<f64>,
    file: Option<(PathBuf, File)>,
}

impl Log {
    /// What `folder` has; without one, nothing is kept.
    ///
    /// # Errors
    /// It cannot be read, or written.
    pub(super) fn open(folder: Option<&Path>) -> Result<Log> {
        let Some(path) = folder.map(|f| f.join(NAME)) else {
            return Ok(Log {
                numbers: Vec::new(),
                file: None,
            });
        };
        let failed = |e| Error::io(format!("cannot read `{}`", path.display()), e);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(failed)?,
        };
        // A run that was killed may have left a part of one.
        let (whole, _) = bytes.as_chunks();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.and_then(|f| f.set_len(whole.len() as u64 * 8).map(|()| f));
        Ok(Log {
            numbers: whole.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            file: Some((path.clone(), file.map_err(failed)?)),
        })
    }

    /// Adds a number.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn push(&mut self, number: f64) -> Result<()> {
        self.numbers.push(number);
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let failed = |e| Error::io(format!("cannot write `{}`", path.display()), e);
        file.write_all(&number.to_le_bytes()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(Some(folder.path())).unwrap();
        assert!(log.numbers.is_empty());
        log.push(0.25).unwrap();
        log.push(1e-9).unwrap();
        drop(log);
        let cut = OpenOptions::new()
            .append(true)
            .open(folder.path().join(NAME));
        cut.unwrap().write_all(&[1, 2, 3]).unwrap();
        let mut log = Log::open(Some(folder.path())).unwrap();
        assert_eq!(log.numbers, [0.25, 1e-9]);
        log.push(0.5).unwrap();
        assert_eq!(
            Log::open(Some(folder.path())).unwrap().numbers,
            [0.25, 1e-9, 0.5]
        );
    }
}
