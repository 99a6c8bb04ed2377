//! Invariants 18 to 23: constants, and the types of inputs.

use super::{Code, Reached, Report};
use crate::ir::{
    AttributeValue, Constant, Data, DataType, Def, DimSize, Elements, SparseTensor, Tensor,
    TypeKind, element_count,
};

/// How many bytes of the indices of a sparse tensor are read at once.
const CHUNK: u64 = 64 << 10;

pub(super) fn check(report: &mut Report<'_>, graphs: &[Reached]) {
    let model = report.model;
    for graph in graphs {
        let g = &model.graphs[graph.id];
        for &value in g.initializers.iter().chain(&g.sparse_initializers) {
            let v = &model.values[value];
            let place = |r: &Report<'_>| r.place(graph.id, format!("initializer `{}`", v.name));
            match &v.constant {
                Some(Constant::Dense(t)) => tensor(report, t, &place),
                Some(Constant::Sparse(s)) => sparse(report, s, &place),
                None => unreachable!("invariant 5 holds"),
            }
        }
        for &node in &g.nodes {
            for a in &model.nodes[node].attributes {
                let place = |r: &Report<'_>| format!("{}: attribute `{}`", r.node(node), a.name);
                attribute(report, &a.value, &place);
            }
        }
    }
    for (i, function) in model.functions.iter().enumerate() {
        for a in &function.attribute_defaults {
            let place =
                |r: &Report<'_>| format!("{}: default of `{}`", r.function_label(i), a.name);
            attribute(report, &a.value, &place);
        }
    }
    inputs(report);
}

type Place<'a> = &'a dyn Fn(&Report<'_>) -> String;

fn attribute(report: &mut Report<'_>, value: &AttributeValue, place: Place<'_>) {
    for t in value.tensors() {
        tensor(report, t, place);
    }
    match value {
        AttributeValue::SparseTensor(s) => sparse(report, s, place),
        AttributeValue::SparseTensors(s) => s.iter().for_each(|s| sparse(report, s, place)),
        _ => {}
    }
}

fn tensor(report: &mut Report<'_>, t: &Tensor, place: Place<'_>) {
    let strings = matches!(t.elements, Elements::Strings(_));
    if t.dtype == DataType::Undefined || (t.dtype == DataType::String) != strings {
        let holds = if strings { "strings" } else { "bytes" };
        let found = format!("element type {} for a constant that holds {holds}", t.dtype);
        let place = place(report);
        report.add(Code::TensorType, place, found, "the type of the elements");
        return;
    }
    let shape = &t.dims;
    let (unit, expected, found) = match &t.elements {
        Elements::Strings(s) => ("strings", t.element_count(), s.len() as u64),
        Elements::Data(d) => {
            let bytes = t.element_count().and_then(|n| t.dtype.byte_len(n));
            ("bytes", bytes, d.len())
        }
    };
    let Some(expected) = expected else {
        let found = format!("shape {shape:?}");
        let expected = "extents from 0 on, with a size of less than 2^64 bytes";
        let place = place(report);
        report.add(Code::TensorShape, place, found, expected);
        return;
    };
    if found != expected {
        let found = format!("{found} {unit}");
        let expected = format!("{expected}, for {} with shape {shape:?}", t.dtype);
        let place = place(report);
        report.add(Code::TensorLength, place, found, expected);
    }
    if let Elements::Data(d) = &t.elements
        && let Some(found) = data_fault(d)
    {
        let place = place(report);
        let expected = "bytes that can be read or made";
        report.add(Code::TensorData, place, found, expected);
    }
}

fn data_fault(data: &Data) -> Option<String> {
    match data {
        Data::Bytes(_) => None,
        Data::File { file, offset, len } => {
            let end = offset.checked_add(*len);
            end.is_none_or(|end| end > file.len()).then(|| {
                let path = file.path().display();
                let size = file.len();
                format!("{len} bytes from offset {offset} of `{path}`, which has {size}")
            })
        }
        Data::Computed { recipe, output } => {
            if *output >= recipe.outputs() {
                let outputs = recipe.outputs();
                return Some(format!("output {output} of a recipe with {outputs}"));
            }
            let mut end = 0;
            for tile in 0..recipe.tiles() {
                let range = recipe.range(tile, *output);
                if range.start != end || range.end < range.start {
                    return Some(format!("tile {tile} is {range:?}, after one up to {end}"));
                }
                end = range.end;
            }
            let len = recipe.len(*output);
            (end != len).then(|| format!("tiles up to {end} of a recipe of {len} bytes"))
        }
    }
}

fn sparse(report: &mut Report<'_>, s: &SparseTensor, place: Place<'_>) {
    for t in [&s.values, &s.indices].into_iter().flatten() {
        tensor(report, t, place);
    }
    if let Some((found, expected)) = sparse_fault(s) {
        let place = place(report);
        report.add(Code::SparseTensor, place, found, expected);
    }
}

fn sparse_fault(s: &SparseTensor) -> Option<(String, &'static str)> {
    let values = "one-dimensional values";
    let Some(v) = &s.values else {
        return Some(("no values".into(), values));
    };
    let &[count] = &v.dims[..] else {
        return Some((format!("values with shape {:?}", v.dims), values));
    };
    if element_count(&s.dims).is_none() || s.dims.is_empty() {
        let expected = "one or more extents from 0 on, with fewer than 2^64 elements";
        return Some((format!("shape {:?}", s.dims), expected));
    }
    let expected = "int64 indices, one entry or one tuple for each value";
    let Some(i) = &s.indices else {
        return (count != 0).then(|| ("no indices".into(), expected));
    };
    let tuples = match &i.dims[..] {
        [n] if *n == count => false,
        [n, rank] if *n == count && *rank == s.dims.len() as i64 => true,
        _ => {
            let found = format!("indices with shape {:?} for {count} values", i.dims);
            return Some((found, expected));
        }
    };
    if i.dtype != DataType::Int64 {
        return Some((format!("indices of type {}", i.dtype), expected));
    }
    let width = if tuples { s.dims.len() } else { 1 };
    index_fault(&s.dims, i.data()?, width)
}

/// Reads the indices, `width` numbers for each value.
fn index_fault(dims: &[i64], data: &Data, width: usize) -> Option<(String, &'static str)> {
    // What a fault of the data itself is was said before.
    let entry = width as u64 * 8;
    let entries = data.len() / entry;
    if matches!(data, Data::Computed { .. }) || data_fault(data).is_some() {
        return None;
    }
    let expected = "indices inside the shape, ascending";
    let whole = [element_count(dims)?.try_into().unwrap_or(i64::MAX)];
    let bounds = if width == 1 && dims.len() != 1 {
        &whole
    } else {
        dims
    };
    let mut last: Option<Vec<i64>> = None;
    let step = (CHUNK / entry).max(1);
    let mut buffer = vec![0; (step.min(entries) * entry) as usize];
    for start in (0..entries).step_by(step as usize) {
        let count = (entries - start).min(step);
        let bytes = &mut buffer[..(count * entry) as usize];
        if let Err(e) = data.read_at(start * entry, bytes) {
            return Some((format!("indices cannot be read: {}", e.chain()), expected));
        }
        for (k, tuple) in bytes.chunks_exact(entry as usize).enumerate() {
            let numbers = tuple.chunks_exact(8);
            let numbers = numbers.map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
            let index: Vec<i64> = numbers.collect();
            let inside = index.iter().zip(bounds).all(|(i, d)| (0..*d).contains(i));
            if !inside || last.as_ref().is_some_and(|l| *l >= index) {
                let at = start + k as u64;
                return Some((format!("index {index:?} at position {at}"), expected));
            }
            last = Some(index);
        }
    }
    None
}

/// Invariant 23.
fn inputs(report: &mut Report<'_>) {
    let model = report.model;
    for &value in &model.graphs[model.main].inputs {
        let v = &model.values[value];
        let place = format!("input `{}`", v.name);
        let ty = v.info.as_ref().and_then(|i| i.ty.as_ref());
        let expected = "a type, of a tensor with its element type";
        let tensor = match ty.map(|t| &t.kind) {
            None | Some(TypeKind::Unset) => {
                report.add(Code::InputType, place, "no type", expected);
                continue;
            }
            Some(TypeKind::Tensor(t) | TypeKind::SparseTensor(t)) => t,
            Some(_) => continue,
        };
        if tensor.elem.is_none_or(|e| e == DataType::Undefined) {
            report.add(Code::InputType, place, "no element type", expected);
            continue;
        }
        debug_assert!(matches!(v.def, Def::Input(_)), "invariant 4 holds");
        let Some(Constant::Dense(t)) = &v.constant else {
            continue;
        };
        let fits = |dims: &Vec<crate::ir::Dim>| {
            let same = |(d, n): (&crate::ir::Dim, &i64)| match d.size {
                DimSize::Known(d) => d < 0 || d == *n,
                DimSize::Symbol(_) | DimSize::Unknown => true,
            };
            dims.len() == t.dims.len() && dims.iter().zip(&t.dims).all(same)
        };
        if tensor.elem != Some(t.dtype) || !tensor.shape.as_ref().is_none_or(fits) {
            let found = format!("an initializer of {} with shape {:?}", t.dtype, t.dims);
            let expected = format!("{tensor}, as the input declares");
            report.add(Code::InputType, place, found, expected);
        }
    }
}
