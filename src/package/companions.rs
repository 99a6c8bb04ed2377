//! The files that loaders read beside a model.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Configuration, tokenizers and preprocessors, by the names that transformers, Optimum, transformers.js and
/// sentence-transformers give them, and what tells under which terms they may be used.
const NAMES: &[&str] = &[
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
];

/// More templates, all of whose files are read.
const TEMPLATES: &str = "additional_chat_templates";

/// The folder that a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where its configuration is.
    pub root: PathBuf,
    /// Whether the model lies in `onnx` under it.
    pub in_onnx: bool,
}

impl Source {
    /// That of the model at `path`.
    ///
    /// # Errors
    /// Its folder is missing.
    pub fn of(path: &Path) -> Result<Source> {
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let folder = parent
            .canonicalize()
            .map_err(|e| Error::io(format!("folder `{}`", parent.display()), e))?;
        // A folder of that name may be a whole of its own.
        let in_onnx = folder.ends_with("onnx") && !folder.join("config.json").is_file();
        let root = match (in_onnx, folder.parent()) {
            (true, Some(above)) => above.to_path_buf(),
            _ => folder,
        };
        Ok(Source { root, in_onnx })
    }

    /// The files that come along, relative to the root, sorted.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn companions(&self) -> Result<Vec<PathBuf>> {
        let mut found: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
        let templates = self.root.join(TEMPLATES);
        if templates.is_dir() {
            let at = |e| Error::io(format!("folder `{}`", templates.display()), e);
            for entry in fs::read_dir(&templates).map_err(at)? {
                found.push(Path::new(TEMPLATES).join(entry.map_err(at)?.file_name()));
            }
        }
        found.retain(|name| self.root.join(name).is_file());
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_where_the_configuration_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("onnx")).unwrap();
        fs::write(root.join("config.json"), "{}").unwrap();
        fs::write(root.join("weights.bin"), "").unwrap();
        let source = Source::of(&root.join("onnx/model.onnx")).unwrap();
        let expected = Source {
            root: root.clone(),
            in_onnx: true,
        };
        assert_eq!(source, expected);
        assert_eq!(source.companions().unwrap(), [Path::new("config.json")]);
        fs::write(root.join("onnx/config.json"), "{}").unwrap();
        assert!(!Source::of(&root.join("onnx/model.onnx")).unwrap().in_onnx);
    }
}
