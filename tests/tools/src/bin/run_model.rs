//! Runs a model once: inputs from a file of tensors (.safetensors or .npz), outputs to another.
//!
//! ```text
//! cargo run --release -p onnxq-test-tools --bin run_model -- model.onnx inputs.safetensors outputs.safetensors \
//!     [--engine onnxruntime|rten] [--ort-lib PATH] [--no-optimize]
//! ```

use std::{error::Error, io::Write, path::PathBuf, process::ExitCode};

use onnxq::{
    engine::{self, Array, Choice, LoadOptions, Program, read_tensors, write_tensors},
    ir::Model,
    onnx,
};

const USAGE: &str = "usage: run_model MODEL INPUTS.safetensors OUTPUTS.safetensors \
                     [--engine onnxruntime|rten] [--ort-lib PATH] [--no-optimize]";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::from(2)
        }
    }
}

struct Args {
    files: Vec<PathBuf>,
    engine: Choice,
    library: Option<PathBuf>,
    optimize: bool,
}

impl Args {
    fn parse(args: Vec<String>) -> Result<Args, Box<dyn Error>> {
        let mut parsed = Args {
            files: Vec::new(),
            engine: Choice::Auto,
            library: None,
            optimize: true,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--engine" => {
                    parsed.engine = match args.next().as_deref() {
                        Some("onnxruntime") => Choice::OnnxRuntime,
                        Some("rten") => Choice::Rten,
                        _ => return Err(USAGE.into()),
                    }
                }
                "--ort-lib" => parsed.library = Some(args.next().ok_or(USAGE)?.into()),
                "--no-optimize" => parsed.optimize = false,
                flag if flag.starts_with("--") => return Err(USAGE.into()),
                file => parsed.files.push(file.into()),
            }
        }
        Ok(parsed)
    }
}

fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let args = Args::parse(args)?;
    let [file, inputs, outputs] = args.files.as_slice() else {
        return Err(USAGE.into());
    };
    let chain = |e: onnxq::Error| e.chain();
    let opened = onnx::open(file, Default::default()).map_err(chain)?;
    let engine = engine::find(args.engine, args.library.as_deref()).map_err(chain)?;
    let program = Program {
        model: &opened.model,
        file: Some(file),
    };
    let options = LoadOptions {
        optimize: args.optimize,
        ..LoadOptions::default()
    };
    let mut session = engine.load(program, options).map_err(chain)?;

    let inputs = read_tensors(inputs).map_err(chain)?;
    let inputs: Vec<(&str, &Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a)).collect();
    let names = output_names(&opened.model);
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let results = session.run(&inputs, &wanted).map_err(chain)?;
    let results: Vec<(String, Array)> = names.into_iter().zip(results).collect();
    Ok(write_tensors(outputs, &results).map_err(chain)?)
}

fn output_names(model: &Model) -> Vec<String> {
    let outputs = model.graphs[model.main].outputs.iter();
    outputs
        .map(|o| model.values[o.value].name.to_string())
        .collect()
}
