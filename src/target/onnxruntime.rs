//! What ONNX Runtime's own registries say of a form: operator, attributes, types, kernels.

use super::{
    form::{Facet, Form},
    kernels::{self, Found, Lack},
    runtime::Target,
    table::Effect,
    verdict::{Because, Verdict},
};
use crate::{
    infer::takes,
    schema::{self, OpSchema, ParamOption},
};

/// How it is known: every release was asked for its registries.
const SOURCE: &str = "registry";

/// What the registries of a version of ONNX Runtime say of `form`.
pub(super) fn verdict(target: Target, form: &Form) -> Verdict {
    let unknown = Verdict::Unknown(target);
    let Some(newest) = schema::newest_opset(form.domain()) else {
        return unknown;
    };
    let Some(schema) = form.schema() else {
        let opset = form.number("opset");
        return match opset.is_none_or(|o| o > newest) {
            true => unknown,
            false => refused(target, "there is no such operator", String::new()),
        };
    };
    if let Some(wrong) = wrong_type(form, schema) {
        return refused(target, wrong.0, wrong.1);
    }
    match kernels::lack(target.version, form, schema) {
        Some(lack) => lacking(target, form, lack),
        None => kernel(target, form, schema),
    }
}

fn refused(target: Target, reason: impl Into<String>, instead: impl Into<String>) -> Verdict {
    Verdict::Refused(Because {
        target,
        effect: Effect::Refused,
        reason: reason.into(),
        instead: instead.into(),
        source: SOURCE.to_owned(),
    })
}

/// An operand or result whose type the operator does not take, or that differs from another
/// one with the same type variable: what was found and what was expected.
fn wrong_type(form: &Form, schema: &OpSchema) -> Option<(String, String)> {
    let mut variables: Vec<(&str, &str, crate::ir::DataType)> = Vec::new();
    for param in schema.inputs.iter().chain(&schema.outputs) {
        let Some(&Facet::Type(found)) = form.get(param.name) else {
            continue;
        };
        if !takes(param, found) {
            let types: Vec<&str> = param.types.tensors().map(|t| t.name()).collect();
            let reason = format!("`{}` is {found}", param.name);
            return Some((reason, types.join(" or ")));
        }
        let same = variables.iter().find(|v| v.0 == param.type_str);
        match same {
            Some(&(_, other, expected)) if expected != found => {
                let reason = format!("`{}` is {found}, `{other}` {expected}", param.name);
                return Some((reason, "one type for both".to_owned()));
            }
            Some(_) => {}
            None if matches!(param.option, ParamOption::Variadic { .. }) => {}
            None => variables.push((param.type_str, param.name, found)),
        }
    }
    None
}

fn lacking(target: Target, form: &Form, lack: Lack) -> Verdict {
    let version = target.version;
    let op = form.op_type();
    match lack {
        Lack::Operator => refused(target, format!("version {version} has no {op}"), ""),
        Lack::Attribute(name) => refused(
            target,
            format!("{op} of version {version} has no attribute `{name}`"),
            format!("no `{name}`"),
        ),
        Lack::Inputs(n) => refused(
            target,
            format!("{op} of version {version} has {n} inputs"),
            "no further inputs",
        ),
    }
}

fn kernel(target: Target, form: &Form, schema: &OpSchema) -> Verdict {
    let found = kernels::find(target.version, form, schema);
    let missing = match found {
        Found::Yes => return Verdict::Runs,
        Found::Perhaps => return Verdict::Unknown(target),
        // The body of such an operator takes its place, and another device may have a kernel.
        _ if schema.function || !target.runtime.has_cpu_kernels() => {
            return Verdict::Unknown(target);
        }
        Found::NotForTypes => format!("no kernel for {}", types(form, schema)),
        Found::No => "no kernel".to_owned(),
    };
    refused(target, missing, "")
}

/// The types of the operands, for a message: `x` uint8, `w` int8.
fn types(form: &Form, schema: &OpSchema) -> String {
    let params = schema.inputs.iter().chain(&schema.outputs);
    let known = params.filter_map(|p| match form.get(p.name)? {
        Facet::Type(t) => Some(format!("`{}` {t}", p.name)),
        _ => None,
    });
    known.collect::<Vec<_>>().join(", ")
}
