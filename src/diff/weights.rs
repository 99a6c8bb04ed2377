//! Initializers: type, shape and bytes.

use rayon::prelude::*;
use serde::Serialize;

use super::{Pair, parts, shape};
use crate::{
    error::Result,
    ir::{Constant, Data, Elements, Tensor},
};

/// How much is compared at once: a task holds two buffers of this size.
const RANGE: u64 = 1 << 20;

/// An initializer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightInfo {
    /// Its name, after the place of its graph unless that is the main one.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// Extents.
    pub shape: Vec<i64>,
    /// Bytes.
    pub bytes: u64,
}

impl WeightInfo {
    pub(super) fn new(name: String, constant: &Constant) -> WeightInfo {
        WeightInfo::of(name, &parts(constant), shape(constant))
    }

    fn of(name: String, parts: &[&Tensor], shape: Vec<i64>) -> WeightInfo {
        WeightInfo {
            name,
            dtype: parts.first().map_or("undefined", |t| t.dtype.name()),
            shape,
            bytes: parts.iter().map(|t| t.byte_len()).sum(),
        }
    }
}

/// An initializer that both models have, differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightChange {
    /// In A.
    pub a: WeightInfo,
    /// In B.
    pub b: WeightInfo,
    /// Whether type and shape are the same, and the elements are not.
    pub only_elements: bool,
}

/// The pairs that are different, in their order. Pairs of the same type and shape are
/// compared byte by byte.
pub(super) fn changes(pairs: &[Pair<'_>]) -> Result<Vec<WeightChange>> {
    let compared: Result<Vec<Option<WeightChange>>> = pairs.par_iter().map(change).collect();
    Ok(compared?.into_iter().flatten().collect())
}

fn change(pair: &Pair<'_>) -> Result<Option<WeightChange>> {
    let kind = |parts: &[&Tensor]| -> Vec<_> {
        let parts = parts.iter();
        parts.map(|t| (t.dtype, t.dims.clone())).collect()
    };
    let only_elements = pair.shapes.0 == pair.shapes.1 && kind(&pair.a) == kind(&pair.b);
    if only_elements {
        let mut same = true;
        for (a, b) in pair.a.iter().zip(&pair.b) {
            same = same && equal(a, b)?;
        }
        if same && texts(&pair.a) == texts(&pair.b) {
            return Ok(None);
        }
    }
    let info =
        |parts: &[&Tensor], shape: &[i64]| WeightInfo::of(pair.name.clone(), parts, shape.to_vec());
    Ok(Some(WeightChange {
        a: info(&pair.a, &pair.shapes.0),
        b: info(&pair.b, &pair.shapes.1),
        only_elements,
    }))
}

/// What constants say besides their elements.
fn texts<'t>(parts: &[&'t Tensor]) -> Vec<(&'t str, &'t [crate::ir::Property])> {
    let parts = parts.iter();
    parts
        .map(|t| (t.doc_string.as_deref().unwrap_or_default(), &t.metadata[..]))
        .collect()
}

/// Whether the elements are the same bytes.
pub(crate) fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    match (&a.elements, &b.elements) {
        (Elements::Strings(a), Elements::Strings(b)) => Ok(a == b),
        (Elements::Data(a), Elements::Data(b)) => data_equal(a, b),
        _ => Ok(false),
    }
}

fn data_equal(a: &Data, b: &Data) -> Result<bool> {
    if a.len() != b.len() || a.is_same(b) {
        return Ok(a.len() == b.len());
    }
    // Stops at the first range that is different or cannot be read.
    let fault = (0..a.len().div_ceil(RANGE))
        .into_par_iter()
        .map(|i| range_equal(a, b, i * RANGE))
        .find_any(|r| !matches!(r, Ok(true)));
    fault.unwrap_or(Ok(true))
}

fn range_equal(a: &Data, b: &Data, start: u64) -> Result<bool> {
    let len = (a.len() - start).min(RANGE) as usize;
    let (mut x, mut y) = (vec![0; len], vec![0; len]);
    a.read_at(start, &mut x)?;
    b.read_at(start, &mut y)?;
    Ok(x == y)
}
