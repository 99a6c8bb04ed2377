//! What must not be said: of what may not run, of iterations and calls that differ, of numbers
//! that a type does not hold, of empty tensors; and models that ask for too much.

use super::tests::found;
use crate::{infer::facts, text};

const OPSET: i64 = 21;

#[test]
fn what_a_branch_or_a_loop_has_is_not_so_outside() {
    // Only the branch that may not run has an extent of `n`.
    let start = "s = Shape <start = 2, end = 3> (x) n = Sub (s, three)";
    let conv = "k = Conv (x, w) j = Shape <start = 2, end = 3> (k)";
    let branch = format!(
        "{start} go = Less (n, zero) g1 = Squeeze (go, first)
         r = If (g1) <then_branch = a () => (t) {{ t = Identity (n) }}, else_branch = b () => (e) {{ {conv} e = Identity (j) }}>
         y = Less (n, zero)"
    );
    let constants = "int64[1] three = {3}, int64[1] zero = {0}, int64[1] first = {0}, float[1,1,4] w = {1,2,3,4}";
    assert_eq!(found(OPSET, "float[1,1,h] x", constants, &branch), "{?}");
    let looped = format!(
        "{start} r = Loop (count, , n) <body = b (int64 i, bool c, int64[1] v) => (d, e) {{ d = Identity (c) {conv} e = Identity (j) }}>
         y = Less (n, zero)"
    );
    assert_eq!(
        found(OPSET, "float[1,1,h] x, int64 count", constants, &looped),
        "{?}"
    );
}

#[test]
fn what_is_carried_along_a_chain_is_forgotten_to_its_end() {
    let carried = ["b", "c", "d", "e", "f", "g"];
    let mut inputs = String::from("int64 i, bool go, float[] a");
    let mut body = String::from("stay = Identity (go) a2 = Concat <axis = 0> (a, a)\n");
    let mut outputs = String::from("stay, a2");
    let mut before = "a";
    for name in carried {
        inputs += &format!(", float[] {name}");
        body += &format!("{name}2 = Identity ({before})\n");
        outputs += &format!(", {name}2");
        before = name;
    }
    body += "out = Shape (g)\n";
    let results = "ra, rb, rc, rd, re, rf, rg, y";
    let nodes = format!(
        "{results} = Loop (count, , x, x, x, x, x, x, x) <body = body ({inputs}) => ({outputs}, out) {{ {body} }}>"
    );
    assert_eq!(
        found(OPSET, "float[1] x, int64 count", "", &nodes),
        "[?, 1]"
    );
    let model = format!(
        "<ir_version: 10, opset_import: [\"\" : 21]>\ng (float[1] x, int64 count) => (y) {{ {nodes} }}"
    );
    let model = text::parse(&model).unwrap();
    let facts = facts(&model);
    let inner = model
        .values
        .ids()
        .find(|&v| &*model.values[v].name == "out")
        .unwrap();
    assert!(facts.elements(inner).is_none_or(|e| e[0].known().is_none()));
}

#[test]
fn integers_of_32_bits_wrap() {
    let cast = "s = Shape (x) a = Cast <to = 6> (s)";
    let check = |nodes: &str, expected: &str| {
        let constants = "int32[2] large = {2000000000,1}";
        assert_eq!(
            found(OPSET, "float[4,s] x", constants, &format!("{cast} {nodes}")),
            expected,
            "{nodes}"
        );
    };
    check("y = Mul (a, large)", "{?, s}");
    check("y = Mul (a, a)", "{16, ?}");
    check("b = Add (a, large) y = Add (b, large)", "{?, s + 2}");
    check("y = Cast <to = 7> (a)", "{4, s}");
}

#[test]
fn an_entry_that_may_be_zero_copies() {
    let reshape = |x: &str, rest: &str| {
        let nodes = format!("s = Shape (z) t = Concat <axis = 0> (s, {rest}) y = Reshape (x, t)");
        let constants = "int64[1] free = {-1}, int64[1] four = {4}";
        found(
            OPSET,
            &format!("float[{x}] x, float[n] z"),
            constants,
            &nodes,
        )
    };
    // Where n is 0 the first extent would be that of x.
    assert_eq!(reshape("3,m", "free"), "[?, ?]");
    assert_eq!(reshape("n,m", "free"), "[n, m]");
    assert_eq!(reshape("n,4", "four"), "[n, 4]");
}

#[test]
fn where_runtimes_differ() {
    let cases = [
        (
            "float[1,1,8] x",
            "",
            "y = MaxPool <kernel_shape = [3], dilations = [2], auto_pad = \"SAME_UPPER\"> (x)",
            "[1, 1, ?]",
        ),
        (
            "float[1,1,2] x",
            "",
            "y = MaxPool <kernel_shape = [3], strides = [2]> (x)",
            "[1, 1, ?]",
        ),
        (
            "float[1,1,8] x, float[1,1,1] w",
            "",
            "y = ConvTranspose <strides = [2], auto_pad = \"SAME_UPPER\"> (x, w)",
            "[1, 1, ?]",
        ),
        ("float x", "", "y = NonZero (x)", "unknown"),
        (
            "float[1,n] x",
            "int64[0] none = {}",
            "y = Squeeze (x, none)",
            "unknown",
        ),
        (
            "float[5] x",
            "int64[1] f = {4}, int64[1] e = {9223372036854775807}, int64[1] a = {0}, int64[1] b = {-1}",
            "y = Slice (x, f, e, a, b)",
            "[?]",
        ),
        (
            "float[5] x",
            "int64[1] f = {-100}, int64[1] e = {-1000}, int64[1] a = {0}, int64[1] b = {-1}",
            "y = Slice (x, f, e, a, b)",
            "[1]",
        ),
    ];
    for (inputs, constants, nodes, expected) in cases {
        assert_eq!(found(OPSET, inputs, constants, nodes), expected, "{nodes}");
    }
    let looped = "last, y = Loop (count, , x) <body = b (int64[1] i, bool c, float[2] v) => (d, v2, e) { d = Identity (c) v2 = Neg (v) e = Identity (i) }>";
    assert_eq!(
        found(OPSET, "float[2] x, int64 count", "", looped),
        "[?, 1]"
    );
}

#[test]
fn too_much_is_asked_for() {
    let vast = i64::MAX;
    let cases = [
        (
            "float[1,1,2] x, float[1,1,9] w",
            "y = Conv (x, w)",
            "[1, 1, ?]",
        ),
        (
            "float[1,1,8,8] x, float[1,1,3,3] w",
            "y = Conv <kernel_shape = [3]> (x, w)",
            "a kernel of 1 axes over [1, 1, 8, 8]",
        ),
        (
            "float[2] x, int64[1000000000000] s",
            "y = Reshape (x, s)",
            "unknown",
        ),
        (
            "float[2] x, int64[1000000000000] s",
            "y = Expand (x, s)",
            "unknown",
        ),
        (
            "int64[1000000000000] s",
            "y = ConstantOfShape (s)",
            "unknown",
        ),
        (
            "float[9] x",
            "y = Split <num_outputs = 1000000000000> (x)",
            "[1]",
        ),
        (
            "float[9] x",
            "a = RandomNormal <shape = [-3]> () y = Neg (a)",
            "`a` has an extent of -3",
        ),
    ];
    for (inputs, nodes, expected) in cases {
        assert_eq!(found(OPSET, inputs, "", nodes), expected, "{nodes}");
    }
    let constants = format!("int64[1] f = {{0}}, int64[1] e = {{{vast}}}");
    let long = format!("float[{vast}] x");
    assert_eq!(
        found(OPSET, &long, &constants, "y = Slice (x, f, e)"),
        format!("[{vast}]")
    );
    // Squares of squares.
    let mut nodes = String::from("a0 = Shape (x) ");
    (0..40).for_each(|i| nodes += &format!("a{} = Mul (a{i}, a{i}) ", i + 1));
    assert_eq!(
        found(
            OPSET,
            "float[s] x",
            "",
            &format!("{nodes} y = Identity (a40)")
        ),
        "{?}"
    );
}

#[test]
fn loops_inside_each_other_end() {
    let mut body = String::from("w = Concat <axis = 0> (v0, v0)");
    for depth in 0..40 {
        let inner = format!("i{depth}, c{depth}");
        let (names, result) = (inner.split_once(", ").unwrap(), format!("r{depth}"));
        body = format!(
            "{result} = Loop (count, , x) <body = b (int64 {}, bool {}, float[] v{depth}) => (d{depth}, w{depth}) {{
                d{depth} = Identity ({}) {} w{depth} = Concat <axis = 0> (v{depth}, v{depth}) }}>",
            names.0, names.1, names.1,
            if depth == 0 { String::new() } else { body }
        );
    }
    let nodes = format!("{body} y = Identity (r39)");
    assert_eq!(
        found(OPSET, "float[2] x, int64 count", "", &nodes),
        "unknown"
    );
}
