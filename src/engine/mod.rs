//! Runs models: on ONNX Runtime when it is found, and on an engine that is always there.
//!
//! | engine | what it is |
//! |---|---|
//! | [`OnnxRuntime`] | the shared library of the same name, loaded when asked for; the reference |
//! | [`Rten`] | pure Rust, part of onnxq; float16 is computed as float32 |
//!
//! Both load a [`Program`] and give a [`Session`]. What a model's inputs and outputs are is
//! read from the model itself ([`crate::inspect`]), not asked of the engine.

mod array;
mod discover;
mod feed;
mod files;
mod lower;
mod onnxruntime;
mod random;
mod rten;
mod signature;

use std::path::Path;

pub(crate) use array::with_elements;
pub use array::{Array, Element, Elements};
pub use discover::{Candidate, Choice, FoundBy, Library, candidates, find, find_with, libraries};
pub(crate) use feed::name_of;
pub use feed::{SEQUENCE, free_axes, inputs_of, random_inputs};
pub use files::{read_tensors, write_tensors};
pub use onnxruntime::OnnxRuntime;
pub use random::Random;
pub use rten::Rten;
pub use signature::{Input, InputRole, Output, OutputRole, Signature};

use crate::{error::Result, ir::Model};

/// What to run.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The model.
    pub model: &'a Model,
    /// The file that holds exactly this model. An engine then reads it itself, as a user's
    /// program would; without one the model is encoded in memory.
    pub file: Option<&'a Path>,
}

/// How to run it.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Let the engine rewrite the graph for speed, as it does by default.
    pub optimize: bool,
    /// How many threads compute one operator.
    pub threads: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            optimize: true,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Something that runs models.
pub trait Engine: Send + Sync {
    /// Its name, as on the command line.
    fn name(&self) -> &'static str;

    /// Its version.
    fn version(&self) -> &str;

    /// The library that it is, when it is not part of onnxq.
    fn path(&self) -> Option<&Path>;

    /// Makes a program ready to run.
    ///
    /// # Errors
    /// The engine refuses the model, or lacks an operator that it uses: which, and at which node.
    fn load(&self, program: Program<'_>, options: LoadOptions) -> Result<Box<dyn Session>>;
}

/// A program that is ready to run.
pub trait Session: Send {
    /// Computes `outputs` from `inputs`, both by name. Every input without a default must be
    /// given. `outputs` may be any outputs of the graph, in any order.
    ///
    /// An engine without float16 gives float32 instead; every other type is the declared one.
    ///
    /// # Errors
    /// An input is missing, unknown, or of a wrong type or shape; an operator fails.
    fn run(&mut self, inputs: &[(&str, &Array)], outputs: &[&str]) -> Result<Vec<Array>>;
}
