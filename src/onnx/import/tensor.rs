//! Constants.

use bytes::Bytes;

use super::Import;
use crate::{
    error::{Error, Result},
    ir::{Data, DataType, Elements, SparseTensor, Tensor, TensorWire, element_count},
    onnx::{
        proto,
        typed::typed_bytes,
        types::{data_type, import_properties, text},
    },
};

/// From this size on, a constant of the mapped model is read by position instead of
/// through the map: mapped pages would stay resident. Below it are the thousands of
/// scalars and shapes, which live in pages that decoding touched anyway.
const READ_BY_POSITION: usize = 64 << 10;

impl Import {
    pub(super) fn sparse(&mut self, s: proto::SparseTensorProto) -> Result<SparseTensor> {
        Ok(SparseTensor {
            values: s.values.map(|t| self.tensor(t)).transpose()?,
            indices: s.indices.map(|t| self.tensor(t)).transpose()?,
            dims: s.dims,
        })
    }

    pub(super) fn tensor(&mut self, mut t: proto::TensorProto) -> Result<Tensor> {
        let dtype = data_type(t.data_type())?;
        let count = element_count(&t.dims).ok_or_else(|| {
            Error::input(format!(
                "shape {:?} has a negative extent or is too large",
                t.dims
            ))
        })?;
        if let Some(code) = t.data_location.filter(|code| !(0..=1).contains(code)) {
            return Err(Error::input(format!(
                "data_location {code} is unknown; expected 0 (the model) or 1 (a side file)"
            )));
        }
        let external = t.data_location == Some(proto::tensor_proto::DataLocation::External as i32);
        let places = [
            (
                "raw_data",
                t.raw_data.as_ref().is_some_and(|r| !r.is_empty()),
            ),
            ("float_data", !t.float_data.is_empty()),
            ("int32_data", !t.int32_data.is_empty()),
            ("string_data", !t.string_data.is_empty()),
            ("int64_data", !t.int64_data.is_empty()),
            ("double_data", !t.double_data.is_empty()),
            ("uint64_data", !t.uint64_data.is_empty()),
            ("external_data", external),
        ];
        let used: Vec<&str> = places
            .iter()
            .filter(|(_, used)| *used)
            .map(|(name, _)| *name)
            .collect();
        if used.len() > 1 {
            return Err(Error::input(format!(
                "has elements in {}; expected one place",
                used.join(" and ")
            )));
        }
        let typed = used
            .first()
            .is_some_and(|place| !["raw_data", "external_data"].contains(place));
        let raw = t.raw_data.is_some() && !external && !typed;
        let wire = TensorWire {
            typed: !raw && !external,
            explicit_location: t.data_location.is_some() && !external,
            segment: t.segment.map(|s| (s.begin, s.end)),
        };
        let elements = if dtype == DataType::String {
            if t.string_data.len() as u64 != count {
                return Err(Error::input(format!(
                    "string_data has {} elements, but shape {:?} has {count}",
                    t.string_data.len(),
                    t.dims
                )));
            }
            Elements::Strings(t.string_data)
        } else {
            let expected = dtype
                .byte_len(count)
                .ok_or_else(|| Error::input(format!("shape {:?} is too large", t.dims)))?;
            let data = if external {
                self.side_files.data(&t.external_data, expected)?
            } else if let Some(raw) = t.raw_data.take().filter(|_| raw) {
                if raw.len() as u64 != expected {
                    return Err(Error::input(format!(
                        "raw_data has {} bytes, but {dtype} with shape {:?} needs {expected}",
                        raw.len(),
                        t.dims
                    )));
                }
                self.locate(raw)
            } else {
                typed_bytes(dtype, count, &t)?
            };
            Elements::Data(data)
        };
        Ok(Tensor {
            name: text(t.name),
            dtype,
            dims: t.dims,
            elements,
            doc_string: text(t.doc_string),
            metadata: import_properties(t.metadata_props),
            wire,
        })
    }

    /// A slice of the model, as a range of its file when it is large.
    fn locate(&self, slice: Bytes) -> Data {
        let offset = (slice.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        let end = offset.checked_add(slice.len());
        let inside = end.is_some_and(|end| end <= self.bytes.len());
        match &self.file {
            Some(file) if inside && slice.len() >= READ_BY_POSITION => Data::File {
                file: file.clone(),
                offset: offset as u64,
                len: slice.len() as u64,
            },
            _ => Data::Bytes(slice),
        }
    }
}
