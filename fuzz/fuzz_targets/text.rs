//! Text that parses prints to text that parses to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxq::text;

fuzz_target!(|source: &str| {
    if let Ok(model) = text::parse(source) {
        let printed = text::print(&model, &Default::default());
        let again = text::parse(&printed).expect("what is printed parses");
        assert_eq!(text::print(&again, &Default::default()), printed);
    }
});
