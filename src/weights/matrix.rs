//! A weight as the matrix that gets quantized.

use super::Weight;
use crate::ir::DataType;

/// How an `[n, k]` matrix, quantized along k, lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// As `[n, k]`, row-major: blocks are contiguous. An embedding, or the weight of a
    /// `Gemm` with `transB`.
    Rows,
    /// As `[k, n]`, row-major: blocks run down the columns. The weight of a `MatMul`.
    Columns,
}

/// A rank-2 weight by the roles of its axes: n results, k terms each.
#[derive(Clone, Debug)]
pub struct MatrixView {
    /// The weight.
    pub weight: Weight,
    /// Results (rows of the quantized form).
    pub n: u64,
    /// Terms of each result.
    pub k: u64,
    /// How it is stored.
    pub layout: Layout,
}

impl MatrixView {
    /// Views `weight` as a matrix: axis `n_axis` of its last two is n, the other k; axes
    /// before the last two have extent 1.
    ///
    /// `None` when it has not this form.
    pub fn new(weight: Weight, n_axis: usize) -> Option<MatrixView> {
        let lead = weight.dims.len().checked_sub(2)?;
        if weight.dims[..lead].iter().any(|&d| d != 1) {
            return None;
        }
        let (dims, strides) = (&weight.dims[lead..], &weight.strides[lead..]);
        let (n, k) = (dims[n_axis], dims[1 - n_axis]);
        let (n_stride, k_stride) = (strides[n_axis], strides[1 - n_axis]);
        let rows = (k == 1 || k_stride == 1) && (n == 1 || n_stride == k);
        let columns = (n == 1 || n_stride == 1) && (k == 1 || k_stride == n);
        let layout = match (rows, columns) {
            (true, _) => Layout::Rows,
            (false, true) => Layout::Columns,
            (false, false) => return None,
        };
        Some(MatrixView {
            weight,
            n,
            k,
            layout,
        })
    }

    /// The type that activations and scales have in the quantized form: float16 stays;
    /// bfloat16 and double have no kernel on the CPU and become float.
    pub fn compute_type(&self) -> DataType {
        match self.weight.dtype {
            DataType::Float16 => DataType::Float16,
            _ => DataType::Float,
        }
    }
}
