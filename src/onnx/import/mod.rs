//! Reads a model: maps the file, decodes it with prost, converts it to the IR.

mod attribute;
mod tensor;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;

use super::{
    external::{SideFile, SideFiles},
    proto,
    types::{import_properties, import_type, text},
    unknown::unknown_fields,
};
use crate::{
    error::{Error, Result},
    ir::{
        Constant, Def, Function, Graph, GraphId, GraphOutput, Model, Node, OpsetImport, SourceFile,
        Str, Value, ValueId, ValueInfo,
    },
};

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
    open_moved(path, options, HashMap::new())
}

/// As [`open`], with side files that are elsewhere than the model says: `moved` has their paths by what it
/// calls them. They are opened wherever they are.
///
/// # Errors
/// As [`open`].
pub fn open_moved(
    path: &Path,
    options: OpenOptions,
    moved: HashMap<String, PathBuf>,
) -> Result<Opened> {
    let (file, mut import) = Import::of_file(path)?;
    import.side_files = import.side_files.moved(moved);
    let imported = import.run(options).map_err(at(path))?;
    Ok(Opened {
        model: imported.model,
        file,
        side_files: imported.side_files.files(),
        dropped: imported.dropped,
    })
}

/// The side files that the model at `path` means, by location; whether they are there is not looked at.
///
/// # Errors
/// As [`open`], as far as the model file itself can tell.
pub fn side_files(path: &Path, options: OpenOptions) -> Result<Vec<SideFile>> {
    let (_, mut import) = Import::of_file(path)?;
    import.side_files = import.side_files.survey();
    let imported = import.run(options).map_err(at(path))?;
    Ok(imported.side_files.needed())
}

fn at(path: &Path) -> impl Fn(Error) -> Error {
    move |e| e.at(format!("`{}`", path.display()))
}

/// Reads a model that is in memory; its side files are looked for in `folder`.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(bytes: &Bytes, folder: &Path, options: OpenOptions) -> Result<Model> {
    Ok(Import::new(bytes, None, folder).run(options)?.model)
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

/// What an import comes to.
struct Imported {
    model: Model,
    side_files: SideFiles,
    dropped: Vec<String>,
}

impl Import {
    /// That of the file at `path`, and the file.
    fn of_file(path: &Path) -> Result<(Arc<SourceFile>, Import)> {
        let file = Arc::new(SourceFile::open(path)?);
        let name = || format!("`{}`", path.display());
        let bytes = map(file.file()).map_err(|e| Error::io(name(), e))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let import = Import::new(&bytes, Some(file.clone()), folder);
        Ok((file, import))
    }

    fn new(bytes: &Bytes, file: Option<Arc<SourceFile>>, folder: &Path) -> Import {
        Import {
            model: Model::new(0, 0),
            side_files: SideFiles::new(folder, file.as_deref().map(SourceFile::path)),
            bytes: bytes.clone(),
            file,
            scopes: Vec::new(),
        }
    }

    fn run(mut self, options: OpenOptions) -> Result<Imported> {
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
        Ok(Imported {
            model: self.model,
            side_files: self.side_files,
            dropped,
        })
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
