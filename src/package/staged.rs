//! A folder that appears whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, Result};

/// A folder that is being filled beside the one that it will be. Dropped before [`Staged::publish`], it is
/// removed with all that is in it.
pub struct Staged {
    folder: PathBuf,
    target: PathBuf,
    replace: bool,
}

impl Staged {
    /// For the folder `target`, which may exist: files are then added to it, and take the place of others of
    /// their name only if `replace`.
    ///
    /// # Errors
    /// `target` is no folder, or nothing can be made beside it.
    pub fn new(target: &Path, replace: bool) -> Result<Staged> {
        let at = |e| Error::io(format!("cannot write `{}`", target.display()), e);
        let target: PathBuf = target.components().collect();
        if target.exists() && !target.is_dir() {
            return Err(Error::input(format!(
                "cannot write folder `{}`: it is a file",
                target.display()
            )));
        }
        // On the same file system, so that the last step is a rename. What exists may be a mount of its own.
        let beside = match (target.is_dir(), target.parent()) {
            (true, _) => target.clone(),
            (false, Some(parent)) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&beside).map_err(at)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = beside.join(format!(".onnxq-{}-{n}.tmp", std::process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => break folder,
                // A run that was killed may have left one.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(at(e)),
            }
        };
        Ok(Staged {
            folder,
            target,
            replace,
        })
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
        let place = self.folder.join(file);
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
            let folder = self.folder.join(&relative);
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

    /// The folder that is being filled.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives everything its place. A target that did not exist appears in one step; into one that did, files
    /// are moved one by one, each whole, models after their side files.
    ///
    /// # Errors
    /// A file has appeared there meanwhile, or the folder is not writable.
    pub fn publish(self) -> Result<()> {
        let at = |e| Error::io(format!("cannot write `{}`", self.target.display()), e);
        if !self.target.exists() {
            return fs::rename(&self.folder, &self.target).map_err(at);
        }
        let mut files = self.files()?;
        files.sort_by_key(|f| f.extension().is_some_and(|e| e == "onnx"));
        files.iter().try_for_each(|f| self.check(f))?;
        for file in files {
            let target = self.target.join(&file);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at)?;
            }
            fs::rename(self.folder.join(&file), &target)
                .map_err(|e| Error::io(format!("cannot write `{}`", target.display()), e))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is left of a run that failed; nobody can be told any more.
        let _ = fs::remove_dir_all(&self.folder);
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
        staged.publish().unwrap();
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
        staged.publish().unwrap();
        assert_eq!(fs::read(dir.path().join("model.onnx")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["model.onnx", "other"]);
    }
}
