//! The vocabulary of the table. Numbers are those of the wire format, so that a conversion
//! to or from another module's type is one call; the types themselves belong to nobody else.

use std::{fmt, sync::Arc};

/// Declares an enum whose variants have a number on the wire and a name in the schemas.
macro_rules! coded_enum {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $type { $($(#[$variant_doc])* $variant = $code,)* }

        impl $type {
            /// Every variant, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number that the wire format gives it.
            pub fn code(self) -> i32 {
                self as i32
            }

            /// The variant with that number on the wire.
            pub fn from_code(code: i32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name in lower case, as the table writes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The variant of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

coded_enum! {
    /// The type of one element of a tensor. The number is that of `TensorProto.DataType`, the
    /// name that of the type strings, as in `tensor(float16)`.
    ElementType {
        /// 32-bit float.
        Float = 1 "float",
        /// Unsigned 8-bit integer.
        Uint8 = 2 "uint8",
        /// Signed 8-bit integer.
        Int8 = 3 "int8",
        /// Unsigned 16-bit integer.
        Uint16 = 4 "uint16",
        /// Signed 16-bit integer.
        Int16 = 5 "int16",
        /// Signed 32-bit integer.
        Int32 = 6 "int32",
        /// Signed 64-bit integer.
        Int64 = 7 "int64",
        /// A byte string.
        String = 8 "string",
        /// A truth value, one byte.
        Bool = 9 "bool",
        /// IEEE half precision.
        Float16 = 10 "float16",
        /// 64-bit float.
        Double = 11 "double",
        /// Unsigned 32-bit integer.
        Uint32 = 12 "uint32",
        /// Unsigned 64-bit integer.
        Uint64 = 13 "uint64",
        /// Two 32-bit floats.
        Complex64 = 14 "complex64",
        /// Two 64-bit floats.
        Complex128 = 15 "complex128",
        /// The upper half of a 32-bit float.
        Bfloat16 = 16 "bfloat16",
        /// 8-bit float, 4 bits of exponent, finite.
        Float8E4M3Fn = 17 "float8e4m3fn",
        /// The same without a negative zero.
        Float8E4M3Fnuz = 18 "float8e4m3fnuz",
        /// 8-bit float, 5 bits of exponent.
        Float8E5M2 = 19 "float8e5m2",
        /// The same without infinities and negative zero.
        Float8E5M2Fnuz = 20 "float8e5m2fnuz",
        /// Unsigned 4-bit integer.
        Uint4 = 21 "uint4",
        /// Signed 4-bit integer.
        Int4 = 22 "int4",
        /// 4-bit float.
        Float4E2M1 = 23 "float4e2m1",
        /// A power of two in 8 bits.
        Float8E8M0 = 24 "float8e8m0",
        /// Unsigned 2-bit integer.
        Uint2 = 25 "uint2",
        /// Signed 2-bit integer.
        Int2 = 26 "int2",
        /// 6-bit float, 2 bits of exponent.
        Float6E2M3 = 27 "float6e2m3",
        /// 6-bit float, 3 bits of exponent.
        Float6E3M2 = 28 "float6e3m2",
    }
}

coded_enum! {
    /// The type of an attribute. The number is that of `AttributeProto.AttributeType`.
    AttrKind {
        /// A 32-bit float.
        Float = 1 "float",
        /// A 64-bit integer.
        Int = 2 "int",
        /// A byte string.
        String = 3 "string",
        /// A tensor.
        Tensor = 4 "tensor",
        /// A subgraph.
        Graph = 5 "graph",
        /// A list of floats.
        Floats = 6 "floats",
        /// A list of integers.
        Ints = 7 "ints",
        /// A list of byte strings.
        Strings = 8 "strings",
        /// A list of tensors.
        Tensors = 9 "tensors",
        /// A list of subgraphs.
        Graphs = 10 "graphs",
        /// A sparse tensor.
        SparseTensor = 11 "sparse_tensor",
        /// A list of sparse tensors.
        SparseTensors = 12 "sparse_tensors",
        /// A type.
        TypeProto = 13 "type_proto",
        /// A list of types.
        TypeProtos = 14 "type_protos",
    }
}

/// The value an attribute has when the node does not set it.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrDefault {
    /// A 32-bit float.
    Float(f32),
    /// A 64-bit integer.
    Int(i64),
    /// A string.
    String(&'static str),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of strings.
    Strings(Vec<&'static str>),
}

/// An attribute that an operator has.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AttrDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: AttrKind,
    /// Whether every node must set it. A required attribute has no default.
    pub required: bool,
    /// What it is when not set. An attribute may be neither required nor have a default:
    /// then its absence means something of its own.
    pub default: Option<AttrDefault>,
}

/// How often an input or output may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamOption {
    /// Once.
    Single,
    /// Once, or left out.
    Optional,
    /// At least `min` times; always the last of its list.
    Variadic {
        /// The least count.
        min: usize,
        /// Whether all of them have the same type, and not each its own of the set.
        homogeneous: bool,
    },
}

/// An input or output of an operator.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Param {
    /// Its name in the schema, which no node uses.
    pub name: &'static str,
    /// How often it may occur.
    pub option: ParamOption,
    /// The name of a type constraint of the operator, such as `T`, or one type, such as
    /// `tensor(int64)`. Parameters that name the same constraint have the same type.
    pub type_str: &'static str,
    /// The types it may have, as `type_str` says.
    pub types: TypeSet,
}

/// A type variable of an operator.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TypeConstraint {
    /// Its name, such as `T`.
    pub name: &'static str,
    /// What it may stand for.
    pub types: TypeSet,
}

/// A set of types of values: tensors by element type, anything else by its type string.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeSet {
    // One bit a code of `ElementType`.
    tensors: u32,
    // Long lists recur (the sequence and optional types), so they are shared.
    others: Option<Arc<[&'static str]>>,
}

// Every code has its bit.
const _: () = {
    let mut i = 0;
    while i < ElementType::ALL.len() {
        assert!((ElementType::ALL[i] as u32) < u32::BITS);
        i += 1;
    }
};

impl TypeSet {
    pub(super) fn insert_tensor(&mut self, element: ElementType) {
        self.tensors |= 1 << (element as u32);
    }

    pub(super) fn set_others(&mut self, others: Vec<&'static str>) {
        self.others = (!others.is_empty()).then(|| others.into());
    }

    /// Whether a tensor of that element type is in the set.
    pub fn has_tensor(&self, element: ElementType) -> bool {
        self.tensors >> (element as u32) & 1 == 1
    }

    /// The element types of the tensors in the set, in order of their codes.
    pub fn tensors(&self) -> impl Iterator<Item = ElementType> + '_ {
        let all = ElementType::ALL.iter().copied();
        all.filter(|element| self.has_tensor(*element))
    }

    /// The types in the set that are not dense tensors, such as `seq(tensor(float))`,
    /// spelled as ONNX does and in order.
    pub fn others(&self) -> &[&'static str] {
        self.others.as_deref().unwrap_or_default()
    }

    /// How many types are in the set.
    pub fn len(&self) -> usize {
        self.tensors.count_ones() as usize + self.others().len()
    }

    /// Whether there is no type in the set. No set of the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who publishes a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The ONNX standard.
    Onnx,
    /// ONNX Runtime alone. Such operators exist in the default domain too, for example
    /// `SimplifiedLayerNormalization`, and other runtimes do not know them.
    OnnxRuntime,
}

/// One version of one operator.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OpSchema {
    /// The domain; empty for the default domain, `ai.onnx`.
    pub domain: &'static str,
    /// The operator's name, a node's `op_type`.
    pub name: &'static str,
    /// The opset of the domain at which this version begins.
    pub since_version: i64,
    /// Whether the operator ended with this version: a node at this opset is an error.
    pub deprecated: bool,
    /// Whether the standard gives it a body of other operators. Known of ONNX's operators
    /// only: for those of ONNX Runtime, `false` means nothing.
    pub function: bool,
    /// Whether ONNX Runtime loads a node that has attributes beyond [these](Self::attributes),
    /// as it does with `EPContext`, where they are the payload of an execution provider.
    /// Of a deprecated version this is not known, and `false`.
    pub unchecked_attributes: bool,
    /// Who publishes it.
    pub origin: Origin,
    /// The attributes, in order of name.
    pub attributes: Vec<AttrDef>,
    /// The type constraints, in order of name.
    pub type_constraints: Vec<TypeConstraint>,
    /// The inputs, in their order.
    pub inputs: Vec<Param>,
    /// The outputs, in their order.
    pub outputs: Vec<Param>,
    /// The least count of inputs.
    pub min_inputs: usize,
    /// The greatest count of inputs; `None` if the last is variadic.
    pub max_inputs: Option<usize>,
    /// The least count of outputs.
    pub min_outputs: usize,
    /// The greatest count of outputs; `None` if the last is variadic.
    pub max_outputs: Option<usize>,
}

impl OpSchema {
    /// The attribute of that name, if the operator has one.
    pub fn attribute(&self, name: &str) -> Option<&AttrDef> {
        // A handful at most: a scan is as fast as a search.
        self.attributes.iter().find(|attr| attr.name == name)
    }

    /// The input that the node's input at `index` is; the variadic one for all past it.
    pub fn input(&self, index: usize) -> Option<&Param> {
        param_at(&self.inputs, index)
    }

    /// The output that the node's output at `index` is; the variadic one for all past it.
    pub fn output(&self, index: usize) -> Option<&Param> {
        param_at(&self.outputs, index)
    }

    /// The type constraint of that name.
    pub fn type_constraint(&self, name: &str) -> Option<&TypeConstraint> {
        self.type_constraints.iter().find(|t| t.name == name)
    }

    /// Whether an attribute holds a subgraph, as those of `If` and `Loop` do.
    pub fn has_subgraphs(&self) -> bool {
        let holds = |attr: &AttrDef| matches!(attr.kind, AttrKind::Graph | AttrKind::Graphs);
        self.attributes.iter().any(holds)
    }
}

fn param_at(params: &[Param], index: usize) -> Option<&Param> {
    let variadic = |param: &&Param| matches!(param.option, ParamOption::Variadic { .. });
    params.get(index).or_else(|| params.last().filter(variadic))
}

/// A domain in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Domain {
    /// Its name; empty for the default domain, `ai.onnx`.
    pub name: &'static str,
    /// The newest opset that the table covers.
    pub newest_opset: i64,
}
