//! The words of the syntax, and which names need quotes.

use crate::ir::{AttributeKind, DataType};

/// What can follow an entity in `@{...}`, and further keys of a header.
pub(super) mod key {
    pub(crate) const DOC_STRING: &str = "doc_string";
    pub(crate) const METADATA: &str = "metadata_props";
    pub(crate) const TRAINING_INFO: &str = "training_info";
    pub(crate) const CONFIGURATION: &str = "configuration";
    pub(crate) const QUANTIZATION: &str = "quantization_annotation";
    pub(crate) const DEVICES: &str = "device_configurations";
}

/// Attribute kinds by the word that declares them.
const KINDS: [(&str, AttributeKind); 14] = {
    use AttributeKind::*;
    [
        ("float", Float),
        ("int", Int),
        ("string", String),
        ("tensor", Tensor),
        ("graph", Graph),
        ("sparse_tensor", SparseTensor),
        ("type_proto", Type),
        ("floats", Floats),
        ("ints", Ints),
        ("strings", Strings),
        ("tensors", Tensors),
        ("graphs", Graphs),
        ("sparse_tensors", SparseTensors),
        ("type_protos", Types),
    ]
};

/// The word for `kind`; `None` for the undefined one.
pub(super) fn kind_word(kind: AttributeKind) -> Option<&'static str> {
    KINDS.iter().find(|(_, k)| *k == kind).map(|(w, _)| *w)
}

/// The kind that `word` declares.
pub(super) fn kind_of_word(word: &str) -> Option<AttributeKind> {
    KINDS.iter().find(|(w, _)| *w == word).map(|(_, k)| *k)
}

/// The element type called `word`.
pub(super) fn data_type(word: &str) -> Option<DataType> {
    let mut types = DataType::ALL.into_iter().skip(1);
    types.find(|t| t.name() == word)
}

/// Whether `word` begins a type.
pub(super) fn begins_type(word: &str) -> bool {
    matches!(
        word,
        "seq" | "map" | "optional" | "sparse_tensor" | "opaque"
    ) || data_type(word).is_some()
}

/// Whether `word` is a floating-point literal.
pub(super) fn is_float_word(word: &str) -> bool {
    ["nan", "inf", "infinity"]
        .iter()
        .any(|w| word.eq_ignore_ascii_case(w))
}

/// Whether `c` can begin an identifier.
pub(super) fn begins_identifier(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_'
}

/// Whether `c` can stand in an identifier.
pub(super) fn continues_identifier(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

/// Whether `name` can be written without quotes: an identifier that is not the beginning
/// of a type or a number, which it would be taken for in some places.
pub(super) fn is_plain(name: &str) -> bool {
    is_identifier(name) && !begins_type(name) && !is_float_word(name)
}

/// Whether `name` is an identifier.
pub(super) fn is_identifier(name: &str) -> bool {
    name.bytes().next().is_some_and(begins_identifier) && name.bytes().all(continues_identifier)
}
