//! Invariants 7 to 11: names, and what is visible where.

use std::collections::{HashMap, HashSet};

use super::{Code, Reached, Report};
use crate::ir::{Def, GraphId, SideTable, ValueId};

/// Walks every graph that is not inside another one, with the graphs inside it.
pub(super) fn check(report: &mut Report<'_>, graphs: &[Reached]) {
    let model = report.model;
    let roots = graphs.iter().filter(|g| model.graphs[g.id].owner.is_none());
    for root in roots {
        let mut walk = Walk {
            visible: SideTable::new(false),
            names: HashMap::new(),
            report,
        };
        walk.graph(root.id);
    }
}

struct Walk<'a, 'm> {
    report: &'a mut Report<'m>,
    /// Values that can be used at this point.
    visible: SideTable<ValueId, bool>,
    /// What each name stands for, innermost graph last.
    names: HashMap<&'m str, Vec<ValueId>>,
}

impl<'m> Walk<'_, 'm> {
    fn graph(&mut self, graph: GraphId) {
        let model = self.report.model;
        let g = &model.graphs[graph];
        let mut defined = Vec::new();
        for &value in &g.inputs {
            self.define(graph, value, &mut defined);
        }
        for &value in g.initializers.iter().chain(&g.sparse_initializers) {
            if matches!(model.values[value].def, Def::Initializer(_)) {
                self.define(graph, value, &mut defined);
            }
        }
        for &node in &g.nodes {
            for (slot, input) in model.nodes[node].inputs.iter().enumerate() {
                if let Some(value) = *input {
                    let place = |r: &Report<'_>| format!("{}: input {slot}", r.node(node));
                    self.visible_here(graph, value, place);
                }
            }
            for inner in model.nodes[node].subgraphs() {
                self.graph(inner);
            }
            for &value in model.nodes[node].outputs.iter().flatten() {
                self.define(graph, value, &mut defined);
            }
        }
        self.outputs(graph);
        self.only_described(graph);
        for value in defined {
            self.visible[value] = false;
            let name: &str = &model.values[value].name;
            self.names.get_mut(name).expect("define pushed it").pop();
        }
    }

    /// Makes `value` visible.
    fn define(&mut self, graph: GraphId, value: ValueId, defined: &mut Vec<ValueId>) {
        let model = self.report.model;
        let v = &model.values[value];
        let name: &'m str = &v.name;
        if name.is_empty() {
            let place = match v.def {
                Def::Node(n, slot) => format!("{}: output {slot}", self.report.node(n)),
                _ => self.report.place(graph, format!("{:?}", v.def)),
            };
            self.report
                .add(Code::EmptyName, place, "a value without name", "a name");
        } else if let Some(&other) = self.names.get(name).and_then(|n| n.last()) {
            if model.home(other) == graph {
                let place = self.report.place(graph, format!("value `{name}`"));
                let found = format!(
                    "{} and {} have this name",
                    self.origin(other),
                    self.origin(value)
                );
                let expected = "one definition of each name";
                self.report.add(Code::DuplicateName, place, found, expected);
            } else if let Def::Node(node, slot) = v.def {
                let place = format!("{}: output {slot}", self.report.node(node));
                let found = format!("a value of an outer graph has the name `{name}` too");
                let expected = "a name that is not visible from outside";
                self.report.add(Code::ShadowedName, place, found, expected);
            }
        }
        self.names.entry(name).or_default().push(value);
        self.visible[value] = true;
        defined.push(value);
    }

    /// A use of `value` in `graph`.
    fn visible_here(
        &mut self,
        graph: GraphId,
        value: ValueId,
        place: impl Fn(&Report<'_>) -> String,
    ) {
        let model = self.report.model;
        let name: &str = &model.values[value].name;
        if !self.visible[value] {
            let found = format!("`{name}` is {}", self.why_invisible(graph, value));
            let expected = "a value that is defined before, here or in a graph around this one";
            let place = place(self.report);
            self.report
                .add(Code::UndefinedValue, place, found, expected);
            return;
        }
        let meant = self.names.get(name).and_then(|n| n.last());
        if let Some(&meant) = meant
            && model.home(meant) != model.home(value)
        {
            let found = format!(
                "`{name}` of an outer graph is used where {} has this name",
                self.origin(meant)
            );
            let place = place(self.report);
            let expected = "a name that means the value used";
            self.report.add(Code::ShadowedName, place, found, expected);
        }
    }

    fn why_invisible(&self, graph: GraphId, value: ValueId) -> String {
        let model = self.report.model;
        let home = model.home(value);
        match model.values[value].def {
            Def::Nothing(_) => "defined by nothing, only described in `value_info`".into(),
            Def::Node(node, _) if !model.graphs[home].nodes.contains(&node) => {
                format!("the result of {}, which no graph lists", model.label(node))
            }
            Def::Node(node, _) if model.is_within(graph, home) => {
                format!("only defined later, by {}", model.label(node))
            }
            _ if model.is_within(graph, home) => "not listed by its graph any more".into(),
            _ => format!("defined elsewhere: {}", self.origin(value)),
        }
    }

    /// What defines `value`, for messages.
    fn origin(&self, value: ValueId) -> String {
        let model = self.report.model;
        let graph = |g: GraphId| match self.report.place(g, "") {
            p if p.is_empty() => String::new(),
            p => format!(" of {p}"),
        };
        match model.values[value].def {
            Def::Input(g) => format!("an input{}", graph(g)),
            Def::Initializer(g) => format!("an initializer{}", graph(g)),
            Def::Node(n, _) => self.report.node(n),
            Def::Nothing(g) => format!("a `value_info` entry{}", graph(g)),
        }
    }

    /// Invariant 11, and that outputs are visible.
    fn outputs(&mut self, graph: GraphId) {
        let model = self.report.model;
        for (index, output) in model.graphs[graph].outputs.iter().enumerate() {
            let place = |r: &Report<'_>| r.place(graph, format!("output {index}"));
            self.visible_here(graph, output.value, place);
            if self.visible[output.value] && model.home(output.value) != graph {
                let name = &model.values[output.value].name;
                let place = place(self.report);
                let found = format!("`{name}` belongs to an outer graph");
                let expected = "a value of this graph (an `Identity` node makes one)";
                self.report.add(Code::GraphOutput, place, found, expected);
            }
        }
    }

    /// Values that only `value_info` lists share the names of the graph.
    fn only_described(&mut self, graph: GraphId) {
        let model = self.report.model;
        let mut described = HashSet::<&str>::new();
        for &value in &model.graphs[graph].value_info {
            let name: &str = &model.values[value].name;
            if self.visible[value] {
                continue;
            }
            let place = || {
                self.report
                    .place(graph, format!("`value_info` of `{name}`"))
            };
            if name.is_empty() {
                let (place, found) = (place(), "a value without name");
                self.report.add(Code::EmptyName, place, found, "a name");
                continue;
            }
            let other = self.names.get(name).and_then(|n| n.last());
            let clash = other.is_some_and(|o| model.home(*o) == graph);
            if !described.insert(name) || clash {
                let (place, found) = (place(), "another value of the graph has this name");
                let expected = "different names";
                self.report.add(Code::DuplicateName, place, found, expected);
            }
        }
    }
}
