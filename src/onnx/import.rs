//! Reads a model: maps the file, decodes it with prost, converts it to the IR.

use std::{collections::HashMap, fs::File, path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    external::SideFiles,
    proto,
    types::{data_type, import_properties, import_type, text},
    unknown::unknown_fields,
};
use crate::{
    error::{Error, Result},
    ir::{
        Attribute, AttributeKind, AttributeValue, AttributeWire, Constant, Data, Def, Elements,
        Function, Graph, GraphId, GraphOutput, Model, Node, NodeId, OpsetImport, SourceFile,
        SparseTensor, Str, Tensor, TensorWire, Value, ValueId, ValueInfo, element_count,
    },
};

/// From this size on, a constant of the mapped model is read by position instead of
/// through the map: mapped pages would stay resident. Below it are the thousands of
/// scalars and shapes, which live in pages that decoding touched anyway.
const READ_BY_POSITION: usize = 64 << 10;

/// How to open a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Go on when the file has fields that the format does not define, and lose them.
    pub drop_unknown: bool,
}

/// A model with the files it came from.
#[derive(Debug)]
pub struct Opened {
    /// The model.
    pub model: Model,
    /// The model file.
    pub file: Arc<SourceFile>,
    /// The side files that its constants are in, sorted by path.
    pub side_files: Vec<Arc<SourceFile>>,
    /// Paths of unknown fields that were dropped, each ending in the field's number.
    pub dropped: Vec<String>,
}

/// Opens the model at `path`. Constants are not read; large ones stay ranges of the file.
///
/// # Errors
/// The file or a side file cannot be read, is not ONNX, has fields that the format does
/// not define, contradicts itself (lengths against shapes), or is not in SSA form and
/// topological order. The message names the place.
pub fn open(path: &Path, options: OpenOptions) -> Result<Opened> {
    let name = || format!("`{}`", path.display());
    let file = Arc::new(SourceFile::open(path)?);
    let bytes = map(file.file()).map_err(|e| Error::io(name(), e))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let imported = Import::new(&bytes, Some(file.clone()), folder).run(options);
    let (model, side_files, dropped) = imported.map_err(|e| e.at(name()))?;
    Ok(Opened {
        model,
        file,
        side_files,
        dropped,
    })
}

/// Reads a model that is in memory; its side files are looked for in `folder`.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(bytes: &Bytes, folder: &Path, options: OpenOptions) -> Result<Model> {
    Ok(Import::new(bytes, None, folder).run(options)?.0)
}

fn map(file: &File) -> std::io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and private to this process. onnxq itself never writes
    // to or truncates a file that it reads: outputs are new files that are renamed into
    // place. Another process that truncates the model while it is read can end this one
    // with SIGBUS, as with every reader that maps its input; no memory is corrupted.
    // Test: tests/roundtrip.rs reads models through this map and writes over their path.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

struct Import {
    model: Model,
    side_files: SideFiles,
    bytes: Bytes,
    /// The file that `bytes` are a map of.
    file: Option<Arc<SourceFile>>,
    /// Names visible where the import is, innermost scope last.
    scopes: Vec<HashMap<Str, ValueId>>,
}

impl Import {
    fn new(bytes: &Bytes, file: Option<Arc<SourceFile>>, folder: &Path) -> Import {
        Import {
            model: Model::new(0, 0),
            side_files: SideFiles::in_folder(folder),
            bytes: bytes.clone(),
            file,
            scopes: Vec::new(),
        }
    }

    /// The model, its side files, and the unknown fields that were dropped.
    fn run(mut self, options: OpenOptions) -> Result<(Model, Vec<Arc<SourceFile>>, Vec<String>)> {
        if self.bytes.is_empty() {
            return Err(Error::input("the file is empty, expected an ONNX model"));
        }
        let dropped = unknown_fields(&self.bytes, 8);
        let decoded = proto::ModelProto::decode(self.bytes.clone())
            .map_err(|e| Error::input("not an ONNX model").with_source(e))?;
        if !dropped.is_empty() && !options.drop_unknown {
            return Err(Error::input(format!(
                "unknown fields {}; onnxq knows IR version 14, and \
                 writing the model would lose them; --drop-unknown goes on without them",
                dropped.join(", ")
            )));
        }
        self.model(decoded)?;
        Ok((self.model, self.side_files.files(), dropped))
    }

    fn model(&mut self, m: proto::ModelProto) -> Result<()> {
        let graph = m.graph.ok_or_else(|| {
            Error::input("the model has no graph: truncated, or not an ONNX model")
        })?;
        self.model.ir_version = m.ir_version;
        self.model.opset_imports = m.opset_import.into_iter().map(opset).collect();
        self.model.producer_name = text(m.producer_name);
        self.model.producer_version = text(m.producer_version);
        self.model.domain = text(m.domain);
        self.model.model_version = m.model_version;
        self.model.doc_string = text(m.doc_string);
        self.model.metadata = import_properties(m.metadata_props);
        self.model.training_info = encoded(&m.training_info);
        self.model.configuration = encoded(&m.configuration);
        let main = self.model.main;
        self.graph(main, graph)?;
        for function in m.functions {
            let label = format!("function `{}`", function.name());
            self.function(function).map_err(|e| e.at(label))?;
        }
        Ok(())
    }

    /// Adds a value to the innermost scope.
    fn define(&mut self, name: String, def: Def) -> Result<ValueId> {
        if name.is_empty() {
            return Err(Error::input("a value has an empty name"));
        }
        let name: Str = name.into();
        let scope = self.scopes.last_mut().expect("a graph is being imported");
        if scope.contains_key(&name) {
            return Err(Error::input(format!(
                "value `{name}` is defined twice; expected one producer of each value"
            )));
        }
        let id = self.model.values.push(Value {
            name: name.clone(),
            def,
            info: None,
            constant: None,
        });
        scope.insert(name, id);
        Ok(id)
    }

    fn lookup(&self, name: &str) -> Option<ValueId> {
        self.scopes.iter().rev().find_map(|s| s.get(name).copied())
    }

    fn graph(&mut self, id: GraphId, g: proto::GraphProto) -> Result<()> {
        self.scopes.push(HashMap::new());
        let result = self.graph_in_scope(id, g);
        self.scopes.pop();
        result
    }

    fn graph_in_scope(&mut self, id: GraphId, g: proto::GraphProto) -> Result<()> {
        {
            let graph = &mut self.model.graphs[id];
            graph.name = text(g.name);
            graph.doc_string = text(g.doc_string);
            graph.metadata = import_properties(g.metadata_props);
            graph.quantization_annotations = encoded(&g.quantization_annotation);
        }
        for input in g.input {
            let (name, info) = value_info(input).map_err(|e| e.at("graph input"))?;
            let value = self.define(name, Def::Input(id))?;
            self.model.values[value].info = Some(info);
            self.model.graphs[id].inputs.push(value);
        }
        for mut tensor in g.initializer {
            let name = tensor.name.take().unwrap_or_default();
            let label = format!("initializer `{name}`");
            let tensor = self.tensor(tensor).map_err(|e| e.at(label.clone()))?;
            let value = self
                .initializer(id, name, Constant::Dense(tensor))
                .map_err(|e| e.at(label))?;
            self.model.graphs[id].initializers.push(value);
        }
        for mut sparse in g.sparse_initializer {
            let values = sparse.values.as_mut();
            let name = values.and_then(|v| v.name.take()).unwrap_or_default();
            let label = format!("sparse initializer `{name}`");
            let sparse = self.sparse(sparse).map_err(|e| e.at(label.clone()))?;
            let constant = Constant::Sparse(Box::new(sparse));
            let value = self
                .initializer(id, name, constant)
                .map_err(|e| e.at(label))?;
            self.model.graphs[id].sparse_initializers.push(value);
        }
        self.nodes(id, g.node)?;
        for output in g.output {
            let (name, info) = value_info(output).map_err(|e| e.at("graph output"))?;
            let value = self.lookup(&name).ok_or_else(|| {
                Error::input(format!("graph output `{name}`: nothing defines this value"))
            })?;
            self.model.graphs[id]
                .outputs
                .push(GraphOutput { value, info });
        }
        self.value_infos(id, g.value_info)
    }

    fn initializer(&mut self, graph: GraphId, name: String, constant: Constant) -> Result<ValueId> {
        let scope = self.scopes.last().expect("a graph is being imported");
        let value = match scope.get(&*name).copied() {
            // Also listed as a graph input.
            Some(v)
                if matches!(self.model.values[v].def, Def::Input(_))
                    && self.model.values[v].constant.is_none() =>
            {
                v
            }
            _ => self.define(name, Def::Initializer(graph))?,
        };
        self.model.values[value].constant = Some(constant);
        Ok(value)
    }

    fn value_infos(&mut self, id: GraphId, infos: Vec<proto::ValueInfoProto>) -> Result<()> {
        for entry in infos {
            let (name, info) = value_info(entry).map_err(|e| e.at("value_info"))?;
            let scope = self.scopes.last().expect("a graph is being imported");
            let value = match scope.get(&*name).copied() {
                Some(value) if self.model.values[value].info.is_some() => {
                    let again = GraphOutput { value, info };
                    self.model.graphs[id].repeated_value_info.push(again);
                    continue;
                }
                Some(v) => v,
                None => self.define(name, Def::Nothing(id))?,
            };
            self.model.values[value].info = Some(info);
            self.model.graphs[id].value_info.push(value);
        }
        Ok(())
    }

    fn nodes(&mut self, graph: GraphId, nodes: Vec<proto::NodeProto>) -> Result<()> {
        // Only built when a name is not found: where the rest of the graph defines it.
        let later = |rest: &[proto::NodeProto], name: &str| {
            rest.iter()
                .find(|n| n.output.iter().any(|o| o == name))
                .map(|n| label(n.name(), n.op_type()))
        };
        let mut nodes = nodes.into_iter();
        while let Some(mut node) = nodes.next() {
            let at = label(node.name(), node.op_type());
            let mut inputs = Vec::with_capacity(node.input.len());
            for name in &node.input {
                if name.is_empty() {
                    inputs.push(None);
                    continue;
                }
                let value = self.lookup(name).ok_or_else(|| {
                    let own = node.output.contains(name).then(|| at.clone());
                    let why = match own.or_else(|| later(nodes.as_slice(), name)) {
                        Some(producer) => format!(
                            "input `{name}` is made only later, by {producer}: the nodes form a \
                             cycle or are not in topological order"
                        ),
                        None => format!("input `{name}` is defined nowhere before it"),
                    };
                    Error::input(why).at(at.clone())
                })?;
                inputs.push(Some(value));
            }
            let id = self.model.nodes.push(Node {
                graph,
                name: text(node.name.take()),
                op_type: node.op_type.take().unwrap_or_default().into(),
                domain: text(node.domain.take()),
                overload: text(node.overload.take()),
                inputs,
                outputs: Vec::new(),
                attributes: Vec::new(),
                doc_string: text(node.doc_string.take()),
                metadata: import_properties(node.metadata_props),
                device_configurations: encoded(&node.device_configurations),
            });
            for attribute in node.attribute {
                let attribute = self
                    .attribute(Some(id), attribute)
                    .map_err(|e| e.at(at.clone()))?;
                self.model.nodes[id].attributes.push(attribute);
            }
            for (slot, name) in node.output.into_iter().enumerate() {
                let value = match name.is_empty() {
                    true => None,
                    false => Some(
                        self.define(name, Def::Node(id, slot as u32))
                            .map_err(|e| e.at(at.clone()))?,
                    ),
                };
                self.model.nodes[id].outputs.push(value);
            }
            self.model.graphs[graph].nodes.push(id);
        }
        Ok(())
    }

    fn function(&mut self, f: proto::FunctionProto) -> Result<()> {
        let body = self.model.graphs.push(Graph {
            doc_string: text(f.doc_string),
            metadata: import_properties(f.metadata_props),
            ..Graph::default()
        });
        let mut attribute_defaults = Vec::new();
        for a in f.attribute_proto {
            attribute_defaults.push(self.attribute(None, a)?);
        }
        self.model.functions.push(Function {
            name: f.name.unwrap_or_default().into(),
            domain: text(f.domain),
            overload: text(f.overload),
            attributes: f.attribute.into_iter().map(Str::from).collect(),
            attribute_defaults,
            opset_imports: f.opset_import.into_iter().map(opset).collect(),
            body,
        });
        // A body sees nothing of the model around it.
        let outer = std::mem::replace(&mut self.scopes, vec![HashMap::new()]);
        for name in f.input {
            let value = self.define(name, Def::Input(body))?;
            self.model.graphs[body].inputs.push(value);
        }
        self.nodes(body, f.node)?;
        for name in f.output {
            let value = self.lookup(&name).ok_or_else(|| {
                Error::input(format!("output `{name}`: nothing defines this value"))
            })?;
            let info = ValueInfo::default();
            self.model.graphs[body]
                .outputs
                .push(GraphOutput { value, info });
        }
        self.value_infos(body, f.value_info)?;
        self.scopes = outer;
        Ok(())
    }

    fn subgraph(&mut self, owner: Option<NodeId>, g: proto::GraphProto) -> Result<GraphId> {
        let id = self.model.graphs.push(Graph {
            owner,
            ..Graph::default()
        });
        let label = format!("subgraph `{}`", g.name());
        self.graph(id, g).map_err(|e| e.at(label))?;
        Ok(id)
    }

    fn attribute(&mut self, owner: Option<NodeId>, a: proto::AttributeProto) -> Result<Attribute> {
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

    fn sparse(&mut self, s: proto::SparseTensorProto) -> Result<SparseTensor> {
        Ok(SparseTensor {
            values: s.values.map(|t| self.tensor(t)).transpose()?,
            indices: s.indices.map(|t| self.tensor(t)).transpose()?,
            dims: s.dims,
        })
    }

    fn tensor(&mut self, t: proto::TensorProto) -> Result<Tensor> {
        let dtype = data_type(t.data_type())?;
        let count = element_count(&t.dims).ok_or_else(|| {
            Error::input(format!(
                "shape {:?} has a negative extent or is too large",
                t.dims
            ))
        })?;
        let external = t.data_location == Some(proto::tensor_proto::DataLocation::External as i32);
        let places = [
            (
                "raw_data",
                t.raw_data.as_ref().is_some_and(|r| !r.is_empty()),
            ),
            ("float_data", !t.float_data.is_empty()),
            ("int32_data", !t.int32_data.is_empty()),
            ("string_data", !t.string_data.is_empty()),
            ("int64_data", !t.int64_data.is_empty()),
            ("double_data", !t.double_data.is_empty()),
            ("uint64_data", !t.uint64_data.is_empty()),
            ("external_data", external),
        ];
        let used: Vec<&str> = places
            .iter()
            .filter(|(_, used)| *used)
            .map(|(name, _)| *name)
            .collect();
        if used.len() > 1 {
            return Err(Error::input(format!(
                "has elements in {}; expected one place",
                used.join(" and ")
            )));
        }
        let typed = used
            .first()
            .is_some_and(|place| !["raw_data", "external_data"].contains(place));
        let raw = t.raw_data.is_some() && !external && !typed;
        let wire = TensorWire {
            typed: !raw && !external,
            explicit_location: t.data_location.is_some() && !external,
            segment: t.segment.map(|s| (s.begin, s.end)),
        };
        let elements = if dtype == crate::ir::DataType::String {
            if t.string_data.len() as u64 != count {
                return Err(Error::input(format!(
                    "string_data has {} elements, but shape {:?} has {count}",
                    t.string_data.len(),
                    t.dims
                )));
            }
            Elements::Strings(t.string_data)
        } else {
            let expected = dtype
                .byte_len(count)
                .ok_or_else(|| Error::input(format!("shape {:?} is too large", t.dims)))?;
            let data = if external {
                self.side_files.data(&t.external_data, expected)?
            } else if let Some(raw) = t.raw_data.filter(|_| raw) {
                if raw.len() as u64 != expected {
                    return Err(Error::input(format!(
                        "raw_data has {} bytes, but {dtype} with shape {:?} needs {expected}",
                        raw.len(),
                        t.dims
                    )));
                }
                self.locate(raw)
            } else {
                super::encode::typed_bytes(dtype, count, &t)?
            };
            Elements::Data(data)
        };
        Ok(Tensor {
            name: text(t.name),
            dtype,
            dims: t.dims,
            elements,
            doc_string: text(t.doc_string),
            metadata: import_properties(t.metadata_props),
            wire,
        })
    }

    /// A slice of the model, as a range of its file when it is large.
    fn locate(&self, slice: Bytes) -> Data {
        let offset = (slice.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        let end = offset.checked_add(slice.len());
        let inside = end.is_some_and(|end| end <= self.bytes.len());
        match &self.file {
            Some(file) if inside && slice.len() >= READ_BY_POSITION => Data::File {
                file: file.clone(),
                offset: offset as u64,
                len: slice.len() as u64,
            },
            _ => Data::Bytes(slice),
        }
    }
}

fn label(name: &str, op_type: &str) -> String {
    match name.is_empty() {
        true => format!("{op_type} node without name"),
        false => format!("node `{name}`"),
    }
}

fn opset(o: proto::OperatorSetIdProto) -> OpsetImport {
    OpsetImport {
        domain: text(o.domain),
        version: o.version,
    }
}

fn value_info(v: proto::ValueInfoProto) -> Result<(String, ValueInfo)> {
    let name = v.name.unwrap_or_default();
    let ty = v.r#type.map(import_type).transpose();
    let info = ValueInfo {
        ty: ty.map_err(|e| e.at(format!("`{name}`")))?,
        doc_string: text(v.doc_string),
        metadata: import_properties(v.metadata_props),
    };
    Ok((name, info))
}

fn encoded<M: Message>(messages: &[M]) -> Vec<Bytes> {
    messages.iter().map(|m| m.encode_to_vec().into()).collect()
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
