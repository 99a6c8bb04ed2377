//! `dce`: what nothing reads.

mod live;

use std::collections::BTreeSet;

use crate::{
    error::Result,
    ir::{Def, GraphId, Model, NodeId, OpsetImport, SideTable, ValueId, edit::unlist},
    pass::{Changed, Pass, PassContext, PassInfo},
    schema::{self, ParamOption},
};
use live::{Live, body_output};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "dce",
    summary: "remove nodes, constants and functions whose results nothing reads",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(Dce)),
};

const DOC: &str = "\
Removes what no output of the model depends on: nodes, initializers, results that a node need
not make, local functions, opset imports, and entries of `value_info` that describe nothing.
ONNX operators have no effect but their results, so unknown operators go too; only a node
without any output stays.

## Scope

All graphs, subgraphs and local functions too. Inputs of graphs stay, used or not. An
initializer that is an input too goes up to IR version 3, where all of them had to be; after
that it is the input's default, and stays.

Results are dropped where their absence means nothing but that they are not wanted: those of
`Dropout`, `GRU`, `LSTM`, `LayerNormalization`, `RNN`, `SoftmaxCrossEntropyLoss` and `Unique`
that are optional. Of `If`, and of what `Loop` collects, an unused result goes
together with the output of the body that makes it.

A model with training information keeps its initializers, functions and imports, because that
may use them.

## Statistics

`nodes`, `initializers`, `outputs` (results of nodes that stay), `functions`, `imports`,
`infos` (entries of `value_info`).

## Example

```text
a, mask = Dropout (x)
b = Exp (x)
a = Dropout (x)                 nothing reads mask and b
```
";

/// Operators of the default domain, and the opset from which on they do the same whether or
/// not an optional result is asked for. Before opset 7 an attribute of the recurrent ones says
/// which results there are. `BatchNormalization` is none: before opset 14 it trains when
/// more than one result is asked for. Nor is `MaxPool`: ONNX Runtime computes it otherwise
/// without indices, and the largest of numbers and NaN is then another one.
const INDEPENDENT: &[(&str, i64)] = &[
    ("Dropout", 1),
    ("GRU", 7),
    ("LSTM", 7),
    ("LayerNormalization", 1),
    ("RNN", 7),
    ("SoftmaxCrossEntropyLoss", 1),
    ("Unique", 1),
];

struct Dce;

/// One thing that goes. In the order in which they are made, the model is valid after each.
enum Removal {
    /// A result of `If` or `Loop`, and what makes it in the bodies.
    BodyOutput(NodeId, usize),
    /// An optional result.
    Output(NodeId, usize),
    Node(NodeId),
    Initializer(ValueId),
    /// All unused functions: they may call each other.
    Functions(Vec<usize>),
    /// An import of the model, or of the function with this index among those that stay.
    Import(Option<usize>, String),
    Info(ValueId),
}

impl Pass for Dce {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let mut removals = find(model);
        cx.limit(&mut removals);
        let changed = Changed::count(removals.len());
        commit(model, removals, cx);
        Ok(changed)
    }
}

fn find(model: &Model) -> Vec<Removal> {
    let live = Live::of(model);
    let mut removals = Vec::new();
    for &node in &live.order {
        let outputs = &model.nodes[node].outputs;
        for slot in (0..outputs.len()).rev() {
            let unused = outputs[slot].is_none_or(|v| !live.values[v]);
            if unused && body_output(model, &live.functions, node, slot).is_some() {
                removals.push(Removal::BodyOutput(node, slot));
            } else if unused && outputs[slot].is_some() && is_optional(&live, node, slot) {
                removals.push(Removal::Output(node, slot));
            }
        }
    }
    // Users before what they use.
    removals.extend(live.dead.iter().rev().map(|&n| Removal::Node(n)));
    let trains = !model.training_info.is_empty();
    if !trains {
        removals.extend(live.unused_constants().map(Removal::Initializer));
        let unused: Vec<usize> = (0..model.functions.len())
            .filter(|&f| !live.called[f])
            .collect();
        if !unused.is_empty() {
            removals.push(Removal::Functions(unused));
        }
        removals.extend(unused_imports(model, &live));
    }
    for &graph in &live.graphs {
        let described = model.graphs[graph].value_info.iter();
        let nothing = described.filter(|&&v| matches!(model.values[v].def, Def::Nothing(_)));
        removals.extend(nothing.map(|&v| Removal::Info(v)));
    }
    removals
}

/// Whether result `slot` of `node` may be left out without changing anything else.
fn is_optional(live: &Live<'_>, node: NodeId, slot: usize) -> bool {
    let n = &live.model.nodes[node];
    let opset = live.model.opset(n.graph, "").unwrap_or(1);
    let known = |&(op, since): &(&str, i64)| n.is(op) && opset >= since;
    let independent = INDEPENDENT.iter().any(known) && live.functions.called(n).is_none();
    independent
        && schema::lookup("", &n.op_type, opset)
            .and_then(|s| s.output(slot))
            .is_some_and(|p| p.option == ParamOption::Optional)
}

/// The imports that no node needs that stays, in order. The default domain stays: every
/// runtime wants to know it.
fn unused_imports(model: &Model, live: &Live<'_>) -> Vec<Removal> {
    let mut everywhere: BTreeSet<&str> = BTreeSet::from([""]);
    let mut out = Vec::new();
    let mut kept = 0;
    for (f, function) in model.functions.iter().enumerate() {
        if !live.called[f] {
            continue;
        }
        let mut used = BTreeSet::from([""]);
        used.extend(live.domains(function.body));
        out.extend(unused(&function.opset_imports, &used).map(|d| Removal::Import(Some(kept), d)));
        kept += 1;
        everywhere.extend(used);
        everywhere.insert(function.domain());
    }
    everywhere.extend(live.domains(model.main));
    let own = unused(&model.opset_imports, &everywhere).map(|d| Removal::Import(None, d));
    out.extend(own);
    out
}

fn unused<'m>(
    imports: &'m [OpsetImport],
    used: &BTreeSet<&str>,
) -> impl Iterator<Item = String> + use<'m> {
    let unused: Vec<&str> = imports.iter().map(OpsetImport::domain).collect();
    let unused: Vec<&str> = unused.into_iter().filter(|d| !used.contains(d)).collect();
    unused.into_iter().map(str::to_owned)
}

fn commit(model: &mut Model, removals: Vec<Removal>, cx: &mut PassContext) {
    let mut nodes = SideTable::<NodeId, bool>::new(false);
    let mut values = SideTable::<ValueId, bool>::new(false);
    for removal in removals {
        match removal {
            Removal::BodyOutput(node, slot) => {
                cx.count("outputs", 1);
                values.extend(remove_body_output(model, node, slot));
            }
            Removal::Output(node, slot) => {
                cx.count("outputs", 1);
                values.extend(remove_output(model, node, slot));
            }
            Removal::Node(node) => {
                cx.count("nodes", 1);
                nodes[node] = true;
                values.extend(model.nodes[node].outputs.iter().flatten().copied());
            }
            Removal::Initializer(value) => {
                cx.count("initializers", 1);
                values[value] = true;
            }
            Removal::Functions(unused) => {
                cx.count("functions", unused.len() as u64);
                let mut index = 0;
                model.functions.retain(|_| {
                    index += 1;
                    !unused.contains(&(index - 1))
                });
            }
            Removal::Import(function, domain) => {
                cx.count("imports", 1);
                let imports = match function {
                    Some(f) => &mut model.functions[f].opset_imports,
                    None => &mut model.opset_imports,
                };
                imports.retain(|o| o.domain() != domain);
            }
            Removal::Info(value) => {
                cx.count("infos", 1);
                values[value] = true;
            }
        }
    }
    unlist(model, &nodes, &values);
}

/// Removes result `slot` of `If` or `Loop`, and the output of each body that makes it.
fn remove_body_output(model: &mut Model, node: NodeId, slot: usize) -> Option<ValueId> {
    let bodies: Vec<GraphId> = model.nodes[node].subgraphs().collect();
    let shift = usize::from(model.nodes[node].is("Loop"));
    for body in bodies {
        model.graphs[body].outputs.remove(slot + shift);
    }
    let removed = model.nodes[node].outputs.remove(slot);
    for later in slot..model.nodes[node].outputs.len() {
        if let Some(value) = model.nodes[node].outputs[later] {
            model.values[value].def = Def::Node(node, later as u32);
        }
    }
    removed
}

/// Makes result `slot` absent.
fn remove_output(model: &mut Model, node: NodeId, slot: usize) -> Option<ValueId> {
    let opset = model.opset(model.nodes[node].graph, "").unwrap_or(1);
    let n = &mut model.nodes[node];
    let least = schema::lookup("", &n.op_type, opset).map_or(1, |s| s.min_outputs);
    let removed = n.outputs[slot].take();
    while n.outputs.len() > least && n.outputs.last() == Some(&None) {
        n.outputs.pop();
    }
    removed
}
