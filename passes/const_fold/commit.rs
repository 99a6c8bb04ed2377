//! Puts constants in the place of nodes.

use super::{
    budget::Choice,
    pieces::is_recipe,
    values::{Known, Values},
};
use crate::{
    ir::{
        Attribute, AttributeValue, Model, Node, Tensor, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::PassContext,
};

/// Replaces what was chosen; how many nodes.
pub(super) fn commit(
    model: &mut Model,
    values: &Values,
    choice: Choice,
    cx: &mut PassContext,
) -> usize {
    let mut replaced = choice.replaced;
    cx.limit(&mut replaced);
    let uses = Uses::of(model);
    let mut unused = Vec::new();
    let mut edit = Edit::new(model);
    for &node in &replaced {
        let n = edit.model().nodes[node].clone();
        let constants: Vec<(ValueId, Tensor)> = n
            .outputs
            .iter()
            .flatten()
            .filter(|&&v| !uses.of_value(v).is_empty())
            .filter_map(|&v| match values.get(v) {
                Some(Known::Tensor(t)) => Some((v, t.clone())),
                _ => None,
            })
            .collect();
        unused.extend(n.inputs.iter().flatten().copied());
        unused.extend(constants.iter().map(|c| c.0));
        let recipes = constants.iter().filter(|c| is_recipe(&c.1)).count();
        cx.count(if n.is("Constant") { "lifted" } else { "folded" }, 1);
        cx.count("recipes", recipes as u64);
        if edit.model().takes_initializers(n.graph) {
            for (value, tensor) in constants {
                edit.make_initializer(value, tensor);
            }
            edit.erase(node);
        } else {
            // There is one result: `budget` keeps other nodes.
            for (_, tensor) in constants {
                edit.replace(node, constant_of(&n, tensor));
            }
        }
    }
    edit.finish();
    remove_unused(model, &unused);
    replaced.len()
}

/// A `Constant` node for the place of `node`.
fn constant_of(node: &Node, tensor: Tensor) -> Node {
    let mut constant = Node::new(node.graph, "", "Constant");
    let value = AttributeValue::Tensor(Box::new(tensor));
    constant.attributes = vec![Attribute::new("value", value)];
    constant
}
