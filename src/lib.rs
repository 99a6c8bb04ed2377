//! onnxq: a compiler for ONNX files.

pub mod diff;
pub mod error;
pub mod inspect;
pub mod ir;
pub mod onnx;
pub mod quant;
pub mod verify;
