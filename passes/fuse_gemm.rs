//! `fuse-gemm`: a product of matrices and what is added to it, as one node.

use crate::{
    error::Result,
    infer::Facts,
    ir::{
        Attribute, AttributeValue, DataType, Model, Node, NodeId, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Left, Pass, PassContext, PassInfo, Reason, plan_nodes},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fuse-gemm",
    summary: "make one Gemm of a MatMul of matrices and an Add, and of a Gemm and a Transpose",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(FuseGemm)),
};

const DOC: &str = "\
A `MatMul` of two matrices and the `Add` after it become a `Gemm`, and so do a `Gemm` without a
third operand and the `Add` after it. A `Transpose` of a matrix that such a `Gemm` reads becomes
its `transA` or `transB`.

The result is the same in exact arithmetic. Rounding differs when a runtime adds the third operand
before the last products: ONNX Runtime 1.31 does from 257 terms on, by two units in the last place of
the largest element at most. Up to 256 terms its results are the same to the bit.

## Scope

Operands of a `MatMul` must be known to have two axes: with more, a `Gemm` does not do the same,
and reshapes around it are not worth a node. What is added must be known not to make the result
larger. Types float, float16 and double, opset 7 and newer; in subgraphs and local functions too.
Nothing else reads the result of the product, and it is no output.

## Statistics

`added`: nodes `Add` that became part of a `Gemm`. `transposed`: operands whose `Transpose` did.

## Example

```text
h = MatMul (x, W)                       float[M,512] x, float[512,64] W, float[64] b
y = Add (h, b)
y = Gemm (x, W, b)
```
";

struct FuseGemm;

/// A `Gemm` that takes the place of a node.
struct Plan {
    node: Node,
    /// The product whose result is added to; the node in whose place the `Gemm` comes, when
    /// nothing is added.
    product: NodeId,
    added: bool,
    transposed: u64,
}

impl Pass for FuseGemm {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let facts = cx.facts(model);
        let planner = Planner {
            model,
            uses: &Uses::of(model),
            facts: &facts,
        };
        let planned = plan_nodes(model, INFO.name, cx, |node| planner.plan(node))?;
        let plans = without_inner(planned);
        let count = plans.len();
        let mut left = Vec::new();
        let mut edit = Edit::new(model);
        for (node, plan) in plans {
            cx.count("added", u64::from(plan.added));
            cx.count("transposed", plan.transposed);
            for old in [node, plan.product] {
                left.extend(edit.model().nodes[old].inputs.iter().flatten());
            }
            // The product keeps its name: it is what users know, and name in options.
            edit.replace_keeping(node, plan.node);
        }
        edit.finish();
        remove_unused(model, &left);
        Ok(Changed::count(count))
    }
}

/// Leaves out plans for a node that becomes part of another one.
fn without_inner(plans: Vec<(NodeId, Plan)>) -> Vec<(NodeId, Plan)> {
    let added = plans.iter().filter(|(_, p)| p.added);
    let inner: std::collections::HashSet<NodeId> = added.map(|(_, p)| p.product).collect();
    let mut plans = plans;
    plans.retain(|(node, _)| !inner.contains(node));
    plans
}

struct Planner<'m> {
    model: &'m Model,
    uses: &'m Uses,
    facts: &'m Facts,
}

impl Planner<'_> {
    fn plan(&self, node: NodeId) -> Result<Plan, Left> {
        let n = &self.model.nodes[node];
        if n.is("Add") {
            return self.plan_add(n);
        }
        let opset = self.opset(n);
        if !n.is("Gemm") || opset < 7 {
            return Err(Left::Ignored);
        }
        let mut gemm = n.clone();
        match self.take_transposes(&mut gemm) {
            0 => Err(Left::Ignored),
            transposed => Ok(Plan {
                node: gemm,
                product: node,
                added: false,
                transposed,
            }),
        }
    }

    fn plan_add(&self, add: &Node) -> Result<Plan, Left> {
        let products = (0..2).filter_map(|slot| {
            let value = add.input(slot)?;
            let product = self.model.producer(value)?;
            let n = &self.model.nodes[product];
            let is_product = n.is("MatMul") || n.is("Gemm") && n.input(2).is_none();
            is_product.then_some((product, value, add.input(1 - slot)?))
        });
        let mut why = Left::Ignored;
        for (product, result, addend) in products {
            match self.plan_sum(add, product, result, addend) {
                Ok(plan) => return Ok(plan),
                Err(Left::Ignored) => {}
                Err(left) => why = left,
            }
        }
        Err(why)
    }

    fn plan_sum(
        &self,
        add: &Node,
        product: NodeId,
        result: ValueId,
        addend: ValueId,
    ) -> Result<Plan, Left> {
        let n = &self.model.nodes[product];
        let left = |reason, message: &str| Err(Left::declined(reason, message, 0));
        let [Some(a), Some(b)] = [n.input(0), n.input(1)] else {
            return Err(Left::Ignored);
        };
        if n.is("MatMul") {
            let rank = |v| self.facts.shape(v).map(<[_]>::len);
            match [rank(a), rank(b)] {
                [Some(2), Some(2)] => {}
                [Some(_), Some(_)] => return Err(Left::Ignored),
                _ => {
                    let message = "an operand of the MatMul may have more than two axes";
                    return left(Reason::RankUnknown, message);
                }
            }
        }
        if n.graph != add.graph || self.uses.only_reader(result).is_none() {
            return left(Reason::ResultRead, "something else reads the product too");
        }
        if self.opset(add) < 7 {
            return left(
                Reason::Opset,
                "Gemm broadcasts its third operand from opset 7",
            );
        }
        let types = [DataType::Float, DataType::Float16, DataType::Double];
        match self.facts.dtype(result) {
            Some(dtype) if types.contains(&dtype) => {}
            Some(_) => return Err(Left::Ignored),
            None => return left(Reason::Dtype, "its element type is not known"),
        }
        if !self.fits(n, a, b, addend) {
            return left(Reason::Mismatch, "what is added may make the result larger");
        }
        let mut gemm = n.clone();
        gemm.op_type = "Gemm".into();
        gemm.attributes.retain(|x| &*x.name != "beta");
        gemm.inputs = vec![Some(a), Some(b), Some(addend)];
        Ok(Plan {
            transposed: self.take_transposes(&mut gemm),
            node: gemm,
            product,
            added: true,
        })
    }

    fn opset(&self, node: &Node) -> i64 {
        self.model.opset(node.graph, "").unwrap_or(0)
    }

    /// Whether `addend` has, for every axis of the product of `a` and `b`, one element or as
    /// many as that.
    fn fits(&self, product: &Node, a: ValueId, b: ValueId, addend: ValueId) -> bool {
        let Some(extents) = self.facts.shape(addend).filter(|d| d.len() <= 2) else {
            return false;
        };
        // Rows of `a` and columns of `b`, by the axis from the last one of the result.
        let of = |value: ValueId, axis: usize, flag: &str| {
            let transposed = product.int(flag, 0)? != 0;
            let axis = if transposed { 1 - axis } else { axis };
            self.facts.shape(value)?.get(axis)
        };
        let mut pairs = extents
            .iter()
            .rev()
            .zip([(b, 1, "transB"), (a, 0, "transA")]);
        pairs.all(|(extent, (value, axis, flag))| {
            extent.known() == Some(1) || of(value, axis, flag) == Some(extent)
        })
    }

    /// Lets `gemm` read what its operands are transposes of; how many are.
    fn take_transposes(&self, gemm: &mut Node) -> u64 {
        let mut taken = 0;
        for (slot, flag) in [(0, "transA"), (1, "transB")] {
            let Some(old) = gemm.int(flag, 0) else {
                continue;
            };
            let mut flips = 0;
            while let Some(source) = gemm.input(slot).and_then(|v| self.transposed(gemm, v)) {
                gemm.inputs[slot] = Some(source);
                flips += 1;
            }
            if flips > 0 {
                gemm.attributes.retain(|x| &*x.name != flag);
            }
            if flips > 0 && (old != 0) != (flips % 2 == 1) {
                let value = AttributeValue::Int(1);
                gemm.attributes.push(Attribute::new(flag, value));
            }
            taken += flips;
        }
        taken
    }

    /// The matrix that `value`, an operand of `reader`, is the transpose of.
    fn transposed(&self, reader: &Node, value: ValueId) -> Option<ValueId> {
        let node = &self.model.nodes[self.model.producer(value)?];
        // What a node of an outer graph reads may be hidden here by another of its name.
        if node.graph != reader.graph {
            return None;
        }
        let swaps = match node.attribute("perm") {
            // Without it, all axes are reversed; what a Gemm reads has two.
            None => true,
            Some(AttributeValue::Ints(perm)) => perm[..] == [1, 0],
            Some(_) => false,
        };
        (node.is("Transpose") && swaps)
            .then(|| node.input(0))
            .flatten()
    }
}
