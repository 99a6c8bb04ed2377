//! Any bytes are a model or an error; a model that verifies can be quantized and printed.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use onnxq::{onnx, pass, passes, text, verify};

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    // A folder that does not exist: side files cannot be reached.
    let folder = std::path::Path::new("/nonexistent");
    let Ok(mut model) = onnx::from_bytes(&bytes, folder, Default::default()) else {
        return;
    };
    if verify::verify(&model).is_err() {
        return;
    }
    text::print(&model, &Default::default());
    let pipeline = pass::Pipeline::parse("clean,nbits", passes::REGISTRY).unwrap();
    let mut manager = pass::PassManager::default();
    manager.instruments.verify_each = true;
    manager.run(&pipeline, &mut model).expect("a valid model stays valid");
});
