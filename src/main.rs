//! The command line of onnxq.

fn main() {}
