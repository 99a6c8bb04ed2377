//! The recipe that transposes a weight while it is written.

use std::{ops::Range, sync::Arc};

use crate::{
    error::Result,
    ir::{Data, Produce, Tensor},
};

/// Bytes of a tile, about: wide enough that the stretches it reads are not too short.
const TILE: u64 = 4 << 20;

/// Bytes of a row of the result at most: a tile has one at least.
const LONGEST: u64 = 4 * TILE;

/// Bytes of neighbouring rows that are read at once, when they are shorter than that.
const ROWS: u64 = 1 << 20;

/// Below this length a stretch of a row is not worth reading alone.
const STRETCH: u64 = 512;

/// Matrices `[rows, columns]` of items, one after the other, each turned into
/// `[columns, rows]`.
#[derive(Debug)]
struct Transposed {
    source: Data,
    rows: u64,
    columns: u64,
    /// Bytes of an item.
    item: u64,
    /// Rows of the result in a tile.
    step: u64,
}

/// `source` with its axes in the order `perm`, transposed when it is read; `None` when `perm`
/// is more than an exchange of two groups of neighbouring axes, or elements are smaller than
/// a byte.
pub fn transposed(source: &Tensor, perm: &[usize]) -> Option<Tensor> {
    let data = source.data()?;
    let rank = source.dims.len();
    if perm.len() != rank || source.dtype.bits() < 8 || !source.dtype.bits().is_multiple_of(8) {
        return None;
    }
    let extents: Vec<u64> = source.dims.iter().map(|&d| d as u64).collect();
    // Axes of extent 1 may be anywhere.
    let moved: Vec<usize> = perm.iter().copied().filter(|&p| extents[p] != 1).collect();
    let mut sorted = moved.clone();
    sorted.sort_unstable();
    let lead = moved
        .iter()
        .zip(&sorted)
        .take_while(|(a, b)| a == b)
        .count();
    let tail = moved
        .iter()
        .rev()
        .zip(sorted.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let dims = perm.iter().map(|&p| source.dims[p]).collect();
    if lead == moved.len() {
        return Some(Tensor::new(source.dtype, dims, data.clone()));
    }
    let (from, to) = (
        &sorted[lead..sorted.len() - tail],
        &moved[lead..moved.len() - tail],
    );
    // Rows first in the source, columns first in the result.
    let split = from.iter().position(|a| *a == to[0])?;
    if [&from[split..], &from[..split]].concat() != to {
        return None;
    }
    let product = |axes: &[usize]| axes.iter().map(|&a| extents[a]).product::<u64>();
    let (rows, columns) = (product(&from[..split]), product(&from[split..]));
    let item = product(&sorted[sorted.len() - tail..]) * source.dtype.bits() / 8;
    if data.is_empty() || rows * item > LONGEST {
        return None;
    }
    let recipe: Arc<dyn Produce> = Arc::new(Transposed {
        source: data.clone(),
        rows,
        columns,
        item,
        step: (TILE / (rows * item)).clamp(1, columns),
    });
    Some(Tensor::new(
        source.dtype,
        dims,
        Data::Computed { recipe, output: 0 },
    ))
}

impl Transposed {
    /// Bytes of a row of the result.
    fn row(&self) -> u64 {
        self.rows * self.item
    }

    /// Bytes of a matrix.
    fn matrix(&self) -> u64 {
        self.columns * self.row()
    }

    fn tiles_each(&self) -> u64 {
        self.columns.div_ceil(self.step)
    }

    /// Fills `out` with rows `first..` of the result of the matrix that begins at `base`, or
    /// with a part of one row, from item `at` on.
    fn fill(&self, base: u64, first: u64, at: u64, out: &mut [u8]) -> Result<()> {
        let item = self.item as usize;
        let count = out.len() / item;
        let (width, height) = match at == 0 && count as u64 >= self.rows {
            true => (count / self.rows as usize, self.rows as usize),
            false => (1, count),
        };
        let line = self.columns * self.item;
        let stretch = width as u64 * self.item;
        // Short stretches of short rows: whole rows at once.
        let whole = stretch < STRETCH && line <= STRETCH * 8;
        let (skip, span, group) = match whole {
            true => (0, line, (ROWS / line).max(1)),
            false => (first * self.item, stretch, 1),
        };
        let before = (first * self.item - skip) as usize;
        let mut buffer = vec![0; (span * group.min(height as u64)) as usize];
        let mut row = 0;
        while row < height {
            let rows = (group as usize).min(height - row);
            let bytes = &mut buffer[..rows * span as usize];
            let from = base + (at + row as u64) * line + skip;
            self.source.read_at(from, bytes)?;
            for (i, bytes) in bytes.chunks(span as usize).enumerate() {
                let items = &bytes[before..before + stretch as usize];
                scatter(items, item, out, height, row + i);
            }
            row += rows;
        }
        Ok(())
    }

    /// The item at `place` of the result, which begins at a matrix.
    fn place(&self, item: u64) -> (u64, u64, u64) {
        let in_matrix = item % (self.rows * self.columns);
        let matrix = item / (self.rows * self.columns);
        (
            matrix * self.matrix(),
            in_matrix / self.rows,
            in_matrix % self.rows,
        )
    }
}

impl Produce for Transposed {
    fn source(&self) -> Option<&Data> {
        Some(&self.source)
    }

    fn len(&self, _: usize) -> u64 {
        self.source.len()
    }

    fn tiles(&self) -> u64 {
        self.source.len() / self.matrix() * self.tiles_each()
    }

    fn range(&self, tile: u64, _: usize) -> Range<u64> {
        let base = tile / self.tiles_each() * self.matrix();
        let first = tile % self.tiles_each() * self.step;
        let last = (first + self.step).min(self.columns);
        base + first * self.row()..base + last * self.row()
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        let base = tile / self.tiles_each() * self.matrix();
        self.fill(base, tile % self.tiles_each() * self.step, 0, out[0])
    }

    /// Any items can be had alone: part of a row, whole rows up to a tile, part of a row.
    fn read_at(&self, _: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        let aligned = offset.is_multiple_of(self.item) && end.is_multiple_of(self.item);
        if !aligned {
            let (first, last) = (offset / self.item, end.div_ceil(self.item));
            let mut whole = vec![0; ((last - first) * self.item) as usize];
            self.read_at(0, first * self.item, &mut whole)?;
            let skipped = (offset - first * self.item) as usize;
            out.copy_from_slice(&whole[skipped..skipped + out.len()]);
            return Ok(());
        }
        let mut done = 0;
        while done < out.len() {
            let (base, row, at) = self.place((offset + done as u64) / self.item);
            let left = (out.len() - done) as u64;
            let len = match at == 0 && left >= self.row() {
                true => (left / self.row()).min(self.step).min(self.columns - row) * self.row(),
                false => left.min(self.row() - at * self.item),
            };
            self.fill(base, row, at, &mut out[done..done + len as usize])?;
            done += len as usize;
        }
        Ok(())
    }
}

/// Puts the items, each of so many bytes, into every `step`th place of `out` from `first` on.
fn scatter(items: &[u8], item: usize, out: &mut [u8], step: usize, first: usize) {
    match item {
        1 => scatter_sized::<1>(items, out, step, first),
        2 => scatter_sized::<2>(items, out, step, first),
        4 => scatter_sized::<4>(items, out, step, first),
        8 => scatter_sized::<8>(items, out, step, first),
        _ => {
            for (j, source) in items.chunks(item).enumerate() {
                out[(j * step + first) * item..][..item].copy_from_slice(source);
            }
        }
    }
}

/// The same for items of one number: a move and not a call.
fn scatter_sized<const N: usize>(items: &[u8], out: &mut [u8], step: usize, first: usize) {
    let (items, _) = items.as_chunks::<N>();
    let (out, _) = out.as_chunks_mut::<N>();
    for (source, to) in items.iter().zip(out[first..].iter_mut().step_by(step)) {
        *to = *source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DataType;

    /// Elements of `source` in the order `perm`, one by one.
    fn reference(source: &Tensor, perm: &[usize]) -> Vec<u8> {
        let dims: Vec<usize> = source.dims.iter().map(|&d| d as usize).collect();
        let all = source.data().unwrap().read_all().unwrap();
        let width = (source.dtype.bits() / 8) as usize;
        let mut strides = vec![width; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i] * dims[i];
        }
        let mut out = Vec::new();
        let count: usize = dims.iter().product();
        for mut n in 0..count {
            let mut from = 0;
            for &p in perm.iter().rev() {
                from += n % dims[p] * strides[p];
                n /= dims[p];
            }
            out.extend_from_slice(&all[from..from + width]);
        }
        out
    }

    #[test]
    fn any_range_is_what_the_axes_say() {
        let cases: [(DataType, &[i64], &[usize]); 8] = [
            (DataType::Float16, &[70, 33], &[1, 0]),
            (DataType::Float, &[700, 900], &[1, 0]),
            (DataType::Uint8, &[3, 1500, 7], &[0, 2, 1]),
            (DataType::Float, &[2, 3, 5, 4], &[0, 2, 1, 3]),
            (DataType::Float, &[2, 3, 5, 4], &[2, 3, 0, 1]),
            (DataType::Double, &[1, 6, 1, 9], &[3, 2, 1, 0]),
            (DataType::Float, &[2, 3, 1], &[0, 2, 1]),
            (DataType::Uint8, &[4, 600_000], &[1, 0]),
        ];
        for (dtype, dims, perm) in cases {
            let len = dims.iter().product::<i64>() as usize * dtype.bits() as usize / 8;
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let source = Tensor::new(dtype, dims.to_vec(), Data::Bytes(bytes.into()));
            let made = transposed(&source, perm).unwrap();
            let expected = reference(&source, perm);
            let data = made.data().unwrap();
            assert!(data.read_all().unwrap() == expected, "{dims:?} {perm:?}");
            if let Data::Computed { recipe, .. } = data {
                let mut tiles = Vec::new();
                for tile in 0..recipe.tiles() {
                    let mut out = vec![0; recipe.range(tile, 0).count()];
                    recipe.produce(tile, &mut [&mut out]).unwrap();
                    tiles.extend(out);
                }
                assert!(tiles == expected, "{dims:?} {perm:?}: tiles");
            }
            for (from, n) in [
                (0, 1),
                (len / 3, len / 2),
                (len - 5, 5),
                (1, 9),
                (len / 2, 64),
            ] {
                let n = n.min(len - from);
                let mut out = vec![0; n];
                data.read_at(from as u64, &mut out).unwrap();
                assert!(
                    out == expected[from..from + n],
                    "{dims:?} {perm:?}: {n} from {from}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_followed() {
        let source = Tensor::from_f32(vec![2, 2, 2], &[0.0; 8]);
        assert!(transposed(&source, &[2, 1, 0]).is_none());
        assert!(transposed(&source, &[0, 1]).is_none());
    }
}
