//! Invariants 1 to 6: ids, and the two directions of every link.

use super::{Code, Reached, Report};
use crate::ir::{Constant, Def, EntityId, GraphId, Model, NodeId, SideTable, ValueId};

/// The graphs of the model in document order, when its structure is sound.
pub(super) fn check(report: &mut Report<'_>) -> Option<Vec<Reached>> {
    if !ids_exist(report) {
        return None;
    }
    let graphs = tree(report);
    let mut marks = Marks::new();
    for graph in &graphs {
        lists(report, *graph, &mut marks);
    }
    for graph in &graphs {
        constants(report, graph.id, &mut marks);
        value_infos(report, graph.id, &mut marks);
    }
    report.violations.is_empty().then_some(graphs)
}

/// Invariant 1. Only what can be reached is looked at, because erased entities keep what
/// they had; but for ids it costs nothing to look at all.
fn ids_exist(report: &mut Report<'_>) -> bool {
    let model = report.model;
    let mut faults = Vec::new();
    let mut fault = |place: String, id: String| faults.push((place, id));
    let graph_ok = |g: GraphId| g.index() < model.graphs.len();
    let node_ok = |n: NodeId| n.index() < model.nodes.len();
    let value_ok = |v: ValueId| v.index() < model.values.len();

    if !graph_ok(model.main) {
        fault("main graph".into(), format!("{:?}", model.main));
    }
    for (i, f) in model.functions.iter().enumerate() {
        let defaults = f.attribute_defaults.iter();
        let graphs = defaults.flat_map(|a| a.value.graphs()).chain([&f.body]);
        for g in graphs.filter(|g| !graph_ok(**g)) {
            fault(format!("function {i}"), format!("{g:?}"));
        }
    }
    for id in model.graphs.ids() {
        let g = &model.graphs[id];
        if let Some(owner) = g.owner.filter(|n| !node_ok(*n)) {
            fault(format!("{id:?}: owner"), format!("{owner:?}"));
        }
        for n in g.nodes.iter().filter(|n| !node_ok(**n)) {
            fault(format!("{id:?}: nodes"), format!("{n:?}"));
        }
        let outputs = g.outputs.iter().chain(&g.repeated_value_info);
        let values = [
            &g.inputs,
            &g.initializers,
            &g.sparse_initializers,
            &g.value_info,
        ];
        let values = values.into_iter().flatten();
        for v in values.chain(outputs.map(|o| &o.value)) {
            if !value_ok(*v) {
                fault(format!("{id:?}: values"), format!("{v:?}"));
            }
        }
    }
    for id in model.nodes.ids() {
        let n = &model.nodes[id];
        if !graph_ok(n.graph) {
            fault(format!("{id:?}: graph"), format!("{:?}", n.graph));
        }
        for g in n.subgraphs().filter(|g| !graph_ok(*g)) {
            fault(format!("{id:?}: attributes"), format!("{g:?}"));
        }
        for v in n.inputs.iter().chain(&n.outputs).flatten() {
            if !value_ok(*v) {
                fault(format!("{id:?}: operands and results"), format!("{v:?}"));
            }
        }
    }
    for id in model.values.ids() {
        let known = match model.values[id].def {
            Def::Input(g) | Def::Initializer(g) | Def::Nothing(g) => graph_ok(g),
            Def::Node(n, _) => node_ok(n),
        };
        if !known {
            let def = format!("{:?}", model.values[id].def);
            fault(format!("{id:?}: def"), def);
        }
    }
    for (place, id) in &faults {
        let found = format!("{id} does not exist");
        report.add(Code::DanglingId, place, found, "an id of this model");
    }
    faults.is_empty()
}

/// Invariant 2. A graph that is held twice is visited once, so this ends on any input.
fn tree(report: &mut Report<'_>) -> Vec<Reached> {
    let model = report.model;
    let mut roots = vec![(model.main, None)];
    for (i, f) in model.functions.iter().enumerate() {
        roots.push((f.body, Some(i)));
        let defaults = f.attribute_defaults.iter();
        let graphs = defaults.flat_map(|a| a.value.graphs());
        roots.extend(graphs.map(|g| (*g, Some(i))));
    }
    let mut order = Vec::new();
    let mut reached = SideTable::<GraphId, bool>::new(false);
    for (root, function) in roots {
        let mut stack = vec![(root, None::<NodeId>)];
        while let Some((graph, holder)) = stack.pop() {
            if !reached.insert(graph) {
                let found = format!("{} also holds it", holder_name(model, holder));
                let place = format!("{graph:?}");
                report.add(Code::GraphTree, place, found, "one holder of each graph");
                continue;
            }
            let owner = model.graphs[graph].owner;
            if owner != holder {
                let found = format!("its owner is {}", holder_name(model, owner));
                let expected = holder_name(model, holder);
                report.add(Code::GraphTree, format!("{graph:?}"), found, expected);
            }
            order.push(Reached {
                id: graph,
                function,
            });
            let nodes = model.graphs[graph].nodes.iter().rev();
            for &node in nodes {
                let inner: Vec<GraphId> = model.nodes[node].subgraphs().collect();
                stack.extend(inner.into_iter().rev().map(|g| (g, Some(node))));
            }
        }
    }
    order
}

/// Labels walk the links that are being checked here, so entities go by id.
fn holder_name(model: &Model, holder: Option<NodeId>) -> String {
    match holder {
        Some(n) => format!("{n:?} ({})", model.nodes[n].op_type),
        None => "no node".into(),
    }
}

fn value_name(model: &Model, value: ValueId) -> String {
    format!("{value:?} `{}`", model.values[value].name)
}

/// Which entities a list had already.
struct Marks {
    node: SideTable<NodeId, bool>,
    defined: SideTable<ValueId, bool>,
    constant: SideTable<ValueId, bool>,
    described: SideTable<ValueId, bool>,
}

impl Marks {
    fn new() -> Marks {
        Marks {
            node: SideTable::new(false),
            defined: SideTable::new(false),
            constant: SideTable::new(false),
            described: SideTable::new(false),
        }
    }
}

/// Invariants 3 and 4: what the lists of `graph` name says the same of itself.
fn lists(report: &mut Report<'_>, graph: Reached, marks: &mut Marks) {
    let model = report.model;
    let g = &model.graphs[graph.id];
    let define = |report: &mut Report<'_>, marks: &mut Marks, value: ValueId, here: Def| {
        let def = model.values[value].def;
        if def != here {
            let found = format!("its definition is {def:?}");
            let expected = format!("{here:?}, where it is listed");
            report.add(Code::ValueDef, value_name(model, value), found, expected);
        } else if !marks.defined.insert(value) {
            let found = format!("{:?} lists it twice", graph.id);
            let place = value_name(model, value);
            report.add(Code::ValueDef, place, found, "one definition of each value");
        }
    };
    for &value in &g.inputs {
        define(report, marks, value, Def::Input(graph.id));
    }
    for &value in g.initializers.iter().chain(&g.sparse_initializers) {
        // One that is an input too is defined there.
        if model.values[value].def != Def::Input(graph.id) {
            define(report, marks, value, Def::Initializer(graph.id));
        }
    }
    for &node in &g.nodes {
        let n = &model.nodes[node];
        let place = || format!("{node:?} ({})", n.op_type);
        if n.graph != graph.id {
            let found = format!("{:?} lists it, but its graph is {:?}", graph.id, n.graph);
            report.add(Code::NodeHome, place(), found, "the graph that lists it");
        }
        if !marks.node.insert(node) {
            let found = format!("{:?} lists it again", graph.id);
            report.add(Code::NodeHome, place(), found, "each node listed once");
            continue;
        }
        for (slot, output) in n.outputs.iter().enumerate() {
            if let Some(value) = *output {
                define(report, marks, value, Def::Node(node, slot as u32));
            }
        }
    }
    if graph
        .function
        .is_some_and(|f| model.functions[f].body == graph.id)
        && !(g.initializers.is_empty() && g.sparse_initializers.is_empty())
    {
        let found = "the body of a function has initializers";
        let place = format!("{:?}", graph.id);
        report.add(Code::Constant, place, found, "`Constant` nodes");
    }
}

/// Invariant 5.
fn constants(report: &mut Report<'_>, graph: GraphId, marks: &mut Marks) {
    let model = report.model;
    let g = &model.graphs[graph];
    let sparse = g.sparse_initializers.iter().map(|v| (*v, true));
    for (value, sparse) in g.initializers.iter().map(|v| (*v, false)).chain(sparse) {
        let place = || value_name(model, value);
        if !marks.constant.insert(value) {
            let found = format!("{graph:?} lists it twice as an initializer");
            report.add(Code::Constant, place(), found, "one entry");
            continue;
        }
        let found = match &model.values[value].constant {
            Some(Constant::Dense(_)) if !sparse => continue,
            Some(Constant::Sparse(_)) if sparse => continue,
            Some(Constant::Dense(_)) => "a dense constant among the sparse initializers",
            Some(Constant::Sparse(_)) => "a sparse constant among the dense initializers",
            None => "an initializer without constant",
        };
        report.add(
            Code::Constant,
            place(),
            found,
            "a constant of the list's kind",
        );
    }
    // The other direction: constants of values that are defined here but not listed.
    for value in model.values_of(graph) {
        if model.values[value].constant.is_some() && !marks.constant[value] {
            let found = format!("it has a constant that {graph:?} does not list");
            let expected = "an entry among the initializers";
            report.add(Code::Constant, value_name(model, value), found, expected);
        }
    }
}

/// Invariant 6.
fn value_infos(report: &mut Report<'_>, graph: GraphId, marks: &mut Marks) {
    let model = report.model;
    let g = &model.graphs[graph];
    let repeated = g.repeated_value_info.iter().map(|o| (o.value, true));
    for (value, repeated) in g.value_info.iter().map(|v| (*v, false)).chain(repeated) {
        let found = if model.home(value) != graph {
            format!("{graph:?} describes it, but does not define it")
        } else if !repeated && !marks.described.insert(value) {
            format!("{graph:?} lists it twice in `value_info`")
        } else if model.values[value].info.is_none() {
            format!("{graph:?} lists it in `value_info`, but it has no information")
        } else {
            continue;
        };
        let expected = "a value of the graph with its information, once";
        report.add(Code::ValueInfo, value_name(model, value), found, expected);
    }
}
