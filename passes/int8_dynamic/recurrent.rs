//! `LSTM`, `GRU` and `RNN`.

use super::{
    Int8,
    plan::{Kind, Plan, Step, checked, decline},
    product::permuted,
};
use crate::{
    ir::{DataType, NodeId},
    pass::{Left, Look, Reason},
    quant::ChannelSpec,
    weights::Weight,
};

impl Int8 {
    pub(super) fn plan_recurrent(&self, look: Look<'_>, node: NodeId) -> Step<Plan> {
        let n = &look.model.nodes[node];
        let (Some(w), Some(r)) = (n.input(1), n.input(2)) else {
            return Err(Left::Ignored);
        };
        let both = [self.weight(look, node, w)?, self.weight(look, node, r)?];
        for weight in &both {
            if weight.dims.len() != 3 {
                let message = format!(
                    "a weight has shape {:?}; expected [directions, gates, terms]",
                    weight.dims
                );
                return decline(Reason::Rank, message, weight.bytes());
            }
        }
        let float = both.iter().all(|weight| weight.dtype == DataType::Float);
        let spec = self.stored_spec();
        if n.is("LSTM") && float && n.int("layout", 0) == Some(0) && self.runs_lstm(spec) {
            return self.lstm(both);
        }
        let weights = both
            .into_iter()
            .map(|weight| self.operand(weight, vec![0, 1], spec));
        Ok(Plan {
            kind: Kind::Stored(vec![1, 2]),
            weights: weights.collect::<Step<_>>()?,
        })
    }

    /// `DynamicQuantizeLSTM` takes both weights transposed, `[directions, terms, gates]`.
    fn lstm(&self, both: [Weight; 2]) -> Step<Plan> {
        let spec = ChannelSpec {
            reduced: self.reduced,
            ..self.stored_spec()
        };
        // Directions have scales of their own in any case.
        let axes = if self.per_channel {
            vec![0, 2]
        } else {
            vec![0]
        };
        let transposed = both.iter().map(|weight| permuted(weight, &[0, 2, 1]));
        let weights = transposed.map(|weight| checked(weight, axes.clone(), spec));
        Ok(Plan {
            kind: Kind::Lstm,
            weights: weights.collect::<Step<_>>()?,
        })
    }
}
