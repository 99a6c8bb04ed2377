//! Tensors that go into an engine and come out of it.

use half::{bf16, f16};

use crate::{
    error::{Error, Result},
    ir::{Data, DataType, Tensor},
};

/// A dense tensor in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    dims: Vec<usize>,
    elements: Elements,
}

/// A type of element that an [`Array`] can have.
pub trait Element: Copy + Send + Sync + 'static {
    /// Its type in a model.
    const TYPE: DataType;
    /// The buffer that holds `elements`.
    fn wrap(elements: Vec<Self>) -> Elements;
    /// The elements, if they are of this type.
    fn unwrap(elements: &Elements) -> Option<&[Self]>;
}

macro_rules! elements {
    ($($variant:ident $rust:ty,)*) => {
        /// The elements of an [`Array`], by type.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the variants are the element types of the format")]
        pub enum Elements { $($variant(Vec<$rust>),)* }

        impl Elements {
            /// Type of the elements.
            pub fn dtype(&self) -> DataType {
                match self { $(Elements::$variant(_) => DataType::$variant,)* }
            }

            /// How many there are.
            pub fn len(&self) -> usize {
                match self { $(Elements::$variant(v) => v.len(),)* }
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }

        $(impl Element for $rust {
            const TYPE: DataType = DataType::$variant;
            fn wrap(elements: Vec<Self>) -> Elements {
                Elements::$variant(elements)
            }
            fn unwrap(elements: &Elements) -> Option<&[Self]> {
                match elements {
                    Elements::$variant(v) => Some(v),
                    _ => None,
                }
            }
        })*

        /// Calls `$body` with the slice of elements, whatever their type.
        macro_rules! with_elements {
            ($elements:expr, $slice:ident => $body:expr) => {
                match $elements { $($crate::engine::Elements::$variant($slice) => $body,)* }
            };
        }
        pub(crate) use with_elements;
    };
}

elements! {
    Float f32,
    Double f64,
    Float16 f16,
    Bfloat16 bf16,
    Int64 i64,
    Int32 i32,
    Int16 i16,
    Int8 i8,
    Uint64 u64,
    Uint32 u32,
    Uint16 u16,
    Uint8 u8,
    Bool bool,
}

impl Array {
    /// An array of extents `dims`.
    ///
    /// # Panics
    /// When there are not as many elements as `dims` say.
    pub fn new<T: Element>(dims: Vec<usize>, elements: Vec<T>) -> Array {
        Array::from_elements(dims, T::wrap(elements))
    }

    /// As [`Array::new`], of any type.
    ///
    /// # Panics
    /// When there are not as many elements as `dims` say.
    pub fn from_elements(dims: Vec<usize>, elements: Elements) -> Array {
        assert_eq!(dims.iter().product::<usize>(), elements.len(), "{dims:?}");
        Array { dims, elements }
    }

    /// `count` integers (or truth values) of type `dtype`: what `of` gives for each index.
    /// `None` when `dtype` is none of the types that ids and masks have.
    pub fn of_integers(
        dtype: DataType,
        dims: Vec<usize>,
        of: impl Fn(usize) -> i64,
    ) -> Option<Array> {
        let all = (0..dims.iter().product()).map(of);
        let elements = match dtype {
            DataType::Int64 => Elements::Int64(all.collect()),
            DataType::Int32 => Elements::Int32(all.map(|x| x as i32).collect()),
            DataType::Bool => Elements::Bool(all.map(|x| x != 0).collect()),
            DataType::Float => Elements::Float(all.map(|x| x as f32).collect()),
            DataType::Float16 => Elements::Float16(all.map(|x| f16::from_f32(x as f32)).collect()),
            _ => return None,
        };
        Some(Array { dims, elements })
    }

    /// Zeros of type `dtype`.
    ///
    /// # Errors
    /// `dtype` is no type of array.
    pub fn zeros(dtype: DataType, dims: Vec<usize>) -> Result<Array> {
        let bytes = dtype.bits() as usize / 8 * dims.iter().product::<usize>();
        Array::from_le_bytes(dtype, dims, &vec![0; bytes])
    }

    /// An array from the little-endian bytes of its elements.
    ///
    /// # Errors
    /// `dtype` is no type of array, or `bytes` has another length than `dims` say.
    pub fn from_le_bytes(dtype: DataType, dims: Vec<usize>, bytes: &[u8]) -> Result<Array> {
        macro_rules! read {
            ($($variant:ident $rust:ty,)*) => {
                match dtype {
                    $(DataType::$variant => Elements::$variant(
                        bytes
                            .as_chunks()
                            .0
                            .iter()
                            .map(|b| <$rust>::from_le_bytes(*b))
                            .collect(),
                    ),)*
                    DataType::Bool => Elements::Bool(bytes.iter().map(|&b| b != 0).collect()),
                    other => {
                        return Err(Error::unsupported(format!(
                            "a tensor of {} cannot go into an engine",
                            other.name()
                        )));
                    }
                }
            };
        }
        let elements = read! {
            Float f32, Double f64, Float16 f16, Bfloat16 bf16, Int64 i64, Int32 i32, Int16 i16,
            Int8 i8, Uint64 u64, Uint32 u32, Uint16 u16, Uint8 u8,
        };
        let expected = dims.iter().product::<usize>();
        if elements.len() != expected || bytes.len() as u64 * 8 != dtype.bits() * expected as u64 {
            return Err(Error::input(format!(
                "{} bytes of {}, expected {expected} elements",
                bytes.len(),
                dtype.name()
            )));
        }
        Ok(Array { dims, elements })
    }

    /// A constant of a model.
    ///
    /// # Errors
    /// It is of a type that no array has, or cannot be read.
    pub fn of_tensor(tensor: &Tensor) -> Result<Array> {
        let dims = tensor.dims.iter().map(|&d| d as usize).collect();
        let bytes = tensor.data().map(Data::read_all).transpose()?;
        Array::from_le_bytes(tensor.dtype, dims, &bytes.unwrap_or_default())
    }

    /// The little-endian bytes of the elements.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match &self.elements {
            Elements::Bool(v) => v.iter().map(|&b| u8::from(b)).collect(),
            Elements::Float(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Double(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Float16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Bfloat16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Int64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Int32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Int16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Int8(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Uint64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Uint32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Uint16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Uint8(v) => v.clone(),
        }
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DataType {
        self.elements.dtype()
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::unwrap(&self.elements)
    }

    /// The elements as real numbers, each rounded to the nearest float32; `None` for `bool`.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        Some(match &self.elements {
            Elements::Float(v) => v.clone(),
            Elements::Double(v) => v.iter().map(|&x| x as f32).collect(),
            Elements::Float16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Elements::Bfloat16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Elements::Int64(v) => v.iter().map(|&x| x as f32).collect(),
            Elements::Int32(v) => v.iter().map(|&x| x as f32).collect(),
            Elements::Int16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Elements::Int8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Elements::Uint64(v) => v.iter().map(|&x| x as f32).collect(),
            Elements::Uint32(v) => v.iter().map(|&x| x as f32).collect(),
            Elements::Uint16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Elements::Uint8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Elements::Bool(_) => return None,
        })
    }

    /// The elements as real numbers; truth values as 0 and 1. Integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.elements {
            Elements::Float(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Double(v) => v.clone(),
            Elements::Float16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Elements::Bfloat16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Elements::Int64(v) => v.iter().map(|&x| x as f64).collect(),
            Elements::Int32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Int16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Int8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Uint64(v) => v.iter().map(|&x| x as f64).collect(),
            Elements::Uint32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Uint16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Uint8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Elements::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }

    /// As [`Array::to_f32`], without a copy when they are float32.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match self.elements {
            Elements::Float(v) => Some(v),
            _ => self.to_f32(),
        }
    }

    /// The same numbers as another type: a floating-point one of 32 or 16 bits as such another
    /// one, 32- and 64-bit integers and truth values as one another. `None` for anything else.
    pub fn to_type(&self, dtype: DataType) -> Option<Array> {
        use DataType as T;
        let half = |t| matches!(t, T::Float | T::Float16 | T::Bfloat16);
        let whole = |t| matches!(t, T::Int64 | T::Int32 | T::Bool);
        let numbers = self.to_f64();
        let floats = numbers.iter().map(|&x| x as f32);
        let elements = match dtype {
            T::Float if half(self.dtype()) => Elements::Float(floats.collect()),
            T::Float16 if half(self.dtype()) => {
                Elements::Float16(floats.map(f16::from_f32).collect())
            }
            T::Bfloat16 if half(self.dtype()) => {
                Elements::Bfloat16(floats.map(bf16::from_f32).collect())
            }
            _ if whole(dtype) && whole(self.dtype()) => {
                return Array::of_integers(dtype, self.dims.clone(), |i| numbers[i] as i64);
            }
            _ => return None,
        };
        Some(Array {
            dims: self.dims.clone(),
            elements,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        let array = Array::new(vec![2, 2], vec![1.5f32, -0.0, f32::MIN_POSITIVE, 7e9]);
        let bytes = array.to_le_bytes();
        let back = Array::from_le_bytes(DataType::Float, vec![2, 2], &bytes).unwrap();
        assert_eq!(back, array);
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        for len in [3, 5, 9] {
            assert!(Array::from_le_bytes(DataType::Int16, vec![2], &vec![0; len]).is_err());
        }
        assert!(Array::from_le_bytes(DataType::Uint4, vec![2], &[0]).is_err());
    }

    #[test]
    fn zeros_of_every_type() {
        let half = Array::zeros(DataType::Float16, vec![1, 0, 3]).unwrap();
        assert_eq!(half.dims(), [1, 0, 3]);
        let truth = Array::zeros(DataType::Bool, vec![2]).unwrap();
        assert_eq!(truth.as_slice(), Some([false, false].as_slice()));
    }
}
