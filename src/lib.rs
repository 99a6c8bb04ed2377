//! onnxq: a compiler for ONNX files.

pub mod digest;
pub mod error;
pub mod ir;
pub mod onnx;
pub mod pass;
pub mod quant;
pub mod schema;
pub mod text;
pub mod verify;
pub mod weights;

// The passes stand beside `src` because they are what users read first; a crate of their
// own would depend on this one and this one on it.
#[path = "../passes/mod.rs"]
pub mod passes;

pub use error::{Error, ErrorKind, Result};
