//! Where a model leaves its baseline: which node costs most.
//!
//! Both models are run with inner values exposed as outputs. A value counts when both have it by
//! name and it is computed differently: by other operators, attributes or constants, or in
//! another type. Its error
//! has two parts, which are told apart by a third run, of the model cut at the values that both
//! have: every piece is fed what the *baseline* computes there, so that it shows only the error
//! that it adds itself. Errors that come from above, which grow and shrink on their way, are not
//! blamed on the nodes that they pass.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use super::{lm::Named, report::NodeDivergence};
use crate::{
    diff,
    engine::{Array, Engine, LoadOptions, Program},
    error::{Error, Result},
    infer::{self, Kind},
    ir::{
        DataType, Def, GraphOutput, Model, Node, NodeId, SideTable, TensorType, Type, Use, Uses,
        Value, ValueId, ValueInfo, edit::Edit,
    },
};

/// Ranks the nodes of `model` that add an error by how large it is, the worst first.
///
/// `feed` gives the inputs of a model; only names that it has.
///
/// # Errors
/// The engine cannot run a model with its inner values exposed.
pub(crate) fn per_node(
    engine: &dyn Engine,
    baseline: &Model,
    model: &Model,
    feed: &dyn Fn(&Model) -> Result<Vec<Named>>,
    load: LoadOptions,
) -> Result<Vec<NodeDivergence>> {
    // Fused nodes have no inner values; and what a node alone does is asked.
    let load = LoadOptions {
        optimize: false,
        ..load
    };
    let pieces = Cut::new(baseline, model).pieces()?;
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let named = |values: &BTreeSet<ValueId>| -> Vec<String> {
        let name = |&v: &ValueId| model.values[v].name.to_string();
        values.iter().map(name).collect()
    };
    let results: BTreeSet<ValueId> = pieces.iter().map(|p| p.result).collect();
    let borders: BTreeSet<ValueId> = pieces.iter().flat_map(|p| p.border.clone()).collect();
    let mut exposed = named(&results);
    exposed.extend(named(&borders.difference(&results).copied().collect()));

    let run = |model: &Model, feeds: &[Named], outputs: &[String]| -> Result<Vec<Array>> {
        let exposing = expose(model, outputs)?;
        let program = Program {
            model: &exposing,
            file: None,
        };
        let mut session = engine.load(program, load)?;
        let feeds: Vec<_> = feeds.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
        session.run(&feeds, &outputs)
    };
    let at = |what: &'static str| move |e: Error| e.at(what);
    let base =
        run(baseline, &feed(baseline)?, &exposed).map_err(at("the baseline, node by node"))?;
    let free = run(model, &feed(model)?, &exposed).map_err(at("the model, node by node"))?;
    let base: HashMap<&str, &Array> = exposed.iter().map(String::as_str).zip(&base).collect();
    let free: HashMap<&str, &Array> = exposed.iter().map(String::as_str).zip(&free).collect();

    let (forced, forced_feeds) = force(model, &pieces, &borders, &base, &free)?;
    let mut feeds = feed(model)?;
    let inputs = &forced.graphs[forced.main].inputs;
    let inputs: HashSet<&str> = inputs.iter().map(|&v| &*forced.values[v].name).collect();
    feeds.retain(|(name, _)| inputs.contains(name.as_str()));
    feeds.extend(forced_feeds);
    let results = named(&results);
    let local = run(&forced, &feeds, &results).map_err(at("the model, piece by piece"))?;
    let local: HashMap<&str, &Array> = results.iter().map(String::as_str).zip(&local).collect();

    let mut ranking = Vec::new();
    for piece in &pieces {
        let value = &*model.values[piece.result].name;
        let (Some(introduced), Some(accumulated)) = (
            relative_error(base[value], local[value]),
            relative_error(base[value], free[value]),
        ) else {
            continue;
        };
        ranking.push(NodeDivergence {
            value: value.to_owned(),
            node: model.node_name(piece.last).to_string(),
            operator: model.nodes[piece.last].op_type.to_string(),
            introduced,
            accumulated,
        });
    }
    // Written otherwise and computed alike, as after a clean-up.
    ranking.retain(|n| n.introduced > 0.0);
    ranking.sort_by(|a, b| b.introduced.total_cmp(&a.introduced));
    Ok(ranking)
}

/// Norm of the difference by norm of `base`; `None` for truth values, or when they have not the
/// same extents.
fn relative_error(base: &Array, other: &Array) -> Option<f64> {
    if base.dims() != other.dims() {
        return None;
    }
    let (base, other) = (base.to_f32()?, other.to_f32()?);
    let (mut signal, mut noise) = (0.0, 0.0);
    for (&b, &o) in base.iter().zip(&other) {
        let (b, o) = (f64::from(b), f64::from(o));
        if b.is_finite() {
            signal += b * b;
        }
        // Masks are full of infinities.
        if b != o && !(b.is_nan() && o.is_nan()) {
            noise += (o - b) * (o - b);
        }
    }
    let error = (noise / signal.max(f64::MIN_POSITIVE)).sqrt();
    // Where only one of them is a number, nothing is worse.
    Some(if error.is_nan() { f64::INFINITY } else { error })
}

/// A part of the model between values that the baseline has too.
struct Piece {
    /// The value that it computes.
    result: ValueId,
    /// The node that computes it.
    last: NodeId,
    /// All of its nodes.
    nodes: Vec<NodeId>,
    /// The values that it reads and both models compute.
    border: Vec<ValueId>,
}

/// The values that both models compute, in the main graph.
struct Cut<'m> {
    baseline: &'m Model,
    model: &'m Model,
    /// What the values of each are.
    kinds: [SideTable<ValueId, Option<Kind>>; 2],
    /// By name: the baseline's node and the model's.
    common: BTreeMap<ValueId, NodeId>,
    /// What [`Cut::is_same`] has found.
    compared: RefCell<HashMap<(NodeId, NodeId), bool>>,
}

impl<'m> Cut<'m> {
    fn new(baseline: &'m Model, model: &'m Model) -> Cut<'m> {
        let mut theirs = HashMap::new();
        for &node in &baseline.graphs[baseline.main].nodes {
            for value in baseline.nodes[node].outputs.iter().flatten() {
                theirs.insert(&*baseline.values[*value].name, node);
            }
        }
        let mut common = BTreeMap::new();
        // A constant is a part of the piece that reads it, however it came about.
        let mut varies: BTreeSet<ValueId> = BTreeSet::new();
        for &node in &model.graphs[model.main].nodes {
            let is_input = |v: ValueId| {
                let value = &model.values[v];
                matches!(value.def, Def::Input(_)) && value.constant.is_none()
            };
            if !model
                .operands(node)
                .any(|v| is_input(v) || varies.contains(&v))
            {
                continue;
            }
            for &value in model.nodes[node].outputs.iter().flatten() {
                varies.insert(value);
                if let Some(&other) = theirs.get(&*model.values[value].name) {
                    common.insert(value, other);
                }
            }
        }
        Cut {
            baseline,
            model,
            kinds: [baseline, model].map(infer::kinds),
            common,
            compared: RefCell::default(),
        }
    }

    /// The pieces that compute something differently, in the order of the graph.
    fn pieces(&self) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for &node in &self.model.graphs[self.model.main].nodes {
            for &value in self.model.nodes[node].outputs.iter().flatten() {
                let Some(&other) = self.common.get(&value) else {
                    continue;
                };
                let piece = self.piece(value, node);
                if !self.is_same(node, other)? {
                    pieces.push(piece);
                }
            }
        }
        Ok(pieces)
    }

    /// From `last` upward to the nearest values that both compute.
    fn piece(&self, result: ValueId, last: NodeId) -> Piece {
        let mut piece = Piece {
            result,
            last,
            nodes: Vec::new(),
            border: Vec::new(),
        };
        let mut seen = BTreeSet::from([last]);
        let mut open = vec![last];
        while let Some(node) = open.pop() {
            piece.nodes.push(node);
            for value in self.model.operands(node) {
                let Some(producer) = self.model.producer(value) else {
                    continue;
                };
                if self.common.contains_key(&value) {
                    if !piece.border.contains(&value) {
                        piece.border.push(value);
                    }
                } else if seen.insert(producer) {
                    open.push(producer);
                }
            }
        }
        piece
    }

    /// Whether both nodes do the same with the same: operator, attributes, types of results,
    /// operands by name, constants by content. Of nodes with graphs, or that call functions of
    /// the model, this is not looked at.
    fn is_same(&self, node: NodeId, other: NodeId) -> Result<bool> {
        if let Some(&known) = self.compared.borrow().get(&(node, other)) {
            return Ok(known);
        }
        let same = self.look(node, other)?;
        self.compared.borrow_mut().insert((node, other), same);
        Ok(same)
    }

    /// Whether both are the same by name where both models compute it, else the same by what
    /// makes it.
    fn same_value(&self, value: ValueId, other: ValueId) -> Result<bool> {
        let (a, b) = (&self.model.values[value], &self.baseline.values[other]);
        if self.common.contains_key(&value) {
            return Ok(a.name == b.name);
        }
        match (a.def, b.def) {
            (Def::Node(x, i), Def::Node(y, j)) => Ok(i == j && self.is_same(x, y)?),
            (Def::Node(..), _) | (_, Def::Node(..)) => Ok(false),
            _ => Ok(a.name == b.name),
        }
    }

    fn look(&self, node: NodeId, other: NodeId) -> Result<bool> {
        let (a, b) = (&self.model.nodes[node], &self.baseline.nodes[other]);
        let attributes = a.attributes.len() == b.attributes.len()
            && a.attributes.iter().all(|x| {
                let theirs = b.attribute(&x.name);
                theirs.is_some_and(|y| diff::same_attribute(&x.value, y))
            });
        if a.op_type != b.op_type
            || a.domain() != b.domain()
            || a.inputs.len() != b.inputs.len()
            || !attributes
            || a.subgraphs().next().is_some()
            || self.calls(a)
            || self.differ_in_type(a, b)
        {
            return Ok(false);
        }
        for (x, y) in a.inputs.iter().zip(&b.inputs) {
            let same = match (x, y) {
                (None, None) => true,
                (Some(x), Some(y)) => match (self.model.tensor(*x), self.baseline.tensor(*y)) {
                    (Some(x), Some(y)) => diff::same_tensor(x, y)?,
                    (None, None) => self.same_value(*x, *y)?,
                    _ => false,
                },
                _ => false,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `node` of the model calls one of its functions.
    fn calls(&self, node: &Node) -> bool {
        let mut functions = self.model.functions.iter();
        functions.any(|f| *f.name == *node.op_type && f.domain() == node.domain())
    }

    /// Whether `node` computes a value of another type than `other`, the baseline's: with other
    /// precision, then.
    fn differ_in_type(&self, node: &Node, other: &Node) -> bool {
        let [theirs, mine] = &self.kinds;
        let values = node.outputs.iter().zip(&other.outputs);
        let mut kinds = values.filter_map(|(&v, &w)| mine[v?].zip(theirs[w?]));
        kinds.any(|(mine, theirs)| mine != theirs)
    }
}

/// `model` with the values of these names as its outputs.
fn expose(model: &Model, names: &[String]) -> Result<Model> {
    let mut exposing = model.clone();
    let main = exposing.main;
    let produced = exposing.graphs[main]
        .nodes
        .iter()
        .flat_map(|&n| exposing.nodes[n].outputs.iter().flatten().copied());
    let by_name: HashMap<&str, ValueId> =
        produced.map(|v| (&*exposing.values[v].name, v)).collect();
    let output = |name: &String| {
        let value = by_name.get(name.as_str()).copied();
        value
            .map(|value| GraphOutput {
                value,
                info: exposing.values[value].info.clone().unwrap_or_default(),
            })
            .ok_or_else(|| Error::input(format!("there is no value `{name}`")))
    };
    let outputs = names.iter().map(output).collect::<Result<_>>()?;
    exposing.graphs[main].outputs = outputs;
    Ok(exposing)
}

/// The pieces of `model` alone, each fed at its border with what the baseline computes; and
/// those feeds.
fn force(
    model: &Model,
    pieces: &[Piece],
    borders: &BTreeSet<ValueId>,
    base: &HashMap<&str, &Array>,
    free: &HashMap<&str, &Array>,
) -> Result<(Model, Vec<Named>)> {
    let mut forced = model.clone();
    let main = forced.main;
    let uses = Uses::of(&forced);
    let mut edit = Edit::new(&mut forced);
    let mut feeds = Vec::new();
    let mut inputs = Vec::new();
    for &border in borders {
        let name = edit.model().values[border].name.clone();
        let wanted = free[&*name].dtype();
        let array = match base[&*name] {
            array if array.dtype() == wanted => array.clone(),
            array => array.to_type(wanted).ok_or_else(|| {
                Error::unsupported(format!(
                    "value `{name}` is of {} in the baseline and of {} in the model",
                    array.dtype().name(),
                    wanted.name()
                ))
            })?,
        };
        let fed = edit.fresh_name(&format!("{name}/forced"));
        let input = input(edit.model_mut(), &fed, border, array.dtype());
        for &each in uses.of_value(border) {
            let model = edit.model_mut();
            match each {
                Use::Operand(node, slot) => model.nodes[node].inputs[slot as usize] = Some(input),
                // A branch may give what it captures as it is.
                Use::Output(graph, index) if graph != main => {
                    model.graphs[graph].outputs[index as usize].value = input;
                }
                Use::Output(..) => {}
            }
        }
        inputs.push(input);
        feeds.push((fed.to_string(), array));
    }
    edit.finish();
    let kept: BTreeSet<NodeId> = pieces.iter().flat_map(|p| p.nodes.clone()).collect();
    let read: HashSet<ValueId> = kept.iter().flat_map(|&n| forced.operands(n)).collect();
    let graph = &mut forced.graphs[main];
    graph.nodes.retain(|n| kept.contains(n));
    graph.inputs.retain(|v| read.contains(v));
    graph.inputs.extend(inputs);
    graph.initializers.retain(|v| read.contains(v));
    graph.sparse_initializers.retain(|v| read.contains(v));
    graph.value_info.clear();
    graph.repeated_value_info.clear();
    Ok((forced, feeds))
}

/// A new input of the main graph, of the type that `like` is declared to have, but of `dtype`.
fn input(model: &mut Model, name: &str, like: ValueId, dtype: DataType) -> ValueId {
    let shape = model
        .type_of(like)
        .and_then(|ty| ty.as_tensor().and_then(|t| t.shape.clone()));
    model.values.push(Value {
        name: name.into(),
        def: Def::Input(model.main),
        info: Some(ValueInfo {
            ty: Some(Type::from(TensorType {
                elem: Some(dtype),
                shape,
            })),
            ..ValueInfo::default()
        }),
        constant: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// The values whose nodes differ.
    fn different(baseline: &str, model: &str) -> Vec<String> {
        let graph = |body: &str| {
            let head = "<ir_version: 10, opset_import: [\"\": 17, \"f\": 1]>";
            parse(&format!("{head} {body}")).unwrap()
        };
        let (baseline, model) = (graph(baseline), graph(model));
        let pieces = Cut::new(&baseline, &model).pieces().unwrap();
        let name = |p: &Piece| model.values[p.result].name.to_string();
        pieces.iter().map(name).collect()
    }

    #[test]
    fn another_type_is_another_computation() {
        let float = "g (float[2] x) => (float[2] y) { a = Relu (x) b = Neg (a) y = Abs (b) }";
        let half = "g (float[2] x) => (float[2] y) {
            h = Cast <to = 10> (x) a = Relu (h) b = Neg (a) c = Abs (b) y = Cast <to = 1> (c)
        }";
        assert_eq!(different(float, float), [""; 0]);
        assert_eq!(different(float, half), ["a", "b", "y"]);
    }

    #[test]
    fn a_function_may_do_something_else() {
        let call = |op: &str| {
            format!(
                "g (float[2] x) => (float[2] y) {{ a = f.F (x) y = Abs (a) }}
                 <domain: \"f\", opset_import: [\"\": 17]> F (p) => (q) {{ q = {op} (p) }}"
            )
        };
        assert_eq!(different(&call("Relu"), &call("Neg")), ["a"]);
    }

    #[test]
    fn relative_errors_by_hand() {
        let error = |b: [f32; 2], o: [f32; 2]| {
            let array = |x: [f32; 2]| Array::new(vec![2], x.to_vec());
            relative_error(&array(b), &array(o)).unwrap()
        };
        const INF: f32 = f32::INFINITY;
        assert_eq!(error([3.0, 4.0], [3.0, 9.0]), 1.0);
        assert_eq!(error([3.0, -INF], [3.0, -INF]), 0.0);
        assert_eq!(error([3.0, f32::NAN], [3.0, f32::NAN]), 0.0);
        for bad in [f32::NAN, INF] {
            assert_eq!(error([3.0, 4.0], [3.0, bad]), f64::INFINITY);
            assert_eq!(error([3.0, bad], [3.0, 4.0]), f64::INFINITY);
        }
    }
}
