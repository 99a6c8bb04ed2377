//! Constants of types that rten does not have.

use std::{ops::Range, sync::Arc};

use super::known::ELSEWHERE;
use crate::{
    error::{Error, Result},
    ir::{
        AttributeValue, Constant, Data, DataType, Elements, Model, Produce, Tensor, ValueId,
        edit::remove_unused,
    },
    weights::float_data,
};

/// Converts constants to types that rten has, and says whether there were any.
///
/// # Errors
/// One has no such type, or holds an integer beyond 32 bits.
pub(super) fn convert(model: &mut Model) -> Result<bool> {
    let graphs = model.reachable_graphs();
    let lists = graphs.iter().map(|&g| &model.graphs[g]);
    let values: Vec<ValueId> = lists.flat_map(|g| g.initializers.clone()).collect();
    let foreign = |v: &ValueId| model.tensor(*v).is_some_and(|t| !is_native(t));
    let foreign: Vec<ValueId> = values.into_iter().filter(foreign).collect();
    // rten reads initializers that no node does, too.
    let removed = remove_unused(model, &foreign);
    let mut changed = !removed.is_empty();
    for graph in graphs {
        if let Some(&value) = model.graphs[graph].sparse_initializers.first() {
            let name = &model.values[value].name;
            return Err(refused(name, "sparse"));
        }
        for value in model.graphs[graph].initializers.clone() {
            let Value(name, Some(Constant::Dense(tensor))) = parts(model, value) else {
                continue;
            };
            changed |= convert_tensor(&name, tensor)?;
        }
    }
    for node in model.reachable_nodes() {
        let name = model.node_name(node);
        for attribute in &mut model.nodes[node].attributes {
            if let AttributeValue::Tensor(tensor) = &mut attribute.value {
                changed |= convert_tensor(&name, tensor)?;
            }
        }
    }
    Ok(changed)
}

/// The name and the constant of a value.
struct Value<'m>(crate::ir::Str, Option<&'m mut Constant>);

fn parts(model: &mut Model, value: ValueId) -> Value<'_> {
    let value = &mut model.values[value];
    Value(value.name.clone(), value.constant.as_mut())
}

fn refused(name: &str, found: impl std::fmt::Display) -> Error {
    Error::unsupported(format!(
        "constant `{name}` is {found}, which rten does not have; {ELSEWHERE}"
    ))
}

/// Whether rten has the type, or converts it itself.
fn is_native(tensor: &Tensor) -> bool {
    use DataType::*;
    matches!(
        tensor.dtype,
        Float | Float16 | Double | Int64 | Int32 | Int8 | Uint8 | Bool
    )
}

fn convert_tensor(name: &str, tensor: &mut Tensor) -> Result<bool> {
    use DataType::*;
    let Elements::Data(data) = &tensor.elements else {
        return Err(refused(name, "of strings"));
    };
    match tensor.dtype {
        Int64 => {
            read_integers(name, data, i64::from_le_bytes)?;
            return Ok(false);
        }
        _ if is_native(tensor) => return Ok(false),
        Bfloat16 => {
            let recipe: Arc<dyn Produce> = Arc::new(Widen(data.clone()));
            let data = Data::Computed { recipe, output: 0 };
            *tensor = renamed(tensor, Float, data);
            return Ok(true);
        }
        _ => {}
    }
    let integers = match tensor.dtype {
        Int16 => read_integers(name, data, i16::from_le_bytes)?,
        Uint16 => read_integers(name, data, u16::from_le_bytes)?,
        Uint32 => read_integers(name, data, u32::from_le_bytes)?,
        Uint64 => read_integers(name, data, u64::from_le_bytes)?,
        other => return Err(refused(name, other)),
    };
    let bytes: Vec<u8> = integers.iter().flat_map(|x| x.to_le_bytes()).collect();
    *tensor = renamed(tensor, Int32, Data::Bytes(bytes.into()));
    Ok(true)
}

fn renamed(old: &Tensor, dtype: DataType, data: Data) -> Tensor {
    let mut tensor = Tensor::new(dtype, old.dims.clone(), data);
    tensor.name = old.name.clone();
    tensor
}

/// The integers as rten has them. The ends of int64 stay ends: a `Slice` up to them means all.
fn read_integers<T: Into<i128>, const N: usize>(
    name: &str,
    data: &Data,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<i32>> {
    let bytes = data.read_all()?;
    let integers = bytes.as_chunks::<N>().0.iter().map(|b| read(*b).into());
    integers
        .map(|x: i128| match i32::try_from(x) {
            Ok(x) => Ok(x),
            Err(_) if x >= i64::MAX.into() => Ok(i32::MAX),
            // The end of a reversed slice is written as the negative of the other, too.
            Err(_) if x <= i128::from(-i64::MAX) => Ok(i32::MIN),
            Err(_) => Err(Error::unsupported(format!(
                "constant `{name}` has an element {x}, and rten has no integers above 32 bits; \
                 {ELSEWHERE}"
            ))),
        })
        .collect()
}

/// bfloat16 as float32.
#[derive(Debug)]
struct Widen(Data);

impl Produce for Widen {
    fn len(&self, _: usize) -> u64 {
        self.0.len() * 2
    }

    fn tiles(&self) -> u64 {
        1
    }

    fn range(&self, _: u64, output: usize) -> Range<u64> {
        0..self.len(output)
    }

    fn produce(&self, _: u64, out: &mut [&mut [u8]]) -> Result<()> {
        let numbers = float_data(&self.0, DataType::Bfloat16)?;
        for (place, x) in out[0].as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = x.to_le_bytes();
        }
        Ok(())
    }
}
