//! The version of the format that an opset was released with.

use crate::ir::{Def, Model, ValueId};

/// For each version of the default domain from 9 on, the IR version of the ONNX release that
/// brought it: the table of releases in the standard's `Versioning.md`.
const RELEASED: [(i64, i64); 20] = [
    (9, 4),
    (10, 5),
    (11, 6),
    (12, 7),
    (13, 7),
    (14, 7),
    (15, 8),
    (16, 8),
    (17, 8),
    (18, 8),
    (19, 9),
    (20, 9),
    (21, 10),
    (22, 10),
    (23, 11),
    (24, 12),
    (25, 13),
    (26, 13),
    (27, 13),
    (28, 14),
];

/// The IR version that version `opset` of the default domain was released with; up to 8 it is 3.
/// `None` for an opset newer than those known.
pub fn ir_version_of(opset: i64) -> Option<i64> {
    match opset {
        ..9 => Some(3),
        _ => RELEASED.iter().find(|r| r.0 == opset).map(|r| r.1),
    }
}

/// Raises the IR version of `model` to the one released with `opset`, if it is older.
pub(super) fn raise(model: &mut Model, opset: i64) {
    let (Some(wanted), before) = (ir_version_of(opset), model.ir_version.unwrap_or(0)) else {
        return;
    };
    if before >= wanted {
        return;
    }
    if before < 4 && wanted >= 4 {
        unlist_constants(model);
    }
    model.ir_version = Some(wanted);
}

/// Takes the constants out of the inputs of the main graph. Up to IR version 3 they had to be
/// there; from 4 on they would be defaults that callers may replace.
fn unlist_constants(model: &mut Model) {
    let main = model.main;
    let (constants, inputs): (Vec<ValueId>, Vec<ValueId>) = model.graphs[main]
        .inputs
        .iter()
        .partition(|&&v| model.values[v].constant.is_some());
    model.graphs[main].inputs = inputs;
    for value in constants {
        model.values[value].def = Def::Initializer(main);
        // The constant says it all.
        model.values[value].info = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_opset_that_is_known_has_one() {
        let newest = schema::newest_opset("").unwrap();
        assert!((1..=newest).all(|o| ir_version_of(o).is_some()));
        assert_eq!(ir_version_of(newest + 1), None);
    }
}
