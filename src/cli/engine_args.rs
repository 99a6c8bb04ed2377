//! The options of every command that runs models.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use onnxq::{
    Result,
    engine::{Choice, Engine, LoadOptions, find_with},
};

use super::Cx;

/// Which engine runs the models.
#[derive(Args, Clone)]
pub(crate) struct EngineArgs {
    /// What runs the model: ONNX Runtime when it is found, else rten (auto), or one of them
    /// [example: --engine rten]
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) engine: EngineName,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
}

/// Where ONNX Runtime is.
#[derive(Args, Clone)]
pub(crate) struct LibraryArgs {
    /// The library of ONNX Runtime, or a folder with it; without it ORT_DYLIB_PATH, the package
    /// `onnxruntime` of Python and node_modules/onnxruntime-node are tried
    /// [example: --ort-lib /usr/lib/libonnxruntime.so]
    #[arg(long, value_name = "PATH")]
    pub(crate) ort_lib: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    Auto,
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    Rten,
}

impl EngineName {
    /// The one that `engine` is.
    pub(crate) fn of(engine: &dyn Engine) -> EngineName {
        match engine.name() {
            "onnxruntime" => EngineName::OnnxRuntime,
            "rten" => EngineName::Rten,
            _ => EngineName::Auto,
        }
    }

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineName::Auto => "auto",
            EngineName::OnnxRuntime => "onnxruntime",
            EngineName::Rten => "rten",
        }
    }
}

impl From<EngineName> for Choice {
    fn from(name: EngineName) -> Choice {
        match name {
            EngineName::Auto => Choice::Auto,
            EngineName::OnnxRuntime => Choice::OnnxRuntime,
            EngineName::Rten => Choice::Rten,
        }
    }
}

impl EngineArgs {
    /// The engine. Says on standard error which ones were passed over, and why.
    pub(crate) fn engine(&self, cx: &Cx) -> Result<Box<dyn Engine>> {
        find_with(
            self.engine.into(),
            self.library.ort_lib.as_deref(),
            &mut |line| cx.note(&format!("onnxq: warning: {line}\n")),
        )
    }

    /// How it loads models: on as many threads as `--threads` says.
    pub(crate) fn load_options(&self, cx: &Cx) -> LoadOptions {
        LoadOptions {
            optimize: true,
            threads: cx.threads(),
        }
    }
}
