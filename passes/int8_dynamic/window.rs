//! `Conv` and `ConvTranspose`.

use super::{
    ConvForm, Int8,
    plan::{Kind, Plan, Step, activation_fits, decline},
};
use crate::{
    ir::{NodeId, ValueId},
    pass::{Left, Look, Reason},
    quant::ChannelSpec,
    weights::Weight,
};

/// Whether `ConvInteger` was as fast as `Conv` or faster in ONNX Runtime 1.20 and 1.31 both, on one
/// core with AVX-512 VNNI, with all that is around it. Slower are:
///
/// - sequences with fewer than 256 output channels (64 along 24 000 positions: 3 times slower in 1.20) or
///   few terms;
/// - pointwise in images, and depthwise (4 to 10 times slower): the float kernel has a blocked layout
///   there, and its activation is fused.
fn worthwhile(weight: &Weight) -> bool {
    let terms: u64 = weight.dims[1..].iter().product();
    let window: u64 = weight.dims[2..].iter().product();
    match weight.dims.len() {
        3 => weight.dims[0] >= 256 && terms >= 128,
        4 => window > 1 && terms >= 512,
        _ => false,
    }
}

impl Int8 {
    pub(super) fn plan_conv(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(x), Some(w)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let weight = self.conv_weight(look, node, w)?;
        let Some(group) = n.int("group", 1) else {
            let message = "`group` refers to the caller of the function";
            return decline(Reason::Attribute, message, weight.bytes());
        };
        let rank = weight.dims.len();
        let channels = weight.dims[1].saturating_mul(u64::try_from(group).unwrap_or(0));
        activation_fits(look, x, rank - 1, channels, &weight)?;
        let terms = weight.dims[1..].iter().product();
        let spec = ChannelSpec {
            signed: false,
            // ConvInteger takes one zero point for all channels.
            symmetric: true,
            reduced: self.reduced,
        };
        let wanted = match self.conv {
            ConvForm::Auto => group == 1 && worthwhile(&weight),
            form => form == ConvForm::Integer,
        };
        let integer = wanted
            && self.signed != Some(true)
            && self.computes_on_integers(look, node, terms, spec)
            && self.runs_integer(look, node, "ConvInteger", spec);
        if !integer {
            return self.stored(weight, vec![0], 1);
        }
        Ok(Plan {
            kind: Kind::Conv {
                x,
                bias: n.input(2),
            },
            weights: vec![self.operand(weight, vec![0], spec)?],
        })
    }

    /// Its weight is `[C, M / group, ...]`: one scale for each index along the second axis.
    pub(super) fn plan_conv_transpose(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(_), Some(w)) = (n.input(0), n.input(1)) else {
            return Err(Left::Ignored);
        };
        let weight = self.conv_weight(look, node, w)?;
        self.stored(weight, vec![1], 1)
    }

    fn conv_weight(&self, look: Look<'_>, node: NodeId, operand: ValueId) -> Step<Weight> {
        let weight = self.weight(look, node, operand)?;
        if self.conv == ConvForm::Float {
            let message = "convolutions are to stay as they are";
            return decline(Reason::NotIncluded, message, weight.bytes());
        }
        if weight.dims.len() < 3 {
            let message = format!(
                "the weight has shape {:?}; expected [M, C, k, ...]",
                weight.dims
            );
            return decline(Reason::Rank, message, weight.bytes());
        }
        Ok(weight)
    }
}
