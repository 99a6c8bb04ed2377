//! Which nodes call which local function.

use std::collections::HashMap;

use super::{Function, Node};

/// The local functions by what nodes call them: domain, name and overload. A node that calls
/// one is not the operator of that name, even in the default domain.
pub struct Callees<'m> {
    index: HashMap<(&'m str, &'m str, &'m str), usize>,
}

impl<'m> Callees<'m> {
    /// Indexes `functions`; of two with the same names the first counts.
    pub fn of(functions: &'m [Function]) -> Callees<'m> {
        let mut index = HashMap::new();
        for (i, f) in functions.iter().enumerate() {
            let overload = f.overload.as_deref().unwrap_or_default();
            index.entry((f.domain(), &*f.name, overload)).or_insert(i);
        }
        Callees { index }
    }

    /// Which function `node` calls, if it calls one.
    pub fn called(&self, node: &Node) -> Option<usize> {
        let overload = node.overload.as_deref().unwrap_or_default();
        let key = (node.domain(), &*node.op_type, overload);
        self.index.get(&key).copied()
    }
}
