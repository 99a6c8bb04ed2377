//! One value in the place of another, for many values at once.

use std::collections::HashMap;

use super::Edit;
use crate::ir::{Def, GraphId, Model, NodeId, SideTable, Str, Use, Uses, ValueId};

/// Values that other values stand for. They are collected while the model is looked at, and
/// applied to all of it in one walk ([`Edit::substitute`]), so that chains cost nothing.
pub struct Substitution {
    /// Which values are outputs of their graph.
    outputs: SideTable<ValueId, bool>,
    to: HashMap<ValueId, ValueId>,
    replaced: Vec<ValueId>,
}

impl Substitution {
    /// None yet, for `model`.
    pub fn new(model: &Model) -> Substitution {
        let mut outputs = SideTable::new(false);
        for graph in model.reachable_graphs() {
            for output in &model.graphs[graph].outputs {
                outputs[output.value] = true;
            }
        }
        Substitution {
            outputs,
            to: HashMap::new(),
            replaced: Vec::new(),
        }
    }

    /// What stands for `value`: itself when nothing else does.
    pub fn resolve(&self, mut value: ValueId) -> ValueId {
        while let Some(&to) = self.to.get(&value) {
            value = to;
        }
        value
    }

    /// The values that have a substitute, in the order they got it: nothing uses them after
    /// [`Edit::substitute`].
    pub fn replaced(&self) -> &[ValueId] {
        &self.replaced
    }

    /// Whether [`Substitution::unite`] can be done. It cannot when `gone` is an output and
    /// `kept` is one too, an input, a constant, or of another graph; nor when `gone` has a
    /// substitute.
    pub fn can_unite(&self, model: &Model, gone: ValueId, kept: ValueId) -> bool {
        let kept = self.resolve(kept);
        let made = |v: ValueId| matches!(model.values[v].def, Def::Node(..));
        let takes_name =
            !self.outputs[kept] && made(gone) && made(kept) && model.home(gone) == model.home(kept);
        gone != kept && !self.to.contains_key(&gone) && (!self.outputs[gone] || takes_name)
    }

    /// Lets `kept` stand for `gone`; both are the same at run time. An output of a graph
    /// keeps its name: when `gone` is one, the node that makes `kept` makes `gone` instead,
    /// and `gone` stands for `kept`. Does nothing unless [`Substitution::can_unite`].
    pub fn unite(&mut self, edit: &mut Edit<'_>, gone: ValueId, kept: ValueId) {
        if !self.can_unite(edit.model(), gone, kept) {
            return;
        }
        let kept = self.resolve(kept);
        if !self.outputs[gone] {
            return self.insert(gone, kept);
        }
        let model = edit.model_mut();
        let defs = [gone, kept].map(|v| model.values[v].def);
        for (value, def) in [(gone, defs[1]), (kept, defs[0])] {
            model.values[value].def = def;
            if let Def::Node(node, slot) = def {
                model.nodes[node].outputs[slot as usize] = Some(value);
            }
        }
        // It is there earlier than before: graphs in between may have its name.
        edit.reveal(gone);
        self.insert(kept, gone);
    }

    fn insert(&mut self, from: ValueId, to: ValueId) {
        self.to.insert(from, to);
        self.replaced.push(from);
    }
}

impl Edit<'_> {
    /// Gives every operand and every output of a graph that has a substitute its substitute.
    pub fn substitute(&mut self, substitution: &Substitution) {
        for graph in self.model.reachable_graphs() {
            for node in self.model.graphs[graph].nodes.clone() {
                for slot in 0..self.model.nodes[node].inputs.len() {
                    let Some(value) = self.model.nodes[node].inputs[slot] else {
                        continue;
                    };
                    let to = substitution.resolve(value);
                    if to != value {
                        self.set_operand(node, slot, to);
                    }
                }
            }
            for output in &mut self.model.graphs[graph].outputs {
                output.value = substitution.resolve(output.value);
            }
        }
    }

    /// Makes every user of `from` use `to` instead, outputs of graphs included.
    pub fn redirect(&mut self, uses: &Uses, from: ValueId, to: ValueId) {
        for &u in uses.of_value(from) {
            match u {
                Use::Operand(node, slot) => {
                    self.set_operand(node, slot as usize, to);
                }
                Use::Output(graph, index) => {
                    self.model.graphs[graph].outputs[index as usize].value = to;
                }
            }
        }
    }

    /// Makes `value`, of the same graph or one around it, operand `slot` of `node`.
    pub fn set_operand(&mut self, node: NodeId, slot: usize, value: ValueId) {
        self.model.nodes[node].inputs[slot] = Some(value);
        if self.model.nodes[node].graph != self.model.home(value) {
            self.reveal(value);
        }
    }

    /// Makes the name of `value` mean `value` in all graphs inside its own: values there that
    /// have the name too get another one. Nobody outside a graph knows what its own values
    /// are called, except of the main graph, which is in no other.
    pub(crate) fn reveal(&mut self, value: ValueId) {
        let name = self.model.values[value].name.clone();
        let home = self.model.home(value);
        let named = self.named.get_or_insert_with(|| by_name(self.model));
        let hides = |v: &ValueId| {
            let inner: GraphId = self.model.home(*v);
            self.model.values[*v].name == name && inner != home && self.model.is_within(inner, home)
        };
        let hiding: Vec<ValueId> = named
            .get(&name)
            .into_iter()
            .flatten()
            .copied()
            .filter(hides)
            .collect();
        for other in hiding {
            self.model.values[other].name = self.fresh_name(&name);
        }
    }
}

/// All values by name. Names made later are fresh, so the table stays right.
fn by_name(model: &Model) -> HashMap<Str, Vec<ValueId>> {
    let mut named: HashMap<Str, Vec<ValueId>> = HashMap::new();
    for value in model.values.ids() {
        let name = model.values[value].name.clone();
        named.entry(name).or_default().push(value);
    }
    named
}
