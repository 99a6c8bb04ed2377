//! Prints a model as text, or makes a model from text.
//!
//! ```text
//! cargo run --release -p onnxq-test-tools --bin onnx_text -- print model.onnx [--onnx] [--elide-above N]
//! cargo run --release -p onnxq-test-tools --bin onnx_text -- parse model.onnxtxt model.onnx
//! ```
//!
//! With `--onnx` the text is what `onnx.parser` reads, as far as the model allows.

use std::{error::Error, io::Write, path::Path, process::ExitCode};

use onnxq::{onnx, text};

const USAGE: &str = "usage: onnx_text print MODEL [--onnx] [--elide-above N] | parse TEXT MODEL";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["print", model, flags @ ..] => {
            let mut options = text::PrintOptions::default();
            let mut flags = flags.iter();
            while let Some(flag) = flags.next() {
                match *flag {
                    "--onnx" => options.extensions = false,
                    "--elide-above" => {
                        options.elide_above = Some(flags.next().ok_or(USAGE)?.parse()?);
                    }
                    _ => return Err(USAGE.into()),
                }
            }
            let opened = onnx::open(Path::new(model), Default::default()).map_err(|e| e.chain())?;
            let text = text::print(&opened.model, &options);
            std::io::stdout().write_all(text.as_bytes())?;
        }
        ["parse", text, model] => {
            let source = std::fs::read_to_string(text)?;
            let parsed = text::parse(&source).map_err(|e| format!("{text}:{}", e.chain()))?;
            onnx::save(&parsed, Path::new(model), &Default::default()).map_err(|e| e.chain())?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
