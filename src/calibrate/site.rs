//! Weights, and what they are multiplied by.

use crate::{
    error::Result,
    ir::{Callees, Model, NodeId, ValueId},
    weights::{MatrixView, source_tensor, trace},
};

/// Along which axis of an activation the terms of a product lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Terms {
    /// The last one: `x W`.
    Last,
    /// The one before it (the only one of a vector): `W x`, and a transposed `x`.
    BeforeLast,
}

/// What a weight is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Activation {
    /// The value.
    pub value: ValueId,
    /// Its axis of k terms; every place along the other axes is a row.
    pub terms: Terms,
}

/// A node of the main graph that reads a weight.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Site {
    /// The node.
    pub node: NodeId,
    /// What it multiplies the weight by; `None` where it looks rows up.
    pub activation: Option<Activation>,
    /// The weight.
    pub matrix: MatrixView,
    /// Which operand the weight is.
    pub(super) slot: usize,
    /// Whether the axis of n results is the last one of the operand, and not the one before.
    pub(super) results_last: bool,
}

impl Site {
    /// The weight that `node` reads, if it is a `MatMul` or `Gemm` with a constant matrix, or a
    /// `Gather` of rows of one.
    ///
    /// # Errors
    /// A small constant on the way to the weight (a shape) cannot be read.
    pub fn of(model: &Model, node: NodeId) -> Result<Option<Site>> {
        let n = &model.nodes[node];
        let (Some(a), Some(b)) = (n.input(0), n.input(1)) else {
            return Ok(None);
        };
        let flag = |name: &str| n.int(name, 0).map(|i| i != 0);
        match &*n.op_type {
            _ if !n.domain().is_empty() => Ok(None),
            "MatMul" => {
                let right = || weight(model, node, b, 1, true, Some((a, Terms::Last)));
                let left = || weight(model, node, a, 0, false, Some((b, Terms::BeforeLast)));
                Ok(match right()? {
                    Some(site) => Some(site),
                    None => left()?,
                })
            }
            "Gemm" => {
                let (Some(trans_a), Some(trans_b)) = (flag("transA"), flag("transB")) else {
                    return Ok(None);
                };
                let terms = match trans_a {
                    true => Terms::BeforeLast,
                    false => Terms::Last,
                };
                weight(model, node, b, 1, !trans_b, Some((a, terms)))
            }
            "Gather" if matches!(n.int("axis", 0), Some(0 | -2)) => {
                let table = weight(model, node, a, 0, false, None)?;
                Ok(table.filter(|site| site.matrix.weight.dims.len() == 2))
            }
            _ => Ok(None),
        }
    }
}

/// `node`, whose operand `slot` is `operand`, if that is a constant matrix.
fn weight(
    model: &Model,
    node: NodeId,
    operand: ValueId,
    slot: usize,
    results_last: bool,
    x: Option<(ValueId, Terms)>,
) -> Result<Option<Site>> {
    // A product of two constants is a constant.
    if x.is_some_and(|(x, _)| source_tensor(model, x).is_some()) {
        return Ok(None);
    }
    let Ok(weight) = trace(model, operand)? else {
        return Ok(None);
    };
    let matrix = MatrixView::new(weight, usize::from(results_last));
    let matrix = matrix.filter(|m| m.n > 0 && m.k > 0);
    Ok(matrix.map(|matrix| Site {
        node,
        activation: x.map(|(value, terms)| Activation { value, terms }),
        matrix,
        slot,
        results_last,
    }))
}

/// The nodes of a model that read weights.
#[derive(Debug, Default)]
pub struct Sites {
    /// Those of the main graph, in its order.
    pub sites: Vec<Site>,
    /// Those in bodies of nodes and of local functions. They are run as a whole, so nothing is
    /// known of their activations; `inline-functions` brings the latter into the main graph.
    pub unreached: Vec<NodeId>,
}

impl Sites {
    /// All of `model`.
    ///
    /// # Errors
    /// As [`Site::of`].
    pub fn of(model: &Model) -> Result<Sites> {
        let functions = Callees::of(&model.functions);
        let mut found = Sites::default();
        for node in model.reachable_nodes() {
            if functions.called(&model.nodes[node]).is_some() {
                continue;
            }
            let site = Site::of(model, node)?;
            match model.nodes[node].graph == model.main {
                true => found.sites.extend(site),
                false => found.unreached.extend(site.map(|s| s.node)),
            }
        }
        Ok(found)
    }
}
