//! The model and everything in it.
//!
//! One arena each for graphs, nodes and values, all in [`Model`]: subgraphs and the
//! bodies of local functions live in the same arenas, so a captured value is just an id.
//! `Option<Str>` keeps apart what the wire format keeps apart (absent, and present but
//! empty), so that a model is written back as it was read; the accessors hide it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Arena, Data, DataType, DimSize, GraphId, NodeId, SparseTensor, Str, Tensor, Type, ValueId,
};

/// A key and value pair of a `metadata_props` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The key.
    pub key: Option<Str>,
    /// The value.
    pub value: Option<Str>,
}

impl Property {
    /// A pair.
    pub fn new(key: &str, value: &str) -> Property {
        Property {
            key: Some(key.into()),
            value: Some(value.into()),
        }
    }
}

/// The version of one operator domain that a model or function uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpsetImport {
    /// The domain as written; see [`OpsetImport::domain`].
    pub domain: Option<Str>,
    /// The version; `None` when absent.
    pub version: Option<i64>,
}

impl OpsetImport {
    /// The domain; the default one is `""`.
    pub fn domain(&self) -> &str {
        normal_domain(&self.domain)
    }
}

/// `""` and `ai.onnx` name the same domain.
fn normal_domain(domain: &Option<Str>) -> &str {
    match domain.as_deref() {
        None | Some("ai.onnx") => "",
        Some(d) => d,
    }
}

/// An ONNX model.
#[derive(Clone, Debug)]
pub struct Model {
    /// All graphs.
    pub graphs: Arena<GraphId, Graph>,
    /// All nodes.
    pub nodes: Arena<NodeId, Node>,
    /// All values.
    pub values: Arena<ValueId, Value>,
    /// The graph that callers run.
    pub main: GraphId,
    /// Local functions.
    pub functions: Vec<Function>,
    /// Version of the format.
    pub ir_version: Option<i64>,
    /// Operator domains in use.
    pub opset_imports: Vec<OpsetImport>,
    /// Name of the program that wrote the model.
    pub producer_name: Option<Str>,
    /// Its version.
    pub producer_version: Option<Str>,
    /// Namespace of the model.
    pub domain: Option<Str>,
    /// Version of the model itself.
    pub model_version: Option<i64>,
    /// Free text.
    pub doc_string: Option<Str>,
    /// Key and value pairs.
    pub metadata: Vec<Property>,
    /// Metadata whose value (UTF-8) is computed while the model is written.
    pub computed_metadata: Vec<(Str, Data)>,
    /// `training_info` entries, encoded: no pass reads them.
    pub training_info: Vec<Bytes>,
    /// `configuration` entries (multi-device), encoded.
    pub configuration: Vec<Bytes>,
}

/// A graph: the main one, one inside a node, or the body of a function.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name.
    pub name: Option<Str>,
    /// The node that holds it as an attribute; `None` for the main graph and bodies.
    pub owner: Option<NodeId>,
    /// Inputs, in order.
    pub inputs: Vec<ValueId>,
    /// Outputs, in order.
    pub outputs: Vec<GraphOutput>,
    /// Nodes, in topological order.
    pub nodes: Vec<NodeId>,
    /// Values that are dense constants, in the order of the file.
    pub initializers: Vec<ValueId>,
    /// Values that are sparse constants.
    pub sparse_initializers: Vec<ValueId>,
    /// Values with an entry in `value_info`, in the order of the file.
    pub value_info: Vec<ValueId>,
    /// `value_info` entries for values that are described before, as a graph input or in
    /// `value_info`. Only written back.
    pub repeated_value_info: Vec<GraphOutput>,
    /// Free text.
    pub doc_string: Option<Str>,
    /// Key and value pairs.
    pub metadata: Vec<Property>,
    /// `quantization_annotation` entries, encoded.
    pub quantization_annotations: Vec<Bytes>,
}

/// A value that a graph lists, as an output. It has type information of its own because the file may also
/// hold a `value_info` entry for the same value.
#[derive(Clone, Debug)]
pub struct GraphOutput {
    /// The value.
    pub value: ValueId,
    /// What the file says about it.
    pub info: ValueInfo,
}

/// What a file says about a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueInfo {
    /// Its type.
    pub ty: Option<Type>,
    /// Free text.
    pub doc_string: Option<Str>,
    /// Key and value pairs.
    pub metadata: Vec<Property>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// An input of the graph; it may have an initializer too (its default).
    Input(GraphId),
    /// An initializer of the graph.
    Initializer(GraphId),
    /// Output `slot` of the node.
    Node(NodeId, u32),
    /// Only a `value_info` entry of the graph names it.
    Nothing(GraphId),
}

/// A value: what nodes read and write.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name, unique in its graph; never empty.
    pub name: Str,
    /// Where it comes from.
    pub def: Def,
    /// The entry among the graph's inputs or in its `value_info`.
    pub info: Option<ValueInfo>,
    /// Its constant, when it is an initializer.
    pub constant: Option<Constant>,
}

/// The constant of an initializer.
#[derive(Clone, Debug)]
pub enum Constant {
    /// Dense.
    Dense(Tensor),
    /// Sparse.
    Sparse(Box<SparseTensor>),
}

/// One use of an operator or of a local function.
#[derive(Clone, Debug)]
pub struct Node {
    /// The graph that lists it.
    pub graph: GraphId,
    /// Its name.
    pub name: Option<Str>,
    /// Operator name.
    pub op_type: Str,
    /// Operator domain as written; see [`Node::domain`].
    pub domain: Option<Str>,
    /// Which overload of a function.
    pub overload: Option<Str>,
    /// Operands; `None` where an optional input is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Results; `None` where an optional output is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes, in the order of the file.
    pub attributes: Vec<Attribute>,
    /// Free text.
    pub doc_string: Option<Str>,
    /// Key and value pairs.
    pub metadata: Vec<Property>,
    /// `device_configurations` entries, encoded.
    pub device_configurations: Vec<Bytes>,
}

/// A named argument of a node.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: Str,
    /// Its value.
    pub value: AttributeValue,
    /// Free text.
    pub doc_string: Option<Str>,
    /// How the file held it.
    pub wire: AttributeWire,
}

/// What the wire format can express in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeWire {
    /// The `type` field is present.
    pub typed: bool,
    /// A scalar value is present; writers of proto3 leave out a zero.
    pub explicit: bool,
}

impl Default for AttributeWire {
    fn default() -> Self {
        AttributeWire {
            typed: true,
            explicit: true,
        }
    }
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the variants are the format's attribute types")]
pub enum AttributeValue {
    Float(f32),
    Int(i64),
    String(Bytes),
    Tensor(Box<Tensor>),
    Graph(GraphId),
    SparseTensor(Box<SparseTensor>),
    Type(Box<Type>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Bytes>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<GraphId>),
    SparseTensors(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// In a function: the attribute `name` of the calling node, of kind `kind`.
    Reference {
        name: Str,
        kind: AttributeKind,
    },
}

/// The types an attribute can have, with the numbers of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "the variants are the format's attribute types")]
pub enum AttributeKind {
    Undefined = 0,
    Float = 1,
    Int = 2,
    String = 3,
    Tensor = 4,
    Graph = 5,
    Floats = 6,
    Ints = 7,
    Strings = 8,
    Tensors = 9,
    Graphs = 10,
    SparseTensor = 11,
    SparseTensors = 12,
    Type = 13,
    Types = 14,
}

impl AttributeValue {
    /// The type of the value.
    pub fn kind(&self) -> AttributeKind {
        use AttributeKind as K;
        match self {
            AttributeValue::Float(_) => K::Float,
            AttributeValue::Int(_) => K::Int,
            AttributeValue::String(_) => K::String,
            AttributeValue::Tensor(_) => K::Tensor,
            AttributeValue::Graph(_) => K::Graph,
            AttributeValue::SparseTensor(_) => K::SparseTensor,
            AttributeValue::Type(_) => K::Type,
            AttributeValue::Floats(_) => K::Floats,
            AttributeValue::Ints(_) => K::Ints,
            AttributeValue::Strings(_) => K::Strings,
            AttributeValue::Tensors(_) => K::Tensors,
            AttributeValue::Graphs(_) => K::Graphs,
            AttributeValue::SparseTensors(_) => K::SparseTensors,
            AttributeValue::Types(_) => K::Types,
            AttributeValue::Reference { kind, .. } => *kind,
        }
    }

    /// The graphs it holds.
    pub fn graphs(&self) -> &[GraphId] {
        match self {
            AttributeValue::Graph(g) => std::slice::from_ref(g),
            AttributeValue::Graphs(g) => g,
            _ => &[],
        }
    }

    /// The dense constants it holds.
    pub fn tensors(&self) -> &[Tensor] {
        match self {
            AttributeValue::Tensor(t) => std::slice::from_ref(t),
            AttributeValue::Tensors(t) => t,
            _ => &[],
        }
    }
}

impl Attribute {
    /// An attribute.
    pub fn new(name: &str, value: AttributeValue) -> Attribute {
        Attribute {
            name: name.into(),
            value,
            doc_string: None,
            wire: AttributeWire::default(),
        }
    }
}

/// A local function: an operator that the model defines by a graph.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: Str,
    /// Its domain as written; see [`Function::domain`].
    pub domain: Option<Str>,
    /// Which overload it is.
    pub overload: Option<Str>,
    /// Attributes that every caller gives.
    pub attributes: Vec<Str>,
    /// Attributes with a default.
    pub attribute_defaults: Vec<Attribute>,
    /// Operator domains its body uses.
    pub opset_imports: Vec<OpsetImport>,
    /// Its body. The graph's name, text and metadata are the function's.
    pub body: GraphId,
}

impl Function {
    /// The domain; the default one is `""`.
    pub fn domain(&self) -> &str {
        normal_domain(&self.domain)
    }
}

impl Node {
    /// A node in `graph` that is `op_type` of `domain`, without name or attributes.
    pub fn new(graph: GraphId, domain: &str, op_type: &str) -> Node {
        Node {
            graph,
            name: None,
            op_type: op_type.into(),
            domain: (!domain.is_empty()).then(|| domain.into()),
            overload: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
            doc_string: None,
            metadata: Vec::new(),
            device_configurations: Vec::new(),
        }
    }

    /// The domain; the default one is `""`.
    pub fn domain(&self) -> &str {
        normal_domain(&self.domain)
    }

    /// Whether it is `op_type` of the default domain.
    pub fn is(&self, op_type: &str) -> bool {
        &*self.op_type == op_type && self.domain().is_empty()
    }

    /// Input `index`, if it has one there.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, if it has one there.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes
            .iter()
            .find(|a| &*a.name == name)
            .map(|a| &a.value)
    }

    /// The integer attribute `name`, or `default` when it is absent; `None` when it is
    /// not an integer or refers to an attribute of the caller.
    pub fn int(&self, name: &str, default: i64) -> Option<i64> {
        match self.attribute(name) {
            None => Some(default),
            Some(AttributeValue::Int(i)) => Some(*i),
            Some(_) => None,
        }
    }

    /// The float attribute `name`, as [`Node::int`].
    pub fn float(&self, name: &str, default: f32) -> Option<f32> {
        match self.attribute(name) {
            None => Some(default),
            Some(AttributeValue::Float(f)) => Some(*f),
            Some(_) => None,
        }
    }

    /// The graphs in its attributes, in order.
    pub fn subgraphs(&self) -> impl Iterator<Item = GraphId> + '_ {
        self.attributes
            .iter()
            .flat_map(|a| a.value.graphs().iter().copied())
    }
}

impl Model {
    /// A model with an empty main graph.
    pub fn new(ir_version: i64, opset: i64) -> Model {
        let mut graphs = Arena::default();
        let main = graphs.push(Graph::default());
        Model {
            graphs,
            nodes: Arena::default(),
            values: Arena::default(),
            main,
            functions: Vec::new(),
            ir_version: Some(ir_version),
            opset_imports: vec![OpsetImport {
                domain: Some("".into()),
                version: Some(opset),
            }],
            producer_name: None,
            producer_version: None,
            domain: None,
            model_version: None,
            doc_string: None,
            metadata: Vec::new(),
            computed_metadata: Vec::new(),
            training_info: Vec::new(),
            configuration: Vec::new(),
        }
    }

    /// The dense constant of `value`.
    pub fn tensor(&self, value: ValueId) -> Option<&Tensor> {
        match &self.values[value].constant {
            Some(Constant::Dense(t)) => Some(t),
            _ => None,
        }
    }

    /// Whether callers may replace `value`, an initializer that is also a graph input: it
    /// is then a default and not a constant. Up to IR version 3 every initializer of the
    /// main graph had to be listed as an input, and was a constant all the same; the inputs
    /// of other graphs are what their nodes give.
    pub fn is_overridable(&self, value: ValueId) -> bool {
        let value = &self.values[value];
        let Def::Input(graph) = value.def else {
            return false;
        };
        value.constant.is_some() && (self.ir_version.unwrap_or(0) >= 4 || graph != self.main)
    }

    /// Whether a constant of `graph` can be an initializer and nothing else: the body of a
    /// function has none, and up to IR version 3 every initializer is an input as well.
    pub fn takes_initializers(&self, graph: GraphId) -> bool {
        let root = |mut graph: GraphId| {
            while let Some(owner) = self.graphs[graph].owner {
                graph = self.nodes[owner].graph;
            }
            graph
        };
        self.ir_version.unwrap_or(0) >= 4 && root(graph) == self.main
    }

    /// The names that the model's inputs give to extents, in order of name.
    pub fn extent_names(&self) -> BTreeSet<Str> {
        let inputs = self.graphs[self.main].inputs.iter();
        let types = inputs.filter_map(|&v| self.values[v].info.as_ref()?.ty.as_ref()?.as_tensor());
        let dims = types.flat_map(|t| t.shape.iter().flatten());
        let named = dims.filter_map(|d| match &d.size {
            DimSize::Symbol(name) => Some(name.clone()),
            _ => None,
        });
        named.collect()
    }

    /// The graph that defines `value`.
    pub fn home(&self, value: ValueId) -> GraphId {
        match self.values[value].def {
            Def::Input(g) | Def::Initializer(g) | Def::Nothing(g) => g,
            Def::Node(n, _) => self.nodes[n].graph,
        }
    }

    /// The node that makes `value`.
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.values[value].def {
            Def::Node(n, _) => Some(n),
            _ => None,
        }
    }

    /// What is known of the type of `value`: from its constant, from its own entry, or
    /// from the entry of the graph output that it is.
    pub fn type_of(&self, value: ValueId) -> Option<Type> {
        let v = &self.values[value];
        if let Some(Constant::Dense(t)) = &v.constant {
            return Some(Type::tensor(t.dtype, &t.dims));
        }
        if let Some(ty) = v.info.as_ref().and_then(|i| i.ty.as_ref()) {
            return Some(ty.clone());
        }
        self.graphs[self.home(value)]
            .outputs
            .iter()
            .find(|o| o.value == value)
            .and_then(|o| o.info.ty.clone())
    }

    /// The element type of `value`, when it is known to be a tensor of one.
    pub fn dtype_of(&self, value: ValueId) -> Option<DataType> {
        self.type_of(value)?.as_tensor()?.elem
    }

    /// The rank of `value`, when known.
    pub fn rank_of(&self, value: ValueId) -> Option<usize> {
        Some(self.type_of(value)?.as_tensor()?.shape.as_ref()?.len())
    }

    /// The function whose body is, or contains, `graph`.
    pub fn function_of(&self, mut graph: GraphId) -> Option<usize> {
        while let Some(owner) = self.graphs[graph].owner {
            graph = self.nodes[owner].graph;
        }
        self.functions.iter().position(|f| f.body == graph)
    }

    /// The version of `domain` that nodes in `graph` use.
    pub fn opset(&self, graph: GraphId, domain: &str) -> Option<i64> {
        let imports = match self.function_of(graph) {
            Some(f) => &self.functions[f].opset_imports,
            None => &self.opset_imports,
        };
        imports
            .iter()
            .find(|o| o.domain() == domain)
            .and_then(|o| o.version)
    }

    /// What to call a node: its name, else that of its first output, else its operator.
    pub fn node_name(&self, node: NodeId) -> Str {
        let n = &self.nodes[node];
        let named = n.name.clone().filter(|name| !name.is_empty());
        let result = || {
            n.outputs
                .iter()
                .flatten()
                .next()
                .map(|&v| self.values[v].name.clone())
        };
        named.or_else(result).unwrap_or_else(|| n.op_type.clone())
    }

    /// How errors and remarks name a node: by its name, else by its first output.
    pub fn label(&self, node: NodeId) -> String {
        let n = &self.nodes[node];
        if let Some(name) = n.name.as_deref().filter(|s| !s.is_empty()) {
            return format!("node `{name}`");
        }
        match n.outputs.iter().flatten().next() {
            Some(&v) => format!("{} node of `{}`", n.op_type, self.values[v].name),
            None => format!("{} node without outputs", n.op_type),
        }
    }
}
