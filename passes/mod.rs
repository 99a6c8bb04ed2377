//! The passes, one file each, and the two lists that name them.
//!
//! Adding a pass: its file, its entry in [`PASSES`], its folder under
//! `testdata/filetests/`. Nothing else. A pass never uses another pass.

mod awq;
mod const_fold;
mod convert_opset;
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
mod int8_dynamic;
mod nbits;
mod reassociate;
mod share_weights;
mod strip_attrs;

use crate::pass::{PassInfo, PipelineInfo, Registry};

/// All passes, in the order in which pipelines usually run them.
pub static PASSES: &[&PassInfo] = &[
    &strip_attrs::INFO,
    &inline_functions::INFO,
    &convert_opset::INFO,
    &fix_dims::INFO,
    &infer_shapes::INFO,
    &const_fold::INFO,
    &fold_shapes::INFO,
    &identity::INFO,
    &cse::INFO,
    &dce::INFO,
    &share_weights::INFO,
    &fuse_reduce::INFO,
    &fuse_pad::INFO,
    &reassociate::INFO,
    &fuse_batch_norm::INFO,
    &fuse_gemm::INFO,
    &awq::INFO,
    &fp16::INFO,
    &nbits::INFO,
    &int8_dynamic::INFO,
];

/// All named pipelines.
///
/// Equal weights are shared before anything is folded: what is folded is a recipe, and
/// comparing recipes would compute them.
pub static PIPELINES: &[PipelineInfo] = &[
    PipelineInfo {
        name: "clean",
        summary: "what quantize runs first: everything that makes a model smaller or faster and computes the \
                  same up to rounding",
        text: "strip-attrs,share-weights,(const-fold,fold-shapes,identity,cse,fuse-reduce,fuse-pad,reassociate,\
               fuse-batch-norm,fuse-gemm,dce)*",
    },
    PipelineInfo {
        name: "clean-exact",
        summary: "the part of clean after which a model computes the same bit for bit",
        text: "strip-attrs,share-weights,(const-fold{exact},fold-shapes,identity,cse,fuse-reduce,fuse-pad,\
               reassociate{rounded=false},dce)*",
    },
];

/// Both lists.
pub const REGISTRY: Registry = Registry {
    passes: PASSES,
    pipelines: PIPELINES,
};
