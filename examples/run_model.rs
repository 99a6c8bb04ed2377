//! Runs a model once: inputs from a safetensors file, outputs to another.
//!
//! ```text
//! cargo run --example run_model -- model.onnx inputs.safetensors outputs.safetensors \
//!     [--engine onnxruntime|rten] [--ort-lib PATH] [--no-optimize]
//! ```

use std::{
    error::Error,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use onnxq::{
    engine::{self, Array, Choice, LoadOptions, Program},
    ir::{DataType, Model},
    onnx,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

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

    let inputs = read(inputs)?;
    let inputs: Vec<(&str, &Array)> = inputs.iter().map(|(n, a)| (n.as_str(), a)).collect();
    let names = output_names(&opened.model);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let results = session.run(&inputs, &names).map_err(chain)?;
    write(outputs, &names, &results)
}

fn output_names(model: &Model) -> Vec<String> {
    let outputs = model.graphs[model.main].outputs.iter();
    outputs
        .map(|o| model.values[o.value].name.to_string())
        .collect()
}

fn read(path: &Path) -> Result<Vec<(String, Array)>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let mut arrays = Vec::new();
    for (name, tensor) in tensors.iter() {
        let dtype = TYPES.iter().find(|(_, t)| *t == tensor.dtype());
        let (dtype, _) = dtype.ok_or_else(|| format!("`{name}` is {:?}", tensor.dtype()))?;
        let array = Array::from_le_bytes(*dtype, tensor.shape().to_vec(), tensor.data());
        arrays.push((name.to_owned(), array.map_err(|e| e.chain())?));
    }
    Ok(arrays)
}

fn write(path: &Path, names: &[&str], arrays: &[Array]) -> Result<(), Box<dyn Error>> {
    let bytes: Vec<Vec<u8>> = arrays.iter().map(Array::to_le_bytes).collect();
    let mut tensors = Vec::new();
    for ((name, array), bytes) in names.iter().zip(arrays).zip(&bytes) {
        let dtype = TYPES.iter().find(|(t, _)| *t == array.dtype());
        let (_, dtype) = dtype.ok_or_else(|| format!("`{name}` is {}", array.dtype()))?;
        let view = TensorView::new(*dtype, array.dims().to_vec(), bytes)?;
        tensors.push((name.to_string(), view));
    }
    safetensors::serialize_to_file(tensors, None, path)?;
    Ok(())
}

/// Element types in models and in safetensors files.
const TYPES: [(DataType, Dtype); 13] = [
    (DataType::Float, Dtype::F32),
    (DataType::Double, Dtype::F64),
    (DataType::Float16, Dtype::F16),
    (DataType::Bfloat16, Dtype::BF16),
    (DataType::Int64, Dtype::I64),
    (DataType::Int32, Dtype::I32),
    (DataType::Int16, Dtype::I16),
    (DataType::Int8, Dtype::I8),
    (DataType::Uint64, Dtype::U64),
    (DataType::Uint32, Dtype::U32),
    (DataType::Uint16, Dtype::U16),
    (DataType::Uint8, Dtype::U8),
    (DataType::Bool, Dtype::BOOL),
];
