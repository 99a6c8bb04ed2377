//! Nodes: which are the same, and what is different in those.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{Compare, FieldChange, field, maps, owned, properties};
use crate::ir::{AttributeValue, EntityId, GraphId, Model, NodeId, SparseTensor, Tensor};

/// A node that one model has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeInfo {
    /// The graph it is in; empty for the main graph.
    pub place: String,
    /// Its label.
    pub label: String,
    /// Its operator, with the domain unless that is the default one.
    pub operator: String,
}

/// A node that both models have, and its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeChange {
    /// The node, in A.
    #[serde(flatten)]
    pub node: NodeInfo,
    /// What is different: operator, inputs, outputs, attributes, texts.
    pub changes: Vec<FieldChange>,
}

/// How many values of a list are shown.
const SHOWN: usize = 8;

impl Compare<'_> {
    /// Matches the nodes of two graphs and compares them.
    pub(super) fn nodes(&mut self, place: &str, a: GraphId, b: GraphId) {
        let (nodes_a, nodes_b) = (&self.a.graphs[a].nodes, &self.b.graphs[b].nodes);
        let index_b = Index::of(self.b, nodes_b);
        let mut taken = vec![false; nodes_b.len()];
        let mut partners: Vec<Option<usize>> = vec![None; nodes_a.len()];
        // All names first: a node found by its outputs must not take another's partner.
        for (partner, &n) in partners.iter_mut().zip(nodes_a) {
            *partner = index_b.by_name(self.a, n).filter(|&p| !taken[p]);
            partner.iter().for_each(|&p| taken[p] = true);
        }
        for (partner, &n) in partners.iter_mut().zip(nodes_a) {
            if partner.is_none() {
                *partner = index_b.by_output(self.a, n).filter(|&p| !taken[p]);
                partner.iter().for_each(|&p| taken[p] = true);
            }
        }
        // What has neither goes by its place among its like.
        let bare = |m: &Model, n: NodeId| name_of(m, n).or(output_of(m, n)).is_none();
        let mut bare_b = (0..nodes_b.len()).filter(|&p| bare(self.b, nodes_b[p]));
        for (partner, &n) in partners.iter_mut().zip(nodes_a) {
            if bare(self.a, n) {
                *partner = bare_b.next();
                partner.iter().for_each(|&p| taken[p] = true);
            }
        }
        let order: Vec<usize> = partners.iter().flatten().copied().collect();
        self.found.nodes_reordered |= !order.is_sorted();
        for (&n, partner) in nodes_a.iter().zip(&partners) {
            match partner {
                Some(p) => self.pair(place, n, nodes_b[*p]),
                None => {
                    let info = info(self.a, place, n);
                    self.found.nodes_removed.push(info);
                }
            }
        }
        for (&n, _) in nodes_b.iter().zip(&taken).filter(|(_, t)| !**t) {
            let info = info(self.b, place, n);
            self.found.nodes_added.push(info);
        }
    }

    fn pair(&mut self, place: &str, a: NodeId, b: NodeId) {
        let (na, nb) = (&self.a.nodes[a], &self.b.nodes[b]);
        let mut changes = Vec::new();
        let out = &mut changes;
        let name = |m: &Model, n: NodeId| Some(operator(m, n));
        field(out, "operator", name(self.a, a), name(self.b, b));
        field(out, "name", owned(&na.name), owned(&nb.name));
        field(out, "overload", owned(&na.overload), owned(&nb.overload));
        let list = |m: &Model, values: &[Option<_>]| {
            let name = |v: &Option<_>| v.map_or("", |v| &*m.values[v].name).to_owned();
            let names: Vec<String> = values.iter().map(name).collect();
            Some(names.join(", "))
        };
        field(
            out,
            "inputs",
            list(self.a, &na.inputs),
            list(self.b, &nb.inputs),
        );
        field(
            out,
            "outputs",
            list(self.a, &na.outputs),
            list(self.b, &nb.outputs),
        );
        field(
            out,
            "doc string",
            owned(&na.doc_string),
            owned(&nb.doc_string),
        );
        let metadata = (properties(&na.metadata), properties(&nb.metadata));
        maps("metadata", &metadata.0, &metadata.1, out);
        super::opaque(
            out,
            "device configurations".into(),
            &na.device_configurations,
            &nb.device_configurations,
        );
        let inner = self.attributes(a, b, out);
        if !changes.is_empty() {
            let node = info(self.a, place, a);
            self.found.nodes_changed.push(NodeChange { node, changes });
        }
        for (name, graph_a, graph_b) in inner {
            let place = format!("{} `{name}`", self.a.label(a));
            self.graphs(&place, graph_a, graph_b);
        }
    }

    /// Notes attributes that are different. Returns the graphs that both nodes have.
    fn attributes(
        &self,
        a: NodeId,
        b: NodeId,
        out: &mut Vec<FieldChange>,
    ) -> Vec<(String, GraphId, GraphId)> {
        let map = |m: &'_ Model, n: NodeId| -> BTreeMap<String, usize> {
            let attributes = m.nodes[n].attributes.iter().enumerate();
            attributes.map(|(i, a)| (a.name.to_string(), i)).collect()
        };
        let (in_a, in_b) = (map(self.a, a), map(self.b, b));
        let mut inner = Vec::new();
        let mut texts = [BTreeMap::new(), BTreeMap::new()];
        let mut docs = [BTreeMap::new(), BTreeMap::new()];
        let sides = [(self.a, a, &in_a), (self.b, b, &in_b)];
        for (i, (m, n, index)) in sides.into_iter().enumerate() {
            for (name, &at) in index {
                let attribute = &m.nodes[n].attributes[at];
                texts[i].insert(name.clone(), attribute_text(m, &attribute.value));
                if let Some(doc) = owned(&attribute.doc_string) {
                    docs[i].insert(name.clone(), doc);
                }
            }
        }
        for (name, &at) in &in_a {
            let Some(&bt) = in_b.get(name) else { continue };
            let va = &self.a.nodes[a].attributes[at].value;
            let vb = &self.b.nodes[b].attributes[bt].value;
            let pairs = va.graphs().iter().zip(vb.graphs());
            inner.extend(pairs.map(|(x, y)| (name.clone(), *x, *y)));
            // Texts show the beginning only.
            if texts[0][name] == texts[1][name] && !equal(va, vb) {
                let text = texts[0][name].clone();
                let what = format!("attribute `{name}`");
                field(
                    out,
                    what,
                    Some(text.clone()),
                    Some(text + ", other elements"),
                );
            }
        }
        maps("attribute", &texts[0], &texts[1], out);
        maps("doc string of attribute", &docs[0], &docs[1], out);
        inner
    }
}

/// Where the nodes of a graph are, by name and by first output.
struct Index<'m> {
    names: HashMap<&'m str, usize>,
    outputs: HashMap<&'m str, usize>,
}

fn name_of(m: &Model, n: NodeId) -> Option<&str> {
    m.nodes[n].name.as_deref().filter(|s| !s.is_empty())
}

fn output_of(m: &Model, n: NodeId) -> Option<&str> {
    let output = m.nodes[n].outputs.iter().flatten().next()?;
    Some(&m.values[*output].name)
}

impl<'m> Index<'m> {
    fn of(m: &'m Model, nodes: &[NodeId]) -> Index<'m> {
        let mut index = Index {
            names: HashMap::new(),
            outputs: HashMap::new(),
        };
        for (i, &n) in nodes.iter().enumerate() {
            if let Some(name) = name_of(m, n) {
                index.names.entry(name).or_insert(i);
            }
            if let Some(output) = output_of(m, n) {
                index.outputs.entry(output).or_insert(i);
            }
        }
        index
    }

    fn by_name(&self, m: &Model, n: NodeId) -> Option<usize> {
        self.names.get(name_of(m, n)?).copied()
    }

    fn by_output(&self, m: &Model, n: NodeId) -> Option<usize> {
        self.outputs.get(output_of(m, n)?).copied()
    }
}

fn operator(m: &Model, n: NodeId) -> String {
    let node = &m.nodes[n];
    match node.domain() {
        "" => node.op_type.to_string(),
        domain => format!("{domain}::{}", node.op_type),
    }
}

fn info(m: &Model, place: &str, n: NodeId) -> NodeInfo {
    NodeInfo {
        place: place.to_owned(),
        label: m.label(n),
        operator: operator(m, n),
    }
}

/// An attribute as text; the beginning of a long one.
pub(super) fn attribute_text(m: &Model, value: &AttributeValue) -> String {
    use AttributeValue as V;
    fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
        let mut texts: Vec<String> = items.iter().take(SHOWN).map(text).collect();
        if items.len() > SHOWN {
            texts.push(format!("... {} in all", items.len()));
        }
        format!("[{}]", texts.join(", "))
    }
    let string = |s: &bytes::Bytes| format!("{:?}", String::from_utf8_lossy(s));
    let tensor = |t: &Tensor| format!("{}{:?}", t.dtype, t.dims);
    let sparse = |s: &SparseTensor| format!("sparse {:?}", s.dims);
    let ty = |t: &crate::ir::Type| crate::inspect::type_name(t);
    let graph = |g: &GraphId| {
        debug_assert!(g.index() < m.graphs.len(), "graphs of the same model");
        "a graph".to_owned()
    };
    match value {
        V::Float(x) => format!("{x:?}"),
        V::Int(i) => i.to_string(),
        V::String(s) => string(s),
        V::Tensor(t) => tensor(t),
        V::Graph(g) => graph(g),
        V::SparseTensor(s) => sparse(s),
        V::Type(t) => ty(t),
        V::Floats(x) => list(x, |x| format!("{x:?}")),
        V::Ints(i) => list(i, i64::to_string),
        V::Strings(s) => list(s, string),
        V::Tensors(t) => list(t, tensor),
        V::Graphs(g) => list(g, graph),
        V::SparseTensors(s) => list(s, sparse),
        V::Types(t) => list(t, ty),
        V::Reference { name, kind } => format!("attribute `{name}` ({kind:?}) of the caller"),
    }
}

/// Whether two attributes are equal. Of graphs only the number counts: what is in them is
/// compared apart.
pub(crate) fn equal(a: &AttributeValue, b: &AttributeValue) -> bool {
    use AttributeValue as V;
    let same = |a: &[f32], b: &[f32]| {
        a.iter()
            .map(|x| x.to_bits())
            .eq(b.iter().map(|x| x.to_bits()))
    };
    match (a, b) {
        (V::Float(a), V::Float(b)) => same(&[*a], &[*b]),
        (V::Floats(a), V::Floats(b)) => same(a, b),
        (V::Int(a), V::Int(b)) => a == b,
        (V::Ints(a), V::Ints(b)) => a == b,
        (V::String(a), V::String(b)) => a == b,
        (V::Strings(a), V::Strings(b)) => a == b,
        (V::Type(a), V::Type(b)) => a == b,
        (V::Types(a), V::Types(b)) => a == b,
        (V::Tensor(a), V::Tensor(b)) => tensors_equal(a, b),
        (V::Tensors(a), V::Tensors(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| tensors_equal(a, b))
        }
        (V::SparseTensor(a), V::SparseTensor(b)) => sparse_equal(a, b),
        (V::SparseTensors(a), V::SparseTensors(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| sparse_equal(a, b))
        }
        (V::Graph(_), V::Graph(_)) => true,
        (V::Graphs(a), V::Graphs(b)) => a.len() == b.len(),
        (V::Reference { name: a, kind: k }, V::Reference { name: b, kind: l }) => a == b && k == l,
        _ => false,
    }
}

/// A constant that cannot be read is not equal to another.
fn tensors_equal(a: &Tensor, b: &Tensor) -> bool {
    a.dtype == b.dtype && a.dims == b.dims && super::weights::equal(a, b).unwrap_or(false)
}

fn sparse_equal(a: &SparseTensor, b: &SparseTensor) -> bool {
    let part = |a: &Option<Tensor>, b: &Option<Tensor>| match (a, b) {
        (Some(a), Some(b)) => tensors_equal(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.dims == b.dims && part(&a.values, &b.values) && part(&a.indices, &b.indices)
}
