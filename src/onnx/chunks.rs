//! Where each large constant lies in the side files.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::encode::{Piece, Placement};
use crate::{
    error::{Error, Result},
    ir::{Constant, Data, Elements, GraphId, Model, NodeId, ValueId, data::DataIdentity},
};

/// Constants below this size stay in the message: the entry that names a place in a side
/// file takes about a hundred bytes itself. ONNX's own writer has the same bound.
const EXTERNAL_FROM: u64 = 1024;

/// Large constants begin at a page, so that a runtime can map them; small ones at a
/// cache line.
const PAGE: u64 = 4096;
const ALIGN_TO_PAGE_FROM: u64 = 64 << 10;
const CACHE_LINE: u64 = 64;

/// The name of side file `chunk` of a model, counted from 0: its own file name with `_data` after it, and
/// then `_data_1`, `_data_2`, which is what transformers.js looks for.
pub fn side_file_name(model: &Path, chunk: usize) -> String {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    match chunk {
        0 => format!("{name}_data"),
        n => format!("{name}_data_{n}"),
    }
}

/// A file of the output: every byte has its place, and no constant is computed yet.
pub(super) struct LayoutFile {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// With their offsets, in ascending order.
    pub(super) pieces: Vec<(u64, Piece)>,
}

/// The side files of a model, and what lies where.
pub(super) struct Chunks {
    pub(super) places: HashMap<ValueId, Placement>,
    pub(super) files: Vec<LayoutFile>,
}

impl Chunks {
    /// Places every large initializer. Those with the same origin (see [`Data::identity`]) share one place.
    ///
    /// Without a `limit` there is one file, in the order of the initializers. With one, no file has more bytes,
    /// and they are in the order of use: what reads them one after the other can begin with the first.
    ///
    /// # Errors
    /// A constant has more bytes than `limit`.
    pub(super) fn of(model: &Model, path: &Path, limit: Option<u64>) -> Result<Chunks> {
        let mut chunks = Chunks {
            places: HashMap::new(),
            files: Vec::new(),
        };
        let mut shared: HashMap<DataIdentity, Placement> = HashMap::new();
        let order = match limit {
            Some(_) => by_use(model),
            None => initializers(model).collect(),
        };
        for value in order {
            let Some(data) = large(model, value) else {
                continue;
            };
            if let Some(limit) = limit.filter(|&l| data.len() > l) {
                return Err(Error::input(format!(
                    "weight `{}` has {} bytes, more than a side file of {limit} bytes can hold; expected a limit of \
                     at least that (--chunk-size)",
                    model.values[value].name,
                    data.len()
                )));
            }
            let place = shared
                .entry(data.identity())
                .or_insert_with(|| chunks.append(path, data, limit));
            chunks.places.insert(value, place.clone());
        }
        Ok(chunks)
    }

    /// Gives `data` the next place.
    fn append(&mut self, path: &Path, data: &Data, limit: Option<u64>) -> Placement {
        let len = data.len();
        let align = match len {
            ALIGN_TO_PAGE_FROM.. => PAGE,
            _ => CACHE_LINE,
        };
        let fits = |f: &LayoutFile| limit.is_none_or(|l| f.len.next_multiple_of(align) + len <= l);
        if !self.files.last().is_some_and(fits) {
            self.files.push(LayoutFile {
                path: path.with_file_name(side_file_name(path, self.files.len())),
                len: 0,
                pieces: Vec::new(),
            });
        }
        let chunk = self.files.len() - 1;
        let file = &mut self.files[chunk];
        let offset = file.len.next_multiple_of(align);
        file.pieces.push((offset, Piece::Data(data.clone())));
        file.len = offset + len;
        Placement { chunk, offset, len }
    }
}

/// The bytes of an initializer that goes to a side file.
fn large(model: &Model, value: ValueId) -> Option<&Data> {
    let Some(Constant::Dense(tensor)) = &model.values[value].constant else {
        return None;
    };
    match &tensor.elements {
        Elements::Data(data) if data.len() >= EXTERNAL_FROM => Some(data),
        _ => None,
    }
}

/// In the order in which they are declared.
fn initializers(model: &Model) -> impl Iterator<Item = ValueId> {
    let graphs = model.reachable_graphs().into_iter();
    graphs.flat_map(|graph| model.graphs[graph].initializers.iter().copied())
}

/// In the order in which nodes read them, and then those that none reads.
fn by_use(model: &Model) -> Vec<ValueId> {
    let declared: HashSet<ValueId> = initializers(model).collect();
    let mut seen = HashSet::new();
    let mut order = Vec::with_capacity(declared.len());
    let mut take = |value: ValueId| {
        if declared.contains(&value) && seen.insert(value) {
            order.push(value);
        }
    };
    read(model, model.main, &mut take);
    initializers(model).for_each(&mut take);
    order
}

/// What the nodes of `graph` read, those in the bodies of a node after its own operands.
fn read(model: &Model, graph: GraphId, take: &mut impl FnMut(ValueId)) {
    let mut bodies: Vec<(GraphId, usize)> = vec![(graph, 0)];
    while let Some((graph, at)) = bodies.pop() {
        let nodes: &[NodeId] = &model.graphs[graph].nodes;
        let Some(&node) = nodes.get(at) else {
            continue;
        };
        bodies.push((graph, at + 1));
        let node = &model.nodes[node];
        node.inputs.iter().flatten().copied().for_each(&mut *take);
        let inner: Vec<GraphId> = node.subgraphs().collect();
        bodies.extend(inner.into_iter().rev().map(|g| (g, 0)));
    }
}
