//! Gives the nodes their new forms.

use super::{
    draft::{Around, Draft, Operand},
    ir_version,
};
use crate::ir::{Attribute, AttributeValue, Model, Node, NodeId, Tensor, ValueId, edit::Edit};

/// From here on a Reshape can be told that a 0 in a shape is an extent of 0, and not that of the
/// operand.
const ALLOWZERO_OPSET: i64 = 14;

/// Writes the drafts and the new versions; how many imports changed.
pub(super) fn commit(
    model: &mut Model,
    domain: &str,
    to: i64,
    drafts: Vec<(NodeId, Draft)>,
) -> usize {
    if domain.is_empty() {
        // First: where new constants are listed depends on it.
        ir_version::raise(model, to);
    }
    let mut edit = Edit::new(model);
    for (node, draft) in drafts {
        let mut writer = Writer {
            edit: &mut edit,
            node,
            to,
        };
        writer.write(draft);
    }
    edit.finish();
    let functions = model.functions.iter_mut();
    let lists = functions.map(|f| &mut f.opset_imports);
    let lists = std::iter::once(&mut model.opset_imports).chain(lists);
    let mut imports = 0;
    for import in lists.flatten().filter(|o| o.domain() == domain) {
        if import.version.is_some_and(|v| v < to) {
            import.version = Some(to);
            imports += 1;
        }
    }
    imports
}

struct Writer<'e, 'm> {
    edit: &'e mut Edit<'m>,
    node: NodeId,
    to: i64,
}

impl Writer<'_, '_> {
    fn write(&mut self, draft: Draft) {
        let graph = self.edit.model().nodes[self.node].graph;
        let base = self.edit.model().node_name(self.node);
        let mut inputs: Vec<Option<ValueId>> = Vec::new();
        for operand in draft.operands {
            inputs.push(match operand {
                Operand::Absent => None,
                Operand::Value(value) => Some(value),
                Operand::Constant(tensor, what) => Some(self.edit.add_constant(
                    graph,
                    &format!("{base}/{what}"),
                    tensor,
                )),
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        match draft.around {
            Around::Nothing => {}
            Around::Flatten(axis) => self.flatten(&mut inputs, axis),
            Around::Spread { groups, channels } => {
                for value in inputs.iter_mut().take(3).skip(1) {
                    *value = value.map(|v| self.spread(v, [groups, channels]));
                }
            }
        }
        let node = &mut self.edit.model_mut().nodes[self.node];
        node.op_type = draft.op_type;
        node.attributes = draft.attributes;
        node.inputs = inputs;
    }

    /// Inserts a node before this one; its result.
    fn before(&mut self, op: &str, inputs: &[ValueId], attribute: Option<(&str, i64)>) -> ValueId {
        let (node, name) = self.made(op, inputs, attribute);
        self.edit
            .insert_before(self.node, node, &format!("{name}_output_0"))
    }

    /// A new node named after this one.
    fn made(&self, op: &str, inputs: &[ValueId], attribute: Option<(&str, i64)>) -> (Node, String) {
        let model = self.edit.model();
        let name = format!("{}/{op}", model.node_name(self.node));
        let mut node = Node::new(model.nodes[self.node].graph, "", op);
        node.name = Some(name.as_str().into());
        node.inputs = inputs.iter().copied().map(Some).collect();
        let attribute = attribute.map(|(n, i)| Attribute::new(n, AttributeValue::Int(i)));
        node.attributes = attribute.into_iter().collect();
        (node, name)
    }

    fn flatten(&mut self, inputs: &mut [Option<ValueId>], axis: i64) {
        let result = self.edit.model().nodes[self.node].output(0);
        let (Some(Some(first)), Some(result)) = (inputs.first_mut(), result) else {
            return;
        };
        let shape = self.before("Shape", &[*first], None);
        *first = self.before("Flatten", &[*first], Some(("axis", axis)));
        let allowzero = (self.to >= ALLOWZERO_OPSET).then_some(("allowzero", 1));
        let (back, name) = self.made("Reshape", &[shape], allowzero);
        self.edit
            .interpose(result, back, &format!("{name}_input_0"));
    }

    /// `value`, one number a group, as one number a channel.
    fn spread(&mut self, value: ValueId, [groups, channels]: [i64; 2]) -> ValueId {
        let graph = self.edit.model().nodes[self.node].graph;
        let base = self.edit.model().node_name(self.node);
        let mut list = |what: &str, list: &[i64]| {
            let tensor = Tensor::from_i64(vec![list.len() as i64], list);
            self.edit
                .add_constant(graph, &format!("{base}/{what}"), tensor)
        };
        let column = list("column", &[groups, 1]);
        let matrix = list("matrix", &[groups, channels]);
        let flat = list("flat", &[-1]);
        let value = self.before("Reshape", &[value, column], None);
        let value = self.before("Expand", &[value, matrix], None);
        self.before("Reshape", &[value, flat], None)
    }
}
