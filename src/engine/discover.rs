//! Which engines this machine has.

use std::{
    ffi::{CStr, c_char},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Engine, OnnxRuntime, Rten};
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

/// A shared library of ONNX Runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it is.
    pub path: PathBuf,
    /// How it was found.
    pub found_by: &'static str,
}

/// The engine that `choice` means. `library` is a shared library of ONNX Runtime, or a folder
/// that holds one.
///
/// # Errors
/// There is no ONNX Runtime where one was asked for, or it cannot be loaded.
pub fn find(choice: Choice, library: Option<&Path>) -> Result<Box<dyn Engine>> {
    if choice == Choice::Rten {
        return Ok(Box::new(Rten::new()));
    }
    let found = libraries(library)?;
    match found.first() {
        Some(library) => Ok(Box::new(OnnxRuntime::load(&library.path)?)),
        None if choice == Choice::Auto => Ok(Box::new(Rten::new())),
        None => Err(Error::unsupported(
            "found no ONNX Runtime: expected its library at --ort-lib, at ORT_DYLIB_PATH, or the \
             package `onnxruntime` of the Python on the PATH (pip install onnxruntime)",
        )),
    }
}

/// The libraries of ONNX Runtime, the one that [`find`] takes first.
///
/// # Errors
/// `library`, or what the variable `ORT_DYLIB_PATH` names, is no library and no folder with one.
pub fn libraries(library: Option<&Path>) -> Result<Vec<Library>> {
    let mut found = Vec::new();
    let named = library.map(|path| (path.to_path_buf(), "--ort-lib"));
    let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let variable = variable.map(|path| (PathBuf::from(path), "ORT_DYLIB_PATH"));
    for (path, found_by) in named.into_iter().chain(variable) {
        let path = library_at(&path).ok_or_else(|| {
            Error::input(format!(
                "{found_by} `{}`: expected a library of ONNX Runtime, or a folder with one",
                path.display()
            ))
        })?;
        found.push(Library { path, found_by });
    }
    if let Some(path) = python_package().and_then(|p| library_at(&p.join("capi"))) {
        found.push(Library {
            path,
            found_by: "Python package",
        });
    }
    Ok(found)
}

/// `path` itself when it is a file, else the library in that folder. Wheels name theirs
/// `libonnxruntime.so.1.23.0`, without a plain `libonnxruntime.so` beside it.
fn library_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_path_buf());
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libonnxruntime.so")
                || name == "onnxruntime.dll"
                || name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
        })
        .collect();
    names.sort();
    names.into_iter().next()
}

/// The folder of the package `onnxruntime` of the Python on the PATH.
fn python_package() -> Option<PathBuf> {
    const FIND: &str = "import importlib.util as u\n\
        s = u.find_spec('onnxruntime')\n\
        print(s.submodule_search_locations[0] if s else '')";
    for python in ["python3", "python"] {
        let output = Command::new(python)
            .args(["-c", FIND])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(output) = output else { continue };
        let text = String::from_utf8(output.stdout).ok()?;
        let path = text.trim_end_matches(['\r', '\n']);
        if !path.is_empty() {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The version that the library at `path` says it has.
///
/// # Errors
/// It cannot be loaded, or is no ONNX Runtime.
pub(super) fn version_of(path: &Path) -> Result<String> {
    let unusable = |e: libloading::Error| {
        Error::input(format!(
            "`{}` is no library of ONNX Runtime",
            path.display()
        ))
        .with_source(e)
    };
    // SAFETY: a library runs code of its own when it is loaded; the caller named this one as
    // ONNX Runtime, whose initializers have no requirements.
    let library = unsafe { libloading::Library::new(path) }.map_err(unusable)?;
    // SAFETY: the C API declares `OrtGetApiBase` with this signature since its first version.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase") }
        .map_err(unusable)?;
    // SAFETY: it takes nothing and returns a pointer to a static.
    let base = unsafe { base() };
    // SAFETY: as above; a null pointer gives `None`.
    let Some(base) = (unsafe { base.as_ref() }) else {
        return Err(Error::input(format!("`{}` has no API", path.display())));
    };
    // SAFETY: the function takes nothing and returns a static string with a final zero.
    let version = unsafe { CStr::from_ptr((base.get_version_string)()) };
    let version = version.to_string_lossy().into_owned();
    // Its threads and static objects do not expect to be unloaded.
    std::mem::forget(library);
    Ok(version)
}

/// The head of the C API, which every version has.
#[repr(C)]
struct ApiBase {
    get_api: extern "C" fn(u32) -> *const (),
    get_version_string: unsafe extern "C" fn() -> *const c_char,
}
