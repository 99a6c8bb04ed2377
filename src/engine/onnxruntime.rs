//! ONNX Runtime, through its C API.

use std::{
    ffi::{CStr, c_char},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use half::{bf16, f16};
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{
        OutputSelector, RunOptions, Session as OrtSession, SessionInputValue, SessionInputs,
        builder::GraphOptimizationLevel,
    },
    value::{DynValue, TensorElementType, TensorRef},
};

use super::{Array, Element, Engine, LoadOptions, Program, Session, with_elements};
use crate::{
    error::{Error, Result},
    onnx,
};

/// Name of the engine.
pub(super) const NAME: &str = "onnxruntime";

/// The version of the C API that is used: that of ONNX Runtime 1.17, the oldest with all of it.
const API: u32 = 17;

/// ONNX Runtime, from a shared library.
pub struct OnnxRuntime {
    library: PathBuf,
    version: String,
    environment: &'static Environment,
}

/// The library of this process: the C API is found through one static, so there can be but one.
static LOADED: OnceLock<(PathBuf, Environment)> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

impl OnnxRuntime {
    /// Loads the library at `path`, such as `libonnxruntime.so.1.23.0`.
    ///
    /// # Errors
    /// It cannot be loaded, is no ONNX Runtime, is older than 1.17, or another one is in use in
    /// this process.
    pub fn load(path: &Path) -> Result<OnnxRuntime> {
        let path =
            std::path::absolute(path).map_err(|e| Error::io(format!("`{}`", path.display()), e))?;
        let version = probe(&path)?;
        let _guard = LOADING.lock().unwrap_or_else(|e| e.into_inner());
        if LOADED.get().is_none() {
            let environment = ort::init_from(&path)
                .map_err(|e| unusable(&path, e))?
                .with_name("onnxq")
                .with_telemetry(false)
                // What it has to say comes back as errors; standard error is ours.
                .with_logger(Arc::new(|_, _, _, _, _| {}))
                .build()
                .map_err(|e| unusable(&path, e))?;
            environment.set_log_level(LogLevel::Fatal);
            let _ = LOADED.set((path.clone(), environment));
        }
        let (loaded, environment) = LOADED.get().expect("set above");
        if *loaded != path {
            return Err(Error::unsupported(format!(
                "`{}`: this process already runs `{}`, and can run but one ONNX Runtime",
                path.display(),
                loaded.display()
            )));
        }
        Ok(OnnxRuntime {
            library: path,
            version,
            environment,
        })
    }
}

fn unusable(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unsupported(format!(
        "`{}` cannot be used as ONNX Runtime",
        path.display()
    ))
    .with_source(source)
}

/// The version that the library at `path` says it has. After this, `ort` finds in it all that
/// it would stop the program for.
///
/// # Errors
/// It cannot be loaded, is no ONNX Runtime, or is older than 1.17.
pub(super) fn probe(path: &Path) -> Result<String> {
    let at = |text: &str| format!("`{}` {text}", path.display());
    if path.is_dir() {
        return Err(Error::input(at(
            "holds no library of ONNX Runtime that can be loaded; Python's packages have one from \
             1.19 on",
        )));
    }
    let none =
        |e: libloading::Error| Error::input(at("is no library of ONNX Runtime")).with_source(e);
    // SAFETY: a library runs code of its own when it is loaded; the user, or the package that
    // it is in, named this one as ONNX Runtime, whose initializers have no requirements.
    let library = unsafe { libloading::Library::new(path) }.map_err(none)?;
    // SAFETY: the C API declares `OrtGetApiBase` with this signature since its first version.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase") }
        .map_err(none)?;
    // SAFETY: it takes nothing and returns a pointer to a static.
    let base = unsafe { base() };
    // SAFETY: as above; a null pointer gives `None`.
    let Some(base) = (unsafe { base.as_ref() }) else {
        return Err(Error::input(at("is ONNX Runtime without an API")));
    };
    // SAFETY: the function takes nothing and returns a static string with a final zero.
    let version = unsafe { CStr::from_ptr((base.get_version_string)()) };
    let version = version.to_string_lossy().into_owned();
    // Its threads and static objects do not expect to be unloaded.
    std::mem::forget(library);
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let known = parts.next().flatten().zip(parts.next().flatten());
    if known.is_none_or(|(major, minor)| major != 1 || minor < API) {
        return Err(Error::unsupported(at(&format!(
            "is ONNX Runtime {version}, expected 1.{API} or newer"
        ))));
    }
    // It prints to standard error when it lacks the version, so its own word comes first.
    if (base.get_api)(API).is_null() {
        return Err(Error::unsupported(at(&format!(
            "is ONNX Runtime {version}, but lacks version {API} of the API"
        ))));
    }
    Ok(version)
}

/// The head of the C API, which every version has.
#[repr(C)]
struct ApiBase {
    get_api: extern "C" fn(u32) -> *const (),
    get_version_string: unsafe extern "C" fn() -> *const c_char,
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.library)
    }

    fn load(&self, program: Program<'_>, options: LoadOptions) -> Result<Box<dyn Session>> {
        let load = || -> Result<OrtSession, ort::Error> {
            let level = match options.optimize {
                true => GraphOptimizationLevel::All,
                false => GraphOptimizationLevel::Disable,
            };
            let mut builder = OrtSession::builder(self.environment)?
                .with_log_level(LogLevel::Fatal)?
                .with_optimization_level(level)?
                .with_intra_threads(options.threads)?
                // Between runs threads must not burn the time of another model's runs.
                .with_config_entry("session.force_spinning_stop", "1")?;
            match program.file {
                Some(file) => builder.commit_from_file(file),
                None => {
                    let bytes =
                        onnx::to_vec(program.model).map_err(|e| ort::Error::new(e.chain()))?;
                    builder.commit_from_memory(&bytes)
                }
            }
        };
        let session = load().map_err(|e| {
            Error::unsupported(format!("onnxruntime {} refuses the model", self.version))
                .with_source(OneLine::of(&e))
        })?;
        Ok(Box::new(OrtRun { session }))
    }
}

/// An error of the library without what it prints before the reason.
#[derive(Debug)]
struct OneLine(String);

impl OneLine {
    fn of(error: &dyn std::fmt::Display) -> OneLine {
        OneLine(error.to_string().replace('\n', " "))
    }
}

impl std::fmt::Display for OneLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OneLine {}

struct OrtRun {
    session: OrtSession,
}

impl Session for OrtRun {
    fn run(&mut self, inputs: &[(&str, &Array)], outputs: &[&str]) -> Result<Vec<Array>> {
        let refused = |e: ort::Error| {
            Error::unsupported("onnxruntime cannot run the model").with_source(OneLine::of(&e))
        };
        let mut values = Vec::new();
        for (name, array) in inputs {
            let value = to_value(array).map_err(|e| refused(e).at(format!("input `{name}`")))?;
            values.push((*name, value));
        }
        let wanted = outputs
            .iter()
            .fold(OutputSelector::no_default(), |s, name| s.with(*name));
        let options = RunOptions::new().map_err(refused)?.with_outputs(wanted);
        let results = self
            .session
            .run_with_options(SessionInputs::<0>::from(values), &options)
            .map_err(refused)?;
        let result = |name: &&str| {
            let value = results
                .get(*name)
                .ok_or_else(|| Error::input(format!("onnxruntime gave no output `{name}`")))?;
            from_value(value).map_err(|e| e.at(format!("output `{name}`")))
        };
        outputs.iter().map(result).collect()
    }
}

fn to_value(array: &Array) -> Result<SessionInputValue<'_>, ort::Error> {
    let dims = array.dims();
    with_elements!(array.elements(), v => {
        TensorRef::from_array_view((dims, v.as_slice())).map(SessionInputValue::from)
    })
}

fn from_value(value: &DynValue) -> Result<Array> {
    fn copy<T: Element + ort::value::PrimitiveTensorElementType>(
        value: &DynValue,
    ) -> Result<Array> {
        let (shape, elements) = value
            .try_extract_tensor::<T>()
            .map_err(|e| Error::unsupported("cannot be read").with_source(OneLine::of(&e)))?;
        let dims = shape.iter().map(|&d| d as usize).collect();
        Ok(Array::new(dims, elements.to_vec()))
    }
    use TensorElementType as T;
    match value.dtype().tensor_type() {
        Some(T::Float32) => copy::<f32>(value),
        Some(T::Float64) => copy::<f64>(value),
        Some(T::Float16) => copy::<f16>(value),
        Some(T::Bfloat16) => copy::<bf16>(value),
        Some(T::Int64) => copy::<i64>(value),
        Some(T::Int32) => copy::<i32>(value),
        Some(T::Int16) => copy::<i16>(value),
        Some(T::Int8) => copy::<i8>(value),
        Some(T::Uint64) => copy::<u64>(value),
        Some(T::Uint32) => copy::<u32>(value),
        Some(T::Uint16) => copy::<u16>(value),
        Some(T::Uint8) => copy::<u8>(value),
        Some(T::Bool) => copy::<bool>(value),
        _ => Err(Error::unsupported(format!(
            "it is a {}, expected a tensor of numbers",
            value.dtype()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    #[test]
    fn what_is_no_library_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libonnxruntime.so");
        std::fs::write(&file, "no library").unwrap();
        for path in [
            file.as_path(),
            folder.path(),
            &folder.path().join("missing"),
        ] {
            let error = OnnxRuntime::load(path).err().unwrap().chain();
            assert!(error.contains("library of ONNX Runtime"), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    /// Every type that arrays have goes in and comes out: a scalar, an empty one, a full one.
    #[test]
    fn every_type_passes_through() {
        // Found as users' libraries are; machines without one are covered by the tests in Python.
        let Ok(engine) = super::super::find(super::super::Choice::OnnxRuntime, None) else {
            return;
        };
        let types = [
            "float", "double", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64",
            "uint32", "uint16", "uint8", "bool",
        ];
        for name in types {
            let model = parse(&format!(
                "<ir_version: 8, opset_import: [\"\": 17]>
                 g ({name} s, {name}[n,2] x) => ({name} a, {name}[n,2] b) {{
                    a = Identity (s)
                    b = Identity (x)
                 }}"
            ))
            .unwrap();
            let dtype = crate::ir::DataType::ALL
                .into_iter()
                .find(|t| t.name() == name)
                .unwrap();
            let options = LoadOptions::default();
            let program = Program {
                model: &model,
                file: None,
            };
            let mut session = engine.load(program, options).unwrap();
            let array = |dims: &[usize]| {
                let bytes = (dtype.bits() / 8) as usize * dims.iter().product::<usize>();
                let bytes: Vec<u8> = (0..bytes).map(|i| (i % 2) as u8).collect();
                Array::from_le_bytes(dtype, dims.to_vec(), &bytes).unwrap()
            };
            for n in [0, 3] {
                let (s, x) = (array(&[]), array(&[n, 2]));
                let outputs = session.run(&[("x", &x), ("s", &s)], &["b", "a"]).unwrap();
                assert_eq!(outputs, [x, s], "{name}");
            }
            let wrong = array(&[2, 2, 2]);
            let error = session.run(&[("x", &wrong), ("s", &array(&[]))], &["b"]);
            assert!(error.is_err(), "{name}");
            assert!(
                session.run(&[("s", &array(&[]))], &["b"]).is_err(),
                "{name}"
            );
            assert!(
                session
                    .run(&[("x", &array(&[1, 2])), ("s", &array(&[]))], &["q"])
                    .is_err()
            );
        }
    }
}
