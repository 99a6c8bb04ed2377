//! Which constants the model is to hold, so that the file does not grow.

use std::collections::HashMap;

use super::values::{Known, Values};
use crate::ir::{
    AttributeValue, Data, DataType, Def, Elements, Model, Node, NodeId, SideTable, Str, Tensor,
    Use, Uses, ValueId,
};

/// What is done with the nodes that were evaluated.
pub(super) struct Choice {
    /// Nodes whose results become constants, in document order.
    pub(super) replaced: Vec<NodeId>,
    /// Nodes that stay because of the size of their results, and that size.
    pub(super) kept: Vec<(NodeId, u64)>,
}

/// Chooses the nodes whose results become constants, so that what goes is no smaller than what
/// comes, for all nodes that have a constant in common taken together; or, when the file may
/// `grow`, all.
pub(super) fn choose(model: &Model, values: &Values, grow: bool) -> Choice {
    let mut budget = Budget::new(model, values);
    let mut kept = Vec::new();
    loop {
        let frontier = budget.frontier();
        let growing = match grow {
            true => Vec::new(),
            false => budget.growing(&frontier),
        };
        if growing.is_empty() {
            let order = &budget.order;
            let replaced = order.iter().copied().filter(|&n| frontier[n]).collect();
            kept.sort_by_key(|&(n, _)| n);
            return Choice { replaced, kept };
        }
        for node in growing {
            budget.stays[node] = true;
            if !model.nodes[node].is("Constant") {
                kept.push((node, budget.size(node)));
            }
        }
    }
}

struct Budget<'m> {
    model: &'m Model,
    values: &'m Values,
    uses: Uses,
    /// Nodes in document order.
    order: Vec<NodeId>,
    /// Nodes that are not folded.
    stays: SideTable<NodeId, bool>,
}

/// Whom a constant or node goes with.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Nobody,
    One(NodeId),
    Several,
}

impl<'m> Budget<'m> {
    fn new(model: &'m Model, values: &'m Values) -> Budget<'m> {
        let mut budget = Budget {
            model,
            values,
            uses: Uses::of(model),
            order: model.reachable_nodes(),
            stays: SideTable::new(false),
        };
        for &node in &budget.order {
            let mut outputs = model.nodes[node].outputs.iter().flatten();
            let used = outputs.any(|&v| !budget.uses.of_value(v).is_empty());
            budget.stays[node] = !values.is_evaluated(node) || !used;
        }
        budget
    }

    /// The nodes that are folded and whose results something else needs: that stay with these.
    fn frontier(&mut self) -> SideTable<NodeId, bool> {
        let mut frontier = SideTable::new(false);
        for &node in self.order.iter().rev() {
            if self.stays[node] {
                continue;
            }
            let needed = self.needed(node);
            if needed.is_empty() {
                continue;
            }
            match self.fits(node, &needed) {
                true => frontier[node] = true,
                // Then its operands are needed.
                false => self.stays[node] = true,
            }
        }
        frontier
    }

    /// Results of `node` that a node that stays, or a graph, needs.
    fn needed(&self, node: NodeId) -> Vec<ValueId> {
        let by = |u: &Use| match u {
            Use::Operand(reader, _) => self.stays[*reader],
            Use::Output(..) => true,
        };
        let outputs = self.model.nodes[node].outputs.iter().flatten().copied();
        outputs
            .filter(|&v| self.uses.of_value(v).iter().any(by))
            .collect()
    }

    /// Whether there can be constants in the place of `needed`, results of `node`.
    fn fits(&self, node: NodeId, needed: &[ValueId]) -> bool {
        let tensors = needed.iter().all(|&v| self.values.tensor(v).is_some());
        let n = &self.model.nodes[node];
        match self.becomes_initializers(node) {
            true => tensors,
            // One `Constant` node takes the place of the node.
            false => tensors && n.outputs.len() == 1 && !n.is("Constant"),
        }
    }

    /// Whether the results of `node` can be initializers.
    fn becomes_initializers(&self, node: NodeId) -> bool {
        let graph = self.model.nodes[node].graph;
        self.model.takes_initializers(graph)
    }

    /// Bytes of the results of `node`.
    fn size(&self, node: NodeId) -> u64 {
        let outputs = self.model.nodes[node].outputs.iter().flatten();
        outputs
            .filter_map(|&v| self.values.tensor(v))
            .map(Tensor::byte_len)
            .sum()
    }

    /// Nodes of the frontier that may not be folded, because more comes than goes.
    fn growing(&self, frontier: &SideTable<NodeId, bool>) -> Vec<NodeId> {
        let owners = self.owners(frontier);
        let mut groups = Groups::new(self);
        let mut balance: HashMap<usize, i128> = HashMap::new();
        let mut own: HashMap<NodeId, i128> = HashMap::new();
        for &node in &self.order {
            if self.stays[node] {
                continue;
            }
            let group = groups.of(node);
            let gone = i128::from(node_size(self.model, node));
            *balance.entry(group).or_default() -= gone;
            if let Owner::One(owner) = owners.nodes[node] {
                *own.entry(owner).or_default() -= gone;
            }
            if frontier[node] {
                let come = i128::from(self.added(node));
                *balance.entry(group).or_default() += come;
                *own.entry(node).or_default() += come;
            }
        }
        for &(value, owner) in &owners.constants {
            let gone = i128::from(constant_size(self.model, value));
            if let Some(&reader) = self.folded_readers(value).first() {
                *balance.entry(groups.of(reader)).or_default() -= gone;
            }
            if let Owner::One(node) = owner {
                *own.entry(node).or_default() -= gone;
            }
        }
        let mut candidates: Vec<NodeId> = self
            .order
            .iter()
            .copied()
            .filter(|&n| frontier[n] && own[&n] > 0)
            .collect();
        // The largest first; of equal ones the later, whose operands stay.
        candidates.sort_by_key(|n| -own[n]);
        let mut growing = Vec::new();
        for node in candidates {
            let left = balance.entry(groups.of(node)).or_default();
            if *left > 0 {
                *left -= own[&node];
                growing.push(node);
            }
        }
        growing
    }

    /// The nodes that read `value` and are folded.
    fn folded_readers(&self, value: ValueId) -> Vec<NodeId> {
        let reader = |u: &Use| match u {
            Use::Operand(node, _) if !self.stays[*node] => Some(*node),
            _ => None,
        };
        self.uses
            .of_value(value)
            .iter()
            .filter_map(reader)
            .collect()
    }

    /// Bytes that the constants in the place of `node` take, at most.
    fn added(&self, node: NodeId) -> u64 {
        // A `Constant` node around the tensor: operator, attribute, keys and lengths.
        let name = self.model.nodes[node].name.as_ref();
        let extra = match self.becomes_initializers(node) {
            true => 0,
            false => 40 + name.map_or(0, |n| n.len() as u64 + 2),
        };
        let entry = |v: ValueId| match self.values.get(v) {
            Some(Known::Tensor(t)) => {
                tensor_entry(t) + self.model.values[v].name.len() as u64 + extra
            }
            _ => 0,
        };
        self.needed(node).into_iter().map(entry).sum()
    }

    /// With whom each folded node goes, and each initializer that nothing else needs.
    fn owners(&self, frontier: &SideTable<NodeId, bool>) -> Owners {
        let mut nodes = SideTable::new(Owner::Nobody);
        for &node in self.order.iter().rev() {
            if self.stays[node] {
                continue;
            }
            let outputs = self.model.nodes[node].outputs.iter().flatten();
            let readers = outputs.flat_map(|&v| self.folded_readers(v));
            let mut owner = readers.fold(Owner::Nobody, |o, r| join(o, nodes[r]));
            if frontier[node] {
                owner = join(owner, Owner::One(node));
            }
            nodes[node] = owner;
        }
        let mut constants = Vec::new();
        for graph in self.model.reachable_graphs() {
            for &value in &self.model.graphs[graph].initializers {
                let readers = self.folded_readers(value);
                let all = readers.len() == self.uses.of_value(value).len();
                if all && !readers.is_empty() && !self.model.is_overridable(value) {
                    let owner = readers
                        .iter()
                        .fold(Owner::Nobody, |o, &r| join(o, nodes[r]));
                    constants.push((value, owner));
                }
            }
        }
        Owners { nodes, constants }
    }
}

struct Owners {
    nodes: SideTable<NodeId, Owner>,
    /// Initializers that go.
    constants: Vec<(ValueId, Owner)>,
}

fn join(a: Owner, b: Owner) -> Owner {
    match (a, b) {
        (Owner::Nobody, o) | (o, Owner::Nobody) => o,
        (a, b) if a == b => a,
        _ => Owner::Several,
    }
}

/// Folded nodes that depend on one another or have a constant in common.
struct Groups {
    parent: SideTable<NodeId, Option<NodeId>>,
}

impl Groups {
    fn new(budget: &Budget<'_>) -> Groups {
        let mut groups = Groups {
            parent: SideTable::new(None),
        };
        for value in budget.model.values.ids() {
            let maker = budget.model.producer(value).filter(|&n| !budget.stays[n]);
            if maker.is_none() && budget.values.get(value).is_none() {
                continue;
            }
            let readers = budget.folded_readers(value);
            let mut all = maker.into_iter().chain(readers);
            if let Some(first) = all.next() {
                all.for_each(|n| groups.unite(first, n));
            }
        }
        groups
    }

    fn root(&mut self, node: NodeId) -> NodeId {
        let mut root = node;
        while let Some(parent) = self.parent[root] {
            root = parent;
        }
        // The path is shortened, so that the next search is not as long.
        let mut at = node;
        while let Some(parent) = self.parent[at] {
            self.parent[at] = Some(root).filter(|&r| r != at);
            at = parent;
        }
        root
    }

    fn unite(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.parent[b] = Some(a);
        }
    }

    fn of(&mut self, node: NodeId) -> usize {
        use crate::ir::EntityId;
        self.root(node).index()
    }
}

/// Bytes of a number as the wire format writes it.
fn varint(n: u64) -> u64 {
    u64::from((64 - n.leading_zeros()).max(1)).div_ceil(7)
}

/// Bytes of a constant in the file without its name, at most.
fn tensor_entry(t: &Tensor) -> u64 {
    let dims: u64 = t.dims.iter().map(|&d| 1 + varint(d as u64)).sum();
    // Type, and the keys and lengths of name, elements and the whole.
    let fixed = 2 + 3 + 1 + varint(t.byte_len()) + 1 + varint(t.byte_len() + 64);
    let elements = match &t.elements {
        Elements::Data(_) => t.byte_len(),
        Elements::Strings(s) => s
            .iter()
            .map(|s| s.len() as u64 + 1 + varint(s.len() as u64))
            .sum(),
    };
    dims + fixed + elements
}

/// Bytes of the elements of a constant in the file, at least.
fn elements_size(t: &Tensor) -> u64 {
    let whole = !t.wire.typed || matches!(t.dtype, DataType::Float | DataType::Double);
    match (&t.elements, whole) {
        (Elements::Data(Data::Bytes(_) | Data::File { .. } | Data::Computed { .. }), true)
        | (Elements::Strings(_), _) => t.byte_len(),
        // Numbers of a typed field take a byte or more.
        _ => t.element_count().unwrap_or(0).min(t.byte_len()),
    }
}

/// Bytes of an initializer in the file, at least.
fn constant_size(model: &Model, value: ValueId) -> u64 {
    let v = &model.values[value];
    let listed = match v.def {
        Def::Input(_) => v.name.len() as u64 + 4,
        _ => 0,
    };
    let rank = |t: &Tensor| 2 * t.dims.len() as u64;
    let tensor = model.tensor(value);
    tensor.map_or(0, |t| elements_size(t) + rank(t) + 8) + v.name.len() as u64 + listed
}

/// Bytes of a node in the file, at least.
fn node_size(model: &Model, node: NodeId) -> u64 {
    let n: &Node = &model.nodes[node];
    let operands = n.inputs.iter().chain(&n.outputs);
    let names: u64 = operands
        .map(|v| 2 + v.map_or(0, |v| model.values[v].name.len() as u64))
        .sum();
    let text = |s: &Option<Str>| s.as_ref().map_or(0, |s| 2 + s.len() as u64);
    let attribute = |a: &crate::ir::Attribute| {
        let value = match &a.value {
            AttributeValue::Tensor(t) => elements_size(t) + 2 * t.dims.len() as u64 + 4,
            AttributeValue::Ints(l) => 2 * l.len() as u64,
            AttributeValue::Floats(l) => 4 * l.len() as u64,
            AttributeValue::Strings(l) => l.iter().map(|s| s.len() as u64 + 2).sum(),
            AttributeValue::String(s) => s.len() as u64 + 2,
            _ => 2,
        };
        4 + a.name.len() as u64 + value + if a.wire.typed { 2 } else { 0 }
    };
    let attributes: u64 = n.attributes.iter().map(attribute).sum();
    2 + names + text(&n.name) + 2 + n.op_type.len() as u64 + text(&n.domain) + attributes
}
