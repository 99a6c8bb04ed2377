//! Named tensors in files: `.npz` (NumPy) and `.safetensors`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Cursor, Read},
    path::Path,
};

use npyz::{
    DType, NpyHeader, Order, WriterBuilder, npz,
    zip::{CompressionMethod, DateTime, write::FileOptions},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{Array, Elements};
use crate::{
    error::{Error, Result},
    ir::DataType,
    output_file::write_whole,
};

/// The formats, by extension.
enum Format {
    Npz,
    Safetensors,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("npz") => Ok(Format::Npz),
            Some("safetensors") => Ok(Format::Safetensors),
            _ => Err(Error::input(format!(
                "`{}`: expected a file of tensors, .npz or .safetensors",
                path.display()
            ))),
        }
    }
}

/// The tensors of the file at `path`, in its order.
///
/// # Errors
/// It cannot be read, is damaged, or holds something that is no [`Array`]: where, and what.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Array)>> {
    let at = |e: Error| e.at(format!("`{}`", path.display()));
    let format = Format::of(path)?;
    let file =
        File::open(path).map_err(|e| Error::io(format!("cannot read `{}`", path.display()), e))?;
    match format {
        Format::Npz => read_npz(file),
        Format::Safetensors => read_safetensors(file),
    }
    .map_err(at)
}

/// Writes `tensors` to `path`: whole, or not at all.
///
/// # Errors
/// The format lacks an element type (`.npz` has no bfloat16), a name is there twice, or the
/// file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Array)]) -> Result<()> {
    let mut names = BTreeSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name)) {
        return Err(Error::input(format!("two tensors are named `{name}`")));
    }
    let bytes = match Format::of(path)? {
        Format::Npz => npz_bytes(tensors),
        Format::Safetensors => safetensors_bytes(tensors),
    };
    write_whole(
        path,
        &bytes.map_err(|e| e.at(format!("`{}`", path.display())))?,
    )
}

fn damaged(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::input("it is damaged").with_source(source)
}

fn read_npz(file: File) -> Result<Vec<(String, Array)>> {
    let mut archive = npz::NpzArchive::new(BufReader::new(file))
        .map_err(|e| Error::input("it is no archive of NumPy").with_source(e))?;
    let zip = archive.zip_archive();
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(damaged)?;
        let file_name = entry.name().to_owned();
        // What is no array is no business of ours; NumPy passes over it, too.
        let Some(name) = npz::array_name_from_file_name(&file_name) else {
            continue;
        };
        let array = read_npy(&mut entry).map_err(|e| e.at(format!("array `{name}`")))?;
        if !names.insert(name.to_owned()) {
            return Err(Error::input(format!("two arrays are named `{name}`")));
        }
        tensors.push((name.to_owned(), array));
    }
    Ok(tensors)
}

fn read_npy(reader: &mut impl Read) -> Result<Array> {
    let header = NpyHeader::from_reader(&mut *reader).map_err(damaged)?;
    let descriptor = match header.dtype() {
        DType::Plain(plain) => plain.to_string(),
        _ => {
            return Err(Error::unsupported(
                "it holds records, expected numbers or truth values",
            ));
        }
    };
    let (order, kind) = descriptor.split_at(1);
    let dtype = numpy_type(kind).ok_or_else(|| {
        Error::unsupported(format!(
            "it has NumPy's type {descriptor}, expected numbers of 1 to 8 bytes or truth values"
        ))
    })?;
    let extents = header.shape().iter().map(|&d| usize::try_from(d).ok());
    let dims: Option<Vec<usize>> = extents.collect();
    let width = (dtype.bits() / 8) as usize;
    let len = dims
        .as_ref()
        .and_then(|dims| dims.iter().try_fold(width, |n, &d| n.checked_mul(d)));
    let (Some(dims), Some(len)) = (dims, len) else {
        let shape = header.shape();
        return Err(Error::input(format!("its extents {shape:?} are too large")));
    };
    // One more than it should have, to see that there is more; and no more memory than the
    // file really fills, whatever the header says.
    let mut bytes = Vec::new();
    let limit = len as u64 + 1;
    reader
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    if bytes.len() != len {
        let found = if bytes.len() > len { "more" } else { "fewer" };
        return Err(Error::input(format!(
            "{found} bytes than its extents {dims:?} say, expected {len}"
        )));
    }
    if order == ">" {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    if header.order() == Order::Fortran {
        bytes = to_row_major(&bytes, width, &dims);
    }
    Array::from_le_bytes(dtype, dims, &bytes)
}

fn numpy_type(kind: &str) -> Option<DataType> {
    Some(match kind {
        "f4" => DataType::Float,
        "f8" => DataType::Double,
        "f2" => DataType::Float16,
        "i8" => DataType::Int64,
        "i4" => DataType::Int32,
        "i2" => DataType::Int16,
        "i1" => DataType::Int8,
        "u8" => DataType::Uint64,
        "u4" => DataType::Uint32,
        "u2" => DataType::Uint16,
        "u1" => DataType::Uint8,
        "b1" => DataType::Bool,
        _ => return None,
    })
}

/// Elements of `width` bytes, first axis fastest, with the last axis fastest.
fn to_row_major(bytes: &[u8], width: usize, dims: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; dims.len()];
    while out.len() < bytes.len() {
        let place = index.iter().zip(dims).rev();
        let from = place.fold(0, |at, (i, extent)| at * extent + i) * width;
        out.extend_from_slice(&bytes[from..from + width]);
        for (i, extent) in index.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < *extent {
                break;
            }
            *i = 0;
        }
    }
    out
}

fn npz_bytes(tensors: &[(String, Array)]) -> Result<Vec<u8>> {
    fn add<T: npyz::AutoSerialize + Copy>(
        writer: &mut npz::NpzWriter<Cursor<Vec<u8>>>,
        name: &str,
        dims: &[usize],
        elements: &[T],
    ) -> std::io::Result<()> {
        // The date is always the same, so that equal tensors give equal files.
        let options = FileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(size_of_val(elements) > (1 << 31));
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let mut array = writer
            .array::<T>(name, options)?
            .default_dtype()
            .shape(&dims)
            .begin_nd()?;
        array.extend(elements.iter().copied())?;
        array.finish()
    }
    let mut writer = npz::NpzWriter::new(Cursor::new(Vec::new()));
    for (name, array) in tensors {
        let w = &mut writer;
        let dims = array.dims();
        let added = match array.elements() {
            Elements::Float(v) => add(w, name, dims, v),
            Elements::Double(v) => add(w, name, dims, v),
            Elements::Float16(v) => add(w, name, dims, v),
            Elements::Int64(v) => add(w, name, dims, v),
            Elements::Int32(v) => add(w, name, dims, v),
            Elements::Int16(v) => add(w, name, dims, v),
            Elements::Int8(v) => add(w, name, dims, v),
            Elements::Uint64(v) => add(w, name, dims, v),
            Elements::Uint32(v) => add(w, name, dims, v),
            Elements::Uint16(v) => add(w, name, dims, v),
            Elements::Uint8(v) => add(w, name, dims, v),
            Elements::Bool(v) => add(w, name, dims, v),
            Elements::Bfloat16(_) => {
                return Err(Error::unsupported(format!(
                    "`{name}` is of type bfloat16, which NumPy does not have; expected a \
                     .safetensors file"
                )));
            }
        };
        added.map_err(|e| Error::io(format!("`{name}`"), e))?;
    }
    let done = writer.zip_writer().finish();
    let done = done.map_err(|e| Error::input("cannot finish the archive").with_source(e))?;
    Ok(done.into_inner())
}

fn read_safetensors(mut file: File) -> Result<Vec<(String, Array)>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::input("it is no safetensors file").with_source(e))?;
    let read = tensors.tensors().into_iter().map(|(name, view)| {
        let dtype = safetensors_types()
            .find(|(_, t)| *t == view.dtype())
            .map(|(dtype, _)| dtype);
        let array = match dtype {
            Some(dtype) => Array::from_le_bytes(dtype, view.shape().to_vec(), view.data()),
            None => Err(Error::unsupported(format!(
                "it has type {:?}, expected numbers of 1 to 8 bytes or truth values",
                view.dtype()
            ))),
        };
        let array = array.map_err(|e| e.at(format!("tensor `{name}`")))?;
        Ok((name, array))
    });
    read.collect()
}

fn safetensors_bytes(tensors: &[(String, Array)]) -> Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, a)| a.to_le_bytes()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, array), bytes)| {
        let dtype = safetensors_types().find(|(t, _)| *t == array.dtype());
        let (_, dtype) = dtype.expect("the format has every type of array");
        let view = TensorView::new(dtype, array.dims().to_vec(), bytes)
            .map_err(|e| Error::input(format!("`{name}`")).with_source(e))?;
        Ok((name, view))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    safetensors::serialize(views, None)
        .map_err(|e| Error::unsupported("cannot be encoded").with_source(e))
}

fn safetensors_types() -> impl Iterator<Item = (DataType, Dtype)> {
    [
        (DataType::Float, Dtype::F32),
        (DataType::Double, Dtype::F64),
        (DataType::Float16, Dtype::F16),
        (DataType::Bfloat16, Dtype::BF16),
        (DataType::Int64, Dtype::I64),
        (DataType::Int32, Dtype::I32),
        (DataType::Int16, Dtype::I16),
        (DataType::Int8, Dtype::I8),
        (DataType::Uint64, Dtype::U64),
        (DataType::Uint32, Dtype::U32),
        (DataType::Uint16, Dtype::U16),
        (DataType::Uint8, Dtype::U8),
        (DataType::Bool, Dtype::BOOL),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One array of every type, a scalar and an empty one among them.
    fn samples() -> Vec<(String, Array)> {
        let types = safetensors_types().map(|(t, _)| t);
        let mut all: Vec<(String, Array)> = types
            .map(|t| {
                let array = Array::of_integers(DataType::Int64, vec![2, 3], |i| i as i64 % 2);
                let bytes = array.unwrap().to_le_bytes();
                let len = 6 * t.bits() as usize / 8;
                let array = Array::from_le_bytes(t, vec![2, 3], &bytes[..len]).unwrap();
                (format!("a.{t}"), array)
            })
            .collect();
        all.push(("scalar".into(), Array::new(vec![], vec![7i64])));
        all.push((
            "empty/past".into(),
            Array::new::<f32>(vec![1, 0, 4], vec![]),
        ));
        all
    }

    #[test]
    fn tensors_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for (name, lacks) in [("x.npz", "bfloat16"), ("x.SafeTensors", "none")] {
            let path = folder.path().join(name);
            let mut tensors = samples();
            tensors.retain(|(n, _)| !n.contains(lacks));
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            write_tensors(&path, &tensors).unwrap();
            let first = std::fs::read(&path).unwrap();
            let mut back = read_tensors(&path).unwrap();
            back.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(back, tensors);
            write_tensors(&path, &tensors).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), first);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let error = write_tensors(&path, &samples()).unwrap_err().chain();
        assert!(error.contains("a.bfloat16"), "{error}");
        let one = ("x".to_owned(), Array::new(vec![], vec![true]));
        let error = write_tensors(&path, &[one.clone(), one]).unwrap_err();
        assert!(error.chain().contains("two tensors"), "{error}");
        assert!(write_tensors(&folder.path().join("x.bin"), &[]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn column_major_becomes_row_major() {
        let columns: Vec<u8> = vec![0, 3, 1, 4, 2, 5];
        assert_eq!(to_row_major(&columns, 1, &[2, 3]), [0, 1, 2, 3, 4, 5]);
        assert!(to_row_major(&[], 2, &[2, 0, 3]).is_empty());
        assert_eq!(to_row_major(&[7, 8], 2, &[]), [7, 8]);
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.npz", "x.safetensors"] {
            let path = folder.path().join(name);
            assert!(read_tensors(&path).is_err(), "{name} is missing");
            let one = [("x".to_owned(), Array::new(vec![64], vec![1.5f32; 64]))];
            write_tensors(&path, &one).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for len in [0, 1, 7, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&path, &whole[..len]).unwrap();
                let error = read_tensors(&path).unwrap_err().chain();
                assert!(error.contains(name), "{error}");
            }
        }
    }
}
