//! `SHA256SUMS`: what every file of a folder was, in the form of coreutils' sha256sum.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use crate::{
    digest::sha256,
    error::{Error, Result},
    ir::SourceFile,
};

/// The name of the file.
pub const SUMS: &str = "SHA256SUMS";

/// The content of `SHA256SUMS` for these files, which are relative to `folder`, and for those that the one in
/// `before` tells of.
///
/// # Errors
/// One of them cannot be read, or `SHA256SUMS` in `before` is malformed.
pub fn sums(folder: &Path, files: &[PathBuf], before: &Path) -> Result<String> {
    let name = |file: &Path| file.to_string_lossy().replace('\\', "/");
    let digest = |file: &PathBuf| -> Result<(String, String)> {
        let sum = sha256(&SourceFile::open(&folder.join(file))?)?;
        Ok((name(file), sum))
    };
    let before = recorded(before)?.unwrap_or_default();
    let mut sums: BTreeMap<String, String> = before
        .into_iter()
        .map(|(file, sum)| (name(&file), sum))
        .collect();
    let new = files.par_iter().map(digest).collect::<Result<Vec<_>>>()?;
    sums.extend(new);
    let mut text = String::new();
    for (file, sum) in sums {
        let _ = writeln!(text, "{sum}  {file}");
    }
    Ok(text)
}

/// Compares a folder with its `SHA256SUMS`: one line a fault; `None` where there is no such file.
///
/// # Errors
/// `SHA256SUMS` is malformed or cannot be read.
pub fn check_sums(folder: &Path) -> Result<Option<Vec<String>>> {
    let Some(recorded) = recorded(folder)? else {
        return Ok(None);
    };
    let fault = |(file, expected): (&PathBuf, &String)| -> Option<String> {
        let found = SourceFile::open(&folder.join(file)).and_then(|f| sha256(&f));
        match found {
            Ok(found) if found == *expected => None,
            Ok(found) => Some(format!(
                "`{}` has SHA-256 {found}, expected {expected} by {SUMS}",
                file.display()
            )),
            Err(e) => Some(e.to_string()),
        }
    };
    Ok(Some(recorded.par_iter().filter_map(fault).collect()))
}

/// What `SHA256SUMS` in `folder` says of each file, if it is there.
///
/// # Errors
/// It is malformed or cannot be read.
pub(super) fn recorded(folder: &Path) -> Result<Option<BTreeMap<PathBuf, String>>> {
    let path = folder.join(SUMS);
    if !path.is_file() {
        return Ok(None);
    }
    let name = || format!("`{}`", path.display());
    let text = fs::read_to_string(&path).map_err(|e| Error::io(name(), e))?;
    let line = |(i, line): (usize, &str)| {
        let entry = line.split_once("  ").or_else(|| line.split_once(" *"));
        let fits = |sum: &str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        match entry.filter(|(sum, _)| fits(sum)) {
            Some((sum, file)) => Ok((PathBuf::from(file), sum.to_ascii_lowercase())),
            None => Err(Error::input(format!(
                "{}, line {}: expected a SHA-256, two spaces and a file name",
                name(),
                i + 1
            ))),
        }
    };
    text.lines()
        .enumerate()
        .map(line)
        .collect::<Result<_>>()
        .map(Some)
}
