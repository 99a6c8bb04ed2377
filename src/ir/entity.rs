//! Typed ids and the arena that hands them out.
//!
//! An id is a non-zero `u32`, so `Option<ValueId>` takes four bytes; ids of different
//! entities do not mix. Nothing is ever removed from an arena: an erased node is one
//! that no graph lists any more.

use std::{fmt, hash::Hash, marker::PhantomData, num::NonZeroU32, ops};

/// A key of an [`Arena`].
pub trait EntityId: Copy + Eq + Ord + Hash {
    /// The id of the entity made `index`-th.
    fn from_index(index: usize) -> Self;
    /// The inverse of [`EntityId::from_index`].
    fn index(self) -> usize;
}

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU32);

        impl EntityId for $name {
            fn from_index(index: usize) -> Self {
                let id = u32::try_from(index + 1).expect("fewer than 2^32 entities in a model");
                $name(NonZeroU32::new(id).expect("index + 1 is not zero"))
            }
            fn index(self) -> usize {
                self.0.get() as usize - 1
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.index())
            }
        }
    };
}

entity!(
    /// Names a [`Graph`](super::Graph): the main graph, a subgraph or a function's body.
    GraphId, "graph"
);
entity!(
    /// Names a [`Node`](super::Node).
    NodeId, "node"
);
entity!(
    /// Names a [`Value`](super::Value). Ids are model-wide: a node in a subgraph that
    /// uses a value of an outer graph (a capture) simply holds that value's id.
    ValueId, "v"
);

/// Owns entities; indexed by their ids.
#[derive(Clone)]
pub struct Arena<K, V> {
    items: Vec<V>,
    key: PhantomData<K>,
}

impl<K: EntityId, V> Arena<K, V> {
    /// Adds an entity and returns its id.
    pub fn push(&mut self, item: V) -> K {
        self.items.push(item);
        K::from_index(self.items.len() - 1)
    }

    /// How many entities were ever made.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none was made.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All ids, in the order they were made.
    pub fn ids(&self) -> impl Iterator<Item = K> + use<K, V> {
        (0..self.items.len()).map(K::from_index)
    }
}

impl<K, V> Default for Arena<K, V> {
    fn default() -> Self {
        Arena {
            items: Vec::new(),
            key: PhantomData,
        }
    }
}

impl<K: EntityId, V> ops::Index<K> for Arena<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        &self.items[id.index()]
    }
}

impl<K: EntityId, V> ops::IndexMut<K> for Arena<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        &mut self.items[id.index()]
    }
}

impl<K: EntityId + fmt::Debug, V: fmt::Debug> fmt::Debug for Arena<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.ids().map(|id| (id, &self[id])))
            .finish()
    }
}

/// A side table: a fact about every entity of one kind, computed by an analysis.
#[derive(Clone, Debug)]
pub struct SideTable<K, V> {
    items: Vec<V>,
    default: V,
    key: PhantomData<K>,
}

impl<K: EntityId, V: Clone> SideTable<K, V> {
    /// A table in which every entity has `default`.
    pub fn new(default: V) -> Self {
        SideTable {
            items: Vec::new(),
            default,
            key: PhantomData,
        }
    }
}

impl<K: EntityId, V: Clone> ops::Index<K> for SideTable<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        self.items.get(id.index()).unwrap_or(&self.default)
    }
}

impl<K: EntityId, V: Clone> ops::IndexMut<K> for SideTable<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        if self.items.len() <= id.index() {
            self.items.resize(id.index() + 1, self.default.clone());
        }
        &mut self.items[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_ids_are_small_and_arenas_index_by_them() {
        assert_eq!(size_of::<Option<ValueId>>(), 4);
        let mut arena = Arena::<ValueId, &str>::default();
        let (a, b) = (arena.push("a"), arena.push("b"));
        assert_eq!((arena[a], arena[b], arena.len()), ("a", "b", 2));
        let mut table = SideTable::<ValueId, u8>::new(7);
        table[b] = 1;
        assert_eq!((table[a], table[b]), (7, 1));
    }
}
