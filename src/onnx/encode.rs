//! Turns the IR into wire format without touching a weight: a [`Rope`] of encoded bytes
//! and references to constants, in the field order of the format's own encoders.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::{
    proto::{self, TensorProto},
    typed::put_typed,
    types::{export_properties, export_type, owned},
};
use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Constant, Data, Elements, Function, GraphId, GraphOutput, Model,
        Node, OpsetImport, SparseTensor, Tensor, ValueId, ValueInfo,
    },
};

/// Constants in memory below this size are copied into the encoded bytes around them: a
/// write of its own for each of thousands of scalars would cost more.
const INLINE: usize = 16 << 10;

/// A stretch of output.
#[derive(Debug)]
pub(super) enum Piece {
    /// Encoded already.
    Bytes(Vec<u8>),
    /// The bytes of a constant.
    Data(Data),
}

/// Output whose constants are not there yet, but whose length is known.
#[derive(Debug, Default)]
pub(super) struct Rope {
    pub(super) pieces: Vec<Piece>,
    pub(super) len: u64,
}

impl Rope {
    /// The end of the encoded bytes, to append to.
    fn tail(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.pieces.last(), Some(Piece::Bytes(_))) {
            self.pieces.push(Piece::Bytes(Vec::new()));
        }
        let Some(Piece::Bytes(bytes)) = self.pieces.last_mut() else {
            unreachable!("pushed above");
        };
        let before = bytes.len();
        write(bytes);
        self.len += (bytes.len() - before) as u64;
    }

    /// All fields of `message`. Concatenated encodings are the encoding of the merged
    /// message, so a message can be written in parts around fields written otherwise.
    fn message(&mut self, message: &impl Message) {
        self.tail(|out| message.encode_raw(out));
    }

    fn key(&mut self, field: u32, len: u64) {
        self.tail(|out| {
            encode_key(field, WireType::LengthDelimited, out);
            encode_varint(len, out);
        });
    }

    /// `inner` as field number `field`.
    fn nest(&mut self, field: u32, inner: Rope) {
        self.key(field, inner.len);
        for piece in inner.pieces {
            match piece {
                Piece::Bytes(b) => self.tail(|out| out.extend_from_slice(&b)),
                Piece::Data(d) => self.data(d),
            }
        }
    }

    fn bytes(&mut self, field: u32, content: &Bytes) {
        self.key(field, content.len() as u64);
        self.tail(|out| out.extend_from_slice(content));
    }

    fn data(&mut self, data: Data) {
        if let Data::Bytes(bytes) = &data
            && bytes.len() < INLINE
        {
            return self.tail(|out| out.extend_from_slice(bytes));
        }
        self.len += data.len();
        self.pieces.push(Piece::Data(data));
    }
}

/// Where an initializer that goes to a side file lies.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// Which side file.
    pub(super) chunk: usize,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What the encoder asks about each initializer.
pub(super) struct Encoder<'a> {
    pub(super) model: &'a Model,
    /// The place in the side files; `None`: keep the constant inline.
    pub(super) place: &'a dyn Fn(ValueId) -> Option<Placement>,
    /// Names of the side files.
    pub(super) locations: &'a [String],
}

impl Encoder<'_> {
    /// The whole model.
    pub(super) fn model(&self) -> Result<Rope> {
        let m = self.model;
        let mut out = Rope::default();
        out.message(&proto::ModelProto {
            ir_version: m.ir_version,
            producer_name: owned(&m.producer_name),
            producer_version: owned(&m.producer_version),
            domain: owned(&m.domain),
            model_version: m.model_version,
            doc_string: owned(&m.doc_string),
            ..Default::default()
        });
        out.nest(7, self.graph(m.main)?);
        out.message(&proto::ModelProto {
            opset_import: m.opset_imports.iter().map(opset).collect(),
            metadata_props: export_properties(&m.metadata),
            ..Default::default()
        });
        for (key, value) in &m.computed_metadata {
            out.nest(14, computed_property(key, value));
        }
        m.training_info.iter().for_each(|t| out.bytes(20, t));
        for function in &m.functions {
            out.nest(25, self.function(function)?);
        }
        m.configuration.iter().for_each(|c| out.bytes(26, c));
        Ok(out)
    }

    fn graph(&self, id: GraphId) -> Result<Rope> {
        let m = self.model;
        let g = &m.graphs[id];
        let mut out = Rope::default();
        for &node in &g.nodes {
            out.nest(1, self.node(&m.nodes[node])?);
        }
        out.message(&proto::GraphProto {
            name: owned(&g.name),
            ..Default::default()
        });
        for &value in &g.initializers {
            let Some(Constant::Dense(tensor)) = &m.values[value].constant else {
                unreachable!("`initializers` lists values with a dense constant");
            };
            let name = Some(m.values[value].name.to_string());
            out.nest(5, self.tensor(tensor, name, (self.place)(value))?);
        }
        let input = |&v: &ValueId| {
            let info = m.values[v].info.clone().unwrap_or_default();
            value_info(m, v, &info)
        };
        let listed = |o: &GraphOutput| value_info(m, o.value, &o.info);
        out.message(&proto::GraphProto {
            doc_string: owned(&g.doc_string),
            input: g.inputs.iter().map(input).collect(),
            output: g.outputs.iter().map(listed).collect(),
            value_info: g
                .value_info
                .iter()
                .map(input)
                .chain(g.repeated_value_info.iter().map(listed))
                .collect(),
            ..Default::default()
        });
        g.quantization_annotations
            .iter()
            .for_each(|q| out.bytes(14, q));
        for &value in &g.sparse_initializers {
            let Some(Constant::Sparse(sparse)) = &m.values[value].constant else {
                unreachable!("`sparse_initializers` lists values with a sparse constant");
            };
            let name = &m.values[value].name;
            out.nest(15, self.sparse(sparse, Some(name))?);
        }
        out.message(&proto::GraphProto {
            metadata_props: export_properties(&g.metadata),
            ..Default::default()
        });
        Ok(out)
    }

    fn function(&self, f: &Function) -> Result<Rope> {
        let m = self.model;
        let body = &m.graphs[f.body];
        let name = |v: ValueId| m.values[v].name.to_string();
        let mut out = Rope::default();
        out.message(&proto::FunctionProto {
            name: (!f.name.is_empty()).then(|| f.name.to_string()),
            input: body.inputs.iter().map(|&v| name(v)).collect(),
            output: body.outputs.iter().map(|o| name(o.value)).collect(),
            attribute: f.attributes.iter().map(|a| a.to_string()).collect(),
            ..Default::default()
        });
        for &node in &body.nodes {
            out.nest(7, self.node(&m.nodes[node])?);
        }
        out.message(&proto::FunctionProto {
            doc_string: owned(&body.doc_string),
            opset_import: f.opset_imports.iter().map(opset).collect(),
            domain: owned(&f.domain),
            ..Default::default()
        });
        for attribute in &f.attribute_defaults {
            out.nest(11, self.attribute(attribute)?);
        }
        out.message(&proto::FunctionProto {
            value_info: body
                .value_info
                .iter()
                .map(|&v| value_info(m, v, &m.values[v].info.clone().unwrap_or_default()))
                .chain(
                    body.repeated_value_info
                        .iter()
                        .map(|o| value_info(m, o.value, &o.info)),
                )
                .collect(),
            overload: owned(&f.overload),
            metadata_props: export_properties(&body.metadata),
            ..Default::default()
        });
        Ok(out)
    }

    fn node(&self, n: &Node) -> Result<Rope> {
        let names = |list: &[Option<ValueId>]| -> Vec<String> {
            let name = |v: &Option<ValueId>| match v {
                Some(v) => self.model.values[*v].name.to_string(),
                None => String::new(),
            };
            list.iter().map(name).collect()
        };
        let mut out = Rope::default();
        out.message(&proto::NodeProto {
            input: names(&n.inputs),
            output: names(&n.outputs),
            name: owned(&n.name),
            op_type: (!n.op_type.is_empty()).then(|| n.op_type.to_string()),
            ..Default::default()
        });
        for attribute in &n.attributes {
            out.nest(5, self.attribute(attribute)?);
        }
        out.message(&proto::NodeProto {
            doc_string: owned(&n.doc_string),
            domain: owned(&n.domain),
            overload: owned(&n.overload),
            metadata_props: export_properties(&n.metadata),
            ..Default::default()
        });
        n.device_configurations
            .iter()
            .for_each(|d| out.bytes(10, d));
        Ok(out)
    }

    /// Fields in ascending order: name 1, f 2, i 3, s 4, t 5, g 6, floats 7, ints 8,
    /// strings 9, tensors 10, graphs 11, doc_string 13, tp 14, type_protos 15, type 20,
    /// ref_attr_name 21, sparse_tensor 22, sparse_tensors 23.
    fn attribute(&self, a: &Attribute) -> Result<Rope> {
        use AttributeValue as V;
        let mut out = Rope::default();
        let mut head = proto::AttributeProto {
            name: (!a.name.is_empty()).then(|| a.name.to_string()),
            ..Default::default()
        };
        let mut tail = proto::AttributeProto {
            doc_string: owned(&a.doc_string),
            r#type: a.wire.typed.then_some(a.value.kind() as i32),
            ..Default::default()
        };
        let explicit = a.wire.explicit;
        match &a.value {
            V::Float(f) => head.f = explicit.then_some(*f),
            V::Int(i) => head.i = explicit.then_some(*i),
            V::String(s) => head.s = explicit.then(|| s.clone()),
            V::Floats(f) => head.floats = f.clone(),
            V::Ints(i) => head.ints = i.clone(),
            V::Strings(s) => head.strings = s.clone(),
            V::Type(t) => tail.tp = Some(export_type(t)),
            V::Types(t) => tail.type_protos = t.iter().map(export_type).collect(),
            V::Reference { name, .. } => tail.ref_attr_name = Some(name.to_string()),
            V::Tensor(_) | V::Graph(_) | V::Tensors(_) | V::Graphs(_) => {}
            V::SparseTensor(_) | V::SparseTensors(_) => {}
        }
        out.message(&head);
        for t in a.value.tensors() {
            let field = if matches!(a.value, V::Tensor(_)) {
                5
            } else {
                10
            };
            out.nest(field, self.tensor(t, owned(&t.name), None)?);
        }
        for &g in a.value.graphs() {
            let field = if matches!(a.value, V::Graph(_)) {
                6
            } else {
                11
            };
            out.nest(field, self.graph(g)?);
        }
        out.message(&tail);
        match &a.value {
            V::SparseTensor(s) => out.nest(22, self.sparse(s, None)?),
            V::SparseTensors(list) => {
                for s in list {
                    out.nest(23, self.sparse(s, None)?);
                }
            }
            _ => {}
        }
        Ok(out)
    }

    fn sparse(&self, s: &SparseTensor, name: Option<&str>) -> Result<Rope> {
        let mut out = Rope::default();
        if let Some(values) = &s.values {
            let name = name.filter(|n| !n.is_empty()).map(str::to_owned);
            out.nest(
                1,
                self.tensor(values, name.or_else(|| owned(&values.name)), None)?,
            );
        }
        if let Some(indices) = &s.indices {
            out.nest(2, self.tensor(indices, owned(&indices.name), None)?);
        }
        out.message(&proto::SparseTensorProto {
            dims: s.dims.clone(),
            ..Default::default()
        });
        Ok(out)
    }

    /// Fields in ascending order: dims 1, data_type 2, segment 3, typed data 4 to 7,
    /// name 8, raw_data 9, double_data 10, uint64_data 11, doc_string 12,
    /// external_data 13, data_location 14, metadata_props 16.
    fn tensor(&self, t: &Tensor, name: Option<String>, place: Option<Placement>) -> Result<Rope> {
        let mut out = Rope::default();
        let mut head = TensorProto {
            dims: t.dims.clone(),
            data_type: Some(t.dtype.code()),
            segment: t
                .wire
                .segment
                .map(|(begin, end)| proto::tensor_proto::Segment { begin, end }),
            name: name.filter(|n| !n.is_empty()),
            ..Default::default()
        };
        let mut tail = TensorProto {
            doc_string: owned(&t.doc_string),
            metadata_props: export_properties(&t.metadata),
            ..Default::default()
        };
        let default = proto::tensor_proto::DataLocation::Default as i32;
        tail.data_location = t.wire.explicit_location.then_some(default);
        match (&t.elements, place) {
            (Elements::Strings(s), _) => head.string_data = s.clone(),
            (Elements::Data(_), Some(place)) => {
                let entry = |key: &str, value: String| proto::StringStringEntryProto {
                    key: Some(key.to_owned()),
                    value: Some(value),
                };
                tail.data_location = Some(proto::tensor_proto::DataLocation::External as i32);
                tail.external_data = vec![
                    entry("location", self.locations[place.chunk].clone()),
                    entry("offset", place.offset.to_string()),
                    entry("length", place.len.to_string()),
                ];
            }
            (Elements::Data(data), None) if t.wire.typed => {
                let count = t.element_count().unwrap_or(0);
                put_typed(t.dtype, count, &data.read_all()?, &mut head, &mut tail);
            }
            (Elements::Data(data), None) => {
                out.message(&head);
                out.key(9, data.len());
                out.data(data.clone());
                out.message(&tail);
                return Ok(out);
            }
        }
        out.message(&head);
        out.message(&tail);
        Ok(out)
    }
}

fn computed_property(key: &str, value: &Data) -> Rope {
    let mut out = Rope::default();
    out.message(&proto::StringStringEntryProto {
        key: Some(key.to_owned()),
        value: None,
    });
    out.key(2, value.len());
    out.data(value.clone());
    out
}

fn opset(o: &OpsetImport) -> proto::OperatorSetIdProto {
    proto::OperatorSetIdProto {
        domain: owned(&o.domain),
        version: o.version,
    }
}

fn value_info(model: &Model, value: ValueId, info: &ValueInfo) -> proto::ValueInfoProto {
    proto::ValueInfoProto {
        name: Some(model.values[value].name.to_string()),
        r#type: info.ty.as_ref().map(export_type),
        doc_string: owned(&info.doc_string),
        metadata_props: export_properties(&info.metadata),
    }
}
