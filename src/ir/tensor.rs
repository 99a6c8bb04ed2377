//! Constants.

use bytes::Bytes;

use super::{Data, DataType, Property, Str};

/// A dense constant. The constant of an initializer is named by its value; a constant in
/// an attribute may have a name of its own.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name of a constant in an attribute; `None` for an initializer.
    pub name: Option<Str>,
    /// Element type.
    pub dtype: DataType,
    /// Extents, none negative; no entries: a scalar.
    pub dims: Vec<i64>,
    /// The elements.
    pub elements: Elements,
    /// Free text.
    pub doc_string: Option<Str>,
    /// Key and value pairs.
    pub metadata: Vec<Property>,
    /// How the file held it.
    pub wire: TensorWire,
}

/// The elements of a constant.
#[derive(Clone, Debug)]
pub enum Elements {
    /// Of a type with a fixed size; as many bytes as dims and type say.
    Data(Data),
    /// Strings.
    Strings(Vec<Bytes>),
}

/// What the wire format can express in more than one way, so that it is written back as
/// it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TensorWire {
    /// Elements stand in the typed field (`float_data`, ...) and not in `raw_data`.
    pub typed: bool,
    /// `data_location` is written although it has its default value.
    pub explicit_location: bool,
    /// The `segment` field (begin, end), which nothing reads any more.
    pub segment: Option<(Option<i64>, Option<i64>)>,
}

impl Tensor {
    /// A constant of `dtype` and extents `dims` with the bytes `data`.
    ///
    /// # Panics
    /// When the length of `data` is not what `dtype` and `dims` say.
    pub fn new(dtype: DataType, dims: Vec<i64>, data: Data) -> Tensor {
        let tensor = Tensor {
            name: None,
            dtype,
            dims,
            elements: Elements::Data(data),
            doc_string: None,
            metadata: Vec::new(),
            wire: TensorWire::default(),
        };
        assert_eq!(
            Some(tensor.byte_len()),
            tensor.element_count().and_then(|n| dtype.byte_len(n)),
            "a tensor has the bytes that its type and extents say"
        );
        tensor
    }

    /// A constant of int64 elements.
    pub fn from_i64(dims: Vec<i64>, elements: &[i64]) -> Tensor {
        let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor::new(DataType::Int64, dims, Data::Bytes(bytes.into()))
    }

    /// A constant of float elements.
    pub fn from_f32(dims: Vec<i64>, elements: &[f32]) -> Tensor {
        let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor::new(DataType::Float, dims, Data::Bytes(bytes.into()))
    }

    /// A constant of strings, as many as `dims` say.
    pub fn from_strings(dims: Vec<i64>, strings: Vec<Bytes>) -> Tensor {
        Tensor {
            name: None,
            dtype: DataType::String,
            dims,
            elements: Elements::Strings(strings),
            doc_string: None,
            metadata: Vec::new(),
            wire: TensorWire::default(),
        }
    }

    /// The product of the extents; `None` when it overflows or one is negative.
    pub fn element_count(&self) -> Option<u64> {
        element_count(&self.dims)
    }

    /// The bytes, unless the elements are strings.
    pub fn data(&self) -> Option<&Data> {
        match &self.elements {
            Elements::Data(d) => Some(d),
            Elements::Strings(_) => None,
        }
    }

    /// Bytes the elements take.
    pub fn byte_len(&self) -> u64 {
        match &self.elements {
            Elements::Data(d) => d.len(),
            Elements::Strings(s) => s.iter().map(|s| s.len() as u64).sum(),
        }
    }
}

/// The product of `dims`; `None` when it overflows or one is negative.
pub fn element_count(dims: &[i64]) -> Option<u64> {
    // Zero first: [0, 2^62, 2^62] has no elements, although a product on the way overflows.
    if dims.iter().any(|&d| d < 0) {
        return None;
    }
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter()
        .try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))
}

/// A constant in coordinate form.
#[derive(Clone, Debug)]
pub struct SparseTensor {
    /// The elements that are not zero.
    pub values: Option<Tensor>,
    /// Where they are.
    pub indices: Option<Tensor>,
    /// Extents.
    pub dims: Vec<i64>,
}
