//! The passes, one file each, and the two lists that name them.
//!
//! Adding a pass: its file, its entry in [`PASSES`], its folder under
//! `testdata/filetests/`. Nothing else. A pass never uses another pass.

mod const_fold;
mod fp16;
mod nbits;
mod share_weights;
mod strip_attrs;

use crate::pass::{PassInfo, PipelineInfo, Registry};

/// All passes, in the order in which pipelines usually run them.
pub static PASSES: &[&PassInfo] = &[
    &strip_attrs::INFO,
    &const_fold::INFO,
    &share_weights::INFO,
    &fp16::INFO,
    &nbits::INFO,
];

/// All named pipelines.
pub static PIPELINES: &[PipelineInfo] = &[PipelineInfo {
    name: "clean",
    summary: "what quantize runs first: nothing that a runtime computes changes",
    text: "strip-attrs,share-weights",
}];

/// Both lists.
pub const REGISTRY: Registry = Registry {
    passes: PASSES,
    pipelines: PIPELINES,
};
