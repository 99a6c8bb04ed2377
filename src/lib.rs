//! onnxq is a compiler for ONNX files: it reads a model, runs a pipeline of passes over it,
//! and writes a model that the target runtime loads. Its main job is quantization.
//!
//! ```text
//! model.onnx (+ side files)
//!    |  onnx::open      map the file, decode it; weights stay where they are
//!    v
//!  ir::Model            graphs, nodes and values by typed id; weights as ir::Data
//!    |  pass::PassManager   the passes of a pipeline, in order
//!    v
//!  ir::Model            rewritten; new weights are recipes, nothing is computed yet
//!    |  onnx::save      lay the file out, then compute and write every weight in parallel
//!    v
//! model_q4.onnx (+ side file)
//! ```
//!
//! # Example
//!
//! ```
//! use std::path::Path;
//!
//! # fn main() -> onnxq::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let output = folder.path().join("model_q4.onnx");
//! # let output = output.as_path();
//! let input = Path::new("testdata/tinylm/model.onnx");
//! let saved = onnxq::compile(input, "clean,nbits{bits=4,block=32}", output)?;
//! assert!(saved.bytes() < std::fs::metadata(input).unwrap().len() / 3);
//! # Ok(())
//! # }
//! ```
//!
//! [`compile`] is the short way; [`open`], [`Pipeline::parse`](pass::Pipeline::parse),
//! [`PassManager::run`](pass::PassManager::run) and [`onnx::save`] are its parts.

#[cfg(feature = "eval")]
pub mod bench;
#[cfg(feature = "eval")]
pub mod calibrate;
pub mod diff;
pub mod digest;
#[cfg(feature = "eval")]
pub mod engine;
pub mod error;
#[cfg(feature = "eval")]
pub mod eval;
pub mod fold;
pub mod infer;
pub mod inline;
pub mod inspect;
pub mod ir;
pub mod maxima;
#[cfg(feature = "eval")]
pub mod mix;
pub mod onnx;
pub mod opset;
pub mod output_file;
pub mod package;
pub mod pass;
pub mod quant;
#[cfg(feature = "eval")]
pub mod report;
pub mod schema;
pub mod target;
pub mod text;
#[cfg(feature = "eval")]
pub mod tune;
pub mod verify;
pub mod weights;

// The passes stand beside `src` because they are what users read first; a crate of their
// own would depend on this one and this one on it.
#[path = "../passes/mod.rs"]
pub mod passes;

use std::path::Path;

pub use error::{Error, ErrorKind, Result};

/// Opens the model at `path` and verifies it.
///
/// # Errors
/// As [`onnx::open`], or the model is invalid: see [`verify`].
pub fn open(path: &Path) -> Result<ir::Model> {
    let model = onnx::open(path, onnx::OpenOptions::default())?.model;
    verify::verify(&model).map_err(|e| Error::from(e).at(format!("`{}`", path.display())))?;
    Ok(model)
}

/// Runs `pipeline` over the model at `input` and writes the result, which records what made it, to `output`.
///
/// # Errors
/// As [`open`], [`pass::Pipeline::parse`], [`pass::PassManager::run`] and [`onnx::save`].
/// `output` is then as it was before.
pub fn compile(input: &Path, pipeline: &str, output: &Path) -> Result<onnx::Saved> {
    let pipeline = pass::Pipeline::parse(pipeline, passes::REGISTRY)?;
    let mut model = open(input)?;
    let report = pass::PassManager::default().run(&pipeline, &mut model)?;
    if report.passes.iter().any(|p| p.changed != pass::Changed::No) {
        let text = pipeline.to_string();
        package::Provenance::record(&mut model, &text, package::Origin::Unrecorded);
    }
    onnx::save(&model, output, &onnx::SaveOptions::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compile_records_what_made_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.onnx");
        let input = Path::new("testdata/tinylm/model.onnx");
        compile(input, "strip-attrs,nbits{block=32}", &output).unwrap();
        let made = package::Provenance::of(&open(&output).unwrap()).unwrap();
        assert_eq!(made.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(made.pipeline, "strip-attrs,nbits{block=32}");
        assert_eq!(made.source_sha256, None);
        // What no pass changes is written back as it was.
        compile(input, "strip-attrs", &output).unwrap();
        assert_eq!(
            std::fs::read(input).unwrap(),
            std::fs::read(&output).unwrap()
        );
    }
}
