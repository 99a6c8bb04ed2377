//! Quantizes the model that the program embeds, when the float model changes.

use std::{env, path::Path};

fn main() -> Result<(), onnxq::Error> {
    let input = Path::new("../../testdata/tinylm/model.onnx");
    println!("cargo:rerun-if-changed={}", input.display());
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let output = Path::new(&folder).join("model_q4.onnx");
    let saved = onnxq::compile(input, "clean,nbits{bits=4,block=32}", &output)?;
    println!("cargo:warning=quantized model: {} bytes", saved.bytes());
    Ok(())
}
