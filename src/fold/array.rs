//! Tensors as kernels see them.

use bytes::Bytes;

use super::{
    LIMIT, Result, Unfolded,
    number::{self, Class, class, width},
};
use crate::{
    error::Result as ReadResult,
    ir::{Data, DataType, Elements, Tensor},
};

/// A tensor in memory. Unlike in a file, elements of less than a byte take one each.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    dtype: DataType,
    dims: Vec<usize>,
    elements: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Row-major, little-endian.
    Fixed(Bytes),
    Strings(Vec<Bytes>),
}

impl Array {
    /// Reads `tensor`, whatever its size.
    ///
    /// # Errors
    /// The outer one: it cannot be read. The inner one: elements of its type cannot be
    /// handled.
    pub fn read(tensor: &Tensor) -> ReadResult<Result<Array>> {
        let dims = tensor.dims.iter().map(|&d| d as usize).collect();
        let elements = match &tensor.elements {
            Elements::Strings(strings) => Content::Strings(strings.clone()),
            Elements::Data(data) => {
                if width(tensor.dtype).is_none() {
                    let what = format!("elements of type {}", tensor.dtype);
                    return Ok(Err(Unfolded::Unsupported(what)));
                }
                let bytes = data.read_all()?;
                Content::Fixed(match tensor.dtype.bits() {
                    bits @ 1..8 => unpack(&bytes, bits as usize, tensor),
                    _ => bytes,
                })
            }
        };
        Ok(Ok(Array {
            dtype: tensor.dtype,
            dims,
            elements,
        }))
    }

    /// The tensor with these elements.
    pub fn to_tensor(&self) -> Tensor {
        let dims = self.dims.iter().map(|&d| d as i64).collect();
        match &self.elements {
            Content::Fixed(bytes) => {
                let bytes = match self.dtype.bits() {
                    bits @ 1..8 => pack(bytes, bits as usize),
                    _ => bytes.clone(),
                };
                Tensor::new(self.dtype, dims, Data::Bytes(bytes))
            }
            Content::Strings(strings) => Tensor::from_strings(dims, strings.clone()),
        }
    }

    /// The array of `dtype` and extents `dims` with the elements `bytes`, as they are in a
    /// file. The type is one whose elements take whole bytes.
    ///
    /// # Panics
    /// When there are more or fewer bytes than `dtype` and `dims` say.
    pub fn from_bytes(dtype: DataType, dims: Vec<usize>, bytes: Bytes) -> Array {
        let expected = width(dtype).map(|w| w * product(&dims));
        assert_eq!(
            Some(bytes.len()),
            expected,
            "as many bytes as {dtype} {dims:?} has"
        );
        Array {
            dtype,
            dims,
            elements: Content::Fixed(bytes),
        }
    }

    /// Bytes of memory that the elements take.
    pub fn size(&self) -> u64 {
        match &self.elements {
            Content::Fixed(bytes) => bytes.len() as u64,
            Content::Strings(all) => all.iter().map(|s| (s.len() + STRING) as u64).sum(),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    pub(super) fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        product(&self.dims)
    }

    pub(super) fn class(&self) -> Class {
        class(self.dtype)
    }

    /// Strings; none when it is of another type.
    pub(super) fn strings(&self) -> &[Bytes] {
        match &self.elements {
            Content::Strings(s) => s,
            Content::Fixed(_) => &[],
        }
    }

    fn element(&self, i: usize) -> &[u8] {
        match &self.elements {
            Content::Fixed(bytes) => {
                let width = width(self.dtype).unwrap_or_default();
                &bytes[i * width..][..width]
            }
            Content::Strings(strings) => &strings[i],
        }
    }

    /// Whether elements `i` of this and `j` of `other` are the same bytes.
    pub(super) fn same_bytes(&self, i: usize, other: &Array, j: usize) -> bool {
        self.element(i) == other.element(j)
    }

    /// Element `i` of an array of integers or booleans.
    pub(super) fn int(&self, i: usize) -> i128 {
        number::int(self.dtype, self.element(i))
    }

    /// Element `i` of an array of floating-point numbers.
    pub(super) fn float(&self, i: usize) -> f64 {
        number::float(self.dtype, self.element(i))
    }

    /// All elements of an array of integers or truth values.
    ///
    /// # Errors
    /// It is one of something else, or one does not fit.
    pub fn ints(&self) -> Result<Vec<i64>> {
        if self.class() != Class::Int {
            let what = format!("{} where integers are expected", self.dtype);
            return Err(Unfolded::Invalid(what));
        }
        beside::<i64>(self.len())?;
        let fits = |i| i64::try_from(self.int(i)).map_err(|_| Unfolded::invalid("huge integer"));
        (0..self.len()).map(fits).collect()
    }

    /// The same elements with other extents of the same product.
    pub(super) fn with_dims(&self, dims: Vec<usize>) -> Array {
        Array {
            dims,
            ..self.clone()
        }
    }

    /// The same bytes as elements of `dtype`, one as wide.
    pub(super) fn with_dtype(&self, dtype: DataType) -> Array {
        Array {
            dtype,
            ..self.clone()
        }
    }

    /// The array of extents `dims` whose elements are those at `from`, one after the other.
    pub(super) fn take(
        &self,
        dims: Vec<usize>,
        from: impl Iterator<Item = usize>,
    ) -> Result<Array> {
        pick(dims, self.dtype, from.map(|i| (self, i)))
    }

    /// A copy with `updates[i]` in place `to[i]`, one after the other.
    pub(super) fn overwritten(&self, to: &[usize], updates: &Array) -> Result<Array> {
        if self.size() > LIMIT {
            return Err(Unfolded::TooLarge(self.size()));
        }
        let elements = match &self.elements {
            Content::Fixed(bytes) => {
                let width = width(self.dtype).unwrap_or_default();
                let mut bytes = bytes.to_vec();
                for (i, &place) in to.iter().enumerate() {
                    bytes[place * width..][..width].copy_from_slice(updates.element(i));
                }
                Content::Fixed(bytes.into())
            }
            Content::Strings(strings) => {
                let mut strings = strings.clone();
                for (update, &place) in updates.strings().iter().zip(to) {
                    strings[place] = update.clone();
                }
                Content::Strings(strings)
            }
        };
        Ok(Array {
            elements,
            ..self.clone()
        })
    }

    /// Elements of strings.
    pub(super) fn of_strings(dims: Vec<usize>, strings: Vec<Bytes>) -> Array {
        Array {
            dtype: DataType::String,
            dims,
            elements: Content::Strings(strings),
        }
    }

    /// The array of the integers `numbers` as elements of `dtype`.
    ///
    /// # Errors
    /// `dtype` is no type of integers or truth values, or cannot hold one of them.
    ///
    /// # Panics
    /// When there are more or fewer numbers than `dims` say.
    pub fn of_numbers(dtype: DataType, dims: &[i64], numbers: &[i64]) -> Result<Array> {
        let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
        assert_eq!(product(&dims), numbers.len(), "as many numbers as elements");
        let fits = |&n: &i64| number::wrap(dtype, n.into()) == n.into();
        if class(dtype) != Class::Int || !numbers.iter().all(fits) {
            return Err(Unfolded::Unsupported(format!("elements of type {dtype}")));
        }
        let mut out = Builder::new(dtype, dims)?;
        numbers.iter().for_each(|&n| out.int(n.into()));
        Ok(out.finish())
    }

    /// An array of int64.
    pub(super) fn of_ints(dims: Vec<usize>, ints: impl Iterator<Item = i64>) -> Result<Array> {
        let mut out = Builder::new(DataType::Int64, dims)?;
        ints.for_each(|i| out.int(i.into()));
        Ok(out.finish())
    }
}

/// The array of `dtype` and extents `dims` whose elements are those named, one after the
/// other, from arrays of the same type.
pub(super) fn pick<'a>(
    dims: Vec<usize>,
    dtype: DataType,
    from: impl Iterator<Item = (&'a Array, usize)>,
) -> Result<Array> {
    let mut out = Builder::new(dtype, dims)?;
    if dtype == DataType::String {
        let strings = from.map(|(a, i)| a.strings()[i].clone()).collect();
        return Ok(Array::of_strings(out.dims, strings));
    }
    from.for_each(|(a, i)| out.bytes.extend_from_slice(a.element(i)));
    Ok(out.finish())
}

/// Bytes that a string takes beside its text.
const STRING: usize = size_of::<Bytes>();

/// Refuses `count` items beside operands and result that take more memory than a result may.
pub(super) fn beside<T>(count: usize) -> Result<()> {
    match (count as u64).saturating_mul(size_of::<T>() as u64) {
        bytes if bytes <= LIMIT => Ok(()),
        bytes => Err(Unfolded::TooLarge(bytes)),
    }
}

/// Collects the elements of a new array.
pub(super) struct Builder {
    dtype: DataType,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl Builder {
    /// Begins an array, unless it would be too large.
    pub(super) fn new(dtype: DataType, dims: Vec<usize>) -> Result<Builder> {
        let count = count(&dims)?;
        let width = match dtype {
            DataType::String => STRING,
            _ => width(dtype)
                .ok_or_else(|| Unfolded::Unsupported(format!("elements of type {dtype}")))?,
        };
        match count.checked_mul(width as u64) {
            Some(bytes) if bytes <= LIMIT => Ok(Builder {
                dtype,
                dims,
                bytes: Vec::with_capacity(if width == STRING { 0 } else { bytes as usize }),
            }),
            bytes => Err(Unfolded::TooLarge(bytes.unwrap_or(u64::MAX))),
        }
    }

    /// Appends an integer, wrapped.
    pub(super) fn int(&mut self, x: i128) {
        number::put_int(self.dtype, x, &mut self.bytes);
    }

    /// Appends a floating-point number, rounded.
    pub(super) fn float(&mut self, x: f64) {
        number::put_float(self.dtype, x, &mut self.bytes);
    }

    /// Appends a code of one byte.
    pub(super) fn code(&mut self, code: u8) {
        self.bytes.push(code);
    }

    /// The array.
    pub(super) fn finish(self) -> Array {
        debug_assert_eq!(
            self.bytes.len(),
            product(&self.dims) * width(self.dtype).unwrap_or_default()
        );
        Array {
            dtype: self.dtype,
            dims: self.dims,
            elements: Content::Fixed(self.bytes.into()),
        }
    }
}

/// The product of extents of an array, or of some of them; 0 when it is too large, which
/// only an empty array allows.
pub(super) fn product(dims: &[usize]) -> usize {
    count(dims).map_or(0, |n| n as usize)
}

/// The product of `dims`.
pub(super) fn count(dims: &[usize]) -> Result<u64> {
    if dims.contains(&0) {
        return Ok(0);
    }
    let product = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    product.ok_or(Unfolded::TooLarge(u64::MAX))
}

fn unpack(bytes: &[u8], bits: usize, tensor: &Tensor) -> Bytes {
    let count = tensor.element_count().unwrap_or(0) as usize;
    let mask = (1u8 << bits) - 1;
    let element = |i: usize| bytes[i * bits / 8] >> (i * bits % 8) & mask;
    (0..count).map(element).collect()
}

fn pack(elements: &[u8], bits: usize) -> Bytes {
    let byte = |group: &[u8]| {
        let placed = group.iter().enumerate();
        placed.fold(0, |byte, (i, e)| byte | e << (i * bits))
    };
    elements.chunks(8 / bits).map(byte).collect()
}

/// Strides of a row-major array of extents `dims`.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        // Only strides of an empty array can be too large; they are never used.
        strides[axis - 1] = usize::wrapping_mul(strides[axis], dims[axis]);
    }
    strides
}

/// The indices of an array, in row-major order, as the place that each of `N` lists of strides
/// gives them. Strides may be negative numbers, wrapped.
pub(super) struct Places<const N: usize> {
    dims: Vec<usize>,
    strides: [Vec<usize>; N],
    index: Vec<usize>,
    place: [usize; N],
    len: u64,
    left: u64,
}

impl<const N: usize> Places<N> {
    /// The places of an array of extents `dims`.
    pub(super) fn new(dims: &[usize], strides: [Vec<usize>; N]) -> Result<Places<N>> {
        let len = count(dims)?;
        Ok(Places {
            dims: dims.to_vec(),
            strides,
            index: vec![0; dims.len()],
            place: [0; N],
            len,
            left: len,
        })
    }

    /// How many there are, from the first to the last.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Goes back to the first.
    pub(super) fn rewind(&mut self) -> &mut Places<N> {
        self.index.fill(0);
        self.place = [0; N];
        self.left = self.len;
        self
    }

    /// Goes to the next index; after the last comes the first.
    fn advance(&mut self) {
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            for (p, s) in self.place.iter_mut().zip(&self.strides) {
                *p = p.wrapping_add(s[axis]);
            }
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.index[axis] = 0;
            for (p, s) in self.place.iter_mut().zip(&self.strides) {
                *p = p.wrapping_sub(s[axis].wrapping_mul(self.dims[axis]));
            }
        }
    }
}

impl<const N: usize> Iterator for Places<N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.left = self.left.checked_sub(1)?;
        let place = self.place;
        self.advance();
        Some(place)
    }
}
