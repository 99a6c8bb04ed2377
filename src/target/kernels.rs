//! Which kernels each version of ONNX Runtime has on the CPU, and what its own operators had
//! by version: `kernels.txt`, which `scripts/gen_kernels.py` writes from the registries of the
//! releases themselves.
//!
//! ```text
//! # comment
//! op DOMAIN NAME                                         begins the lines of an operator
//!  schema MINORS INPUTS ATTRIBUTES [VARIABLE=TYPES]...   what the operator was
//!  kernel MINORS OPSETS [VARIABLE=TYPES]...              one kernel
//! ```
//!
//! An operator without `schema` lines had the same schema whenever it was there.
//!
//! - INPUTS is how many there were, ATTRIBUTES their names, separated by `|`, or `-`.
//! - MINORS are the minor versions of ONNX Runtime 1 that have it: `18-19,23-31`.
//! - OPSETS is `7-12`, `13` or `14-`: the versions of the operator it computes. One without end
//!   computes the version it begins with, until a newer one says otherwise.
//! - TYPES are what a type variable of the schema (or an operand, by its name) may be,
//!   separated by `|`. A variable that is not mentioned may be anything.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    form::{Facet, Form},
    runtime::Version,
};
use crate::{
    ir::DataType,
    schema::{OpSchema, canonical_domain},
};

static TEXT: &str = include_str!("kernels.txt");

struct Kernel {
    minors: Minors,
    first: i64,
    /// `None`: only the version it begins with.
    last: Option<i64>,
    types: Types,
}

/// Type variables, and what each may be, separated by `|`.
type Types = Vec<(&'static str, &'static str)>;

/// The schema that an operator had for a time.
struct Past {
    minors: Minors,
    inputs: usize,
    /// Separated by `|`.
    attributes: &'static str,
    types: Types,
}

/// First and last of minor versions in a row.
type Minors = Vec<(u16, u16)>;

#[derive(Default)]
struct Lines {
    pasts: Vec<Past>,
    kernels: Vec<Kernel>,
}

/// Domain and name.
type Operator = (&'static str, &'static str);

fn table() -> &'static HashMap<Operator, Lines> {
    static TABLE: OnceLock<HashMap<Operator, Lines>> = OnceLock::new();
    TABLE.get_or_init(|| {
        // The text is part of the program and a test parses it, so this cannot depend on input.
        parse(TEXT).unwrap_or_else(|line| panic!("kernels.txt is well formed: {line}"))
    })
}

/// The lines by operator, or the one that is not well formed.
fn parse(text: &'static str) -> Result<HashMap<Operator, Lines>, &'static str> {
    let mut table: HashMap<Operator, Lines> = HashMap::new();
    let mut operator = ("", "");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (keyword, rest) = line.trim_start().split_once(' ').ok_or(line)?;
        let lines = table.entry(operator);
        match keyword {
            "op" => {
                let (domain, op_type) = rest.split_once(' ').ok_or(line)?;
                operator = (canonical_domain(domain), op_type);
            }
            "schema" => lines.or_default().pasts.push(parse_past(rest).ok_or(line)?),
            "kernel" => {
                let kernel = parse_kernel(rest).ok_or(line)?;
                lines.or_default().kernels.push(kernel);
            }
            _ => return Err(line),
        }
    }
    Ok(table)
}

fn parse_past(line: &'static str) -> Option<Past> {
    let mut words = line.split(' ');
    Some(Past {
        minors: parse_minors(words.next()?)?,
        inputs: words.next()?.parse().ok()?,
        attributes: words.next()?,
        types: parse_types(words)?,
    })
}

fn parse_minors(text: &str) -> Option<Minors> {
    let ranges = text.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    ranges.collect()
}

fn is_in(minors: &Minors, version: Version) -> bool {
    let minor = version.minor;
    minors.iter().any(|m| m.0 <= minor && minor <= m.1)
}

fn parse_kernel(line: &'static str) -> Option<Kernel> {
    let mut words = line.split(' ');
    let minors = parse_minors(words.next()?)?;
    let opsets = words.next()?;
    let (first, last) = match opsets.split_once('-') {
        None => (opsets, Some(opsets)),
        Some((first, "")) => (first, None),
        Some((first, last)) => (first, Some(last)),
    };
    let last = match last {
        Some(last) => Some(last.parse().ok()?),
        None => None,
    };
    Some(Kernel {
        minors,
        first: first.parse().ok()?,
        last,
        types: parse_types(words)?,
    })
}

fn parse_types(words: impl Iterator<Item = &'static str>) -> Option<Types> {
    words.map(|w| w.split_once('=')).collect()
}

/// What a version's own schema of an operator does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The version has no schema of the operator.
    Operator,
    /// This attribute.
    Attribute(String),
    /// The inputs from this number on.
    Inputs(usize),
    /// This type of this operand; here are those that it has, separated by `|`.
    Type(&'static str, &'static str),
}

/// What a node of `form` has and the operator of `version` has not.
pub(super) fn lack(version: Version, form: &Form, schema: &'static OpSchema) -> Option<Lack> {
    let pasts = &table().get(&(schema.domain, schema.name))?.pasts;
    if pasts.is_empty() {
        return None;
    }
    let Some(past) = pasts.iter().find(|p| is_in(&p.minors, version)) else {
        return Some(Lack::Operator);
    };
    let has = |name: &str| past.attributes.split('|').any(|a| a == name);
    // Attributes that no version has are another matter.
    let known = |name: &&str| schema.attribute(name).is_some() && !schema.unchecked_attributes;
    if let Some(name) = form.given().filter(known).find(|name| !has(name)) {
        return Some(Lack::Attribute(name.to_owned()));
    }
    let beyond = schema.inputs.get(past.inputs..).unwrap_or_default();
    let more = beyond.iter().any(|p| form.get(p.name).is_some());
    if more {
        return Some(Lack::Inputs(past.inputs));
    }
    let wrong = past.types.iter().find_map(|(variable, types)| {
        let (param, found) = bound(form, schema, variable)?;
        let typed = matches!(found, Facet::Type(t) if !types.split('|').any(|n| n == t.name()));
        typed.then_some((param, *types))
    });
    wrong.map(|(param, types)| Lack::Type(param, types))
}

/// The first operand or result of `form` that is bound to a type variable, or has its name.
fn bound<'f>(
    form: &'f Form,
    schema: &'static OpSchema,
    variable: &str,
) -> Option<(&'static str, &'f Facet)> {
    let params = schema.inputs.iter().chain(&schema.outputs);
    let mut named = params.filter(|p| p.type_str == variable || p.name == variable);
    named.find_map(|p| Some((p.name, form.get(p.name)?)))
}

/// What the registry of a version says of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is a kernel.
    Yes,
    /// There is one if something holds that the form does not say.
    Perhaps,
    /// The version has the operator, but no kernel for these types; here is what for.
    NotForTypes(String),
    /// The version has no kernel for this version of the operator.
    No,
}

/// Looks for a kernel. `schema` is the one in force, which says what each type variable
/// stands for.
///
/// A node in half precision without a kernel is computed in float between casts that the
/// runtime inserts.
pub(super) fn find(version: Version, form: &Form, schema: &'static OpSchema) -> Found {
    let found = find_as(version, form, schema, |t| t);
    let widened = |t| match t {
        DataType::Float16 => DataType::Float,
        other => other,
    };
    match found {
        Found::NotForTypes(_) => find_as(version, form, schema, widened),
        found => found,
    }
}

fn find_as(
    version: Version,
    form: &Form,
    schema: &'static OpSchema,
    as_type: impl Fn(DataType) -> DataType,
) -> Found {
    let lines = table().get(&(schema.domain, schema.name));
    let all = lines.map_or(&[][..], |l| &l.kernels).iter();
    let known_opset = form.number("opset").is_some();
    let since = schema.since_version;
    let fits = |k: &&Kernel| is_in(&k.minors, version) && (!known_opset || k.computes(since));
    let mut perhaps = false;
    let mut offered = Vec::new();
    for kernel in all.filter(fits) {
        match kernel.takes(form, schema, &as_type) {
            Some(true) if known_opset => return Found::Yes,
            Some(false) => offered.push(kernel.offers(schema)),
            _ => perhaps = true,
        }
    }
    match (perhaps, offered.is_empty()) {
        (true, _) => Found::Perhaps,
        (false, true) => Found::No,
        (false, false) => Found::NotForTypes(offered.join("; or ")),
    }
}

/// A type as the table writes it.
fn spelled(facet: &Facet, as_type: impl Fn(DataType) -> DataType) -> Option<&str> {
    match facet {
        Facet::Type(found) => Some(as_type(*found).name()),
        Facet::Text(text) => Some(text),
        Facet::Int(_) | Facet::Unknown => None,
    }
}

impl Kernel {
    fn computes(&self, since: i64) -> bool {
        self.first == since || self.last.is_some_and(|l| self.first <= since && since <= l)
    }

    /// The types it takes, for a message, under the names of the inputs.
    fn offers(&self, schema: &OpSchema) -> String {
        let inputs = self.types.iter().filter_map(|(variable, types)| {
            let mut params = schema.inputs.iter();
            let param = params.find(|p| p.type_str == *variable || p.name == *variable)?;
            let types: Vec<&str> = types.split('|').collect();
            Some(format!("`{}` {}", param.name, types.join(" or ")))
        });
        inputs.collect::<Vec<_>>().join(", ")
    }

    /// Whether it takes the types of `form`; `None` when they are not known.
    fn takes(
        &self,
        form: &Form,
        schema: &'static OpSchema,
        as_type: impl Fn(DataType) -> DataType,
    ) -> Option<bool> {
        let mut all = Some(true);
        for (variable, types) in &self.types {
            match bound(form, schema, variable) {
                None => {}
                Some((_, facet)) => match spelled(facet, &as_type) {
                    Some(found) if types.split('|').any(|t| t == found) => {}
                    Some(_) => return Some(false),
                    None => all = None,
                },
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ZeroPoints;
    use DataType::{Float, Float16, Int8, Uint8};

    fn at(minor: u16, form: Form) -> Found {
        let schema = form.schema().expect("a known operator");
        find(Version { major: 1, minor }, &form, schema)
    }

    #[test]
    fn kernels_by_version_and_type() {
        let conv = |w| {
            Form::operator("", "ConvInteger")
                .opset(21)
                .types(&[Uint8, w])
        };
        assert_eq!(at(23, conv(Uint8)), Found::Yes);
        let offered = "`x` uint8, `w` uint8".to_owned();
        assert_eq!(at(23, conv(Int8)), Found::NotForTypes(offered));
        assert_eq!(at(24, conv(Int8)), Found::Yes);
    }

    #[test]
    fn half_is_computed_as_float() {
        let conv = |t| Form::operator("", "Conv").opset(21).types(&[t, t]);
        assert_eq!(at(20, conv(Float)), Found::Yes);
        assert_eq!(at(20, conv(Float16)), Found::Yes);
        let offered = "`X` float".to_owned();
        assert_eq!(
            at(20, conv(DataType::Bfloat16)),
            Found::NotForTypes(offered)
        );
    }

    #[test]
    fn attributes_and_inputs_that_came_later() {
        let lack = |minor, form: &Form| {
            let schema = form.schema().expect("a known operator");
            super::lack(Version { major: 1, minor }, form, schema)
        };
        let plain = Form::matmul_nbits(4, 32, Float, ZeroPoints::Absent, 0);
        assert_eq!(lack(17, &plain), None);
        let bias = plain.clone().ty("bias", Float);
        assert_eq!(lack(18, &bias), Some(Lack::Inputs(5)));
        assert_eq!(lack(19, &bias), None);
        let prepacked = plain.int("weight_prepacked", 1);
        let name = "weight_prepacked".to_owned();
        assert_eq!(lack(27, &prepacked), Some(Lack::Attribute(name)));
        assert_eq!(lack(28, &prepacked), None);
        let gather = Form::gather_block_quantized(Uint8, 4, 32, Float, false, 2);
        assert_eq!(lack(20, &gather), Some(Lack::Type("data", "int4|uint4")));
        assert_eq!(lack(19, &gather), Some(Lack::Operator));
    }

    #[test]
    fn operators_that_a_version_does_not_have() {
        let gather = Form::gather_block_quantized(Uint8, 4, 32, Float, false, 2).opset(1);
        assert_eq!(at(19, gather.clone()), Found::No);
        assert_eq!(at(31, gather), Found::Yes);
    }
}
