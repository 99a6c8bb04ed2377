//! Results beyond half's range, above it or below: measured, or estimated from the constants that
//! make them.
//!
//! An estimate begins at a constant beyond half's range, or at a scalar factor, and goes through
//! what follows until something bounds or scales it. What is unknown counts as 1, the size
//! that models keep their activations at; so a model without such constants gets no estimate at
//! all, and nothing is left only because it has no bound.

use crate::{
    infer::Kind,
    ir::{GraphId, Node, NodeId, SideTable, Use, ValueId},
    maxima::{HALF_LEAST, Maxima, is_beyond_half},
    pass::Reason,
    weights::{HALF_MAX, read_floats},
};

use super::{
    operators::{MATRICES, MOVING, NORMS, SIZED},
    range::{MASKING, Range, Ranges, STANDS_IN, elements},
    survey::Survey,
};

/// What was measured to reach this is infinite in float, or stands for that in a mask. Half has
/// infinity as well.
const INFINITE: f64 = 1e38;

/// Leaves the nodes that make or read values beyond half's range.
pub(super) fn leave(survey: &mut Survey<'_>, ranges: &Ranges, maxima: &Maxima) {
    let mut estimate = Estimate {
        survey,
        ranges,
        maxima,
        sizes: SideTable::new(None),
        masks: SideTable::new(false),
        beyond: Vec::new(),
    };
    estimate.graph(survey.model.main);
    for (value, message) in estimate.beyond {
        let made_here = survey.model.producer(value);
        let nodes = made_here.filter(|&n| !survey.follows_users(n));
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.extend(survey.uses.of_value(value).iter().filter_map(|u| match *u {
            Use::Operand(node, _) => Some(node),
            Use::Output(graph, _) => survey.model.graphs[graph].owner,
        }));
        for node in nodes {
            survey.leave(node, Reason::HalfRange, message.as_str(), 0);
        }
    }
}

struct Estimate<'s, 'm> {
    survey: &'s Survey<'m>,
    ranges: &'s Ranges,
    maxima: &'s Maxima,
    /// The magnitude of each value of which something is known.
    sizes: SideTable<ValueId, Option<f64>>,
    /// Values made with numbers that stand for infinity.
    masks: SideTable<ValueId, bool>,
    /// The values beyond half's range, and what remarks say of each.
    beyond: Vec<(ValueId, String)>,
}

impl Estimate<'_, '_> {
    fn graph(&mut self, graph: GraphId) {
        let model = self.survey.model;
        for &value in model.graphs[graph].inputs.iter() {
            self.settle(value, None);
        }
        for &node in &model.graphs[graph].nodes {
            let n = &model.nodes[node];
            n.subgraphs().for_each(|g| self.graph(g));
            let masks = self.is_mask(n);
            for (slot, value) in n.outputs.iter().enumerate() {
                if let Some(value) = *value {
                    self.masks[value] = masks;
                    let found = self.result(n, slot);
                    self.settle(value, found);
                }
            }
        }
    }

    /// Takes `found` for the magnitude of `value`, unless that was measured.
    fn settle(&mut self, value: ValueId, found: Option<f64>) {
        if !self.has_numbers(value) {
            return;
        }
        let model = self.survey.model;
        let name = &model.values[value].name;
        // Inside, the name may be that of another value.
        let outside = model.home(value) == model.main;
        let measured = self.maxima.get(name);
        let measured = measured.filter(|&most| {
            let infinite = most >= INFINITE || most >= STANDS_IN && self.masks[value];
            outside && !infinite
        });
        let found = found.filter(|_| !(outside && self.maxima.others_fit()));
        self.sizes[value] = measured.or(found);
        // Constants are looked at one by one.
        if !self.survey.is_float(value) || !self.varies(value) {
            return;
        }
        let message = match (measured, found) {
            (Some(most), _) if is_beyond_half(most) => {
                format!("`{name}` was measured to reach {most:.4e}")
            }
            (None, Some(most)) if !(HALF_LEAST..=HALF_MAX).contains(&most) => {
                format!("`{name}` reaches about {most:.0e} by the constants before it")
            }
            _ => return,
        };
        let message = format!("{message}; half is exact to 11 bits from 6.1e-5 to 65504");
        self.beyond.push((value, message));
    }

    /// Whether `node` makes masks, or applies them, with numbers that stand for infinity.
    fn is_mask(&self, node: &Node) -> bool {
        let op = &&*node.op_type;
        let hands_on = node.domain().is_empty() && (MASKING.contains(op) || MOVING.contains(op));
        let mask = |v: &ValueId| self.masks[*v] || matches!(self.ranges[*v], Range::StandsIn(_));
        hands_on && node.inputs.iter().flatten().any(mask)
            || node
                .outputs
                .iter()
                .flatten()
                .any(|v| matches!(self.ranges[*v], Range::StandsIn(_)))
    }

    /// The magnitude of a value, when something is known of it.
    fn size(&self, value: Option<ValueId>) -> Option<f64> {
        let value = value?;
        self.sizes[value].or_else(|| match self.ranges[value] {
            Range::Wide(beyond) => Some(beyond.largest),
            _ => None,
        })
    }

    /// The largest of the magnitudes, when any is known.
    fn most(&self, values: &[Option<ValueId>]) -> Option<f64> {
        let known = values
            .iter()
            .filter_map(|&v| self.size(v))
            .reduce(f64::max)?;
        let mut others = values.iter().flatten().filter(|&&v| self.varies(v));
        Some(match others.any(|&v| self.size(Some(v)).is_none()) {
            true => known.max(1.0),
            false => known,
        })
    }

    /// Whether `value` has numbers of any precision, so that what is half already says the same
    /// as what becomes it.
    fn has_numbers(&self, value: ValueId) -> bool {
        matches!(self.survey.kinds[value], Some(Kind::Tensor(dtype)) if dtype.is_float())
    }

    fn varies(&self, value: ValueId) -> bool {
        self.has_numbers(value) && elements(self.survey.model, value).is_none()
    }

    /// The magnitude of a factor; that of a constant of one element is known.
    fn factor(&self, value: Option<ValueId>) -> Option<f64> {
        self.size(value).or_else(|| self.scalar(value))
    }

    /// The magnitude of a constant of one element, unless that stands for infinity.
    fn scalar(&self, value: Option<ValueId>) -> Option<f64> {
        let value = value.filter(|&v| self.ranges[v] == Range::Fits)?;
        let (data, dtype) = elements(self.survey.model, value)?;
        if data.len() * 8 != dtype.bits() {
            return None;
        }
        let mut found = None;
        read_floats(dtype, &data.read_all().ok()?, |x| found = Some(x.abs()));
        // The largest numbers of half stand for infinity.
        found.filter(|&x| x < HALF_MAX)
    }

    /// The magnitude of `a` times `b`, or divided by it.
    fn scaled(&self, node: &Node, by: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let (a, b) = (node.input(0), node.input(1));
        let known = self.size(a).or(self.size(b)).is_some();
        let factor = |v| self.factor(v).unwrap_or(1.0);
        // Factors make an unknown size a known one only upward.
        Some(by(factor(a), factor(b))).filter(|&x| known || x > 1.0)
    }

    /// The magnitude of result `slot` of `node`, when something is known of its operands.
    fn result(&self, node: &Node, slot: usize) -> Option<f64> {
        let inputs = &node.inputs[..];
        let (a, b) = (node.input(0), node.input(1));
        let op = &*node.op_type;
        if !node.domain().is_empty() {
            return None;
        }
        match op {
            "Mul" => self.scaled(node, |a, b| a * b),
            "Div" => self.scaled(node, |a, b| a / b),
            _ if MATRICES.contains(&op) => self.most(&inputs[..inputs.len().min(2)]).map(|_| {
                let size = |v| self.size(v).unwrap_or(1.0);
                size(a) * size(b)
            }),
            "Sqrt" => self.size(a).map(f64::sqrt),
            "Reciprocal" => self.size(a).map(f64::recip),
            // Near 0 it says nothing of the other elements.
            "Log" => self.size(a).map(|x| x.ln().abs()).filter(|&x| x > 1.0),
            "ReduceSumSquare" => self.size(a).map(|x| x * x),
            "Pow" => Some(self.size(a)?.powf(self.exponent(b)?)),
            "Clip" => self.size(a).map(|x| x.min(self.limit(node))),
            "Where" => self.most(inputs.get(1..)?),
            "BatchNormalization" => {
                let [x, scale, bias, _, variance] =
                    [0, 1, 2, 3, 4].map(|i| self.size(node.input(i)));
                let scaled = match (x, scale) {
                    (None, None) => None,
                    (x, s) => Some(x.unwrap_or(1.0) * s.unwrap_or(1.0)),
                };
                let scaled = scaled.map(|s| s / variance.unwrap_or(1.0).sqrt());
                [scaled, bias].into_iter().flatten().reduce(f64::max)
            }
            // What it takes is brought to size 1 first.
            _ if NORMS.contains(&op) => self.most(inputs.get(1..)?),
            "If" => {
                let model = self.survey.model;
                let outputs = node.subgraphs().map(|g| model.graphs[g].outputs.get(slot));
                let values: Vec<_> = outputs.map(|o| o.map(|o| o.value)).collect();
                self.most(&values)
            }
            _ if MOVING.contains(&op) || SIZED.contains(&op) => self.most(inputs),
            _ => None,
        }
    }

    /// A constant exponent.
    fn exponent(&self, value: Option<ValueId>) -> Option<f64> {
        let (values, _) = crate::weights::small_floats(self.survey.model, value?, 1).ok()??;
        values.first().copied()
    }

    /// The larger of the bounds of a Clip, when both are known.
    fn limit(&self, node: &Node) -> f64 {
        let by_attribute = || {
            let bound = |name| node.float(name, f32::INFINITY).map(|x| f64::from(x.abs()));
            Some(bound("min")?.max(bound("max")?))
        };
        let by_operand = || {
            let bound = |i| self.factor(node.input(i));
            Some(bound(1)?.max(bound(2)?))
        };
        let known = match node.inputs.len() {
            1 => by_attribute(),
            _ => by_operand(),
        };
        known.unwrap_or(f64::INFINITY)
    }
}
