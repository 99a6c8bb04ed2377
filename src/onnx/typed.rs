//! The typed fields of a constant (`float_data`, `int32_data`, ...), which hold what
//! `raw_data` holds in another form.

use crate::{
    error::{Error, Result},
    ir::{Data, DataType},
    onnx::proto::TensorProto,
};

/// Which typed field holds elements of a type, and how many bytes an entry stands for.
enum TypedField {
    Float,
    Int32 {
        bytes: usize,
        signed: bool,
    },
    /// `int32_data` with an element an entry, where `raw_data` packs four in three bytes.
    SixBits,
    Int64,
    Double,
    Uint64 {
        bytes: usize,
    },
}

fn typed_field(dtype: DataType) -> TypedField {
    use DataType::*;
    match dtype {
        Float | Complex64 => TypedField::Float,
        Double | Complex128 => TypedField::Double,
        Int64 => TypedField::Int64,
        Uint32 => TypedField::Uint64 { bytes: 4 },
        Uint64 => TypedField::Uint64 { bytes: 8 },
        Int32 => TypedField::Int32 {
            bytes: 4,
            signed: true,
        },
        Int16 => TypedField::Int32 {
            bytes: 2,
            signed: true,
        },
        Uint16 | Float16 | Bfloat16 => TypedField::Int32 {
            bytes: 2,
            signed: false,
        },
        Int8 => TypedField::Int32 {
            bytes: 1,
            signed: true,
        },
        Float6e2m3 | Float6e3m2 => TypedField::SixBits,
        // Below a byte an entry is a packed byte.
        _ => TypedField::Int32 {
            bytes: 1,
            signed: false,
        },
    }
}

/// The elements of the typed field of `t`, as the bytes that `raw_data` would hold.
pub(super) fn typed_bytes(dtype: DataType, count: u64, t: &TensorProto) -> Result<Data> {
    let expected = dtype.byte_len(count).unwrap_or(u64::MAX);
    let check = |field: &str, entries: usize, width: usize| {
        if (entries as u64).checked_mul(width as u64) == Some(expected) {
            return Ok(());
        }
        let found = if entries == 0 { "no data" } else { field };
        Err(Error::input(format!(
            "{found}: {entries} entries, but {dtype} with shape {:?} needs {}",
            t.dims,
            expected / width as u64
        )))
    };
    let entries = [
        t.float_data.len(),
        t.int32_data.len(),
        t.int64_data.len(),
        t.double_data.len(),
        t.uint64_data.len(),
        t.string_data.len(),
    ];
    if count == 0 && entries.iter().any(|n| *n > 0) {
        return Err(Error::input(format!(
            "has elements, but shape {:?} has none",
            t.dims
        )));
    }
    let bytes: Vec<u8> = match typed_field(dtype) {
        TypedField::Float => {
            check("float_data", t.float_data.len(), 4)?;
            t.float_data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        TypedField::Double => {
            check("double_data", t.double_data.len(), 8)?;
            t.double_data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        TypedField::Int64 => {
            check("int64_data", t.int64_data.len(), 8)?;
            t.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        TypedField::Uint64 { bytes } => {
            check("uint64_data", t.uint64_data.len(), bytes)?;
            let mut out = Vec::with_capacity(t.uint64_data.len() * bytes);
            for &x in &t.uint64_data {
                if bytes == 4 && u32::try_from(x).is_err() {
                    return Err(Error::input(format!(
                        "uint64_data holds {x}, which is no {dtype}"
                    )));
                }
                out.extend_from_slice(&x.to_le_bytes()[..bytes]);
            }
            out
        }
        TypedField::SixBits => {
            if t.int32_data.len() as u64 != count {
                return Err(Error::input(format!(
                    "int32_data: {} entries, but {dtype} with shape {:?} needs {count}",
                    t.int32_data.len(),
                    t.dims
                )));
            }
            let mut out = vec![0u8; expected as usize + 1];
            for (i, &x) in t.int32_data.iter().enumerate() {
                if !(0..64).contains(&x) {
                    return Err(Error::input(format!(
                        "int32_data holds {x}, which is no {dtype}"
                    )));
                }
                let bits = (x as u16) << (i * 6 % 8);
                out[i * 6 / 8] |= bits as u8;
                out[i * 6 / 8 + 1] |= (bits >> 8) as u8;
            }
            out.truncate(expected as usize);
            out
        }
        TypedField::Int32 { bytes, signed } => {
            check("int32_data", t.int32_data.len(), bytes)?;
            let range = match (bytes, signed) {
                (4, _) => i32::MIN..=i32::MAX,
                (2, true) => i32::from(i16::MIN)..=i32::from(i16::MAX),
                (2, false) => 0..=i32::from(u16::MAX),
                (_, true) => i32::from(i8::MIN)..=i32::from(i8::MAX),
                (_, false) => 0..=i32::from(u8::MAX),
            };
            let mut out = Vec::with_capacity(t.int32_data.len() * bytes);
            for &x in &t.int32_data {
                if !range.contains(&x) {
                    return Err(Error::input(format!(
                        "int32_data holds {x}, which is no {dtype}"
                    )));
                }
                out.extend_from_slice(&x.to_le_bytes()[..bytes]);
            }
            out
        }
    };
    Ok(Data::Bytes(bytes.into()))
}

/// The inverse of [`typed_bytes`]; `double_data` and `uint64_data` come after `raw_data`
/// in field order and so belong to the tail.
pub(super) fn put_typed(
    dtype: DataType,
    count: u64,
    bytes: &[u8],
    head: &mut TensorProto,
    tail: &mut TensorProto,
) {
    fn entries<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|c| from(*c)).collect()
    }
    match typed_field(dtype) {
        TypedField::Float => head.float_data = entries(bytes, f32::from_le_bytes),
        TypedField::Int64 => head.int64_data = entries(bytes, i64::from_le_bytes),
        TypedField::Double => tail.double_data = entries(bytes, f64::from_le_bytes),
        TypedField::Uint64 { bytes: 4 } => {
            tail.uint64_data = entries(bytes, |b| u64::from(u32::from_le_bytes(b)));
        }
        TypedField::Uint64 { .. } => tail.uint64_data = entries(bytes, u64::from_le_bytes),
        TypedField::SixBits => {
            let entry = |i: usize| {
                let low = u16::from(bytes[i * 6 / 8]);
                let high = bytes.get(i * 6 / 8 + 1).map_or(0, |b| u16::from(*b) << 8);
                i32::from((low | high) >> (i * 6 % 8) & 63)
            };
            head.int32_data = (0..count as usize).map(entry).collect();
        }
        TypedField::Int32 { bytes: 4, .. } => head.int32_data = entries(bytes, i32::from_le_bytes),
        TypedField::Int32 { bytes: 2, signed } => {
            head.int32_data = entries(bytes, |b| match signed {
                true => i32::from(i16::from_le_bytes(b)),
                false => i32::from(u16::from_le_bytes(b)),
            });
        }
        TypedField::Int32 { signed, .. } => {
            head.int32_data = entries(bytes, |[b]: [u8; 1]| match signed {
                true => i32::from(b as i8),
                false => i32::from(b),
            });
        }
    }
}
