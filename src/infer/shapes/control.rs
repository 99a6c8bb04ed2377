//! Operators with graphs inside, and calls of local functions.

use super::{
    Shapes,
    op::{Fact, Outcome, Stop},
};
use crate::{
    infer::SymInt,
    ir::{AttributeValue, GraphId, Node, ValueId},
};

/// Visits of the body of a loop until what it carries is the same in every iteration. Each makes an
/// axis or a rank unknown, so that few are needed; after these, nothing of it is known.
const ROUNDS: usize = 32;

impl<'m> Shapes<'m> {
    /// The results of a node with graphs inside.
    pub(super) fn control(&mut self, node: &'m Node) -> Outcome {
        match (node.domain(), &*node.op_type) {
            ("", "If") => self.branch(node),
            ("", "Loop") => self.repeat(node),
            ("", "Scan") => self.scan(node),
            _ => {
                node.subgraphs().for_each(|g| self.inside(g));
                Err(Stop::Unknown)
            }
        }
    }

    /// `If`: what both branches agree in, or what the branch says that is taken.
    fn branch(&mut self, node: &'m Node) -> Outcome {
        node.subgraphs().for_each(|g| self.inside(g));
        let condition = node
            .input(0)
            .and_then(|c| self.facts[c].elements.as_ref()?.first()?.known());
        let graph = |name: &str| match node.attribute(name) {
            Some(AttributeValue::Graph(g)) => Ok(*g),
            _ => Err(Stop::Unknown),
        };
        let (yes, no) = (graph("then_branch")?, graph("else_branch")?);
        let taken = condition.map(|c| if c != 0 { yes } else { no });
        let count = node.outputs.len();
        Ok((0..count)
            .map(|slot| {
                let of = |g| self.outward(g, slot, node.output(slot));
                match taken {
                    Some(graph) => of(graph),
                    None => join(of(yes), &of(no), node.output(slot)),
                }
            })
            .collect())
    }

    /// `Loop`: `(count, condition, carried...) -> (carried..., scanned...)`; the body takes
    /// `(iteration, condition, carried...)` and makes `(condition, carried..., scanned...)`.
    fn repeat(&mut self, node: &'m Node) -> Outcome {
        let Some(AttributeValue::Graph(body)) = node.attribute("body") else {
            return Err(Stop::Unknown);
        };
        let body = *body;
        let inputs = &self.model.graphs[body].inputs;
        // Runtimes give the iteration and the condition the rank that the body declares.
        for &value in inputs.iter().take(2) {
            let info = self.model.values[value].info.as_ref();
            let ty = info.and_then(|i| i.ty.as_ref());
            self.facts[value] = Fact {
                shape: ty.and_then(|ty| super::declared(ty, value, false)),
                elements: None,
            };
        }
        let carried = inputs.len().saturating_sub(2);
        let start: Vec<Fact> = (0..carried).map(|i| self.given(node, i + 2)).collect();
        for (i, fact) in start.iter().enumerate() {
            self.facts[inputs[i + 2]] = fact.clone();
        }
        self.settle(body, 2, 1, carried);
        let outputs = &self.model.graphs[body].outputs;
        let count = node.outputs.len();
        Ok((0..count)
            .map(|slot| {
                let result = node.output(slot);
                let inside = self.outward(body, slot + 1, result);
                match start.get(slot) {
                    // No iteration at all leaves what came in.
                    Some(start) => join(inside, start, result),
                    None if slot + 1 < outputs.len() => stacked(inside, result),
                    None => Fact::default(),
                }
            })
            .collect())
    }

    /// What is known of operand `slot` in every iteration: elements change from one to the next.
    fn given(&self, node: &Node, slot: usize) -> Fact {
        Fact {
            shape: node.input(slot).and_then(|v| self.facts[v].shape.clone()),
            elements: None,
        }
    }

    /// `Scan`: states, then one result for each slice; scanned axes are the first unless
    /// the attributes say otherwise.
    fn scan(&mut self, node: &'m Node) -> Outcome {
        let Some(AttributeValue::Graph(body)) = node.attribute("body") else {
            return Err(Stop::Unknown);
        };
        let body = *body;
        let opset = self.model.opset(node.graph, "").unwrap_or(1);
        let scanned = node.int("num_scan_inputs", 0).unwrap_or(0).max(0) as usize;
        let inputs = &self.model.graphs[body].inputs;
        let states = inputs.len().saturating_sub(scanned);
        let moved = ["scan_input_axes", "scan_output_axes"]
            .iter()
            .any(|a| node.attribute(a).is_some());
        if opset < 9 || moved || node.inputs.len() != inputs.len() {
            inputs.iter().for_each(|&v| self.facts[v] = Fact::default());
            self.inside(body);
            return Err(Stop::Unknown);
        }
        let mut length = None;
        let start: Vec<Fact> = (0..states).map(|i| self.given(node, i)).collect();
        for (i, &value) in inputs.iter().enumerate() {
            let shape = match (i < states, self.given(node, i).shape) {
                (true, shape) => shape,
                (false, Some(shape)) if !shape.is_empty() => {
                    length = Some(shape[0].clone());
                    Some(shape[1..].to_vec())
                }
                _ => None,
            };
            self.facts[value] = Fact {
                shape,
                elements: None,
            };
        }
        self.settle(body, 0, 0, states);
        Ok((0..node.outputs.len())
            .map(|slot| {
                let result = node.output(slot);
                let inside = self.outward(body, slot, result);
                match start.get(slot) {
                    Some(start) => join(inside, start, result),
                    None => {
                        let mut out = stacked(inside, result);
                        if let (Some(shape), Some(length)) = (&mut out.shape, &length) {
                            shape[0] = length.clone();
                        }
                        out
                    }
                }
            })
            .collect())
    }

    /// Visits `body` until the carried values that come out are like those that went in:
    /// input `first_in + i` is output `first_out + i` of the iteration before.
    fn settle(&mut self, body: GraphId, first_in: usize, first_out: usize, carried: usize) {
        let (inputs, outputs) = {
            let g = &self.model.graphs[body];
            (&g.inputs, &g.outputs)
        };
        let told = self.conflicts.len();
        for _ in 0..ROUNDS {
            // What does not fit in a round that is not the last says nothing.
            self.conflicts.truncate(told);
            self.inside(body);
            let mut settled = true;
            for i in 0..carried {
                let (Some(&into), Some(out)) =
                    (inputs.get(first_in + i), outputs.get(first_out + i))
                else {
                    continue;
                };
                let before = self.facts[into].clone();
                let out = Fact {
                    elements: None,
                    ..self.facts[out.value].clone()
                };
                let both = join(out, &before, Some(into));
                settled &= both == before;
                self.facts[into] = both;
            }
            if settled {
                return;
            }
        }
        for i in 0..carried {
            if let Some(&into) = inputs.get(first_in + i) {
                self.facts[into] = Fact::default();
            }
        }
        self.conflicts.truncate(told);
        self.inside(body);
    }

    /// A call of a local function: its body with these operands.
    pub(super) fn call(&mut self, node: &'m Node, body: GraphId) -> Outcome {
        if self.alone || self.called.contains(&body) {
            return Err(Stop::Unknown);
        }
        self.called.push(body);
        let model = self.model;
        for (slot, &value) in model.graphs[body].inputs.iter().enumerate() {
            let operand = node.input(slot).map(|v| self.facts[v].clone());
            self.facts[value] = operand.unwrap_or_default();
        }
        self.inside(body);
        let results = node.outputs.iter().enumerate();
        let results = results.map(|(slot, result)| self.outward(body, slot, *result));
        let results = results.collect();
        // By itself the body is given anything.
        for &value in &model.graphs[body].inputs {
            self.facts[value] = Fact::default();
        }
        self.called.pop();
        Ok(results)
    }

    /// What is known of output `slot` of `graph` where its values are not seen: unknown
    /// extents of theirs become those of `result`.
    fn outward(&self, graph: GraphId, slot: usize, result: Option<ValueId>) -> Fact {
        let Some(output) = self.model.graphs[graph].outputs.get(slot) else {
            return Fact::default();
        };
        let fact = &self.facts[output.value];
        let inside = |value: ValueId| self.model.is_within(self.model.home(value), graph);
        let keep = |x: &SymInt| !x.depends_on(&inside);
        let Some(result) = result else {
            return Fact::default();
        };
        let shape = fact.shape.as_ref().map(|shape| {
            let each = shape.iter().enumerate();
            let extent = |(axis, d): (usize, &SymInt)| match keep(d) {
                true => d.clone(),
                false => SymInt::extent(result, axis),
            };
            each.map(extent).collect()
        });
        let elements = fact.elements.as_ref().map(|list| {
            let each = list.iter().enumerate();
            let element = |(i, e): (usize, &SymInt)| match keep(e) {
                true => e.clone(),
                false => SymInt::element(result, i),
            };
            each.map(element).collect()
        });
        Fact { shape, elements }
    }
}

/// What holds of `result` when it is either `a` or `b`.
fn join(a: Fact, b: &Fact, result: Option<ValueId>) -> Fact {
    let (Some(x), Some(y), Some(result)) = (a.shape, &b.shape, result) else {
        return Fact::default();
    };
    if x.len() != y.len() {
        return Fact::default();
    }
    let each = x.into_iter().zip(y).enumerate();
    let extent = |(axis, (x, y)): (usize, (SymInt, &SymInt))| match x == *y {
        true => x,
        false => SymInt::extent(result, axis),
    };
    let shape = each.map(extent).collect();
    let same = a.elements.filter(|list| Some(list) == b.elements.as_ref());
    Fact {
        shape: Some(shape),
        elements: same,
    }
}

/// One of these for every iteration: an axis more, at the front.
fn stacked(inside: Fact, result: Option<ValueId>) -> Fact {
    let (Some(mut shape), Some(result)) = (inside.shape, result) else {
        return Fact::default();
    };
    // An iteration may make another extent than the last one did; the model would fail.
    for (axis, extent) in shape.iter_mut().enumerate() {
        if extent.known().is_none() {
            *extent = SymInt::extent(result, axis + 1);
        }
    }
    shape.insert(0, SymInt::extent(result, 0));
    Fact::of_shape(shape)
}
