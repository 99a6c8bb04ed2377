//! A weight as the matrix that gets quantized.

use super::{
    Weight,
    constant::{float_data, round_to},
};
use crate::{error::Result, ir::DataType};

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

    /// All elements as `[n, k]`, row-major, as the model computes with them: cast and rounded.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn elements(&self) -> Result<Vec<f32>> {
        let mut stored = float_data(&self.weight.data, self.weight.stored)?;
        if let Some(to) = self.weight.rounding {
            round_to(to, &mut stored);
        }
        Ok(match self.layout {
            Layout::Rows => stored,
            Layout::Columns => turned(&stored, self.n as usize),
        })
    }

    /// `elements`, `[n, k]`, in the order of memory.
    pub fn stored(&self, elements: Vec<f32>) -> Vec<f32> {
        match self.layout {
            Layout::Rows => elements,
            Layout::Columns => turned(&elements, self.k as usize),
        }
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

/// Rows and columns of a tile that [`turned`] goes through at once: what both sides touch of
/// it stays in the nearest cache.
const TILE: usize = 32;

/// `[k, n]` as `[n, k]`.
fn turned(elements: &[f32], n: usize) -> Vec<f32> {
    let k = elements.len() / n.max(1);
    let mut out = vec![0.0; elements.len()];
    for row in (0..n).step_by(TILE) {
        for col in (0..k).step_by(TILE) {
            for r in row..n.min(row + TILE) {
                for c in col..k.min(col + TILE) {
                    out[r * k + c] = elements[c * n + r];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Data, EntityId, ValueId};

    fn view(dims: &[u64], strides: &[u64], n_axis: usize) -> Option<(u64, u64, Layout)> {
        let weight = Weight {
            root: ValueId::from_index(0),
            data: Data::Bytes(Vec::new().into()),
            stored: DataType::Float,
            dtype: DataType::Float,
            rounding: None,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
        };
        MatrixView::new(weight, n_axis).map(|m| (m.n, m.k, m.layout))
    }

    #[test]
    fn layouts() {
        use Layout::{Columns, Rows};
        // As stored, and transposed.
        assert_eq!(view(&[3, 5], &[5, 1], 0), Some((3, 5, Rows)));
        assert_eq!(view(&[3, 5], &[5, 1], 1), Some((5, 3, Columns)));
        assert_eq!(view(&[3, 5], &[1, 3], 0), Some((3, 5, Columns)));
        assert_eq!(view(&[3, 5], &[1, 3], 1), Some((5, 3, Rows)));
        // With one row or one term both hold; contiguous blocks are read faster.
        assert_eq!(view(&[1, 5], &[0, 1], 0), Some((1, 5, Rows)));
        assert_eq!(view(&[1, 5], &[0, 1], 1), Some((5, 1, Rows)));
        assert_eq!(view(&[1, 1], &[0, 0], 1), Some((1, 1, Rows)));
        assert_eq!(view(&[1, 1, 3, 5], &[0, 0, 5, 1], 0), Some((3, 5, Rows)));
    }

    #[test]
    fn elements_are_read_as_rows() {
        let stored: Vec<f32> = (0..70 * 33).map(|i| i as f32).collect();
        let bytes: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
        let of = |n_axis| {
            let weight = Weight {
                root: ValueId::from_index(0),
                data: Data::Bytes(bytes.clone().into()),
                stored: DataType::Float,
                dtype: DataType::Float,
                rounding: None,
                dims: vec![70, 33],
                strides: vec![33, 1],
            };
            let matrix = MatrixView::new(weight, n_axis).unwrap();
            matrix.elements().unwrap()
        };
        assert_eq!(of(0), stored);
        let turned = of(1);
        assert!((0..33).all(|n| (0..70).all(|k| turned[n * 70 + k] == stored[k * 33 + n])));
    }

    #[test]
    fn what_is_no_matrix() {
        assert_eq!(view(&[], &[], 0), None);
        assert_eq!(view(&[5], &[1], 0), None);
        assert_eq!(view(&[2, 3, 5], &[15, 5, 1], 0), None);
        // Part of a larger tensor.
        assert_eq!(view(&[3, 5], &[10, 1], 0), None);
        assert_eq!(view(&[3, 5], &[5, 2], 0), None);
    }
}
