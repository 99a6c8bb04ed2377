//! Walks over a model, and who uses what.

use super::{Def, EntityId, GraphId, Model, NodeId, SideTable, ValueId};

/// One use of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Operand `slot` of a node, in the value's own graph or in one inside it.
    Operand(NodeId, u32),
    /// Output `index` of a graph.
    Output(GraphId, u32),
}

/// All uses of every value: a side table, valid until the model changes.
#[derive(Clone, Debug)]
pub struct Uses {
    table: SideTable<ValueId, Vec<Use>>,
}

impl Uses {
    /// Collects the uses in all graphs that can be reached, in document order.
    pub fn of(model: &Model) -> Uses {
        let mut table = SideTable::new(Vec::new());
        for graph in model.reachable_graphs() {
            let graph_data = &model.graphs[graph];
            for &node in &graph_data.nodes {
                for (slot, input) in model.nodes[node].inputs.iter().enumerate() {
                    if let Some(value) = *input {
                        table[value].push(Use::Operand(node, slot as u32));
                    }
                }
            }
            for (index, output) in graph_data.outputs.iter().enumerate() {
                table[output.value].push(Use::Output(graph, index as u32));
            }
        }
        Uses { table }
    }

    /// The uses of `value`.
    pub fn of_value(&self, value: ValueId) -> &[Use] {
        &self.table[value]
    }

    /// The node that alone uses `value`, once, and which of its operands that is; `None` when
    /// there are other uses, or none.
    pub fn only_reader(&self, value: ValueId) -> Option<(NodeId, usize)> {
        match *self.of_value(value) {
            [Use::Operand(node, slot)] => Some((node, slot as usize)),
            _ => None,
        }
    }
}

impl Model {
    /// Every graph that the model consists of: the main graph and the bodies of the
    /// functions, each followed by the graphs inside it, in document order.
    pub fn reachable_graphs(&self) -> Vec<GraphId> {
        let mut out = Vec::new();
        self.collect_graphs(self.main, &mut out);
        for function in &self.functions {
            self.collect_graphs(function.body, &mut out);
        }
        out
    }

    /// `graph` and every graph inside it.
    pub fn graphs_within(&self, graph: GraphId) -> Vec<GraphId> {
        let mut out = Vec::new();
        self.collect_graphs(graph, &mut out);
        out
    }

    fn collect_graphs(&self, graph: GraphId, out: &mut Vec<GraphId>) {
        out.push(graph);
        for &node in &self.graphs[graph].nodes {
            for inner in self.nodes[node].subgraphs() {
                self.collect_graphs(inner, out);
            }
        }
    }

    /// Every node of every reachable graph, in document order of the graphs.
    pub fn reachable_nodes(&self) -> Vec<NodeId> {
        self.reachable_graphs()
            .iter()
            .flat_map(|&g| self.graphs[g].nodes.iter().copied())
            .collect()
    }

    /// Whether `inner` is `outer` or lies inside it.
    pub fn is_within(&self, mut inner: GraphId, outer: GraphId) -> bool {
        loop {
            if inner == outer {
                return true;
            }
            match self.graphs[inner].owner {
                Some(owner) => inner = self.nodes[owner].graph,
                None => return false,
            }
        }
    }

    /// The values of outer graphs that `graph`, or a graph inside it, uses: each once, in
    /// order of first use.
    pub fn captures(&self, graph: GraphId) -> Vec<ValueId> {
        let mut seen = SideTable::<ValueId, bool>::new(false);
        let mut captures = Vec::new();
        let mut visit = |value: ValueId| {
            if !seen[value] && !self.is_within(self.home(value), graph) {
                seen[value] = true;
                captures.push(value);
            }
        };
        for inner in self.graphs_within(graph) {
            for &node in &self.graphs[inner].nodes {
                self.nodes[node]
                    .inputs
                    .iter()
                    .flatten()
                    .copied()
                    .for_each(&mut visit);
            }
            self.graphs[inner]
                .outputs
                .iter()
                .for_each(|o| visit(o.value));
        }
        captures
    }

    /// What `node` reads: its inputs, and what the graphs in it capture.
    pub fn operands(&self, node: NodeId) -> impl Iterator<Item = ValueId> + '_ {
        let node = &self.nodes[node];
        let captured = node.subgraphs().flat_map(|g| self.captures(g));
        node.inputs.iter().flatten().copied().chain(captured)
    }

    /// All values that belong to `graph` itself (not to graphs inside it), each once: its
    /// inputs, initializers and what its nodes make.
    pub fn values_of(&self, graph: GraphId) -> Vec<ValueId> {
        let g = &self.graphs[graph];
        let initializers = g.initializers.iter().chain(&g.sparse_initializers);
        let own = |v: &&ValueId| matches!(self.values[**v].def, Def::Initializer(_));
        g.inputs
            .iter()
            .chain(initializers.filter(own))
            .copied()
            .chain(
                g.nodes
                    .iter()
                    .flat_map(|&n| self.nodes[n].outputs.iter().flatten().copied()),
            )
            .collect()
    }
}

impl<K: EntityId> SideTable<K, bool> {
    /// Sets the flag and says whether it was clear before.
    pub fn insert(&mut self, id: K) -> bool {
        !std::mem::replace(&mut self[id], true)
    }
}

impl<K: EntityId> Extend<K> for SideTable<K, bool> {
    /// Sets the flags of all.
    fn extend<I: IntoIterator<Item = K>>(&mut self, ids: I) {
        for id in ids {
            self[id] = true;
        }
    }
}
