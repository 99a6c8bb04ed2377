//! What a node does to each channel, when that is to multiply by a constant and to add another.

use crate::{
    error::Result,
    ir::{Model, Node, NodeId, ValueId},
    pass::{Left, Reason},
    weights::small_floats,
};

/// More elements than any tensor of one number a channel has; a longer list is never read.
const CHANNELS: u64 = 1 << 20;

/// Each channel `x` becomes `scale * x + shift`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
}

/// Where the channels of a result are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelAxis {
    /// How many there are.
    pub count: usize,
    /// Which axis they lie along, counted from the last one: 1 is the last.
    pub from_last: usize,
    /// Axes of the result, at least.
    pub rank: usize,
    /// Whether this is axis 1, counted from the first, that a batch normalization works along.
    pub is_second: bool,
}

impl Affine {
    /// What changes nothing.
    pub(super) fn identity(count: usize) -> Affine {
        Affine {
            scale: vec![1.0; count],
            shift: vec![0.0; count],
        }
    }

    /// First this, then `next`; `None` when that is beyond the numbers.
    pub(super) fn then(&self, next: &Affine) -> Option<Affine> {
        let scale = self.scale.iter().zip(&next.scale).map(|(a, b)| a * b);
        let shift = self.shift.iter().zip(&next.scale).zip(&next.shift);
        let both = Affine {
            scale: scale.collect(),
            shift: shift.map(|((a, s), t)| a * s + t).collect(),
        };
        let mut all = both.scale.iter().chain(&both.shift);
        all.all(|x| x.is_finite()).then_some(both)
    }

    /// Whether no channel is multiplied.
    pub(super) fn only_shifts(&self) -> bool {
        self.scale.iter().all(|&s| s == 1.0)
    }

    /// Whether nothing is added to any channel.
    pub(super) fn only_scales(&self) -> bool {
        self.shift.iter().all(|&t| t == 0.0)
    }

    /// What `node` does to its operand `slot`, whose channels are `axis`.
    ///
    /// # Errors
    /// It is no such node.
    pub(super) fn of(
        model: &Model,
        node: NodeId,
        slot: usize,
        axis: ChannelAxis,
    ) -> Result<Affine, Left> {
        let n = &model.nodes[node];
        let opset = model.opset(n.graph, "").unwrap_or(0);
        match &*n.op_type {
            "BatchNormalization" if n.domain().is_empty() && slot == 0 => {
                batch_normalization(model, n, opset, axis)
            }
            // Before that, operands broadcast only on request.
            "Mul" | "Div" | "Add" | "Sub" if n.domain().is_empty() && opset >= 7 => {
                let other = n.input(1 - slot).ok_or(Left::Ignored)?;
                let c = per_channel(model, other, axis)?.ok_or(Left::Ignored)?;
                arithmetic(n, slot, c).ok_or(Left::Ignored)
            }
            _ => Err(Left::Ignored),
        }
    }
}

/// `x op c`, or `c op x` when `slot` is 1.
fn arithmetic(node: &Node, slot: usize, c: Vec<f64>) -> Option<Affine> {
    let identity = Affine::identity(c.len());
    let affine = match (&*node.op_type, slot) {
        ("Mul", _) => Affine {
            scale: c,
            ..identity
        },
        ("Div", 0) => Affine {
            scale: c.iter().map(|c| 1.0 / c).collect(),
            ..identity
        },
        ("Add", _) => Affine {
            shift: c,
            ..identity
        },
        ("Sub", 0) => Affine {
            shift: c.iter().map(|c| -c).collect(),
            ..identity
        },
        ("Sub", _) => Affine {
            scale: vec![-1.0; c.len()],
            shift: c,
        },
        _ => return None,
    };
    Some(affine)
}

/// The elements of the constant `value`, one for each channel; `None` when it is not that.
fn per_channel(model: &Model, value: ValueId, axis: ChannelAxis) -> Result<Option<Vec<f64>>> {
    let Some((elements, dims)) = small_floats(model, value, CHANNELS)? else {
        return Ok(None);
    };
    // A constant with more axes than the result would give it more.
    if dims.len() > axis.rank {
        return Ok(None);
    }
    if let [one] = elements[..] {
        return Ok(Some(vec![one; axis.count]));
    }
    let along = dims.len().checked_sub(axis.from_last);
    let fits = |(i, &d): (usize, &i64)| match Some(i) == along {
        true => d == axis.count as i64,
        false => d == 1,
    };
    let all = along.is_some() && dims.iter().enumerate().all(fits);
    Ok(all.then_some(elements))
}

fn batch_normalization(
    model: &Model,
    node: &Node,
    opset: i64,
    axis: ChannelAxis,
) -> Result<Affine, Left> {
    let left = |reason, message: &str| Left::declined(reason, message, 0);
    let attribute = |message: &str| left(Reason::Attribute, message);
    if !axis.is_second {
        let message = "which axis its BatchNormalization works along is not known";
        return Err(left(Reason::RankUnknown, message));
    }
    if node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(left(
            Reason::ResultRead,
            "its BatchNormalization has outputs of training",
        ));
    }
    let inference = match opset {
        ..7 => node.int("is_test", 0) == Some(1),
        _ => node.int("training_mode", 0) == Some(0),
    };
    if !inference {
        return Err(attribute("its BatchNormalization trains"));
    }
    if opset < 9 && node.int("spatial", 1) != Some(1) {
        return Err(attribute(
            "its BatchNormalization works on each element alone",
        ));
    }
    let Some(epsilon) = node.float("epsilon", 1e-5) else {
        return Err(attribute(
            "the epsilon of its BatchNormalization is the caller's",
        ));
    };
    let operand = |slot: usize| -> Result<Vec<f64>, Left> {
        let not_constant = || {
            let message = "an operand of its BatchNormalization is not constant";
            left(Reason::WeightNotConstant, message)
        };
        let value = node.input(slot).ok_or_else(not_constant)?;
        let found = small_floats(model, value, CHANNELS)?;
        let (elements, _) = found.ok_or_else(not_constant)?;
        match elements.len() == axis.count {
            true => Ok(elements),
            false => Err(left(
                Reason::Mismatch,
                &format!(
                    "its BatchNormalization has {} channels, expected {}",
                    elements.len(),
                    axis.count
                ),
            )),
        }
    };
    let [scale, bias, mean, variance] = [operand(1)?, operand(2)?, operand(3)?, operand(4)?];
    let deviation = variance.iter().map(|v| (v + f64::from(epsilon)).sqrt());
    let scale: Vec<f64> = scale.iter().zip(deviation).map(|(s, d)| s / d).collect();
    let moved = mean.iter().zip(&scale).map(|(m, s)| m * s);
    let shift: Vec<f64> = bias.iter().zip(moved).map(|(b, m)| b - m).collect();
    match scale.iter().chain(&shift).all(|x| x.is_finite()) {
        true => Ok(Affine { scale, shift }),
        false => Err(left(
            Reason::NonFinite,
            "its BatchNormalization multiplies or adds what is not finite",
        )),
    }
}
