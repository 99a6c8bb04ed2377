//! `share-weights`: one copy of equal weights, also of a weight and its transpose.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Data, DataType, Def, Elements, Model, Node, Tensor, Use, Uses,
        ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, OptionInfo, OptionKind, Pass, PassContext, PassInfo},
};

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
once. A few elements of each are compared first, and whole weights only when these agree.

## Scope

Initializers of at least 1 KiB that callers cannot replace and that are no graph output. A
copy in a subgraph is replaced by one that is visible there, under a name that no graph inside
uses for something else.

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

/// Elements compared before whole weights are.
const SAMPLES: u64 = 16;

/// Bytes of a side of a tile when whole weights are compared.
const TILE: u64 = 4096;

struct ShareWeights {
    transposed: bool,
}

/// What weights must agree in before they are compared: type, shape, some elements.
type Likeness<'s> = (DataType, Vec<i64>, &'s [u8]);

/// A weight that may be shared.
struct Candidate<'m> {
    value: ValueId,
    dtype: DataType,
    dims: &'m [i64],
    data: &'m Data,
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
                    node.inputs = vec![Some(merge.kept)];
                    node.attributes =
                        vec![Attribute::new("perm", AttributeValue::Ints(vec![1, 0]))];
                    edit.insert_first(node, &format!("{name}_output_0"))
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
        let signatures: Vec<[Vec<u8>; 2]> = candidates
            .par_iter()
            .map(signatures)
            .collect::<Result<_>>()?;
        let hidden = hidden(model, &candidates);
        // By what a merge needs to agree in; the lists keep document order.
        let mut buckets: HashMap<Likeness<'_>, Vec<usize>> = HashMap::new();
        let mut replaced = vec![false; candidates.len()];
        let mut merges = Vec::new();
        for (i, copy) in candidates.iter().enumerate() {
            let [plain, transposed] = &signatures[i];
            // Who reads a copy has to see what is kept.
            let sees = |gone: usize, kept: usize| {
                let home = |c: usize| model.home(candidates[c].value);
                !hidden[kept] && model.is_within(home(gone), home(kept))
            };
            let key = (copy.dtype, copy.dims.to_vec(), plain.as_slice());
            let mut merge = None;
            for &j in buckets.get(&key).into_iter().flatten() {
                if !replaced[j] && sees(i, j) && equal(&candidates[j], copy)? {
                    merge = Some((j, i, false));
                    break;
                }
            }
            if merge.is_none() && self.transposed && !transposed.is_empty() {
                // A table that is gathered from is kept: its rows are what is read.
                let gathered = is_gathered(model, uses, copy.value);
                let dims = copy.dims.iter().rev().copied().collect();
                let key = (copy.dtype, dims, transposed.as_slice());
                for &j in buckets.get(&key).into_iter().flatten() {
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
                let key = (copy.dtype, copy.dims.to_vec(), plain.as_slice());
                buckets.entry(key).or_default().push(i);
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

/// Which candidates share their name with a value of a graph inside their own: there, the
/// name may mean the other one.
fn hidden(model: &Model, candidates: &[Candidate<'_>]) -> Vec<bool> {
    let mut named: HashMap<&str, Vec<ValueId>> = HashMap::new();
    for value in model.values.ids() {
        named
            .entry(&model.values[value].name)
            .or_default()
            .push(value);
    }
    let hidden = |c: &Candidate<'_>| {
        let home = model.home(c.value);
        let inside = |v: &ValueId| model.home(*v) != home && model.is_within(model.home(*v), home);
        named[&*model.values[c.value].name].iter().any(inside)
    };
    candidates.iter().map(hidden).collect()
}

fn is_gathered(model: &Model, uses: &Uses, value: ValueId) -> bool {
    let gathers = |u: &Use| matches!(u, Use::Operand(node, 0) if model.nodes[*node].is("Gather"));
    uses.of_value(value).iter().any(gathers)
}

impl Candidate<'_> {
    fn element(&self) -> u64 {
        self.dtype.bits() / 8
    }

    /// Rows and columns, when it is a matrix and not a vector.
    fn matrix(&self) -> Option<(u64, u64)> {
        match *self.dims {
            [rows, cols] if rows > 1 && cols > 1 => Some((rows as u64, cols as u64)),
            _ => None,
        }
    }
}

/// Some elements of a weight, and the elements that its transpose has in the same places.
/// The places are spread over the whole by a fixed rule that depends on the shape only.
fn signatures(c: &Candidate<'_>) -> Result<[Vec<u8>; 2]> {
    let size = c.element() as usize;
    let count = c.data.len() / c.element();
    let place = |i: u64, n: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % n;
    let mut plain = vec![0; size * SAMPLES as usize];
    for (i, out) in plain.chunks_mut(size).enumerate() {
        c.data.read_at(place(i as u64, count) * c.element(), out)?;
    }
    let mut transposed = Vec::new();
    if let Some((rows, cols)) = c.matrix() {
        transposed.resize(plain.len(), 0);
        for (i, out) in transposed.chunks_mut(size).enumerate() {
            // Element [r, s] of the transpose, which has `rows` columns.
            let at = place(i as u64, count);
            let (r, s) = (at / rows, at % rows);
            c.data.read_at((s * cols + r) * c.element(), out)?;
        }
    }
    Ok([plain, transposed])
}

fn equal(a: &Candidate<'_>, b: &Candidate<'_>) -> Result<bool> {
    if a.data.is_same(b.data) {
        return Ok(true);
    }
    let step = 1 << 20;
    let different = (0..a.data.len().div_ceil(step)).into_par_iter().map(|i| {
        let from = i * step;
        let len = step.min(a.data.len() - from) as usize;
        let (mut x, mut y) = (vec![0; len], vec![0; len]);
        a.data.read_at(from, &mut x)?;
        b.data.read_at(from, &mut y)?;
        Ok(x != y)
    });
    all_equal(different)
}

/// Whether `b` is the transpose of `a`.
fn equal_transposed(a: &Candidate<'_>, b: &Candidate<'_>) -> Result<bool> {
    let Some((rows, cols)) = a.matrix() else {
        return Ok(false);
    };
    let size = a.element();
    let side = TILE / size;
    let across = cols.div_ceil(side);
    let different = (0..rows.div_ceil(side) * across)
        .into_par_iter()
        .map(|tile| {
            let (r, c) = (tile / across * side, tile % across * side);
            let (height, width) = (side.min(rows - r), side.min(cols - c));
            let x = read_tile(a.data, size, cols, [r, c], [height, width])?;
            let y = read_tile(b.data, size, rows, [c, r], [width, height])?;
            let element = |t: &[u8], at: u64| -> [u8; 16] {
                let mut out = [0; 16];
                let from = (at * size) as usize;
                out[..size as usize].copy_from_slice(&t[from..from + size as usize]);
                out
            };
            let mut pairs = (0..height).flat_map(|i| (0..width).map(move |j| (i, j)));
            Ok(pairs.any(|(i, j)| element(&x, i * width + j) != element(&y, j * height + i)))
        });
    all_equal(different)
}

/// Stops at the first difference; a failed read counts only when there is none.
fn all_equal(different: impl ParallelIterator<Item = Result<bool>>) -> Result<bool> {
    match different.find_any(|d| !matches!(d, Ok(false))) {
        None => Ok(true),
        Some(Ok(_)) => Ok(false),
        Some(Err(e)) => Err(e),
    }
}

/// `shape` elements from `origin` on of a matrix with `cols` columns.
fn read_tile(
    data: &Data,
    size: u64,
    cols: u64,
    origin: [u64; 2],
    shape: [u64; 2],
) -> Result<Vec<u8>> {
    let mut out = vec![0; (shape[0] * shape[1] * size) as usize];
    for (i, row) in out.chunks_mut((shape[1] * size) as usize).enumerate() {
        data.read_at(((origin[0] + i as u64) * cols + origin[1]) * size, row)?;
    }
    Ok(out)
}
