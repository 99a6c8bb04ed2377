//! What `config.json` tells transformers.js about the models of a folder: `transformers.js_config`, read by
//! `src/models/session.js` and `src/utils/model-loader.js` of its version 4.3.1.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use super::{base_and_dtype, models};
use crate::{
    error::{Error, Result},
    onnx::{OpenOptions, side_file_name, side_files},
};

const KEY: &str = "transformers.js_config";
const DTYPE: &str = "dtype";
const CHUNKS: &str = "use_external_data_format";
/// Read by version 3; later ones look at the model.
const CACHE: &str = "kv_cache_dtype";

/// A model as a loader is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// The name of its file.
    pub name: String,
    /// How many side files it has.
    pub chunks: usize,
    /// Whether its cache has half precision.
    pub half_cache: bool,
}

impl LoaderConfig {
    fn base_and_dtype(&self) -> (&str, &'static str) {
        base_and_dtype(self.name.trim_end_matches(".onnx"))
    }
}

/// `config`, the content of a `config.json`, with what it has to tell about `added`, which are all in the folder.
///
/// A dtype that it names for a model stays when `keeps`: the folder held other forms before. Of several forms of
/// one model the first is the one that is loaded where nothing else is asked for.
///
/// # Errors
/// It is no JSON object, or what it says of transformers.js is none.
pub fn config_with(config: &str, added: &[LoaderConfig], keeps: bool) -> Result<String> {
    let wrong = |what: &str| Error::input(format!("config.json: {what}, expected a JSON object"));
    let mut all: Value =
        serde_json::from_str(config).map_err(|e| wrong("not JSON").with_source(e))?;
    let object = all.as_object_mut().ok_or_else(|| wrong("another value"))?;
    let ours = object.entry(KEY).or_insert_with(|| json!({}));
    let ours = ours.as_object_mut().ok_or_else(|| wrong(KEY))?;
    let old = ours.get(DTYPE).filter(|_| keeps).cloned();
    ours.insert(DTYPE.to_owned(), dtypes(added, old));
    let old = ours.get(CHUNKS).filter(|_| keeps).cloned();
    match chunks(added, old) {
        Some(chunks) => ours.insert(CHUNKS.to_owned(), chunks),
        None => ours.shift_remove(CHUNKS),
    };
    let half: Vec<&str> = added
        .iter()
        .filter(|m| m.half_cache)
        .map(|m| m.base_and_dtype().1)
        .collect();
    if !half.is_empty() {
        let mut cache = match ours.get(CACHE).filter(|_| keeps) {
            Some(Value::Object(cache)) => cache.clone(),
            _ => Map::new(),
        };
        for dtype in half {
            cache.insert(dtype.to_owned(), json!("float16"));
        }
        ours.insert(CACHE.to_owned(), Value::Object(cache));
    }
    let text = serde_json::to_string_pretty(&all).expect("JSON has string keys");
    Ok(text + "\n")
}

/// The dtype of each model: one for all, or by the stem of its name.
fn dtypes(added: &[LoaderConfig], old: Option<Value>) -> Value {
    let mut by_base = Map::new();
    match old {
        // One for all, of models that are there.
        Some(Value::String(one)) => return Value::String(one),
        Some(Value::Object(old)) => by_base = old,
        _ => {}
    }
    for model in added {
        let (base, dtype) = model.base_and_dtype();
        by_base.entry(base).or_insert_with(|| json!(dtype));
    }
    let first = by_base.values().next().cloned();
    match first {
        Some(one) if by_base.values().all(|d| *d == one) => one,
        _ => Value::Object(by_base),
    }
}

/// How many side files each model has, by the name of its file.
fn chunks(added: &[LoaderConfig], old: Option<Value>) -> Option<Value> {
    let mut by_name = match old {
        Some(Value::Object(old)) => old,
        _ => Map::new(),
    };
    for model in added {
        match model.chunks {
            0 => by_name.shift_remove(&model.name),
            n => by_name.insert(model.name.clone(), json!(n)),
        };
    }
    (!by_name.is_empty()).then_some(Value::Object(by_name))
}

/// What a page would stumble over in the folder `root`: side files of other names than a loader looks for, and
/// other numbers of them than `config.json` says. A loader that opens files itself takes all of them.
///
/// # Errors
/// A model or `config.json` cannot be read.
pub fn chunk_faults(root: &Path) -> Result<Vec<String>> {
    let config = root.join("config.json");
    let text = match config.is_file() {
        true => fs::read_to_string(&config).map_err(|e| Error::io("config.json", e))?,
        false => return Ok(Vec::new()),
    };
    let all: Value = serde_json::from_str(&text)
        .map_err(|e| Error::input("config.json: not JSON").with_source(e))?;
    let Some(ours) = all.get(KEY) else {
        return Ok(Vec::new());
    };
    let mut faults = Vec::new();
    for model in models(root)? {
        let name = model
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found: Vec<String> = side_files(&model, OpenOptions { drop_unknown: true })?
            .into_iter()
            .map(|s| s.location.trim_start_matches("./").to_owned())
            .collect();
        let expected: BTreeMap<String, usize> = (0..found.len())
            .map(|i| (side_file_name(&model, i), i))
            .collect();
        for location in found.iter().filter(|l| !expected.contains_key(*l)) {
            faults.push(format!(
                "`{name}` reads side file `{location}`; a page gives it {} only",
                expected.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        let told = told_chunks(ours, &name);
        if told != found.len() as u64 {
            faults.push(format!(
                "`{name}` has {} side files; config.json says {told} ({KEY}.{CHUNKS})",
                found.len()
            ));
        }
    }
    Ok(faults)
}

/// What `use_external_data_format` says of a file.
fn told_chunks(ours: &Value, name: &str) -> u64 {
    let number = |value: &Value| match value {
        Value::Bool(b) => u64::from(*b),
        other => other.as_u64().unwrap_or(0),
    };
    let base = base_and_dtype(name.trim_end_matches(".onnx")).0;
    match ours.get(CHUNKS) {
        Some(Value::Object(map)) => map.get(name).or_else(|| map.get(base)).map_or(0, number),
        Some(one) => number(one),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, chunks: usize, half_cache: bool) -> LoaderConfig {
        LoaderConfig {
            name: name.to_owned(),
            chunks,
            half_cache,
        }
    }

    fn told(config: &str, added: &[LoaderConfig], keeps: bool) -> Value {
        let text = config_with(config, added, keeps).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        all[KEY].clone()
    }

    #[test]
    fn one_dtype_for_all_is_a_word() {
        let added = [model("model_q4f16.onnx", 2, true)];
        let expected = json!({
            "dtype": "q4f16",
            "use_external_data_format": {"model_q4f16.onnx": 2},
            "kv_cache_dtype": {"q4f16": "float16"},
        });
        assert_eq!(told(r#"{"model_type":"llama"}"#, &added, false), expected);
    }

    #[test]
    fn several_are_a_map_and_the_first_form_is_the_default() {
        let added = [
            model("decoder_q4.onnx", 0, false),
            model("decoder_fp16.onnx", 0, false),
            model("encoder_fp16.onnx", 1, false),
        ];
        let expected = json!({
            "dtype": {"decoder": "q4", "encoder": "fp16"},
            "use_external_data_format": {"encoder_fp16.onnx": 1},
        });
        assert_eq!(told("{}", &added, false), expected);
    }

    #[test]
    fn what_a_folder_said_before_stays_when_files_are_added() {
        let before = r#"{"transformers.js_config":{"dtype":"q4","device":"webgpu",
            "use_external_data_format":{"model_q4.onnx":3}}}"#;
        let added = [model("model_fp16.onnx", 1, false)];
        let expected = json!({
            "dtype": "q4",
            "device": "webgpu",
            "use_external_data_format": {"model_q4.onnx": 3, "model_fp16.onnx": 1},
        });
        assert_eq!(told(before, &added, true), expected);
        let expected = json!({
            "dtype": "fp16",
            "device": "webgpu",
            "use_external_data_format": {"model_fp16.onnx": 1},
        });
        assert_eq!(told(before, &added, false), expected);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for wrong in ["", "[]", r#"{"transformers.js_config":1}"#] {
            let error = config_with(wrong, &[], false).unwrap_err().to_string();
            assert!(error.contains("expected a JSON object"), "{error}");
        }
    }
}
