//! Finds the side files of a model that are not where it says.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use super::sums::recorded;
use crate::{
    digest::sha256,
    error::{Error, Result},
    ir::SourceFile,
    onnx::{OpenOptions, SideFile, side_file_name, side_files},
};

/// A side file that was found elsewhere than the model says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What the model calls it.
    pub location: String,
    /// Where it is.
    pub path: PathBuf,
    /// How it was recognized, as the end of a sentence.
    pub why: &'static str,
}

/// A file of the folder.
struct Candidate {
    name: String,
    path: PathBuf,
    len: u64,
}

/// What is known of the files around a model.
struct Around<'a> {
    model: &'a Path,
    candidates: Vec<Candidate>,
    /// What the files were, by their paths.
    recorded: BTreeMap<PathBuf, String>,
}

/// Tells, for each side file that is missing, too short or another one's, which file of the folder it is: by
/// its SHA-256 where `SHA256SUMS` says what it was, by the name that it should have, or by its size.
///
/// Files whose sizes fit are taken to be what their names say where nothing else tells.
///
/// # Errors
/// The model cannot be read, or a side file is not found; the message tells what was looked for.
pub fn mend(model: &Path, options: OpenOptions) -> Result<Vec<Mended>> {
    let needed = side_files(model, options)?;
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let around = Around::of(model)?;
    let mut found: Vec<Option<(usize, &'static str)>> = Vec::new();
    for side in &needed {
        found.push(around.by_digest(side)?.or_else(|| around.in_place(side)));
    }
    around.swap_back(&needed, &mut found);
    let mut taken: HashSet<usize> = found.iter().flatten().map(|(at, _)| *at).collect();
    for (i, side) in needed.iter().enumerate() {
        if found[i].is_none() {
            let (at, why) = around.search(side, &taken)?;
            taken.insert(at);
            found[i] = Some((at, why));
        }
    }
    let mut mended = Vec::new();
    for (side, found) in needed.into_iter().zip(found) {
        let (at, why) = found.expect("each was found");
        let candidate = &around.candidates[at];
        if candidate.name != side.location {
            mended.push(Mended {
                location: side.location,
                path: candidate.path.clone(),
                why,
            });
        }
    }
    Ok(mended)
}

/// It is where the model says.
const IN_PLACE: &str = "it is there";
const BY_DIGEST: &str = "by its SHA-256";
const BY_NAME: &str = "by its name";
const BY_SIZE: &str = "by its size";

impl Around<'_> {
    fn of(model: &Path) -> Result<Around<'_>> {
        let folder = match model.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let at = |e| Error::io(format!("folder `{}`", folder.display()), e);
        let mut candidates = Vec::new();
        for entry in fs::read_dir(folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_text = [".onnx", ".json", ".txt", ".md"]
                .iter()
                .any(|e| name.ends_with(e));
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_file()
                && !is_text
            {
                let len = meta.len();
                candidates.push(Candidate { name, path, len });
            }
        }
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        let mut known = BTreeMap::new();
        for root in [folder.to_path_buf(), folder.join("..")] {
            let sums = recorded(&root)?.into_iter().flatten();
            known.extend(sums.map(|(file, sum)| (root.join(file), sum)));
        }
        let real = |(path, sum): (PathBuf, String)| Some((real(&path)?, sum));
        Ok(Around {
            model,
            candidates,
            recorded: known.into_iter().filter_map(real).collect(),
        })
    }

    /// The file with the content that the one of this name had.
    fn by_digest(&self, side: &SideFile) -> Result<Option<(usize, &'static str)>> {
        let expected = real(&self.model.with_file_name(&side.location));
        let Some(sum) = expected.and_then(|path| self.recorded.get(&path)) else {
            return Ok(None);
        };
        // First the one that should be it.
        let mut order: Vec<usize> = (0..self.candidates.len()).collect();
        order.sort_by_key(|&at| self.candidates[at].name != side.location);
        for at in order {
            let candidate = &self.candidates[at];
            if candidate.len >= side.bytes && sha256(&SourceFile::open(&candidate.path)?)? == *sum {
                let why = match candidate.name == side.location {
                    true => IN_PLACE,
                    false => BY_DIGEST,
                };
                return Ok(Some((at, why)));
            }
        }
        Ok(None)
    }

    /// The file of its name, if it is long enough.
    fn in_place(&self, side: &SideFile) -> Option<(usize, &'static str)> {
        let at = self.named(&side.location)?;
        (self.candidates[at].len >= side.bytes).then_some((at, IN_PLACE))
    }

    /// Side files that were mixed up: each is there, not all have the size that they need, and in another
    /// order all have.
    fn swap_back(&self, needed: &[SideFile], found: &mut [Option<(usize, &'static str)>]) {
        let files: Vec<usize> = needed
            .iter()
            .filter_map(|s| self.named(&s.location))
            .collect();
        let all_fit = needed
            .iter()
            .zip(&files)
            .all(|(s, &at)| self.candidates[at].len == s.bytes);
        if files.len() != needed.len()
            || all_fit
            || found.iter().flatten().any(|f| f.1 == BY_DIGEST)
        {
            return;
        }
        // Those of the right size stay, and each of the others has to be the only one left of its size.
        let len = |at: usize| self.candidates[at].len;
        let moved = |i: &usize| len(files[*i]) != needed[*i].bytes;
        let moved: Vec<usize> = (0..needed.len()).filter(moved).collect();
        let one = |&i: &usize| {
            let mut fit = moved.iter().filter(|&&j| len(files[j]) == needed[i].bytes);
            Some((i, files[*fit.next()?])).filter(|_| fit.next().is_none())
        };
        let order: Option<Vec<(usize, usize)>> = moved.iter().map(one).collect();
        for (i, at) in order.into_iter().flatten() {
            found[i] = Some((at, BY_SIZE));
        }
    }

    /// A file that no other location means: the one with the name that it should have, or the only one with
    /// its size.
    fn search(&self, side: &SideFile, taken: &HashSet<usize>) -> Result<(usize, &'static str)> {
        let base = side.location.rsplit(['/', '\\']).next().unwrap_or_default();
        let names = [base.to_owned(), side_file_name(self.model, number(base))];
        let fits = |at: &usize| !taken.contains(at) && self.candidates[*at].len >= side.bytes;
        if let Some(at) = names
            .iter()
            .filter_map(|n| self.named(n))
            .find(|at| fits(at))
        {
            return Ok((at, BY_NAME));
        }
        let of_size = |at: &usize| fits(at) && self.candidates[*at].len == side.bytes;
        let equal: Vec<usize> = (0..self.candidates.len()).filter(of_size).collect();
        match equal[..] {
            [at] => Ok((at, BY_SIZE)),
            [] => Err(self.missing(side, "no file in its folder has that many, or the name")),
            _ => {
                let names: Vec<&str> = equal.iter().map(|&at| &*self.candidates[at].name).collect();
                let why = format!(
                    "{} have as many, and nothing tells which it is",
                    names.join(", ")
                );
                Err(self.missing(side, &why))
            }
        }
    }

    fn missing(&self, side: &SideFile, why: &str) -> Error {
        let found = match self.named(&side.location) {
            Some(at) => format!("has {} bytes", self.candidates[at].len),
            None => "is missing".to_owned(),
        };
        Error::input(format!(
            "`{}`: side file `{}` {found}, expected {} ({} constants); {why}",
            self.model.display(),
            side.location,
            side.bytes,
            side.constants
        ))
    }

    fn named(&self, name: &str) -> Option<usize> {
        let name = name.strip_prefix("./").unwrap_or(name);
        self.candidates.iter().position(|c| c.name == name)
    }
}

/// Which side file a name is that ends as transformers.js has them: 2 for `model.onnx_data_2`.
fn number(name: &str) -> usize {
    let number = name.rsplit_once("_data_").and_then(|(_, n)| n.parse().ok());
    number.unwrap_or(0)
}

/// The path of a file that may be missing, in its real folder.
fn real(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?.canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}
