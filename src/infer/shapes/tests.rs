//! What the rules say, written as the extents of the result `y`, or its elements in braces.

use crate::{
    infer::{SymInt, facts},
    text,
};

/// `y` of a model of these inputs, initializers and nodes, at this opset.
pub(super) fn found(opset: i64, inputs: &str, constants: &str, nodes: &str) -> String {
    let header = format!("<ir_version: 10, opset_import: [\"\" : {opset}, \"com.microsoft\" : 1]>");
    let model = format!("{header}\ng ({inputs}) => (y) <{constants}> {{ {nodes} }}");
    let model = text::parse(&model).unwrap_or_else(|e| panic!("{}", e.chain()));
    let value = model.graphs[model.main].outputs[0].value;
    let facts = facts(&model);
    if let Some(conflict) = facts.conflicts().first() {
        return conflict.message.clone();
    }
    // Unknown extents and elements are numbered by value.
    let each = |list: &[SymInt]| {
        let text = list.iter().map(|d| match d.is_named() {
            true => d.to_string(),
            false => "?".to_owned(),
        });
        text.collect::<Vec<_>>().join(", ")
    };
    match (facts.elements(value), facts.shape(value)) {
        (Some(list), _) => format!("{{{}}}", each(list)),
        (None, Some(shape)) => format!("[{}]", each(shape)),
        (None, None) => "unknown".to_owned(),
    }
}

fn check(cases: &[(&str, &str, &str, &str)]) {
    for (inputs, constants, nodes, expected) in cases {
        assert_eq!(
            found(21, inputs, constants, nodes),
            *expected,
            "{inputs} {nodes}"
        );
    }
}

#[test]
fn shape_arithmetic() {
    let x = "float[b,s,64] x";
    check(&[
        (x, "", "y = Shape (x)", "{b, s, 64}"),
        (x, "", "y = Shape <start = -2, end = 100> (x)", "{s, 64}"),
        (x, "", "y = Size (x)", "{64*b*s}"),
        (
            x,
            "int64 i = {-1}",
            "a = Shape (x) y = Gather (a, i)",
            "{64}",
        ),
        (
            x,
            "int64[2] i = {1,0}",
            "a = Shape (x) y = Gather (a, i)",
            "{s, b}",
        ),
        (
            x,
            "int64 i = {3}",
            "a = Shape (x) y = Gather (a, i)",
            "index 3 into 3 elements",
        ),
        (
            x,
            "int64[1] f = {2}, int64[1] t = {-9}, int64[1] z = {0}, int64[1] d = {-1}",
            "a = Shape (x) y = Slice (a, f, t, z, d)",
            "{64, s, b}",
        ),
        (
            x,
            "int64[1] z = {0}",
            "a = Shape (x) c = Concat <axis = 0> (z, a) y = Unsqueeze (c, z)",
            "{0, b, s, 64}",
        ),
        (
            x,
            "int64[3] m = {-1,-1,64}",
            "a = Shape (x) c = Equal (a, m) y = Where (c, m, a)",
            "{b, s, 64}",
        ),
        (
            x,
            "int64 two = {2}",
            "a = Shape (x) c = Mul (a, two) y = Div (c, two)",
            "{b, s, 64}",
        ),
        (
            x,
            "int64 k = {5}",
            "a = Shape (x) y = Mod (a, k)",
            "{b - 5*floor((b)/(5)), s - 5*floor((s)/(5)), 4}",
        ),
        (
            x,
            "",
            "a = Shape (x) y = ReduceProd <keepdims = 0> (a)",
            "{64*b*s}",
        ),
        (
            x,
            "",
            "a = Shape (x) c = Cast <to = 1> (a) y = Cast <to = 7> (c)",
            "[3]",
        ),
        (
            x,
            "int64[2] n = {1,2}",
            "a = Shape (x) c, y = Split (a, n)",
            "{s, 64}",
        ),
        (
            x,
            "int64 o = {1}, int64 z = {0}",
            "y = Range (z, z, o)",
            "{}",
        ),
        (
            x,
            "int64 o = {3}, int64 z = {0}, int64 e = {8}",
            "y = Range (z, e, o)",
            "{0, 3, 6}",
        ),
        (
            x,
            "int64[2] n = {2,3}",
            "y = ConstantOfShape <value = int64[1] {7}> (n)",
            "{7, 7, 7, 7, 7, 7}",
        ),
        (
            "int64 n",
            "int64 z = {0}",
            "a = Sub (n, n) y = Unsqueeze (n, z)",
            "[1]",
        ),
    ]);
}

#[test]
fn layouts() {
    let x = "float[b,s,64] x";
    check(&[
        (
            x,
            "int64[4] t = {0,-1,4,16}",
            "y = Reshape (x, t)",
            "[b, s, 4, 16]",
        ),
        (
            x,
            "int64[2] t = {-1,32}",
            "y = Reshape (x, t)",
            "[2*b*s, 32]",
        ),
        (
            x,
            "int64[2] t = {-1,-1}",
            "y = Reshape (x, t)",
            "the shape has two entries -1",
        ),
        (
            "float[2,3] x",
            "int64[1] t = {5}",
            "y = Reshape (x, t)",
            "[2, 3] has 6 elements and cannot become [5]",
        ),
        (
            "float[2,3] x, int64[k] t",
            "",
            "y = Reshape (x, t)",
            "unknown",
        ),
        (
            "float[2,3] x, int64[2] t",
            "",
            "y = Reshape (x, t)",
            "[?, ?]",
        ),
        (x, "", "y = Flatten <axis = 2> (x)", "[b*s, 64]"),
        (x, "", "y = Transpose (x)", "[64, s, b]"),
        (
            x,
            "",
            "y = Transpose <perm = [0, 0, 1]> (x)",
            "axis 0 is listed twice",
        ),
        (
            x,
            "int64[1] a = {2}",
            "y = Squeeze (x, a)",
            "axis 2 of [b, s, 64] is squeezed",
        ),
        ("float[1,n] x", "", "y = Squeeze (x)", "unknown"),
        (
            x,
            "int64[2] a = {0,-1}",
            "y = Unsqueeze (x, a)",
            "[1, b, s, 64, 1]",
        ),
        (x, "", "y = Concat <axis = 1> (x, x)", "[b, 2*s, 64]"),
        (
            "float[2,3] x, float[3,3] z",
            "",
            "y = Concat <axis = 1> (x, z)",
            "axis 0 of the operands is 2 and 3",
        ),
        (
            "float[n,7] x",
            "",
            "a, c, y = Split <axis = 1, num_outputs = 3> (x)",
            "[n, 1]",
        ),
        (
            "float[n,4] x",
            "int64[2] r = {2,3}",
            "y = Tile (x, r)",
            "[2*n, 12]",
        ),
        (
            "float[n,1] x",
            "int64[3] t = {5,1,4}",
            "y = Expand (x, t)",
            "[5, n, 4]",
        ),
        (
            "float[n,8,h,w] x",
            "",
            "y = DepthToSpace <blocksize = 2> (x)",
            "[n, 2, 2*h, 2*w]",
        ),
        (
            "float[n,4] x",
            "int64[2] p = {1,2}, int64[1] a = {1}",
            "y = Pad (x, p, , a)",
            "[n, 7]",
        ),
    ]);
}

#[test]
fn slices_of_what_is_not_known() {
    let slice = |from: i64, to: i64, step: i64| {
        let constants = format!(
            "int64[1] f = {{{from}}}, int64[1] t = {{{to}}}, int64[1] a = {{1}}, int64[1] d = {{{step}}}"
        );
        found(21, "float[b,s] x", &constants, "y = Slice (x, f, t, a, d)")
    };
    assert_eq!(slice(0, i64::MAX, 1), "[b, s]");
    assert_eq!(slice(0, i32::MAX.into(), 2), "[b, floor((s + 1)/(2))]");
    assert_eq!(slice(-1, i64::MIN, -1), "[b, s]");
    assert_eq!(slice(1, i64::MAX, 1), "[b, max(0, s - min(s, 1))]");
    assert_eq!(slice(-3, i64::MAX, 1), "[b, max(0, s - max(s - 3, 0))]");
    assert_eq!(slice(0, 5, 0), "axis 1 is sliced in steps of 0");
    assert_eq!(slice(5, 0, -1), "[b, ?]");
}

#[test]
fn products_windows_and_statistics() {
    check(&[
        (
            "float[b,s,64] x, float[64,n] w",
            "",
            "y = MatMul (x, w)",
            "[b, s, n]",
        ),
        (
            "float[b,1,s,8] x, float[4,8,t] w",
            "",
            "y = MatMul (x, w)",
            "[b, 4, s, t]",
        ),
        ("float[3] x, float[3] w", "", "y = MatMul (x, w)", "[]"),
        (
            "float[2,3] x, float[4,5] w",
            "",
            "y = MatMul (x, w)",
            "[2, 3] by [4, 5]",
        ),
        (
            "float[k,m] x, float[n,k] w",
            "",
            "y = Gemm <transA = 1, transB = 1> (x, w)",
            "[m, n]",
        ),
        (
            "float[b,i,j] x, float[b,j,k] w",
            "",
            "y = Einsum <equation = \"bij,bjk->bik\"> (x, w)",
            "[b, i, k]",
        ),
        (
            "float[n,3,h,w] x, float[8,3,3,3] k",
            "",
            "y = Conv <strides = [2, 1], pads = [1, 1, 1, 1]> (x, k)",
            "[n, 8, floor((h + 1)/(2)), w]",
        ),
        (
            "float[n,3,h,w] x, float[8,3,3,3] k",
            "",
            "y = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (x, k)",
            "[n, 8, floor((h + 1)/(2)), floor((w + 1)/(2))]",
        ),
        (
            "float[n,4,9,9] x, float[8,3,3,3] k",
            "",
            "y = Conv (x, k)",
            "4 channels, where the weight has 3 in each of 1 groups",
        ),
        (
            "float[n,3,h] x, float[3,5,4] k",
            "",
            "y = ConvTranspose <strides = [2], group = 2> (x, k)",
            "[n, 10, 2*h + 2]",
        ),
        (
            "float[n,3,10,10] x",
            "",
            "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
            "[n, 3, 5, 5]",
        ),
        (
            "float[n,3,h] x",
            "",
            "y = GlobalAveragePool (x)",
            "[n, 3, 1]",
        ),
        (
            "float[n,3,h] x",
            "int64[1] a = {-1}",
            "y = ReduceMean <keepdims = 0> (x, a)",
            "[n, 3]",
        ),
        (
            "float[n,3,h] x",
            "",
            "y = ArgMax <axis = 1> (x)",
            "[n, 1, h]",
        ),
        (
            "float[n,3] x, float[b,1,3] z",
            "",
            "y = Add (x, z)",
            "[b, n, 3]",
        ),
        (
            "float[2] x, float[3] z",
            "",
            "y = Add (x, z)",
            "[2] and [3] do not broadcast",
        ),
        (
            "float[t,b,8] x, float[2,64,8] w, float[2,64,16] r",
            "",
            "a, y = LSTM <direction = \"bidirectional\", hidden_size = 16> (x, w, r)",
            "[2, b, 16]",
        ),
        (
            "float[n,3,h,w] x",
            "float[4] k = {1,1,2,2}",
            "y = Resize (x, , k)",
            "[n, 3, 2*h, 2*w]",
        ),
        (
            "float[b,s,64] x",
            "uint8[9,4,8] q = {ramp(1)}, float[9,4] d = {ramp(1)}",
            "y = com.microsoft.MatMulNBits <K = 64, N = 9, bits = 4, block_size = 16> (x, q, d)",
            "[b, s, 9]",
        ),
    ]);
}

#[test]
fn older_forms_of_operators() {
    let cases = [
        (
            12,
            "float[n,1,4] x",
            "",
            "y = Squeeze <axes = [1]> (x)",
            "[n, 4]",
        ),
        (
            9,
            "float[n,8] x",
            "",
            "y = Slice <starts = [1], ends = [-1], axes = [1]> (x)",
            "[n, 6]",
        ),
        (
            10,
            "float[n,8] x",
            "",
            "y = Pad <pads = [0, 1, 0, 2]> (x)",
            "[n, 11]",
        ),
        (
            4,
            "float[n,8] x",
            "",
            "y = Reshape <shape = [-1]> (x)",
            "[8*n]",
        ),
        (
            1,
            "float[n,8] x",
            "",
            "y = Reshape <shape = [-1, 4]> (x)",
            "[2*n, 4]",
        ),
        (
            6,
            "float[n,8] x, float[n] z",
            "",
            "y = Add <broadcast = 1, axis = 0> (x, z)",
            "[n, 8]",
        ),
        (9999, "float[n,8] x", "", "y = Relu (x)", "unknown"),
    ];
    for (opset, inputs, constants, nodes, expected) in cases {
        assert_eq!(found(opset, inputs, constants, nodes), expected, "{nodes}");
    }
}

#[test]
fn names_that_are_none() {
    check(&[
        (
            "float[\"?\",4] x, float[\"?\",4] z",
            "",
            "y = Add (x, z)",
            "[?, 4]",
        ),
        (
            "float[None,4] x, float[None,4] z",
            "",
            "y = Add (x, z)",
            "[?, 4]",
        ),
        ("float[N,4] x, float[N,4] z", "", "y = Add (x, z)", "[N, 4]"),
    ]);
}
