//! Where the elements of a constant are: [`Data`].
//!
//! A pass that transforms a weight does not compute anything. It makes a recipe
//! ([`Produce`]), and the bytes come into being when the export writes them, tile by
//! tile and on all threads. So a pass takes milliseconds on any model, and memory does
//! not depend on the size of a weight.

mod held;

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

pub(crate) use held::holding;

use crate::error::{Error, Result};

/// A file that constants are read from, by position and from any thread.
pub struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl SourceFile {
    /// Opens `path` for reading.
    pub fn open(path: &Path) -> Result<SourceFile> {
        let name = || format!("`{}`", path.display());
        // Before opening: opening a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(|e| Error::io(name(), e))?;
        if !meta.is_file() {
            return Err(Error::input(format!("{} is not a regular file", name())));
        }
        let file = File::open(path).map_err(|e| Error::io(name(), e))?;
        let meta = file.metadata().map_err(|e| Error::io(name(), e))?;
        Ok(SourceFile {
            path: path.to_path_buf(),
            file,
            len: meta.len(),
        })
    }

    /// `file`, which is open for reading and is called `path` in messages.
    ///
    /// # Errors
    /// Its length cannot be had.
    pub fn of(file: File, path: &Path) -> Result<SourceFile> {
        let meta = file.metadata();
        let meta = meta.map_err(|e| Error::io(format!("`{}`", path.display()), e))?;
        Ok(SourceFile {
            path: path.to_path_buf(),
            file,
            len: meta.len(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The file was truncated since it was opened, or the system refused.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, offset, out).map_err(|e| {
            let range = format!("bytes {offset}..{}", offset + out.len() as u64);
            Error::io(format!("`{}`: {range}", self.path.display()), e)
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({:?}, {} bytes)", self.path, self.len)
    }
}

/// A recipe: how to compute the bytes of one or more constants from others.
///
/// The work is cut into tiles that can be produced in any order and at the same time.
/// A tile fills one contiguous range of each output, and the ranges of tile 0, 1, ...
/// follow each other without a gap. What a tile holds never depends on the other tiles
/// or on the number of threads.
pub trait Produce: Send + Sync + fmt::Debug {
    /// How many constants it makes (for a quantized weight: codes, scales, zero points).
    fn outputs(&self) -> usize {
        1
    }

    /// Length in bytes of an output. Known before anything is computed.
    fn len(&self, output: usize) -> u64;

    /// How many tiles there are.
    fn tiles(&self) -> u64;

    /// The bytes of `output` that tile `tile` fills.
    fn range(&self, tile: u64, output: usize) -> Range<u64>;

    /// Computes tile `tile`: `out[i]` is `range(tile, i)` of output `i`.
    ///
    /// # Errors
    /// The source cannot be read, or holds what cannot be transformed.
    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()>;

    /// The data that it reads from its beginning to its end while the tiles go from the first to the last,
    /// if there is such: what reads the same is then computed at about the same time.
    fn source(&self) -> Option<&Data> {
        None
    }

    /// How many recipes are computed to make a piece: this one, and those that it reads from,
    /// each as often as it is read. They are computed one inside the other.
    fn steps(&self) -> u64 {
        1 + self.source().map_or(0, Data::steps)
    }

    /// Fills `out` with the bytes of `output` from `offset` on. Computes the tiles that hold
    /// them, unless a recipe knows better.
    ///
    /// # Errors
    /// As [`Produce::produce`].
    fn read_at(&self, output: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        read_tiles(self, output, offset, out)
    }
}

/// The bytes of a constant: little-endian, row-major, as in `raw_data`.
#[derive(Clone, Debug)]
pub enum Data {
    /// In memory, or a slice of the mapped model.
    Bytes(Bytes),
    /// A range of a file.
    File {
        /// The file.
        file: Arc<SourceFile>,
        /// Where the range starts.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// One output of a recipe.
    Computed {
        /// The recipe.
        recipe: Arc<dyn Produce>,
        /// Which of its outputs.
        output: usize,
    },
}

impl Data {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(b) => b.len() as u64,
            Data::File { len, .. } => *len,
            Data::Computed { recipe, output } => recipe.len(*output),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many recipes are computed when a piece is read: see [`Produce::steps`].
    pub fn steps(&self) -> u64 {
        match self {
            Data::Bytes(_) | Data::File { .. } => 0,
            Data::Computed { recipe, .. } => recipe.steps(),
        }
    }

    /// What it is read from in the end: itself, or the one source of its recipe, and so on.
    pub(crate) fn root(&self) -> Option<&Data> {
        match self {
            Data::Bytes(_) | Data::File { .. } => Some(self),
            Data::Computed { recipe, .. } => recipe.source()?.root(),
        }
    }

    /// Where it lies: a number for the file (0: memory or a recipe), and the offset in it.
    pub(crate) fn place(&self) -> (usize, u64) {
        match self {
            Data::Bytes(b) => (0, b.as_ptr().addr() as u64),
            Data::File { file, offset, .. } => (Arc::as_ptr(file).addr(), *offset),
            Data::Computed { .. } => (0, 0),
        }
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// As [`SourceFile::read_exact_at`] and [`Produce::produce`].
    ///
    /// # Panics
    /// When the range is not inside the data.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        assert!(
            end <= self.len(),
            "range {offset}..{end} is inside the data"
        );
        match self {
            Data::Bytes(b) => out.copy_from_slice(&b[offset as usize..end as usize]),
            Data::File {
                file, offset: base, ..
            } => file.read_exact_at(base + offset, out)?,
            Data::Computed { recipe, output } => {
                recipe.read_at(*output, offset, out)?;
            }
        }
        Ok(())
    }

    /// Calls `then` with the `len` bytes from `offset` on: where they lie when that is in memory, else
    /// in a buffer of the thread's own.
    ///
    /// # Errors
    /// As [`Data::read_at`].
    ///
    /// # Panics
    /// When the range is not inside the data.
    pub fn with_range<R>(
        &self,
        offset: u64,
        len: usize,
        then: impl FnOnce(&[u8]) -> R,
    ) -> Result<R> {
        // `then` and a recipe may come back here: one for each level.
        thread_local!(static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) });
        let first = offset as usize;
        match self {
            Data::Bytes(bytes) => return Ok(then(&bytes[first..][..len])),
            Data::File { .. } => {
                if let Some(bytes) = held::held(self) {
                    return Ok(then(&bytes[first..][..len]));
                }
            }
            Data::Computed { .. } => {}
        }
        let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        // Nothing is cleared that is written anyway.
        buffer.resize(len.max(buffer.len()), 0);
        let read = self.read_at(offset, &mut buffer[..len]);
        let done = read.map(|()| then(&buffer[..len]));
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
        done
    }

    /// All bytes, in memory. For small constants; a weight is read in ranges.
    ///
    /// # Errors
    /// As [`Data::read_at`].
    pub fn read_all(&self) -> Result<Bytes> {
        match self {
            Data::Bytes(b) => Ok(b.clone()),
            _ => {
                let mut out = vec![0; self.len() as usize];
                self.read_at(0, &mut out)?;
                Ok(out.into())
            }
        }
    }

    /// Whether both are the same bytes by construction: the same memory, the same range
    /// of the same file, the same output of the same recipe. Equal bytes elsewhere do
    /// not count.
    pub fn is_same(&self, other: &Data) -> bool {
        self.identity() == other.identity()
    }

    /// A key that is equal for two `Data` exactly when [`Data::is_same`] holds.
    pub fn identity(&self) -> DataIdentity {
        match self {
            Data::Bytes(b) => DataIdentity(0, b.as_ptr() as usize, 0, b.len() as u64),
            Data::File { file, offset, len } => {
                DataIdentity(1, Arc::as_ptr(file) as usize, *offset, *len)
            }
            Data::Computed { recipe, output } => {
                DataIdentity(2, recipe_address(recipe), *output as u64, self.len())
            }
        }
    }
}

/// Identifies the origin of a [`Data`] while that `Data` is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataIdentity(u8, usize, u64, u64);

/// The address that tells one recipe from another.
pub(crate) fn recipe_address(recipe: &Arc<dyn Produce>) -> usize {
    Arc::as_ptr(recipe) as *const () as usize
}

fn read_tiles<P: Produce + ?Sized>(
    recipe: &P,
    output: usize,
    offset: u64,
    out: &mut [u8],
) -> Result<()> {
    let end = offset + out.len() as u64;
    // The first tile that reaches beyond `offset`.
    let (mut low, mut high) = (0, recipe.tiles());
    while low < high {
        let middle = low + (high - low) / 2;
        match recipe.range(middle, output).end <= offset {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    for tile in low..recipe.tiles() {
        let range = recipe.range(tile, output);
        if range.start >= end {
            break;
        }
        if recipe.outputs() == 1 && offset <= range.start && range.end <= end {
            let place = (range.start - offset) as usize..(range.end - offset) as usize;
            recipe.produce(tile, &mut [&mut out[place]])?;
            continue;
        }
        let mut buffers: Vec<Vec<u8>> = (0..recipe.outputs())
            .map(|o| {
                let r = recipe.range(tile, o);
                vec![0; (r.end - r.start) as usize]
            })
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        recipe.produce(tile, &mut slices)?;
        let (from, to) = (range.start.max(offset), range.end.min(end));
        out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(
            &buffers[output][(from - range.start) as usize..(to - range.start) as usize],
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up, seven bytes a tile.
    #[derive(Debug)]
    struct Count(u64);

    impl Produce for Count {
        fn len(&self, _: usize) -> u64 {
            self.0
        }
        fn tiles(&self) -> u64 {
            self.0.div_ceil(7)
        }
        fn range(&self, tile: u64, _: usize) -> Range<u64> {
            tile * 7..(tile * 7 + 7).min(self.0)
        }
        fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
            for (i, b) in out[0].iter_mut().enumerate() {
                *b = (tile * 7) as u8 + i as u8;
            }
            Ok(())
        }
    }

    #[test]
    fn any_range_of_a_recipe_can_be_read() {
        let data = Data::Computed {
            recipe: Arc::new(Count(40)),
            output: 0,
        };
        let all: Vec<u8> = (0..40).collect();
        assert_eq!(data.read_all().unwrap(), all);
        for start in 0..40 {
            for end in start..=40 {
                let mut out = vec![0xff; end - start];
                data.read_at(start as u64, &mut out).unwrap();
                assert_eq!(out, all[start..end], "{start}..{end}");
            }
        }
        assert!(data.is_same(&data.clone()));
    }
}
