//! Types of values, both ways.

use crate::{
    error::{Error, Result},
    ir::{DataType, Dim, DimSize, Str, TensorType, Type, TypeKind},
    onnx::proto::{self, TensorShapeProto, TypeProto, tensor_shape_proto, type_proto},
};

/// A string of the wire as the IR holds it.
pub(super) fn text(s: Option<String>) -> Option<Str> {
    s.map(Str::from)
}

/// The inverse of [`text`].
pub(super) fn owned(s: &Option<Str>) -> Option<String> {
    s.as_deref().map(str::to_owned)
}

/// The data type with the wire number `code`.
pub(super) fn data_type(code: i32) -> Result<DataType> {
    DataType::from_code(code).ok_or_else(|| {
        let last = DataType::ALL.len() - 1;
        Error::input(format!("data type {code} is unknown; expected 0 to {last}"))
    })
}

pub(super) fn import_type(t: TypeProto) -> Result<Type> {
    use type_proto::Value;
    let tensor = |elem: Option<i32>, shape: Option<TensorShapeProto>| -> Result<TensorType> {
        Ok(TensorType {
            elem: elem.map(data_type).transpose()?,
            shape: shape.map(|s| s.dim.into_iter().map(import_dim).collect()),
        })
    };
    let boxed = |t: Option<Box<TypeProto>>| -> Result<Option<Box<Type>>> {
        t.map(|t| import_type(*t).map(Box::new)).transpose()
    };
    let kind = match t.value {
        None => TypeKind::Unset,
        Some(Value::TensorType(t)) => TypeKind::Tensor(tensor(t.elem_type, t.shape)?),
        Some(Value::SparseTensorType(t)) => TypeKind::SparseTensor(tensor(t.elem_type, t.shape)?),
        Some(Value::SequenceType(s)) => TypeKind::Sequence(boxed(s.elem_type)?),
        Some(Value::OptionalType(o)) => TypeKind::Optional(boxed(o.elem_type)?),
        Some(Value::MapType(m)) => {
            TypeKind::Map(m.key_type.map(data_type).transpose()?, boxed(m.value_type)?)
        }
        Some(Value::OpaqueType(o)) => TypeKind::Opaque {
            domain: text(o.domain),
            name: text(o.name),
        },
    };
    Ok(Type {
        kind,
        denotation: text(t.denotation),
    })
}

fn import_dim(d: tensor_shape_proto::Dimension) -> Dim {
    use tensor_shape_proto::dimension::Value;
    Dim {
        size: match d.value {
            None => DimSize::Unknown,
            Some(Value::DimValue(n)) => DimSize::Known(n),
            Some(Value::DimParam(name)) => DimSize::Symbol(name.into()),
        },
        denotation: text(d.denotation),
    }
}

pub(super) fn export_type(t: &Type) -> TypeProto {
    use type_proto::Value;
    let shape = |t: &TensorType| {
        t.shape.as_ref().map(|dims| TensorShapeProto {
            dim: dims.iter().map(export_dim).collect(),
        })
    };
    let boxed = |t: &Option<Box<Type>>| t.as_ref().map(|t| Box::new(export_type(t)));
    let value = match &t.kind {
        TypeKind::Unset => None,
        TypeKind::Tensor(t) => Some(Value::TensorType(type_proto::Tensor {
            elem_type: t.elem.map(DataType::code),
            shape: shape(t),
        })),
        TypeKind::SparseTensor(t) => Some(Value::SparseTensorType(type_proto::SparseTensor {
            elem_type: t.elem.map(DataType::code),
            shape: shape(t),
        })),
        TypeKind::Sequence(t) => Some(Value::SequenceType(Box::new(type_proto::Sequence {
            elem_type: boxed(t),
        }))),
        TypeKind::Optional(t) => Some(Value::OptionalType(Box::new(type_proto::Optional {
            elem_type: boxed(t),
        }))),
        TypeKind::Map(key, value) => Some(Value::MapType(Box::new(type_proto::Map {
            key_type: key.map(DataType::code),
            value_type: boxed(value),
        }))),
        TypeKind::Opaque { domain, name } => Some(Value::OpaqueType(type_proto::Opaque {
            domain: owned(domain),
            name: owned(name),
        })),
    };
    TypeProto {
        value,
        denotation: owned(&t.denotation),
    }
}

fn export_dim(d: &Dim) -> tensor_shape_proto::Dimension {
    use tensor_shape_proto::dimension::Value;
    tensor_shape_proto::Dimension {
        value: match &d.size {
            DimSize::Unknown => None,
            DimSize::Known(n) => Some(Value::DimValue(*n)),
            DimSize::Symbol(name) => Some(Value::DimParam(name.to_string())),
        },
        denotation: owned(&d.denotation),
    }
}

pub(super) fn import_properties(
    entries: Vec<proto::StringStringEntryProto>,
) -> Vec<crate::ir::Property> {
    let property = |e: proto::StringStringEntryProto| crate::ir::Property {
        key: text(e.key),
        value: text(e.value),
    };
    entries.into_iter().map(property).collect()
}

pub(super) fn export_properties(p: &[crate::ir::Property]) -> Vec<proto::StringStringEntryProto> {
    let entry = |p: &crate::ir::Property| proto::StringStringEntryProto {
        key: owned(&p.key),
        value: owned(&p.value),
    };
    p.iter().map(entry).collect()
}
