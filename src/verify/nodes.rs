//! Invariants 12 to 17: node by node.

use std::collections::{BTreeMap, HashSet};

use super::{Code, Reached, Report, qualified};
use crate::ir::{Attribute, AttributeValue, Callees, Function, NodeId, OpsetImport};

pub(super) fn check(report: &mut Report<'_>, graphs: &[Reached]) {
    let model = report.model;
    let functions = Callees::of(&model.functions);
    let mut imports = Imports::of(report);
    for graph in graphs {
        let mut names = HashSet::new();
        for &node in &model.graphs[graph.id].nodes {
            let n = &model.nodes[node];
            if let Some(name) = n.name.as_deref().filter(|s| !s.is_empty())
                && !names.insert(name)
            {
                let place = report.node(node);
                let found = "another node of the graph has this name";
                let expected = "different names";
                report.add(Code::DuplicateNodeName, place, found, expected);
            }
            if n.op_type.is_empty() {
                let place = report.node(node);
                report.add(Code::EmptyNode, place, "no operator name", "a name");
            }
            if n.inputs.iter().chain(&n.outputs).flatten().next().is_none() {
                let found = "neither inputs nor outputs";
                let place = report.node(node);
                report.add(Code::EmptyNode, place, found, "one of either at least");
            }
            imports.node(graph.function, node, n.domain());
            attributes(report, node, graph.function);
            if let Some(f) = functions.called(n) {
                call(report, node, &model.functions[f]);
            }
        }
    }
    imports.report(report);
}

fn attributes(report: &mut Report<'_>, node: NodeId, function: Option<usize>) {
    let model = report.model;
    let mut names = HashSet::new();
    for attribute in &model.nodes[node].attributes {
        let name: &str = &attribute.name;
        if name.is_empty() {
            let place = report.node(node);
            report.add(
                Code::Attribute,
                place,
                "an attribute without name",
                "a name",
            );
        } else if !names.insert(name) {
            let place = report.node(node);
            let found = format!("attribute `{name}` is given twice");
            report.add(Code::Attribute, place, found, "each attribute once");
        }
        let AttributeValue::Reference { name: outer, .. } = &attribute.value else {
            continue;
        };
        let place = || format!("{}: attribute `{name}`", report.node(node));
        let Some(f) = function.map(|f| &model.functions[f]) else {
            let found = format!("refers to attribute `{outer}` of a caller, outside a function");
            report.add(Code::AttributeReference, place(), found, "a value");
            continue;
        };
        let default = |a: &Attribute| a.name == *outer;
        if !f.attributes.contains(outer) && !f.attribute_defaults.iter().any(default) {
            let found = format!("refers to `{outer}`, which the function does not declare");
            let expected = "an attribute of the function";
            report.add(Code::AttributeReference, place(), found, expected);
        }
    }
}

fn call(report: &mut Report<'_>, node: NodeId, function: &Function) {
    let body = &report.model.graphs[function.body];
    let n = &report.model.nodes[node];
    let name = qualified(function.domain(), &function.name);
    let given = [
        ("inputs", n.inputs.len(), body.inputs.len()),
        ("outputs", n.outputs.len(), body.outputs.len()),
    ];
    for (what, given, declared) in given {
        if given > declared {
            let place = report.node(node);
            let found = format!("{given} {what}, but function `{name}` has {declared}");
            let expected = format!("at most {declared}");
            report.add(Code::FunctionCall, place, found, expected);
        }
    }
}

/// Which domains are imported, and which nodes are in another one. One message per
/// domain: a missing import concerns all nodes of the domain.
struct Imports<'m> {
    main: HashSet<&'m str>,
    functions: Vec<HashSet<&'m str>>,
    /// First node and number of nodes, by function and domain.
    missing: BTreeMap<(Option<usize>, &'m str), (NodeId, usize)>,
}

impl<'m> Imports<'m> {
    fn of(report: &Report<'m>) -> Imports<'m> {
        fn domains(imports: &[OpsetImport]) -> HashSet<&str> {
            imports.iter().map(OpsetImport::domain).collect()
        }
        let model = report.model;
        let mut main = domains(&model.opset_imports);
        if model.opset_imports.is_empty() && model.ir_version.unwrap_or(0) < 3 {
            main.insert("");
        }
        let functions = model.functions.iter();
        Imports {
            main,
            functions: functions.map(|f| domains(&f.opset_imports)).collect(),
            missing: BTreeMap::new(),
        }
    }

    fn node(&mut self, function: Option<usize>, node: NodeId, domain: &'m str) {
        let imported = match function {
            Some(f) => &self.functions[f],
            None => &self.main,
        };
        if !imported.contains(domain) {
            let entry = self.missing.entry((function, domain));
            entry.or_insert((node, 0)).1 += 1;
        }
    }

    fn report(self, report: &mut Report<'_>) {
        for ((function, domain), (node, count)) in self.missing {
            let shown = if domain.is_empty() { "ai.onnx" } else { domain };
            let others = match count {
                1 => String::new(),
                n => format!(" (and of {} more nodes)", n - 1),
            };
            let found = format!("domain `{shown}` of this node{others} is not imported");
            let expected = match function {
                Some(_) => "an opset import of the function",
                None => "an opset import of the model",
            };
            report.add(Code::DomainImport, report.node(node), found, expected);
        }
    }
}
