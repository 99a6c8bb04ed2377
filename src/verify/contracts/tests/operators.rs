//! The contracts of the other operators, on models that are given as text.

use super::fault;

/// The faults of one node: operands that are lower-case are inputs of the graph, others
/// constants.
fn fault_of(inputs: &str, constants: &str, node: &str, opset: i64) -> String {
    let text = format!(
        "<ir_version: 10, opset_import: [\"\" : {opset}, \"com.microsoft\" : 1]>
        g ({inputs}) => (y) <{constants}> {{ y = {node} }}"
    );
    fault(&crate::text::parse(&text).unwrap_or_else(|e| panic!("{text}: {}", e.chain())))
}

fn each(cases: &[(&str, &str, &str, i64, &str)]) {
    for (inputs, constants, node, opset, message) in cases {
        let found = fault_of(inputs, constants, node, *opset);
        assert!(
            found.contains(message) && found.is_empty() == message.is_empty(),
            "{constants}: {node}: {found}"
        );
    }
}

#[test]
fn matmul_bnb4_contract() {
    let node = "com.microsoft.MatMulBnb4 <K=64, N=8, block_size=32, quant_type=1> (a, B, S)";
    let other = "com.microsoft.MatMulBnb4 <K=64, N=8, block_size=8, quant_type=2> (a, B, S)";
    let b = "uint8[256] B = {ramp(1)}, float[16] S = {ramp(1)}";
    each(&[
        ("float[3,64] a", b, node, 21, ""),
        (
            "float[3,64] a",
            "uint8[256,1] B = {ramp(1)}, float[16] S = {ramp(1)}",
            node,
            21,
            "",
        ),
        ("float[3,32] a", b, node, 21, "a last axis of `K` = 64"),
        (
            "float16[3,64] a",
            b,
            node,
            21,
            "`A` is float16; expected float",
        ),
        ("float[3,64] a", b, other, 21, "attribute `block_size` is 8"),
        ("float[3,64] a", b, other, 21, "attribute `quant_type` is 2"),
        (
            "float[3,64] a",
            "uint8[255] B = {ramp(1)}, float[16] S = {ramp(1)}",
            node,
            21,
            "`B` has shape [255]; expected 256 elements",
        ),
        (
            "float[3,64] a",
            "uint8[256] B = {ramp(1)}, float[8] S = {ramp(1)}",
            node,
            21,
            "`absmax` has shape [8]; expected 16 elements",
        ),
    ]);
}

#[test]
fn integer_matmul_contracts() {
    let dynamic = "com.microsoft.DynamicQuantizeMatMul (a, W, S, Z, B)";
    let integer = "com.microsoft.MatMulIntegerToFloat (a, W, T, S, , Z, B)";
    let right = "int8[16,8] W = {ramp(1)}, float T = {1}, float[8] S = {ramp(1)}, int8[8] Z = {ramp(1)}, float[8] B = {ramp(1)}";
    let with = |old: &str, new: &str| right.replace(old, new);
    for (node, a, wrong) in [(dynamic, "float", "double"), (integer, "uint8", "float")] {
        let input = format!("{a}[3,16] a");
        let case = |constants: &str, message: &str| {
            each(&[(&input, constants, node, 21, message)]);
        };
        case(right, "");
        case(&with("float[8] S = {ramp(1)}", "float S = {1}"), "");
        case(&with("float[8] S", "float[1,8] S"), "");
        // Scales of a stack of matrices are not looked at.
        case(&with("int8[16,8] W", "int8[2,16,8] W"), "");
        case(&with("float[8] S", "float[9] S"), "`b_scale` has shape [9]");
        case(
            &with("int8[8] Z", "uint8[8] Z"),
            "`b_zero_point` is uint8; expected int8",
        );
        case(
            &with("float[8] B", "float[16] B"),
            "`bias` has shape [16]; expected [8]",
        );
        case(
            &with("int8[16,8] W", "int8[12,8] W"),
            "a last axis of `K` = 12",
        );
        case(
            &with("int8[16,8] W", "float[16,8] W"),
            "`B` is float; expected int8 or uint8",
        );
        let input = format!("{wrong}[3,16] a");
        each(&[(&input, right, node, 21, "`A` is ")]);
    }
}

#[test]
fn qmoe_contract() {
    let node = |more: &str| format!("com.microsoft.QMoE <k=1{more}> (x, r, W, S, , V, U)");
    let right = "uint8[2,32,16] W = {ramp(1)}, float[2,32] S = {ramp(1)}, uint8[2,32,16] V = {ramp(1)}, float[2,32] U = {ramp(1)}";
    let inputs = "float[3,32] x, float[3,2] r";
    each(&[
        (inputs, right, &node(""), 21, ""),
        (
            inputs,
            right,
            &node(", block_size=24"),
            21,
            "attribute `block_size` is 24",
        ),
        (
            inputs,
            right,
            &node(", expert_weight_bits=3"),
            21,
            "`expert_weight_bits` is 3",
        ),
        (
            inputs,
            &right.replace("float[2,32] U", "float[3,32] U"),
            &node(""),
            21,
            "`fc2_scales` has shape [3, 32]; expected 2 experts",
        ),
        (
            inputs,
            &right.replace("uint8[2,32,16] W", "uint8[32,16] W"),
            &node(""),
            21,
            "`fc1_experts_weights` has shape [32, 16]; expected three axes",
        ),
    ]);
}

#[test]
fn linear_contracts() {
    let q = "QuantizeLinear (x, S, Z)";
    let dq = |more: &str| format!("DequantizeLinear {more} (X, S, Z)");
    let constants = |s: &str| {
        format!("uint8[4,40] X = {{ramp(1)}}, float{s} S = {{ramp(1)}}, uint8{s} Z = {{ramp(1)}}")
    };
    let blocked = "<axis=1, block_size=16>";
    each(&[
        ("float[4,40] x", "float S = {1}, uint8 Z = {1}", q, 10, ""),
        (
            "float[4,40] x",
            "float[1] S = {1}, uint8 Z = {1}",
            q,
            10,
            "",
        ),
        (
            "float[4,40] x",
            "float[40] S = {ramp(1)}, uint8[40] Z = {ramp(1)}",
            q,
            13,
            "",
        ),
        (
            "float[n,m] x",
            "float[40] S = {ramp(1)}, uint8[40] Z = {ramp(1)}",
            q,
            13,
            "",
        ),
        (
            "float[4,40] x",
            "float[40] S = {ramp(1)}, uint8[40] Z = {ramp(1)}",
            q,
            10,
            "expected one number before opset 13",
        ),
        (
            "float[4,40] x",
            "float[4] S = {ramp(1)}, uint8[4] Z = {ramp(1)}",
            q,
            13,
            "scale has shape [4]; expected [40], or one number",
        ),
        (
            "float[4,40] x",
            "float[40] S = {ramp(1)}, uint8[4] Z = {ramp(1)}",
            q,
            13,
            "`zero_point` has shape [4]; expected [40]",
        ),
        ("", &constants("[4]"), &dq("<axis=0>"), 13, ""),
        ("", &constants("[4]"), &dq("<axis=-2>"), 13, ""),
        (
            "",
            &constants("[4]"),
            &dq("<axis=2>"),
            13,
            "attribute `axis` is 2",
        ),
        ("", &constants("[4,3]"), &dq(blocked), 21, ""),
        (
            "",
            &constants("[4,2]"),
            &dq(blocked),
            21,
            "scale has shape [4, 2]; expected [4, 3]",
        ),
        (
            "",
            &constants("[4,3]"),
            &dq(""),
            21,
            "scale has shape [4, 3]; expected [40], or one number",
        ),
        (
            "",
            &constants("[4]").replace("uint8[4] Z", "int8[4] Z"),
            &dq("<axis=0>"),
            13,
            "`zero_point` is int8; expected uint8",
        ),
    ]);
}
