//! Invariants 24 to 27: versions, imports and local functions.

use std::collections::{BTreeMap, HashSet};

use super::{Code, Report};
use crate::ir::{Callees, OpsetImport};

pub(super) fn check(report: &mut Report<'_>) {
    let model = report.model;
    let found = match model.ir_version {
        None => Some("no IR version".to_owned()),
        Some(v) if v < 1 => Some(format!("IR version {v}")),
        Some(_) => None,
    };
    if let Some(found) = found {
        report.add(Code::IrVersion, "", found, "1 or more");
    }
    if model.opset_imports.is_empty() && model.ir_version.unwrap_or(0) >= 3 {
        let found = "the model imports no operator domain";
        report.add(Code::OpsetImport, "", found, "an import of `ai.onnx`");
    }
    imports(report, "", &model.opset_imports);
    let mut keys = HashSet::new();
    for (i, f) in model.functions.iter().enumerate() {
        let place = match f.name.is_empty() {
            true => format!("function {i}"),
            false => report.function_label(i),
        };
        if f.name.is_empty() {
            report.add(Code::Function, &place, "a function without name", "a name");
        }
        let overload = f.overload.as_deref().unwrap_or_default();
        if !keys.insert((f.domain(), &f.name, overload)) {
            let found = "another function has this domain, name and overload";
            report.add(Code::Function, &place, found, "different functions");
        }
        let defaults = f.attribute_defaults.iter().map(|a| &a.name);
        let mut names = HashSet::new();
        for name in f.attributes.iter().chain(defaults) {
            if !names.insert(name) {
                let found = format!("attribute `{name}` is declared twice");
                report.add(Code::Function, &place, found, "each attribute once");
            }
        }
        let mut outputs = HashSet::new();
        for output in &model.graphs[f.body].outputs {
            if !outputs.insert(output.value) {
                let name = &model.values[output.value].name;
                let found = format!("`{name}` is an output twice");
                report.add(Code::Function, &place, found, "different outputs");
            }
        }
        imports(report, &place, &f.opset_imports);
    }
    recursion(report);
}

fn imports(report: &mut Report<'_>, place: &str, imports: &[OpsetImport]) {
    let mut versions = BTreeMap::new();
    for import in imports {
        let domain = match import.domain() {
            "" => "ai.onnx",
            d => d,
        };
        let found = match import.version {
            None => format!("the import of `{domain}` has no version"),
            Some(v) if v < 1 => format!("the import of `{domain}` has version {v}"),
            Some(v) => match versions.insert(domain, v) {
                Some(other) if other != v => {
                    format!("`{domain}` is imported with versions {other} and {v}")
                }
                _ => continue,
            },
        };
        report.add(Code::OpsetImport, place, found, "one positive version");
    }
}

/// Invariant 27. Takes away functions that call only what was taken away before; what
/// remains calls, at some distance, itself.
fn recursion(report: &mut Report<'_>) {
    let model = report.model;
    let functions = Callees::of(&model.functions);
    let calls: Vec<Vec<usize>> = model
        .functions
        .iter()
        .map(|f| {
            let graphs = model.graphs_within(f.body);
            let nodes = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
            let mut callees: Vec<usize> = nodes
                .filter_map(|&n| functions.called(&model.nodes[n]))
                .collect();
            callees.sort_unstable();
            callees.dedup();
            callees
        })
        .collect();
    let mut callers = vec![Vec::new(); calls.len()];
    let mut open: Vec<usize> = calls.iter().map(Vec::len).collect();
    for (caller, callees) in calls.iter().enumerate() {
        callees.iter().for_each(|&c| callers[c].push(caller));
    }
    let mut ready: Vec<usize> = (0..calls.len()).filter(|&f| open[f] == 0).collect();
    while let Some(f) = ready.pop() {
        for &caller in &callers[f] {
            open[caller] -= 1;
            if open[caller] == 0 {
                ready.push(caller);
            }
        }
    }
    // Each function that remains calls one that remains: following those ends in a cycle.
    let mut seen = vec![false; calls.len()];
    for start in (0..calls.len()).filter(|&f| open[f] > 0) {
        let mut path = Vec::new();
        let mut at = start;
        while !seen[at] {
            seen[at] = true;
            path.push(at);
            let next = calls[at].iter().find(|&&c| open[c] > 0);
            at = *next.expect("a function that remains calls one that remains");
        }
        // A walk that ends on an earlier one leads to a cycle that is reported already.
        let Some(first) = path.iter().position(|&f| f == at) else {
            continue;
        };
        let cycle = path[first..].iter().chain([&at]);
        let names: Vec<String> = cycle.map(|&f| report.function_label(f)).collect();
        let found = format!("calls itself: {}", names.join(" -> "));
        let place = report.function_label(at);
        report.add(Code::RecursiveFunction, place, found, "no recursion");
    }
}
