//! One broken model for each invariant, and good ones.

use std::sync::Arc;

use bytes::Bytes;

use super::{Code, verify};
use crate::{
    error::{Error, ErrorKind},
    ir::{
        Attribute, AttributeKind, AttributeValue, Constant, Data, DataType, Def, EntityId,
        Function, Graph, GraphId, GraphOutput, Model, Node, NodeId, OpsetImport, Produce,
        SparseTensor, Tensor, Type, Value, ValueId, ValueInfo,
    },
};

/// Builds models in a few lines.
pub(super) struct Build(pub(super) Model);

impl Build {
    pub(super) fn value(&mut self, name: &str, def: Def) -> ValueId {
        self.0.values.push(Value {
            name: name.into(),
            def,
            info: None,
            constant: None,
        })
    }

    pub(super) fn input(&mut self, graph: GraphId, name: &str) -> ValueId {
        let value = self.value(name, Def::Input(graph));
        self.0.values[value].info = Some(ValueInfo {
            ty: Some(Type::tensor(DataType::Float, &[2])),
            ..ValueInfo::default()
        });
        self.0.graphs[graph].inputs.push(value);
        value
    }

    pub(super) fn initializer(&mut self, graph: GraphId, name: &str, tensor: Tensor) -> ValueId {
        let value = self.value(name, Def::Initializer(graph));
        self.0.values[value].constant = Some(Constant::Dense(tensor));
        self.0.graphs[graph].initializers.push(value);
        value
    }

    /// A node with one result, named like the operator in lower case unless `output` is given.
    pub(super) fn node(
        &mut self,
        graph: GraphId,
        op: &str,
        inputs: &[ValueId],
        output: &str,
    ) -> (NodeId, ValueId) {
        let (domain, op) = op.split_once("::").unwrap_or(("", op));
        let mut node = Node::new(graph, domain, op);
        node.inputs = inputs.iter().map(|v| Some(*v)).collect();
        let node = self.0.nodes.push(node);
        let value = self.value(output, Def::Node(node, 0));
        self.0.nodes[node].outputs = vec![Some(value)];
        self.0.graphs[graph].nodes.push(node);
        (node, value)
    }

    pub(super) fn output(&mut self, graph: GraphId, value: ValueId) {
        let info = ValueInfo::default();
        let output = GraphOutput { value, info };
        self.0.graphs[graph].outputs.push(output);
    }

    pub(super) fn attribute(&mut self, node: NodeId, name: &str, value: AttributeValue) {
        let attribute = Attribute::new(name, value);
        self.0.nodes[node].attributes.push(attribute);
    }

    fn subgraph(&mut self, node: NodeId, attribute: &str) -> GraphId {
        let graph = self.0.graphs.push(Graph {
            owner: Some(node),
            ..Graph::default()
        });
        self.attribute(node, attribute, AttributeValue::Graph(graph));
        graph
    }

    fn function(&mut self, name: &str) -> GraphId {
        let body = self.0.graphs.push(Graph::default());
        self.0.functions.push(Function {
            name: name.into(),
            domain: Some("local".into()),
            overload: None,
            attributes: vec!["alpha".into()],
            attribute_defaults: Vec::new(),
            opset_imports: vec![opset("", 17), opset("local", 1)],
            body,
        });
        body
    }
}

pub(super) fn opset(domain: &str, version: i64) -> OpsetImport {
    OpsetImport {
        domain: Some(domain.into()),
        version: Some(version),
    }
}

/// `y = Relu(x)`, and `z = If(x)` whose branch computes `t = Add(x, w)`; a function
/// `local::F` with `b = LeakyRelu(a)` by an attribute of its caller, called for `f`.
struct Good {
    build: Build,
    main: GraphId,
    x: ValueId,
    w: ValueId,
    y: ValueId,
    relu: NodeId,
    branch: GraphId,
    add: NodeId,
    body: GraphId,
    leaky: NodeId,
    call: NodeId,
}

fn good() -> Good {
    let mut b = Build(Model::new(8, 17));
    b.0.opset_imports.push(opset("local", 1));
    let main = b.0.main;
    let x = b.input(main, "x");
    let w = b.initializer(main, "w", Tensor::from_f32(vec![2], &[1.0, 2.0]));
    let (relu, y) = b.node(main, "Relu", &[x], "y");
    let (choose, z) = b.node(main, "If", &[x], "z");
    let branch = b.subgraph(choose, "then_branch");
    let (add, t) = b.node(branch, "Add", &[x, w], "t");
    b.output(branch, t);
    let (call, f) = b.node(main, "local::F", &[y], "f");
    b.attribute(call, "alpha", AttributeValue::Float(0.5));
    b.output(main, z);
    b.output(main, f);
    let body = b.function("F");
    let a = b.input(body, "a");
    let (leaky, out) = b.node(body, "LeakyRelu", &[a], "b");
    let reference = AttributeValue::Reference {
        name: "alpha".into(),
        kind: AttributeKind::Float,
    };
    b.attribute(leaky, "alpha", reference);
    b.output(body, out);
    Good {
        build: b,
        main,
        x,
        w,
        y,
        relu,
        branch,
        add,
        body,
        leaky,
        call,
    }
}

/// A change that breaks the good model, and a part of the message that must come.
type Case = (Code, fn(&mut Good), &'static str);

fn tensor_of(g: &mut Good) -> &mut Tensor {
    match g.build.0.values[g.w].constant.as_mut() {
        Some(Constant::Dense(t)) => t,
        _ => unreachable!("w is dense"),
    }
}

fn sparse(g: &mut Good, dims: &[i64], indices: &[i64], shape: &[i64]) {
    let value = g.build.value("s", Def::Initializer(g.main));
    let values = Tensor::from_f32(vec![2], &[1.0, 2.0]);
    g.build.0.values[value].constant = Some(Constant::Sparse(Box::new(SparseTensor {
        values: Some(values),
        indices: Some(Tensor::from_i64(shape.to_vec(), indices)),
        dims: dims.to_vec(),
    })));
    g.build.0.graphs[g.main].sparse_initializers.push(value);
}

/// Claims eight bytes and has tiles for six.
#[derive(Debug)]
struct Gap;

impl Produce for Gap {
    fn len(&self, _: usize) -> u64 {
        8
    }
    fn tiles(&self) -> u64 {
        2
    }
    fn range(&self, tile: u64, _: usize) -> std::ops::Range<u64> {
        tile * 4..tile * 4 + 2
    }
    fn produce(&self, _: u64, _: &mut [&mut [u8]]) -> crate::error::Result<()> {
        Ok(())
    }
}

const CASES: &[Case] = &[
    (
        Code::DanglingId,
        |g| g.build.0.nodes[g.relu].inputs[0] = Some(ValueId::from_index(99)),
        "node0: operands and results: v99 does not exist; expected an id of this model",
    ),
    (
        Code::DanglingId,
        |g| g.build.0.main = GraphId::from_index(7),
        "main graph: graph7 does not exist",
    ),
    (
        Code::GraphTree,
        |g| g.build.0.graphs[g.branch].owner = Some(g.relu),
        "graph1: its owner is node0 (Relu); expected node1 (If)",
    ),
    (
        Code::GraphTree,
        |g| {
            let again = AttributeValue::Graph(g.branch);
            g.build.attribute(g.relu, "body", again);
        },
        "also holds it; expected one holder of each graph",
    ),
    (
        // A graph inside itself: the walk ends.
        Code::GraphTree,
        |g| {
            let inside = AttributeValue::Graph(g.branch);
            g.build.attribute(g.add, "body", inside);
        },
        "also holds it",
    ),
    (
        Code::NodeHome,
        |g| g.build.0.nodes[g.add].graph = g.main,
        "node2 (Add): graph1 lists it, but its graph is graph0",
    ),
    (
        Code::NodeHome,
        |g| g.build.0.graphs[g.main].nodes.push(g.relu),
        "node0 (Relu): graph0 lists it again",
    ),
    (
        Code::ValueDef,
        |g| g.build.0.values[g.y].def = Def::Node(g.relu, 1),
        "v2 `y`: its definition is Node(node0, 1); expected Node(node0, 0), where it is listed",
    ),
    (
        Code::ValueDef,
        |g| g.build.0.graphs[g.main].inputs.push(g.x),
        "v0 `x`: graph0 lists it twice; expected one definition",
    ),
    (
        Code::Constant,
        |g| g.build.0.values[g.w].constant = None,
        "v1 `w`: an initializer without constant",
    ),
    (
        Code::Constant,
        |g| {
            let constant = Some(Constant::Dense(Tensor::from_f32(vec![1], &[1.0])));
            g.build.0.values[g.x].constant = constant;
        },
        "v0 `x`: it has a constant that graph0 does not list",
    ),
    (
        Code::Constant,
        |g| {
            let t = Tensor::from_f32(vec![1], &[1.0]);
            g.build.initializer(g.body, "c", t);
        },
        "the body of a function has initializers; expected `Constant` nodes",
    ),
    (
        Code::ValueInfo,
        |g| g.build.0.graphs[g.main].value_info.push(g.y),
        "v2 `y`: graph0 lists it in `value_info`, but it has no information",
    ),
    (
        Code::EmptyName,
        |g| g.build.0.values[g.y].name = "".into(),
        "Relu node of ``: output 0: a value without name",
    ),
    (
        Code::DuplicateName,
        |g| g.build.0.values[g.y].name = "w".into(),
        "value `w`: an initializer and Relu node of `w` have this name",
    ),
    (
        Code::DuplicateName,
        |g| {
            let v = g.build.value("w", Def::Nothing(g.main));
            g.build.0.values[v].info = Some(ValueInfo::default());
            g.build.0.graphs[g.main].value_info.push(v);
        },
        "`value_info` of `w`: another value of the graph has this name",
    ),
    (
        Code::UndefinedValue,
        |g| g.build.0.graphs[g.main].nodes.swap(0, 2),
        "node of `f`: input 0: `y` is only defined later, by Relu node of `y`; expected a value \
         that is defined before, here or in a graph around this one",
    ),
    (
        // A function sees nothing from outside.
        Code::UndefinedValue,
        |g| g.build.0.nodes[g.leaky].inputs[0] = Some(g.x),
        "function `local::F`: LeakyRelu node of `b`: input 0: `x` is defined elsewhere: an input",
    ),
    (
        Code::UndefinedValue,
        |g| {
            g.build.0.graphs[g.main].nodes.remove(0);
        },
        "`y` is the result of Relu node of `y`, which no graph lists",
    ),
    (
        Code::ShadowedName,
        |g| {
            let t = g.build.0.nodes[g.add].outputs[0].expect("Add has a result");
            g.build.0.values[t].name = "y".into();
        },
        "If node of `z` `then_branch`: Add node of `y`: output 0: a value of an outer graph has \
         the name `y` too",
    ),
    (
        Code::ShadowedName,
        |g| {
            let t = Tensor::from_f32(vec![1], &[1.0]);
            g.build.initializer(g.branch, "w", t);
        },
        "input 1: `w` of an outer graph is used where an initializer of If node of `z` \
         `then_branch` has this name",
    ),
    (
        Code::GraphOutput,
        |g| g.build.0.graphs[g.branch].outputs[0].value = g.x,
        "If node of `z` `then_branch`: output 0: `x` belongs to an outer graph",
    ),
    (
        Code::DuplicateNodeName,
        |g| {
            g.build.0.nodes[g.relu].name = Some("n".into());
            g.build.0.nodes[g.call].name = Some("n".into());
        },
        "node `n`: another node of the graph has this name",
    ),
    (
        Code::EmptyNode,
        |g| g.build.0.nodes[g.relu].op_type = "".into(),
        "node of `y`: no operator name",
    ),
    (
        Code::EmptyNode,
        |g| {
            let node = g.build.0.nodes.push(Node::new(g.main, "", "Relu"));
            g.build.0.graphs[g.main].nodes.push(node);
        },
        "Relu node without outputs: neither inputs nor outputs",
    ),
    (
        Code::Attribute,
        |g| {
            g.build.attribute(g.relu, "a", AttributeValue::Int(1));
            g.build.attribute(g.relu, "a", AttributeValue::Int(2));
        },
        "Relu node of `y`: attribute `a` is given twice",
    ),
    (
        Code::Attribute,
        |g| g.build.attribute(g.relu, "", AttributeValue::Int(1)),
        "Relu node of `y`: an attribute without name",
    ),
    (
        Code::AttributeReference,
        |g| {
            let value = g.build.0.nodes[g.leaky].attributes[0].value.clone();
            g.build.attribute(g.add, "alpha", value);
        },
        "Add node of `t`: attribute `alpha`: refers to attribute `alpha` of a caller, outside a \
         function",
    ),
    (
        Code::AttributeReference,
        |g| g.build.0.functions[0].attributes.clear(),
        "attribute `alpha`: refers to `alpha`, which the function does not declare",
    ),
    (
        Code::DomainImport,
        |g| {
            g.build.0.opset_imports.remove(0);
        },
        "Relu node of `y`: domain `ai.onnx` of this node (and of 2 more nodes) is not imported; \
         expected an opset import of the model",
    ),
    (
        // A function has imports of its own.
        Code::DomainImport,
        |g| {
            g.build.0.functions[0].opset_imports.remove(0);
        },
        "LeakyRelu node of `b`: domain `ai.onnx` of this node is not imported; expected an opset \
         import of the function",
    ),
    (
        Code::FunctionCall,
        |g| g.build.0.nodes[g.call].inputs.push(None),
        "F node of `f`: 2 inputs, but function `local::F` has 1; expected at most 1",
    ),
    (
        Code::TensorType,
        |g| tensor_of(g).dtype = DataType::Undefined,
        "initializer `w`: element type undefined for a constant that holds bytes",
    ),
    (
        Code::TensorType,
        |g| tensor_of(g).dtype = DataType::String,
        "initializer `w`: element type string for a constant that holds bytes",
    ),
    (
        Code::TensorShape,
        |g| tensor_of(g).dims = vec![-2, -1],
        "initializer `w`: shape [-2, -1]; expected extents from 0 on",
    ),
    (
        Code::TensorShape,
        |g| tensor_of(g).dims = vec![i64::MAX, 4],
        "expected extents from 0 on, with a size of less than 2^64 bytes",
    ),
    (
        Code::TensorLength,
        |g| tensor_of(g).dims = vec![3],
        "initializer `w`: 8 bytes; expected 12, for float with shape [3]",
    ),
    (
        Code::TensorLength,
        |g| {
            let t = tensor_of(g);
            t.dtype = DataType::String;
            t.elements = crate::ir::Elements::Strings(vec![Bytes::from_static(b"one")]);
        },
        "initializer `w`: 1 strings; expected 2, for string with shape [2]",
    ),
    (
        Code::TensorData,
        |g| {
            let recipe: Arc<dyn Produce> = Arc::new(Gap);
            let data = Data::Computed { recipe, output: 0 };
            tensor_of(g).elements = crate::ir::Elements::Data(data);
        },
        "initializer `w`: tile 1 is 4..6, after one up to 2",
    ),
    (
        Code::SparseTensor,
        |g| sparse(g, &[4], &[3, 1], &[2]),
        "initializer `s`: index [1] at position 1; expected indices inside the shape, ascending",
    ),
    (
        Code::SparseTensor,
        |g| sparse(g, &[2, 2], &[0, 4], &[2]),
        "initializer `s`: index [4] at position 1",
    ),
    (
        Code::SparseTensor,
        |g| sparse(g, &[2, 2], &[0, 0, 1, 2], &[2, 2]),
        "initializer `s`: index [1, 2] at position 1",
    ),
    (
        Code::SparseTensor,
        |g| sparse(g, &[4], &[1], &[1]),
        "initializer `s`: indices with shape [1] for 2 values",
    ),
    (
        Code::InputType,
        |g| g.build.0.values[g.x].info = None,
        "input `x`: no type",
    ),
    (
        Code::InputType,
        |g| {
            let constant = Constant::Dense(Tensor::from_f32(vec![3], &[0.0; 3]));
            g.build.0.values[g.x].constant = Some(constant);
            g.build.0.graphs[g.main].initializers.push(g.x);
        },
        "input `x`: an initializer of float with shape [3]; expected float[2], as the input \
         declares",
    ),
    (
        Code::IrVersion,
        |g| g.build.0.ir_version = None,
        "no IR version; expected 1 or more",
    ),
    (
        Code::IrVersion,
        |g| g.build.0.ir_version = Some(0),
        "IR version 0",
    ),
    (
        Code::OpsetImport,
        |g| g.build.0.opset_imports.clear(),
        "the model imports no operator domain",
    ),
    (
        Code::OpsetImport,
        |g| g.build.0.opset_imports[0].version = None,
        "the import of `ai.onnx` has no version; expected one positive version",
    ),
    (
        Code::OpsetImport,
        |g| g.build.0.opset_imports.push(opset("ai.onnx", 18)),
        "`ai.onnx` is imported with versions 17 and 18",
    ),
    (
        Code::Function,
        |g| {
            let again = g.build.function("F");
            let a = g.build.input(again, "a");
            g.build.output(again, a);
        },
        "function `local::F`: another function has this domain, name and overload",
    ),
    (
        Code::Function,
        |g| g.build.0.functions[0].attributes.push("alpha".into()),
        "function `local::F`: attribute `alpha` is declared twice",
    ),
    (
        Code::RecursiveFunction,
        |g| {
            let body = g.build.function("G");
            let a = g.build.input(body, "a");
            let (_, b) = g.build.node(body, "local::F", &[a], "b");
            g.build.output(body, b);
            let (_, _) = g.build.node(g.body, "local::G", &[], "c");
        },
        "function `local::F`: calls itself: function `local::F` -> function `local::G` -> \
         function `local::F`",
    ),
    (
        Code::Contract,
        |g| {
            g.build.0.opset_imports.push(opset("com.microsoft", 1));
            let inputs = [g.x, g.w, g.w];
            let op = "com.microsoft::MatMulNBits";
            g.build.node(g.main, op, &inputs, "q");
        },
        "MatMulNBits: attribute `K` is missing",
    ),
];

#[test]
fn the_good_model_is_good() {
    assert_eq!(verify(&good().build.0), Ok(()));
}

#[test]
fn every_invariant_is_checked() {
    for (code, break_it, message) in CASES {
        let mut g = good();
        break_it(&mut g);
        let violations = verify(&g.build.0).expect_err(message);
        let texts: Vec<String> = violations
            .as_slice()
            .iter()
            .map(|v| v.to_string())
            .collect();
        let found = violations.as_slice().iter().zip(&texts);
        assert!(
            found
                .clone()
                .any(|(v, t)| v.code == *code && t.contains(message)),
            "no {code} with `{message}` among\n{}",
            texts.join("\n")
        );
    }
    for code in Code::ALL {
        assert!(CASES.iter().any(|c| c.0 == *code), "no case for {code}");
    }
}

#[test]
fn what_real_models_do_is_allowed() {
    let changes: &[fn(&mut Good)] = &[
        // Both branches of an `If`, or a branch and a later node, use one name.
        |g| {
            let t = g.build.0.nodes[g.add].outputs[0].expect("Add has a result");
            g.build.0.values[t].name = "f".into();
        },
        // The input or initializer of a subgraph hides an outer value that nothing there uses.
        |g| {
            let t = Tensor::from_f32(vec![1], &[1.0]);
            g.build.initializer(g.branch, "y", t);
        },
        // An output that is an input, an initializer, or another output too.
        |g| {
            for v in [g.x, g.w, g.y, g.y] {
                g.build.output(g.main, v);
            }
        },
        // The same import twice.
        |g| g.build.0.opset_imports.push(opset("ai.onnx", 17)),
        // An optional operand that is absent, and a call with fewer operands.
        |g| g.build.0.nodes[g.relu].inputs.push(None),
        |g| g.build.0.nodes[g.call].inputs.clear(),
        // Information on a value that nothing defines.
        |g| {
            let v = g.build.value("gone", Def::Nothing(g.main));
            g.build.0.values[v].info = Some(ValueInfo::default());
            g.build.0.graphs[g.main].value_info.push(v);
        },
        // An initializer that is an input too.
        |g| {
            let constant = Constant::Dense(Tensor::from_f32(vec![2], &[0.0; 2]));
            g.build.0.values[g.x].constant = Some(constant);
            g.build.0.graphs[g.main].initializers.push(g.x);
        },
        |g| sparse(g, &[4], &[1, 3], &[2]),
        |g| sparse(g, &[2, 2], &[0, 1, 1, 0], &[2, 2]),
        // Erased entities keep what they had.
        |g| {
            let mut node = Node::new(g.branch, "gone", "Gone");
            node.inputs = vec![Some(g.y)];
            g.build.0.nodes.push(node);
        },
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut g = good();
        change(&mut g);
        assert_eq!(verify(&g.build.0), Ok(()), "change {i}");
    }
}

#[test]
fn all_faults_are_reported_and_the_error_shows_the_first() {
    let mut g = good();
    g.build.0.ir_version = None;
    g.build.0.nodes[g.relu].op_type = "".into();
    tensor_of(&mut g).dims = vec![3];
    let violations = verify(&g.build.0).expect_err("three faults");
    let codes: Vec<Code> = violations.as_slice().iter().map(|v| v.code).collect();
    let expected = [Code::IrVersion, Code::EmptyNode, Code::TensorLength];
    assert_eq!(codes, expected);
    let error = Error::from(violations);
    assert_eq!(error.kind(), ErrorKind::Input);
    assert_eq!(
        error.chain(),
        "the model is not valid: no IR version; expected 1 or more (ir-version); and 2 more faults"
    );
}

#[test]
fn large_models_take_linear_time() {
    let mut b = Build(Model::new(8, 17));
    let main = b.0.main;
    let mut last = b.input(main, "x");
    for i in 0..200_000 {
        (_, last) = b.node(main, "Relu", &[last], &format!("v{i}"));
    }
    b.output(main, last);
    let start = std::time::Instant::now();
    assert_eq!(verify(&b.0), Ok(()));
    // 0.2 s without optimization; a quadratic check would take minutes.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
