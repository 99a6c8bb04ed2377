//! What the model is fed, item by item.

use sha2::{Digest, Sha256};

use crate::{
    digest,
    engine::{Array, Signature},
    error::Result,
    eval::{Feeds, Items, Tokens, cut},
    ir::Model,
};

/// The items of a run.
pub(super) struct Feed<'a> {
    items: Items<'a>,
    /// The texts, cut to windows.
    windows: Option<Tokens>,
    pub(super) signature: Signature,
    /// What stands in for inputs that other items give.
    defaults: Vec<(String, Array)>,
}

impl<'a> Feed<'a> {
    /// `items` for `model`; a text longer than the window is several.
    ///
    /// # Errors
    /// There is nothing to feed, or a window is too short.
    pub(super) fn new(model: &Model, items: Items<'a>) -> Result<Feed<'a>> {
        let windows = match items {
            Items::Texts { tokens, window, .. } => Some(cut(tokens, window)?),
            Items::Tensors { .. } => None,
        };
        let feed = Feed {
            items,
            windows,
            signature: Signature::of(model),
            defaults: Vec::new(),
        };
        feed.feeds()?;
        Ok(feed)
    }

    /// Whether some item gives the input `name`, besides those that tokens give.
    pub(super) fn gives(&self, name: &str) -> bool {
        match self.items {
            Items::Tensors { sets, .. } => sets.iter().flatten().any(|(n, _)| n == name),
            Items::Texts { given, .. } => given.iter().any(|(n, _)| n == name),
        }
    }

    /// What is fed where an item does not give an input that has a default.
    pub(super) fn set_defaults(&mut self, defaults: Vec<(String, Array)>) {
        self.defaults = defaults;
    }

    /// How many items there are.
    pub(super) fn len(&self) -> Result<usize> {
        Ok(self.feeds()?.len())
    }

    /// The inputs of item `i`.
    ///
    /// # Errors
    /// One is missing, or is none of the model.
    pub(super) fn item(&self, i: usize) -> Result<Vec<(String, Array)>> {
        let mut inputs = self.feeds()?.item(i, &self.signature)?;
        for (name, array) in &self.defaults {
            if !inputs.iter().any(|(n, _)| n == name) {
                inputs.push((name.clone(), array.clone()));
            }
        }
        Ok(inputs)
    }

    /// SHA-256 over all that is fed, and how it is cut into items.
    pub(super) fn sha256(&self) -> Result<String> {
        let feeds = self.feeds()?;
        let mut hash = Sha256::new();
        hash.update(feeds.info().sha256);
        let mut length = |n: usize| hash.update((n as u64).to_le_bytes());
        match self.items {
            Items::Tensors { sets, .. } => sets.iter().for_each(|set| length(set.len())),
            Items::Texts { .. } => {
                let texts = self.windows.iter().flat_map(Tokens::sequences);
                texts.for_each(|text| length(text.len()));
            }
        }
        Ok(digest::hex(hash))
    }

    fn feeds(&self) -> Result<Feeds<'_>> {
        Feeds::of(match (&self.windows, self.items) {
            (Some(tokens), Items::Texts { window, given, .. }) => Items::Texts {
                tokens,
                window,
                given,
            },
            (_, items) => items,
        })
    }
}
