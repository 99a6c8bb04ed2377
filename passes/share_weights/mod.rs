//! `share-weights`: one copy of equal weights, also of a weight and its transpose.

mod compare;

use std::collections::HashMap;

use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Def, Elements, Model, Node, Tensor, Use, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, OptionInfo, OptionKind, Pass, PassContext, PassInfo},
};
use compare::{Candidate, Likeness, equal, equal_transposed, likenesses};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "share-weights",
    summary: "keep one copy of equal weights, also when one is the transpose of the other",
    doc: DOC,
    options: &[OptionInfo {
        name: "transposed",
        kind: OptionKind::Flag,
        default: "true",
        help: "also share a matrix with its transpose",
    }],
    build: |options| {
        Ok(Box::new(ShareWeights {
            transposed: options.flag("transposed"),
        }))
    },
};

const DOC: &str = "\
Finds initializers with the same type and elements, keeps the first and lets every reader use
it. A matrix that is the transpose of another (exporters write a tied embedding twice, once
for each use) is read through a `Transpose` of the one that is kept; `nbits` then stores both
once. A few elements of each are compared first, and whole weights only when these agree. Of
many that agree in those, hashes are compared before the weights, so that the time does not
grow with their square.

## Scope

Initializers of at least 1 KiB that callers cannot replace and that are no graph output. A
copy in a subgraph is replaced by one that is visible there; a value of the subgraph that has
the same name gets another one.

## Statistics

`equal`, `transposed`: initializers removed. `bytes`: their size.

## Example

```text
float[512,64] table, float[64,512] head     head is the transpose of table
float[512,64] table                         head = Transpose <perm = [1, 0]> (table)
```
";

/// Below this size sharing saves nothing that counts.
const SHARE_FROM: u64 = 1 << 10;

struct ShareWeights {
    transposed: bool,
}

/// One weight that another can stand for.
struct Merge {
    kept: ValueId,
    copy: ValueId,
    transposed: bool,
}

impl Pass for ShareWeights {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let uses = Uses::of(model);
        let mut merges = self.find(model, &uses)?;
        cx.limit(&mut merges);
        let copies: Vec<ValueId> = merges.iter().map(|m| m.copy).collect();
        for merge in &merges {
            let bytes = model.tensor(merge.copy).map_or(0, Tensor::byte_len);
            cx.count("bytes", bytes);
            cx.count(
                if merge.transposed {
                    "transposed"
                } else {
                    "equal"
                },
                1,
            );
        }
        let mut edit = Edit::new(model);
        for merge in &merges {
            let to = match merge.transposed {
                false => merge.kept,
                true => {
                    let home = edit.model().home(merge.copy);
                    let mut node = Node::new(home, "", "Transpose");
                    let name = &edit.model().values[merge.copy].name;
                    let name = format!("{name}/Transpose");
                    node.name = Some(name.as_str().into());
                    node.inputs = vec![None];
                    node.attributes =
                        vec![Attribute::new("perm", AttributeValue::Ints(vec![1, 0]))];
                    let made = edit.insert_first(node, &format!("{name}_output_0"));
                    if let Some(node) = edit.model().producer(made) {
                        edit.set_operand(node, 0, merge.kept);
                    }
                    made
                }
            };
            edit.redirect(&uses, merge.copy, to);
        }
        edit.finish();
        remove_unused(model, &copies);
        Ok(Changed::count(merges.len()))
    }
}

impl ShareWeights {
    fn find(&self, model: &Model, uses: &Uses) -> Result<Vec<Merge>> {
        let candidates = candidates(model, uses);
        let likenesses = likenesses(&candidates)?;
        // By what a merge needs to agree in; the lists keep document order.
        let mut buckets: HashMap<&Likeness, Vec<usize>> = HashMap::new();
        let mut replaced = vec![false; candidates.len()];
        let mut merges = Vec::new();
        for (i, copy) in candidates.iter().enumerate() {
            let [plain, transposed] = &likenesses[i];
            // Who reads a copy has to see what is kept.
            let sees = |gone: usize, kept: usize| {
                let home = |c: usize| model.home(candidates[c].value);
                model.is_within(home(gone), home(kept))
            };
            let mut merge = None;
            for &j in buckets.get(plain).into_iter().flatten() {
                if !replaced[j] && sees(i, j) && equal(&candidates[j], copy)? {
                    merge = Some((j, i, false));
                    break;
                }
            }
            if merge.is_none() && self.transposed && copy.matrix().is_some() {
                // A table that is gathered from is kept: its rows are what is read.
                let gathered = is_gathered(model, uses, copy.value);
                for &j in buckets.get(transposed).into_iter().flatten() {
                    let (kept, gone) = match gathered && sees(j, i) {
                        true => (i, j),
                        false => (j, i),
                    };
                    let fits = !replaced[j] && sees(gone, kept);
                    if fits && equal_transposed(&candidates[j], copy)? {
                        merge = Some((kept, gone, true));
                        break;
                    }
                }
            }
            if let Some((kept, gone, transposed)) = merge {
                let (kept, copy) = (candidates[kept].value, candidates[gone].value);
                replaced[gone] = true;
                // What the one that goes now stood for goes to the one that is kept.
                for earlier in merges.iter_mut().filter(|m: &&mut Merge| m.kept == copy) {
                    earlier.kept = kept;
                    earlier.transposed ^= transposed;
                }
                merges.push(Merge {
                    kept,
                    copy,
                    transposed,
                });
            }
            if !replaced[i] {
                buckets.entry(plain).or_default().push(i);
            }
        }
        Ok(merges)
    }
}

fn candidates<'m>(model: &'m Model, uses: &Uses) -> Vec<Candidate<'m>> {
    let mut out = Vec::new();
    for graph in model.reachable_graphs() {
        for &value in &model.graphs[graph].initializers {
            let Some(tensor) = model.tensor(value) else {
                continue;
            };
            let is_output = uses
                .of_value(value)
                .iter()
                .any(|u| matches!(u, Use::Output(..)));
            let is_input = matches!(model.values[value].def, Def::Input(_));
            if let Elements::Data(data) = &tensor.elements
                && data.len() >= SHARE_FROM
                && tensor.dtype.bits() >= 8
                && !is_output
                && !is_input
            {
                out.push(Candidate {
                    value,
                    dtype: tensor.dtype,
                    dims: &tensor.dims,
                    data,
                });
            }
        }
    }
    out
}

fn is_gathered(model: &Model, uses: &Uses, value: ValueId) -> bool {
    let gathers = |u: &Use| matches!(u, Use::Operand(node, 0) if model.nodes[*node].is("Gather"));
    uses.of_value(value).iter().any(gathers)
}
