//! Text as tokens, and tokens as windows.

use std::{path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::lm::Named;
use crate::{
    digest,
    error::{Error, Result},
};

/// How many bytes of text are tokenized for one token that is wanted. A token of a byte-pair
/// encoding has about 4; when a text has more, the next try takes twice as much of it.
const BYTES_PER_TOKEN: usize = 8;

/// Tokens more than wanted: the last ones before a cut may not be what the whole text gives.
const MARGIN: usize = 64;

/// Tokens to feed to a model.
#[derive(Clone)]
pub struct Tokens {
    sequences: Vec<Vec<u32>>,
    source: String,
    tokenizer: Option<Arc<Tokenizer>>,
}

/// How a long sequence of tokens is cut.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Tokens of a window, at least 2.
    pub window: usize,
    /// Tokens from the begin of one window to that of the next; the others are context only.
    pub stride: usize,
    /// How many windows at most; `None`: all.
    pub limit: Option<usize>,
}

impl Default for Windows {
    fn default() -> Self {
        Windows {
            window: 256,
            stride: 256,
            limit: Some(8),
        }
    }
}

/// A window: what is fed, and which of its distributions count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window<'a> {
    pub(crate) ids: &'a [u32],
    /// The first row whose distribution no window before has given.
    pub(crate) first: usize,
}

impl Tokens {
    /// One long sequence.
    pub fn from_ids(ids: Vec<u32>) -> Tokens {
        Tokens::from_sequences(vec![ids])
    }

    /// Several texts, each on its own.
    pub fn from_sequences(sequences: Vec<Vec<u32>>) -> Tokens {
        Tokens {
            sequences,
            source: "token ids".to_owned(),
            tokenizer: None,
        }
    }

    /// The tokens in the JSON file at `path`: a list of numbers, or a list of such lists. With a
    /// `tokenizer` errors can say what a token stands for.
    ///
    /// # Errors
    /// The file cannot be read or holds something else.
    pub fn from_json(path: &Path, tokenizer: Option<&Path>) -> Result<Tokens> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Ids {
            One(Vec<u32>),
            Many(Vec<Vec<u32>>),
        }
        let text = read_text(path)?;
        let ids = serde_json::from_str(&text).map_err(|e| {
            Error::input(format!(
                "`{}`: expected a JSON list of token ids, or a list of such lists",
                path.display()
            ))
            .with_source(e)
        })?;
        let sequences = match ids {
            Ids::One(ids) => vec![ids],
            Ids::Many(sequences) => sequences,
        };
        Ok(Tokens {
            sequences,
            source: path.display().to_string(),
            tokenizer: tokenizer.map(open_tokenizer).transpose()?,
        })
    }

    /// The text at `path` as one long sequence. With `at_most`, tokenizing stops soon after that
    /// many tokens; those are the same as without.
    ///
    /// # Errors
    /// A file cannot be read, the text is not UTF-8, or the tokenizer is malformed.
    pub fn from_text(path: &Path, tokenizer: &Path, at_most: Option<usize>) -> Result<Tokens> {
        let text = read_text(path)?;
        let tokenizer = open_tokenizer(tokenizer)?;
        let wanted = at_most.map(|n| n.saturating_add(MARGIN));
        let mut len = wanted.map_or(text.len(), |n| n.saturating_mul(BYTES_PER_TOKEN));
        let ids = loop {
            let end = text.floor_char_boundary(len);
            let ids = encode(&tokenizer, &text[..end])?;
            let enough = wanted.is_some_and(|n| ids.len() >= n);
            if end == text.len() || enough {
                break ids;
            }
            len = len.saturating_mul(2);
        };
        let kept = at_most.map_or(ids.len(), |n| n.min(ids.len()));
        Ok(Tokens {
            sequences: vec![ids[..kept].to_vec()],
            source: path.display().to_string(),
            tokenizer: Some(tokenizer),
        })
    }

    /// Every line of the text at `path` that is not blank, as a text of its own.
    ///
    /// # Errors
    /// As [`Tokens::from_text`].
    pub fn from_lines(path: &Path, tokenizer: &Path, at_most: Option<usize>) -> Result<Tokens> {
        let text = read_text(path)?;
        let tokenizer = open_tokenizer(tokenizer)?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let sequences = lines
            .take(at_most.unwrap_or(usize::MAX))
            .map(|line| encode(&tokenizer, line))
            .collect::<Result<_>>()?;
        Ok(Tokens {
            sequences,
            source: path.display().to_string(),
            tokenizer: Some(tokenizer),
        })
    }

    /// Where they came from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The sequences.
    pub fn sequences(&self) -> &[Vec<u32>] {
        &self.sequences
    }

    /// Without the first `count` tokens; `None` when no two are left.
    #[must_use]
    pub fn after(mut self, mut count: usize) -> Option<Tokens> {
        for sequence in &mut self.sequences {
            let taken = count.min(sequence.len());
            sequence.drain(..taken);
            count -= taken;
        }
        self.sequences.retain(|s| s.len() >= 2);
        (!self.sequences.is_empty()).then_some(self)
    }

    /// What `token` stands for, when there is a tokenizer.
    pub fn decode(&self, token: u32) -> Option<String> {
        self.tokenizer.as_ref()?.decode(&[token], false).ok()
    }

    /// The largest token with its place: which sequence, and where in it.
    pub(crate) fn largest(&self) -> Option<(u32, usize, usize)> {
        let each = self.sequences.iter().enumerate().flat_map(|(s, ids)| {
            let place = move |(i, &id): (usize, &u32)| (id, s, i);
            ids.iter().enumerate().map(place)
        });
        each.max_by_key(|&(id, ..)| id)
    }

    /// The windows that `how` cuts. Only whole windows of a sequence longer than one; a shorter
    /// sequence is a window itself.
    ///
    /// # Errors
    /// There is none with at least 2 tokens, or `how` contradicts itself.
    pub(crate) fn windows(&self, how: Windows) -> Result<Vec<Window<'_>>> {
        if how.window < 2 {
            return Err(Error::input(format!(
                "a window of {}: expected at least 2 tokens, as the first has no prediction",
                how.window
            )));
        }
        if how.stride == 0 || how.stride > how.window {
            return Err(Error::input(format!(
                "a stride of {}: expected 1 to {}, the window",
                how.stride, how.window
            )));
        }
        let all = self.sequences.iter().flat_map(|ids| cut(ids, how));
        let windows: Vec<_> = all.take(how.limit.unwrap_or(usize::MAX)).collect();
        if windows.is_empty() {
            let count: usize = self.sequences.iter().map(Vec::len).sum();
            return Err(Error::input(format!(
                "{}: {count} tokens are too few, expected at least 2",
                self.source
            )));
        }
        Ok(windows)
    }
}

fn cut(ids: &[u32], how: Windows) -> impl Iterator<Item = Window<'_>> {
    let window = how.window.min(ids.len());
    let starts = (0..=ids.len() - window).step_by(how.stride);
    let windows = starts.map(move |start| Window {
        ids: &ids[start..start + window],
        first: if start == 0 { 0 } else { window - how.stride },
    });
    windows.filter(|w| w.ids.len() >= 2)
}

/// SHA-256 over the tokens, each as 4 little-endian bytes, texts in order, and the tensors given
/// beside them: each one's name and type, both ended by a zero, its extents, as 8 little-endian
/// bytes, and its elements.
pub(crate) fn sha256<'a>(
    texts: impl Iterator<Item = &'a [u32]>,
    given: impl IntoIterator<Item = &'a Named>,
) -> String {
    let mut hash = Sha256::new();
    for id in texts.flatten() {
        hash.update(id.to_le_bytes());
    }
    for (name, array) in given {
        for text in [name, array.dtype().name()] {
            hash.update(text);
            hash.update([0]);
        }
        for extent in array.dims() {
            hash.update((*extent as u64).to_le_bytes());
        }
        hash.update(array.to_le_bytes());
    }
    digest::hex(hash)
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)
        .map_err(|e| Error::io(format!("cannot read `{}`", path.display()), e))?;
    String::from_utf8(bytes)
        .map_err(|e| Error::input(format!("`{}`: expected UTF-8", path.display())).with_source(e))
}

fn open_tokenizer(path: &Path) -> Result<Arc<Tokenizer>> {
    // The library's message for a missing file does not name it.
    std::fs::metadata(path)
        .map_err(|e| Error::io(format!("cannot read tokenizer `{}`", path.display()), e))?;
    let mut tokenizer = Tokenizer::from_file(path).map_err(|e| {
        Error::input(format!(
            "`{}` is no tokenizer.json of Hugging Face",
            path.display()
        ))
        .with_source(e)
    })?;
    // A file may say how batches are cut and filled up; here a text is what it is.
    tokenizer
        .with_truncation(None)
        .map_err(|e| Error::input("tokenizer").with_source(e))?;
    tokenizer.with_padding(None);
    Ok(Arc::new(tokenizer))
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode(text, true)
        .map_err(|e| Error::input("cannot tokenize the text").with_source(e))?;
    Ok(encoding.get_ids().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Array;

    fn windows(sequences: Vec<Vec<u32>>, window: usize, stride: usize) -> Vec<(Vec<u32>, usize)> {
        let tokens = Tokens::from_sequences(sequences);
        let how = Windows {
            window,
            stride,
            limit: None,
        };
        let windows = tokens.windows(how).unwrap();
        windows.iter().map(|w| (w.ids.to_vec(), w.first)).collect()
    }

    #[test]
    fn whole_windows() {
        let cut = windows(vec![(0..7).collect()], 3, 3);
        assert_eq!(cut, [(vec![0, 1, 2], 0), (vec![3, 4, 5], 0)]);
    }

    #[test]
    fn a_stride_counts_every_distribution_once() {
        let cut = windows(vec![(0..8).collect()], 4, 2);
        assert_eq!(
            cut,
            [
                (vec![0, 1, 2, 3], 0),
                (vec![2, 3, 4, 5], 2),
                (vec![4, 5, 6, 7], 2)
            ]
        );
    }

    #[test]
    fn the_hash_covers_what_is_given_beside_tokens() {
        let ids = [1, 2, 3];
        let of = |given: &[Named]| sha256([&ids[..]].into_iter(), given);
        let states =
            |dims: Vec<usize>, x: f32| vec![("states".to_owned(), Array::new(dims, vec![x, 0.0]))];
        let hashes = [
            of(&[]),
            of(&states(vec![2], 1.0)),
            of(&states(vec![2], 2.0)),
            of(&states(vec![1, 2], 1.0)),
        ];
        let different: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        assert_eq!(of(&states(vec![2], 1.0)), hashes[1]);
    }

    #[test]
    fn short_texts_are_windows() {
        let cut = windows(vec![vec![5, 6], vec![7], vec![1, 2, 3, 4, 5]], 4, 4);
        assert_eq!(cut, [(vec![5, 6], 0), (vec![1, 2, 3, 4], 0)]);
        let empty = Tokens::from_sequences(vec![vec![], vec![1]]);
        let message = empty.windows(Windows::default()).unwrap_err().chain();
        assert_eq!(
            message,
            "token ids: 1 tokens are too few, expected at least 2"
        );
    }

    #[test]
    fn a_prefix_has_the_tokens_of_the_whole() {
        let folder = Path::new("testdata/tinylm");
        let (text, tokenizer) = (folder.join("heldout.txt"), folder.join("tokenizer.json"));
        let all = Tokens::from_text(&text, &tokenizer, None).unwrap();
        for n in [1, 100, 1000, usize::MAX] {
            let some = Tokens::from_text(&text, &tokenizer, Some(n)).unwrap();
            let n = n.min(all.sequences[0].len());
            assert_eq!(some.sequences[0], all.sequences[0][..n]);
        }
    }
}
