//! Which nodes call which local function.

use std::collections::HashMap;

use super::{Function, Model, Node};

/// The local functions by what nodes call them: domain, name and overload. A node that calls
/// one is not the operator of that name, even in the default domain.
pub struct Callees<'m> {
    index: HashMap<(&'m str, &'m str, &'m str), usize>,
}

impl<'m> Callees<'m> {
    /// Indexes `functions`; of two with the same names the first counts.
    pub fn of(functions: &'m [Function]) -> Callees<'m> {
        let mut index = HashMap::new();
        for (i, f) in functions.iter().enumerate() {
            let overload = f.overload.as_deref().unwrap_or_default();
            index.entry((f.domain(), &*f.name, overload)).or_insert(i);
        }
        Callees { index }
    }

    /// Which function `node` calls, if it calls one.
    pub fn called(&self, node: &Node) -> Option<usize> {
        let overload = node.overload.as_deref().unwrap_or_default();
        let key = (node.domain(), &*node.op_type, overload);
        self.index.get(&key).copied()
    }
}

/// How local functions call each other.
pub struct CallOrder {
    /// Which functions each one calls: in order, each once.
    pub calls: Vec<Vec<usize>>,
    /// The functions, each after those that it calls; without those that call themselves,
    /// at whatever distance, or call such a one.
    pub order: Vec<usize>,
}

impl CallOrder {
    /// Looks at the bodies of all functions of `model`.
    pub fn of(model: &Model) -> CallOrder {
        let functions = Callees::of(&model.functions);
        let callees = |f: &Function| {
            let graphs = model.graphs_within(f.body);
            let nodes = graphs.iter().flat_map(|&g| &model.graphs[g].nodes);
            let called = nodes.filter_map(|&n| functions.called(&model.nodes[n]));
            let mut callees: Vec<usize> = called.collect();
            callees.sort_unstable();
            callees.dedup();
            callees
        };
        let calls: Vec<Vec<usize>> = model.functions.iter().map(callees).collect();
        // Takes away functions that call only what was taken away before.
        let mut callers = vec![Vec::new(); calls.len()];
        let mut open: Vec<usize> = calls.iter().map(Vec::len).collect();
        for (caller, callees) in calls.iter().enumerate() {
            callees.iter().for_each(|&c| callers[c].push(caller));
        }
        let mut order: Vec<usize> = (0..calls.len()).filter(|&f| open[f] == 0).collect();
        let mut at = 0;
        while let Some(&f) = order.get(at) {
            at += 1;
            for &caller in &callers[f] {
                open[caller] -= 1;
                if open[caller] == 0 {
                    order.push(caller);
                }
            }
        }
        CallOrder { calls, order }
    }
}
