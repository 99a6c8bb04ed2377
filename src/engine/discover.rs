//! Which engines this machine has.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Serialize;

use super::{Engine, OnnxRuntime, Rten, onnxruntime};
use crate::error::{Error, Result};

/// Which engine to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// ONNX Runtime where there is one, else rten.
    #[default]
    Auto,
    /// ONNX Runtime.
    OnnxRuntime,
    /// rten.
    Rten,
}

/// A shared library of ONNX Runtime, or a folder that should hold one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it is.
    pub path: PathBuf,
    /// How it was found.
    pub found_by: FoundBy,
}

/// How a library was found, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FoundBy {
    /// The option `--ort-lib`.
    #[serde(rename = "--ort-lib")]
    Option,
    /// The variable `ORT_DYLIB_PATH`.
    #[serde(rename = "ORT_DYLIB_PATH")]
    Variable,
    /// The package `onnxruntime` of the Python on the PATH.
    #[serde(rename = "python")]
    Python,
    /// The package `onnxruntime-node` in this folder or one above.
    #[serde(rename = "node")]
    Node,
}

impl FoundBy {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            FoundBy::Option => "--ort-lib",
            FoundBy::Variable => "ORT_DYLIB_PATH",
            FoundBy::Python => "Python package",
            FoundBy::Node => "Node package",
        }
    }

    /// Whether the user named it: it is then used or an error, never passed over.
    pub fn named(self) -> bool {
        matches!(self, FoundBy::Option | FoundBy::Variable)
    }
}

/// An engine that was found, usable or not.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Its name.
    pub engine: &'static str,
    /// Its version, when it says one.
    pub version: Option<String>,
    /// How it was found; none for an engine that is part of onnxq.
    pub found_by: Option<FoundBy>,
    /// Its library, or where one was expected.
    pub path: Option<PathBuf>,
    /// Why it cannot be used.
    pub unusable: Option<String>,
    /// Whether it is the one that is taken when nobody says which.
    pub taken: bool,
}

/// The engine that `choice` means. `library` is a shared library of ONNX Runtime, or a folder
/// that holds one.
///
/// # Errors
/// There is no ONNX Runtime where one was asked for, or the user named one that cannot be used.
pub fn find(choice: Choice, library: Option<&Path>) -> Result<Box<dyn Engine>> {
    find_with(choice, library, &mut |_| {})
}

/// As [`find`]; `warn` gets a line for every library that was passed over, and why.
///
/// # Errors
/// As [`find`].
pub fn find_with(
    choice: Choice,
    library: Option<&Path>,
    warn: &mut dyn FnMut(&str),
) -> Result<Box<dyn Engine>> {
    if choice == Choice::Rten {
        return match library {
            None => Ok(Box::new(Rten::new())),
            Some(_) => Err(Error::input(
                "--ort-lib names a library of ONNX Runtime, but the engine is rten",
            )),
        };
    }
    let mut passed_over = Vec::new();
    for library in libraries(library)? {
        match OnnxRuntime::load(&library.path) {
            Ok(engine) => {
                passed_over.iter().for_each(|line: &String| warn(line));
                return Ok(Box::new(engine));
            }
            Err(e) if library.found_by.named() => return Err(e.at(library.found_by.name())),
            Err(e) => passed_over.push(format!("{}: {}", library.found_by.name(), e.chain())),
        }
    }
    if choice == Choice::Auto {
        if !passed_over.is_empty() {
            passed_over.push("no ONNX Runtime can be used; the engine is rten".to_owned());
        }
        passed_over.iter().for_each(|line| warn(line));
        return Ok(Box::new(Rten::new()));
    }
    let found = match passed_over.is_empty() {
        true => "found no ONNX Runtime".to_owned(),
        false => format!(
            "found no ONNX Runtime that can be used ({})",
            passed_over.join("; ")
        ),
    };
    Err(Error::unsupported(format!(
        "{found}: expected its library at --ort-lib, at ORT_DYLIB_PATH, in the package \
         `onnxruntime` of the Python on the PATH (pip install onnxruntime), or in \
         node_modules/onnxruntime-node"
    )))
}

/// Every engine that is found, in the order in which they are tried.
///
/// # Errors
/// As [`libraries`], or the user named a library that cannot be used.
pub fn candidates(library: Option<&Path>) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for library in libraries(library)? {
        let probed = onnxruntime::probe(&library.path);
        if let (Err(e), true) = (&probed, library.found_by == FoundBy::Option) {
            return Err(Error::new(e.kind(), e.chain()).at(library.found_by.name()));
        }
        let (version, unusable) = match probed {
            Ok(version) => (Some(version), None),
            Err(e) => (None, Some(e.chain())),
        };
        found.push(Candidate {
            engine: onnxruntime::NAME,
            version,
            found_by: Some(library.found_by),
            path: Some(library.path),
            unusable,
            taken: false,
        });
    }
    let rten = Rten::new();
    found.push(Candidate {
        engine: rten.name(),
        version: Some(rten.version().to_owned()),
        found_by: None,
        path: None,
        unusable: None,
        taken: false,
    });
    // A library that the user named stands in the way of the others, usable or not.
    let named = |c: &Candidate| c.found_by.is_some_and(FoundBy::named);
    if let Some(first) = found.iter_mut().find(|c| c.unusable.is_none() || named(c)) {
        first.taken = first.unusable.is_none();
    }
    Ok(found)
}

/// The libraries of ONNX Runtime, the one that [`find`] tries first.
///
/// # Errors
/// `library`, or what the variable `ORT_DYLIB_PATH` names, is no file and no folder with one.
pub fn libraries(library: Option<&Path>) -> Result<Vec<Library>> {
    let mut found = Vec::new();
    let mut add = |path: PathBuf, found_by| {
        let known = |l: &Library| l.path.canonicalize().ok() == path.canonicalize().ok();
        if !found.iter().any(known) {
            found.push(Library { path, found_by });
        }
    };
    let named = library.map(|path| (path.to_path_buf(), FoundBy::Option));
    let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let variable = variable.map(|path| (PathBuf::from(path), FoundBy::Variable));
    // The option makes the variable meaningless, so it may then be wrong.
    if let Some((path, found_by)) = named.or(variable) {
        let library = library_at(&path).ok_or_else(|| {
            Error::input(format!(
                "{} `{}`: expected a library of ONNX Runtime, or a folder with one",
                found_by.name(),
                path.display()
            ))
        })?;
        add(library, found_by);
    }
    if let Some(package) = python_package() {
        let folder = package.join("capi");
        // Without a library the folder stands for it, so that somebody learns why.
        add(library_at(&folder).unwrap_or(folder), FoundBy::Python);
    }
    for folder in node_packages() {
        add(library_at(&folder).unwrap_or(folder), FoundBy::Node);
    }
    Ok(found)
}

/// `path` itself when it is a file, else the library in that folder. Wheels name theirs
/// `libonnxruntime.so.1.23.0`, without a plain `libonnxruntime.so` beside it. Among several
/// the plain name is meant, else the greatest version.
fn library_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_path_buf());
    }
    let files = std::fs::read_dir(path).ok()?;
    let files = files.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .filter(|file| file.is_file())
        .filter_map(|file| Some((library_version(file.file_name()?.to_str()?)?, file)))
        .max()
        .map(|(_, file)| file)
}

/// What the name of a library says of its version, for comparison; `None` when it is none.
fn library_version(name: &str) -> Option<Vec<u32>> {
    let version = match name.strip_prefix("libonnxruntime.") {
        Some("so" | "dylib") => "",
        Some(rest) => rest.strip_prefix("so.").or(rest.strip_suffix(".dylib"))?,
        None if name == "onnxruntime.dll" => "",
        None => return None,
    };
    let part = |p: &str| p.parse().unwrap_or(u32::MAX);
    Some(version.split('.').map(part).collect())
}

/// The folder of the package `onnxruntime` of the Python on the PATH. The current folder, which
/// Python looks at first, does not count: it may be a checkout of ONNX Runtime.
fn python_package() -> Option<PathBuf> {
    const FIND: &str = "import importlib.util as u, sys\n\
        sys.path = [p for p in sys.path if p]\n\
        s = u.find_spec('onnxruntime')\n\
        print((s and s.submodule_search_locations or [''])[0])";
    for python in ["python3", "python"] {
        let output = Command::new(python)
            .args(["-c", FIND])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(output) = output else { continue };
        let text = String::from_utf8(output.stdout).unwrap_or_default();
        let path = text.trim_end_matches(['\r', '\n']);
        if !path.is_empty() {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// Where the package `onnxruntime-node` keeps its library, for this folder and those above:
/// the nearest first, of each the newest interface of Node.
fn node_packages() -> Vec<PathBuf> {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        os => os,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        arch => arch,
    };
    let mut found = Vec::new();
    let here = std::env::current_dir().unwrap_or_default();
    for folder in here.ancestors() {
        let bin = folder.join("node_modules/onnxruntime-node/bin");
        let versions = std::fs::read_dir(&bin).into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| {
                let name = entry.file_name();
                let version = name.to_str()?.strip_prefix("napi-v")?.parse().ok()?;
                Some((version, entry.path().join(os).join(arch)))
            })
            .filter(|(_, path)| path.is_dir())
            .collect();
        versions.sort();
        found.extend(versions.into_iter().rev().map(|(_, path)| path));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(library_at(folder.path()), None);
        assert_eq!(library_at(&at("missing")), None);
        // From the worst to the best: each makes those before it irrelevant.
        for (name, best) in [
            ("libonnxruntime_providers_shared.so", None),
            ("onnxruntime_pybind11_state.so", None),
            ("libonnxruntime.so.1.9.0", Some("libonnxruntime.so.1.9.0")),
            ("libonnxruntime.so.1.23.0", Some("libonnxruntime.so.1.23.0")),
            ("libonnxruntime.so.1.3.0", Some("libonnxruntime.so.1.23.0")),
            ("libonnxruntime.so", Some("libonnxruntime.so")),
        ] {
            std::fs::write(at(name), "").unwrap();
            assert_eq!(library_at(folder.path()), best.map(at), "{name}");
        }
        assert_eq!(
            library_at(&at("onnxruntime_pybind11_state.so")),
            Some(at("onnxruntime_pybind11_state.so"))
        );
    }

    #[test]
    fn names_of_libraries_everywhere() {
        assert_eq!(
            library_version("libonnxruntime.1.20.1.dylib"),
            Some(vec![1, 20, 1])
        );
        assert_eq!(
            library_version("onnxruntime.dll"),
            library_version("libonnxruntime.dylib")
        );
        assert_eq!(library_version("onnxruntime_providers_cuda.dll"), None);
    }

    #[test]
    fn the_version_of_rten_is_that_of_the_crate() {
        let lock = include_str!("../../Cargo.lock");
        let (_, entry) = lock.split_once("name = \"rten\"\nversion = \"").unwrap();
        assert!(entry.starts_with(Rten::new().version()), "{}", &entry[..10]);
    }

    #[test]
    fn rten_and_a_library_contradict_each_other() {
        assert!(find(Choice::Rten, Some(Path::new("x"))).is_err());
        assert!(find(Choice::Rten, None).is_ok());
    }
}
