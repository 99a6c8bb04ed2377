//! Carries the quantized model that `build.rs` made.

/// The model, to be given to a runtime as it is.
static MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model_q4.onnx"));

fn main() {
    println!("the program carries a quantized model of {} bytes", MODEL.len());
}
