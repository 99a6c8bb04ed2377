//! `Conv` and `ConvTranspose`.

use super::{
    ConvForm, Int8,
    plan::{Kind, Look, Plan, Step, activation_fits, decline},
};
use crate::{
    ir::{NodeId, ValueId},
    pass::{Left, Reason},
    quant::ChannelSpec,
    weights::Weight,
};

/// Terms of a sum from which on ConvInteger was as fast as Conv, in ONNX Runtime 1.20 and 1.31.
const WORTHWHILE: u64 = 64;

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
        let integer = match self.conv {
            ConvForm::Auto => group == 1 && rank == 3 && terms >= WORTHWHILE,
            form => form == ConvForm::Integer,
        };
        if !integer || self.signed == Some(true) || !self.computes_on_integers(look, node, terms) {
            return self.stored(weight, vec![0], 1);
        }
        let spec = ChannelSpec {
            signed: false,
            // ConvInteger takes one zero point for all channels.
            symmetric: true,
            reduced: self.reduced,
        };
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
