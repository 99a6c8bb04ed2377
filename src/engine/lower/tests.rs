use std::borrow::Cow;

use super::{lower, registry};
use crate::{
    ir::{Model, Node, ValueId},
    onnx, schema, text, verify,
};

fn model(body: &str) -> Model {
    let head = "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]>";
    text::parse(&format!("{head}\ng {body}")).unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// The operators of the main graph after lowering, in order.
fn lowered(body: &str) -> Vec<String> {
    let model = model(body);
    let lowered = lower(&model).unwrap_or_else(|e| panic!("{}", e.chain()));
    verify::verify(&lowered).unwrap_or_else(|e| panic!("{e:?}"));
    operators(&lowered)
}

fn operators(model: &Model) -> Vec<String> {
    let nodes = model.graphs[model.main].nodes.iter();
    nodes.map(|&n| model.nodes[n].op_type.to_string()).collect()
}

fn refusal(body: &str) -> String {
    lower(&model(body)).unwrap_err().chain()
}

/// What rten says to a model of one node.
fn load(domain: &str, op_type: &str) -> String {
    let mut model = model("(float[1] x) => (y) { y = Neg (x) }");
    let node = model.graphs[model.main].nodes[0];
    let graph = model.nodes[node].graph;
    let (inputs, outputs): (Vec<Option<ValueId>>, Vec<Option<ValueId>>) = (
        model.nodes[node].inputs.clone(),
        model.nodes[node].outputs.clone(),
    );
    model.nodes[node] = Node {
        inputs,
        outputs,
        ..Node::new(graph, domain, op_type)
    };
    let bytes = onnx::to_vec(&model).unwrap();
    match rten::ModelOptions::with_all_ops()
        .enable_optimization(false)
        .load(bytes)
    {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_registry_is_that_of_rten() {
    let lacks = |error: &str| {
        error.contains("not supported or not enabled") || error.contains("not enabled because")
    };
    for (domain, list) in [
        ("", registry::STANDARD),
        ("com.microsoft", registry::CONTRIB),
    ] {
        assert!(list.is_sorted(), "`{domain}`");
        for op_type in list {
            let error = load(domain, op_type);
            assert!(!lacks(&error), "{domain}::{op_type}: {error}");
        }
    }
    for operator in schema::all() {
        let (domain, name) = (operator.domain, operator.name);
        if !["", "com.microsoft"].contains(&domain) || registry::has(domain, name) {
            continue;
        }
        let error = load(domain, name);
        assert!(lacks(&error), "{domain}::{name}: {error:?}");
    }
}

#[test]
fn a_model_without_need_is_left_alone() {
    let model = model(
        "(float[2,32] x) => (y) <uint8[3,1,16] b = {ramp(1)}, float[3,1] s = {ramp(1)}> {
           y = com.microsoft.MatMulNBits <K = 32, N = 3, bits = 4, block_size = 32> (x, b, s)
        }",
    );
    assert!(matches!(lower(&model).unwrap(), Cow::Borrowed(_)));
}

#[test]
fn a_tied_table_exists_once() {
    let model = model(
        "(int64[2] i, float[2,32] x) => (y, z)
         <uint8[3,1,16] b = {ramp(1)}, float[3,1] s = {ramp(1)}, uint8[3,1] o = {ramp(1)},
          int64[2] shape = {3, 16}> {
           rows = Reshape (b, shape)
           z = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 32> (rows, i, s, o)
           y = com.microsoft.MatMulNBits <K = 32, N = 3, bits = 4, block_size = 32> (x, b, s, o)
        }",
    );
    let lowered = lower(&model).unwrap();
    assert_eq!(
        operators(&lowered),
        ["Gather", "Reshape", "Gemm", "Shape", "Concat", "Reshape"]
    );
    let floats = |v: &&ValueId| lowered.tensor(**v).is_some_and(|t| t.dims == [3, 32]);
    let initializers = &lowered.graphs[lowered.main].initializers;
    assert_eq!(initializers.iter().filter(floats).count(), 1);
    // What was quantized is gone.
    let names = initializers.iter().map(|&v| &*lowered.values[v].name);
    assert!(!names.into_iter().any(|n| ["b", "o"].contains(&n)));
}

#[test]
fn padding_of_codes_is_written_out() {
    let body = |pads: &str| {
        format!(
            "(uint8[1,2,5,5] x, uint8 zero) => (y) <uint8[2,2,3,3] w = {{ramp(1)}}> {{
               y = ConvInteger <kernel_shape = [3, 3], pads = [{pads}]> (x, w, zero)
            }}"
        )
    };
    assert_eq!(lowered(&body("0,0,0,0")), ["ConvInteger"]);
    assert_eq!(
        lowered(&body("1,0,1,0")),
        ["Reshape", "Pad", "ConvInteger", "Identity"]
    );
}

#[test]
fn truth_is_not_an_integer() {
    assert_eq!(
        lowered("(float[2] x) => (bool[2] y) { y = Cast <to = 9> (x) }"),
        ["Cast", "Equal", "Not"]
    );
    assert_eq!(
        lowered("(bool[2] x) => (bool[2] y) { y = Cast <to = 9> (x) }"),
        ["Cast"]
    );
}

#[test]
fn refusals() {
    assert_eq!(
        refusal(
            "(int32[2] x) => (y) { [first] a = BitwiseAnd (x, x) b = BitwiseNot (a) y = BitwiseAnd (b, b) }"
        ),
        "rten has no `BitwiseAnd` (node `first`, and 1 more) and no `BitwiseNot` (node `b`); run \
         on ONNX Runtime: --engine onnxruntime"
    );
    assert_eq!(
        refusal("(int64[1] x) => (y) <int64[1] w = {1099511627776}> { y = Add (x, w) }"),
        "constant `w` has an element 1099511627776, and rten has no integers above 32 bits; run \
         on ONNX Runtime: --engine onnxruntime"
    );
    let computed = refusal(
        "(float[2,32] x, float[3,1] s) => (y) <uint8[3,1,16] b = {ramp(1)}, uint8[3,1] o = {ramp(1)}> {
           [head] y = com.microsoft.MatMulNBits <K = 32, N = 3, bits = 4, block_size = 32> (x, b, s, o)
        }",
    );
    assert_eq!(
        computed,
        "`com.microsoft::MatMulNBits` (node `head`): `scales` is not a constant, and rten needs it \
         to be one; run on ONNX Runtime: --engine onnxruntime"
    );
}
