//! What a model does not say of its values, found from what it does: element types
//! ([`kinds`]), and with them extents and the integers that extents are computed from
//! ([`facts`]).
//!
//! An inference is a pure function of `&Model` and yields a side table, valid until the
//! model changes. What cannot be told is `None`, never a guess.

mod elements;
mod rules;
mod shapes;
mod sym_int;
#[cfg(test)]
mod tests;

pub use rules::cast_to;
pub use sym_int::SymInt;

use crate::{
    ir::{DataType, Model, NodeId, SideTable, Type, TypeKind, ValueId},
    schema::{ElementType, Param, TypeSet},
};

/// What a value is, and of which element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A tensor.
    Tensor(DataType),
    /// A sequence of tensors.
    Sequence(DataType),
    /// A tensor or nothing.
    OptionalTensor(DataType),
    /// A sequence of tensors or nothing.
    OptionalSequence(DataType),
    /// Anything else: a map, a sparse tensor, an opaque type.
    Other,
}

/// The kind of every value, as far as it can be told: from declared types and constants,
/// then from the type constraints of the operators, in both directions until nothing new
/// is found.
///
/// Captured values, the bodies of `If`, `Loop`, `Scan` and `SequenceMap`, and calls of
/// local functions are followed. In the body of a function itself only what holds for
/// every call is known. Where a model contradicts itself, what it declares counts, and
/// of two inferences the earlier one.
pub fn kinds(model: &Model) -> SideTable<ValueId, Option<Kind>> {
    elements::run(model)
}

/// What is known of every value: a side table, valid until the model changes.
#[derive(Debug)]
pub struct Facts {
    kinds: SideTable<ValueId, Option<Kind>>,
    shapes: SideTable<ValueId, shapes::Fact>,
    conflicts: Vec<Conflict>,
}

/// Something that does not fit: operands that an operator cannot take together, or a result
/// that is declared to be what it is not. Nothing is said of the results of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The node.
    pub node: NodeId,
    /// What was found and what was expected.
    pub message: String,
}

/// Infers kinds, extents and small integers of all values.
///
/// The declared types of the main graph's inputs hold, and extents with the same name are
/// the same. Numbers in `value_info` are relied on for results of operators that onnxq knows nothing
/// of, and what the outputs are declared to be is not, because exporters often have it wrong. The
/// body of a local function is looked at twice: at each call with the operands it is given,
/// and by itself, for what holds for every call. Operators of a domain whose opset is
/// beyond the table have unknown results.
pub fn facts(model: &Model) -> Facts {
    let kinds = kinds(model);
    let shapes::Shapes {
        facts, conflicts, ..
    } = shapes::Shapes::run(model, &kinds);
    Facts {
        kinds,
        shapes: facts,
        conflicts,
    }
}

impl Facts {
    /// What `value` is.
    pub fn kind(&self, value: ValueId) -> Option<Kind> {
        self.kinds[value]
    }

    /// The element type of `value`, if it is a tensor.
    pub fn dtype(&self, value: ValueId) -> Option<DataType> {
        match self.kinds[value] {
            Some(Kind::Tensor(dtype)) => Some(dtype),
            _ => None,
        }
    }

    /// The extents of `value`. Equal ones are equal in every run.
    pub fn shape(&self, value: ValueId) -> Option<&[SymInt]> {
        self.shapes[value].shape.as_deref()
    }

    /// The extents of `value`, when all are numbers.
    pub fn dims(&self, value: ValueId) -> Option<Vec<i64>> {
        self.shape(value)?.iter().map(SymInt::known).collect()
    }

    /// The elements of `value` in row-major order, when it is an integer tensor or one of
    /// truth values (0 and 1) with few elements that come from extents and constants.
    pub fn elements(&self, value: ValueId) -> Option<&[SymInt]> {
        self.shapes[value].elements.as_deref()
    }

    /// What does not fit, in document order.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

impl Kind {
    /// The kind of a declared type; `None` when the type does not tell.
    pub fn of_type(ty: &Type) -> Option<Kind> {
        match &ty.kind {
            TypeKind::Unset => None,
            TypeKind::Tensor(t) => t.elem.map(Kind::Tensor),
            TypeKind::Sequence(inner) => Some(Kind::of_type(inner.as_deref()?)?.sequence()),
            TypeKind::Optional(inner) => Some(Kind::of_type(inner.as_deref()?)?.optional()),
            TypeKind::SparseTensor(_) | TypeKind::Map(..) | TypeKind::Opaque { .. } => {
                Some(Kind::Other)
            }
        }
    }

    /// A sequence of this.
    fn sequence(self) -> Kind {
        match self {
            Kind::Tensor(dtype) => Kind::Sequence(dtype),
            _ => Kind::Other,
        }
    }

    /// What a sequence holds.
    fn of_sequence(self) -> Option<Kind> {
        match self {
            Kind::Sequence(dtype) => Some(Kind::Tensor(dtype)),
            _ => None,
        }
    }

    /// This or nothing.
    fn optional(self) -> Kind {
        match self {
            Kind::Tensor(dtype) => Kind::OptionalTensor(dtype),
            Kind::Sequence(dtype) => Kind::OptionalSequence(dtype),
            other => other,
        }
    }

    /// What an optional holds; anything else is what it is.
    fn of_optional(self) -> Kind {
        match self {
            Kind::OptionalTensor(dtype) => Kind::Tensor(dtype),
            Kind::OptionalSequence(dtype) => Kind::Sequence(dtype),
            other => other,
        }
    }

    /// The kind that `types` leaves no choice about.
    fn only(types: &TypeSet) -> Option<Kind> {
        if types.len() != 1 {
            return None;
        }
        match types.tensors().next() {
            Some(element) => DataType::from_code(element.code()).map(Kind::Tensor),
            None => types.others().first().map(|text| Kind::spelled(text)),
        }
    }

    /// The kind that a type string of the schemas names, such as `seq(tensor(float))`.
    fn spelled(text: &str) -> Kind {
        let inside = |name: &str| -> Option<&str> {
            text.strip_prefix(name)?
                .strip_prefix('(')?
                .strip_suffix(')')
        };
        if let Some(name) = inside("tensor") {
            let element = ElementType::from_name(name);
            let dtype = element.and_then(|e| DataType::from_code(e.code()));
            return dtype.map_or(Kind::Other, Kind::Tensor);
        }
        match (inside("seq"), inside("optional")) {
            (Some(inner), _) => Kind::spelled(inner).sequence(),
            (_, Some(inner)) => Kind::spelled(inner).optional(),
            _ => Kind::Other,
        }
    }
}

/// Whether a tensor of `dtype` may be what `param` stands for.
pub fn takes(param: &Param, dtype: DataType) -> bool {
    ElementType::from_code(dtype.code()).is_some_and(|e| param.types.has_tensor(e))
}
