//! Prints the table of operator facts as JSON lines: first the domains, then one operator
//! version a line. `tests/py/test_schema.py` compares the output with what the packages
//! `onnx` and `onnxruntime` say; `--time` prints instead how long the first lookup took,
//! which parses the table.
//!
//! ```text
//! cargo run --release -p onnxq-test-tools --bin dump_schema -- | grep MatMulNBits
//! ```

use std::{
    env,
    error::Error,
    io::{self, BufWriter, Write},
    time::Instant,
};

use onnxq::schema::{self, AttrDefault, OpSchema, Origin, Param, ParamOption, TypeSet};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    if env::args().nth(1).as_deref() == Some("--time") {
        let start = Instant::now();
        let found = schema::lookup("com.microsoft", "MatMulNBits", 1).is_some();
        let first = start.elapsed();
        let start = Instant::now();
        let again = schema::lookup("", "Gemm", 21).is_some();
        writeln!(
            out,
            "first {first:?} ({found}), next {:?} ({again})",
            start.elapsed()
        )?;
        return Ok(());
    }
    for domain in schema::domains() {
        writeln!(
            out,
            "{}",
            json!({"domain": domain.name, "newest_opset": domain.newest_opset})
        )?;
    }
    for op in schema::all() {
        writeln!(out, "{}", describe(op))?;
    }
    out.flush()?;
    Ok(())
}

fn describe(op: &OpSchema) -> Value {
    let attributes = op.attributes.iter().map(|attr| {
        json!({
            "name": attr.name,
            "kind": attr.kind.code(),
            "required": attr.required,
            "default": attr.default.as_ref().map(default),
        })
    });
    let constraints = op.type_constraints.iter();
    let constraints = constraints.map(|t| json!({"name": t.name, "types": types(&t.types)}));
    json!({
        "domain": op.domain,
        "name": op.name,
        "since_version": op.since_version,
        "deprecated": op.deprecated,
        "function": op.function,
        "unchecked_attributes": op.unchecked_attributes,
        "origin": match op.origin { Origin::Onnx => "onnx", Origin::OnnxRuntime => "ort" },
        "has_subgraphs": op.has_subgraphs(),
        "attributes": attributes.collect::<Vec<_>>(),
        "type_constraints": constraints.collect::<Vec<_>>(),
        "inputs": op.inputs.iter().map(param).collect::<Vec<_>>(),
        "outputs": op.outputs.iter().map(param).collect::<Vec<_>>(),
        "counts": [
            json!(op.min_inputs), json!(op.max_inputs),
            json!(op.min_outputs), json!(op.max_outputs),
        ],
    })
}

/// Floats by their bits: the comparison is exact, whatever either side prints.
fn default(default: &AttrDefault) -> Value {
    match default {
        AttrDefault::Float(value) => json!({"bits": value.to_bits()}),
        AttrDefault::Int(value) => json!(value),
        AttrDefault::String(value) => json!(value),
        AttrDefault::Floats(values) => {
            let bits = values.iter().map(|value| value.to_bits());
            json!({"bits": bits.collect::<Vec<_>>()})
        }
        AttrDefault::Ints(values) => json!(values),
        AttrDefault::Strings(values) => json!(values),
    }
}

fn param(param: &Param) -> Value {
    let (option, homogeneous) = match param.option {
        ParamOption::Single => ("Single", true),
        ParamOption::Optional => ("Optional", true),
        ParamOption::Variadic { homogeneous, .. } => ("Variadic", homogeneous),
    };
    json!({
        "name": param.name,
        "option": option,
        "homogeneous": homogeneous,
        "type_str": param.type_str,
        "types": types(&param.types),
    })
}

fn types(set: &TypeSet) -> Vec<String> {
    let tensors = set.tensors().map(|element| format!("tensor({element})"));
    tensors
        .chain(set.others().iter().map(|&other| other.to_owned()))
        .collect()
}
