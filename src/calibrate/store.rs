//! Values that are put aside in files: one file for each value, with its tensor of every item.
//!
//! A tensor is its element type (the number of the ONNX format) and its rank, 4 bytes each, its
//! extents, 8 bytes each, and its elements; all little-endian.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    engine::Array,
    error::{Error, Result},
    ir::DataType,
};

/// More axes than any tensor has; what says so is damaged.
const RANK: u32 = 64;

/// Writes one value, item by item. The file has its name once it is complete.
pub(super) struct Writer {
    target: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    /// Begins the file `target`.
    pub(super) fn create(target: PathBuf) -> Result<Writer> {
        let part = target.with_extension("part");
        let file = File::create(&part).map_err(|e| cannot("write", &part, e))?;
        Ok(Writer {
            out: BufWriter::with_capacity(1 << 20, file),
            target,
            part,
        })
    }

    /// Appends the tensor of the next item.
    pub(super) fn push(&mut self, array: &Array) -> Result<()> {
        let mut head = Vec::new();
        head.extend((array.dtype().code() as u32).to_le_bytes());
        head.extend((array.dims().len() as u32).to_le_bytes());
        for &extent in array.dims() {
            head.extend((extent as u64).to_le_bytes());
        }
        let written = self.out.write_all(&head);
        let written = written.and_then(|()| self.out.write_all(&array.to_le_bytes()));
        written.map_err(|e| cannot("write", &self.part, e))
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let flushed = self.out.flush();
        let named = flushed.and_then(|()| fs::rename(&self.part, &self.target));
        named.map_err(|e| cannot("write", &self.target, e))
    }
}

/// Reads one value, item by item.
pub(super) struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    /// Bytes that are left.
    left: u64,
    /// Type and extents of the tensor that comes next.
    next: Option<(DataType, Vec<usize>)>,
}

impl Reader {
    /// Opens the file `path`.
    pub(super) fn open(path: PathBuf) -> Result<Reader> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (left, file) = opened.map_err(|e| cannot("read", &path, e))?;
        let mut reader = Reader {
            input: BufReader::with_capacity(1 << 20, file),
            path,
            left,
            next: None,
        };
        reader.next = Some(reader.head()?);
        Ok(reader)
    }

    /// Type and extents of the first tensor, before any is read.
    pub(super) fn first(&self) -> Option<&(DataType, Vec<usize>)> {
        self.next.as_ref()
    }

    /// The tensor of the next item.
    pub(super) fn read(&mut self) -> Result<Array> {
        let (dtype, dims) = match self.next.take() {
            Some(head) => head,
            None => self.head()?,
        };
        let len = dims
            .iter()
            .try_fold(dtype.bits() as usize / 8, |n, &d| n.checked_mul(d));
        let len = len.filter(|&n| n as u64 <= self.left);
        let len = len.ok_or_else(|| self.damaged())?;
        Array::from_le_bytes(dtype, dims, &self.take(len)?).map_err(|_| self.damaged())
    }

    fn head(&mut self) -> Result<(DataType, Vec<usize>)> {
        let head = self.take(8)?;
        let word = |at: usize| {
            let bytes = head[at..at + 4].try_into();
            u32::from_le_bytes(bytes.expect("they are four"))
        };
        let dtype = i32::try_from(word(0)).ok().and_then(DataType::from_code);
        let rank = Some(word(4)).filter(|&r| r <= RANK);
        let (Some(dtype), Some(rank)) = (dtype, rank) else {
            return Err(self.damaged());
        };
        let extents = self.take(8 * rank as usize)?;
        let (extents, _) = extents.as_chunks();
        let dims = extents
            .iter()
            .map(|b| usize::try_from(u64::from_le_bytes(*b)))
            .collect::<Result<_, _>>();
        Ok((dtype, dims.map_err(|_| self.damaged())?))
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        self.left = self
            .left
            .checked_sub(len as u64)
            .ok_or_else(|| self.damaged())?;
        let mut bytes = vec![0; len];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|e| cannot("read", &self.path, e))?;
        Ok(bytes)
    }

    fn damaged(&self) -> Error {
        Error::input(format!("`{}` is damaged", self.path.display()))
    }
}

/// A system call on `path` that failed.
pub(super) fn cannot(what: &str, path: &Path, source: std::io::Error) -> Error {
    Error::io(format!("cannot {what} `{}`", path.display()), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_all_items_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.bin");
        let arrays = [
            Array::new(vec![2, 1], vec![1.5f32, -0.0]),
            Array::new(vec![], vec![7i64]),
            Array::new::<f32>(vec![1, 0, 4], vec![]),
            Array::new(vec![3], vec![true, false, true]),
        ];
        let mut writer = Writer::create(path.clone()).unwrap();
        arrays.iter().for_each(|a| writer.push(a).unwrap());
        assert!(!path.exists());
        writer.finish().unwrap();
        let mut reader = Reader::open(path.clone()).unwrap();
        assert_eq!(reader.first(), Some(&(DataType::Float, vec![2, 1])));
        for array in &arrays {
            assert_eq!(reader.read().unwrap(), *array);
        }
        assert!(reader.read().is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.bin");
        let mut writer = Writer::create(path.clone()).unwrap();
        writer.push(&Array::new(vec![2], vec![1i64, 2])).unwrap();
        writer.finish().unwrap();
        let whole = fs::read(&path).unwrap();
        let all = |path: &Path| Reader::open(path.to_path_buf()).and_then(|mut r| r.read());
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(all(&path).is_err(), "{len}");
        }
        for at in 0..16 {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            fs::write(&path, &bytes).unwrap();
            assert!(all(&path).is_err(), "{at}");
        }
    }
}
