//! Measures how large the values of a model get over given inputs, and prints it as the file
//! that `fp16{maxima=FILE}` takes. Token ids are a JSON list; tensors are .npz or .safetensors.
//!
//! ```text
//! onnxq opt model.onnx -o clean.onnx --passes clean
//! cargo run --release -p onnxq-test-tools --bin measure_maxima -- clean.onnx tokens.json > maxima.json
//! onnxq opt clean.onnx -o model_fp16.onnx --passes 'fp16{maxima=maxima.json}'
//! ```

use std::{env, error::Error, io::Write, path::Path};

use onnxq::{
    engine::{self, Choice, LoadOptions, read_tensors},
    eval::{self, Items, Tokens},
};

/// Tokens that are fed at once.
const WINDOW: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let [_, model, inputs @ ..] = &env::args().collect::<Vec<_>>()[..] else {
        return Err("expected MODEL INPUTS...".into());
    };
    let model = onnxq::open(Path::new(model))?;
    let engine = engine::find(Choice::Auto, None)?;
    let load = LoadOptions::default();
    let maxima = match &inputs {
        [tokens] if tokens.ends_with(".json") => {
            let tokens = &Tokens::from_json(Path::new(tokens), None)?;
            let items = Items::Texts {
                tokens,
                window: WINDOW,
                given: &[],
            };
            eval::measure(engine.as_ref(), &model, items, load)?
        }
        files => {
            let sets = files.iter().map(|f| read_tensors(Path::new(f)));
            let sets = sets.collect::<onnxq::Result<Vec<_>>>()?;
            let items = Items::Tensors {
                sets: &sets,
                source: "files",
            };
            eval::measure(engine.as_ref(), &model, items, load)?
        }
    };
    std::io::stdout().write_all(maxima.to_json().as_bytes())?;
    Ok(())
}
