//! Finds fields that `proto/onnx.proto` does not have.
//!
//! prost drops unknown fields without a word, so a file of a newer format would silently
//! lose content. This scan walks the wire along the descriptors and names every such
//! field. Payloads are skipped, not read: a file of gigabytes takes milliseconds.

use std::{collections::HashMap, sync::OnceLock};

use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, bytes::Buf};

/// The descriptor set that `build.rs` made, reduced to what the scan needs: the fields of
/// every message by number.
struct Schema {
    messages: Vec<HashMap<u32, Field>>,
    root: usize,
}

struct Field {
    name: String,
    repeated: bool,
    /// The message it holds.
    message: Option<usize>,
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
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "3")]
    number: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    label: Option<i32>,
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
        const REPEATED: i32 = 3;
        let field = |f: &FieldDescriptor| {
            let field = Field {
                name: f.name().to_owned(),
                repeated: f.label() == REPEATED,
                message: index(f.type_name()),
            };
            (f.number() as u32, field)
        };
        Schema {
            root: index(".onnx.ModelProto").expect("the format has a ModelProto"),
            messages: all
                .iter()
                .map(|(_, m)| m.field.iter().map(field).collect())
                .collect(),
        }
    })
}

/// Where unknown fields are, as `graph.node[2].99` (a number instead of a name), at most
/// `limit` of them. A wire that is malformed ends the scan early; decoding reports it.
pub(super) fn unknown_fields(bytes: &[u8], limit: usize) -> Vec<String> {
    let mut scan = Scan {
        path: Vec::new(),
        found: Vec::new(),
        limit,
    };
    scan.message(bytes, schema().root);
    scan.found
}

struct Scan {
    /// The fields around, each with its position among its like.
    path: Vec<(&'static Field, usize)>,
    found: Vec<String>,
    limit: usize,
}

impl Scan {
    fn message(&mut self, mut buf: &[u8], message: usize) -> Option<()> {
        let fields = &schema().messages[message];
        let mut seen: HashMap<u32, usize> = HashMap::new();
        while buf.has_remaining() && self.found.len() < self.limit {
            let (number, wire) = decode_key(&mut buf).ok()?;
            let field = fields.get(&number);
            if field.is_none() {
                self.report(number);
            }
            match wire {
                WireType::LengthDelimited => {
                    let len = usize::try_from(decode_varint(&mut buf).ok()?).ok()?;
                    let inner = buf.get(..len)?;
                    // prost refuses messages that are nested deeper than this.
                    if let Some(field) = field
                        && let Some(message) = field.message
                        && self.path.len() < 100
                    {
                        let count = seen.entry(number).or_default();
                        self.path.push((field, *count));
                        *count += 1;
                        self.message(inner, message)?;
                        self.path.pop();
                    }
                    buf = &buf[len..];
                }
                WireType::Varint => {
                    decode_varint(&mut buf).ok()?;
                }
                WireType::ThirtyTwoBit => buf = buf.get(4..)?,
                WireType::SixtyFourBit => buf = buf.get(8..)?,
                // Groups are not part of the format; decoding refuses those it does not skip.
                WireType::StartGroup | WireType::EndGroup => return None,
            }
        }
        Some(())
    }

    fn report(&mut self, number: u32) {
        let mut path = String::new();
        for (field, index) in &self.path {
            path.push_str(&field.name);
            if field.repeated {
                path.push_str(&format!("[{index}]"));
            }
            path.push('.');
        }
        self.found.push(format!("{path}{number}"));
    }
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
        assert_eq!(unknown_fields(&bytes, 8), ["graph.node[0].99"]);
    }
}
