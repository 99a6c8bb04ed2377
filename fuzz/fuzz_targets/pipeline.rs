//! A pipeline that parses prints back to itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq::{pass::Pipeline, passes::REGISTRY};

fuzz_target!(|text: &str| {
    if let Ok(pipeline) = Pipeline::parse(text, REGISTRY) {
        let printed = pipeline.to_string();
        let again = Pipeline::parse(&printed, REGISTRY).expect("what is printed parses");
        assert_eq!(again.to_string(), printed);
    }
});
