//! New elements of weights: as files, and as operands of the nodes that read them.

use std::{fs, path::Path, sync::Arc};

use super::{group::GroupWeight, site::Site, store::cannot};
use crate::{
    error::{Error, Result},
    ir::{Data, SourceFile, Tensor},
    output_file::Output,
    weights::{MatrixView, float_tensor, transposed},
};

/// Elements that are converted at once.
const PIECE: usize = 1 << 16;

/// Writes `elements`, `[n, k]`, to `path` in the type that readers of `weight` take.
///
/// # Errors
/// There are not n k of them, or the file cannot be written.
pub(super) fn write(path: &Path, weight: &GroupWeight, elements: &[f32]) -> Result<()> {
    let MatrixView { weight, n, k, .. } = &weight.matrix;
    if n.checked_mul(*k) != Some(elements.len() as u64) {
        return Err(Error::input(format!(
            "{} new elements, expected {n} x {k}",
            elements.len()
        )));
    }
    let dtype = weight.dtype;
    let element = dtype.bits() / 8;
    let output = Output::create(path, elements.len() as u64 * element)?;
    for (i, piece) in elements.chunks(PIECE).enumerate() {
        let wide: Vec<f64> = piece.iter().map(|&x| f64::from(x)).collect();
        let tensor = float_tensor(dtype, vec![piece.len() as i64], &wide);
        if let Some(data) = tensor.data() {
            output.write_at((i * PIECE) as u64 * element, &data.read_all()?)?;
        }
    }
    output.publish().map(drop)
}

/// The operand of `site` with the elements in the file at `path`.
///
/// # Errors
/// The file is not there, or has another length.
pub(super) fn operand(path: &Path, site: &Site) -> Result<Tensor> {
    let MatrixView { weight, n, k, .. } = &site.matrix;
    let file = SourceFile::open(path)?;
    if file.len() != n * k * weight.dtype.bits() / 8 {
        return Err(Error::input(format!("`{}` is damaged", path.display())));
    }
    let data = Data::File {
        len: file.len(),
        file: Arc::new(file),
        offset: 0,
    };
    let rows = Tensor::new(weight.dtype, vec![*n as i64, *k as i64], data);
    let turned = match site.results_last {
        false => rows,
        true => turned(rows)?,
    };
    let dims = weight.dims.iter().map(|&d| d as i64).collect();
    let data = turned.data().expect("they are numbers").clone();
    Ok(Tensor::new(weight.dtype, dims, data))
}

/// `[n, k]` as `[k, n]`.
fn turned(rows: Tensor) -> Result<Tensor> {
    transposed(&rows, &[1, 0]).ok_or_else(|| {
        Error::unsupported(format!(
            "a matrix of {} results and {} terms is too large to be transposed",
            rows.dims[0], rows.dims[1]
        ))
    })
}

/// Removes the file at `path`, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path, e)),
        _ => Ok(()),
    }
}
