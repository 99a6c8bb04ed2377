//! Activations as rows of k terms.

use super::site::Terms;
use crate::{
    engine::{Array, InputRole, Signature},
    error::{Error, Result},
    quant,
};

/// Which tokens of an item count: those that its attention mask does not mask out.
#[derive(Debug, PartialEq)]
pub(super) struct Mask {
    /// Texts of the item.
    texts: usize,
    /// For each token of each text.
    counts: Vec<bool>,
}

impl Mask {
    /// Of an item; `None` when all of its tokens count, as far as masks tell.
    pub(super) fn of(signature: &Signature, inputs: &[(String, Array)]) -> Option<Mask> {
        let given = |role| {
            let input = signature.input(role)?;
            let (_, array) = inputs.iter().find(|(name, _)| *name == input.name)?;
            Some(array)
        };
        let mask = given(InputRole::AttentionMask)?;
        let &[texts, all] = mask.dims() else {
            return None;
        };
        // A mask covers the cache, too, whose tokens come first and have no rows.
        let ids = given(InputRole::InputIds).map(Array::dims);
        let new = match ids {
            Some(&[_, new]) if new <= all => new,
            _ => all,
        };
        let counts: Vec<bool> = mask.to_f64().iter().map(|&x| x != 0.0).collect();
        let counts = counts.chunks(all.max(1)).flat_map(|row| &row[all - new..]);
        let counts: Vec<bool> = counts.copied().collect();
        counts.contains(&false).then_some(Mask { texts, counts })
    }

    /// Whether rows with these extents are the tokens.
    fn fits(&self, extents: &[usize]) -> bool {
        let tokens = self.counts.len() / self.texts.max(1);
        let long = |extents: &[usize]| -> Vec<usize> {
            extents.iter().copied().filter(|&e| e != 1).collect()
        };
        let found = long(extents);
        found == long(&[self.texts, tokens]) || found == long(&[self.counts.len()])
    }
}

/// The rows of `array`, each of `k` terms: in its order, without those of tokens that are
/// masked out.
///
/// # Errors
/// It has not k terms along that axis, or holds NaN or infinity in a row that counts.
pub(super) fn rows(array: Array, terms: Terms, k: u64, mask: Option<&Mask>) -> Result<Vec<f32>> {
    let dims = array.dims().to_vec();
    let axis = match terms {
        Terms::Last => dims.len().checked_sub(1),
        // A vector is a column.
        Terms::BeforeLast => Some(dims.len().saturating_sub(2)).filter(|_| !dims.is_empty()),
    };
    let axis = axis.filter(|&axis| dims[axis] as u64 == k).ok_or_else(|| {
        let place = match terms {
            Terms::Last => "last axis",
            Terms::BeforeLast => "axis before the last",
        };
        Error::input(format!(
            "it has extents {dims:?}, expected {k} along its {place}"
        ))
    })?;
    let after: usize = dims[axis + 1..].iter().product();
    let dtype = array.dtype();
    let elements = array
        .into_f32()
        .ok_or_else(|| Error::input(format!("it is of {dtype}, expected a floating-point type")))?;
    let k = dims[axis];
    let mut rows = match after {
        1 => elements,
        _ => turned(&elements, k, after),
    };
    let mut extents = dims;
    extents.remove(axis);
    if let Some(mask) = mask.filter(|mask| mask.fits(&extents)) {
        let mut counts = mask.counts.iter();
        rows = rows
            .chunks(k)
            .filter(|_| counts.next().copied().unwrap_or(true))
            .flatten()
            .copied()
            .collect();
    }
    match quant::first_nonfinite(&rows) {
        None => Ok(rows),
        Some(at) => Err(Error::input(format!(
            "term {} of row {} is {}",
            at % k,
            at / k,
            rows[at]
        ))),
    }
}

/// Matrices `[k, m]`, one after the other, each as `[m, k]`.
fn turned(elements: &[f32], k: usize, m: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(elements.len());
    for matrix in elements.chunks((k * m).max(1)) {
        for column in 0..m {
            out.extend(matrix[column..].iter().step_by(m));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(dims: &[usize]) -> Array {
        let len: usize = dims.iter().product();
        Array::new(dims.to_vec(), (0..len).map(|i| i as f32).collect())
    }

    fn mask(texts: usize, counts: &[u8]) -> Mask {
        Mask {
            texts,
            counts: counts.iter().map(|&c| c != 0).collect(),
        }
    }

    #[test]
    fn rows_lie_along_either_axis() {
        let of = |dims: &[usize], terms, k| rows(ramp(dims), terms, k, None).unwrap();
        assert_eq!(of(&[2, 2], Terms::Last, 2), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(of(&[2, 2], Terms::BeforeLast, 2), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(of(&[3], Terms::Last, 3), [0.0, 1.0, 2.0]);
        assert_eq!(of(&[3], Terms::BeforeLast, 3), [0.0, 1.0, 2.0]);
        let two = of(&[2, 2, 3], Terms::BeforeLast, 2);
        let expected = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(|i| i as f32);
        assert_eq!(two, expected);
        assert!(of(&[2, 0, 3], Terms::Last, 3).is_empty());
        assert!(of(&[2, 3, 0], Terms::BeforeLast, 3).is_empty());
        for dims in [&[][..], &[2], &[3, 2]] {
            assert!(rows(ramp(dims), Terms::Last, 3, None).is_err());
        }
    }

    #[test]
    fn tokens_that_are_masked_out_have_no_row() {
        let mask = mask(2, &[1, 1, 0, 1, 0, 0]);
        let kept = |dims: &[usize]| rows(ramp(dims), Terms::Last, 1, Some(&mask)).unwrap();
        assert_eq!(kept(&[2, 3, 1]), [0.0, 1.0, 3.0]);
        assert_eq!(kept(&[6, 1]), [0.0, 1.0, 3.0]);
        assert_eq!(kept(&[2, 1, 3, 1]), [0.0, 1.0, 3.0]);
        // One row for a text, or for something else.
        assert_eq!(kept(&[2, 1]), [0.0, 1.0]);
        assert_eq!(kept(&[3, 2, 1]).len(), 6);
        // Its columns are the tokens.
        let turned = rows(ramp(&[2, 1, 3]), Terms::BeforeLast, 1, Some(&mask));
        assert_eq!(turned.unwrap(), [0.0, 1.0, 3.0]);
    }

    #[test]
    fn what_is_no_number_is_an_error_where_it_counts() {
        let mut x = vec![0.0f32; 6];
        x[5] = f32::NAN;
        let array = || Array::new(vec![1, 3, 2], x.clone());
        let error = rows(array(), Terms::Last, 2, None).unwrap_err().chain();
        assert_eq!(error, "term 1 of row 2 is NaN");
        let mask = mask(1, &[1, 1, 0]);
        assert_eq!(
            rows(array(), Terms::Last, 2, Some(&mask)).unwrap(),
            [0.0; 4]
        );
    }
}
