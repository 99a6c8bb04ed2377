//! Whether a node means the same in the next version of its operator, by the schemas alone.

use super::{
    At,
    draft::{Draft, Operand},
};
use crate::{
    infer,
    schema::{OpSchema, Param, ParamOption},
};

/// Nothing, when `new` only allows more than `old`: more types, more operands and attributes
/// that may be left out. That what is left out then means what it did is not in the schemas;
/// [`super::rules`] has the operators where it does not.
pub(super) fn check(
    at: &At<'_>,
    draft: &Draft,
    old: &OpSchema,
    new: &OpSchema,
) -> Result<(), String> {
    if new.deprecated {
        return Err("the operator ended, and there is no rule for what takes its place".into());
    }
    let given = |name: &str| draft.attribute(name).is_some();
    for attribute in &old.attributes {
        let name = attribute.name;
        let same = new.attribute(name).is_some_and(|a| {
            a.kind == attribute.kind
                && (given(name) || a.default == attribute.default && !a.required)
        });
        if !same {
            return Err(format!(
                "attribute `{name}` is another, and there is no rule for it"
            ));
        }
    }
    let mut more = new.attributes.iter();
    if let Some(a) = more.find(|a| a.required && !given(a.name)) {
        return Err(format!(
            "attribute `{}` is needed, and there is no rule for it",
            a.name
        ));
    }
    params("operand", &old.inputs, &new.inputs)?;
    params("result", &old.outputs, &new.outputs)?;
    types(at, draft, old, new)
}

fn params(what: &str, old: &[Param], new: &[Param]) -> Result<(), String> {
    let optional = |p: &Param| p.option == ParamOption::Optional;
    let same = |(a, b): (&Param, &Param)| a.option == b.option || optional(b) && is_single(a);
    let paired = old.len() <= new.len() && old.iter().zip(new).all(same);
    match paired && new[old.len()..].iter().all(optional) {
        true => Ok(()),
        false => Err(format!(
            "its {what}s are others, and there is no rule for them"
        )),
    }
}

fn is_single(param: &Param) -> bool {
    param.option == ParamOption::Single
}

/// Whether the operator still takes the types that the node has. Types follow from those of
/// operands, so results are not looked at.
fn types(at: &At<'_>, draft: &Draft, old: &OpSchema, new: &OpSchema) -> Result<(), String> {
    for (slot, operand) in draft.operands.iter().enumerate() {
        let Operand::Value(value) = operand else {
            continue;
        };
        let (Some(before), Some(now)) = (old.input(slot), new.input(slot)) else {
            continue;
        };
        let widened = before.types.tensors().all(|t| now.types.has_tensor(t))
            && before
                .types
                .others()
                .iter()
                .all(|t| now.types.others().contains(t));
        let dtype = at.facts.dtype(*value);
        if !widened && !dtype.is_some_and(|d| infer::takes(now, d)) {
            let found = dtype.map_or("not known", |d| d.name());
            return Err(format!(
                "operand {slot} may not be of every type any more; it is {found}"
            ));
        }
    }
    Ok(())
}
