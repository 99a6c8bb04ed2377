//! Inputs from a file, made to fit a model.

use std::collections::BTreeMap;

use crate::{
    engine::{Array, Input, Signature, name_of},
    error::{Error, Result},
    ir::DimSize,
};

/// The inputs of a model with this signature among `tensors`, in order.
///
/// Floating-point tensors take the type that the model wants, so that one file serves the same
/// model in several precisions.
///
/// # Errors
/// One is missing, or has another type or shape than the model declares.
pub fn select(signature: &Signature, tensors: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
    let mut extents = BTreeMap::new();
    let mut selected = Vec::new();
    let mut missing = Vec::new();
    for input in &signature.inputs {
        match tensors.iter().find(|(name, _)| *name == input.name) {
            Some((name, array)) => {
                let array =
                    fit(input, array, &mut extents).map_err(|e| e.at(format!("input `{name}`")))?;
                selected.push((name.clone(), array));
            }
            None if input.has_default => {}
            None => missing.push(format!("`{}`", input.name)),
        }
    }
    if missing.is_empty() {
        return Ok(selected);
    }
    let found: Vec<String> = tensors
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let found = if found.is_empty() {
        "nothing".to_owned()
    } else {
        found.join(", ")
    };
    Err(Error::input(format!(
        "no tensor for input {}, found {found}",
        missing.join(", ")
    )))
}

fn fit<'a>(
    input: &'a Input,
    array: &Array,
    extents: &mut BTreeMap<&'a str, usize>,
) -> Result<Array> {
    let wanted = input.dtype.unwrap_or(array.dtype());
    let fitting = match array.dtype() == wanted {
        true => Some(array.clone()),
        false => array.to_type(wanted).filter(|_| wanted.is_float()),
    };
    let fitting = fitting.ok_or_else(|| {
        Error::input(format!(
            "the tensor is {}, expected {wanted}",
            array.dtype()
        ))
    })?;
    let Some(dims) = &input.dims else {
        return Ok(fitting);
    };
    let declared: Vec<String> = dims.iter().map(ToString::to_string).collect();
    let wrong = || {
        let declared = declared.join(", ");
        Error::input(format!(
            "the tensor has extents {:?}, expected [{declared}]",
            array.dims()
        ))
    };
    if dims.len() != array.dims().len() {
        return Err(wrong());
    }
    for (dim, &extent) in dims.iter().zip(array.dims()) {
        match dim.size {
            DimSize::Known(n) if n >= 0 && n != extent as i64 => return Err(wrong()),
            _ => {}
        }
        let Some(name) = name_of(dim) else { continue };
        let first = *extents.entry(name).or_insert(extent);
        if first != extent {
            return Err(Error::input(format!(
                "axis `{name}` is {extent} long, but {first} in an input before"
            )));
        }
    }
    Ok(fitting)
}

/// How many items `inputs` hold: their extent along the axis that `onnxq inspect` calls the
/// batch; 1 without one.
pub fn items(signature: &Signature, inputs: &[(String, Array)]) -> usize {
    let batch = signature.batch();
    let axis_of = |input: &Input| -> Option<usize> {
        let dims = input.dims.as_deref()?;
        match &batch.axis {
            Some(axis) => dims.iter().position(|d| name_of(d) == Some(axis)),
            None => (batch.allowed && !dims.is_empty()).then_some(0),
        }
    };
    let extent = inputs.iter().find_map(|(name, array)| {
        let input = signature.inputs.iter().find(|i| i.name == *name)?;
        array.dims().get(axis_of(input)?).copied()
    });
    extent.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    fn signature() -> Signature {
        let text = "<ir_version: 8, opset_import: [\"\": 17]>
            g (float16[b,4] x, float16[b,4] y) => (float16[b,4] z) { z = Add (x, y) }";
        Signature::of(&parse(text).unwrap())
    }

    fn named(name: &str, dims: Vec<usize>) -> (String, Array) {
        let n = dims.iter().product();
        (name.to_owned(), Array::new(dims, vec![0.5f32; n]))
    }

    #[test]
    fn floats_take_the_type_of_the_model() {
        let tensors = [
            named("y", vec![3, 4]),
            named("x", vec![3, 4]),
            named("extra", vec![]),
        ];
        let inputs = select(&signature(), &tensors).unwrap();
        assert_eq!(inputs[0].0, "x");
        assert_eq!(inputs[0].1.dtype(), crate::ir::DataType::Float16);
        assert_eq!(items(&signature(), &inputs), 3);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let x = || named("x", vec![3, 4]);
        let ints = ("y".to_owned(), Array::new(vec![3, 4], vec![1i64; 12]));
        for (tensors, said) in [
            (vec![x()], "no tensor for input `y`, found `x`"),
            (
                vec![x(), ints],
                "input `y`: the tensor is int64, expected float16",
            ),
            (
                vec![x(), named("y", vec![3, 5])],
                "extents [3, 5], expected [b, 4]",
            ),
            (
                vec![x(), named("y", vec![12])],
                "extents [12], expected [b, 4]",
            ),
            (
                vec![x(), named("y", vec![2, 4])],
                "axis `b` is 2 long, but 3",
            ),
        ] {
            let error = select(&signature(), &tensors).unwrap_err().chain();
            assert!(error.contains(said), "{error}");
        }
    }
}
