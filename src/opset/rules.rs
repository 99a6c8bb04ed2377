//! The operators that changed their form or their meaning, version by version.

mod axes;
mod images;
mod others;

use super::{At, draft::Draft};
use crate::error::Result;

/// Brings a draft from the version before to this one. The inner error says why it cannot be.
///
/// # Errors
/// A constant that it needs cannot be read.
pub(super) type Rule = fn(&mut Draft, &At<'_>) -> Result<Result<(), String>>;

/// What a rule says: see [`Rule`].
type Step = Result<Result<(), String>>;

/// Operator, version, rule; all of the default domain, in order of name.
const RULES: [(&str, i64, Rule); 39] = [
    ("Attention", 24, others::no_rule),
    ("Attention", 25, others::no_rule),
    ("AveragePool", 19, images::average_pool_19),
    ("BatchNormalization", 9, others::batch_normalization_9),
    ("BatchNormalization", 14, others::batch_normalization_14),
    ("Clip", 11, others::clip_11),
    ("ConvTranspose", 11, images::conv_transpose_11),
    ("DFT", 20, axes::dft_20),
    ("Dropout", 10, others::dropout_10),
    ("Dropout", 12, others::dropout_12),
    ("GridSample", 20, images::grid_sample_20),
    ("GroupNormalization", 21, others::group_normalization_21),
    ("Hardmax", 13, axes::softmax_13),
    ("LogSoftmax", 13, axes::softmax_13),
    ("OneHot", 11, others::one_hot_11),
    ("Pad", 11, others::pad_11),
    ("ReduceL1", 18, axes::to_operand),
    ("ReduceL2", 18, axes::to_operand),
    ("ReduceLogSum", 18, axes::to_operand),
    ("ReduceLogSumExp", 18, axes::to_operand),
    ("ReduceMax", 18, axes::to_operand),
    ("ReduceMean", 18, axes::to_operand),
    ("ReduceMin", 18, axes::to_operand),
    ("ReduceProd", 18, axes::to_operand),
    ("ReduceSum", 13, axes::to_operand),
    ("ReduceSumSquare", 18, axes::to_operand),
    ("Resize", 11, images::resize_11),
    ("Resize", 13, images::resize_13),
    ("RoiAlign", 16, images::roi_align_16),
    ("Scatter", 11, others::scatter_11),
    ("Slice", 10, axes::slice_10),
    ("Softmax", 13, axes::softmax_13),
    ("Split", 13, axes::split_13),
    ("Split", 18, axes::split_18),
    ("Squeeze", 13, axes::to_operand),
    ("TopK", 10, axes::top_k_10),
    ("Unsqueeze", 13, axes::to_operand),
    ("Upsample", 9, images::upsample_9),
    ("Upsample", 10, images::upsample_10),
];

/// The rule for `op_type` of `domain` at version `since`.
pub(super) fn rule(domain: &str, op_type: &str, since: i64) -> Option<Rule> {
    let named = |r: &&(&str, i64, Rule)| domain.is_empty() && r.0 == op_type && r.1 == since;
    RULES.iter().find(named).map(|r| r.2)
}
