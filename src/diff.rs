//! What is different between two models.
//!
//! Graphs, functions, inputs, outputs and initializers are matched by name, nodes by name
//! or else by their outputs. What is compared is what a model says, not how the file
//! encodes it: the order of initializers and metadata and the choice of data fields make
//! no difference. Weights are compared in ranges and on all threads, so memory does not
//! depend on their size.

mod nodes;
mod text;
mod weights;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use nodes::{NodeChange, NodeInfo};
pub use weights::{WeightChange, WeightInfo};

#[cfg(feature = "eval")]
pub(crate) use {nodes::equal as same_attribute, weights::equal as same_tensor};

use crate::{
    error::Result,
    inspect::{all_weights, domain_name, operator_counts},
    ir::{Constant, GraphId, Model, OpsetImport, Property, Str, Tensor, ValueId, ValueInfo},
};

/// What is different between model A and model B.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Difference {
    /// Whether nothing is.
    pub same: bool,
    /// Fields of the model: versions, producer, texts, metadata, imports.
    pub model: Vec<FieldChange>,
    /// Inputs and outputs of the main graph, and other descriptions of values.
    pub values: Vec<FieldChange>,
    /// Operators whose number of uses is different.
    pub operators: Vec<OperatorChange>,
    /// Nodes that only B has.
    pub nodes_added: Vec<NodeInfo>,
    /// Nodes that only A has.
    pub nodes_removed: Vec<NodeInfo>,
    /// Nodes that both have.
    pub nodes_changed: Vec<NodeChange>,
    /// Whether nodes that both have come in another order.
    pub nodes_reordered: bool,
    /// Initializers that only B has.
    pub initializers_added: Vec<WeightInfo>,
    /// Initializers that only A has.
    pub initializers_removed: Vec<WeightInfo>,
    /// Initializers that both have.
    pub initializers_changed: Vec<WeightChange>,
    /// Number of nodes in A and B.
    pub nodes: (usize, usize),
    /// Bytes of all constants in A and B.
    pub weight_bytes: (u64, u64),
}

/// A field that is different; none where a side does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The field.
    pub field: String,
    /// In A.
    pub a: Option<String>,
    /// In B.
    pub b: Option<String>,
}

/// An operator that is used more often in one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorChange {
    /// Its domain; the default one is `ai.onnx`.
    pub domain: String,
    /// Its name.
    pub op_type: String,
    /// Nodes in A.
    pub a: usize,
    /// Nodes in B.
    pub b: usize,
}

/// Compares two models.
///
/// # Errors
/// A constant cannot be read.
pub fn diff(a: &Model, b: &Model) -> Result<Difference> {
    let mut found = Difference {
        nodes: (a.reachable_nodes().len(), b.reachable_nodes().len()),
        weight_bytes: (weight_bytes(a), weight_bytes(b)),
        operators: operators(a, b),
        ..Difference::default()
    };
    model_fields(a, b, &mut found.model);
    let mut compare = Compare {
        a,
        b,
        found,
        pairs: Vec::new(),
    };
    compare.graphs("", a.main, b.main);
    compare.functions();
    let Compare {
        mut found, pairs, ..
    } = compare;
    found.initializers_changed = weights::changes(&pairs)?;
    let Difference {
        same: _,
        model,
        values,
        operators,
        nodes_added,
        nodes_removed,
        nodes_changed,
        nodes_reordered,
        initializers_added,
        initializers_removed,
        initializers_changed,
        nodes: _,
        weight_bytes: _,
    } = &found;
    found.same = model.is_empty()
        && values.is_empty()
        && operators.is_empty()
        && nodes_added.is_empty()
        && nodes_removed.is_empty()
        && nodes_changed.is_empty()
        && !nodes_reordered
        && initializers_added.is_empty()
        && initializers_removed.is_empty()
        && initializers_changed.is_empty();
    Ok(found)
}

fn weight_bytes(model: &Model) -> u64 {
    all_weights(model).iter().map(|w| w.tensor.byte_len()).sum()
}

fn operators(a: &Model, b: &Model) -> Vec<OperatorChange> {
    let (a, b) = (operator_counts(a), operator_counts(b));
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let count = |m: &BTreeMap<(String, String), usize>, k: &(String, String)| {
        m.get(k).copied().unwrap_or(0)
    };
    let change = |k: &(String, String)| OperatorChange {
        domain: k.0.clone(),
        op_type: k.1.clone(),
        a: count(&a, k),
        b: count(&b, k),
    };
    let changes = keys.into_iter().map(change);
    changes.filter(|c| c.a != c.b).collect()
}

/// Notes `field` when it is different.
fn field(
    changes: &mut Vec<FieldChange>,
    field: impl Into<String>,
    a: Option<String>,
    b: Option<String>,
) {
    if a != b {
        let field = field.into();
        changes.push(FieldChange { field, a, b });
    }
}

fn owned(s: &Option<Str>) -> Option<String> {
    s.as_deref().filter(|s| !s.is_empty()).map(str::to_owned)
}

fn model_fields(a: &Model, b: &Model, out: &mut Vec<FieldChange>) {
    let number = |n: Option<i64>| n.map(|n| n.to_string());
    field(
        out,
        "ir version",
        number(a.ir_version),
        number(b.ir_version),
    );
    let texts = [
        ("producer name", &a.producer_name, &b.producer_name),
        ("producer version", &a.producer_version, &b.producer_version),
        ("domain", &a.domain, &b.domain),
        ("doc string", &a.doc_string, &b.doc_string),
    ];
    for (name, a, b) in texts {
        field(out, name, owned(a), owned(b));
    }
    let versions = (number(a.model_version), number(b.model_version));
    field(out, "model version", versions.0, versions.1);
    imports("opset", &a.opset_imports, &b.opset_imports, out);
    let mut metadata = [a, b].map(|m| properties(&m.metadata));
    for (model, map) in [a, b].into_iter().zip(&mut metadata) {
        for (key, data) in &model.computed_metadata {
            let text = format!("{} bytes, computed when written", data.len());
            map.insert(key.to_string(), text);
        }
    }
    maps("metadata", &metadata[0], &metadata[1], out);
    let encoded = [
        ("training info", &a.training_info, &b.training_info),
        ("device configuration", &a.configuration, &b.configuration),
    ];
    for (name, a, b) in encoded {
        opaque(out, name.to_owned(), a, b);
    }
}

/// Entries that stay encoded: only their number can be said.
fn opaque(out: &mut Vec<FieldChange>, name: String, a: &[bytes::Bytes], b: &[bytes::Bytes]) {
    if a != b {
        let a = format!("{} entries", a.len());
        field(
            out,
            name,
            Some(a),
            Some(format!("{} other entries", b.len())),
        );
    }
}

fn imports(what: &str, a: &[OpsetImport], b: &[OpsetImport], out: &mut Vec<FieldChange>) {
    let map = |imports: &[OpsetImport]| -> BTreeMap<String, String> {
        let entry = |o: &OpsetImport| {
            let version = o.version.map_or("none".into(), |v| v.to_string());
            (domain_name(o.domain()), version)
        };
        imports.iter().map(entry).collect()
    };
    maps(what, &map(a), &map(b), out);
}

fn properties(p: &[Property]) -> BTreeMap<String, String> {
    let text = |s: &Option<Str>| s.as_deref().unwrap_or_default().to_owned();
    p.iter().map(|p| (text(&p.key), text(&p.value))).collect()
}

fn maps(
    what: &str,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
    out: &mut Vec<FieldChange>,
) {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in keys {
        let name = format!("{what} `{key}`");
        field(out, name, a.get(key).cloned(), b.get(key).cloned());
    }
}

/// Two initializers of the same name.
struct Pair<'m> {
    name: String,
    a: Vec<&'m Tensor>,
    b: Vec<&'m Tensor>,
    /// The shapes of sparse constants are not those of their parts.
    shapes: (Vec<i64>, Vec<i64>),
}

struct Compare<'m> {
    a: &'m Model,
    b: &'m Model,
    found: Difference,
    pairs: Vec<Pair<'m>>,
}

impl<'m> Compare<'m> {
    fn functions(&mut self) {
        let map = |m: &'m Model| -> BTreeMap<String, usize> {
            let key = |f: &crate::ir::Function| {
                let overload = f.overload.as_deref().unwrap_or_default();
                let colon = if overload.is_empty() { "" } else { ":" };
                format!("{}::{}{colon}{overload}", domain_name(f.domain()), f.name)
            };
            let keys = m.functions.iter().enumerate().map(|(i, f)| (key(f), i));
            keys.collect()
        };
        let (in_a, in_b) = (map(self.a), map(self.b));
        let keys: BTreeSet<&String> = in_a.keys().chain(in_b.keys()).collect();
        for key in keys {
            let label = format!("function `{key}`");
            let (a, b) = (in_a.get(key).copied(), in_b.get(key).copied());
            let out = &mut self.found.model;
            let nodes = |m: &Model, f: usize| {
                let graphs = m.graphs_within(m.functions[f].body);
                let count: usize = graphs.iter().map(|g| m.graphs[*g].nodes.len()).sum();
                format!("{count} nodes")
            };
            let (Some(a), Some(b)) = (a, b) else {
                let side = (a.map(|f| nodes(self.a, f)), b.map(|f| nodes(self.b, f)));
                field(out, label, side.0, side.1);
                continue;
            };
            let (fa, fb) = (&self.a.functions[a], &self.b.functions[b]);
            imports(
                &format!("{label}: opset"),
                &fa.opset_imports,
                &fb.opset_imports,
                out,
            );
            let list = |f: &crate::ir::Function| {
                let defaults = f.attribute_defaults.iter().map(|a| a.name.to_string());
                let names = f.attributes.iter().map(|a| a.to_string()).chain(defaults);
                Some(names.collect::<Vec<_>>().join(", "))
            };
            field(out, format!("{label}: attributes"), list(fa), list(fb));
            for da in &fa.attribute_defaults {
                let db = fb.attribute_defaults.iter().find(|d| d.name == da.name);
                let text = |m, d| nodes::attribute_text(m, d);
                let name = format!("{label}: default of `{}`", da.name);
                let mut b_text = db.map(|d| text(self.b, &d.value));
                if db.is_some_and(|d| !nodes::equal(&da.value, &d.value)) {
                    b_text = b_text.map(|t| t + ", other elements");
                }
                field(out, name, Some(text(self.a, &da.value)), b_text);
            }
            self.graphs(&label, fa.body, fb.body);
        }
    }

    /// Compares graph `a` of A with graph `b` of B, and the graphs inside them. `place` is
    /// empty for the main graphs.
    fn graphs(&mut self, place: &str, a: GraphId, b: GraphId) {
        let (ga, gb) = (&self.a.graphs[a], &self.b.graphs[b]);
        let out = &mut self.found.values;
        let at = |what: &str| match place {
            "" => what.to_owned(),
            p => format!("{p}: {what}"),
        };
        field(out, at("graph name"), owned(&ga.name), owned(&gb.name));
        field(
            out,
            at("graph doc string"),
            owned(&ga.doc_string),
            owned(&gb.doc_string),
        );
        let metadata = (properties(&ga.metadata), properties(&gb.metadata));
        maps(&at("graph metadata"), &metadata.0, &metadata.1, out);
        opaque(
            out,
            at("quantization annotations"),
            &ga.quantization_annotations,
            &gb.quantization_annotations,
        );
        let inputs =
            |m: &Model, g: GraphId| ports(m, m.graphs[g].inputs.iter().map(|v| (*v, None)));
        let outputs = |m: &Model, g: GraphId| {
            let outputs = m.graphs[g].outputs.iter();
            ports(m, outputs.map(|o| (o.value, Some(&o.info))))
        };
        port_changes(&at("input"), inputs(self.a, a), inputs(self.b, b), out);
        port_changes(&at("output"), outputs(self.a, a), outputs(self.b, b), out);
        let infos = |m: &Model, g: GraphId| -> BTreeMap<String, String> {
            let listed = ports(m, m.graphs[g].value_info.iter().map(|v| (*v, None)));
            let again = m.graphs[g].repeated_value_info.iter();
            let again = ports(m, again.map(|o| (o.value, Some(&o.info))));
            let again = again.into_iter().map(|(k, v)| (k + " (again)", v));
            listed.into_iter().chain(again).collect()
        };
        maps(&at("value"), &infos(self.a, a), &infos(self.b, b), out);
        self.initializers(place, a, b);
        self.nodes(place, a, b);
    }

    fn initializers(&mut self, place: &str, a: GraphId, b: GraphId) {
        fn map(m: &Model, g: GraphId) -> BTreeMap<&str, &Constant> {
            let g = &m.graphs[g];
            let values = g.initializers.iter().chain(&g.sparse_initializers);
            values
                .filter_map(|v| Some((&*m.values[*v].name, m.values[*v].constant.as_ref()?)))
                .collect()
        }
        let (in_a, in_b) = (map(self.a, a), map(self.b, b));
        let full = |name: &str| match place {
            "" => name.to_owned(),
            p => format!("{p}: {name}"),
        };
        for (name, ca) in &in_a {
            let Some(cb) = in_b.get(name) else {
                let info = WeightInfo::new(full(name), ca);
                self.found.initializers_removed.push(info);
                continue;
            };
            self.pairs.push(Pair {
                name: full(name),
                a: parts(ca),
                b: parts(cb),
                shapes: (shape(ca), shape(cb)),
            });
        }
        for (name, cb) in in_b.iter().filter(|(name, _)| !in_a.contains_key(*name)) {
            let info = WeightInfo::new(full(name), cb);
            self.found.initializers_added.push(info);
        }
    }
}

/// The dense tensors that a constant consists of.
fn parts(c: &Constant) -> Vec<&Tensor> {
    match c {
        Constant::Dense(t) => vec![t],
        Constant::Sparse(s) => s.values.iter().chain(&s.indices).collect(),
    }
}

fn shape(c: &Constant) -> Vec<i64> {
    match c {
        Constant::Dense(t) => t.dims.clone(),
        Constant::Sparse(s) => s.dims.clone(),
    }
}

/// Name and description of values.
fn ports<'m>(
    m: &'m Model,
    values: impl Iterator<Item = (ValueId, Option<&'m ValueInfo>)>,
) -> Vec<(String, String)> {
    let text = |info: Option<&ValueInfo>| {
        let Some(info) = info else {
            return "no information".to_owned();
        };
        let mut text = info
            .ty
            .as_ref()
            .map_or("unknown".into(), crate::inspect::type_name);
        let denotations = info.ty.iter().flat_map(|t| {
            let shape = t.as_tensor().and_then(|t| t.shape.as_ref());
            let axes = shape.into_iter().flatten().map(|d| &d.denotation);
            std::iter::once(&t.denotation).chain(axes).flatten()
        });
        for d in denotations {
            text.push_str(&format!(" ({d})"));
        }
        if let Some(doc) = owned(&info.doc_string) {
            text.push_str(&format!(", doc string {doc:?}"));
        }
        for (key, value) in properties(&info.metadata) {
            text.push_str(&format!(", metadata {key:?} = {value:?}"));
        }
        text
    };
    values
        .map(|(v, info)| {
            let value = &m.values[v];
            (value.name.to_string(), text(info.or(value.info.as_ref())))
        })
        .collect()
}

/// Inputs or outputs: by name, and then their order.
fn port_changes(
    what: &str,
    a: Vec<(String, String)>,
    b: Vec<(String, String)>,
    out: &mut Vec<FieldChange>,
) {
    let before = out.len();
    let maps_of = |p: &[(String, String)]| p.iter().cloned().collect();
    maps(what, &maps_of(&a), &maps_of(&b), out);
    if out.len() == before {
        let order = |p: &[(String, String)]| {
            let names: Vec<&str> = p.iter().map(|(n, _)| n.as_str()).collect();
            Some(names.join(", "))
        };
        field(out, format!("{what}s in order"), order(&a), order(&b));
    }
}
