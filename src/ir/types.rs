//! Element types, shapes and value types.

use std::fmt;

use super::Str;

/// Element type of a tensor, with the numbers of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub enum DataType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
    Float8e4m3fnuz = 18,
    Float8e5m2 = 19,
    Float8e5m2fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4e2m1 = 23,
    Float8e8m0 = 24,
    Uint2 = 25,
    Int2 = 26,
    Float6e2m3 = 27,
    Float6e3m2 = 28,
}

impl DataType {
    /// Every type, in the order of the wire numbers.
    pub const ALL: [DataType; 29] = {
        use DataType::*;
        [
            Undefined,
            Float,
            Uint8,
            Int8,
            Uint16,
            Int16,
            Int32,
            Int64,
            String,
            Bool,
            Float16,
            Double,
            Uint32,
            Uint64,
            Complex64,
            Complex128,
            Bfloat16,
            Float8e4m3fn,
            Float8e4m3fnuz,
            Float8e5m2,
            Float8e5m2fnuz,
            Uint4,
            Int4,
            Float4e2m1,
            Float8e8m0,
            Uint2,
            Int2,
            Float6e2m3,
            Float6e3m2,
        ]
    };

    /// The type with the wire number `code`.
    pub fn from_code(code: i32) -> Option<DataType> {
        DataType::ALL.get(usize::try_from(code).ok()?).copied()
    }

    /// The wire number.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Bits an element takes in `raw_data`; 0 for types without a fixed size.
    pub fn bits(self) -> u64 {
        use DataType::*;
        match self {
            Undefined | String => 0,
            Uint2 | Int2 => 2,
            Uint4 | Int4 | Float4e2m1 => 4,
            Float6e2m3 | Float6e3m2 => 6,
            Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz
            | Float8e8m0 => 8,
            Uint16 | Int16 | Float16 | Bfloat16 => 16,
            Float | Int32 | Uint32 => 32,
            Double | Int64 | Uint64 | Complex64 => 64,
            Complex128 => 128,
        }
    }

    /// Bytes that `elements` elements take in `raw_data`, or `None` when that overflows.
    pub fn byte_len(self, elements: u64) -> Option<u64> {
        Some(elements.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Whether it is a floating-point type that weights come in: float, float16,
    /// bfloat16, double.
    pub fn is_float(self) -> bool {
        use DataType::*;
        matches!(self, Float | Float16 | Bfloat16 | Double)
    }

    /// The lower-case name that ONNX's textual syntax uses.
    pub fn name(self) -> &'static str {
        use DataType::*;
        match self {
            Undefined => "undefined",
            Float => "float",
            Uint8 => "uint8",
            Int8 => "int8",
            Uint16 => "uint16",
            Int16 => "int16",
            Int32 => "int32",
            Int64 => "int64",
            String => "string",
            Bool => "bool",
            Float16 => "float16",
            Double => "double",
            Uint32 => "uint32",
            Uint64 => "uint64",
            Complex64 => "complex64",
            Complex128 => "complex128",
            Bfloat16 => "bfloat16",
            Float8e4m3fn => "float8e4m3fn",
            Float8e4m3fnuz => "float8e4m3fnuz",
            Float8e5m2 => "float8e5m2",
            Float8e5m2fnuz => "float8e5m2fnuz",
            Uint4 => "uint4",
            Int4 => "int4",
            Float4e2m1 => "float4e2m1",
            Float8e8m0 => "float8e8m0",
            Uint2 => "uint2",
            Int2 => "int2",
            Float6e2m3 => "float6e2m3",
            Float6e3m2 => "float6e3m2",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One axis of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    /// Its extent.
    pub size: DimSize,
    /// What the axis means (such as `DATA_BATCH`), when the file says so.
    pub denotation: Option<Str>,
}

/// The extent of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DimSize {
    /// A number of elements. The format allows any `i64`; negative is left to the verifier.
    Known(i64),
    /// A name: equal names are equal extents.
    Symbol(Str),
    /// Not known.
    Unknown,
}

impl Dim {
    /// An axis of `size` elements.
    pub fn known(size: i64) -> Dim {
        Dim {
            size: DimSize::Known(size),
            denotation: None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.size {
            DimSize::Known(n) => write!(f, "{n}"),
            DimSize::Symbol(name) => f.write_str(name),
            DimSize::Unknown => f.write_str("?"),
        }
    }
}

/// Element type and shape, each as far as the file tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Element type; `None` when absent.
    pub elem: Option<DataType>,
    /// Axes; `None` when even the rank is unknown.
    pub shape: Option<Vec<Dim>>,
}

/// The type of a value, with its denotation when the file has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// The type itself.
    pub kind: TypeKind,
    /// What the value means (such as `IMAGE`).
    pub denotation: Option<Str>,
}

/// The kinds of type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A type message without content.
    Unset,
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    SparseTensor(TensorType),
    /// A sequence of values of one type.
    Sequence(Option<Box<Type>>),
    /// An optional value.
    Optional(Option<Box<Type>>),
    /// A map from integers or strings.
    Map(Option<DataType>, Option<Box<Type>>),
    /// A type that only its domain knows.
    Opaque {
        /// The domain.
        domain: Option<Str>,
        /// The name in it.
        name: Option<Str>,
    },
}

impl Type {
    /// A dense tensor of known element type and known extents.
    pub fn tensor(elem: DataType, dims: &[i64]) -> Type {
        Type::from(TensorType {
            elem: Some(elem),
            shape: Some(dims.iter().copied().map(Dim::known).collect()),
        })
    }

    /// The tensor type, for a dense tensor.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match &self.kind {
            TypeKind::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type {
            kind: TypeKind::Tensor(t),
            denotation: None,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.elem {
            Some(t) => write!(f, "{t}")?,
            None => f.write_str("undefined")?,
        }
        match &self.shape {
            None => f.write_str("[]"),
            Some(dims) if dims.is_empty() => Ok(()),
            Some(dims) => {
                for (i, d) in dims.iter().enumerate() {
                    write!(f, "{}{d}", if i == 0 { "[" } else { "," })?;
                }
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_their_positions() {
        for (i, t) in DataType::ALL.iter().enumerate() {
            assert_eq!(t.code(), i as i32);
            assert_eq!(DataType::from_code(i as i32), Some(*t));
        }
        assert_eq!(DataType::from_code(29), None);
        assert_eq!(DataType::from_code(-1), None);
    }

    #[test]
    fn sub_byte_types_round_up_and_overflow_is_seen() {
        assert_eq!(DataType::Uint4.byte_len(3), Some(2));
        assert_eq!(DataType::Int2.byte_len(5), Some(2));
        assert_eq!(DataType::Float6e2m3.byte_len(5), Some(4));
        assert_eq!(DataType::Double.byte_len(u64::MAX / 8), None);
    }
}
