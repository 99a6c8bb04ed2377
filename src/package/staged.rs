//! A folder that appears whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::error::{Error, Result};

/// A folder that is being filled beside the one that it will be. Dropped before [`Staged::publish`], it is
/// removed with all that is in it.
pub struct Staged {
    /// Made when something is written into it.
    folder: OnceLock<PathBuf>,
    target: PathBuf,
    replace: bool,
}

impl Staged {
    /// For the folder `target`, which may exist: files are then added to it, and take the place of others of
    /// their name only if `replace`.
    ///
    /// # Errors
    /// `target` is no folder.
    pub fn new(target: &Path, replace: bool) -> Result<Staged> {
        let target: PathBuf = target.components().collect();
        if target.exists() && !target.is_dir() {
            return Err(Error::input(format!(
                "cannot write folder `{}`: it is a file",
                target.display()
            )));
        }
        Ok(Staged {
            folder: OnceLock::new(),
            target,
            replace,
        })
    }

    /// The folder that is being filled.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> Result<&Path> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder);
        }
        let folder = self.make()?;
        Ok(self.folder.get_or_init(|| folder))
    }

    fn make(&self) -> Result<PathBuf> {
        let at = |e| Error::io(format!("cannot write `{}`", self.target.display()), e);
        // On the same file system, so that the last step is a rename. What exists may be a mount of its own.
        let beside = match (self.target.is_dir(), self.target.parent()) {
            (true, _) => self.target.clone(),
            (false, Some(parent)) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&beside).map_err(at)?;
        let process = std::process::id();
        for n in 0.. {
            let folder = beside.join(format!(".onnxq-{process}-{n}.tmp"));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(folder),
                // Another one's, or that of a run that was killed.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(at(e)),
            }
        }
        unreachable!("numbers do not end")
    }

    /// The folder that it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where `file`, relative to the folder, is written until then; its folder is made.
    ///
    /// # Errors
    /// That cannot be made, or the target has a file of this name that may not be replaced.
    pub fn place(&self, file: &Path) -> Result<PathBuf> {
        self.check(file)?;
        let place = self.folder()?.join(file);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)
                .map_err(|e| Error::io(format!("cannot write `{}`", self.target.display()), e))?;
        }
        Ok(place)
    }

    /// Whether `file` may be written.
    ///
    /// # Errors
    /// The target has something of this name.
    pub fn check(&self, file: &Path) -> Result<()> {
        let target = self.target.join(file);
        if target.is_dir() || target.exists() && !self.replace {
            return Err(Error::input(format!(
                "`{}` exists and is kept; expected another folder (-o), or --force",
                target.display()
            )));
        }
        Ok(())
    }

    /// Every file in it, relative to it, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(relative) = folders.pop() {
            let folder = self.folder()?.join(&relative);
            let at = |e| Error::io(format!("folder `{}`", folder.display()), e);
            for entry in fs::read_dir(&folder).map_err(at)? {
                let entry = entry.map_err(at)?;
                let path = relative.join(entry.file_name());
                match entry.file_type().map_err(at)?.is_dir() {
                    true => folders.push(path),
                    false => found.push(path),
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Gives everything its place. Files in `updated` may take the place of older ones. A target that did not exist appears in one step; into one that did, files
    /// are moved one by one, each whole, models after their side files.
    ///
    /// # Errors
    /// A file has appeared there meanwhile, or the folder is not writable.
    pub fn publish(self, updated: &[&Path]) -> Result<()> {
        let at = |e| Error::io(format!("cannot write `{}`", self.target.display()), e);
        if !self.target.exists() {
            return fs::rename(self.folder()?, &self.target).map_err(at);
        }
        let mut files = self.files()?;
        files.sort_by_key(|f| f.extension().is_some_and(|e| e == "onnx"));
        let kept = files.iter().filter(|f| !updated.contains(&f.as_path()));
        kept.into_iter().try_for_each(|f| self.check(f))?;
        for file in files {
            let target = self.target.join(&file);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at)?;
            }
            fs::rename(self.folder()?.join(&file), &target)
                .map_err(|e| Error::io(format!("cannot write `{}`", target.display()), e))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is left of a run that failed; nobody can be told any more.
        if let Some(folder) = self.folder.get() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b");
        let staged = Staged::new(&target, false).unwrap();
        fs::write(staged.place(Path::new("onnx/model.onnx")).unwrap(), "1").unwrap();
        assert!(!target.exists());
        drop(staged);
        assert_eq!(names(&dir.path().join("a")), [""; 0]);
        let staged = Staged::new(&target, false).unwrap();
        fs::write(staged.place(Path::new("onnx/model.onnx")).unwrap(), "1").unwrap();
        staged.publish(&[]).unwrap();
        assert_eq!(fs::read(target.join("onnx/model.onnx")).unwrap(), b"1");
    }

    #[test]
    fn what_exists_is_kept_unless_it_may_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.onnx"), "old").unwrap();
        fs::write(dir.path().join("other"), "other").unwrap();
        let staged = Staged::new(dir.path(), false).unwrap();
        assert!(staged.place(Path::new("model.onnx")).is_err());
        drop(staged);
        let staged = Staged::new(dir.path(), true).unwrap();
        fs::write(staged.place(Path::new("model.onnx")).unwrap(), "new").unwrap();
        staged.publish(&[]).unwrap();
        assert_eq!(fs::read(dir.path().join("model.onnx")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["model.onnx", "other"]);
    }
}
