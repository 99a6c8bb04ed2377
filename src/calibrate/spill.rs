//! Results that are too large for memory together, in a file without a name.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use crate::{
    error::{Error, Result},
    ir::{Data, SourceFile},
    quant::Buffers,
    weights::Blocks,
};

/// What messages call it.
const NAME: &str = "a temporary file of codes";

/// The file, while it grows.
pub(super) struct Spill {
    file: File,
    len: u64,
}

/// A range of it.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    len: u64,
}

impl Place {
    /// It, in the finished file.
    fn of(self, file: &Arc<SourceFile>) -> Data {
        Data::File {
            file: file.clone(),
            offset: self.offset,
            len: self.len,
        }
    }
}

/// Codes, scales and zero points in the file.
#[derive(Clone, Copy)]
pub(super) struct Spilled([Place; 3]);

impl Spilled {
    /// They, in the finished file.
    pub(super) fn of(self, file: &Arc<SourceFile>) -> Blocks {
        let [codes, scales, zero_points] = self.0;
        Blocks {
            codes: codes.of(file),
            scales: scales.of(file),
            zero_points: (zero_points.len > 0).then(|| zero_points.of(file)),
        }
    }
}

impl Spill {
    pub(super) fn new() -> Result<Spill> {
        let file = tempfile::tempfile().map_err(failed)?;
        Ok(Spill { file, len: 0 })
    }

    /// Appends codes, scales and zero points.
    pub(super) fn keep(&mut self, buffers: &Buffers) -> Result<Spilled> {
        Ok(Spilled([
            self.push(&buffers.codes)?,
            self.push(&buffers.scales)?,
            self.push(&buffers.zero_points)?,
        ]))
    }

    /// Adds to `out` what [`Spill::restore`] reads.
    pub(super) fn save(&self, spilled: Spilled, out: &mut Vec<u8>) -> Result<()> {
        for place in spilled.0 {
            out.extend(place.len.to_le_bytes());
            out.extend(self.read(place)?);
        }
        Ok(())
    }

    /// Cuts what [`Spill::save`] has written off `saved`; `None` when it is something else.
    pub(super) fn restore(&mut self, saved: &mut &[u8]) -> Option<Spilled> {
        let mut place = || {
            let len = usize::try_from(take_u64(saved)?).ok()?;
            self.push(take(saved, len)?).ok()
        };
        Some(Spilled([place()?, place()?, place()?]))
    }

    /// Appends `bytes`.
    fn push(&mut self, bytes: &[u8]) -> Result<Place> {
        self.file.write_all(bytes).map_err(failed)?;
        let place = Place {
            offset: self.len,
            len: bytes.len() as u64,
        };
        self.len += place.len;
        Ok(place)
    }

    /// The bytes at `place`.
    fn read(&self, place: Place) -> Result<Vec<u8>> {
        let file = self.file.try_clone().map_err(failed)?;
        let source = SourceFile::of(file, Path::new(NAME))?;
        let mut bytes = vec![0; place.len as usize];
        source.read_exact_at(place.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole file, to be read.
    pub(super) fn finish(self) -> Result<Arc<SourceFile>> {
        Ok(Arc::new(SourceFile::of(self.file, Path::new(NAME))?))
    }
}

/// Cuts `len` bytes off `rest`.
pub(super) fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

/// Cuts a number off `rest`.
pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

/// Cuts a number off `rest`.
pub(super) fn take_f64(rest: &mut &[u8]) -> Option<f64> {
    take_u64(rest).map(f64::from_bits)
}

fn failed(error: std::io::Error) -> Error {
    Error::io(NAME.to_owned(), error)
}
