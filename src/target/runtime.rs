//! Runtimes, their versions, and what people call them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{Error, Result};

/// A program that runs models, on one kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Runtime {
    /// ONNX Runtime on the CPU.
    OnnxRuntime,
    /// ONNX Runtime compiled to WebAssembly: the kernels are those of the CPU.
    OnnxRuntimeWeb,
    /// The build of it that can wait for WebGPU (`ort-wasm-simd-threaded.asyncify.wasm`), on the CPU: pages that
    /// import transformers.js load it. It lacks some of the kernels.
    OnnxRuntimeWebAsyncify,
    /// ONNX Runtime on WebGPU, in the browser or native.
    OnnxRuntimeWebGpu,
    /// ONNX Runtime on CUDA.
    OnnxRuntimeCuda,
    /// ONNX Runtime on DirectML.
    OnnxRuntimeDirectMl,
    /// rten.
    Rten,
    /// tract.
    Tract,
}

/// What is known of one runtime before any row of the table.
struct Entry {
    runtime: Runtime,
    /// The names it goes by; the first is the one that is printed.
    names: &'static [&'static str],
    major: u16,
    /// The oldest and the newest minor version that the table speaks of.
    minors: (u16, u16),
}

const RUNTIMES: &[Entry] = &[
    Entry {
        runtime: Runtime::OnnxRuntime,
        names: &["onnxruntime", "ort", "cpu"],
        major: 1,
        minors: (17, 31),
    },
    Entry {
        runtime: Runtime::OnnxRuntimeWeb,
        names: &["onnxruntime-web", "wasm"],
        major: 1,
        minors: (17, 31),
    },
    Entry {
        runtime: Runtime::OnnxRuntimeWebAsyncify,
        names: &["onnxruntime-web-asyncify", "asyncify"],
        major: 1,
        minors: (26, 31),
    },
    Entry {
        runtime: Runtime::OnnxRuntimeWebGpu,
        names: &["onnxruntime-webgpu", "webgpu"],
        major: 1,
        minors: (23, 31),
    },
    Entry {
        runtime: Runtime::OnnxRuntimeCuda,
        names: &["onnxruntime-cuda", "cuda"],
        major: 1,
        minors: (17, 31),
    },
    Entry {
        runtime: Runtime::OnnxRuntimeDirectMl,
        names: &["onnxruntime-directml", "directml", "dml"],
        major: 1,
        minors: (17, 31),
    },
    Entry {
        runtime: Runtime::Rten,
        names: &["rten"],
        major: 0,
        minors: (25, 27),
    },
    Entry {
        runtime: Runtime::Tract,
        names: &["tract"],
        major: 0,
        minors: (23, 23),
    },
];

/// Programs that ship a runtime: name, major version, and what it ships. The newest is last.
const SHIPS: &[(&str, u16, Runtime, Version)] = &[
    // transformers.js 4.2 depends on a 1.26 development build of onnxruntime-web, 4.3 on one of 1.31.
    (
        "transformers.js",
        4,
        Runtime::OnnxRuntimeWebAsyncify,
        Version {
            major: 1,
            minor: 26,
        },
    ),
];

impl Runtime {
    /// Every runtime of the table, in the order in which they are listed.
    pub fn all() -> impl Iterator<Item = Runtime> {
        RUNTIMES.iter().map(|e| e.runtime)
    }

    fn entry(self) -> &'static Entry {
        let entry = RUNTIMES.iter().find(|e| e.runtime == self);
        entry.expect("RUNTIMES has every runtime")
    }

    /// Its name, as in `--target`.
    pub fn name(self) -> &'static str {
        self.entry().names[0]
    }

    /// Other names that it goes by.
    pub fn aliases(self) -> &'static [&'static str] {
        &self.entry().names[1..]
    }

    /// The versions that the table speaks of, oldest first.
    pub fn versions(self) -> impl DoubleEndedIterator<Item = Version> {
        let Entry {
            major,
            minors: (oldest, newest),
            ..
        } = *self.entry();
        (oldest..=newest).map(move |minor| Version { major, minor })
    }

    /// Whether it is ONNX Runtime, on whatever device: it then loads a model in the same
    /// way, and what the device lacks runs on the CPU.
    pub fn is_onnxruntime(self) -> bool {
        !matches!(self, Runtime::Rten | Runtime::Tract)
    }

    /// Whether its kernels are those of ONNX Runtime's CPU.
    pub fn has_cpu_kernels(self) -> bool {
        use Runtime::{OnnxRuntime, OnnxRuntimeWeb, OnnxRuntimeWebAsyncify};
        matches!(self, OnnxRuntime | OnnxRuntimeWeb | OnnxRuntimeWebAsyncify)
    }

    pub(super) fn from_name(name: &str) -> Option<Runtime> {
        let entry = RUNTIMES.iter().find(|e| e.names.contains(&name))?;
        Some(entry.runtime)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A version as far as the table tells versions apart: patch releases run the same models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl Version {
    /// `1.20`, also written `1.20.1`.
    pub(super) fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.split('.').map(str::parse::<u16>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().is_none_or(|p| p.is_ok());
        (patch && numbers.next().is_none()).then_some(Version { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One version of one runtime: what a model is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The runtime.
    pub runtime: Runtime,
    /// Its version.
    pub version: Version,
}

impl Target {
    /// Reads `onnxruntime@1.20`, or `onnxruntime` for the newest version that is known.
    ///
    /// # Errors
    /// The name or the version is not known; the message lists those that are.
    pub fn parse(text: &str) -> Result<Target> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        if SHIPS.iter().any(|s| s.0 == name) {
            return shipped(name, version);
        }
        let Some(runtime) = Runtime::from_name(name) else {
            let known = names();
            return Err(Error::input(format!(
                "unknown target `{name}`; known are {known}"
            )));
        };
        let known = runtime.versions();
        let newest = runtime.versions().next_back();
        let wanted = match version {
            Some(text) => Version::parse(text),
            None => newest,
        };
        match known.into_iter().find(|v| Some(*v) == wanted) {
            Some(version) => Ok(Target { runtime, version }),
            None => {
                let known: Vec<_> = runtime.versions().map(|v| v.to_string()).collect();
                let (found, known) = (version.unwrap_or_default(), known.join(", "));
                Err(Error::input(format!(
                    "unknown version `{found}` of {runtime}; known are {known}"
                )))
            }
        }
    }
}

impl Target {
    /// Programs that ship a runtime, by the name that `--target` takes, and what it is.
    pub fn shipped() -> impl Iterator<Item = (String, Target)> {
        SHIPS.iter().map(|&(name, major, runtime, version)| {
            let target = Target { runtime, version };
            (format!("{name}@{major}"), target)
        })
    }
}

/// What a program that ships a runtime stands for; its minor versions are not told apart.
fn shipped(name: &str, version: Option<&str>) -> Result<Target> {
    let known = || SHIPS.iter().filter(move |s| s.0 == name);
    let major = version.map(|v| v.split('.').next().and_then(|m| m.parse::<u16>().ok()));
    let found = match major {
        None => known().next_back(),
        Some(major) => known().find(|s| Some(s.1) == major),
    };
    found
        .map(|&(.., runtime, version)| Target { runtime, version })
        .ok_or_else(|| {
            let versions: Vec<String> = known().map(|s| s.1.to_string()).collect();
            let found = version.unwrap_or_default();
            let known = versions.join(", ");
            Error::input(format!(
                "unknown version `{found}` of {name}; known are {known}"
            ))
        })
}

/// Every name that a target can begin with, for messages.
fn names() -> String {
    let runtimes = RUNTIMES.iter().map(|e| match e.names {
        [name] => (*name).to_owned(),
        [name, others @ ..] => format!("{name} ({})", others.join(", ")),
        [] => String::new(),
    });
    runtimes
        .chain(Target::shipped().map(|s| s.0))
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.runtime, self.version)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
