//! How transformers.js names the files of a folder: `src/utils/dtypes.js` of its version 4.3.1.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The dtypes of transformers.js and what they append to a file's stem.
pub const DTYPES: [(&str, &str); 12] = [
    ("fp32", ""),
    ("fp16", "_fp16"),
    ("int8", "_int8"),
    ("uint8", "_uint8"),
    ("q8", "_quantized"),
    ("q4", "_q4"),
    ("q2", "_q2"),
    ("q1", "_q1"),
    ("q4f16", "_q4f16"),
    ("q2f16", "_q2f16"),
    ("q1f16", "_q1f16"),
    ("bnb4", "_bnb4"),
];

/// What a file with this stem is a form of, and in which dtype: `model` and `q4` of `model_q4`.
pub fn base_and_dtype(stem: &str) -> (&str, &'static str) {
    let suffixed = DTYPES.iter().filter(|(_, suffix)| !suffix.is_empty());
    let mut found = suffixed.filter_map(|(name, suffix)| {
        let base = stem.strip_suffix(suffix).filter(|b| !b.is_empty())?;
        Some((base, *name))
    });
    found.next().unwrap_or((stem, "fp32"))
}

/// The models in a folder, sorted: those in it, or else those in its folder `onnx`.
///
/// # Errors
/// The folder cannot be read, or holds none.
pub fn models(folder: &Path) -> Result<Vec<PathBuf>> {
    for place in [folder.to_path_buf(), folder.join("onnx")] {
        let found = onnx_files(&place)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::input(format!(
        "folder `{}` holds no .onnx file, nor does its folder `onnx`; expected one, or the path of a file",
        folder.display()
    )))
}

fn onnx_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let at = |e| Error::io(format!("folder `{}`", folder.display()), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.extension().is_some_and(|e| e == "onnx") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Those of `models` that are no other form of one of them: `model.onnx`, but not `model_q4.onnx` beside it.
pub fn originals(models: &[PathBuf]) -> Vec<PathBuf> {
    let is_form = |path: &&PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (base, dtype) = base_and_dtype(&stem);
        dtype != "fp32" && models.contains(&path.with_file_name(format!("{base}.onnx")))
    };
    models.iter().filter(|m| !is_form(m)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_tell_the_dtype() {
        assert_eq!(base_and_dtype("model"), ("model", "fp32"));
        assert_eq!(base_and_dtype("model_q4f16"), ("model", "q4f16"));
        assert_eq!(
            base_and_dtype("encoder_model_quantized"),
            ("encoder_model", "q8")
        );
        assert_eq!(base_and_dtype("_q4"), ("_q4", "fp32"));
    }

    #[test]
    fn a_form_is_none_where_its_original_is_missing() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let all = paths(&["a/decoder_q4.onnx", "a/model.onnx", "a/model_q4.onnx"]);
        assert_eq!(
            originals(&all),
            paths(&["a/decoder_q4.onnx", "a/model.onnx"])
        );
    }
}
