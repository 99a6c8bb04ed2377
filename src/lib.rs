//! onnxq: a compiler for ONNX files.

pub mod quant;
pub mod schema;
