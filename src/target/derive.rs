//! Facets that rows speak of and no attribute says: computed from others.
//!
//! - `blocks`: how many blocks a row of the quantized weight has (`MatMulNBits`,
//!   `GatherBlockQuantized`).

use super::form::{Facet, Form};
use crate::ir::DataType;

pub(super) fn derive(form: &mut Form) {
    match (form.domain(), form.op_type()) {
        ("com.microsoft", "MatMulNBits") => {
            let k = form.number("K");
            blocks(form, k);
        }
        ("com.microsoft", "GatherBlockQuantized") => {
            let row = unpacked_row(form);
            blocks(form, row);
        }
        _ => {}
    }
}

/// The last extent of a table in elements; uint8 tables hold several in a byte.
fn unpacked_row(form: &Form) -> Option<i64> {
    let last = form.number("data.last")?;
    let bits = form.number("bits")?;
    match form.get("data")? {
        Facet::Type(DataType::Uint8) if bits > 0 => last.checked_mul(8 / bits.min(8)),
        Facet::Type(_) => Some(last),
        _ => None,
    }
}

fn blocks(form: &mut Form, row: Option<i64>) {
    let size = form.number("block_size").filter(|&b| b > 0);
    let blocks = row
        .zip(size)
        .map(|(row, size)| row / size + i64::from(row % size > 0));
    form.set("blocks", blocks.map_or(Facet::Unknown, Facet::Int));
}
