//! Operator facts: what the published schemas say about every version of every operator.
//!
//! For the passes and the verifier, which ask whether a node's attributes, inputs and
//! outputs are ones that the operator has. Covered are the standard domains of ONNX and the
//! domains that ONNX Runtime registers, `com.microsoft` first; an operator of another domain
//! (a local function, say) is simply unknown here. The facts are those of the schemas and no
//! more: that an operator has a schema does not say that a runtime can run it, and the rules
//! of shape inference are elsewhere.
//!
//! The table is `operators.txt`, written by `scripts/gen_schema.py` from the two packages
//! named in its first line and parsed once, on first use. It is text, and not generated Rust,
//! because a change then reads as a change of facts, one fact a line, and because thousands
//! of nested statics would cost every build more than the parsing costs a run (under two
//! milliseconds and 1.3 MB). `tests/py/test_schema.py` compares the table with its
//! sources along a path that does not use the script, and asks ONNX Runtime whether it agrees.
//!
//! ```
//! use onnxq::schema;
//!
//! let op = schema::lookup("com.microsoft", "MatMulNBits", 1).unwrap();
//! assert!(op.attribute("block_size").unwrap().required);
//! assert!(op.attribute("hierarchy_tag").is_none());
//!
//! // The version in force at an opset, under either name of the default domain.
//! assert_eq!(schema::lookup("", "MatMul", 12).unwrap().since_version, 9);
//! assert_eq!(schema::lookup("ai.onnx", "MatMul", 13).unwrap().since_version, 13);
//! ```

mod parse;
#[cfg(test)]
mod tests;
mod types;

use std::{collections::HashMap, ops::Range, sync::OnceLock};

pub use types::{
    AttrDef, AttrDefault, AttrKind, Domain, ElementType, OpSchema, Origin, Param, ParamOption,
    TypeConstraint, TypeSet,
};

use parse::Table;

static TEXT: &str = include_str!("operators.txt");

/// The table, and where in it the versions of each operator are: it is asked about every node
/// again and again.
struct Indexed {
    table: Table,
    places: HashMap<(&'static str, &'static str), Range<usize>>,
}

fn indexed() -> &'static Indexed {
    static INDEXED: OnceLock<Indexed> = OnceLock::new();
    INDEXED.get_or_init(|| {
        // The text is part of the program and a test parses it, so this cannot depend on input.
        let table = parse::parse(TEXT)
            .unwrap_or_else(|error| panic!("operators.txt is well formed: {error}"));
        let mut places: HashMap<_, Range<usize>> = HashMap::new();
        for (at, op) in table.ops.iter().enumerate() {
            places.entry((op.domain, op.name)).or_insert(at..at).end = at + 1;
        }
        Indexed { table, places }
    })
}

/// The name of `domain` under which the table has it: `ai.onnx` is a synonym of the empty name.
pub fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The schema of an operator in force at `opset`: its newest version that is not newer.
///
/// `None` if no such operator is known, or only versions newer than `opset`; [`versions`]
/// tells the two apart. An `opset` newer than the table gets the newest version known, which
/// may not be the one in force: see [`is_beyond_table`]. The schema may be
/// [deprecated](OpSchema::deprecated), which means that the operator ended with that version.
pub fn lookup(domain: &str, op_type: &str, opset: i64) -> Option<&'static OpSchema> {
    let versions = versions(domain, op_type);
    let newer = versions.partition_point(|op| op.since_version <= opset);
    versions[..newer].last()
}

/// Whether the operator of `schema` ended with that version: it is deprecated, and no newer version took
/// its place.
pub fn has_ended(schema: &OpSchema) -> bool {
    let newest = versions(schema.domain, schema.name).last();
    schema.deprecated && newest.is_none_or(|n| n.since_version <= schema.since_version)
}

/// Every version of an operator, oldest first; empty if the operator is unknown.
pub fn versions(domain: &str, op_type: &str) -> &'static [OpSchema] {
    let place = indexed().places.get(&(canonical_domain(domain), op_type));
    place.map_or(&[], |at| &all()[at.clone()])
}

/// Operators that draw random numbers.
const RANDOM: [&str; 6] = [
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];

/// Whether an operator gives something else each time it runs. `Dropout`, which does in training, is
/// none of them.
pub fn is_random(domain: &str, op_type: &str) -> bool {
    domain.is_empty() && RANDOM.contains(&op_type)
}

/// Every operator version in the table, ordered by domain, name and version.
pub fn all() -> &'static [OpSchema] {
    &indexed().table.ops
}

/// The domains in the table, in order of name.
pub fn domains() -> &'static [Domain] {
    &indexed().table.domains
}

/// The newest opset of a domain that the table covers; `None` for an unknown domain.
pub fn newest_opset(domain: &str) -> Option<i64> {
    let domain = canonical_domain(domain);
    let found = domains().iter().find(|d| d.name == domain)?;
    Some(found.newest_opset)
}

/// Whether `opset` is newer than the table for a domain that it covers, so that an operator
/// may have changed since, or may exist without being known.
pub fn is_beyond_table(domain: &str, opset: i64) -> bool {
    newest_opset(domain).is_some_and(|newest| opset > newest)
}
