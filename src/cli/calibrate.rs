//! `quantize --calibrate`: how large the values of the model get, before half precision is chosen.

use std::path::{Path, PathBuf};

use clap::Args;
use onnxq::{
    Error, Result,
    engine::read_tensors,
    eval::{self, Items},
    maxima::Maxima,
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
};

use super::{Cx, ReadArgs, context::at_file, engine_args::EngineArgs, text_args::TextArgs};

/// What to measure on.
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Run the model on this text, or on the tensors in an .npz or .safetensors file, and see how
    /// large its values get: what half precision cannot hold stays float (fp16, q4f16, q2f16)
    /// [example: --calibrate text.txt]
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,
}

/// The extensions of files that hold tensors.
const TENSORS: [&str; 2] = ["npz", "safetensors"];

impl CalibrateArgs {
    /// What was measured of the model that `read` names, after `before`: of the values that half
    /// precision cannot hold, the largest magnitude.
    ///
    /// # Errors
    /// The model or the file cannot be read, or the engine cannot run the model.
    pub(crate) fn measure(
        &self,
        read: &ReadArgs,
        before: &Pipeline,
        how: &TextArgs,
        engine: &EngineArgs,
        cx: &Cx,
    ) -> Result<Vec<(String, f64)>> {
        let Some(file) = &self.calibrate else {
            return Ok(Vec::new());
        };
        // Before the tokenizer is looked for: it is the file that is missing.
        let missing = |e| Error::io(format!("--calibrate `{}`", file.display()), e);
        std::fs::metadata(file).map_err(missing)?;
        let (path, opened) = cx.open(read)?;
        let mut model = opened.model;
        // As the pass does, so that values have the names it will find.
        let inline = Pipeline::parse("inline-functions", REGISTRY)?;
        for pipeline in [before, &inline] {
            PassManager::default()
                .run(pipeline, &mut model)
                .map_err(at_file(&path))?;
        }
        let load = engine.load_options(cx);
        let engine = engine.engine(cx)?;
        let at = |e: Error| e.at("--calibrate");
        let maxima = match is_tensors(file) {
            true => {
                let set = read_tensors(file).map_err(at)?;
                let items = Items::Tensors {
                    sets: &[set],
                    source: &file.display().to_string(),
                };
                eval::measure(&*engine, &model, items, load)
            }
            false => {
                let tokens = how.text(file, &path).map_err(at)?;
                let items = Items::Texts {
                    tokens: &tokens,
                    window: how.window,
                    given: &[],
                };
                eval::measure(&*engine, &model, items, load)
            }
        };
        let maxima: Maxima = maxima.map_err(at)?;
        let beyond = maxima.beyond_half();
        Ok(beyond.map(|(name, most)| (name.to_owned(), most)).collect())
    }
}

fn is_tensors(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    TENSORS.iter().any(|t| extension.eq_ignore_ascii_case(t))
}
