//! The passes, one file each, and the two lists that name them.
//!
//! Adding a pass: its file, its entry in [`PASSES`], its folder under
//! `testdata/filetests/`. Nothing else. A pass never uses another pass.

mod const_fold;
mod cse;
mod dce;
mod fix_dims;
mod fold_shapes;
mod fp16;
mod fuse_batch_norm;
mod fuse_gemm;
mod fuse_pad;
mod fuse_reduce;
mod identity;
mod infer_shapes;
mod inline_functions;
mod nbits;
mod reassociate;
mod share_weights;
mod strip_attrs;

use crate::pass::{PassInfo, PipelineInfo, Registry};

/// All passes, in the order in which pipelines usually run them.
pub static PASSES: &[&PassInfo] = &[
    &strip_attrs::INFO,
    &fix_dims::INFO,
    &infer_shapes::INFO,
    &fold_shapes::INFO,
    &inline_functions::INFO,
    &identity::INFO,
    &const_fold::INFO,
    &cse::INFO,
    &dce::INFO,
    &share_weights::INFO,
    &fuse_reduce::INFO,
    &reassociate::INFO,
    &fuse_pad::INFO,
    &fuse_batch_norm::INFO,
    &fuse_gemm::INFO,
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
