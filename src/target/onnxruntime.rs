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
    ir::DataType,
    schema::{self, OpSchema, ParamOption},
};

/// How it is known: every release was asked for its registries.
const SOURCE: &str = "registry";

/// What the registries of a version of ONNX Runtime say of `form`.
pub(super) fn verdict(target: Target, form: &Form) -> Verdict {
    // It becomes an initializer when the model is loaded, and needs no kernel.
    if (form.domain(), form.op_type()) == ("", "Constant") {
        return Verdict::Runs;
    }
    let unknown = Verdict::Unknown(target);
    let Some(newest) = schema::newest_opset(form.domain()) else {
        return unknown;
    };
    let Some(schema) = form.schema() else {
        let opset = form.number("opset");
        return match opset.is_none_or(|o| o > newest) {
            true => unknown,
            false => refused(target, "", "there is no such operator", ""),
        };
    };
    if schema::has_ended(schema) {
        let since = schema.since_version;
        let reason = format!("the operator ended with opset {since}");
        return refused(target, form.describe(["opset"]), reason, "");
    }
    if let Some(wrong) = wrong_type(target, form, schema) {
        return wrong;
    }
    match kernels::lack(target.version, form, schema) {
        Some(lack) => lacking(target, form, lack),
        None => kernel(target, form, schema),
    }
}

fn refused(
    target: Target,
    found: impl Into<String>,
    reason: impl Into<String>,
    instead: impl Into<String>,
) -> Verdict {
    Verdict::Refused(Because {
        target,
        effect: Effect::Refused,
        found: found.into(),
        reason: reason.into(),
        instead: instead.into(),
        source: SOURCE.to_owned(),
    })
}

/// An operand or result whose type the operator does not take, or that differs from another
/// one with the same type variable.
fn wrong_type(target: Target, form: &Form, schema: &'static OpSchema) -> Option<Verdict> {
    let mut variables: Vec<(&str, &str, DataType)> = Vec::new();
    for param in schema.inputs.iter().chain(&schema.outputs) {
        let Some(&Facet::Type(found)) = form.get(param.name) else {
            continue;
        };
        if !takes(param, found) {
            let types: Vec<&str> = param.types.tensors().map(|t| t.name()).collect();
            let text = form.describe([param.name]);
            let reason = "the operator does not take this type";
            return Some(refused(target, text, reason, types.join(" or ")));
        }
        match variables.iter().find(|v| v.0 == param.type_str) {
            Some(&(_, other, expected)) if expected != found => {
                let text = form.describe([param.name, other]);
                let reason = "the operator takes one type for both";
                return Some(refused(target, text, reason, ""));
            }
            Some(_) => {}
            None if matches!(param.option, ParamOption::Variadic { .. }) => {}
            None => variables.push((param.type_str, param.name, found)),
        }
    }
    None
}

fn lacking(target: Target, form: &Form, lack: Lack) -> Verdict {
    match lack {
        Lack::Operator => refused(target, "", "this version does not have the operator", ""),
        Lack::Attribute(name) => {
            let reason = format!("this version has no attribute `{name}`");
            refused(target, "", reason, format!("no `{name}`"))
        }
        Lack::Inputs(n) => {
            let reason = format!("this version takes {n} inputs");
            refused(target, "", reason, format!("at most {n} inputs"))
        }
        Lack::Type(name, types) => {
            let reason = "the operator of this version does not take this type";
            let types = types.replace('|', " or ");
            refused(target, form.describe([name]), reason, types)
        }
    }
}

fn kernel(target: Target, form: &Form, schema: &'static OpSchema) -> Verdict {
    match kernels::find(target.version, form, schema) {
        Found::Yes => Verdict::Runs,
        Found::Perhaps => Verdict::Unknown(target),
        // The body of such an operator takes its place, and another device may have a kernel.
        _ if schema.function || !target.runtime.has_cpu_kernels() => Verdict::Unknown(target),
        Found::NotForTypes(offered) => {
            let params = schema.inputs.iter().chain(&schema.outputs);
            let typed = params.filter(|p| matches!(form.get(p.name), Some(Facet::Type(_))));
            let found = form.describe(typed.map(|p| p.name));
            refused(target, found, "there is no kernel for these types", offered)
        }
        Found::No => {
            let found = form.describe(["opset"]);
            refused(target, found, "there is no kernel for this operator", "")
        }
    }
}
