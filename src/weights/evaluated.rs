//! The recipe that computes a constant as an operator does, while it is written.

use std::{
    cell::RefCell,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    fold::{self, Array, Unfolded, Value},
    ir::{Data, DataType, Elements, Node, Produce, Tensor},
};

/// Elements of a tile of what is computed element by element: few, so that they stay in a cache.
const TILE: u64 = 1 << 16;

/// The same where an operand is computed itself: short pieces of a transposed weight are dear.
const WIDE_TILE: u64 = 1 << 20;

/// The results of a node whose operands are constants.
#[derive(Debug)]
struct Evaluated {
    node: Node,
    opset: i64,
    operands: Vec<Option<Tensor>>,
    /// Type and extents of each result.
    results: Vec<(DataType, Vec<i64>)>,
    /// Whether parts can be computed alone: see [`fold::streams`]. There is one result then,
    /// and an operand has one element or as many as the result.
    streams: bool,
    /// See [`Produce::steps`].
    steps: u64,
    /// Tells recipes apart as long as the program runs.
    id: u64,
}

thread_local! {
    /// What the thread computed last: readers come back for the next piece of it.
    static LAST: RefCell<Option<(u64, Vec<Bytes>)>> = const { RefCell::new(None) };
}

/// The tensors that `node` makes of `operands`, computed when they are read.
fn tensors(recipe: Evaluated) -> Vec<Tensor> {
    let results = recipe.results.clone();
    let recipe: Arc<dyn Produce> = Arc::new(recipe);
    let tensor = |(output, (dtype, dims))| {
        let recipe = recipe.clone();
        Tensor::new(dtype, dims, Data::Computed { recipe, output })
    };
    results.into_iter().enumerate().map(tensor).collect()
}

/// The [steps](Produce::steps) of a recipe that reads all of `operands`.
pub fn steps(operands: &[Option<Tensor>]) -> u64 {
    let data = operands.iter().flatten().filter_map(Tensor::data);
    data.fold(1, |sum, d| sum.saturating_add(d.steps()))
}

fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The results of `node` at `opset` on `operands`, which are known to be of `results` types
/// and extents: computed as a whole whenever a part is read.
pub fn evaluated(
    node: &Node,
    opset: i64,
    operands: Vec<Option<Tensor>>,
    results: Vec<(DataType, Vec<i64>)>,
) -> Vec<Tensor> {
    tensors(Evaluated {
        node: node.clone(),
        opset,
        steps: steps(&operands),
        operands,
        results,
        streams: false,
        id: new_id(),
    })
}

/// The result of `node` at `opset` on `operands`, computed in parts; `None` when that is not
/// possible: when the operator does not work element by element or may fail, and when an
/// operand has neither one element nor as many as the result.
///
/// # Errors
/// An operand of one element cannot be read.
pub fn streamed(node: &Node, opset: i64, operands: &[Option<Tensor>]) -> Result<Option<Tensor>> {
    if !fold::streams(node, opset) || node.outputs.len() != 1 {
        return Ok(None);
    }
    let all = || operands.iter().flatten();
    let Some(large) = all().max_by_key(|t| t.element_count()) else {
        return Ok(None);
    };
    let fits = |t: &Tensor| {
        let single = t.element_count() == Some(1) && t.dims.len() <= large.dims.len();
        (single || t.dims == large.dims) && takes_part(node, t.dtype)
    };
    if large.element_count() <= Some(1) || !all().all(fits) {
        return Ok(None);
    }
    let recipe = |dtype| Evaluated {
        node: node.clone(),
        opset,
        operands: operands.to_vec(),
        results: vec![(dtype, large.dims.clone())],
        streams: true,
        steps: steps(operands),
        id: new_id(),
    };
    // The type of the result is that of its first element.
    let Ok(first) = recipe(DataType::Undefined).part(0, 1)? else {
        return Ok(None);
    };
    let integers = node.is("Cast") && !first.dtype().is_float();
    match integers || first.dtype().bits() < 8 {
        true => Ok(None),
        false => Ok(tensors(recipe(first.dtype())).pop()),
    }
}

/// Whether no element of `dtype` can make the operator fail: integers divide by zero.
fn takes_part(node: &Node, dtype: DataType) -> bool {
    let whole_bytes = dtype.bits() >= 8 && dtype.bits() <= 64;
    dtype.is_float() || (whole_bytes && node.is("Cast") && dtype != DataType::Complex64)
}

impl Evaluated {
    /// Elements `from..to` of the only result.
    fn part(&self, from: u64, to: u64) -> Result<Result<Array, Unfolded>> {
        let whole = self.results[0].1.iter().product::<i64>() as u64;
        let mut values = Vec::new();
        for operand in &self.operands {
            let Some(operand) = operand else {
                values.push(None);
                continue;
            };
            let array = match (operand.element_count(), operand.data()) {
                (Some(1), _) | (_, None) => match Array::read(operand)? {
                    Ok(array) => array,
                    Err(why) => return Ok(Err(why)),
                },
                (count, Some(data)) => {
                    debug_assert_eq!(count, Some(whole));
                    let width = operand.dtype.bits() / 8;
                    let bytes = match data {
                        Data::Bytes(all) => {
                            all.slice((from * width) as usize..(to * width) as usize)
                        }
                        _ => {
                            let mut bytes = vec![0; ((to - from) * width) as usize];
                            data.read_at(from * width, &mut bytes)?;
                            bytes.into()
                        }
                    };
                    Array::from_bytes(operand.dtype, vec![(to - from) as usize], bytes)
                }
            };
            values.push(Some(Value::Tensor(array)));
        }
        let inputs: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
        Ok(fold::evaluate(&self.node, self.opset, &inputs).and_then(first_tensor))
    }

    /// All results.
    fn whole(&self) -> Result<Vec<Bytes>> {
        if let Some(found) = LAST.with_borrow(|last| match last {
            Some((id, results)) if *id == self.id => Some(results.clone()),
            _ => None,
        }) {
            return Ok(found);
        }
        let mut values = Vec::new();
        for operand in &self.operands {
            values.push(match operand {
                None => None,
                Some(tensor) => Some(Value::Tensor(
                    Array::read(tensor)?.map_err(|e| self.failed(&e))?,
                )),
            });
        }
        let inputs: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
        let results = fold::evaluate(&self.node, self.opset, &inputs);
        let bytes = |value: Value| match value {
            Value::Tensor(array) => match array.to_tensor().elements {
                Elements::Data(Data::Bytes(bytes)) => Ok(bytes),
                _ => Err(self.failed(&Unfolded::Unknown)),
            },
            Value::Sequence(_) => Err(self.failed(&Unfolded::Unknown)),
        };
        let results = results.map_err(|e| self.failed(&e))?;
        let results = results.into_iter().map(bytes).collect::<Result<Vec<_>>>()?;
        LAST.set(Some((self.id, results.clone())));
        Ok(results)
    }

    /// It was computed before: a file has changed since.
    fn failed(&self, why: &Unfolded) -> Error {
        let op = &self.node.op_type;
        Error::input(format!("{op} cannot be evaluated any more: {why:?}"))
    }

    /// Bytes of an element of `output`, of whole bytes.
    fn width(&self, output: usize) -> u64 {
        self.results[output].0.bits() / 8
    }
}

fn first_tensor(results: Vec<Value>) -> Result<Array, Unfolded> {
    match results.into_iter().next() {
        Some(Value::Tensor(array)) => Ok(array),
        _ => Err(Unfolded::Unknown),
    }
}

impl Evaluated {
    /// Elements of a tile.
    fn tile(&self) -> u64 {
        let computed = |t: &Tensor| matches!(t.data(), Some(Data::Computed { .. }));
        match self.operands.iter().flatten().any(computed) {
            true => WIDE_TILE,
            false => TILE,
        }
    }
}

impl Produce for Evaluated {
    fn source(&self) -> Option<&Data> {
        let operands = self.operands.iter().flatten();
        operands.filter_map(Tensor::data).max_by_key(|d| d.len())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn outputs(&self) -> usize {
        self.results.len()
    }

    fn len(&self, output: usize) -> u64 {
        let (dtype, dims) = &self.results[output];
        let count = crate::ir::element_count(dims);
        count.and_then(|n| dtype.byte_len(n)).unwrap_or(0)
    }

    fn tiles(&self) -> u64 {
        match self.streams {
            true => self.len(0).div_ceil(self.tile() * self.width(0)),
            false => 1,
        }
    }

    fn range(&self, tile: u64, output: usize) -> Range<u64> {
        match self.streams {
            true => {
                let tile_len = self.tile() * self.width(0);
                tile * tile_len..((tile + 1) * tile_len).min(self.len(0))
            }
            false => 0..self.len(output),
        }
    }

    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        if self.streams {
            return self.read_at(0, self.range(tile, 0).start, out[0]);
        }
        for (out, bytes) in out.iter_mut().zip(self.whole()?) {
            out.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn read_at(&self, output: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        if !self.streams {
            let results = self.whole()?;
            out.copy_from_slice(&results[output][offset as usize..][..out.len()]);
            return Ok(());
        }
        // In tiles: a reader may want all of a large constant.
        let width = self.width(0);
        let mut from = offset / width;
        let end = (offset + out.len() as u64).div_ceil(width);
        while from < end {
            let to = (from + self.tile()).min(end);
            let part = self.part(from, to)?.map_err(|e| self.failed(&e))?;
            let Elements::Data(Data::Bytes(bytes)) = part.to_tensor().elements else {
                return Err(self.failed(&Unfolded::Unknown));
            };
            let (start, stop) = (
                (from * width).max(offset),
                (to * width).min(offset + out.len() as u64),
            );
            let source = &bytes[(start - from * width) as usize..(stop - from * width) as usize];
            out[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(source);
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attribute, AttributeValue};

    fn node(op: &str) -> Node {
        let mut node = Node::new(crate::ir::Model::new(10, 21).main, "", op);
        node.outputs = vec![None];
        node
    }

    fn floats(count: usize) -> Tensor {
        let elements: Vec<f32> = (0..count).map(|i| i as f32 * 0.37 - 1000.0).collect();
        Tensor::from_f32(vec![count as i64], &elements)
    }

    /// Any range is what the tiles make, and both are what the operator makes of the whole.
    fn check(made: &Tensor, expected: &[u8]) {
        let data = made.data().unwrap();
        assert!(data.read_all().unwrap() == expected);
        let Data::Computed { recipe, output } = data else {
            panic!("a recipe")
        };
        let mut tiles = Vec::new();
        for tile in 0..recipe.tiles() {
            let mut out: Vec<Vec<u8>> = (0..recipe.outputs())
                .map(|o| vec![0; recipe.range(tile, o).count()])
                .collect();
            let mut slices: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            recipe.produce(tile, &mut slices).unwrap();
            tiles.extend_from_slice(&out[*output]);
        }
        assert!(tiles == expected, "tiles");
        let len = expected.len();
        for (from, n) in [(0, 1), (3, 5), (len / 3, len / 2), (len - 3, 3)] {
            let mut out = vec![0; n];
            data.read_at(from as u64, &mut out).unwrap();
            assert!(out == expected[from..from + n], "{n} from {from}");
        }
    }

    #[test]
    fn in_parts() {
        let count = TILE as usize * 2 + 9;
        let (source, two) = (floats(count), Tensor::from_f32(vec![], &[2.0]));
        let made = streamed(&node("Mul"), 21, &[Some(source.clone()), Some(two)]).unwrap();
        let each = |i: usize| ((i as f32 * 0.37 - 1000.0) * 2.0).to_le_bytes();
        check(
            &made.unwrap(),
            &(0..count).flat_map(each).collect::<Vec<u8>>(),
        );
        let mut cast = node("Cast");
        cast.attributes = vec![Attribute::new("to", AttributeValue::Int(10))];
        let made = streamed(&cast, 21, &[Some(source)]).unwrap().unwrap();
        assert_eq!(made.dtype, DataType::Float16);
        let each = |i: usize| half::f16::from_f32(i as f32 * 0.37 - 1000.0).to_le_bytes();
        check(&made, &(0..count).flat_map(each).collect::<Vec<u8>>());
    }

    #[test]
    fn steps_count_every_reading() {
        let source = Some(floats(9));
        assert_eq!(steps(std::slice::from_ref(&source)), 1);
        let of = |op: &str, operands: &[Option<Tensor>]| {
            let made = streamed(&node(op), 21, operands).unwrap().unwrap();
            (made.data().unwrap().steps(), Some(made))
        };
        let (one, negated) = of("Neg", std::slice::from_ref(&source));
        let (three, doubled) = of("Add", &[negated.clone(), negated]);
        let (four, _) = of("Mul", &[source, doubled]);
        assert_eq!((one, three, four), (1, 3, 4));
    }

    #[test]
    fn what_may_fail_is_not_streamed() {
        let mut cast = node("Cast");
        cast.attributes = vec![Attribute::new("to", AttributeValue::Int(7))];
        assert!(streamed(&cast, 21, &[Some(floats(9))]).unwrap().is_none());
        let ints = Tensor::from_i64(vec![3], &[1, 2, 3]);
        let operands = [Some(ints.clone()), Some(ints)];
        assert!(streamed(&node("Div"), 21, &operands).unwrap().is_none());
        let operands = [Some(floats(9)), Some(floats(3))];
        assert!(streamed(&node("Add"), 21, &operands).unwrap().is_none());
        assert!(
            streamed(&node("Softmax"), 21, &[Some(floats(9))])
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn as_a_whole() {
        let parts = Tensor::from_i64(vec![2], &[4, 5]);
        let mut split = node("Split");
        split.outputs = vec![None; 2];
        let types = vec![(DataType::Float, vec![4]), (DataType::Float, vec![5])];
        let made = evaluated(&split, 21, vec![Some(floats(9)), Some(parts)], types);
        let all = floats(9).data().unwrap().read_all().unwrap();
        check(&made[0], &all[..16]);
        check(&made[1], &all[16..]);
    }
}
