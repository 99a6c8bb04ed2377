//! Writes a model: lays the whole output out, then produces and writes every constant on
//! all threads, each at its own place.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rayon::prelude::*;

use super::{
    chunks::{Chunks, LayoutFile, side_file_name},
    encode::{Encoder, Piece, Rope},
};
use crate::{
    error::{Error, ErrorKind, Result},
    ir::{
        Data, Model, Produce, SourceFile,
        data::{self, DataIdentity, recipe_address},
    },
    output_file::Output,
};

/// Protobuf refuses messages of 2 GiB and more; so does ONNX Runtime.
pub const MESSAGE_LIMIT: u64 = (1 << 31) - 1;

/// How much of an unchanged constant one work item copies.
const COPY: u64 = 8 << 20;

/// How large a constant may be to be held in memory while all that is computed from it is: what a thread
/// holds should stay in the cache that it shares with the others, and all together must not grow with them.
const HOLD: u64 = 8 << 20;
const HOLDING: u64 = 64 << 20;

/// Where constants go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// Into the model file, or into a side file when that would reach 2 GiB.
    #[default]
    Auto,
    /// Into a side file, except small ones.
    Always,
    /// Into the model file; an error when that would reach 2 GiB.
    Never,
}

/// How constants are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Where they go.
    pub external_data: ExternalData,
    /// No file has more bytes than this: what does not fit goes to side files, several if need be. The
    /// model file itself may only be larger where it is without a large constant.
    pub chunk: Option<u64>,
}

impl From<ExternalData> for Storage {
    fn from(external_data: ExternalData) -> Storage {
        Storage {
            external_data,
            chunk: None,
        }
    }
}

/// Told how far the export is. Called from several threads.
pub trait Progress: Sync {
    /// `bytes` more of the output are written.
    fn advance(&self, bytes: u64);
}

/// How to write a model.
#[derive(Clone, Copy, Default)]
pub struct SaveOptions<'a> {
    /// How constants are stored.
    pub storage: Storage,
    /// Flush to disk before the new files take the place of the old ones.
    pub sync: bool,
    /// Told how far it is.
    pub progress: Option<&'a dyn Progress>,
    /// Set to stop: nothing is then written.
    pub cancel: Option<&'a AtomicBool>,
}

/// What was written, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The files, the model first, with their lengths in bytes.
    pub files: Vec<(PathBuf, u64)>,
}

impl Saved {
    /// Length of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, len)| len).sum()
    }
}

/// Writes `model` to `path`, and to a side file beside it when it needs one.
///
/// The files appear when they are complete. A failure leaves `path` as it was.
///
/// # Errors
/// A constant cannot be read or computed, the disk is full, the folder is not writable,
/// the message would be too large, or the run was cancelled.
pub fn save(model: &Model, path: &Path, options: &SaveOptions<'_>) -> Result<Saved> {
    let mut saved = save_all(&[(model, path)], options)?;
    Ok(saved.remove(0))
}

/// Writes several models, each to its path as [`save`] does, in one go: what is computed from the
/// same weight is computed at about the same time, so that each weight is read from the disk once.
/// No file appears before all are complete.
///
/// # Errors
/// As [`save`].
pub fn save_all(models: &[(&Model, &Path)], options: &SaveOptions<'_>) -> Result<Vec<Saved>> {
    let layouts = models
        .iter()
        .map(|(model, path)| Layout::of(model, path, options.storage))
        .collect::<Result<Vec<_>>>()?;
    let files = || layouts.iter().flat_map(|layout| &layout.files);
    let mut outputs = files()
        .map(|f| Output::create(&f.path, f.len))
        .collect::<Result<Vec<_>>>()?;
    work(files())
        .into_par_iter()
        .with_max_len(1)
        .try_for_each_init(Vec::new, |scratch, work| {
            if options.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    "interrupted; nothing was written",
                ));
            }
            let written = work.run(&outputs, scratch)?;
            if let Some(progress) = options.progress {
                progress.advance(written);
            }
            Ok(())
        })?;
    if options.sync {
        outputs.iter().try_for_each(Output::sync)?;
    }
    outputs.iter_mut().try_for_each(Output::name)?;
    // Side files first: a model must not appear before what it refers to.
    for output in outputs.into_iter().rev() {
        output.publish()?;
    }
    Ok(layouts.iter().map(Layout::saved).collect())
}

/// The bytes of `model` as a single file.
///
/// # Errors
/// A constant cannot be read or computed, or the message would reach 2 GiB.
pub fn to_vec(model: &Model) -> Result<Vec<u8>> {
    let layout = Layout::of(model, Path::new("the model"), ExternalData::Never.into())?;
    layout.files[0].to_vec()
}

/// A model in memory, as [`save`] would write it with its constants in a side file.
#[cfg(feature = "eval")]
pub(crate) struct InMemory {
    /// The model file.
    pub(crate) model: Vec<u8>,
    /// The side file, if there are large constants, and how the model names it.
    pub(crate) side: Option<(String, Vec<u8>)>,
}

/// `model` in memory: its large constants apart, those with the same origin once, each
/// aligned for its type. The whole may have more than 2 GiB.
///
/// # Errors
/// A constant cannot be read or computed, or the message alone would reach 2 GiB.
#[cfg(feature = "eval")]
pub(crate) fn to_memory(model: &Model) -> Result<InMemory> {
    // Readers that look at the extension of a side file know this one.
    let path = Path::new("model.onnx");
    let layout = Layout::of(model, path, ExternalData::Always.into())?;
    let side = layout.files.get(1).map(LayoutFile::to_vec).transpose()?;
    Ok(InMemory {
        model: layout.files[0].to_vec()?,
        side: side.map(|bytes| (side_file_name(path, 0), bytes)),
    })
}

/// The sizes that [`save`] would write.
///
/// # Errors
/// As [`save`], as far as it can be told without computing.
pub fn estimate(model: &Model, path: &Path, storage: Storage) -> Result<Saved> {
    Ok(Layout::of(model, path, storage)?.saved())
}

/// A number that differs, but for chance, between models that would be written
/// differently. Constants count by origin, not by content: nothing is read.
///
/// # Errors
/// As [`estimate`].
pub fn fingerprint(model: &Model) -> Result<u64> {
    let encoder = Encoder {
        model,
        place: &|_| None,
        locations: &[],
    };
    let mut hasher = DefaultHasher::new();
    for piece in encoder.model()?.pieces {
        match piece {
            Piece::Bytes(bytes) => bytes.hash(&mut hasher),
            Piece::Data(data) => data.identity().hash(&mut hasher),
        }
    }
    Ok(hasher.finish())
}

/// SHA-256 of the file that `model` would be with all constants inside: of their content, which
/// is read a piece at a time.
///
/// # Errors
/// A constant cannot be read or computed.
#[cfg(feature = "eval")]
pub(crate) fn sha256(model: &Model) -> Result<String> {
    use sha2::{Digest, Sha256};
    let encoder = Encoder {
        model,
        place: &|_| None,
        locations: &[],
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for piece in encoder.model()?.pieces {
        match piece {
            Piece::Bytes(bytes) => hash.update(bytes),
            Piece::Data(Data::Bytes(bytes)) => hash.update(bytes),
            Piece::Data(data) => {
                for from in (0..data.len()).step_by(buffer.len()) {
                    let len = (data.len() - from).min(buffer.len() as u64) as usize;
                    data.read_at(from, &mut buffer[..len])?;
                    hash.update(&buffer[..len]);
                }
            }
        }
    }
    Ok(crate::digest::hex(hash))
}

/// Every byte of the output has its place, and no constant is computed yet.
struct Layout {
    files: Vec<LayoutFile>,
}

impl Layout {
    fn of(model: &Model, path: &Path, storage: Storage) -> Result<Layout> {
        let Storage {
            external_data,
            chunk,
        } = storage;
        if external_data != ExternalData::Always {
            let rope = Encoder {
                model,
                place: &|_| None,
                locations: &[],
            }
            .model()?;
            let limit = chunk.map_or(MESSAGE_LIMIT, |c| c.min(MESSAGE_LIMIT));
            if rope.len <= limit {
                return Ok(Layout {
                    files: vec![LayoutFile::new(path.to_path_buf(), rope)],
                });
            }
            if external_data == ExternalData::Never {
                let why = match chunk {
                    Some(chunk) if chunk < MESSAGE_LIMIT => {
                        format!("no file may have more than {chunk} (--chunk-size)")
                    }
                    _ => "a single ONNX file must stay below 2 GiB".to_owned(),
                };
                return Err(Error::unsupported(format!(
                    "`{}` would have {} bytes, and {why}; let the weights go to a side file (--external-data auto)",
                    path.display(),
                    rope.len
                )));
            }
        }
        let Chunks { places, files } = Chunks::of(model, path, chunk)?;
        let locations: Vec<String> = (0..files.len()).map(|i| side_file_name(path, i)).collect();
        let rope = Encoder {
            model,
            place: &|value| places.get(&value).cloned(),
            locations: &locations,
        }
        .model()?;
        if rope.len > MESSAGE_LIMIT {
            return Err(Error::unsupported(format!(
                "`{}` would have {} bytes even with its weights in a side file, and must stay \
                 below 2 GiB",
                path.display(),
                rope.len
            )));
        }
        let model = LayoutFile::new(path.to_path_buf(), rope);
        Ok(Layout {
            files: std::iter::once(model).chain(files).collect(),
        })
    }

    fn saved(&self) -> Saved {
        let file = |f: &LayoutFile| (f.path.clone(), f.len);
        Saved {
            files: self.files.iter().map(file).collect(),
        }
    }
}

/// The work, cut into items that can be done in any order.
///
/// Recipes without a single source (a digest of the whole input) may take longest and come first; the
/// others in the order in which the source has what they read, since several outputs may read the same.
fn work<'a>(files: impl Iterator<Item = &'a LayoutFile>) -> Vec<Work<'a>> {
    let mut recipes: BTreeMap<usize, Tiles<'_>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut plain = Vec::new();
    for (file, f) in files.enumerate() {
        for (offset, piece) in &f.pieces {
            let offset = *offset;
            match piece {
                Piece::Bytes(bytes) => plain.push(Work::Write {
                    file,
                    offset,
                    bytes,
                }),
                Piece::Data(Data::Bytes(bytes)) => plain.push(Work::Write {
                    file,
                    offset,
                    bytes,
                }),
                Piece::Data(Data::File {
                    file: source,
                    offset: from,
                    len,
                }) => {
                    let chunk = |at| Work::Copy {
                        source,
                        from: from + at,
                        len: COPY.min(len - at),
                        file,
                        offset: offset + at,
                    };
                    plain.extend((0..*len).step_by(COPY as usize).map(chunk));
                }
                Piece::Data(Data::Computed { recipe, output }) => {
                    let address = recipe_address(recipe);
                    let tiles = recipes.entry(address).or_insert_with(|| {
                        order.push(address);
                        Tiles {
                            recipe,
                            places: Vec::new(),
                        }
                    });
                    tiles.places.push((*output, file, offset));
                }
            }
        }
    }
    let recipes = order.iter().map(|a| recipes.remove(a));
    let mut work = tiles(recipes.map(|r| r.expect("recorded once")).collect());
    work.extend(plain);
    work.sort_by_cached_key(Work::turn);
    work
}

/// The tiles of `recipes`. Those that read the same small constant are one item.
fn tiles(recipes: Vec<Tiles<'_>>) -> Vec<Work<'_>> {
    let hold = (HOLDING / rayon::current_num_threads() as u64).min(HOLD);
    let mut readers: BTreeMap<DataIdentity, Vec<Arc<Tiles<'_>>>> = BTreeMap::new();
    let mut work = Vec::new();
    for tiles in recipes.into_iter().map(Arc::new) {
        match tiles.root() {
            Some(root @ Data::File { len, .. }) if *len <= hold => {
                readers.entry(root.identity()).or_default().push(tiles);
            }
            _ => work.extend(Work::tiles(&tiles)),
        }
    }
    for tiles in readers.into_values() {
        match tiles.len() {
            1 => work.extend(Work::tiles(&tiles[0])),
            _ => work.push(Work::Readers(tiles)),
        }
    }
    work
}

impl LayoutFile {
    fn new(path: PathBuf, rope: Rope) -> LayoutFile {
        let mut offset = 0;
        let pieces = rope.pieces.into_iter().map(|piece| {
            let at = offset;
            offset += match &piece {
                Piece::Bytes(b) => b.len() as u64,
                Piece::Data(d) => d.len(),
            };
            (at, piece)
        });
        LayoutFile {
            path,
            pieces: pieces.collect(),
            len: rope.len,
        }
    }
}

impl LayoutFile {
    /// Its bytes.
    fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len as usize];
        let (mut rest, mut at) = (bytes.as_mut_slice(), 0);
        let mut places = Vec::new();
        for (offset, piece) in &self.pieces {
            let len = match piece {
                Piece::Bytes(b) => b.len(),
                Piece::Data(d) => d.len() as usize,
            };
            let (place, after) = rest.split_at_mut((offset - at) as usize + len);
            places.push((piece, &mut place[(offset - at) as usize..]));
            (rest, at) = (after, offset + len as u64);
        }
        // A recipe with several outputs is computed once for each: models that are run are
        // small beside those that are written.
        places
            .into_par_iter()
            .with_max_len(1)
            .try_for_each(|(piece, place)| match piece {
                Piece::Bytes(b) => {
                    place.copy_from_slice(b);
                    Ok(())
                }
                Piece::Data(d) => d.read_at(0, place),
            })?;
        Ok(bytes)
    }
}

/// A recipe and where its outputs go; one output may go to several places.
struct Tiles<'a> {
    recipe: &'a Arc<dyn Produce>,
    places: Vec<(usize, usize, u64)>,
}

impl Tiles<'_> {
    /// What is read for it in the end, when that is one thing.
    fn root(&self) -> Option<&Data> {
        self.recipe.source()?.root()
    }

    /// Computes tile `tile` and writes it; returns the bytes written.
    fn run(&self, tile: u64, outputs: &[Output], scratch: &mut Vec<Vec<u8>>) -> Result<u64> {
        let recipe = self.recipe;
        scratch.resize_with(recipe.outputs().max(scratch.len()), Vec::new);
        for (output, buffer) in scratch[..recipe.outputs()].iter_mut().enumerate() {
            let range = recipe.range(tile, output);
            buffer.resize((range.end - range.start) as usize, 0);
        }
        let buffers = &mut scratch[..recipe.outputs()];
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        recipe.produce(tile, &mut slices)?;
        let mut written = 0;
        for &(output, file, base) in &self.places {
            let offset = base + recipe.range(tile, output).start;
            outputs[file].write_at(offset, &scratch[output])?;
            written += scratch[output].len() as u64;
        }
        Ok(written)
    }
}

enum Work<'a> {
    Write {
        file: usize,
        offset: u64,
        bytes: &'a [u8],
    },
    Copy {
        source: &'a SourceFile,
        from: u64,
        len: u64,
        file: usize,
        offset: u64,
    },
    Tile {
        tiles: Arc<Tiles<'a>>,
        tile: u64,
    },
    /// All that is computed from one small constant, which is held in memory meanwhile.
    Readers(Vec<Arc<Tiles<'a>>>),
}

impl<'a> Work<'a> {
    /// One item for each tile.
    fn tiles(tiles: &Arc<Tiles<'a>>) -> impl Iterator<Item = Work<'a>> {
        let tiles = tiles.clone();
        (0..tiles.recipe.tiles()).map(move |tile| Work::Tile {
            tiles: tiles.clone(),
            tile,
        })
    }

    /// When its turn is: see [`work`].
    fn turn(&self) -> (u8, usize, u64) {
        match self {
            Work::Tile { tiles, tile } => match tiles.root() {
                None => (0, 0, 0),
                Some(root) => {
                    let (file, from) = root.place();
                    // Tiles are about equal parts of it.
                    let part = root.len() / tiles.recipe.tiles().max(1);
                    (1, file, from + part * tile)
                }
            },
            Work::Readers(readers) => {
                let (file, from) = readers[0].root().map_or((0, 0), Data::place);
                (1, file, from)
            }
            Work::Copy { source, from, .. } => {
                (1, std::ptr::from_ref::<SourceFile>(source).addr(), *from)
            }
            Work::Write { .. } => (2, 0, 0),
        }
    }

    /// Does it; returns the bytes written.
    fn run(&self, outputs: &[Output], scratch: &mut Vec<Vec<u8>>) -> Result<u64> {
        match self {
            Work::Write {
                file,
                offset,
                bytes,
            } => {
                outputs[*file].write_at(*offset, bytes)?;
                Ok(bytes.len() as u64)
            }
            Work::Copy {
                source,
                from,
                len,
                file,
                offset,
            } => {
                copy(source, *from, *len, &outputs[*file], *offset, scratch)?;
                Ok(*len)
            }
            Work::Tile { tiles, tile } => tiles.run(*tile, outputs, scratch),
            Work::Readers(readers) => {
                let root = readers[0].root().expect("it was found by it");
                data::holding(root, || {
                    let tiles = |r: &Arc<Tiles<'_>>| 0..r.recipe.tiles();
                    let tiles = readers.iter().flat_map(|r| tiles(r).map(move |t| (r, t)));
                    let mut written = 0;
                    for (reader, tile) in tiles {
                        written += reader.run(tile, outputs, scratch)?;
                    }
                    Ok(written)
                })
            }
        }
    }
}

/// Copies a range of a file: inside the kernel where it can, else through a buffer.
fn copy(
    source: &SourceFile,
    from: u64,
    len: u64,
    output: &Output,
    offset: u64,
    scratch: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let mut done = 0;
    #[cfg(target_os = "linux")]
    while done < len {
        let (mut read, mut write) = (from + done, offset + done);
        let left = (len - done) as usize;
        match rustix::fs::copy_file_range(
            source.file(),
            Some(&mut read),
            output.file(),
            Some(&mut write),
            left,
        ) {
            // The source was truncated meanwhile: reading below reports it.
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(rustix::io::Errno::INTR) => {}
            // Across file systems, or not at all: reading and writing below reports a
            // real fault, such as a full disk, with its own message.
            Err(_) => break,
        }
    }
    scratch.resize_with(scratch.len().max(1), Vec::new);
    let buffer = &mut scratch[0];
    while done < len {
        buffer.resize((len - done).min(1 << 20) as usize, 0);
        source.read_exact_at(from + done, buffer)?;
        output.write_at(offset + done, buffer)?;
        done += buffer.len() as u64;
    }
    Ok(())
}
