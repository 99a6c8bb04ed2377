//! Files of next-token distributions, in the format of safetensors, which every language reads.
//!
//! | tensor | type, extents | |
//! |---|---|---|
//! | `tokens.{i}` | U32 `[length]` | the tokens of window `i` |
//! | `log_probs.{i}` | F32 `[rows, vocabulary]` | natural log-probs; only in a full file |
//! | `below.{i}` | F16 `[rows, vocabulary]` | largest logit minus logit; only in a compact file |
//! | `reference.{i}` | F32 `[rows]` | log-prob of the token that follows; NaN where none does |
//!
//! A compact file is normalized again when it is read. Half precision is relative, so the error
//! is largest for tokens whose probability is small; the divergence of a model from its own
//! compact file is around 1e-7 nats. `reference` comes from the logits themselves, rounded to float32
//! alone, and so does the perplexity.

use std::{collections::BTreeMap, ops::Range, path::Path};

use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Subject, metrics::Row, report::ModelResult, summary::perplexity, tokens::Window};
use crate::{
    error::{Error, Result},
    ir::SourceFile,
    output_file::Output,
};

/// How the distributions are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For other programs.
    Full,
    /// To compare with later.
    Compact,
}

/// What a file belongs to. All of it must be the same for it to be used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Name and version of this format.
    pub(crate) schema: String,
    /// Name of the engine.
    pub(crate) engine: String,
    /// SHA-256 of the model file; with what was done to it in memory.
    pub(crate) model_sha256: String,
    /// SHA-256 of the tokens, and of what is given beside them.
    pub(crate) tokens_sha256: String,
    /// Tokens of a window.
    pub(crate) window: String,
    /// Tokens from one window to the next.
    pub(crate) stride: String,
}

impl Key {
    /// # Errors
    /// Something differs from `expected`: what.
    pub(crate) fn check(&self, expected: &Key) -> Result<()> {
        let fields = [
            ("engine", &self.engine, &expected.engine),
            (
                "model's SHA-256",
                &self.model_sha256,
                &expected.model_sha256,
            ),
            (
                "tokens' SHA-256",
                &self.tokens_sha256,
                &expected.tokens_sha256,
            ),
            ("window", &self.window, &expected.window),
            ("stride", &self.stride, &expected.stride),
        ];
        match fields.iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => Err(Error::input(format!(
                "it is of another run: its {what} is {found}, expected {expected}"
            ))),
            None => Ok(()),
        }
    }
}

pub(crate) const SCHEMA: &str = "onnxq.log-probs/1";

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    key: Key,
    #[serde(flatten)]
    tensors: BTreeMap<String, Entry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// A file being written.
pub(crate) struct Writer {
    output: Output,
    form: Form,
    tensors: BTreeMap<String, Entry>,
    /// Where the elements begin.
    data: u64,
}

impl Writer {
    /// Begins the file at `path`.
    pub(crate) fn create(
        path: &Path,
        form: Form,
        key: Key,
        windows: &[Window<'_>],
        vocabulary: usize,
    ) -> Result<Writer> {
        let mut tensors = BTreeMap::new();
        let mut end = 0;
        let mut add = |name: String, dtype: &str, size: usize, shape: Vec<usize>| {
            let len = (size * shape.iter().product::<usize>()) as u64;
            let entry = Entry {
                dtype: dtype.to_owned(),
                shape,
                data_offsets: (end, end + len),
            };
            end += len;
            tensors.insert(name, entry);
        };
        // Elements of four bytes before those of two, so that everything is aligned.
        for (i, window) in windows.iter().enumerate() {
            let rows = window.ids.len() - window.first;
            add(format!("tokens.{i}"), "U32", 4, vec![window.ids.len()]);
            add(format!("reference.{i}"), "F32", 4, vec![rows]);
        }
        for (i, window) in windows.iter().enumerate() {
            let shape = vec![window.ids.len() - window.first, vocabulary];
            match form {
                Form::Full => add(format!("log_probs.{i}"), "F32", 4, shape),
                Form::Compact => add(format!("below.{i}"), "F16", 2, shape),
            }
        }
        let header = Header { key, tensors };
        let mut head = serde_json::to_vec(&header).expect("keys are strings");
        head.resize(head.len().next_multiple_of(8), b' ');
        let data = 8 + head.len() as u64;
        let writer = Writer {
            output: Output::create(path, data + end)?,
            form,
            tensors: header.tensors,
            data,
        };
        let len = head.len() as u64;
        writer.output.write_at(0, &len.to_le_bytes())?;
        writer.output.write_at(8, &head)?;
        for (i, window) in windows.iter().enumerate() {
            let ids: Vec<u8> = window.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            writer.write(&format!("tokens.{i}"), 0, &ids)?;
        }
        Ok(writer)
    }

    fn write(&self, tensor: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let begin = self.data + self.tensors[tensor].data_offsets.0;
        self.output.write_at(begin + offset, bytes)
    }

    /// Writes row `n` of window `i`, counted from the first row that counts.
    pub(crate) fn row(
        &self,
        (i, n): (usize, usize),
        row: &Row,
        logits: &[f32],
        reference: Option<f64>,
    ) -> Result<()> {
        let reference = reference.map_or(f32::NAN, |r| r as f32).to_le_bytes();
        self.write(&format!("reference.{i}"), n as u64 * 4, &reference)?;
        let (name, bytes): (_, Vec<u8>) = match self.form {
            Form::Full => {
                let log_prob = |&x: &f32| (row.log_prob(x) as f32).to_le_bytes();
                (
                    format!("log_probs.{i}"),
                    logits.iter().flat_map(log_prob).collect(),
                )
            }
            Form::Compact => {
                let below = |&x: &f32| f16::from_f32(row.below(x)).to_le_bytes();
                (
                    format!("below.{i}"),
                    logits.iter().flat_map(below).collect(),
                )
            }
        };
        self.write(&name, (n * bytes.len()) as u64, &bytes)
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> Result<()> {
        self.output.publish().map(drop)
    }
}

/// A compact file being read.
pub(crate) struct Reader {
    file: SourceFile,
    header: Header,
    data: u64,
    pub(crate) vocabulary: usize,
    nll: Vec<f64>,
}

impl Reader {
    /// Opens the compact file at `path`, which must fit `windows` and have the key that
    /// `expected` makes of its own.
    pub(crate) fn open(
        path: &Path,
        windows: &[Window<'_>],
        expected: impl Fn(&Key) -> Key,
    ) -> Result<Reader> {
        let at = |e: Error| e.at(format!("`{}`", path.display()));
        let file = SourceFile::open(path)?;
        let (header, data) = read_header(&file).map_err(at)?;
        // Of another run extents differ, too, but that tells less.
        header.key.check(&expected(&header.key)).map_err(at)?;
        let mut reader = Reader {
            file,
            header,
            data,
            vocabulary: 0,
            nll: Vec::new(),
        };
        for (i, window) in windows.iter().enumerate() {
            reader.check(i, window).map_err(at)?;
        }
        Ok(reader)
    }

    fn check(&mut self, i: usize, window: &Window<'_>) -> Result<()> {
        let rows = window.ids.len() - window.first;
        let below = self.entry(&format!("below.{i}"))?;
        let vocabulary = match below.shape.as_slice() {
            [n, v] if *n == rows && *v > 0 && (i == 0 || *v == self.vocabulary) => *v,
            shape => {
                return Err(Error::input(format!(
                    "`below.{i}` has extents {shape:?}, expected [{rows}, vocabulary]"
                )));
            }
        };
        // The hash of the tokens does not tell where one window ends and the next begins.
        let tokens = self.entry(&format!("tokens.{i}"))?;
        if tokens.shape != [window.ids.len()] {
            return Err(Error::input(format!(
                "`tokens.{i}` has extents {:?}, expected [{}]",
                tokens.shape,
                window.ids.len()
            )));
        }
        let sizes = [
            (below, (2 * rows).saturating_mul(vocabulary)),
            (self.entry(&format!("reference.{i}"))?, 4 * rows),
        ];
        for (entry, size) in sizes {
            let (begin, end) = entry.data_offsets;
            let inside = end
                .checked_add(self.data)
                .is_some_and(|e| e <= self.file.len());
            if !inside || end.checked_sub(begin) != Some(size as u64) {
                return Err(Error::input(format!(
                    "window {i} stands at {begin}..{end}, expected {size} bytes inside the file"
                )));
            }
        }
        self.vocabulary = vocabulary;
        Ok(())
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.header.tensors.get(name);
        entry.ok_or_else(|| Error::input(format!("it has no tensor `{name}`")))
    }

    /// Logits, up to a constant a row, and log-probs of the reference tokens of `rows` of window
    /// `i`, counted from the first row that counts.
    pub(crate) fn rows(&self, i: usize, rows: Range<usize>) -> Result<(Vec<f32>, Vec<f64>)> {
        let read = |name: String, each: usize| {
            let begin = self.data + self.entry(&name)?.data_offsets.0;
            let mut bytes = vec![0; rows.len() * each];
            let offset = begin + (rows.start * each) as u64;
            self.file.read_exact_at(offset, &mut bytes)?;
            Ok::<_, Error>(bytes)
        };
        let below = read(format!("below.{i}"), 2 * self.vocabulary)?;
        let below = below.as_chunks().0.par_iter();
        let logits = below.map(|b| -f16::from_le_bytes(*b).to_f32()).collect();
        let references = read(format!("reference.{i}"), 4)?;
        let references = references.as_chunks().0.iter();
        let references = references.map(|b| f64::from(f32::from_le_bytes(*b)));
        Ok((logits, references.collect()))
    }
}

impl Reader {
    /// Counts log-probs of reference tokens that were read.
    pub(crate) fn add(&mut self, references: &[Option<f64>]) {
        self.nll.extend(references.iter().flatten().map(|lp| -lp));
    }

    /// What the file tells about the model, once all of it was read.
    pub(crate) fn result(self, path: &Path, of: Option<&Subject<'_>>) -> ModelResult {
        let name = || path.file_stem().unwrap_or_default().to_string_lossy();
        let mut result = of.map_or_else(|| ModelResult::named(&name()), Subject::result);
        result.sha256 = Some(self.header.key.model_sha256);
        result.perplexity = Some(perplexity(&self.nll));
        result
    }
}

fn read_header(file: &SourceFile) -> Result<(Header, u64)> {
    /// What the format allows.
    const MOST: u64 = 100_000_000;
    let foreign = || Error::input("expected log-probs that onnxq saved (--save-baseline)");
    if file.len() < 8 {
        return Err(foreign());
    }
    let mut len = [0; 8];
    file.read_exact_at(0, &mut len)?;
    let len = u64::from_le_bytes(len);
    if len > MOST || len > file.len() - 8 {
        return Err(foreign());
    }
    let mut head = vec![0; len as usize];
    file.read_exact_at(8, &mut head)?;
    let header: Header = serde_json::from_slice(&head).map_err(|e| foreign().with_source(e))?;
    if header.key.schema != SCHEMA {
        return Err(Error::input(format!(
            "its format is `{}`, expected `{SCHEMA}`",
            header.key.schema
        )));
    }
    Ok((header, 8 + len))
}
