//! The ONNX format: the only place that knows its protobuf types.
//!
//! [`open`] maps a file and converts it to an [`ir::Model`](crate::ir::Model) without
//! copying a weight; [`save`] lays a model out and streams it to disk. A model that no
//! pass changed is written back byte for byte, if the file was in the order of the
//! format's own encoders.

mod chunks;
mod encode;
mod export;
mod external;
mod import;
mod typed;
mod types;
mod unknown;

pub use chunks::side_file_name;
pub use export::{
    ExternalData, MESSAGE_LIMIT, Progress, SaveOptions, Saved, Storage, estimate, fingerprint,
    save, save_all, to_vec,
};
#[cfg(feature = "eval")]
pub(crate) use export::{sha256, to_memory};
pub use external::SideFile;
pub use import::{OpenOptions, Opened, from_bytes, open, open_moved, side_files};

/// The messages of `proto/onnx.proto`.
#[expect(unreachable_pub, reason = "generated code")]
#[expect(
    clippy::doc_markdown,
    clippy::enum_variant_names,
    reason = "generated code"
)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
