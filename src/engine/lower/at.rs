//! Nodes in the place of one node.

use crate::ir::{
    Attribute, AttributeValue, DataType, Model, Node, NodeId, Str, Tensor, ValueId, edit::Edit,
};

/// A node that is being replaced: new nodes go before it, the last one takes its place.
pub(super) struct At<'e, 'm> {
    edit: &'e mut Edit<'m>,
    node: NodeId,
    /// What new names begin with.
    base: Str,
}

impl<'e, 'm> At<'e, 'm> {
    pub(super) fn new(edit: &'e mut Edit<'m>, node: NodeId) -> At<'e, 'm> {
        let base = edit.model().node_name(node);
        At { edit, node, base }
    }

    pub(super) fn model(&self) -> &Model {
        self.edit.model()
    }

    /// The node, as it was.
    pub(super) fn node(&self) -> &Node {
        &self.edit.model().nodes[self.node]
    }

    /// A new constant for the new nodes.
    pub(super) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let graph = self.node().graph;
        let name = format!("{}/constant", self.base);
        self.edit.add_constant(graph, &name, tensor)
    }

    /// A new constant that every graph can read.
    pub(super) fn shared(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let main = self.model().main;
        self.edit.add_constant(main, name, tensor)
    }

    pub(super) fn float(&mut self, x: f32) -> ValueId {
        self.constant(Tensor::from_f32(vec![], &[x]))
    }

    pub(super) fn ints(&mut self, x: &[i64]) -> ValueId {
        self.constant(Tensor::from_i64(vec![x.len() as i64], x))
    }

    /// The result of a new node before this one.
    pub(super) fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> ValueId {
        let inputs = inputs.iter().copied().map(Some).collect();
        self.op_with(op_type, inputs, vec![])
    }

    /// As [`At::op`], with absent inputs and with attributes.
    pub(super) fn op_with(
        &mut self,
        op_type: &str,
        inputs: Vec<Option<ValueId>>,
        attributes: Vec<Attribute>,
    ) -> ValueId {
        self.op_of(op_type, inputs, attributes, 1)[0]
    }

    /// As [`At::op_with`], with `outputs` results.
    pub(super) fn op_of(
        &mut self,
        op_type: &str,
        inputs: Vec<Option<ValueId>>,
        attributes: Vec<Attribute>,
        outputs: usize,
    ) -> Vec<ValueId> {
        let name = format!("{}/{op_type}", self.base);
        let mut node = self.new_node(op_type, inputs, attributes);
        node.name = Some(name.as_str().into());
        let first = self.edit.insert_before(self.node, node, &name);
        let made = self.model().producer(first).expect("just inserted");
        let mut results = vec![first];
        results.extend((1..outputs).map(|_| self.edit.add_output(made, &name)));
        results
    }

    pub(super) fn cast(&mut self, x: ValueId, to: DataType) -> ValueId {
        self.op_with("Cast", vec![Some(x)], vec![cast_to(to)])
    }

    /// Puts `op_type` in the place of the node: it gives what the node gave.
    pub(super) fn replace(self, op_type: &str, inputs: &[ValueId]) {
        let inputs = inputs.iter().copied().map(Some).collect();
        self.replace_with(op_type, inputs, vec![]);
    }

    /// As [`At::replace`], with absent inputs and with attributes.
    pub(super) fn replace_with(
        self,
        op_type: &str,
        inputs: Vec<Option<ValueId>>,
        attributes: Vec<Attribute>,
    ) {
        let node = self.new_node(op_type, inputs, attributes);
        self.edit.replace(self.node, node);
    }

    fn new_node(
        &self,
        op_type: &str,
        mut inputs: Vec<Option<ValueId>>,
        attributes: Vec<Attribute>,
    ) -> Node {
        // rten counts absent operands at the end, and may find them too many.
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let mut node = Node::new(self.node().graph, "", op_type);
        node.inputs = inputs;
        node.attributes = attributes;
        node
    }
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute::new(name, AttributeValue::Int(value))
}

pub(super) fn ints(name: &str, values: Vec<i64>) -> Attribute {
    Attribute::new(name, AttributeValue::Ints(values))
}

pub(super) fn cast_to(to: DataType) -> Attribute {
    int("to", i64::from(to.code()))
}
