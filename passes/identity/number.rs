//! Constants that are one number.

use half::{bf16, f16};

use super::look::Look;
use crate::{
    error::Result,
    infer::SymInt,
    ir::{DataType, ValueId},
};

/// Whether all elements of `value` are known to be `number`, a whole number that its type can
/// have. For floats the sign of zero counts; true is 1.
///
/// # Errors
/// It cannot be read.
pub(super) fn is_number(look: &Look<'_>, value: ValueId, number: f64) -> Result<bool> {
    let is_it = |n: &SymInt| n.is(number as i64);
    if let Some(elements) = look.facts.elements(value) {
        return Ok(!elements.is_empty() && elements.iter().all(is_it));
    }
    let Some((dtype, bytes)) = look.uniform(value)? else {
        return Ok(false);
    };
    Ok(encoded(dtype, number).is_some_and(|wanted| wanted == bytes))
}

/// `number` as an element of type `dtype`, little-endian.
fn encoded(dtype: DataType, number: f64) -> Option<Vec<u8>> {
    use DataType as D;
    let bytes = match dtype {
        D::Float => (number as f32).to_le_bytes().to_vec(),
        D::Double => number.to_le_bytes().to_vec(),
        D::Float16 => f16::from_f64(number).to_le_bytes().to_vec(),
        D::Bfloat16 => bf16::from_f64(number).to_le_bytes().to_vec(),
        D::Bool | D::Int8 | D::Uint8 => vec![number as u8],
        D::Int16 | D::Uint16 => (number as i16).to_le_bytes().to_vec(),
        D::Int32 | D::Uint32 => (number as i32).to_le_bytes().to_vec(),
        D::Int64 | D::Uint64 => (number as i64).to_le_bytes().to_vec(),
        _ => return None,
    };
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_bytes() {
        assert_eq!(encoded(DataType::Float, -0.0), Some(vec![0, 0, 0, 0x80]));
        assert_eq!(encoded(DataType::Float16, 1.0), Some(vec![0, 0x3c]));
        assert_eq!(encoded(DataType::Bfloat16, 1.0), Some(vec![0x80, 0x3f]));
        assert_eq!(encoded(DataType::Int32, -0.0), Some(vec![0; 4]));
        assert_eq!(encoded(DataType::Bool, 1.0), Some(vec![1]));
        assert_eq!(encoded(DataType::Int4, 1.0), None);
    }
}
