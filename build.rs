//! Compiles `proto/onnx.proto` to Rust with protox and prost-build, so that no `protoc`
//! is needed, and keeps the encoded descriptor set for the scan for unknown fields.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["onnx.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("onnx.bin"), descriptors.encode_to_vec())?;
    // `bytes` fields become slices of the mapped file instead of copies.
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
