//! The verifier: every invariant of the IR.
//!
//! [`verify`] reports all faults of a model, not just the first, each with a stable
//! [`Code`], the place, what was found and what was expected. It runs on what a file
//! holds, after a pass (`--verify-each`), and before an export. A model that breaks none
//! of these can be exported, and the file means the same model. Cost is linear in the
//! size of the graphs; no constant is read, except the indices of sparse tensors.
//!
//! A rule of the format that real models break is no invariant unless the `onnx` checker
//! or ONNX Runtime refuses a model that breaks it. This was tried, case by case, with
//! onnx 1.23 and ONNX Runtime 1.31. Both accept, but the format forbids or leaves open,
//! what breaks 15 (a reference to an attribute that is not there), 25 (versions that
//! disagree, of which readers take the first, the last or the highest; a version of 0)
//! and 26 (an attribute with and without default): those are faults here too.
//!
//! # Invariants
//!
//! Structure. The others rely on these, so when one is broken the others are not looked at.
//!
//! 1. `dangling-id`: every id names an entity of its arena.
//! 2. `graph-tree`: the main graph, the body of each function, and each graph in an
//!    attribute are different graphs, none inside itself. [`Graph::owner`] is the node
//!    that has the attribute, and `None` for the others.
//! 3. `node-home`: a node is listed once, by the graph that [`Node::graph`] names.
//! 4. `value-def`: a value is defined in one place, and [`Value::def`] names it: it is
//!    listed once among the inputs, or once among the initializers, or is the result of
//!    one node, in the slot given.
//! 5. `constant`: the values with a constant are those that their graph lists, once, as
//!    initializers: dense and sparse ones in their own lists. Each is defined as an
//!    initializer or as a graph input. The body of a function lists none, because the
//!    format has no place for them.
//! 6. `value-info`: `value_info` lists values of its graph, each once and with its
//!    information; values that nothing defines are listed there.
//!
//! Names and scopes.
//!
//! 7. `empty-name`: a value has a name.
//! 8. `duplicate-name`: the values of one graph have different names.
//! 9. `undefined-value`: an operand is defined before the node, in its own graph or in
//!    one around it; a function sees nothing from outside its body.
//! 10. `shadowed-name`: where a value is used, its name means this value: no graph between
//!     has another value of that name. A result of a node does not have the name of a
//!     value that is visible from an outer graph (inputs and initializers may).
//! 11. `graph-output`: an output of a graph is defined in it; an output of a subgraph is
//!     not a value of an outer graph.
//! 12. `duplicate-node-name`: the nodes of one graph that have a name have different ones.
//!
//! Nodes.
//!
//! 13. `empty-node`: a node has an operator, and an input or an output.
//! 14. `attribute`: the attributes of a node have names, and different ones.
//! 15. `attribute-reference`: only nodes inside a function refer to attributes of the
//!     caller, and only to those that the function declares.
//! 16. `domain-import`: the domain of every node is imported: by the model, or by the
//!     function it is in. (Before IR version 3, a model without imports has the default
//!     domain.)
//! 17. `function-call`: a call of a local function has at most as many inputs and outputs
//!     as the function.
//!
//! Constants.
//!
//! 18. `tensor-type`: the element type is known, and the elements are strings exactly when
//!     it is `string`.
//! 19. `tensor-shape`: no extent is negative, and the number of bytes fits 64 bits.
//! 20. `tensor-length`: there are as many elements, or bytes, as shape and type say.
//! 21. `tensor-data`: the range lies inside its file; the tiles of a recipe follow each
//!     other and cover the constant.
//! 22. `sparse-tensor`: values are one-dimensional; indices are int64, one entry or one
//!     tuple per value, inside the shape and ascending.
//! 23. `input-type`: an input of the main graph has a type, and a tensor an element type;
//!     an initializer for an input has its element type and shape.
//!
//! Model and functions.
//!
//! 24. `ir-version`: present and positive.
//! 25. `opset-import`: from IR version 3 on there is one; every entry has a version, which
//!     is positive; entries for the same domain (`ai.onnx` is the default one) agree.
//! 26. `function`: has a name; no two have the same domain, name and overload; its
//!     attributes have different names; its outputs are different.
//! 27. `recursive-function`: no function calls itself, directly or through others.
//!
//! Operators whose rules no schema and no checker tells, because they are not ONNX's own.
//!
//! 28. `contract`: see [`contracts`].
//!
//! # Not checked yet
//!
//! - Operators, attributes and types against the schemas, except the contracts.
//! - Types and shapes of the values between nodes; an entry of `value_info` against what
//!   the node makes (ONNX Runtime infers its own), or types of main outputs.
//! - That names are C identifiers, or that graphs have names: real models do not comply.
//! - That extents of types are not negative: runtimes read a negative one as unknown.
//! - Attributes that a call gives and the function does not declare.
//! - `training_info`, `configuration`, quantization annotations and device
//!   configurations, which stay encoded.
//!
//! [`Graph::owner`]: crate::ir::Graph::owner
//! [`Node::graph`]: crate::ir::Node::graph
//! [`Value::def`]: crate::ir::Value::def

mod constants;
pub mod contracts;
mod functions;
mod nodes;
mod scope;
mod structure;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    error::{Error, Result},
    ir::{GraphId, Model, NodeId},
};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Which invariant is broken; see the list in [`crate::verify`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Code {
            /// Every code, in the order of the list.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The name in the list.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    DanglingId = "dangling-id",
    GraphTree = "graph-tree",
    NodeHome = "node-home",
    ValueDef = "value-def",
    Constant = "constant",
    ValueInfo = "value-info",
    EmptyName = "empty-name",
    DuplicateName = "duplicate-name",
    UndefinedValue = "undefined-value",
    ShadowedName = "shadowed-name",
    GraphOutput = "graph-output",
    DuplicateNodeName = "duplicate-node-name",
    EmptyNode = "empty-node",
    Attribute = "attribute",
    AttributeReference = "attribute-reference",
    DomainImport = "domain-import",
    FunctionCall = "function-call",
    TensorType = "tensor-type",
    TensorShape = "tensor-shape",
    TensorLength = "tensor-length",
    TensorData = "tensor-data",
    SparseTensor = "sparse-tensor",
    InputType = "input-type",
    IrVersion = "ir-version",
    OpsetImport = "opset-import",
    Function = "function",
    RecursiveFunction = "recursive-function",
    Contract = "contract",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One fault of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant.
    pub code: Code,
    /// Where: the function and the nodes around it, then the node, value or list. Empty
    /// for the model as a whole.
    pub location: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            code,
            location,
            found,
            expected,
        } = self;
        if !location.is_empty() {
            write!(f, "{location}: ")?;
        }
        write!(f, "{found}; expected {expected} ({code})")
    }
}

/// The faults of a model: one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The faults, in the order of the invariants' groups and then of the model.
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0[0])?;
        match self.0.len() - 1 {
            0 => Ok(()),
            1 => f.write_str("; and one more fault"),
            more => write!(f, "; and {more} more faults"),
        }
    }
}

impl std::error::Error for Violations {}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Error {
        Error::input("the model is not valid").with_source(violations)
    }
}

/// Checks every invariant.
///
/// # Errors
/// All faults that were found.
pub fn verify(model: &Model) -> Result<(), Violations> {
    let mut report = Report {
        model,
        violations: Vec::new(),
    };
    // What the ids mean is only known when the structure is sound.
    if let Some(graphs) = structure::check(&mut report) {
        functions::check(&mut report);
        scope::check(&mut report, &graphs);
        nodes::check(&mut report, &graphs);
        constants::check(&mut report, &graphs);
        contracts::check(&mut report, &graphs);
    }
    match report.violations.is_empty() {
        true => Ok(()),
        false => Err(Violations(report.violations)),
    }
}

/// A graph of the model.
#[derive(Clone, Copy)]
struct Reached {
    id: GraphId,
    /// The function it is in.
    function: Option<usize>,
}

/// The faults found so far.
struct Report<'m> {
    model: &'m Model,
    violations: Vec<Violation>,
}

impl Report<'_> {
    fn add(
        &mut self,
        code: Code,
        location: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.violations.push(Violation {
            code,
            location: location.into(),
            found: found.into(),
            expected: expected.into(),
        });
    }

    fn place(&self, graph: GraphId, item: impl Into<String>) -> String {
        place(self.model, graph, item.into())
    }

    fn node(&self, node: NodeId) -> String {
        location(self.model, node)
    }

    fn function_label(&self, function: usize) -> String {
        function_label(self.model, function)
    }
}

/// Where `node` is, from the outside in: the function and the nodes around it, then itself.
pub fn location(model: &Model, node: NodeId) -> String {
    // A node without operator has a label that begins with a blank.
    let label = model.label(node);
    place(
        model,
        model.nodes[node].graph,
        label.trim_start().to_owned(),
    )
}

/// `item` in `graph`, for a location: the way from the outside in.
fn place(model: &Model, graph: GraphId, item: String) -> String {
    let mut levels = vec![item];
    let mut root = graph;
    while let Some(owner) = model.graphs[root].owner {
        let node = &model.nodes[owner];
        let holds = |a: &&crate::ir::Attribute| a.value.graphs().contains(&root);
        let attribute = node.attributes.iter().find(holds).map_or("", |a| &a.name);
        levels.push(format!("{} `{attribute}`", model.label(owner)));
        root = node.graph;
    }
    if let Some(f) = model.function_of(root) {
        levels.push(function_label(model, f));
    }
    levels.retain(|l| !l.is_empty());
    levels.reverse();
    levels.join(": ")
}

fn function_label(model: &Model, function: usize) -> String {
    let f = &model.functions[function];
    format!("function `{}`", qualified(f.domain(), &f.name))
}

/// `domain::name`, or only the name in the default domain.
fn qualified(domain: &str, name: &str) -> String {
    match domain.is_empty() {
        true => name.to_owned(),
        false => format!("{domain}::{name}"),
    }
}
