//! Whether weights are equal, or one is the transpose of another: by some elements, by
//! hashes where these tell too little, and in the end by all elements.

use std::collections::HashMap;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    ir::{Data, DataType, ValueId},
};

/// Elements compared before whole weights are.
const SAMPLES: u64 = 16;

/// Weights that agree in those elements are compared with each other when they are this many
/// or fewer; more are told apart by hashes, which read each weight once.
const FEW: usize = 4;

/// Bytes of a side of a tile when whole weights are compared.
const TILE: u64 = 4096;

/// A weight that may be shared.
pub(super) struct Candidate<'m> {
    pub(super) value: ValueId,
    pub(super) dtype: DataType,
    pub(super) dims: &'m [i64],
    pub(super) data: &'m Data,
}

impl Candidate<'_> {
    fn element(&self) -> u64 {
        self.dtype.bits() / 8
    }

    /// Rows and columns, when it is a matrix and not a vector.
    pub(super) fn matrix(&self) -> Option<(u64, u64)> {
        match *self.dims {
            [rows, cols] if rows > 1 && cols > 1 => Some((rows as u64, cols as u64)),
            _ => None,
        }
    }
}

/// What two weights must agree in before they are compared: type, extents, some elements,
/// and, where those are the same for many weights, a hash of all elements.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    dtype: DataType,
    dims: Vec<i64>,
    samples: Vec<u8>,
    hash: Option<[u8; 32]>,
}

/// The likeness of each candidate, and that of its transpose, which means nothing for a weight
/// that is no matrix.
pub(super) fn likenesses(candidates: &[Candidate<'_>]) -> Result<Vec<[Likeness; 2]>> {
    let mut all: Vec<[Likeness; 2]> = candidates.par_iter().map(samples).collect::<Result<_>>()?;
    let mut counts: HashMap<&Likeness, usize> = HashMap::new();
    for [plain, _] in &all {
        *counts.entry(plain).or_default() += 1;
    }
    let many = |l: &Likeness| counts.get(l).is_some_and(|&n| n > FEW);
    let many: Vec<[bool; 2]> = all.iter().map(|l| [many(&l[0]), many(&l[1])]).collect();
    let hashes: Vec<[Option<[u8; 32]>; 2]> = candidates
        .par_iter()
        .zip(many)
        .map(|(c, [plain, transposed])| {
            let hash = |wanted: bool, flip| wanted.then(|| hash(c, flip)).transpose();
            Ok([
                hash(plain, false)?,
                hash(transposed && c.matrix().is_some(), true)?,
            ])
        })
        .collect::<Result<_>>()?;
    for (likeness, [plain, transposed]) in all.iter_mut().zip(hashes) {
        (likeness[0].hash, likeness[1].hash) = (plain, transposed);
    }
    Ok(all)
}

/// The `i`-th of the places in `count` elements that are looked at. They are spread over the
/// whole by a fixed rule that depends on the count only.
fn place(i: u64, count: u64) -> u64 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % count
}

/// The likeness of a weight and of its transpose, without hashes.
fn samples(c: &Candidate<'_>) -> Result<[Likeness; 2]> {
    let size = c.element() as usize;
    let count = c.data.len() / c.element();
    let read = |index: &dyn Fn(u64) -> u64| -> Result<Vec<u8>> {
        let mut out = vec![0; size * SAMPLES as usize];
        for (i, out) in out.chunks_mut(size).enumerate() {
            let at = index(place(i as u64, count));
            c.data.read_at(at * c.element(), out)?;
        }
        Ok(out)
    };
    let likeness = |dims: Vec<i64>, samples| Likeness {
        dtype: c.dtype,
        dims,
        samples,
        hash: None,
    };
    let plain = likeness(c.dims.to_vec(), read(&|at| at)?);
    let transposed = match c.matrix() {
        None => likeness(c.dims.to_vec(), plain.samples.clone()),
        Some((rows, cols)) => {
            // Element [r, s] of the transpose, which has `rows` columns.
            let index = |at: u64| at % rows * cols + at / rows;
            likeness(c.dims.iter().rev().copied().collect(), read(&index)?)
        }
    };
    Ok([plain, transposed])
}

/// The SHA-256 of the hashes of all tiles of a weight, or, when `flip`, of its transpose,
/// which are those of the weight, each transposed, in another order.
fn hash(c: &Candidate<'_>, flip: bool) -> Result<[u8; 32]> {
    let size = c.element();
    let (rows, cols) = c.matrix().unwrap_or((1, c.data.len() / size));
    let side = TILE / size;
    let (down, across) = (rows.div_ceil(side), cols.div_ceil(side));
    let tiles: Vec<[u8; 32]> = (0..down * across)
        .into_par_iter()
        .map(|tile| {
            let (i, j) = match flip {
                false => (tile / across, tile % across),
                true => (tile % down, tile / down),
            };
            let (r, s) = (i * side, j * side);
            let (height, width) = (side.min(rows - r), side.min(cols - s));
            let bytes = read_tile(c.data, size, cols, [r, s], [height, width])?;
            Ok(match flip {
                false => Sha256::digest(&bytes).into(),
                true => Sha256::digest(transposed(&bytes, size as usize, width as usize)).into(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Sha256::digest(tiles.as_flattened()).into())
}

/// The transpose of a tile with `width` elements of `size` bytes a row.
fn transposed(tile: &[u8], size: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(tile.len());
    for column in 0..width {
        for row in tile.chunks(width * size) {
            out.extend_from_slice(&row[column * size..][..size]);
        }
    }
    out
}

pub(super) fn equal(a: &Candidate<'_>, b: &Candidate<'_>) -> Result<bool> {
    if a.data.is_same(b.data) {
        return Ok(true);
    }
    let step = 1 << 20;
    let different = (0..a.data.len().div_ceil(step)).into_par_iter().map(|i| {
        let from = i * step;
        let len = step.min(a.data.len() - from) as usize;
        let (mut x, mut y) = (vec![0; len], vec![0; len]);
        a.data.read_at(from, &mut x)?;
        b.data.read_at(from, &mut y)?;
        Ok(x != y)
    });
    all_equal(different)
}

/// Whether `b` is the transpose of `a`.
pub(super) fn equal_transposed(a: &Candidate<'_>, b: &Candidate<'_>) -> Result<bool> {
    let Some((rows, cols)) = a.matrix() else {
        return Ok(false);
    };
    let size = a.element();
    let side = TILE / size;
    let across = cols.div_ceil(side);
    let different = (0..rows.div_ceil(side) * across)
        .into_par_iter()
        .map(|tile| {
            let (r, c) = (tile / across * side, tile % across * side);
            let (height, width) = (side.min(rows - r), side.min(cols - c));
            let x = read_tile(a.data, size, cols, [r, c], [height, width])?;
            let y = read_tile(b.data, size, rows, [c, r], [width, height])?;
            let element = |t: &[u8], at: u64| -> [u8; 16] {
                let mut out = [0; 16];
                let from = (at * size) as usize;
                out[..size as usize].copy_from_slice(&t[from..from + size as usize]);
                out
            };
            let mut pairs = (0..height).flat_map(|i| (0..width).map(move |j| (i, j)));
            Ok(pairs.any(|(i, j)| element(&x, i * width + j) != element(&y, j * height + i)))
        });
    all_equal(different)
}

/// Stops at the first difference; a failed read counts only when there is none.
fn all_equal(different: impl ParallelIterator<Item = Result<bool>>) -> Result<bool> {
    match different.find_any(|d| !matches!(d, Ok(false))) {
        None => Ok(true),
        Some(Ok(_)) => Ok(false),
        Some(Err(e)) => Err(e),
    }
}

/// `shape` elements from `origin` on of a matrix with `cols` columns.
fn read_tile(
    data: &Data,
    size: u64,
    cols: u64,
    origin: [u64; 2],
    shape: [u64; 2],
) -> Result<Vec<u8>> {
    let mut out = vec![0; (shape[0] * shape[1] * size) as usize];
    for (i, row) in out.chunks_mut((shape[1] * size) as usize).enumerate() {
        data.read_at(((origin[0] + i as u64) * cols + origin[1]) * size, row)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::{
        ops::Range,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::super::ShareWeights;
    use super::*;
    use crate::{
        ir::{Constant, Def, EntityId, GraphOutput, Model, Node, Produce, Tensor, Value},
        pass::{Changed, Pass, PassContext},
    };

    const ROWS: u64 = 24;
    const COLS: u64 = 16;

    /// A float matrix that is 0 but for one element; counts the bytes that are read.
    #[derive(Debug)]
    struct One {
        at: u64,
        bits: u32,
        read: Arc<AtomicU64>,
    }

    impl Produce for One {
        fn len(&self, _: usize) -> u64 {
            ROWS * COLS * 4
        }
        fn tiles(&self) -> u64 {
            1
        }
        fn range(&self, _: u64, _: usize) -> Range<u64> {
            0..self.len(0)
        }
        fn produce(&self, _: u64, out: &mut [&mut [u8]]) -> Result<()> {
            self.read_at(0, 0, out[0])
        }
        fn read_at(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
            self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
            let mut all = vec![0; self.len(0) as usize];
            all[self.at as usize * 4..][..4].copy_from_slice(&self.bits.to_le_bytes());
            out.copy_from_slice(&all[offset as usize..][..out.len()]);
            Ok(())
        }
    }

    fn add(model: &mut Model, dims: [u64; 2], one: One) {
        let main = model.main;
        let index = model.values.len();
        let data = Data::Computed {
            recipe: Arc::new(one),
            output: 0,
        };
        let dims = dims.map(|d| d as i64).to_vec();
        let value = model.values.push(Value {
            name: format!("w{index}").into(),
            def: Def::Initializer(main),
            info: None,
            constant: Some(Constant::Dense(Tensor::new(DataType::Float, dims, data))),
        });
        model.graphs[main].initializers.push(value);
        let mut node = Node::new(main, "", "Neg");
        node.inputs = vec![Some(value)];
        let id = model.nodes.push(node);
        let made = model.values.push(Value {
            name: format!("y{index}").into(),
            def: Def::Node(id, 0),
            info: None,
            constant: None,
        });
        model.nodes[id].outputs = vec![Some(made)];
        model.graphs[main].nodes.push(id);
        model.graphs[main].outputs.push(GraphOutput {
            value: made,
            info: Default::default(),
        });
    }

    /// An element that is looked at neither in the matrix nor in its transpose.
    fn unseen() -> u64 {
        let count = ROWS * COLS;
        let seen = |at: u64| {
            let places = (0..SAMPLES).map(|i| place(i, count));
            let turned = |p: u64| p % ROWS * COLS + p / ROWS;
            places.clone().any(|p| p == at) || places.map(turned).any(|p| p == at)
        };
        (0..count).find(|&at| !seen(at)).unwrap()
    }

    #[test]
    fn many_weights_that_are_nearly_equal_take_linear_time() {
        const N: u64 = 5000;
        let (mut model, read) = (Model::new(10, 21), Arc::new(AtomicU64::new(0)));
        let at = unseen();
        // Each number once, then the transposes of every second one.
        for n in 0..N {
            let one = One {
                at,
                bits: n as u32,
                read: read.clone(),
            };
            add(&mut model, [ROWS, COLS], one);
        }
        for n in 0..N / 2 {
            let (r, s) = (at / COLS, at % COLS);
            let one = One {
                at: s * ROWS + r,
                bits: 2 * n as u32,
                read: read.clone(),
            };
            add(&mut model, [COLS, ROWS], one);
        }
        let mut cx = PassContext::default();
        let pass = ShareWeights { transposed: true };
        let changed = pass.run(&mut model, &mut cx).unwrap();
        assert_eq!(changed, Changed::Yes(N / 2));
        assert_eq!(cx.statistics["transposed"], N / 2);
        // Each is hashed in both readings and then compared once.
        let bytes = read.load(Ordering::Relaxed) / (ROWS * COLS * 4);
        assert!(
            bytes < 5 * N * 3 / 2,
            "each weight was read {bytes} / {N} times"
        );
    }

    #[test]
    fn a_hash_of_the_transpose_is_that_of_the_transposed() {
        let (rows, cols) = (1500u64, 700u64);
        let at = |r: u64, s: u64| ((r * cols + s) as u32).to_le_bytes();
        let plain: Vec<u8> = (0..rows)
            .flat_map(|r| (0..cols).flat_map(move |s| at(r, s)))
            .collect();
        let turned: Vec<u8> = (0..cols)
            .flat_map(|s| (0..rows).flat_map(move |r| at(r, s)))
            .collect();
        let [plain, turned] = [plain, turned].map(|b| Data::Bytes(b.into()));
        let candidate = |dims, data| Candidate {
            value: ValueId::from_index(0),
            dtype: DataType::Float,
            dims,
            data,
        };
        let a = candidate(&[1500, 700], &plain);
        let b = candidate(&[700, 1500], &turned);
        assert_eq!(hash(&a, true).unwrap(), hash(&b, false).unwrap());
        assert_eq!(hash(&a, false).unwrap(), hash(&b, true).unwrap());
        assert_ne!(hash(&a, false).unwrap(), hash(&a, true).unwrap());
    }
}
