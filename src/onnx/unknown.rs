//! Finds fields that `proto/onnx.proto` does not have.
//!
//! prost drops unknown fields without a word, so a file of a newer format would silently
//! lose content. This scan walks the wire along the descriptors and names every such
//! field. Payloads are skipped, not read: a file of gigabytes takes milliseconds.

use std::{collections::HashMap, sync::OnceLock};

use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, bytes::Buf};

/// The descriptor set that `build.rs` made, reduced to what the scan needs: for every
/// message, the number of each field and the message it holds.
struct Schema {
    messages: Vec<HashMap<u32, Option<usize>>>,
    root: usize,
}

// The few fields of google.protobuf.FileDescriptorSet that the scan needs, so that the
// library does not depend on prost-types.
#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<FileDescriptor>,
}
#[derive(Clone, PartialEq, Message)]
struct FileDescriptor {
    #[prost(string, optional, tag = "2")]
    package: Option<String>,
    #[prost(message, repeated, tag = "4")]
    message: Vec<MessageDescriptor>,
}
#[derive(Clone, PartialEq, Message)]
struct MessageDescriptor {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    field: Vec<FieldDescriptor>,
    #[prost(message, repeated, tag = "3")]
    nested: Vec<MessageDescriptor>,
}
#[derive(Clone, PartialEq, Message)]
struct FieldDescriptor {
    #[prost(int32, optional, tag = "3")]
    number: Option<i32>,
    #[prost(string, optional, tag = "6")]
    type_name: Option<String>,
}

fn collect(prefix: &str, m: &MessageDescriptor, out: &mut Vec<(String, MessageDescriptor)>) {
    let name = format!("{prefix}.{}", m.name());
    m.nested.iter().for_each(|n| collect(&name, n, out));
    out.push((name, m.clone()));
}

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/onnx.bin"));
        let set = FileSet::decode(bytes).expect("build.rs wrote a descriptor set");
        let mut all = Vec::new();
        for file in &set.file {
            let package = format!(".{}", file.package());
            file.message
                .iter()
                .for_each(|m| collect(&package, m, &mut all));
        }
        let index = |name: &str| all.iter().position(|(n, _)| n == name);
        let field = |f: &FieldDescriptor| (f.number() as u32, index(f.type_name()));
        Schema {
            root: index(".onnx.ModelProto").expect("the format has a ModelProto"),
            messages: all
                .iter()
                .map(|(_, m)| m.field.iter().map(field).collect())
                .collect(),
        }
    })
}

/// Where unknown fields are: paths of field numbers from `ModelProto`, as `7.1.99`
/// (graph, node, field 99), at most `limit` of them. A wire that is malformed ends the
/// scan early; decoding reports it.
pub(super) fn unknown_fields(bytes: &[u8], limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = Vec::new();
    scan(bytes, schema().root, &mut path, &mut found, limit);
    found
}

fn scan(
    mut buf: &[u8],
    message: usize,
    path: &mut Vec<u32>,
    found: &mut Vec<String>,
    limit: usize,
) -> Option<()> {
    while buf.has_remaining() && found.len() < limit {
        let (number, wire) = decode_key(&mut buf).ok()?;
        let field = schema().messages[message].get(&number);
        path.push(number);
        if field.is_none() {
            let path: Vec<String> = path.iter().map(u32::to_string).collect();
            found.push(path.join("."));
        }
        match wire {
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut buf).ok()?).ok()?;
                let inner = buf.get(..len)?;
                // Message nesting is bounded as in prost, which refuses deeper files.
                if let Some(Some(inner_message)) = field
                    && path.len() <= 100
                {
                    scan(inner, *inner_message, path, found, limit)?;
                }
                buf = &buf[len..];
            }
            WireType::Varint => {
                decode_varint(&mut buf).ok()?;
            }
            WireType::ThirtyTwoBit => buf = buf.get(4..)?,
            WireType::SixtyFourBit => buf = buf.get(8..)?,
            WireType::StartGroup | WireType::EndGroup => {
                // Groups are not part of the format; prost skips or refuses them.
                if field.is_some() || wire == WireType::EndGroup {
                    return None;
                }
                return Some(());
            }
        }
        path.pop();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto;

    #[test]
    fn names_the_path_of_an_unknown_field() {
        let model = proto::ModelProto {
            ir_version: Some(8),
            graph: Some(proto::GraphProto {
                node: vec![proto::NodeProto::default()],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(unknown_fields(&model.encode_to_vec(), 8).is_empty());
        // graph (7) holding a node (1) with field 99 = varint 5.
        let node = [0x98, 0x06, 0x05];
        let graph = [&[0x0a, node.len() as u8][..], &node].concat();
        let bytes = [&[0x3a, graph.len() as u8][..], &graph].concat();
        assert_eq!(unknown_fields(&bytes, 8), ["7.1.99"]);
    }
}
