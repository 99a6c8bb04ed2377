//! Attributes of nodes and functions, and the graphs in them.

use super::Import;
use crate::{
    error::{Error, Result},
    ir::{Attribute, AttributeKind, AttributeValue, AttributeWire, Graph, GraphId, NodeId, Str},
    onnx::{
        proto,
        types::{import_type, text},
    },
};

impl Import {
    pub(super) fn subgraph(
        &mut self,
        owner: Option<NodeId>,
        g: proto::GraphProto,
    ) -> Result<GraphId> {
        let id = self.model.graphs.push(Graph {
            owner,
            ..Graph::default()
        });
        let label = format!("subgraph `{}`", g.name());
        self.graph(id, g).map_err(|e| e.at(label))?;
        Ok(id)
    }

    pub(super) fn attribute(
        &mut self,
        owner: Option<NodeId>,
        a: proto::AttributeProto,
    ) -> Result<Attribute> {
        let name: Str = a.name.clone().unwrap_or_default().into();
        let label = format!("attribute `{name}`");
        let doc_string = text(a.doc_string.clone());
        let (value, wire) = self.attribute_value(owner, a).map_err(|e| e.at(label))?;
        Ok(Attribute {
            name,
            value,
            doc_string,
            wire,
        })
    }

    fn attribute_value(
        &mut self,
        owner: Option<NodeId>,
        a: proto::AttributeProto,
    ) -> Result<(AttributeValue, AttributeWire)> {
        use AttributeKind as K;
        use AttributeValue as V;
        let fields = [
            (K::Float, a.f.is_some()),
            (K::Int, a.i.is_some()),
            (K::String, a.s.is_some()),
            (K::Tensor, a.t.is_some()),
            (K::Graph, a.g.is_some()),
            (K::SparseTensor, a.sparse_tensor.is_some()),
            (K::Type, a.tp.is_some()),
            (K::Floats, !a.floats.is_empty()),
            (K::Ints, !a.ints.is_empty()),
            (K::Strings, !a.strings.is_empty()),
            (K::Tensors, !a.tensors.is_empty()),
            (K::Graphs, !a.graphs.is_empty()),
            (K::SparseTensors, !a.sparse_tensors.is_empty()),
            (K::Types, !a.type_protos.is_empty()),
        ];
        let mut present = fields.iter().filter(|(_, p)| *p).map(|(k, _)| *k);
        let (first, second) = (present.next(), present.next());
        if let (Some(a), Some(b)) = (first, second) {
            return Err(Error::input(format!(
                "has a {a:?} and a {b:?} value; expected one value"
            )));
        }
        let declared = match a.r#type {
            None => None,
            Some(code) => Some(attribute_kind(code)?),
        };
        // Before IR version 2 writers left the type out; the field in use tells it.
        let kind = match declared.filter(|k| *k != K::Undefined).or(first) {
            Some(kind) => kind,
            None => return Err(Error::input("has neither a type nor a value")),
        };
        let wire = AttributeWire {
            typed: declared.is_some(),
            explicit: first.is_some(),
        };
        if let Some(name) = a.ref_attr_name.filter(|n| !n.is_empty()) {
            if first.is_some() {
                return Err(Error::input("refers to another attribute and has a value"));
            }
            let name = name.into();
            return Ok((V::Reference { name, kind }, wire));
        }
        if let Some(found) = first.filter(|f| *f != kind) {
            return Err(Error::input(format!(
                "is declared as {kind:?} but holds a {found:?} value"
            )));
        }
        let missing = || Error::input(format!("is declared as {kind:?} but has no value"));
        let value = match kind {
            K::Undefined => unreachable!("filtered above"),
            K::Float => V::Float(a.f.unwrap_or_default()),
            K::Int => V::Int(a.i.unwrap_or_default()),
            K::String => V::String(a.s.unwrap_or_default()),
            K::Tensor => V::Tensor(Box::new(self.tensor(a.t.ok_or_else(missing)?)?)),
            K::Graph => V::Graph(self.subgraph(owner, a.g.ok_or_else(missing)?)?),
            K::SparseTensor => {
                V::SparseTensor(Box::new(self.sparse(a.sparse_tensor.ok_or_else(missing)?)?))
            }
            K::Type => V::Type(Box::new(import_type(a.tp.ok_or_else(missing)?)?)),
            K::Floats => V::Floats(a.floats),
            K::Ints => V::Ints(a.ints),
            K::Strings => V::Strings(a.strings),
            K::Tensors => {
                let tensors = a.tensors.into_iter();
                V::Tensors(tensors.map(|t| self.tensor(t)).collect::<Result<_>>()?)
            }
            K::Graphs => {
                let graphs = a.graphs.into_iter();
                V::Graphs(
                    graphs
                        .map(|g| self.subgraph(owner, g))
                        .collect::<Result<_>>()?,
                )
            }
            K::SparseTensors => {
                let tensors = a.sparse_tensors.into_iter();
                V::SparseTensors(tensors.map(|t| self.sparse(t)).collect::<Result<_>>()?)
            }
            K::Types => V::Types(
                a.type_protos
                    .into_iter()
                    .map(import_type)
                    .collect::<Result<_>>()?,
            ),
        };
        Ok((value, wire))
    }
}

fn attribute_kind(code: i32) -> Result<AttributeKind> {
    use AttributeKind::*;
    let all = [
        Undefined,
        Float,
        Int,
        String,
        Tensor,
        Graph,
        Floats,
        Ints,
        Strings,
        Tensors,
        Graphs,
        SparseTensor,
        SparseTensors,
        Type,
        Types,
    ];
    all.into_iter().find(|k| *k as i32 == code).ok_or_else(|| {
        Error::input(format!(
            "attribute type {code} is unknown; expected 0 to 14"
        ))
    })
}
