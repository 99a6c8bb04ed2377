//! A file that is written whole or not at all.
//!
//! On Linux the file has no name while it is written (`O_TMPFILE`), so nothing is left
//! behind even when the process is killed; elsewhere it is a temporary sibling that is
//! removed when the run fails. The last step is a rename over the target.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`: the file is there whole, or as it was before. What is no regular
/// file, such as a pipe, is written to as it is.
///
/// # Errors
/// The folder is missing or not writable, or the disk is full.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    // A link stays a link: what it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&target).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        return fs::write(&target, bytes)
            .map_err(|e| Error::io(format!("cannot write `{}`", path.display()), e));
    }
    let output = Output::create(&target, bytes.len() as u64)?;
    output.write_at(0, bytes)?;
    output.publish().map(drop)
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    target: PathBuf,
    /// The name it has meanwhile, once it has one.
    temporary: Option<PathBuf>,
}

impl Output {
    /// Begins the file that will be `target`, `len` bytes long.
    ///
    /// # Errors
    /// The folder is missing or not writable, `target` is something else than a file, or
    /// the disk has not `len` bytes left.
    pub(crate) fn create(target: &Path, len: u64) -> Result<Output> {
        let at = |e: io::Error| Error::io(format!("cannot write `{}`", target.display()), e);
        if let Ok(meta) = fs::metadata(target)
            && !meta.is_file()
        {
            return Err(Error::new(
                crate::error::ErrorKind::Io,
                format!(
                    "cannot write `{}`: it exists and is not a regular file",
                    target.display()
                ),
            ));
        }
        let (file, temporary) = open(target).map_err(at)?;
        let output = Output {
            file,
            target: target.to_path_buf(),
            temporary,
        };
        output.reserve(len).map_err(at)?;
        Ok(output)
    }

    /// Takes the space now, so that a full disk shows before any work is done.
    fn reserve(&self, len: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if len > 0 {
            use rustix::{fs::FallocateFlags, io::Errno};
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                // Not every file system can.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.file.set_len(len)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Writes `bytes` at `offset`. May be called from several threads.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, offset, bytes)
            .map_err(|e| Error::io(format!("cannot write `{}`", self.target.display()), e))
    }

    /// Flushes the content to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let at = |e| Error::io(format!("cannot flush `{}`", self.target.display()), e);
        self.file.sync_all().map_err(at)
    }

    /// Gives the file a temporary name beside the target, if it has none: the last step
    /// that can fail for lack of space or rights.
    pub(crate) fn name(&mut self) -> Result<()> {
        if self.temporary.is_some() {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{AtFlags, CWD, linkat};
            use std::os::fd::AsRawFd;
            let fd = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let name = temporary_name(&self.target);
            linkat(CWD, fd, CWD, &name, AtFlags::SYMLINK_FOLLOW).map_err(|e| {
                Error::io(
                    format!("cannot write `{}`", self.target.display()),
                    e.into(),
                )
            })?;
            self.temporary = Some(name);
        }
        Ok(())
    }

    /// Replaces the target with the file.
    pub(crate) fn publish(mut self) -> Result<PathBuf> {
        self.name()?;
        let temporary = self.temporary.as_ref().expect("`name` gave it one");
        fs::rename(temporary, &self.target)
            .map_err(|e| Error::io(format!("cannot write `{}`", self.target.display()), e))?;
        self.temporary = None;
        Ok(std::mem::take(&mut self.target))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The run failed already; a leftover is the lesser evil.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn temporary_name(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}-{n}.tmp", std::process::id()))
}

fn open(target: &Path) -> io::Result<(File, Option<PathBuf>)> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags};
        use rustix::io::Errno;
        let folder = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::from_bits_truncate(0o666)) {
            Ok(fd) => return Ok((File::from(fd), None)),
            // The file system, or the kernel, cannot.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let name = temporary_name(target);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&name)?;
    Ok((file, Some(name)))
}

#[cfg(unix)]
fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let n = file.seek_write(bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        for text in ["a longer text", "short", ""] {
            write_whole(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        assert!(write_whole(folder.path(), b"x").is_err());
        assert!(write_whole(&folder.path().join("missing/report"), b"x").is_err());
    }
}
