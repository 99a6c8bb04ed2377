//! Products with constant weights, and the constants whose channels are scaled.

use crate::{
    error::Result,
    ir::{DataType, GraphId, Model, NodeId, Uses, ValueId},
    pass::{Gemm, Left, Reason},
    weights::{Channels, Layout, MatrixView, Weight, source_tensor, trace},
};

/// A `MatMul` or `Gemm` whose right operand is a constant matrix.
pub(super) struct Product {
    /// What the weight is multiplied by.
    pub x: ValueId,
    /// Whether its terms lie along the last axis.
    pub terms_last: bool,
    pub matrix: MatrixView,
}

impl Product {
    /// That of `node`, if it is one.
    ///
    /// # Errors
    /// A small constant on the way to the weight cannot be read.
    pub(super) fn of(model: &Model, node: NodeId) -> Result<Option<Product>> {
        let n = &model.nodes[node];
        let (Some(x), Some(w)) = (n.input(0), n.input(1)) else {
            return Ok(None);
        };
        let (terms_last, n_axis) = match &*n.op_type {
            "MatMul" if n.domain().is_empty() => (true, 1),
            "Gemm" if n.domain().is_empty() => match Gemm::of(n) {
                Ok(gemm) => (!gemm.trans_a, usize::from(!gemm.trans_b)),
                Err(_) => return Ok(None),
            },
            _ => return Ok(None),
        };
        let Ok(weight) = trace(model, w)? else {
            return Ok(None);
        };
        let matrix = MatrixView::new(weight, n_axis).filter(|m| m.n > 0 && m.k > 0);
        Ok(matrix.map(|matrix| Product {
            x,
            terms_last,
            matrix,
        }))
    }

    /// Its weight, in channels of terms.
    pub(super) fn terms(&self, node: NodeId) -> Part {
        let MatrixView { n, k, layout, .. } = self.matrix;
        let run = if layout == Layout::Rows { 1 } else { n };
        Part::of_weight(node, 1, &self.matrix.weight, run, k)
    }

    /// Its weight, in channels of results.
    pub(super) fn results(&self, node: NodeId) -> Part {
        let MatrixView { n, k, layout, .. } = self.matrix;
        let run = if layout == Layout::Rows { k } else { 1 };
        Part::of_weight(node, 1, &self.matrix.weight, run, n)
    }
}

/// A constant whose channels are scaled: operand `slot` of `node`.
#[derive(Clone)]
pub(super) struct Part {
    pub node: NodeId,
    pub slot: usize,
    /// What holds the elements.
    pub root: ValueId,
    pub channels: Channels,
}

/// Constants of up to so many bytes are copied when something else reads them.
const COPIED: u64 = 1 << 18;

impl Part {
    fn of_weight(node: NodeId, slot: usize, weight: &Weight, run: u64, count: u64) -> Part {
        let element = (weight.stored.bits() / 8).max(1);
        Part {
            node,
            slot,
            root: weight.root,
            channels: Channels {
                run,
                count,
                group: weight.bytes() / element,
            },
        }
    }

    /// Operand `slot` of `node`, if it is a constant whose last axis has `count` channels.
    ///
    /// # Errors
    /// A small constant on the way to it cannot be read.
    pub(super) fn last_axis(
        model: &Model,
        node: NodeId,
        slot: usize,
        count: u64,
    ) -> Result<Option<Part>> {
        let Some(value) = model.nodes[node].input(slot) else {
            return Ok(None);
        };
        let Ok(weight) = trace(model, value)? else {
            return Ok(None);
        };
        // Elements are dense: where neighbours of the last axis are neighbours in memory, all other
        // axes step over whole channels.
        let fits = weight.dims.last() == Some(&count) && weight.strides.last() == Some(&1);
        Ok(fits.then(|| Part::of_weight(node, slot, &weight, 1, count)))
    }

    /// Whether the constant may be changed; else why not.
    ///
    /// # Errors
    /// Something else reads it, and it is too large to be copied.
    pub(super) fn check(&self, model: &Model, uses: &Uses) -> Result<(), Left> {
        match self.is_small(model) {
            true => Ok(()),
            false => self.check_alone(model, uses),
        }
    }

    /// As [`Part::check`] of what is not copied: a weight keeps its name.
    ///
    /// # Errors
    /// Something else reads it.
    pub(super) fn check_alone(&self, model: &Model, uses: &Uses) -> Result<(), Left> {
        if self.alone(model, uses) {
            return Ok(());
        }
        let message = format!(
            "something else reads the constant `{}`, too",
            model.values[self.root].name
        );
        Err(Left::declined(Reason::Shared, message, 0))
    }

    /// Whether nothing but this operand reads the constant.
    pub(super) fn alone(&self, model: &Model, uses: &Uses) -> bool {
        let mut at = model.nodes[self.node].input(self.slot);
        while let Some(value) = at {
            if uses.of_value(value).len() != 1 {
                return false;
            }
            if value == self.root {
                return true;
            }
            let maker = model.producer(value);
            at = maker.and_then(|n| model.nodes[n].input(0));
        }
        false
    }

    /// Whether it can be copied: it is the operand itself, and small.
    fn is_small(&self, model: &Model) -> bool {
        let direct = model.nodes[self.node].input(self.slot) == Some(self.root);
        direct && source_tensor(model, self.root).is_some_and(|t| t.byte_len() <= COPIED)
    }
}

/// The largest number of a type.
pub(super) fn largest(dtype: DataType) -> f64 {
    match dtype {
        DataType::Float16 => 65504.0,
        DataType::Double => f64::MAX,
        // bfloat16 has less, by a relative 2^-8, which makes no difference here.
        _ => f32::MAX.into(),
    }
}

/// The node in `graph` that alone reads `value`, once; `None` when it is not that.
pub(super) fn only_reader(
    model: &Model,
    uses: &Uses,
    value: ValueId,
    graph: GraphId,
) -> Option<NodeId> {
    let (node, _) = uses.only_reader(value)?;
    (model.nodes[node].graph == graph).then_some(node)
}
