//! SHA-256 of files.

use std::{ops::Range, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    ir::{Data, Produce, SourceFile},
};

/// The SHA-256 of a file, in lower-case hexadecimal; read by position, so that nothing
/// stays resident.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(file: &SourceFile) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    for from in (0..file.len()).step_by(buffer.len()) {
        let len = (file.len() - from).min(buffer.len() as u64) as usize;
        file.read_exact_at(from, &mut buffer[..len])?;
        hash.update(&buffer[..len]);
    }
    Ok(hex(hash))
}

/// The SHA-256 of `bytes`, in lower-case hexadecimal.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// What `hash` comes to, in lower-case hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    let digits = |byte: &u8| format!("{byte:02x}");
    hash.finalize().iter().map(digits).collect()
}

/// The 64 characters of [`sha256`], computed when they are written: a hash of gigabytes
/// then runs beside the other work.
pub fn sha256_data(file: Arc<SourceFile>) -> Data {
    Data::Computed {
        recipe: Arc::new(Hash(file)),
        output: 0,
    }
}

#[derive(Debug)]
struct Hash(Arc<SourceFile>);

impl Produce for Hash {
    fn len(&self, _: usize) -> u64 {
        64
    }

    fn tiles(&self) -> u64 {
        1
    }

    fn range(&self, _: u64, _: usize) -> Range<u64> {
        0..64
    }

    fn produce(&self, _: u64, out: &mut [&mut [u8]]) -> Result<()> {
        out[0].copy_from_slice(sha256(&self.0)?.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_standard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let file = Arc::new(SourceFile::open(&path).unwrap());
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&file).unwrap(), expected);
        assert_eq!(sha256_data(file).read_all().unwrap(), expected);
    }
}
