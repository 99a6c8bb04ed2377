//! Invariants 24 to 27: versions, imports and local functions.

use std::collections::{BTreeMap, HashSet};

use super::{Code, Report};
use crate::ir::{CallOrder, OpsetImport};

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

/// Invariant 27.
fn recursion(report: &mut Report<'_>) {
    let CallOrder { calls, order } = CallOrder::of(report.model);
    let mut remains = vec![true; calls.len()];
    order.iter().for_each(|&f| remains[f] = false);
    // Each function that remains calls one that remains: following those ends in a cycle.
    let mut seen = vec![false; calls.len()];
    for start in (0..calls.len()).filter(|&f| remains[f]) {
        let mut path = Vec::new();
        let mut at = start;
        while !seen[at] {
            seen[at] = true;
            path.push(at);
            let next = calls[at].iter().find(|&&c| remains[c]);
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
