use super::*;
use crate::text::{self, PrintOptions};

fn model(version: u32, body: &str) -> Model {
    let text = format!("<ir_version: {version}, opset_import: [\"\" : 21]>\n{body}");
    text::parse(&text).unwrap_or_else(|e| panic!("{}", e.chain()))
}

fn value(model: &Model, name: &str) -> ValueId {
    let named = |v: &ValueId| &*model.values[*v].name == name;
    model.values.ids().find(named).unwrap()
}

fn producer(model: &Model, name: &str) -> NodeId {
    model.producer(value(model, name)).unwrap()
}

/// Compares what is printed without the header.
fn assert_prints(model: &Model, expected: &str) {
    let text = text::print(model, &PrintOptions::default());
    let body = text.split_once("\n>\n").unwrap().1;
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|l| l.trim().to_owned());
        lines.filter(|l| !l.is_empty()).collect()
    };
    assert_eq!(lines(body), lines(expected), "{text}");
}

fn node_of(op: &str, input: ValueId, edit: &Edit<'_>) -> Node {
    let mut node = Node::new(edit.model().main, "", op);
    node.inputs = vec![Some(input)];
    node
}

#[test]
fn nodes_after_a_value_and_before_it() {
    let mut model = model(
        10,
        "g (float[2] x) => (float[2] z) { y = Neg (x) [n] z = Abs (y) }",
    );
    let [x, y, z] = ["x", "y", "z"].map(|name| value(&model, name));
    let last = producer(&model, "z");
    let mut edit = Edit::new(&mut model);
    let exp = node_of("Exp", y, &edit);
    let exp = edit.insert_after(y, exp, "y");
    let log = node_of("Log", x, &edit);
    edit.insert_after(x, log, "l");
    let mut cos = node_of("Cos", x, &edit);
    cos.inputs.clear();
    edit.interpose(z, cos, "before");
    edit.model_mut().nodes[last].inputs = vec![Some(exp)];
    edit.finish();
    assert_prints(
        &model,
        "g (float[2] x) => (float[2] z) {
           l = Log (x)
           y = Neg (x)
           y_1 = Exp (y)
           [n] before = Abs (y_1)
           z = Cos (before)
        }",
    );
}

#[test]
fn insertions_keep_their_order_and_a_replacement_takes_over() {
    let mut model = model(
        10,
        "g (float[2] x) => (float[2] z) { y = Neg (x) [n] z = Abs (y) @{doc_string: \"d\"} }",
    );
    let (y, anchor) = (value(&model, "y"), producer(&model, "z"));
    let mut edit = Edit::new(&mut model);
    let a = node_of("Relu", y, &edit);
    let a = edit.insert_before(anchor, a, "a");
    let b = node_of("Exp", a, &edit);
    let b = edit.insert_before(anchor, b, "b");
    let last = node_of("Log", b, &edit);
    let replacement = edit.replace(anchor, last);
    // Before one that was inserted, and before the one that replaces.
    let middle = edit.model().producer(b).unwrap();
    let c = node_of("Sin", a, &edit);
    let c = edit.insert_before(middle, c, "c");
    edit.model_mut().nodes[middle].inputs = vec![Some(c)];
    let d = node_of("Cos", b, &edit);
    let d = edit.insert_before(replacement, d, "d");
    edit.model_mut().nodes[replacement].inputs = vec![Some(d)];
    edit.finish();
    assert_prints(
        &model,
        "g (float[2] x) => (float[2] z) {
            y = Neg (x)
            a = Relu (y)
            c = Sin (a)
            b = Exp (c)
            d = Cos (b)
            [n] z = Log (d) @{doc_string: \"d\"}
        }",
    );
}

#[test]
fn leading_nodes_come_first_and_may_be_anchors() {
    let mut model = model(10, "g (float[2] x) => (float[2] y) { y = Neg (x) }");
    let x = value(&model, "x");
    let mut edit = Edit::new(&mut model);
    let a = node_of("Abs", x, &edit);
    let a = edit.insert_first(a, "a");
    let b = node_of("Exp", a, &edit);
    let b = edit.insert_first(b, "b");
    let anchor = edit.model().producer(b).unwrap();
    let c = node_of("Log", a, &edit);
    edit.insert_before(anchor, c, "c");
    edit.finish();
    assert_prints(
        &model,
        "g (float[2] x) => (float[2] y) {
            a = Abs (x)
            c = Log (a)
            b = Exp (a)
            y = Neg (x)
        }",
    );
}

#[test]
fn names_are_new_to_nodes_and_values_everywhere() {
    let mut model = model(
        10,
        "g (bool c, float[2] x) => (float[2] y) {
           y = If (c) <
             then_branch = t () => (a) { [n] a = Neg (x) },
             else_branch = e () => (n_1) { n_1 = Abs (x) }
           >
        }",
    );
    let main = model.main;
    let mut edit = Edit::new(&mut model);
    assert_eq!(&*edit.fresh_name("m"), "m");
    assert_eq!(&*edit.fresh_name("m"), "m_1");
    assert_eq!(&*edit.fresh_name("n"), "n_2");
    let v = edit.add_constant(main, "x", Tensor::from_f32(vec![], &[1.0]));
    assert_eq!(&*edit.model().values[v].name, "x_1");
}

const BRANCHES: &str = "g (bool c) => (float[1] y) {
    y = If (c) <
      then_branch = t () => (a) { a = local.f () },
      else_branch = e () => (b) { b = local.f () }
    >
  }
  <domain: \"local\", opset_import: [\"\" : 21]>
  f () => (z) { z = Constant <value_floats = [1.0]> () }";

#[test]
fn where_constants_go() {
    for version in [10, 3] {
        let mut model = model(version, BRANCHES);
        let branch = model.nodes[producer(&model, "a")].graph;
        let body = model.functions[0].body;
        let mut edit = Edit::new(&mut model);
        let k = edit.add_constant(branch, "k", Tensor::from_f32(vec![], &[1.0]));
        let f = edit.add_constant(body, "f", Tensor::from_f32(vec![], &[2.0]));
        edit.import_opset(body, "com.microsoft", 1);
        edit.import_opset(body, "com.microsoft", 2);
        edit.finish();
        let home = if version == 10 { branch } else { model.main };
        assert_eq!(model.home(k), home);
        assert_eq!(model.graphs[home].initializers, [k]);
        let listed = model.graphs[home].inputs.contains(&k);
        assert_eq!(listed, version == 3, "only then is it an input");
        assert!(!model.is_overridable(k));
        let first = model.graphs[body].nodes[0];
        assert_eq!(model.producer(f), Some(first));
        assert!(model.nodes[first].is("Constant"));
        for imports in [&model.opset_imports, &model.functions[0].opset_imports] {
            let contrib = imports.iter().filter(|o| o.domain() == "com.microsoft");
            let versions: Vec<_> = contrib.map(|o| o.version).collect();
            assert_eq!(versions, [Some(1)]);
        }
    }
}

#[test]
fn redirecting_includes_captures_and_outputs() {
    let mut model = model(
        10,
        "g (bool c, float[2] x, float[2] z) => (float[2] y, float[2] x) {
           y = If (c) <
             then_branch = t () => (a) { a = Add (x, x) },
             else_branch = e () => (x) { }
           >
        }",
    );
    let uses = Uses::of(&model);
    let (x, z) = (value(&model, "x"), value(&model, "z"));
    let mut edit = Edit::new(&mut model);
    edit.redirect(&uses, x, z);
    edit.finish();
    assert_eq!(Uses::of(&model).of_value(x), []);
    assert_eq!(Uses::of(&model).of_value(z).len(), 4);
}

#[test]
fn what_only_the_unused_used_goes_too() {
    let mut model = model(
        10,
        "g (float[2] x) => (float[2] y) <float[2] A = {1,2}, float[2] B = {3,4}, float[2] h> {
           a = Neg (A)
           h = Add (a, B)
           h2 = Add (h, h)
           y = Add (x, B)
        }",
    );
    let h2 = value(&model, "h2");
    remove_unused(&mut model, &[h2]);
    assert_prints(
        &model,
        "g (float[2] x) => (float[2] y) <
           float[2] B = {3.0,4.0}
        > {
           y = Add (x, B)
        }",
    );
}

#[test]
fn what_is_used_stays() {
    let text = "g (float[2] x, float[2] D) => (float[2] y, float[2] A) <
           float[2] D = {5.0,6.0},
           float[2] A = {1.0,2.0}
        > {
           y, m = Dropout (x)
           s, t = Split <num_outputs = 2> (m)
           u = Neg (s)
        }";
    let mut model = model(10, text);
    // A graph output, an input with a default, a result beside one that is used.
    let names = ["A", "D", "x", "m", "s", "y"];
    let values = names.map(|name| value(&model, name));
    assert_eq!(remove_unused(&mut model, &values), []);
    assert_prints(&model, text);
}

#[test]
fn captures_of_a_removed_subgraph_become_unused() {
    let mut model = model(
        10,
        "g (bool c, float[2] x) => (float[2] y) <float[2] A = {1,2}, float[2] B = {3,4}> {
           h = Neg (A)
           i = If (c) <
             then_branch = t () => (t3) <float[2] own = {5,6}> {
               t1 = Add (h, own)
               t2 = If (c) <
                 then_branch = tt () => (tt1) { tt1 = Add (t1, h) },
                 else_branch = te () => (te1) { te1 = Add (B, own) }
               >
               t3 = Add (t2, t1)
             },
             else_branch = e () => (h) { }
           >
           y = Add (x, B)
        }",
    );
    let i = value(&model, "i");
    remove_unused(&mut model, &[i]);
    assert_prints(
        &model,
        "g (bool c, float[2] x) => (float[2] y) <
           float[2] B = {3.0,4.0}
        > {
           y = Add (x, B)
        }",
    );
}

#[test]
fn a_capture_keeps_a_value() {
    let mut model = model(
        10,
        "g (bool c) => (float[2] y) <float[2] A = {1,2}> {
           y = If (c) <then_branch = t () => (a) { a = Neg (A) }, else_branch = e () => (A) { }>
        }",
    );
    let a = value(&model, "A");
    assert_eq!(remove_unused(&mut model, &[a]), []);
}

#[test]
fn initializers_leave_the_inputs_of_old_models() {
    let text = "g (float[2] x, float[2] A) => (float[2] y) <float[2] A = {1,2}> { y = Neg (x) }";
    for (version, inputs) in [(3, 1), (4, 2)] {
        let mut model = model(version, text);
        let a = value(&model, "A");
        remove_unused(&mut model, &[a]);
        assert_eq!(model.graphs[model.main].inputs.len(), inputs);
    }
}

#[test]
fn repeated_descriptions_go_with_their_value() {
    let mut model = model(10, "g (float x) => (float y) { a = Abs (x) y = Neg (x) }");
    let (main, a) = (model.main, value(&model, "a"));
    let info = ValueInfo::default();
    let again = super::super::GraphOutput { value: a, info };
    model.graphs[main].repeated_value_info.push(again);
    assert_eq!(remove_unused(&mut model, &[a]), [a]);
    assert!(model.graphs[main].repeated_value_info.is_empty());
}

#[test]
fn what_a_body_captures_is_counted_once() {
    // The node inside goes first, or the one around it: either way `y` has one use left.
    for order in [["unused", "w", "y"], ["w", "unused", "y"]] {
        let mut model = model(
            10,
            "g (bool p, float[2] x) => (float[2] z) {
                y = Neg (x)
                w = If (p) <
                    then_branch = t () => (float[2] a) { unused = Exp (y) a = Abs (x) },
                    else_branch = e () => (float[2] b) { b = Abs (x) }
                >
                z = Log (y)
            }",
        );
        let candidates = order.map(|name| value(&model, name));
        remove_unused(&mut model, &candidates);
        let expected = "g (bool p, float[2] x) => (float[2] z) {\ny = Neg (x)\nz = Log (y)\n}";
        assert_prints(&model, expected);
    }
}
