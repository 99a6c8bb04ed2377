//! Where the channels of an activation can be scaled at no cost: in the constants that it is made with.

use super::products::{Part, Product, only_reader};
use crate::{
    ir::{DataType, Def, Model, Node, NodeId, Uses, ValueId},
    pass::{Left, Reason},
    weights::trace,
};

/// Before it, operands broadcast only on request.
const BROADCAST_OPSET: i64 = 7;

/// The constants that the channels of an activation are made with.
pub(super) struct Folder<'m> {
    pub model: &'m Model,
    pub uses: &'m Uses,
    /// How many channels there are, along the last axis.
    pub k: u64,
}

/// Nodes are followed so far.
const DEPTH: usize = 16;

impl Folder<'_> {
    /// The constants to scale, each in its channels, for all elements of `value` to be scaled.
    ///
    /// # Errors
    /// There is something in it that cannot be scaled.
    pub(super) fn parts(&self, value: ValueId, depth: usize) -> Result<Vec<Part>, Left> {
        let made = match self.model.values[value].def {
            Def::Node(node, 0) if depth < DEPTH => Some(node),
            _ => None,
        };
        let Some(node) = made else {
            return Err(self.stays(value, "no node that could scale it makes it"));
        };
        let n = &self.model.nodes[node];
        let arithmetic = self.model.opset(n.graph, "").unwrap_or(1) >= BROADCAST_OPSET;
        match (n.domain(), &*n.op_type) {
            ("", "MatMul" | "Gemm") => self.product(node, value),
            ("", "Add" | "Sub") if arithmetic => self.sum(node, value, depth),
            ("", "Mul") if arithmetic => self.factors(node, value, depth),
            ("", "Div") if arithmetic => self.through(node, 0, value, depth),
            // Scales are positive.
            ("", "Identity" | "Relu" | "LeakyRelu" | "Neg") => self.through(node, 0, value, depth),
            ("", "Cast") if casts_to_float(n) => self.through(node, 0, value, depth),
            (domain, op) => match norm(domain, op) {
                Some(slots) => self.norm(node, value, slots),
                None => Err(self.stays(value, &format!("{op} makes it"))),
            },
        }
    }

    /// Of what `node` makes of operand `slot`, where its result scales with that.
    fn through(
        &self,
        node: NodeId,
        slot: usize,
        value: ValueId,
        depth: usize,
    ) -> Result<Vec<Part>, Left> {
        let n = &self.model.nodes[node];
        match n.input(slot) {
            Some(x) if only_reader(self.model, self.uses, x, n.graph) == Some(node) => {
                self.parts(x, depth + 1)
            }
            Some(x) => {
                let message = format!(
                    "something else reads `{}`, from which it is made",
                    self.name(x)
                );
                Err(Left::declined(Reason::ResultRead, message, 0))
            }
            None => Err(self.stays(value, "an operand is missing")),
        }
    }

    /// Both terms scale: one is a constant with channels.
    fn sum(&self, node: NodeId, value: ValueId, depth: usize) -> Result<Vec<Part>, Left> {
        let constant = [1, 0]
            .into_iter()
            .find(|&slot| self.is_constant(node, slot));
        let Some(slot) = constant else {
            return Err(self.stays(value, "it is a sum"));
        };
        let part = self.channels(node, slot, value)?;
        let mut parts = self.through(node, 1 - slot, value, depth)?;
        parts.push(part);
        Ok(parts)
    }

    /// One factor scales: a constant with channels, or else the first that can.
    fn factors(&self, node: NodeId, value: ValueId, depth: usize) -> Result<Vec<Part>, Left> {
        let constant = [1, 0]
            .into_iter()
            .find(|&slot| self.is_constant(node, slot));
        if let Some(slot) = constant {
            // A number alone, or one for each row, goes along.
            return match Part::last_axis(self.model, node, slot, self.k)? {
                Some(part) => {
                    part.check(self.model, self.uses)?;
                    Ok(vec![part])
                }
                None => self.through(node, 1 - slot, value, depth),
            };
        }
        let first = self.through(node, 0, value, depth);
        match first {
            Err(Left::Declined { .. }) => self.through(node, 1, value, depth),
            found => found,
        }
    }

    /// The result of a product: its weight and its bias.
    fn product(&self, node: NodeId, value: ValueId) -> Result<Vec<Part>, Left> {
        let Some(product) = Product::of(self.model, node)?.filter(|p| p.matrix.n == self.k) else {
            return Err(self.stays(value, "no constant weight makes it"));
        };
        let weight = product.results(node);
        weight.check_alone(self.model, self.uses)?;
        let mut parts = vec![weight];
        if self.model.nodes[node].input(2).is_some() {
            parts.push(self.channels(node, 2, value)?);
        }
        Ok(parts)
    }

    /// The scale of a normalization, which has to be there, and the bias, in these operands.
    fn norm(&self, node: NodeId, value: ValueId, slots: &[usize]) -> Result<Vec<Part>, Left> {
        let n = &self.model.nodes[node];
        let given = |slot: &usize| *slot == slots[0] || n.input(*slot).is_some();
        let slots = slots.iter().copied().filter(given);
        slots.map(|slot| self.channels(node, slot, value)).collect()
    }

    /// Operand `slot`, which has to be a constant with channels.
    fn channels(&self, node: NodeId, slot: usize, value: ValueId) -> Result<Part, Left> {
        let part = Part::last_axis(self.model, node, slot, self.k)?;
        let part = part.ok_or_else(|| {
            let message = format!(
                "`{}` cannot be scaled: operand {slot} of {} is no constant of {} channels",
                self.name(value),
                self.model.label(node),
                self.k
            );
            Left::declined(Reason::WeightNotConstant, message, 0)
        })?;
        part.check(self.model, self.uses)?;
        Ok(part)
    }

    fn is_constant(&self, node: NodeId, slot: usize) -> bool {
        let value = self.model.nodes[node].input(slot);
        value.is_some_and(|v| matches!(trace(self.model, v), Ok(Ok(_))))
    }

    fn name(&self, value: ValueId) -> &str {
        &self.model.values[value].name
    }

    fn stays(&self, value: ValueId, why: &str) -> Left {
        let message = format!("`{}` cannot be scaled: {why}", self.name(value));
        Left::declined(Reason::Operator, message, 0)
    }
}

/// The operands that scale and shift the first result of a normalization, if that is one.
fn norm(domain: &str, op: &str) -> Option<&'static [usize]> {
    match (domain, op) {
        // ONNX Runtime has the second one in the default domain, too.
        ("", "LayerNormalization") => Some(&[1, 2]),
        ("", "RMSNormalization" | "SimplifiedLayerNormalization") => Some(&[1]),
        // Its last operand is added before.
        ("com.microsoft", "SkipLayerNormalization") => Some(&[2, 3]),
        ("com.microsoft", "SkipSimplifiedLayerNormalization") => Some(&[2]),
        _ => None,
    }
}

fn casts_to_float(node: &Node) -> bool {
    let to = node
        .int("to", 0)
        .and_then(|t| DataType::from_code(t as i32));
    to.is_some_and(DataType::is_float)
}
