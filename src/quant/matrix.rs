//! Weights as they lie in memory: element type, shape, distance of rows.

use super::convert;
use super::lanes::LANES;

/// The elements of a matrix. The byte forms are little-endian and of any alignment, as
/// tensors lie in a mapped file; the kernels convert a tile at a time, so no second copy
/// of the weights in `f32` is needed.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// `f32` values.
    F32(&'a [f32]),
    /// Little-endian binary32.
    F32Le(&'a [u8]),
    /// Little-endian binary16.
    F16Le(&'a [u8]),
    /// Little-endian bfloat16.
    Bf16Le(&'a [u8]),
    /// Little-endian binary64, rounded to `f32` first; a value that is too large for
    /// `f32` counts as infinite.
    F64Le(&'a [u8]),
}

impl Source<'_> {
    /// Number of elements; an incomplete last element does not count.
    pub fn len(&self) -> usize {
        match self {
            Source::F32(x) => x.len(),
            Source::F32Le(b) => b.len() / 4,
            Source::F16Le(b) | Source::Bf16Le(b) => b.len() / 2,
            Source::F64Le(b) => b.len() / 8,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `at`, as `f32`.
    ///
    /// # Panics
    ///
    /// If `at` is out of bounds.
    pub fn get(&self, at: usize) -> f32 {
        match *self {
            Source::F32(x) => x[at],
            Source::F32Le(b) => F32Le(b).get(at),
            Source::F16Le(b) => half::f16::from_le_bytes(bytes(b, at)).to_f32(),
            Source::Bf16Le(b) => half::bf16::from_le_bytes(bytes(b, at)).to_f32(),
            Source::F64Le(b) => F64Le(b).get(at),
        }
    }
}

/// A row-major matrix: [`Source`] and shape.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    source: Source<'a>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one after another.
    ///
    /// # Panics
    ///
    /// If `source` holds fewer than `rows * cols` elements.
    pub fn new(source: Source<'a>, rows: usize, cols: usize) -> Self {
        Self::with_stride(source, rows, cols, cols)
    }

    /// A matrix whose rows begin `stride` elements apart: a panel of columns of a wider
    /// matrix, with `source` beginning at the panel's first element.
    ///
    /// # Panics
    ///
    /// If `stride < cols`, or `source` ends before the last element.
    pub fn with_stride(source: Source<'a>, rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols, "stride {stride} is below {cols} columns");
        let need = match rows {
            0 => 0,
            _ if cols == 0 => 0,
            _ => (rows - 1) * stride + cols,
        };
        assert!(
            source.len() >= need,
            "{} elements for a matrix that spans {need}",
            source.len()
        );
        Self {
            source,
            rows,
            cols,
            stride,
        }
    }

    /// The elements.
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the beginning of one row to that of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Element `[row, col]`, as `f32`.
    ///
    /// # Panics
    ///
    /// If `row` or `col` is out of bounds.
    pub fn get(&self, row: usize, col: usize) -> f32 {
        assert!(
            row < self.rows && col < self.cols,
            "[{row}, {col}] is outside of [{}, {}]",
            self.rows,
            self.cols
        );
        self.source.get(row * self.stride + col)
    }
}

/// What the kernels are generic over: elements that are read [`LANES`] at a time.
pub(super) trait Load: Copy {
    fn get(self, at: usize) -> f32;

    fn lanes(self, at: usize) -> [f32; LANES];

    /// Elements `at..at + len`, then zeros.
    #[inline(always)]
    fn head(self, at: usize, len: usize) -> [f32; LANES] {
        let mut x = [0.0; LANES];
        for (i, x) in x.iter_mut().enumerate().take(len) {
            *x = self.get(at + i);
        }
        x
    }
}

#[inline(always)]
fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b[at * N..][..N].try_into().expect("N bytes")
}

macro_rules! load {
    ($name:ident, $item:ty, $n:literal, $convert:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name<'a>(pub(super) &'a [u8]);

        impl Load for $name<'_> {
            #[inline(always)]
            fn get(self, at: usize) -> f32 {
                $convert(<$item>::from_le_bytes(bytes(self.0, at)))
            }

            #[inline(always)]
            fn lanes(self, at: usize) -> [f32; LANES] {
                let b: &[u8; $n * LANES] = self.0[at * $n..][..$n * LANES]
                    .try_into()
                    .expect("LANES elements");
                let mut x = [0.0; LANES];
                for (i, x) in x.iter_mut().enumerate() {
                    *x = $convert(<$item>::from_le_bytes(bytes(b, i)));
                }
                x
            }
        }
    };
}

load!(F32Le, f32, 4, core::convert::identity);
load!(F16Le, u16, 2, convert::f16_to_f32);
load!(Bf16Le, u16, 2, convert::bf16_to_f32);
load!(F64Le, f64, 8, convert::f64_to_f32);

impl Load for &[f32] {
    #[inline(always)]
    fn get(self, at: usize) -> f32 {
        self[at]
    }

    #[inline(always)]
    fn lanes(self, at: usize) -> [f32; LANES] {
        self[at..at + LANES].try_into().expect("LANES elements")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_and_head_are_get() {
        // One byte in front, so that no element is aligned.
        let raw: Vec<u8> = (0..8 * 40 + 1u32).map(|i| (i * 37 % 119) as u8).collect();
        fn check<S: Load>(s: S, source: Source<'_>) {
            for at in 0..16 {
                let want: [f32; LANES] = core::array::from_fn(|i| source.get(at + i));
                assert_eq!(s.lanes(at), want);
                for len in 0..=LANES {
                    let head = s.head(at, len);
                    assert_eq!(head[..len], want[..len]);
                    assert!(head[len..].iter().all(|x| x.to_bits() == 0));
                }
            }
        }
        let b = &raw[1..];
        check(F32Le(b), Source::F32Le(b));
        check(F16Le(b), Source::F16Le(b));
        check(Bf16Le(b), Source::Bf16Le(b));
        check(F64Le(b), Source::F64Le(b));
        let x: Vec<f32> = (0..40).map(|i| i as f32).collect();
        check(&x[..], Source::F32(&x));
    }

    #[test]
    fn a_panel_of_a_wider_matrix() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let panel = Matrix::with_stride(Source::F32(&x[1..]), 3, 2, 4);
        assert_eq!(
            [panel.get(0, 0), panel.get(2, 0), panel.get(2, 1)],
            [1., 9., 10.]
        );
    }

    #[test]
    #[should_panic(expected = "11 elements for a matrix that spans 12")]
    fn too_short() {
        Matrix::new(Source::F32(&[0.0; 11]), 3, 4);
    }
}
