//! The entry points, what they write and how they fail.

use std::fmt;

use super::columns;
use super::matrix::{Bf16Le, F16Le, F32Le, F64Le, Matrix, Source};
use super::method::Rule;
use super::rows;
use super::rtn_ref::first_error;
use super::spec::BlockSpec;

/// Where a quantized matrix goes. The layouts are those in the module's documentation.
#[derive(Debug)]
pub struct Out<'a> {
    /// Codes, [`BlockSpec::codes_len`] bytes.
    pub codes: &'a mut [u8],
    /// Scales, [`BlockSpec::scales_len`] bytes.
    pub scales: &'a mut [u8],
    /// Zero points, [`BlockSpec::zero_points_len`] bytes: empty when symmetric.
    pub zero_points: &'a mut [u8],
}

impl Out<'_> {
    pub(super) fn check(&self, spec: &BlockSpec, n: usize, k: usize) {
        let (codes, scales) = (spec.codes_len(n, k), spec.scales_len(n, k));
        assert_eq!(self.codes.len(), codes, "codes of [{n}, {k}]");
        assert_eq!(self.scales.len(), scales, "scales of [{n}, {k}]");
        let zero_points = spec.zero_points_len(n, k);
        assert_eq!(
            self.zero_points.len(),
            zero_points,
            "zero points of [{n}, {k}]"
        );
    }
}

/// Why a matrix was not quantized. Rows count along N and columns along K, whichever way
/// the weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeError {
    /// The element at `[row, col]` is NaN or infinite.
    NonFinite {
        /// Position in N.
        row: usize,
        /// Position in K.
        col: usize,
    },
    /// The block is finite but its scale is not, in the scale type.
    ScaleOverflow {
        /// Position in N.
        row: usize,
        /// Block of that row.
        block: usize,
    },
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantizeError::NonFinite { row, col } => {
                write!(f, "element [{row}, {col}] is NaN or infinite")
            }
            QuantizeError::ScaleOverflow { row, block } => {
                write!(
                    f,
                    "block {block} of row {row} has a scale that overflows its type"
                )
            }
        }
    }
}

impl std::error::Error for QuantizeError {}

/// Quantizes the rows of an `[n, k]` matrix, to nearest: a weight that is stored `[N, K]`, such
/// as that of an embedding, or of a `Gemm` with `transB`.
///
/// Bit-equal to [`quantize_rows_ref`](super::quantize_rows_ref), where the rule is.
///
/// # Errors
///
/// [`QuantizeError`], with the first place in order of N, then K. What `out` then holds is
/// unspecified.
///
/// # Panics
///
/// If a buffer of `out` has not the length that `spec` gives for `[n, k]`.
pub fn quantize_rows(spec: &BlockSpec, x: Matrix<'_>, out: Out<'_>) -> Result<(), QuantizeError> {
    quantize_rows_by(spec, &Rule::default(), x, out)
}

/// As [`quantize_rows`], by any method.
///
/// Bit-equal to [`quantize_rows_by_ref`](super::quantize_rows_by_ref).
///
/// # Errors
///
/// As [`quantize_rows`]: they do not depend on the method.
///
/// # Panics
///
/// As [`quantize_rows`], and if the importance is not of k columns.
pub fn quantize_rows_by(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    let (n, k) = (x.rows(), x.cols());
    out.check(spec, n, k);
    rule.check(k);
    let done = match x.source() {
        Source::F32(s) => rows::quantize(spec, *rule, s, n, k, x.stride(), out),
        Source::F32Le(s) => rows::quantize(spec, *rule, F32Le(s), n, k, x.stride(), out),
        Source::F16Le(s) => rows::quantize(spec, *rule, F16Le(s), n, k, x.stride(), out),
        Source::Bf16Le(s) => rows::quantize(spec, *rule, Bf16Le(s), n, k, x.stride(), out),
        Source::F64Le(s) => rows::quantize(spec, *rule, F64Le(s), n, k, x.stride(), out),
    };
    done.map_err(|Refused| {
        first_error(spec, n, k, |n, k| x.get(n, k)).expect("a refused block is an error")
    })
}

/// Quantizes the columns of a `[k, n]` matrix: a `MatMul` weight, stored `[K, N]`. The
/// output is that of [`quantize_rows`] on the transposed matrix.
///
/// Fastest on a few hundred columns or more; see [`Matrix::with_stride`] for a panel of a
/// wider matrix.
///
/// Bit-equal to [`quantize_columns_ref`](super::quantize_columns_ref), where the rule is.
///
/// # Errors
///
/// [`QuantizeError`], with the first place in order of N, then K. What `out` then holds is
/// unspecified.
///
/// # Panics
///
/// If a buffer of `out` has not the length that `spec` gives for `[n, k]`.
pub fn quantize_columns(
    spec: &BlockSpec,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    quantize_columns_by(spec, &Rule::default(), x, out)
}

/// As [`quantize_columns`], by any method.
///
/// Bit-equal to [`quantize_columns_by_ref`](super::quantize_columns_by_ref).
///
/// # Errors
///
/// As [`quantize_columns`]: they do not depend on the method.
///
/// # Panics
///
/// As [`quantize_columns`], and if the importance is not of k columns.
pub fn quantize_columns_by(
    spec: &BlockSpec,
    rule: &Rule<'_>,
    x: Matrix<'_>,
    out: Out<'_>,
) -> Result<(), QuantizeError> {
    let (k, n) = (x.rows(), x.cols());
    out.check(spec, n, k);
    rule.check(k);
    let done = match x.source() {
        Source::F32(s) => columns::quantize(spec, *rule, s, n, k, x.stride(), out),
        Source::F32Le(s) => columns::quantize(spec, *rule, F32Le(s), n, k, x.stride(), out),
        Source::F16Le(s) => columns::quantize(spec, *rule, F16Le(s), n, k, x.stride(), out),
        Source::Bf16Le(s) => columns::quantize(spec, *rule, Bf16Le(s), n, k, x.stride(), out),
        Source::F64Le(s) => columns::quantize(spec, *rule, F64Le(s), n, k, x.stride(), out),
    };
    done.map_err(|Refused| {
        first_error(spec, n, k, |n, k| x.get(k, n)).expect("a refused block is an error")
    })
}

/// Some block cannot be quantized; the definition finds out which is the first.
pub(super) struct Refused;
