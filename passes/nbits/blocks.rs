//! Where codes, scales and zero points come from: a recipe, or a calibration that chose them.

use std::sync::Arc;

use super::{INFO, Nbits, group::Group};
use crate::{
    error::Result,
    ir::{Data, Model, NodeId, Produce},
    pass::{PassContext, Reason, Remark},
    quant::{Method, Needs},
    weights::{Blocks, CODES, Chosen, QuantizeBlocks, SCALES, WeightKey, ZERO_POINTS},
};

impl Nbits {
    /// By which method a weight is quantized while it is written, with what is known of its activations.
    pub(super) fn chosen(&self, key: &WeightKey, cx: &PassContext) -> Chosen {
        let importance = match self.method.needs() {
            Needs::Nothing => None,
            _ => cx.calibrated.as_ref().and_then(|c| c.importance.get(key)),
        };
        Chosen {
            method: self.method.of_blocks(),
            importance: importance.cloned(),
        }
    }

    /// Codes, scales and zero points of a group, which `node` is the first to read: those that the
    /// calibration chose, or a recipe.
    pub(super) fn blocks(
        &self,
        model: &Model,
        node: NodeId,
        group: &Group,
        cx: &mut PassContext,
    ) -> Result<Blocks> {
        let (spec, matrix) = (&group.spec, &group.matrix);
        let factor = f32::from_bits(group.key.alpha);
        let key = WeightKey::of(model, matrix);
        let calibrated = cx
            .calibrated
            .clone()
            .filter(|_| self.method.needs() == Needs::Codes);
        let known = calibrated
            .as_ref()
            .and_then(|c| c.blocks.get(&(key.clone(), *spec)));
        let chosen = self.chosen(&key, cx);
        let recipe = QuantizeBlocks::new(&key.name, matrix, *spec, factor, group.key.padded);
        if let Some(known) = known {
            let row = recipe.len(CODES) / matrix.n;
            return known
                .adapted(spec, matrix.k, factor, row)
                .map_err(|e| e.at(format!("weight `{}`", key.name)));
        }
        self.uncalibrated(model, node, &key, &chosen, cx);
        let recipe: Arc<dyn Produce> = Arc::new(recipe.by(chosen));
        let data = |output| Data::Computed {
            recipe: recipe.clone(),
            output,
        };
        Ok(Blocks {
            codes: data(CODES),
            scales: data(SCALES),
            zero_points: (!spec.symmetric()).then(|| data(ZERO_POINTS)),
        })
    }

    /// Says of a weight that a calibration found less of it than the method wants.
    pub(super) fn uncalibrated(
        &self,
        model: &Model,
        node: NodeId,
        key: &WeightKey,
        chosen: &Chosen,
        cx: &mut PassContext,
    ) {
        let by = match (self.method.needs(), &chosen.importance) {
            (Needs::Nothing, _) | (Needs::Importance, Some(_)) => return,
            (Needs::Codes, Some(_)) => Method::Imatrix,
            (_, None) => Method::Mse,
        };
        let message = format!("nothing was measured of weight `{}`: {by}", key.name);
        let remark = Remark::new(model, INFO.name, node, Reason::NotCalibrated, message, 0);
        cx.remarks.push(remark);
    }
}
