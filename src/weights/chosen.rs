//! By which method a recipe quantizes.

use std::{ops::Range, sync::Arc};

use crate::quant::{BlockMethod, Rule};

/// A method, and what it knows of the activations of the weight.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The method.
    pub method: BlockMethod,
    /// How much the errors in each of the k columns count; see [`Rule::importance`].
    pub importance: Option<Arc<[f32]>>,
}

impl From<BlockMethod> for Chosen {
    fn from(method: BlockMethod) -> Chosen {
        Chosen {
            method,
            importance: None,
        }
    }
}

impl Chosen {
    /// The rule for columns `columns` of k.
    pub(super) fn rule(&self, columns: Range<usize>) -> Rule<'_> {
        Rule {
            method: self.method,
            importance: self.importance.as_ref().map(|all| &all[columns]),
        }
    }

    /// Checks that the importance is of k columns.
    pub(super) fn check(&self, name: &str, k: u64) {
        if let Some(all) = &self.importance {
            assert_eq!(all.len() as u64, k, "importance of the columns of `{name}`");
        }
    }
}
