use super::*;

/// The kinds of the values of `model`, by name.
fn kind_of(text: &str, name: &str) -> Option<Kind> {
    let header = "<ir_version: 10, opset_import: [\"\" : 21, \"local\" : 1, \"com.microsoft\" : 1, \"x\" : 1]>\n";
    let model =
        crate::text::parse(&format!("{header}{text}")).unwrap_or_else(|e| panic!("{}", e.chain()));
    let kinds = kinds(&model);
    let mut ids = model.values.ids();
    let value = ids.find(|&v| &*model.values[v].name == name);
    kinds[value.unwrap_or_else(|| panic!("no value `{name}`"))]
}

use DataType::{Bool, Double, Float, Float16, Int64, Uint8};
use Kind::Tensor;

#[test]
fn variables_fixed_types_and_attributes() {
    let model = "g (float16[2] x, int64[1] s, bool c) => (y) {
        a = Relu (x)
        b = Shape (a)
        d = Cast <to = 11> (b)
        e = ConstantOfShape (s)
        f = ConstantOfShape <value = uint8[1] {3}> (s)
        h = RandomNormalLike (x)
        i = RandomNormalLike <dtype = 1> (x)
        j = Constant <value_float = 1.0> ()
        k, l = TopK (x, s)
        m = QuantizeLinear (i, j)
        n = DequantizeLinear (m, j)
        o = Where (c, x, x)
        y = Identity (o)
    }";
    for (name, expected) in [
        ("a", Float16),
        ("b", Int64),
        ("d", Double),
        ("e", Float),
        ("f", Uint8),
        ("h", Float16),
        ("i", Float),
        ("j", Float),
        ("k", Float16),
        ("l", Int64),
        ("m", Uint8),
        ("n", Float),
        ("y", Float16),
    ] {
        assert_eq!(kind_of(model, name), Some(Tensor(expected)), "{name}");
    }
}

#[test]
fn facts_flow_backward_from_what_a_custom_operator_made() {
    let model = "g (x0) => (float[2] y) <float[2] w = {1,2}> {
        a = x.Custom (x0)
        b = Transpose (a)
        y = Add (b, w)
        z = x.Custom (y)
    }";
    assert_eq!(kind_of(model, "a"), Some(Tensor(Float)));
    assert_eq!(kind_of(model, "z"), None);
    assert_eq!(kind_of(model, "x0"), None);
}

#[test]
fn bodies() {
    let model = "g (int64 n, bool c, float[2] x, float16[3,2] xs) => (y, ys, z) {
        y, ys = Loop (n, c, x) <body = body (i, k, h) => (k2, h2, s) {
            k2 = Identity (k)
            h2 = Neg (h)
            s = Cast <to = 11> (x)
        }>
        z = Scan (xs) <num_scan_inputs = 1, body = step (e) => (f) { f = Abs (e) }>
        w = If (c) <then_branch = t () => (p) { p = Identity (x) },
                    else_branch = e () => (q) { q = Identity (x) }>
    }";
    for (name, expected) in [
        ("i", Int64),
        ("k", Bool),
        ("h", Float),
        ("h2", Float),
        ("y", Float),
        ("ys", Double),
        ("f", Float16),
        ("z", Float16),
        ("w", Float),
    ] {
        assert_eq!(kind_of(model, name), Some(Tensor(expected)), "{name}");
    }
}

#[test]
fn sequences_and_optionals() {
    let model = "g (float[2] x, int64 i) => (y) {
        a = SequenceConstruct (x, x)
        b = SequenceAt (a, i)
        c = SequenceEmpty <dtype = 10> ()
        d = Optional (a)
        e = OptionalGetElement (d)
        f = ConcatFromSequence <axis = 0> (a)
        h = SequenceMap (a) <body = m (p) => (q) { q = Cast <to = 10> (p) }>
        y = Identity (b)
    }";
    for (name, expected) in [
        ("a", Kind::Sequence(Float)),
        ("b", Tensor(Float)),
        ("c", Kind::Sequence(Float16)),
        ("d", Kind::OptionalSequence(Float)),
        ("e", Kind::Sequence(Float)),
        ("f", Tensor(Float)),
        ("p", Tensor(Float)),
        ("h", Kind::Sequence(Float16)),
    ] {
        assert_eq!(kind_of(model, name), Some(expected), "{name}");
    }
}

#[test]
fn calls_have_the_types_of_their_operands() {
    let model = "g (float[2] x, float16[2] h) => (y) {
        a = local.twice (x)
        b = local.twice (h)
        y = Identity (a)
    }
    <domain: \"local\", opset_import: [\"\" : 21, \"local\" : 1]>
    twice (p) => (q) { r = local.half (p) q = Add (r, r) }
    <domain: \"local\", opset_import: [\"\" : 21]>
    half (s) => (t) { t = Neg (s) }";
    assert_eq!(kind_of(model, "a"), Some(Tensor(Float)));
    assert_eq!(kind_of(model, "b"), Some(Tensor(Float16)));
    assert_eq!(kind_of(model, "y"), Some(Tensor(Float)));
    assert_eq!(kind_of(model, "r"), None, "differs from call to call");
}

#[test]
fn what_is_declared_counts() {
    let model = "g (float[2] x) => (float16[2] y) { y = Relu (x) }";
    assert_eq!(kind_of(model, "y"), Some(Tensor(Float16)));
}

#[test]
fn type_strings() {
    for (text, expected) in [
        ("tensor(float16)", Tensor(Float16)),
        ("seq(tensor(float))", Kind::Sequence(Float)),
        (
            "optional(seq(tensor(int64)))",
            Kind::OptionalSequence(Int64),
        ),
        ("optional(tensor(bool))", Kind::OptionalTensor(Bool)),
        ("seq(map(int64,tensor(float)))", Kind::Other),
        ("sparse_tensor(float)", Kind::Other),
    ] {
        assert_eq!(Kind::spelled(text), expected, "{text}");
    }
}
