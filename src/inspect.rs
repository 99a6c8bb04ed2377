//! What a model is: its interface, operators and weights, for people and for scripts.
//!
//! Nothing is loaded: weights are counted by their shapes, and files are hashed in pieces.

mod batch;
mod quantized;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::sha256;
use rayon::prelude::*;
use serde::Serialize;

pub use batch::{Batch, Role, Verdict};
pub use quantized::{Quantized, QuantizedGroup};
pub(crate) use text::bytes;

use crate::{
    error::Result,
    ir::{
        AttributeValue, Constant, DataType, DimSize, Model, OpsetImport, SourceFile, Tensor, Type,
        TypeKind, ValueId, data::DataIdentity,
    },
    onnx::Opened,
};

/// How many of the largest weights are listed.
const LARGEST: usize = 10;

/// What a model is.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The model file and its side files, in this order.
    pub files: Vec<FileInfo>,
    /// Length of all files together.
    pub total_bytes: u64,
    /// Version of the format.
    pub ir_version: Option<i64>,
    /// Imported operator domains; the default one is `ai.onnx`.
    pub opsets: Vec<Opset>,
    /// Name of the program that wrote it.
    pub producer_name: Option<String>,
    /// Its version.
    pub producer_version: Option<String>,
    /// Namespace of the model.
    pub domain: Option<String>,
    /// Version of the model itself.
    pub model_version: Option<i64>,
    /// Name of the main graph.
    pub graph_name: Option<String>,
    /// Free text.
    pub doc_string: Option<String>,
    /// Key and value pairs.
    pub metadata: Vec<(String, String)>,
    /// What callers must give: the inputs without those that have an initializer.
    pub inputs: Vec<Port>,
    /// Inputs that have an initializer. From IR version 4 on callers may give them.
    pub optional_inputs: Vec<Port>,
    /// What callers get.
    pub outputs: Vec<Port>,
    /// Axes without fixed extent, by name, in order of appearance.
    pub dynamic_axes: Vec<DynamicAxis>,
    /// Whether several items can be run at once.
    pub batch: Batch,
    /// Number of nodes, those of subgraphs and functions included.
    pub nodes: usize,
    /// Number of graphs inside nodes.
    pub subgraphs: usize,
    /// Operators and how many nodes use each, most frequent first. The body of a function
    /// counts once.
    pub operators: Vec<Operator>,
    /// Local functions.
    pub functions: Vec<FunctionInfo>,
    /// The constants.
    pub weights: Weights,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileInfo {
    /// Its path.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal, unless hashing was left out.
    pub sha256: Option<String>,
}

/// An imported operator domain.
#[derive(Clone, Debug, Serialize)]
pub struct Opset {
    /// The domain.
    pub domain: String,
    /// The version.
    pub version: Option<i64>,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type, written out.
    pub r#type: String,
    /// Element type of a tensor.
    pub dtype: Option<&'static str>,
    /// Axes of a tensor; none when not even the rank is declared.
    pub shape: Option<Vec<Axis>>,
}

/// One axis of an input or output. In JSON a number, a name or null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Axis {
    /// A fixed extent.
    Fixed(i64),
    /// A name: equal names are equal extents.
    Symbol(String),
    /// Neither.
    Unknown,
}

/// An axis name and where it is used.
#[derive(Clone, Debug, Serialize)]
pub struct DynamicAxis {
    /// The name; none for axes of which nothing is declared.
    pub name: Option<String>,
    /// Input or output and axis.
    pub uses: Vec<(String, usize)>,
}

/// How often an operator is used.
#[derive(Clone, Debug, Serialize)]
pub struct Operator {
    /// Its domain; the default one is `ai.onnx`.
    pub domain: String,
    /// Its name.
    pub op_type: String,
    /// How many nodes use it.
    pub count: usize,
}

/// A local function.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionInfo {
    /// Its domain.
    pub domain: String,
    /// Its name.
    pub name: String,
    /// Which overload it is.
    pub overload: Option<String>,
    /// Number of nodes in its body, those of subgraphs included.
    pub nodes: usize,
}

/// The constants of a model: initializers and tensors in attributes.
#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    /// How many there are.
    pub count: usize,
    /// Bytes they take, each counted by its type and shape.
    pub bytes: u64,
    /// Bytes that are stored: constants that share a range of a file count once.
    pub stored_bytes: u64,
    /// By element type, largest first.
    pub by_type: Vec<TypeRow>,
    /// The largest, largest first.
    pub largest: Vec<WeightInfo>,
    /// What block-quantized operators read.
    pub quantized: Quantized,
}

/// Constants of one element type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeRow {
    /// The type.
    pub dtype: &'static str,
    /// Initializers of it.
    pub initializers: usize,
    /// Tensors of it in attributes, such as those of `Constant` nodes.
    pub attributes: usize,
    /// Elements of both.
    pub elements: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Share of the bytes of all constants.
    pub share: f64,
}

/// One constant.
#[derive(Clone, Debug, Serialize)]
pub struct WeightInfo {
    /// Name of the initializer, or label of the node that holds it.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Extents.
    pub shape: Vec<i64>,
    /// Bytes.
    pub bytes: u64,
}

/// Looks at a model. Hashes its files when `hash` is set.
///
/// # Errors
/// A file cannot be read.
pub fn inspect(opened: &Opened, hash: bool) -> Result<Inspection> {
    let model = &opened.model;
    let main = &model.graphs[model.main];
    let files = files(opened, hash)?;
    let graphs = model.reachable_graphs();
    let Interface {
        inputs,
        optional_inputs,
        outputs,
    } = interface(model);
    let text = |s: &Option<crate::ir::Str>| s.as_deref().map(str::to_owned);
    Ok(Inspection {
        total_bytes: files.iter().map(|f| f.bytes).sum(),
        files,
        ir_version: model.ir_version,
        opsets: model.opset_imports.iter().map(opset).collect(),
        producer_name: text(&model.producer_name),
        producer_version: text(&model.producer_version),
        domain: text(&model.domain),
        model_version: model.model_version,
        graph_name: text(&main.name),
        doc_string: text(&model.doc_string),
        metadata: model
            .metadata
            .iter()
            .map(|p| {
                let part = |s: &Option<crate::ir::Str>| text(s).unwrap_or_default();
                (part(&p.key), part(&p.value))
            })
            .collect(),
        dynamic_axes: dynamic_axes(inputs.iter().chain(&outputs)),
        batch: batch::batch(&inputs, &outputs),
        inputs,
        optional_inputs,
        outputs,
        nodes: graphs.iter().map(|g| model.graphs[*g].nodes.len()).sum(),
        subgraphs: graphs
            .iter()
            .filter(|g| model.graphs[**g].owner.is_some())
            .count(),
        operators: operators(model),
        functions: functions(model),
        weights: weights(model),
    })
}

/// Whether several items can be run at once.
pub fn batch_of(model: &Model) -> Batch {
    let interface = interface(model);
    batch::batch(&interface.inputs, &interface.outputs)
}

struct Interface {
    inputs: Vec<Port>,
    optional_inputs: Vec<Port>,
    outputs: Vec<Port>,
}

fn interface(model: &Model) -> Interface {
    let main = &model.graphs[model.main];
    let has_initializer = |v: &ValueId| model.values[*v].constant.is_some();
    let input = |v: &ValueId| {
        let ty = model.values[*v].info.as_ref().and_then(|i| i.ty.clone());
        Port::new(&model.values[*v].name, ty.as_ref())
    };
    let (optional, required): (Vec<ValueId>, Vec<ValueId>) =
        main.inputs.iter().copied().partition(has_initializer);
    let outputs = main.outputs.iter();
    Interface {
        inputs: required.iter().map(input).collect(),
        optional_inputs: optional.iter().map(input).collect(),
        outputs: outputs
            .map(|o| Port::new(&model.values[o.value].name, o.info.ty.as_ref()))
            .collect(),
    }
}

fn opset(import: &OpsetImport) -> Opset {
    Opset {
        domain: domain_name(import.domain()),
        version: import.version,
    }
}

/// The default domain by its long name.
pub(crate) fn domain_name(domain: &str) -> String {
    match domain {
        "" => "ai.onnx".into(),
        d => d.into(),
    }
}

fn files(opened: &Opened, hash: bool) -> Result<Vec<FileInfo>> {
    let all: Vec<&SourceFile> = std::iter::once(&opened.file)
        .chain(&opened.side_files)
        .map(AsRef::as_ref)
        .collect();
    all.par_iter()
        .map(|file| {
            Ok(FileInfo {
                path: file.path().display().to_string(),
                bytes: file.len(),
                sha256: hash.then(|| sha256(file)).transpose()?,
            })
        })
        .collect()
}

impl Port {
    fn new(name: &str, ty: Option<&Type>) -> Port {
        let tensor = ty.and_then(Type::as_tensor);
        let axis = |d: &crate::ir::Dim| match &d.size {
            // Some exporters write -1 for "any"; runtimes read it so.
            DimSize::Known(n) if *n >= 0 => Axis::Fixed(*n),
            DimSize::Symbol(s) if !s.is_empty() => Axis::Symbol(s.to_string()),
            _ => Axis::Unknown,
        };
        Port {
            name: name.to_owned(),
            r#type: ty.map_or("unknown".into(), type_name),
            dtype: tensor.and_then(|t| t.elem).map(DataType::name),
            shape: tensor
                .and_then(|t| t.shape.as_ref())
                .map(|s| s.iter().map(axis).collect()),
        }
    }
}

/// A type as text.
pub(crate) fn type_name(ty: &Type) -> String {
    let inner = |t: &Option<Box<Type>>| t.as_deref().map_or("unknown".into(), type_name);
    match &ty.kind {
        TypeKind::Unset => "unknown".into(),
        TypeKind::Tensor(t) => tensor_name(t),
        TypeKind::SparseTensor(t) => format!("sparse {}", tensor_name(t)),
        TypeKind::Sequence(t) => format!("sequence of {}", inner(t)),
        TypeKind::Optional(t) => format!("optional {}", inner(t)),
        TypeKind::Map(key, value) => {
            let key = key.map_or("unknown", DataType::name);
            format!("map from {key} to {}", inner(value))
        }
        TypeKind::Opaque { domain, name } => {
            let part = |s: &Option<crate::ir::Str>| s.as_deref().unwrap_or_default().to_owned();
            format!("opaque {}::{}", part(domain), part(name))
        }
    }
}

fn tensor_name(t: &crate::ir::TensorType) -> String {
    match &t.shape {
        Some(dims) if dims.is_empty() => format!("{t} scalar"),
        Some(_) => t.to_string(),
        None => format!(
            "{} of unknown rank",
            t.elem.map_or("unknown", DataType::name)
        ),
    }
}

fn dynamic_axes<'a>(ports: impl Iterator<Item = &'a Port>) -> Vec<DynamicAxis> {
    let mut axes: Vec<DynamicAxis> = Vec::new();
    let mut index = BTreeMap::<Option<String>, usize>::new();
    for port in ports {
        for (i, axis) in port.shape.iter().flatten().enumerate() {
            let name = match axis {
                Axis::Fixed(_) => continue,
                Axis::Symbol(s) => Some(s.clone()),
                Axis::Unknown => None,
            };
            let at = *index.entry(name.clone()).or_insert_with(|| {
                let uses = Vec::new();
                axes.push(DynamicAxis { name, uses });
                axes.len() - 1
            });
            axes[at].uses.push((port.name.clone(), i));
        }
    }
    axes
}

/// How often each operator occurs, by domain and name.
pub(crate) fn operator_counts(model: &Model) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for node in model.reachable_nodes() {
        let n = &model.nodes[node];
        let key = (domain_name(n.domain()), n.op_type.to_string());
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}

fn operators(model: &Model) -> Vec<Operator> {
    let counts = operator_counts(model).into_iter();
    let operator = |((domain, op_type), count)| Operator {
        domain,
        op_type,
        count,
    };
    let mut operators: Vec<Operator> = counts.map(operator).collect();
    operators.sort_by_key(|o| std::cmp::Reverse(o.count));
    operators
}

fn functions(model: &Model) -> Vec<FunctionInfo> {
    let functions = model.functions.iter();
    functions
        .map(|f| {
            let graphs = model.graphs_within(f.body);
            FunctionInfo {
                domain: domain_name(f.domain()),
                name: f.name.to_string(),
                overload: f.overload.as_deref().map(str::to_owned),
                nodes: graphs.iter().map(|g| model.graphs[*g].nodes.len()).sum(),
            }
        })
        .collect()
}

/// A constant, where it stands.
pub(crate) struct Weight<'m> {
    /// Name of the initializer, or label of the node.
    pub(crate) name: String,
    /// Whether it is an initializer.
    pub(crate) initializer: bool,
    /// The constant.
    pub(crate) tensor: &'m Tensor,
}

/// Every constant of the model, in document order. A sparse one gives its parts.
pub(crate) fn all_weights(model: &Model) -> Vec<Weight<'_>> {
    let mut weights = Vec::new();
    for graph in model.reachable_graphs() {
        let g = &model.graphs[graph];
        for &value in g.initializers.iter().chain(&g.sparse_initializers) {
            let v = &model.values[value];
            let tensors: Vec<&Tensor> = match &v.constant {
                Some(Constant::Dense(t)) => vec![t],
                Some(Constant::Sparse(s)) => s.values.iter().chain(&s.indices).collect(),
                None => Vec::new(),
            };
            weights.extend(tensors.into_iter().map(|tensor| Weight {
                name: v.name.to_string(),
                initializer: true,
                tensor,
            }));
        }
        for &node in &g.nodes {
            for a in &model.nodes[node].attributes {
                let sparse = match &a.value {
                    AttributeValue::SparseTensor(s) => std::slice::from_ref(&**s),
                    AttributeValue::SparseTensors(s) => s,
                    _ => &[],
                };
                let parts = sparse
                    .iter()
                    .flat_map(|s| s.values.iter().chain(&s.indices));
                weights.extend(a.value.tensors().iter().chain(parts).map(|tensor| Weight {
                    name: model.label(node),
                    initializer: false,
                    tensor,
                }));
            }
        }
    }
    weights
}

fn weights(model: &Model) -> Weights {
    let all = all_weights(model);
    let bytes = all.iter().map(|w| w.tensor.byte_len()).sum();
    let mut rows = BTreeMap::<DataType, TypeRow>::new();
    let mut seen = BTreeSet::<DataIdentity>::new();
    let mut stored_bytes = 0;
    for w in &all {
        let row = rows.entry(w.tensor.dtype).or_insert(TypeRow {
            dtype: w.tensor.dtype.name(),
            initializers: 0,
            attributes: 0,
            elements: 0,
            bytes: 0,
            share: 0.0,
        });
        match w.initializer {
            true => row.initializers += 1,
            false => row.attributes += 1,
        }
        row.elements += w.tensor.element_count().unwrap_or(0);
        row.bytes += w.tensor.byte_len();
        let first = w
            .tensor
            .data()
            .is_none_or(|d| d.is_empty() || seen.insert(d.identity()));
        if first {
            stored_bytes += w.tensor.byte_len();
        }
    }
    let mut by_type: Vec<TypeRow> = rows.into_values().collect();
    for row in &mut by_type {
        row.share = row.bytes as f64 / u64::max(bytes, 1) as f64;
    }
    by_type.sort_by_key(|r| std::cmp::Reverse(r.bytes));
    let mut largest: Vec<&Weight<'_>> = all.iter().collect();
    largest.sort_by_key(|w| std::cmp::Reverse(w.tensor.byte_len()));
    let info = |w: &&Weight<'_>| WeightInfo {
        name: w.name.clone(),
        dtype: w.tensor.dtype.name(),
        shape: w.tensor.dims.clone(),
        bytes: w.tensor.byte_len(),
    };
    Weights {
        count: all.len(),
        bytes,
        stored_bytes,
        by_type,
        largest: largest.iter().take(LARGEST).map(info).collect(),
        quantized: quantized::quantized(model),
    }
}
