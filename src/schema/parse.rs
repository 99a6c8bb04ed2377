//! Reads the table. One fact a line, words separated by one space:
//!
//! ```text
//! # comment
//! domain NAME OPSET                    a domain and its newest opset
//! set @ID TYPES                        a set of types that later lines name
//! op DOMAIN NAME VERSION [FLAG]...     begins an operator version; the lines below belong to it
//!  attr[!] NAME KIND [= DEFAULT]       an attribute; `!` when required
//!  type NAME TYPES                     a type constraint
//!  in[MARK] NAME TYPE                  an input, and likewise `out`
//! ```
//!
//! - FLAG is `deprecated`, `function`, `unchecked` where other attributes are allowed too, or
//!   `ort` for a schema of ONNX Runtime alone.
//! - DEFAULT is a number, `"text"` without escapes, or `[a,b]` of these.
//! - TYPES is `@ID`, or types separated by `|`, where `float` stands for `tensor(float)`.
//! - MARK is empty, `?` for optional, `*N` for variadic with a least count of N, and `*N~` for
//!   variadic where each value has its own type.
//! - TYPE is the name of a `type` line of the operator, or one type in full.
//!
//! Domains and operators are in order of (domain, name, version), which the searches rely on.
//! The default domain is written `ai.onnx`, which sorts like the empty name it has outside.

use std::fmt;

use super::types::{
    AttrDef, AttrDefault, AttrKind, Domain, ElementType, OpSchema, Origin, Param, ParamOption,
    TypeConstraint, TypeSet,
};

pub(super) struct Table {
    pub(super) domains: Vec<Domain>,
    pub(super) ops: Vec<OpSchema>,
}

/// Where the text is not well formed, and what was expected there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    line: usize,
    expected: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: expected {}", self.line, self.expected)
    }
}

/// What a line lacks; `parse` adds the number of the line.
type Expected = &'static str;

pub(super) fn parse(text: &'static str) -> Result<Table, ParseError> {
    let mut table = Table {
        domains: Vec::new(),
        ops: Vec::new(),
    };
    // In order of id, as they stand in the file.
    let mut sets: Vec<(&str, TypeSet)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        parse_line(&mut table, &mut sets, line).map_err(|expected| ParseError {
            line: index + 1,
            expected,
        })?;
    }
    Ok(table)
}

fn parse_line(
    table: &mut Table,
    sets: &mut Vec<(&'static str, TypeSet)>,
    line: &'static str,
) -> Result<(), Expected> {
    if let Some(fact) = line.strip_prefix(' ') {
        let op = table.ops.last_mut().ok_or("an `op` line first")?;
        return parse_fact(op, sets, fact);
    }
    let (keyword, rest) = line.split_once(' ').ok_or("a keyword and its words")?;
    match keyword {
        "#" => {}
        "domain" => {
            let (name, opset) = rest.split_once(' ').ok_or("a domain and an opset")?;
            let domain = Domain {
                name: super::canonical_domain(name),
                newest_opset: opset.parse().map_err(|_| "an opset")?,
            };
            let previous = table.domains.last();
            if previous.is_some_and(|previous| previous.name >= domain.name) {
                return Err("domains in order");
            }
            table.domains.push(domain);
        }
        "set" => {
            let (id, types) = rest.split_once(' ').ok_or("an id and types")?;
            if sets.last().is_some_and(|(previous, _)| *previous >= id) {
                return Err("sets in order");
            }
            let types = parse_types(types, sets)?;
            sets.push((id, types));
        }
        "op" => {
            let op = parse_op(rest)?;
            let key = |op: &OpSchema| (op.domain, op.name, op.since_version);
            if table.ops.last().is_some_and(|last| key(last) >= key(&op)) {
                return Err("operators in order");
            }
            table.ops.push(op);
        }
        _ => return Err("`domain`, `set` or `op`"),
    }
    Ok(())
}

fn parse_op(words: &'static str) -> Result<OpSchema, Expected> {
    let mut words = words.split(' ');
    let mut op = OpSchema {
        domain: super::canonical_domain(words.next().ok_or("a domain")?),
        name: words.next().ok_or("an operator")?,
        since_version: words
            .next()
            .and_then(|version| version.parse().ok())
            .ok_or("a version")?,
        deprecated: false,
        function: false,
        unchecked_attributes: false,
        origin: Origin::Onnx,
        attributes: Vec::new(),
        type_constraints: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        min_inputs: 0,
        max_inputs: Some(0),
        min_outputs: 0,
        max_outputs: Some(0),
    };
    for flag in words {
        match flag {
            "deprecated" => op.deprecated = true,
            "function" => op.function = true,
            "unchecked" => op.unchecked_attributes = true,
            "ort" => op.origin = Origin::OnnxRuntime,
            _ => return Err("`deprecated`, `function`, `unchecked` or `ort`"),
        }
    }
    Ok(op)
}

fn parse_fact(
    op: &mut OpSchema,
    sets: &[(&'static str, TypeSet)],
    fact: &'static str,
) -> Result<(), Expected> {
    let (keyword, rest) = fact.split_once(' ').ok_or("a keyword and its words")?;
    let (name, rest) = rest.split_once(' ').ok_or("a name and its words")?;
    let parameter = |mark: &str| -> Result<Param, Expected> {
        let option = parse_mark(mark)?;
        let types = match op.type_constraint(rest) {
            Some(constraint) => constraint.types.clone(),
            None => literal_type(rest)?,
        };
        Ok(Param {
            name,
            option,
            type_str: rest,
            types,
        })
    };
    if let Some(mark) = keyword.strip_prefix("in") {
        let param = parameter(mark)?;
        let counts = counts_with(&op.inputs, op.min_inputs, param.option)?;
        (op.min_inputs, op.max_inputs) = counts;
        op.inputs.push(param);
    } else if let Some(mark) = keyword.strip_prefix("out") {
        let param = parameter(mark)?;
        let counts = counts_with(&op.outputs, op.min_outputs, param.option)?;
        (op.min_outputs, op.max_outputs) = counts;
        op.outputs.push(param);
    } else if keyword == "type" {
        let types = parse_types(rest, sets)?;
        op.type_constraints.push(TypeConstraint { name, types });
    } else if let "attr" | "attr!" = keyword {
        let (kind, default) = match rest.split_once(" = ") {
            Some((kind, default)) => (kind, Some(default)),
            None => (rest, None),
        };
        let kind = AttrKind::from_name(kind).ok_or("the type of an attribute")?;
        op.attributes.push(AttrDef {
            name,
            kind,
            required: keyword.ends_with('!'),
            default: default.map(|text| parse_default(kind, text)).transpose()?,
        });
    } else {
        return Err("`attr`, `type`, `in` or `out`");
    }
    Ok(())
}

fn parse_mark(mark: &str) -> Result<ParamOption, Expected> {
    match mark {
        "" => Ok(ParamOption::Single),
        "?" => Ok(ParamOption::Optional),
        _ => {
            let count = mark.strip_prefix('*').ok_or("`?` or `*N`")?;
            let (count, homogeneous) = match count.strip_suffix('~') {
                Some(count) => (count, false),
                None => (count, true),
            };
            let min = count.parse().map_err(|_| "a least count after `*`")?;
            Ok(ParamOption::Variadic { min, homogeneous })
        }
    }
}

/// The least and greatest counts of a list once a parameter is added to it, by the rule of
/// the ONNX checker: all up to the last that is neither optional nor variadic are needed, and
/// a variadic needs all before it, optional or not, and its own least count.
fn counts_with(
    before: &[Param],
    min_before: usize,
    option: ParamOption,
) -> Result<(usize, Option<usize>), Expected> {
    let last = before.last().map(|param| param.option);
    if let Some(ParamOption::Variadic { .. }) = last {
        return Err("nothing after a variadic");
    }
    let index = before.len();
    Ok(match option {
        ParamOption::Single => (index + 1, Some(index + 1)),
        ParamOption::Optional => (min_before, Some(index + 1)),
        ParamOption::Variadic { min, .. } => (index + min, None),
    })
}

fn parse_types(text: &'static str, sets: &[(&'static str, TypeSet)]) -> Result<TypeSet, Expected> {
    if text.starts_with('@') {
        let found = sets.binary_search_by_key(&text, |(id, _)| id);
        let (_, set) = &sets[found.map_err(|_| "the id of a `set` line above")?];
        return Ok(set.clone());
    }
    let mut set = TypeSet::default();
    let mut others = Vec::new();
    for name in text.split('|') {
        if let Some(element) = ElementType::from_name(name) {
            set.insert_tensor(element);
        } else if name.contains('(') {
            others.push(name);
        } else {
            return Err("a type");
        }
    }
    set.set_others(others);
    Ok(set)
}

/// The set of the one type `type_str`, written in full.
fn literal_type(type_str: &'static str) -> Result<TypeSet, Expected> {
    let mut set = TypeSet::default();
    let tensor = type_str
        .strip_prefix("tensor(")
        .and_then(|rest| rest.strip_suffix(')'));
    if let Some(element) = tensor {
        set.insert_tensor(ElementType::from_name(element).ok_or("an element type")?);
    } else if type_str.contains('(') {
        set.set_others(vec![type_str]);
    } else {
        return Err("a type, or the name of a `type` line above");
    }
    Ok(set)
}

fn parse_default(kind: AttrKind, text: &'static str) -> Result<AttrDefault, Expected> {
    fn float(text: &str) -> Result<f32, Expected> {
        text.parse().map_err(|_| "a float")
    }
    fn int(text: &str) -> Result<i64, Expected> {
        text.parse().map_err(|_| "an integer")
    }
    fn string(text: &'static str) -> Result<&'static str, Expected> {
        text.strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .ok_or("a string in quotes")
    }
    fn list<T>(
        text: &'static str,
        item: impl Fn(&'static str) -> Result<T, Expected>,
    ) -> Result<Vec<T>, Expected> {
        let items = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or("a list in brackets")?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        items.split(',').map(item).collect()
    }
    Ok(match kind {
        AttrKind::Float => AttrDefault::Float(float(text)?),
        AttrKind::Int => AttrDefault::Int(int(text)?),
        AttrKind::String => AttrDefault::String(string(text)?),
        AttrKind::Floats => AttrDefault::Floats(list(text, float)?),
        AttrKind::Ints => AttrDefault::Ints(list(text, int)?),
        AttrKind::Strings => AttrDefault::Strings(list(text, string)?),
        _ => return Err("no default for an attribute of this type"),
    })
}
