//! A causal language model on an engine: tokens in, logits out, through its cache or without.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{
    engine::{Array, Input, InputRole, OutputRole, Session, Signature},
    error::{Error, Result},
    ir::{DataType, DimSize},
};

/// A named tensor.
pub(crate) type Named = (String, Array);

/// A language model that is ready to be fed windows of tokens, a chunk at a time.
pub(crate) struct LanguageModel {
    session: Box<dyn Session>,
    signature: Signature,
    logits: String,
    /// Given inputs, the same for every window, such as an encoder's states.
    given: Vec<Named>,
    /// The cache after the last chunk: name of the input, and its value.
    cache: Vec<Named>,
    pub(crate) time: Duration,
}

impl LanguageModel {
    pub(crate) fn new(
        session: Box<dyn Session>,
        signature: Signature,
        given: &[Named],
    ) -> Result<LanguageModel> {
        let logits = signature.output(OutputRole::Logits).ok_or_else(|| {
            let names: Vec<_> = signature.outputs.iter().map(|o| &*o.name).collect();
            Error::input(format!(
                "no output is recognised as next-token logits, [batch, sequence, vocabulary]; \
                 found {}",
                names.join(", ")
            ))
        })?;
        let logits = logits.name.clone();
        let given = given_beside_tokens(&signature, given)?;
        Ok(LanguageModel {
            session,
            signature,
            logits,
            given,
            cache: Vec::new(),
            time: Duration::ZERO,
        })
    }

    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(crate) fn has_cache(&self) -> bool {
        !self.signature.cache().is_empty()
    }

    /// Gives these beside the tokens from now on.
    pub(crate) fn give(&mut self, given: Vec<Named>) {
        self.given = given;
    }

    /// Begins new windows: the cache is empty.
    pub(crate) fn restart(&mut self) {
        self.cache.clear();
    }

    /// Feeds `rows` of `windows`, which all have the same length; returns logits
    /// `[windows, rows, vocabulary]`. Without a cache `rows` begin at 0.
    pub(crate) fn feed(&mut self, windows: &[&[u32]], rows: Range<usize>) -> Result<Array> {
        let last = rows.end == windows[0].len();
        let cache = std::mem::take(&mut self.cache);
        let feeds = token_feeds(&self.signature, windows, &rows, cache)?;
        let inputs = with_given(&feeds, &self.given);
        let cache = match last {
            true => Vec::new(),
            false => self.signature.cache(),
        };
        let mut outputs = vec![self.logits.as_str()];
        let presents = cache.iter().map(|&(_, present, _)| present);
        outputs.extend(presents.map(|i| self.signature.outputs[i].name.as_str()));
        let start = Instant::now();
        let mut results = self.session.run(&inputs, &outputs)?;
        self.time += start.elapsed();
        let names = cache
            .iter()
            .map(|&(past, ..)| self.signature.inputs[past].name.clone());
        self.cache = names.zip(results.drain(1..)).collect();
        let logits = results.remove(0);
        let expected = [windows.len(), rows.len()];
        match logits.dims() {
            [b, n, v] if [*b, *n] == expected && *v > 0 => Ok(logits),
            dims => Err(Error::input(format!(
                "output `{}` has extents {dims:?}, expected [{}, {}, vocabulary]",
                self.logits, expected[0], expected[1]
            ))),
        }
    }
}

/// `given`, when it fits the model.
///
/// # Errors
/// The model needs an input that neither tokens give nor `given` has, or has not one of `given`.
pub(crate) fn given_to(signature: &Signature, given: &[Named]) -> Result<Vec<Named>> {
    let known = |name: &str| signature.inputs.iter().any(|i| i.name == name);
    let is_given = |name: &str| given.iter().any(|(n, _)| n == name);
    for input in &signature.inputs {
        if input.role == InputRole::Other && !input.has_default && !is_given(&input.name) {
            return Err(Error::input(format!(
                "input `{}` is none that tokens give a value to; give it with --inputs",
                input.name
            )));
        }
    }
    match given.iter().find(|(name, _)| !known(name)) {
        None => Ok(given.to_vec()),
        Some((name, _)) => {
            let names: Vec<_> = signature.inputs.iter().map(|i| &*i.name).collect();
            Err(Error::input(format!(
                "`{name}` is given and is no input of the model, which has {}",
                names.join(", ")
            )))
        }
    }
}

/// As [`given_to`], beside tokens: what they are fed as must not be given, too.
pub(crate) fn given_beside_tokens(signature: &Signature, given: &[Named]) -> Result<Vec<Named>> {
    let twice = signature.inputs.iter().find(|input| {
        let fed = matches!(input.role, InputRole::InputIds | InputRole::Past { .. });
        fed && given.iter().any(|(name, _)| *name == input.name)
    });
    match twice {
        None => given_to(signature, given),
        Some(input) => Err(Error::input(format!(
            "input `{}` comes from the text or the tokens; expected a file without it (--inputs)",
            input.name
        ))),
    }
}

/// What an engine takes: `given`, and those of `feeds` that it does not have.
pub(crate) fn with_given<'f>(feeds: &'f [Named], given: &'f [Named]) -> Vec<(&'f str, &'f Array)> {
    let is_given = |name: &str| given.iter().any(|(n, _)| n == name);
    let own = feeds.iter().filter(|(name, _)| !is_given(name));
    let all = own.chain(given);
    all.map(|(name, array)| (name.as_str(), array)).collect()
}

/// The inputs that tokens give: `rows` of each of `windows`, after a `cache` of those before.
/// Inputs without a role are not among them.
pub(crate) fn token_feeds(
    signature: &Signature,
    windows: &[&[u32]],
    rows: &Range<usize>,
    mut cache: Vec<Named>,
) -> Result<Vec<Named>> {
    let (batch, new, all) = (windows.len(), rows.len(), rows.end);
    let mut cached = |name: &str| {
        let at = cache.iter().position(|(n, _)| n == name)?;
        Some(cache.swap_remove(at).1)
    };
    let mut feeds = Vec::new();
    for input in &signature.inputs {
        let ints = |dims: Vec<usize>, of: &dyn Fn(usize) -> i64| {
            let dtype = input.dtype.unwrap_or(DataType::Int64);
            Array::of_integers(dtype, dims, of).ok_or_else(|| {
                Error::unsupported(format!("input `{}` of {}", input.name, dtype.name()))
            })
        };
        let array = match input.role {
            InputRole::InputIds => ints(vec![batch, new], &|i| {
                i64::from(windows[i / new][rows.start + i % new])
            })?,
            InputRole::AttentionMask => ints(vec![batch, all], &|_| 1)?,
            InputRole::PositionIds => ints(vec![batch, new], &|i| (rows.start + i % new) as i64)?,
            InputRole::TokenTypeIds => ints(vec![batch, new], &|_| 0)?,
            InputRole::UseCacheBranch => {
                let dims = vec![1; input.dims.as_ref().map_or(1, Vec::len)];
                ints(dims, &|_| i64::from(rows.start > 0))?
            }
            InputRole::Past { axis } => match cached(&input.name) {
                Some(array) => array,
                None => empty_past(input, axis, batch)?,
            },
            InputRole::Other => continue,
        };
        feeds.push((input.name.clone(), array));
    }
    Ok(feeds)
}

/// A cache of no tokens: extent 0 along `axis`, and the batch where there is no other extent.
pub(crate) fn empty_past(input: &Input, axis: usize, batch: usize) -> Result<Array> {
    let dims = input.dims.as_deref().unwrap_or_default();
    let extent = |(i, dim): (usize, &crate::ir::Dim)| match &dim.size {
        _ if i == axis => Ok(0),
        DimSize::Known(n) if *n >= 0 => Ok(*n as usize),
        // The first free axis is the batch: heads and features are numbers in a graph.
        _ if dims[..i]
            .iter()
            .all(|d| matches!(d.size, DimSize::Known(n) if n >= 0)) =>
        {
            Ok(batch)
        }
        _ => Err(Error::input(format!(
            "input `{}`: axis {i} ({dim}) has no known extent",
            input.name
        ))),
    };
    let dims = dims.iter().enumerate().map(extent).collect::<Result<_>>()?;
    Array::zeros(input.dtype.unwrap_or(DataType::Float), dims)
}
