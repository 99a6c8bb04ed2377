//! All structural changes of a model.
//!
//! [`Edit`] collects insertions and removals and applies them to each graph's node list
//! once, so that a pass over n nodes costs O(n). Names of new entities are made here, at
//! commit time and in the order of the calls, so they never depend on threads.

mod inline;
mod substitution;
mod unused;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub use inline::inline_branches;
pub use substitution::Substitution;
pub use unused::{remove_unused, unlist};

use super::{
    Attribute, AttributeValue, Constant, Def, GraphId, Model, Node, NodeId, OpsetImport, SideTable,
    Str, Tensor, Type, Value, ValueId, ValueInfo,
};

/// A batch of changes. Dropping it without [`Edit::finish`] leaves lists inconsistent, so
/// `finish` is the only way out that passes use.
pub struct Edit<'m> {
    model: &'m mut Model,
    names: HashSet<Str>,
    /// Values by name, once something needs to know.
    named: Option<HashMap<Str, Vec<ValueId>>>,
    inserted: BTreeMap<NodeId, Vec<NodeId>>,
    following: BTreeMap<NodeId, Vec<NodeId>>,
    leading: BTreeMap<GraphId, Vec<NodeId>>,
    erased: SideTable<NodeId, bool>,
    touched: BTreeSet<GraphId>,
    /// Values that became initializers.
    settled: SideTable<ValueId, bool>,
}

impl<'m> Edit<'m> {
    /// Begins a batch.
    pub fn new(model: &'m mut Model) -> Edit<'m> {
        let nodes = model
            .nodes
            .ids()
            .filter_map(|n| model.nodes[n].name.clone());
        let values = model.values.ids().map(|v| model.values[v].name.clone());
        let names = values.chain(nodes).collect();
        Edit {
            model,
            names,
            named: None,
            inserted: BTreeMap::new(),
            following: BTreeMap::new(),
            leading: BTreeMap::new(),
            erased: SideTable::new(false),
            touched: BTreeSet::new(),
            settled: SideTable::new(false),
        }
    }

    /// The model as changed so far, except that node lists change at [`Edit::finish`].
    pub fn model(&self) -> &Model {
        self.model
    }

    /// Changes of one entity that touch no list and no name.
    pub fn model_mut(&mut self) -> &mut Model {
        self.model
    }

    /// A name that nothing in the model has: `base`, or `base` with a number.
    pub fn fresh_name(&mut self, base: &str) -> Str {
        let mut name: Str = base.into();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{base}_{n}").into();
            n += 1;
        }
        name
    }

    /// A new value without producer yet: [`Edit::insert_before`] gives it one.
    fn value(&mut self, name: &str, def: Def) -> ValueId {
        let name = self.fresh_name(name);
        self.model.values.push(Value {
            name,
            def,
            info: None,
            constant: None,
        })
    }

    /// Makes `tensor` a constant that `graph` and everything inside it can read, named
    /// `name` or like it. It becomes an initializer; inside a function, which has none, a
    /// `Constant` node. Up to IR version 3 every initializer is an input too: the main graph
    /// then has it, also for a subgraph, whose inputs are decided by its node.
    pub fn add_constant(&mut self, graph: GraphId, name: &str, mut tensor: Tensor) -> ValueId {
        if self.model.function_of(graph).is_some() {
            tensor.name = None;
            let value = AttributeValue::Tensor(Box::new(tensor));
            let mut node = Node::new(graph, "", "Constant");
            node.name = Some(format!("{name}/Constant").into());
            node.attributes = vec![Attribute::new("value", value)];
            return self.insert_first(node, name);
        }
        let listed = self.model.ir_version.unwrap_or(0) < 4;
        let graph = if listed { self.model.main } else { graph };
        let def = match listed {
            true => Def::Input(graph),
            false => Def::Initializer(graph),
        };
        let value = self.value(name, def);
        if listed {
            self.model.graphs[graph].inputs.push(value);
            self.model.values[value].info = Some(ValueInfo {
                ty: Some(Type::tensor(tensor.dtype, &tensor.dims)),
                ..ValueInfo::default()
            });
        }
        self.model.values[value].constant = Some(Constant::Dense(tensor));
        self.model.graphs[graph].initializers.push(value);
        value
    }

    /// Changes the elements of the constant that `value` is, an initializer or the tensor of a
    /// `Constant` node; type and extents stay.
    ///
    /// # Panics
    /// When it is none.
    pub fn change_constant(&mut self, value: ValueId, change: impl FnOnce(&mut Tensor)) {
        let producer = self.model.producer(value);
        let tensor = match (&mut self.model.values[value].constant, producer) {
            (Some(Constant::Dense(tensor)), _) => Some(tensor),
            (_, Some(node)) => {
                let attributes = self.model.nodes[node].attributes.iter_mut();
                let mut tensors = attributes.filter_map(|a| match &mut a.value {
                    AttributeValue::Tensor(tensor) => Some(&mut **tensor),
                    _ => None,
                });
                tensors.next()
            }
            _ => None,
        };
        let tensor = tensor.expect("a dense constant");
        change(tensor);
        // Computed elements have no place in typed fields.
        tensor.wire = Default::default();
    }

    /// Makes `value`, the result of a node, the constant `tensor` instead, an initializer of
    /// the same name. The node loses the result; [`Edit::erase`] it when it has no other.
    ///
    /// # Panics
    /// When no node makes `value`, or its graph takes no initializers
    /// ([`Model::takes_initializers`]).
    pub fn make_initializer(&mut self, value: ValueId, tensor: Tensor) {
        let Def::Node(node, slot) = self.model.values[value].def else {
            panic!(
                "`{}` is the result of a node",
                self.model.values[value].name
            );
        };
        let graph = self.model.nodes[node].graph;
        assert!(self.model.takes_initializers(graph));
        self.model.nodes[node].outputs[slot as usize] = None;
        let v = &mut self.model.values[value];
        v.def = Def::Initializer(graph);
        v.constant = Some(Constant::Dense(tensor));
        // The constant says it all.
        v.info = None;
        self.settled[value] = true;
        self.touched.insert(graph);
        self.model.graphs[graph].initializers.push(value);
        // An initializer is visible before the node, too.
        self.reveal(value);
    }

    /// Inserts `node` before `anchor`, in its graph, with one new output whose name is
    /// `output` or like it. Several insertions before one anchor keep their order.
    pub fn insert_before(&mut self, anchor: NodeId, mut node: Node, output: &str) -> ValueId {
        let graph = self.model.nodes[anchor].graph;
        let value = self.value(output, Def::Nothing(graph));
        node.graph = graph;
        node.outputs = vec![Some(value)];
        if let Some(name) = &node.name {
            node.name = Some(self.fresh_name(&name.clone()));
        }
        let id = self.model.nodes.push(node);
        self.model.values[value].def = Def::Node(id, 0);
        self.inserted.entry(anchor).or_default().push(id);
        self.touched.insert(graph);
        value
    }

    /// Gives `node`, one that was inserted, one more output, named `name` or like it.
    pub fn add_output(&mut self, node: NodeId, name: &str) -> ValueId {
        let slot = self.model.nodes[node].outputs.len() as u32;
        let value = self.value(name, Def::Node(node, slot));
        self.model.nodes[node].outputs.push(Some(value));
        value
    }

    /// Inserts `node` as soon as `value` is there, in its graph, with one new output whose
    /// name is `output` or like it: after the producer of `value`, else at the beginning.
    pub fn insert_after(&mut self, value: ValueId, mut node: Node, output: &str) -> ValueId {
        let Def::Node(producer, _) = self.model.values[value].def else {
            node.graph = self.model.home(value);
            return self.insert_first(node, output);
        };
        let graph = self.model.nodes[producer].graph;
        let made = self.value(output, Def::Nothing(graph));
        node.graph = graph;
        node.outputs = vec![Some(made)];
        self.follow(producer, node, made);
        made
    }

    /// Puts `node` between the producer of `value` and its users: the producer makes a new
    /// value, whose name is `before` or like it, and `node` makes `value` of that, its first
    /// operand. Returns the new value.
    ///
    /// # Panics
    /// When no node makes `value`.
    pub fn interpose(&mut self, value: ValueId, mut node: Node, before: &str) -> ValueId {
        let Def::Node(producer, slot) = self.model.values[value].def else {
            panic!(
                "`{}` is the result of a node",
                self.model.values[value].name
            );
        };
        let made = self.value(before, Def::Node(producer, slot));
        self.model.nodes[producer].outputs[slot as usize] = Some(made);
        node.graph = self.model.nodes[producer].graph;
        node.inputs.insert(0, Some(made));
        node.outputs = vec![Some(value)];
        self.follow(producer, node, value);
        made
    }

    fn follow(&mut self, producer: NodeId, mut node: Node, output: ValueId) {
        if let Some(name) = &node.name {
            node.name = Some(self.fresh_name(&name.clone()));
        }
        self.touched.insert(node.graph);
        let id = self.model.nodes.push(node);
        self.model.values[output].def = Def::Node(id, 0);
        self.following.entry(producer).or_default().push(id);
    }

    /// Inserts `node` at the beginning of its graph, with one new output whose name is
    /// `output` or like it.
    pub fn insert_first(&mut self, mut node: Node, output: &str) -> ValueId {
        let graph = node.graph;
        let value = self.value(output, Def::Nothing(graph));
        node.outputs = vec![Some(value)];
        if let Some(name) = &node.name {
            node.name = Some(self.fresh_name(&name.clone()));
        }
        let id = self.model.nodes.push(node);
        self.model.values[value].def = Def::Node(id, 0);
        self.leading.entry(graph).or_default().push(id);
        self.touched.insert(graph);
        value
    }

    /// Puts `node` in the place of `old`: it takes over the outputs and the name of `old`.
    pub fn replace(&mut self, old: NodeId, mut node: Node) -> NodeId {
        let before = &mut self.model.nodes[old];
        node.graph = before.graph;
        node.outputs = before.outputs.clone();
        node.name = before.name.clone();
        node.doc_string = before.doc_string.take();
        node.metadata = std::mem::take(&mut before.metadata);
        let id = self.model.nodes.push(node);
        for (slot, output) in self.model.nodes[id].outputs.iter().enumerate() {
            if let Some(value) = *output {
                self.model.values[value].def = Def::Node(id, slot as u32);
            }
        }
        self.inserted.entry(old).or_default().push(id);
        self.erased[old] = true;
        self.touched.insert(self.model.nodes[id].graph);
        id
    }

    /// As [`Edit::replace`], but `node` keeps its own name, doc string and metadata: for a node
    /// that takes in `old`, which comes after it, and its outputs.
    pub fn replace_keeping(&mut self, old: NodeId, mut node: Node) -> NodeId {
        let (name, doc_string) = (node.name.take(), node.doc_string.take());
        let metadata = std::mem::take(&mut node.metadata);
        let id = self.replace(old, node);
        let made = &mut self.model.nodes[id];
        (made.name, made.doc_string, made.metadata) = (name, doc_string, metadata);
        id
    }

    /// Removes `node`. Nothing may use its outputs.
    pub fn erase(&mut self, node: NodeId) {
        self.erased[node] = true;
        self.touched.insert(self.model.nodes[node].graph);
    }

    /// Imports `domain` at `version` for nodes in `graph`, unless it is imported already:
    /// in the model, and in the function that `graph` belongs to.
    pub fn import_opset(&mut self, graph: GraphId, domain: &str, version: i64) {
        let function = self.model.function_of(graph);
        let model = &mut *self.model;
        let lists = std::iter::once(&mut model.opset_imports)
            .chain(function.map(|f| &mut model.functions[f].opset_imports));
        for imports in lists {
            if !imports.iter().any(|o| o.domain() == domain) {
                imports.push(OpsetImport {
                    domain: Some(domain.into()),
                    version: Some(version),
                });
            }
        }
    }

    /// Applies the insertions and removals.
    pub fn finish(mut self) {
        for graph in std::mem::take(&mut self.touched) {
            let old = std::mem::take(&mut self.model.graphs[graph].nodes);
            let mut new = Vec::with_capacity(old.len());
            let leading = self.leading.remove(&graph).unwrap_or_default();
            for node in leading.into_iter().chain(old) {
                self.emit(node, &mut new);
            }
            let g = &mut self.model.graphs[graph];
            g.nodes = new;
            let (settled, erased, values) = (&self.settled, &self.erased, &self.model.values);
            let gone = |v: ValueId| {
                settled[v] || matches!(values[v].def, Def::Node(maker, _) if erased[maker])
            };
            g.value_info.retain(|&v| !gone(v));
            g.repeated_value_info.retain(|o| !gone(o.value));
        }
    }

    /// Inserted nodes may themselves have been replaced or have insertions around them.
    fn emit(&mut self, node: NodeId, out: &mut Vec<NodeId>) {
        for inserted in self.inserted.remove(&node).unwrap_or_default() {
            self.emit(inserted, out);
        }
        if !self.erased[node] {
            out.push(node);
        }
        for following in self.following.remove(&node).unwrap_or_default() {
            self.emit(following, out);
        }
    }
}

/// Nodes that together take the place of one node: each works on the result of the one
/// before, the first on a given value.
pub struct Chain<'e, 'm> {
    edit: &'e mut Edit<'m>,
    anchor: NodeId,
    start: ValueId,
    nodes: Vec<Node>,
}

impl<'e, 'm> Chain<'e, 'm> {
    /// Begins a chain that works on `start`, to replace `anchor`.
    pub fn new(edit: &'e mut Edit<'m>, anchor: NodeId, start: ValueId) -> Chain<'e, 'm> {
        Chain {
            edit,
            anchor,
            start,
            nodes: Vec::new(),
        }
    }

    /// A node for this place; `None` among `inputs` is where [`Chain::push`] puts the
    /// result before, the first time, and an absent operand after that.
    pub fn node(&self, domain: &str, op_type: &str, inputs: Vec<Option<ValueId>>) -> Node {
        let anchor = &self.edit.model.nodes[self.anchor];
        let mut node = Node::new(anchor.graph, domain, op_type);
        node.inputs = inputs;
        node
    }

    /// The version of the default domain here.
    pub fn opset(&self) -> i64 {
        let graph = self.edit.model.nodes[self.anchor].graph;
        self.edit.model.opset(graph, "").unwrap_or(1)
    }

    /// A new constant that the chain reads, named after the replaced node.
    pub fn constant(&mut self, what: &str, tensor: Tensor) -> ValueId {
        let graph = self.edit.model.nodes[self.anchor].graph;
        let name = format!("{}/{what}", self.base());
        self.edit.add_constant(graph, &name, tensor)
    }

    /// Inserts `node` before the replaced one, outside the chain; its result.
    pub fn beside(&mut self, node: Node) -> ValueId {
        self.insert(node)
    }

    /// Inserts `nodes` before the replaced one, outside the chain: each works on the result of the one
    /// before, the first on `start`. Returns the last result.
    pub fn beside_all(&mut self, nodes: Vec<Node>, start: ValueId) -> ValueId {
        let on = |value, node| self.insert(feed(node, value));
        nodes.into_iter().fold(start, on)
    }

    /// Appends `node`.
    pub fn push(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Puts the chain in the place of the node.
    ///
    /// # Panics
    /// When the chain is empty.
    pub fn replace(mut self) {
        let mut nodes = std::mem::take(&mut self.nodes);
        let last = nodes
            .pop()
            .expect("a chain that replaces a node is not empty");
        let mut value = self.start;
        for node in nodes {
            let node = feed(node, value);
            value = self.insert(node);
        }
        self.edit.replace(self.anchor, feed(last, value));
    }

    fn insert(&mut self, mut node: Node) -> ValueId {
        let name = format!("{}/{}", self.base(), node.op_type);
        node.name = Some(name.as_str().into());
        self.edit
            .insert_before(self.anchor, node, &format!("{name}_output_0"))
    }

    /// What new names begin with.
    fn base(&self) -> Str {
        self.edit.model.node_name(self.anchor)
    }
}

fn feed(mut node: Node, value: ValueId) -> Node {
    let slot = node.inputs.iter().position(Option::is_none);
    let slot = slot.expect("a node in a chain has a place for the value before it");
    node.inputs[slot] = Some(value);
    node
}

#[cfg(test)]
mod tests;
