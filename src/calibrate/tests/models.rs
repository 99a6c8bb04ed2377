//! Models of many forms: what is shown is what a run of the whole model has.

use super::*;
use crate::engine::random_inputs;

fn x(dims: &[usize], items: usize) -> Vec<Vec<Named>> {
    let set = |seed| named(&[("x", floats(dims, seed))]);
    (0..items).map(set).collect()
}

/// Checks `model` as [`check`] does, and which groups it has, in order: name, whether first, weights.
fn check_groups(model: &Model, sets: &[Vec<Named>], expected: &[(&str, bool, usize)]) {
    let groups = check(model, sets);
    let groups: Vec<_> = groups.iter().map(|(n, f, w)| (&**n, *f, *w)).collect();
    assert_eq!(groups, expected);
}

#[test]
fn a_chain() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,3] x) => (float[N,2] y, float[N,4] unused)
          <float[3,4] A = {ramp(1)}, float[4,5] B = {ramp(2)}, float[5,2] C = {ramp(3)}> {
            a = MatMul (x, A)
            b = Tanh (a)
            c = MatMul (b, B)
            unused = Neg (a)
            d = Tanh (c)
            y = MatMul (d, C)
        }",
    );
    let expected = [("x", false, 1), ("b", false, 1), ("d", false, 1)];
    check_groups(&model, &x(&[2, 3], 3), &expected);
}

#[test]
fn branches_that_rejoin_and_share_an_activation() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[B,N,4] x) => (float[B,N,4] y)
          <float[4,4] Q = {ramp(1)}, float[4,4] K = {ramp(2)}, float[4,4] V = {ramp(3)},
           float[4,4] O = {ramp(4)}, float[4,6] G = {ramp(5)}, float[4,6] U = {ramp(6)},
           float[6,4] D = {ramp(7)}> {
            n = Tanh (x)
            q = MatMul (n, Q)
            k = MatMul (n, K)
            v = MatMul (n, V)
            t = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (q, t)
            p = Softmax <axis = -1> (s)
            a = MatMul (p, v)
            o = MatMul (a, O)
            h = Add (x, o)
            m = Tanh (h)
            g0 = MatMul (m, G)
            u0 = MatMul (m, U)
            g1 = Sigmoid (g0)
            f = Mul (g1, u0)
            d = MatMul (f, D)
            y = Add (h, d)
        }",
    );
    let expected = [
        ("n", false, 3),
        ("a", false, 1),
        ("m", false, 2),
        ("f", false, 1),
    ];
    check_groups(&model, &x(&[2, 3, 4], 2), &expected);
}

#[test]
fn weights_on_the_left_and_behind_other_nodes() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[3,N] x) => (float[N,4] y)
          <float[4,3] L = {ramp(1)}, float16[1,5,4] H = {ramp(2)}, float[4,5] G = {ramp(3)},
           float[5,4] T = {ramp(4)}, float[4] bias = {ramp(5)}, int64[2] shape = {5, 4}> {
            a = MatMul (L, x)
            b = Tanh (a)
            h = Cast <to = 1> (H)
            r = Reshape (h, shape)
            c = MatMul (r, b)
            d = Tanh (c)
            e = Gemm <transA = 1, transB = 1> (d, G)
            f = Tanh (e)
            t = Transpose (T)
            u = Transpose (t)
            z = Gemm <transA = 1, alpha = 0.5> (d, u, bias)
            y = Mul (f, z)
        }",
    );
    let expected = [("x", false, 1), ("b", false, 1), ("d", false, 2)];
    check_groups(&model, &x(&[3, 2], 2), &expected);
}

#[test]
fn one_value_as_both_operands() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[3,3] x) => (float[3,3] y, float v)
          <float[3,3] A = {ramp(1)}, float[3,3] B = {ramp(2)}, float[3] row = {1, 2, 3}, float[3,1] C = {ramp(9)}> {
            t = Tanh (x)
            a = MatMul (t, A)
            b = MatMul (B, t)
            y = Add (a, b)
            s = MatMul (row, y)
            z = MatMul (s, C)
            v = ReduceSum <keepdims = 0> (z)
        }",
    );
    let expected = [("t", false, 1), ("t", false, 1), ("s", false, 1)];
    check_groups(&model, &x(&[3, 3], 2), &expected);
}

/// A table that is looked up in and multiplied by, and one that is only looked up in.
const TIED: &str = "<ir_version: 8, opset_import: [\"\" : 17]>
    g (int64[N] i) => (float[N,6] y)
      <float[6,4] E = {ramp(1)}, float[3,4] P = {ramp(8)}, float[4,4] A = {ramp(2)}> {
        three = Constant <value = int64 {3}> ()
        e = Gather (E, i)
        j = Mod (i, three)
        p = Gather (P, j)
        b = Add (e, p)
        n = Tanh (b)
        a = MatMul (n, A)
        h = Add (a, b)
        f = Tanh (h)
        T = Transpose (E)
        y = MatMul (f, T)
    }";

fn ids(items: usize) -> Vec<Vec<Named>> {
    let set = |seed: usize| {
        let ids = (0..4).map(|i| ((i * 5 + seed) % 6) as i64).collect();
        named(&[("i", Array::new(vec![4], ids))])
    };
    (0..items).map(set).collect()
}

#[test]
fn a_tied_table_comes_first_after_one_that_is_only_looked_up_in() {
    let expected = [("P", true, 1), ("f", true, 1), ("n", false, 1)];
    check_groups(&parse(TIED), &ids(2), &expected);
}

#[test]
fn weights_that_all_layers_share_come_first() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,4] x) => (float[N,4] y)
          <float[4,4] A = {ramp(1)}, float[4,4] B = {ramp(2)}, float[4,4] C = {ramp(3)}> {
            a = MatMul (x, A)
            b = MatMul (x, B)
            c = Add (a, b)
            d = Tanh (c)
            e = MatMul (d, A)
            f = MatMul (d, B)
            g0 = Mul (e, f)
            h = Tanh (g0)
            y = MatMul (h, C)
        }",
    );
    let expected = [("x", true, 2), ("h", false, 1)];
    check_groups(&model, &x(&[2, 4], 2), &expected);
}

#[test]
fn bodies_and_what_they_capture() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,3] x, bool c) => (float[N,3] y)
          <float[3,3] A = {ramp(1)}, float[3,3] B = {ramp(2)}, float[3,3] I = {ramp(3)}, float[3,3] S = {ramp(4)}> {
            early = Tanh (x)
            a = MatMul (early, A)
            b = Tanh (a)
            s = MatMul (b, S)
            d = If (c) <
              then_branch = then () => (float[N,3] t) {
                inner = MatMul (early, I)
                t = Add (inner, s)
              },
              else_branch = else () => (float[N,3] e) { e = Identity (b) }
            >
            f = Tanh (d)
            y = MatMul (f, B)
        }",
    );
    let set = |seed, c: bool| {
        named(&[
            ("x", floats(&[2, 3], seed)),
            ("c", Array::new(vec![], vec![c])),
        ])
    };
    let expected = [("early", false, 1), ("b", false, 1), ("f", false, 1)];
    check_groups(
        &model,
        &[set(1, true), set(2, false), set(3, true)],
        &expected,
    );
    let unreached = Sites::of(&model).unwrap().unreached;
    let names: Vec<_> = unreached.iter().map(|&n| model.node_name(n)).collect();
    assert_eq!(names.iter().map(|n| &**n).collect::<Vec<_>>(), ["inner"]);
}

#[test]
fn what_is_no_tensor_is_computed_again() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,4] x) => (float[N,4] y)
          <float[4,4] A = {ramp(1)}, float[4,4] B = {ramp(2)}, float[4,4] C = {ramp(3)}> {
            a = MatMul (x, A)
            b = Tanh (a)
            pair = SequenceConstruct (b, x)
            zero = Constant <value = int64 {0}> ()
            one = Constant <value = int64 {1}> ()
            c = SequenceAt (pair, zero)
            d = MatMul (c, B)
            e = SequenceAt (pair, one)
            f = Add (d, e)
            y = MatMul (f, C)
        }",
    );
    let expected = [("x", false, 1), ("c", false, 1), ("f", false, 1)];
    check_groups(&model, &x(&[2, 4], 2), &expected);
}

#[test]
fn inputs_with_defaults() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,4] x, float[4] shift, float[4] factor, float[4,4] W) => (float[N,4] y)
          <float[4] shift = {1, 2, 3, 4}, float[4] factor = {4, 3, 2, 1}, float[4,4] W = {ramp(5)},
           float[4,4] A = {ramp(1)}, float[4,4] B = {ramp(2)}> {
            a = MatMul (x, A)
            b = Add (a, shift)
            c = MatMul (b, W)
            d = Mul (c, factor)
            y = MatMul (d, B)
        }",
    );
    let mut sets = x(&[2, 4], 3);
    sets[1].extend(named(&[("shift", floats(&[4], 9))]));
    let shown = run(&model, &sets, New::None, Options::default())
        .ok()
        .unwrap();
    // The same model without defaults. (rten does not replace a default when it is given.)
    let mut plain = model.clone();
    for name in ["shift", "factor", "W"] {
        let inputs = &plain.graphs[plain.main].inputs;
        let input = inputs
            .iter()
            .copied()
            .find(|&v| &*plain.values[v].name == name);
        let tensor = plain.values[input.unwrap()].constant.take();
        let Some(Constant::Dense(tensor)) = tensor else {
            panic!("{name} has a default");
        };
        let default = Array::of_tensor(&tensor).unwrap();
        for set in &mut sets {
            if set.iter().all(|(n, _)| n != name) {
                set.push((name.to_owned(), default.clone()));
            }
        }
        let main = plain.main;
        plain.graphs[main]
            .initializers
            .retain(|&v| Some(v) != input);
    }
    // W may be replaced by callers and is no weight.
    assert_eq!(shown.groups.len(), 2);
    for (g, (_, activations, ..)) in shown.groups.iter().enumerate() {
        assert_eq!(shown.seen.rows[&g], expected(&plain, &sets, activations, 4));
    }
}

#[test]
fn initializers_of_old_models_are_inputs() {
    let model = parse(
        "<ir_version: 3, opset_import: [\"\" : 8]>
        g (float[N,4] x, float[4,4] A, float[4,4] B) => (float[N,4] y)
          <float[4,4] A = {ramp(1)}, float[4,4] B = {ramp(2)}> {
            a = MatMul (x, A)
            b = Tanh (a)
            y = MatMul (b, B)
        }",
    );
    let sets = x(&[2, 4], 2);
    assert_eq!(check(&model, &sets).len(), 2);
    let mut given = sets.clone();
    given[0].extend(named(&[("B", floats(&[4, 4], 1))]));
    let error = run(&model, &given, New::None, Options::default())
        .err()
        .unwrap();
    assert!(
        error.chain().contains("`B` is given, and is a constant"),
        "{}",
        error.chain()
    );
}

#[test]
fn calls_of_functions_are_run_as_they_are() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17, \"f\" : 1]>
        g (float[N,4] x) => (float[N,4] y)
          <float[4,4] A = {ramp(1)}, float[4,4] B = {ramp(2)}> {
            a = MatMul (x, A)
            b = f.twice (a)
            y = MatMul (b, B)
        }
        <domain: \"f\", opset_import: [\"\" : 17]>
        twice (a) => (c) {
            W = Constant <value = float[4,4] {ramp(6)}> ()
            b = MatMul (a, W)
            c = Tanh (b)
        }",
    );
    let expected = [("x", false, 1), ("b", false, 1)];
    check_groups(&model, &x(&[2, 4], 2), &expected);
    assert_eq!(Sites::of(&model).unwrap().unreached.len(), 1);
}

#[test]
fn the_model_of_the_tests_as_a_whole() {
    let model = crate::open("testdata/tinylm/model.onnx".as_ref()).unwrap();
    let extents = BTreeMap::new();
    let sets: Vec<Vec<Named>> = (1..3)
        .map(|seed| random_inputs(&model, seed, &extents).unwrap())
        .collect();
    let groups = compare(&model, &sets, New::Perturbed, true);
    assert!(groups.len() > 4, "{groups:?}");
}
