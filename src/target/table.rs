//! The table: `capabilities.txt`, one row a fact.
//!
//! ```text
//! # comment
//! op DOMAIN::NAME                                  begins the rows of an operator
//! SCOPE VERSIONS | EFFECT | CONDITION | SOURCE | REASON | INSTEAD
//! limit VERSIONS | ir N | opset N | SOURCE         what ONNX Runtime loads at most
//! ```
//!
//! - SCOPE is whose fact it is: `ort`, ONNX Runtime on every device, before any kernel is
//!   asked; `cpu`, its kernels for CPU and WebAssembly; or one runtime by its name. A
//!   device that has no row for a form leaves the node to the CPU, and the rows of `cpu` count.
//! - VERSIONS is `1.20`, `..1.21`, `1.24..`, `1.23..1.26` (both ends included) or `*`.
//! - EFFECT is `runs`, `slow`, `wrong` (a wrong result), `fails` (an error when the node runs)
//!   or `refused` (an error when the model is loaded).
//! - CONDITION is a list of terms, all of which hold; `-` always does. A term is `FACET=V,V`,
//!   `FACET!=V,V`, `FACET<N`, `FACET>=N`, `FACET%N=R`, `FACET%N!=R`, `FACET` (it is there) or
//!   `!FACET` (it is not). Of a facet that is absent only the last one holds. [`Form`] says what
//!   facets there are; V is a number, an element type or a text.
//! - SOURCE is how it is known: `executed`, by tests/py/test_targets.py with these very
//!   versions; `observed`, tried once with them; `source`, read in the runtime's source;
//!   `documented`; or an issue such as `onnxruntime#28551`. Several are separated by commas.
//! - REASON says what is the matter, INSTEAD what to use; both may be empty for `runs`.

use std::sync::OnceLock;

use serde::Serialize;

use super::{
    form::{Facet, Form},
    runtime::{Runtime, Target, Version},
};
use crate::{ir::DataType, schema::canonical_domain};

static TEXT: &str = include_str!("capabilities.txt");

/// What becomes of a node, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It runs.
    Runs,
    /// It runs, much slower than need be.
    Slow,
    /// It runs, and the result is wrong.
    Wrong,
    /// An error when the node runs.
    Fails,
    /// An error when the model is loaded.
    Refused,
}

impl Effect {
    const ALL: [(Effect, &'static str); 5] = [
        (Effect::Runs, "runs"),
        (Effect::Slow, "slow"),
        (Effect::Wrong, "wrong"),
        (Effect::Fails, "fails"),
        (Effect::Refused, "refused"),
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        Effect::ALL[self as usize].1
    }
}

/// Whose fact a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// ONNX Runtime on every device.
    Ort,
    /// The kernels that CPU and WebAssembly share.
    Cpu,
    /// One runtime.
    Only(Runtime),
}

impl Scope {
    fn parse(text: &str) -> Option<Scope> {
        match text {
            "ort" => Some(Scope::Ort),
            "cpu" => Some(Scope::Cpu),
            name => Runtime::from_name(name).map(Scope::Only),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Scope::Ort => "ort",
            Scope::Cpu => "cpu",
            Scope::Only(runtime) => runtime.name(),
        }
    }
}

/// Versions from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) text: &'static str,
    first: Option<Version>,
    last: Option<Version>,
}

impl Versions {
    fn parse(text: &'static str) -> Option<Versions> {
        let end = |text: &str| match text {
            "" => Some(None),
            version => Version::parse(version).map(Some),
        };
        let (first, last) = match text.split_once("..") {
            _ if text == "*" => (None, None),
            Some((first, last)) => (end(first)?, end(last)?),
            None => (end(text)?, end(text)?),
        };
        Some(Versions { text, first, last })
    }

    pub(super) fn contains(self, version: Version) -> bool {
        self.first.is_none_or(|f| f <= version) && self.last.is_none_or(|l| version <= l)
    }
}

/// One term of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    facet: &'static str,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    There,
    Absent,
    OneOf(Vec<Facet>),
    NoneOf(Vec<Facet>),
    Below(i64),
    AtLeast(i64),
    Remainder {
        divisor: i64,
        remainder: i64,
        equal: bool,
    },
}

impl Term {
    fn parse(text: &'static str) -> Option<Term> {
        let term = |facet, test| Some(Term { facet, test });
        if let Some(facet) = text.strip_prefix('!') {
            return term(facet, Test::Absent);
        }
        if let Some((facet, number)) = text.split_once(">=") {
            return term(facet, Test::AtLeast(number.parse().ok()?));
        }
        if let Some((facet, number)) = text.split_once('<') {
            return term(facet, Test::Below(number.parse().ok()?));
        }
        let Some((left, values)) = text.split_once('=') else {
            return term(text, Test::There);
        };
        let (left, equal) = match left.strip_suffix('!') {
            Some(left) => (left, false),
            None => (left, true),
        };
        if let Some((facet, divisor)) = left.split_once('%') {
            let test = Test::Remainder {
                divisor: divisor.parse().ok().filter(|&d| d > 0)?,
                remainder: values.parse().ok()?,
                equal,
            };
            return term(facet, test);
        }
        let values = values.split(',').map(value).collect();
        let test = if equal {
            Test::OneOf(values)
        } else {
            Test::NoneOf(values)
        };
        term(left, test)
    }

    /// Whether it holds; `None` when the form does not say.
    fn holds(&self, form: &Form) -> Option<bool> {
        let found = form.get(self.facet);
        match (&self.test, found) {
            (Test::There, _) => Some(found.is_some()),
            (Test::Absent, _) => Some(found.is_none()),
            (_, None) => Some(false),
            (_, Some(Facet::Unknown)) => None,
            (Test::OneOf(values), Some(facet)) => Some(values.contains(facet)),
            (Test::NoneOf(values), Some(facet)) => Some(!values.contains(facet)),
            (Test::Below(n), Some(Facet::Int(i))) => Some(i < n),
            (Test::AtLeast(n), Some(Facet::Int(i))) => Some(i >= n),
            (
                Test::Remainder {
                    divisor,
                    remainder,
                    equal,
                },
                Some(Facet::Int(i)),
            ) => Some((i.rem_euclid(*divisor) == *remainder) == *equal),
            _ => Some(false),
        }
    }
}

fn value(text: &str) -> Facet {
    if let Ok(number) = text.parse() {
        return Facet::Int(number);
    }
    let dtype = DataType::ALL.iter().find(|t| t.name() == text);
    dtype.map_or_else(|| Facet::Text(text.to_owned()), |&t| Facet::Type(t))
}

/// One fact.
#[derive(Clone, Debug)]
pub struct Row {
    pub(super) scope: Scope,
    pub(super) versions: Versions,
    pub(super) domain: &'static str,
    pub(super) op_type: &'static str,
    /// What becomes of the node.
    pub effect: Effect,
    /// The condition as the table writes it; `-` when there is none.
    pub condition: &'static str,
    terms: Vec<Term>,
    /// How it is known.
    pub source: &'static str,
    /// What is the matter.
    pub reason: &'static str,
    /// What to use instead.
    pub instead: &'static str,
}

impl Row {
    /// The operator, with its domain when that is not the default one.
    pub fn operator(&self) -> String {
        match self.domain {
            "" => self.op_type.to_owned(),
            domain => format!("{domain}::{}", self.op_type),
        }
    }

    /// Whose fact it is: `ort`, `cpu` or the name of a runtime.
    pub fn scope(&self) -> &'static str {
        self.scope.name()
    }

    /// The versions it is about, as the table writes them.
    pub fn versions(&self) -> &'static str {
        self.versions.text
    }

    /// Whether it is about `target` at all. A row of `cpu` is about other devices as well, for the
    /// nodes that they leave to the CPU.
    pub fn is_about(&self, target: Target) -> bool {
        let runtime = target.runtime;
        let scope = match self.scope {
            Scope::Ort | Scope::Cpu => runtime.is_onnxruntime(),
            Scope::Only(only) => only == runtime,
        };
        scope && self.versions.contains(target.version)
    }

    /// Whether it is about the operator of `form`.
    pub(super) fn is_of(&self, form: &Form) -> bool {
        self.op_type == form.op_type() && self.domain == form.domain()
    }

    /// Whether the condition holds; `None` when the form does not say.
    pub(super) fn matches(&self, form: &Form) -> Option<bool> {
        let mut all = Some(true);
        for term in &self.terms {
            match term.holds(form) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }

    /// The facets that the condition speaks of.
    pub(super) fn facets(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.terms.iter().map(|t| t.facet)
    }
}

/// The newest versions that ONNX Runtime loads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) versions: Versions,
    /// Of the model's format.
    pub(super) ir: i64,
    /// Of the default domain.
    pub(super) opset: i64,
    /// How it is known.
    pub(super) source: &'static str,
}

pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    pub(super) limits: Vec<Limit>,
}

pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        // The text is part of the program and a test parses it, so this cannot depend on input.
        parse(TEXT).unwrap_or_else(|line| panic!("capabilities.txt is well formed: {line}"))
    })
}

/// Every row, in the order of the file: by operator.
pub fn rows() -> &'static [Row] {
    &table().rows
}

/// The table, or the line that is not well formed.
fn parse(text: &'static str) -> Result<Table, &'static str> {
    let mut table = Table {
        rows: Vec::new(),
        limits: Vec::new(),
    };
    let mut operator = ("", "");
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("op ") {
            operator = name.split_once("::").unwrap_or(("", name));
            operator.0 = canonical_domain(operator.0);
        } else if let Some(limit) = line.strip_prefix("limit ") {
            table.limits.push(parse_limit(limit).ok_or(line)?);
        } else {
            table.rows.push(parse_row(operator, line).ok_or(line)?);
        }
    }
    Ok(table)
}

fn parse_row((domain, op_type): (&'static str, &'static str), line: &'static str) -> Option<Row> {
    let columns: Vec<&str> = line.split('|').map(str::trim).collect();
    let [who, effect, condition, source, reason, instead] = columns[..] else {
        return None;
    };
    let (scope, versions) = who.split_once(' ')?;
    let terms = condition.split(' ').filter(|t| !matches!(*t, "" | "-"));
    Some(Row {
        scope: Scope::parse(scope)?,
        versions: Versions::parse(versions.trim())?,
        domain,
        op_type,
        effect: Effect::ALL.iter().find(|e| e.1 == effect)?.0,
        condition,
        terms: terms.map(Term::parse).collect::<Option<_>>()?,
        source,
        reason,
        instead,
    })
}

fn parse_limit(line: &'static str) -> Option<Limit> {
    let columns: Vec<&str> = line.split('|').map(str::trim).collect();
    let [versions, ir, opset, source] = columns[..] else {
        return None;
    };
    Some(Limit {
        versions: Versions::parse(versions)?,
        ir: ir.strip_prefix("ir ")?.parse().ok()?,
        opset: opset.strip_prefix("opset ")?.parse().ok()?,
        source,
    })
}
