//! Results that are too large for memory together, in a file without a name.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    ir::{Data, SourceFile},
};

/// What messages call it.
const NAME: &str = "a temporary file of codes";

/// The file, while it grows.
pub(super) struct Spill {
    file: File,
    len: u64,
}

/// A range of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    offset: u64,
    pub(super) len: u64,
}

impl Place {
    /// It, in the finished file.
    pub(super) fn of(self, file: &Arc<SourceFile>) -> Data {
        Data::File {
            file: file.clone(),
            offset: self.offset,
            len: self.len,
        }
    }
}

impl Spill {
    pub(super) fn new() -> Result<Spill> {
        let file = tempfile::tempfile().map_err(failed)?;
        Ok(Spill { file, len: 0 })
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Place> {
        self.file.write_all(bytes).map_err(failed)?;
        let place = Place {
            offset: self.len,
            len: bytes.len() as u64,
        };
        self.len += place.len;
        Ok(place)
    }

    /// The bytes at `place`.
    pub(super) fn read(&self, place: Place) -> Result<Vec<u8>> {
        let file = self.file.try_clone().map_err(failed)?;
        let source = SourceFile::of(file, Path::new(NAME))?;
        let mut bytes = vec![0; place.len as usize];
        source.read_exact_at(place.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole file, to be read.
    pub(super) fn finish(mut self) -> Result<Arc<SourceFile>> {
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(Arc::new(SourceFile::of(self.file, Path::new(NAME))?))
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io(NAME.to_owned(), error)
}
