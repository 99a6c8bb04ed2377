//! How large the values of a model get: one run over given inputs, in the memory of a plain one.

use std::cmp::Reverse;

use super::{Items, Tokens, Windows, tensors::Feeds};
use crate::{
    engine::{Engine, LoadOptions, Program, Signature},
    error::{Error, Result},
    infer::{self, Kind},
    ir::{
        Attribute, AttributeValue, DataType, GraphOutput, Model, Node, SideTable, Tensor, Type,
        ValueId, ValueInfo, edit::Edit,
    },
    maxima::Maxima,
};

/// Before this version of the default domain a Reshape takes its shape from an attribute.
const RESHAPE_OPSET: i64 = 5;

/// Runs `model` over all of `items` and gives the largest magnitude of every float, double and
/// bfloat16 value that its main graph takes or computes; values in the bodies of nodes and of
/// functions are not looked at. A text longer than the window is fed window by window.
///
/// The maxima are computed beside the values, so that no value is kept for it. Measure the
/// model that the maxima are for: names are all that tells values apart.
///
/// # Errors
/// The engine cannot run the model; an input is missing; there is nothing to feed; the opset is
/// older than 5.
pub fn measure(
    engine: &dyn Engine,
    model: &Model,
    items: Items<'_>,
    load: LoadOptions,
) -> Result<Maxima> {
    let (measuring, measured) = instrument(model)?;
    let mut maxima = Maxima::default();
    if measured.is_empty() {
        return Ok(maxima);
    }
    let windows;
    let items = match items {
        Items::Texts {
            tokens,
            window,
            given,
        } => {
            windows = cut(tokens, window)?;
            Items::Texts {
                tokens: &windows,
                window,
                given,
            }
        }
        tensors => tensors,
    };
    let program = Program {
        model: &measuring,
        file: None,
    };
    let mut session = engine.load(program, load)?;
    let signature = Signature::of(model);
    let feeds = Feeds::of(items)?;
    let outputs: Vec<&str> = measured.iter().map(|m| m.output.as_str()).collect();
    for i in 0..feeds.len() {
        let at = |e: Error| e.at(format!("item {i}"));
        let inputs = feeds.item(i, &signature).map_err(at)?;
        let inputs: Vec<_> = inputs.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let found = session.run(&inputs, &outputs).map_err(at)?;
        for (measured, array) in measured.iter().zip(found) {
            let most = array.to_f64().first().copied();
            maxima.record(&measured.value, most.unwrap_or(f64::NAN));
        }
    }
    Ok(maxima)
}

/// The windows of `tokens`, each a text.
pub(crate) fn cut(tokens: &Tokens, window: usize) -> Result<Tokens> {
    let windows = tokens.windows(Windows {
        window,
        stride: window,
        limit: None,
    })?;
    let windows = windows.into_iter().map(|w| w.ids.to_vec());
    Ok(Tokens::from_sequences(windows.collect()))
}

/// A value, and the output that has its largest magnitude.
struct Measured {
    value: String,
    output: String,
}

/// `model` with the largest magnitude of each value as its outputs, instead of its own.
fn instrument(model: &Model) -> Result<(Model, Vec<Measured>)> {
    let kinds = infer::kinds(model);
    let dtype = |v: ValueId| match kinds[v] {
        Some(Kind::Tensor(d)) if d.is_float() && d != DataType::Float16 => Some(d),
        _ => None,
    };
    let mut instrumented = model.clone();
    let main = instrumented.main;
    let values = instrumented.values_of(main).into_iter();
    let constant = |v: ValueId| model.values[v].constant.is_some();
    let values: Vec<_> = values
        .filter(|&v| !constant(v))
        .filter_map(|v| Some((v, dtype(v)?)))
        .collect();
    if values.is_empty() {
        return Ok((instrumented, Vec::new()));
    }
    let opset = model.opset(main, "");
    if opset.is_some_and(|o| o < RESHAPE_OPSET) {
        return Err(Error::unsupported(format!(
            "values are measured from opset {RESHAPE_OPSET} on; found {}",
            opset.unwrap_or_default()
        )));
    }
    let mut edit = Edit::new(&mut instrumented);
    edit.import_opset(main, "", 13);
    let flat = edit.add_constant(main, "flat", Tensor::from_i64(vec![1], &[-1]));
    let zero = edit.add_constant(main, "zero", Tensor::from_f32(vec![1], &[0.0]));
    let mut outputs = Vec::new();
    let mut measured = Vec::new();
    let mut chains = SideTable::new(0);
    for (value, dtype) in values {
        let output = largest(&mut edit, value, dtype, [flat, zero]);
        let mut last = output;
        while last != value {
            let made = edit.model().producer(last).expect("it was put there");
            chains[made] = outputs.len() + 1;
            last = edit.model().nodes[made].inputs[0].expect("each takes the one before");
        }
        let model = edit.model();
        measured.push(Measured {
            value: model.values[value].name.to_string(),
            output: model.values[output].name.to_string(),
        });
        outputs.push(GraphOutput {
            value: output,
            info: scalar(),
        });
    }
    edit.finish();
    let graph = &mut instrumented.graphs[main];
    // ONNX Runtime begins with what the last of the nodes without readers needs: were that the end of the
    // model, every value would be kept until the others have their turn.
    graph
        .nodes
        .sort_by_key(|&node| (chains[node] > 0, Reverse(chains[node])));
    graph.outputs = outputs;
    Ok((instrumented, measured))
}

/// The largest magnitude of `value`; 0 when it has no elements, as a cache of no tokens.
fn largest(
    edit: &mut Edit<'_>,
    value: ValueId,
    dtype: DataType,
    [flat, zero]: [ValueId; 2],
) -> ValueId {
    let main = edit.model().main;
    let name = edit.model().values[value].name.clone();
    let mut last = value;
    let mut then = |op: &str, beside: Option<ValueId>, attribute: Option<(&str, i64)>| {
        let mut node = Node::new(main, "", op);
        node.name = Some(format!("{name}/{op}").into());
        node.inputs = [Some(last), beside]
            .into_iter()
            .flatten()
            .map(Some)
            .collect();
        let attributes = attribute.map(|(n, i)| Attribute::new(n, AttributeValue::Int(i)));
        node.attributes = attributes.into_iter().collect();
        last = edit.insert_after(last, node, &format!("{name}/{op}"));
    };
    if dtype != DataType::Float {
        let float = i64::from(DataType::Float.code());
        then("Cast", None, Some(("to", float)));
    }
    then("Abs", None, None);
    then("Reshape", Some(flat), None);
    then("Concat", Some(zero), Some(("axis", 0)));
    then("ReduceMax", None, Some(("keepdims", 0)));
    last
}

/// A float of rank 0.
fn scalar() -> ValueInfo {
    ValueInfo {
        ty: Some(Type::tensor(DataType::Float, &[])),
        ..ValueInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Array, Rten},
        text,
    };

    fn measured(model: &str, feeds: &[(&str, Array)]) -> Vec<(String, f64)> {
        let model = text::parse(model).unwrap();
        let set = feeds.iter().map(|(n, a)| (n.to_string(), a.clone()));
        let sets = [set.collect::<Vec<_>>()];
        let items = Items::Tensors {
            sets: &sets,
            source: "",
        };
        let found = measure(&Rten::new(), &model, items, LoadOptions::default()).unwrap();
        found.iter().map(|(n, x)| (n.to_owned(), x)).collect()
    }

    #[test]
    fn the_largest_magnitude_of_each_value() {
        let model = "<ir_version: 8, opset_import: [\"\" : 17]>
            g (float[N] x, int64[N] i, float[M] empty) => (float[2] y) <float[1] k = {-3}> {
                a = Mul (x, k)
                b = Relu (a)
                c = Neg (i)
                d = Identity (empty)
                y = Add (b, x)
            }";
        let feeds = [
            ("x", Array::new(vec![2], vec![2.0f32, -1.0])),
            ("i", Array::new(vec![2], vec![5i64, 6])),
            ("empty", Array::new(vec![0], Vec::<f32>::new())),
        ];
        let expected = [
            ("a", 6.0),
            ("b", 3.0),
            ("d", 0.0),
            ("empty", 0.0),
            ("x", 2.0),
            ("y", 2.0),
        ];
        let expected = expected.map(|(n, x)| (n.to_owned(), x));
        assert_eq!(measured(model, &feeds), expected);
    }

    #[test]
    fn a_model_of_whole_numbers_has_none() {
        let model = "<ir_version: 8, opset_import: [\"\" : 17]>
            g (int64[N] i) => (int64[N] y) { y = Neg (i) }";
        assert_eq!(
            measured(model, &[("i", Array::new(vec![1], vec![5i64]))]),
            []
        );
    }
}
