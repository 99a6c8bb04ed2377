//! `cse`: what is computed twice.

mod key;

use std::collections::HashMap;

use crate::{
    error::Result,
    infer::{Facts, SymInt},
    ir::{
        Callees, DataType, Function, GraphId, Model, NodeId, ValueId,
        edit::{Edit, Substitution, remove_unused},
    },
    pass::{Changed, Pass, PassContext, PassInfo},
    schema::OpSchema,
};
use key::Key;

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "cse",
    summary: "compute once what is computed twice (common subexpressions)",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(Cse)),
};

const DOC: &str = "\
Of nodes with the same operator, operands and attributes one is kept, the first. So is one of
equal constants below 1 KiB; larger ones are left to `share-weights`.

## Scope

Nodes of ONNX's own operators, in the same graph or in one inside it: a body uses what the
graph around it has computed before, never the other way round. Two operands of `Add`, `And`,
`Equal`, `Mul`, `Or`, `Sum`, `Xor` and the bitwise operators may be in either order.
Attributes that have their default value may be absent.

Integers that are computed from extents are also one when they are known to be the same,
however each is computed: `Shape` of two tensors with the same extents, the same sum of
extents. (Extents that have one name are taken to be equal, as ONNX says.)

Left are random operators, those with bodies, calls of local functions, and operators of other
domains. Names of outputs stay: where both results are outputs, or the first is outside of the
body whose output the second is, the second node becomes an `Identity` of the first one's
result.

## Statistics

`nodes`, `constants`, `extents`: how many were found to be another one.

## Example

```text
a = Shape (x)                   a = Shape (x)
b = Shape (x)
c = Concat <axis = 0> (a, b)    c = Concat <axis = 0> (a, a)
```
";

struct Cse;

impl Pass for Cse {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        // The model is changed while it is looked at, its functions are not.
        let functions: Vec<Function> = model.functions.clone();
        let main = model.main;
        let facts = cx.facts(model);
        let substitution = Substitution::new(model);
        let mut walk = Walk {
            edit: Edit::new(model),
            functions: Callees::of(&functions),
            facts: &facts,
            substitution,
            scopes: Vec::new(),
            changed: 0,
            cx,
        };
        walk.graph(main)?;
        for function in &functions {
            walk.graph(function.body)?;
        }
        let changed = walk.changed;
        walk.edit.substitute(&walk.substitution);
        walk.edit.finish();
        let replaced = walk.substitution.replaced().to_vec();
        remove_unused(model, &replaced);
        Ok(Changed::count(changed))
    }
}

/// What a graph has, with the graphs around it.
#[derive(Default)]
struct Scope {
    nodes: HashMap<Key, NodeId>,
    /// Integers that are computed from extents.
    extents: HashMap<Vec<SymInt>, ValueId>,
    constants: HashMap<Key, ValueId>,
}

struct Walk<'a, 'm> {
    edit: Edit<'m>,
    functions: Callees<'a>,
    facts: &'a Facts,
    substitution: Substitution,
    /// The innermost graph last.
    scopes: Vec<Scope>,
    changed: usize,
    cx: &'a mut PassContext,
}

impl Walk<'_, '_> {
    fn graph(&mut self, graph: GraphId) -> Result<()> {
        self.scopes.push(Scope::default());
        for value in self.edit.model().graphs[graph].initializers.clone() {
            self.constant(value)?;
        }
        for node in self.edit.model().graphs[graph].nodes.clone() {
            if !self.node(node)? {
                self.extents(node);
            }
            let inner: Vec<GraphId> = self.edit.model().nodes[node].subgraphs().collect();
            for graph in inner {
                self.graph(graph)?;
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn constant(&mut self, value: ValueId) -> Result<()> {
        let model = self.edit.model();
        let Some(tensor) = model.tensor(value).filter(|_| !model.is_overridable(value)) else {
            return Ok(());
        };
        // Training may refer to a constant by its name.
        if !model.training_info.is_empty() {
            return Ok(());
        }
        let Some(key) = key::of_constant(tensor)? else {
            return Ok(());
        };
        match self.scopes.iter().rev().find_map(|s| s.constants.get(&key)) {
            Some(&kept) => self.unite("constants", &[(value, kept)]),
            None => {
                self.innermost().constants.insert(key, value);
            }
        }
        Ok(())
    }

    /// Looks for a node that is equal to `node`; says whether there is one.
    fn node(&mut self, node: NodeId) -> Result<bool> {
        let model = self.edit.model();
        let Some(schema) = key::pure_schema(model, &self.functions, node) else {
            return Ok(false);
        };
        let resolve = |v| self.substitution.resolve(v);
        let Some(key) = key::of_node(model, node, schema, resolve)? else {
            return Ok(false);
        };
        let kept = self.scopes.iter().rev().find_map(|s| s.nodes.get(&key));
        match kept {
            Some(&kept) => self.same_nodes(node, kept, schema),
            None => {
                self.innermost().nodes.insert(key, node);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks for a value that is computed from the same extents to the same integers as the
    /// result of `node`.
    fn extents(&mut self, node: NodeId) {
        let &[Some(value)] = self.edit.model().nodes[node].outputs.as_slice() else {
            return;
        };
        let Some(key) = self.extents_key(value) else {
            return;
        };
        match self.scopes.iter().rev().find_map(|s| s.extents.get(&key)) {
            Some(&kept) => self.unite("extents", &[(value, kept)]),
            None => {
                self.innermost().extents.insert(key, value);
            }
        }
    }

    /// The rank and extents of `value` and then its elements, when these are known but no constants:
    /// constants are folded by another pass.
    fn extents_key(&self, value: ValueId) -> Option<Vec<SymInt>> {
        let elements = self.facts.elements(value)?;
        let computed = elements.iter().any(|e| e.known().is_none());
        if !computed || self.facts.dtype(value) != Some(DataType::Int64) {
            return None;
        }
        let shape = self.facts.shape(value)?;
        let mut key = vec![SymInt::from(shape.len() as i64)];
        key.extend(shape.iter().chain(elements).cloned());
        Some(key)
    }

    fn innermost(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a graph is being looked at")
    }

    fn same_nodes(&mut self, gone: NodeId, kept: NodeId, schema: &OpSchema) {
        let model = self.edit.model();
        let outputs = &model.nodes[kept].outputs;
        let results = model.nodes[gone].outputs.iter().enumerate();
        let pairs: Option<Vec<(ValueId, ValueId)>> = results
            .filter_map(|(slot, v)| Some((slot, (*v)?)))
            .map(|(slot, v)| Some((v, outputs.get(slot).copied().flatten()?)))
            .collect();
        // The kept one does not make all that is wanted.
        let Some(pairs) = pairs else { return };
        let fits =
            |&(gone, kept): &(ValueId, ValueId)| self.substitution.can_unite(model, gone, kept);
        match (pairs.iter().all(fits), &*pairs) {
            (true, _) => self.unite("nodes", &pairs),
            (false, &[(result, kept)]) if model.nodes[gone].outputs == [Some(result)] => {
                self.alias(gone, kept, schema);
            }
            (false, _) => {}
        }
    }

    fn unite(&mut self, what: &'static str, pairs: &[(ValueId, ValueId)]) {
        let model = self.edit.model();
        let fits =
            |&(gone, kept): &(ValueId, ValueId)| self.substitution.can_unite(model, gone, kept);
        if !pairs.iter().all(fits) || !self.cx.permit() {
            return;
        }
        for &(gone, kept) in pairs {
            self.substitution.unite(&mut self.edit, gone, kept);
        }
        self.count(what);
    }

    /// Makes `node`, whose first and only result must keep its name, an `Identity` of `value`.
    fn alias(&mut self, node: NodeId, value: ValueId, schema: &OpSchema) {
        let n = &self.edit.model().nodes[node];
        let cheap = n.is("Identity") || n.is("Constant");
        // Other types came to `Identity` later than tensors.
        let tensor = |p: &crate::schema::Param| p.types.others().is_empty();
        if cheap || !n.domain().is_empty() || !schema.outputs.first().is_some_and(tensor) {
            return;
        }
        if !self.cx.permit() {
            return;
        }
        let value = self.substitution.resolve(value);
        let n = &mut self.edit.model_mut().nodes[node];
        n.op_type = "Identity".into();
        n.attributes.clear();
        n.inputs = vec![None];
        self.edit.set_operand(node, 0, value);
        self.count("nodes");
    }

    fn count(&mut self, what: &'static str) {
        self.cx.count(what, 1);
        self.changed += 1;
    }
}
