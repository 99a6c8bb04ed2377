use half::f16;

use super::*;
use crate::{
    ir::{DataType, Node, Tensor},
    text,
};

/// The only node of `body`, and its operands, which are initializers.
fn parsed(opset: i64, body: &str) -> (Node, Vec<Option<Value>>) {
    let text = format!("<ir_version: 10, opset_import: [\"\" : {opset}]>\ng () => () {body}");
    let model = text::parse(&text).unwrap_or_else(|e| panic!("{body}: {}", e.chain()));
    let node = model.nodes[model.graphs[model.main].nodes[0]].clone();
    let operand = |v: &Option<crate::ir::ValueId>| {
        let tensor = model.tensor((*v)?).expect("operands are initializers");
        Some(Value::Tensor(Array::read(tensor).unwrap().unwrap()))
    };
    let operands = node.inputs.iter().map(operand).collect();
    (node, operands)
}

fn run(opset: i64, body: &str) -> super::Result<Vec<Value>> {
    let (node, operands) = parsed(opset, body);
    let inputs: Vec<Option<&Value>> = operands.iter().map(Option::as_ref).collect();
    evaluate(&node, opset, &inputs)
}

/// The first result, as numbers, with its type and extents.
fn numbers(opset: i64, body: &str) -> (DataType, Vec<usize>, Vec<f64>) {
    let results = run(opset, body).unwrap_or_else(|e| panic!("{body}: {e:?}"));
    let Value::Tensor(a) = &results[0] else {
        panic!("{body}: a tensor")
    };
    let number = |i| match a.class() {
        number::Class::Int => a.int(i) as f64,
        _ => a.float(i),
    };
    let all = (0..a.len()).map(number).collect();
    (a.dtype(), a.dims().to_vec(), all)
}

#[track_caller]
fn gives(opset: i64, body: &str, expected: &[f64]) {
    let (.., found) = numbers(opset, body);
    let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
    let equal = found.len() == expected.len() && found.iter().zip(expected).all(same);
    assert!(equal, "{body}: {found:?}, expected {expected:?}");
}

#[track_caller]
fn fails(opset: i64, body: &str) {
    match run(opset, body) {
        Err(Unfolded::Invalid(_)) => {}
        other => panic!("{body}: {other:?}"),
    }
}

#[track_caller]
fn declines(opset: i64, body: &str) {
    match run(opset, body) {
        Err(Unfolded::Unsupported(_)) => {}
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn integers_wrap_and_divide_toward_zero() {
    let two = |op: &str, dtype: &str, a: &str, b: &str| {
        format!("<{dtype}[1] a = {{{a}}}, {dtype}[1] b = {{{b}}}> {{ y = {op} (a, b) }}")
    };
    gives(21, &two("Add", "int8", "100", "100"), &[-56.0]);
    gives(21, &two("Mul", "uint8", "20", "20"), &[144.0]);
    gives(21, &two("Sub", "uint32", "0", "1"), &[4294967295.0]);
    gives(21, &two("Div", "int32", "-7", "2"), &[-3.0]);
    gives(21, &two("Mod", "int32", "-7", "2"), &[1.0]);
    gives(21, &two("Mod <fmod = 1>", "int32", "-7", "2"), &[-1.0]);
    gives(21, &two("Pow", "int32", "-3", "3"), &[-27.0]);
    gives(
        21,
        &two("BitShift <direction = \"LEFT\">", "uint8", "129", "1"),
        &[2.0],
    );
    fails(21, &two("Div", "int32", "1", "0"));
    fails(21, &two("Mod", "int64", "1", "0"));
    fails(21, &two("Div", "int64", "-9223372036854775808", "-1"));
    let product = "<int64[1] a = {9223372036854775807}, int64[1] b = {3}> { y = Mul (a, b) }";
    gives(21, product, &[9223372036854775805.0]);
}

#[test]
fn half_precision_is_rounded_once() {
    // 2049 lies between two halves; as float it would be added to first.
    gives(
        21,
        "<float16[2] a = {2048.0, 60000.0}, float16[1] b = {1.0}> { y = Add (a, b) }",
        &[2048.0, f16::from_f32(60001.0).to_f64()],
    );
    gives(
        21,
        "<float16[1] a = {60000.0}> { y = Add (a, a) }",
        &[f64::INFINITY],
    );
    let (dtype, ..) = numbers(21, "<bfloat16[1] a = {3.0}> { y = Exp (a) }");
    assert_eq!(dtype, DataType::Bfloat16);
}

#[test]
fn not_a_number() {
    let nan = f64::NAN;
    let operands = "<float[3] a = {nan, 1.0, nan}, float[3] b = {1.0, nan, nan}>";
    gives(21, &format!("{operands} {{ y = Max (a, b) }}"), &[nan; 3]);
    gives(21, &format!("{operands} {{ y = Min (a, b) }}"), &[nan; 3]);
    gives(
        21,
        &format!("{operands} {{ y = Equal (a, a) }}"),
        &[0.0, 1.0, 0.0],
    );
    gives(
        21,
        &format!("{operands} {{ y = IsNaN (a) }}"),
        &[1.0, 0.0, 1.0],
    );
    fails(21, "<float[1] a = {nan}> { y = Cast <to = 7> (a) }");
    fails(21, "<float[1] a = {1e10}> { y = Cast <to = 6> (a) }");
    gives(
        21,
        "<float[2] a = {nan, -0.0}> { y = Cast <to = 9> (a) }",
        &[1.0, 0.0],
    );
    gives(
        21,
        "<float[3] a = {1.9, -1.9, -128.9}> { y = Cast <to = 3> (a) }",
        &[1.0, -1.0, -128.0],
    );
}

#[test]
fn conversions_are_rounded_once() {
    // 2^24 + 1 and 2^53 + 1 lie between two floats; the second by way of double is wrong.
    let body = "<int64[2] a = {16777217, 9007199791611905}> { y = Cast <to = 1> (a) }";
    gives(21, body, &[16777216.0, 9007200328482816.0]);
    gives(
        21,
        "<string[2] a = {\"12\", \"-3\"}> { y = Cast <to = 6> (a) }",
        &[12.0, -3.0],
    );
    fails(21, "<string[1] a = {\"x\"}> { y = Cast <to = 6> (a) }");
    gives(
        21,
        "<int32[1] a = {300}> { y = Cast <to = 2> (a) }",
        &[44.0],
    );
    gives(
        21,
        "<int4[3] a = {-8, 7, 1}> { y = Cast <to = 6> (a) }",
        &[-8.0, 7.0, 1.0],
    );
}

#[test]
fn old_opsets() {
    let x = "float[2,2] x = {1,2,3,4}";
    gives(
        1,
        &format!("<{x}> {{ y = Slice <starts = [1], ends = [2]> (x) }}"),
        &[3.0, 4.0],
    );
    gives(
        1,
        &format!("<{x}> {{ y = Reshape <shape = [-1]> (x) }}"),
        &[1.0, 2.0, 3.0, 4.0],
    );
    gives(
        6,
        &format!("<{x}, float[2] b = {{10,20}}> {{ y = Add <broadcast = 1, axis = 0> (x, b) }}"),
        &[11.0, 12.0, 23.0, 24.0],
    );
    fails(
        6,
        &format!("<{x}, float[2] b = {{10,20}}> {{ y = Add (x, b) }}"),
    );
    gives(
        6,
        &format!("<{x}> {{ y = Clip <min = 2.0, max = 3.0> (x) }}"),
        &[2.0, 2.0, 3.0, 3.0],
    );
    gives(
        11,
        &format!("<{x}> {{ y = ReduceSum <axes = [0], keepdims = 0> (x) }}"),
        &[4.0, 6.0],
    );
    gives(
        1,
        &format!("<{x}> {{ y = Cast <to = \"INT32\"> (x) }}"),
        &[1.0, 2.0, 3.0, 4.0],
    );
    let (.., sums) = numbers(12, &format!("<{x}> {{ y = Softmax <axis = 0> (x) }}"));
    assert!(
        (sums.iter().sum::<f64>() - 1.0).abs() < 1e-6,
        "one line up to opset 12"
    );
    let (.., sums) = numbers(13, &format!("<{x}> {{ y = Softmax <axis = 0> (x) }}"));
    assert!(
        (sums.iter().sum::<f64>() - 2.0).abs() < 1e-6,
        "two lines since"
    );
}

#[test]
fn indices_out_of_range() {
    let data = "float[3] x = {1,2,3}";
    for (dtype, index, node) in [
        ("int64", "3", "Gather (x, i)"),
        ("int64", "-4", "Gather (x, i)"),
        ("int32", "5", "GatherElements (x, i)"),
        ("int64", "9223372036854775807", "GatherElements (x, i)"),
    ] {
        fails(
            21,
            &format!("<{data}, {dtype}[1] i = {{{index}}}> {{ y = {node} }}"),
        );
    }
    fails(
        21,
        &format!("<{data}, int64[1,1] i = {{3}}> {{ y = GatherND (x, i) }}"),
    );
    gives(
        21,
        &format!("<{data}, int64[1] i = {{-1}}> {{ y = Gather (x, i) }}"),
        &[3.0],
    );
    let huge = "int64[1] a = {-9223372036854775808}, int64[1] b = {9223372036854775807}";
    gives(
        21,
        &format!("<{data}, {huge}> {{ y = Slice (x, a, b) }}"),
        &[1.0, 2.0, 3.0],
    );
    let back = "int64[1] s = {-1}, int64[1] e = {-9223372036854775808}, int64[1] axes = {0}";
    gives(
        21,
        &format!("<{data}, {back}> {{ y = Slice (x, s, e, axes, s) }}"),
        &[3.0, 2.0, 1.0],
    );
    let before = "int64[1] s = {-100}, int64[1] e = {-1000}, int64[1] a = {0}, int64[1] t = {-1}";
    gives(
        21,
        &format!("<{data}, {before}> {{ y = Slice (x, s, e, a, t) }}"),
        &[1.0],
    );
    // By the text of the standard nothing is selected, by runtimes everything.
    let open = "int64[1] s = {-1}, int64[1] e = {2147483647}, int64[1] a = {0}, int64[1] t = {-1}";
    declines(
        21,
        &format!("<{data}, {open}> {{ y = Slice (x, s, e, a, t) }}"),
    );
}

#[test]
fn what_the_standard_leaves_open() {
    let pad = |dims: &str, mode: &str, pads: &str| {
        let data = format!("<{dims}, int64[2] p = {{{pads}}}>");
        format!("{data} {{ y = Pad <mode = \"{mode}\"> (x, p) }}")
    };
    let three = "float[3] x = {1.0, 2.0, 3.0}";
    for (mode, pads) in [
        ("wrap", "-1, 2"),
        ("edge", "-3, 1"),
        ("reflect", "1, -1"),
        ("reflect", "3, 0"),
        ("reflect", "0, 5"),
    ] {
        declines(21, &pad(three, mode, pads));
    }
    declines(21, &pad("float[1] x = {1.0}", "reflect", "0, 1"));
    gives(21, &pad(three, "constant", "-1, 1"), &[2.0, 3.0, 0.0]);
    gives(
        21,
        &pad(three, "reflect", "2, 1"),
        &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0],
    );
    gives(21, &pad("float[1] x = {1.0}", "reflect", "0, 0"), &[1.0]);
    let data = "float[2] x = {1.0, NaN}, int64[1] i = {0}, float[1] u = {3.0}, float nan = {NaN}";
    for node in [
        "NonZero (nan)",
        "Clip (x, nan)",
        "Clip (x, , nan)",
        "ScatterElements <reduction = \"max\"> (x, i, u)",
    ] {
        declines(21, &format!("<{data}> {{ y = {node} }}"));
    }
    let data = "float[1,2] x = {1.0, 2.0}, int64[0] axes = {}";
    declines(21, &format!("<{data}> {{ y = Squeeze (x, axes) }}"));
    for (base, exponent) in [("2", "62"), ("3", "40"), ("2", "-1"), ("-7", "5000000000")] {
        let data = format!("int64 a = {{{base}}}, int64 b = {{{exponent}}}");
        declines(21, &format!("<{data}> {{ y = Pow (a, b) }}"));
    }
    declines(21, "<int32 a = {2}, int64 b = {31}> { y = Pow (a, b) }");
    gives(
        21,
        "<int32 a = {-2}, int64 b = {31}> { y = Pow (a, b) }",
        &[-2147483648.0],
    );
    // 16777216 / 1 steps, or one more: 16777217 is no float.
    let data = "float a = {-0.5}, float b = {16777216.0}, float d = {0.5}";
    declines(21, &format!("<{data}> {{ y = Range (a, b, d) }}"));
    let data = "float a = {0.0}, float b = {1.0}, float d = {0.25}";
    gives(
        21,
        &format!("<{data}> {{ y = Range (a, b, d) }}"),
        &[0.0, 0.25, 0.5, 0.75],
    );
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    for body in [
        "<int64[3] s = {1000000, 1000000, 1000000}> { y = ConstantOfShape (s) }",
        "<int64[3] s = {9223372036854775807, 9223372036854775807, 2}> { y = ConstantOfShape (s) }",
        "<int64[1] s = {9223372036854775807}, float x = {1.0}> { y = Expand (x, s) }",
        "<int64[1] s = {9223372036854775807}, float[2] x = {1.0, 2.0}> { y = Tile (x, s) }",
        "<int64 a = {0}, int64 b = {9223372036854775807}, int64 d = {1}> { y = Range (a, b, d) }",
        "<float[1] x = {1.0}, int64[2] p = {0, 9223372036854775807}> { y = Pad (x, p) }",
        "<int64[1] x = {1}, int64 d = {9223372036854775807}, float[2] v = {0.0, 1.0}> { y = OneHot (x, d, v) }",
    ] {
        assert!(
            matches!(run(21, body), Err(Unfolded::TooLarge(_))),
            "{body}: {:?}",
            run(21, body)
        );
    }
    // No elements, however large the other extents.
    let empty =
        "<int64[3] s = {4611686018427387904, 4611686018427387904, 0}> { y = ConstantOfShape (s) }";
    gives(21, empty, &[]);
}

#[test]
fn attributes_of_a_caller_are_not_known() {
    let (mut node, operands) = parsed(21, "<float[1] a = {1.0}> { y = Cast <to = 7> (a) }");
    node.attributes[0].value = crate::ir::AttributeValue::Reference {
        name: "to".into(),
        kind: crate::ir::AttributeKind::Int,
    };
    let inputs: Vec<Option<&Value>> = operands.iter().map(Option::as_ref).collect();
    assert!(matches!(
        evaluate(&node, 21, &inputs),
        Err(Unfolded::Unsupported(_))
    ));
}

#[test]
fn wrong_operands_are_no_panic() {
    // Every operator with nothing, with a scalar, and with three odd tensors.
    let text = Value::Tensor(Array::of_strings(vec![2], vec!["a".into(), "b".into()]));
    let scalar = Value::Tensor(Array::of_ints(vec![], [3].into_iter()).unwrap());
    let empty = Tensor::from_f32(vec![2, 0], &[]);
    let empty = Value::Tensor(Array::read(&empty).unwrap().unwrap());
    let matrix = Tensor::from_f32(vec![2, 3], &[1.0, -2.0, f32::NAN, 0.0, 5.0, 1e30]);
    let matrix = Value::Tensor(Array::read(&matrix).unwrap().unwrap());
    let list = Value::Sequence(vec![]);
    let all = [&text, &scalar, &empty, &matrix, &list];
    let mut node = Node::new(crate::ir::Model::new(10, 21).main, "", "");
    for schema in crate::schema::all().iter().filter(|s| s.domain.is_empty()) {
        node.op_type = schema.name.into();
        node.outputs = vec![None; 1];
        for a in all {
            for b in all {
                for c in all {
                    for n in 0..=3 {
                        let inputs = [Some(a), Some(b), Some(c)];
                        let _ = evaluate(&node, schema.since_version, &inputs[..n]);
                    }
                }
            }
        }
    }
}

#[test]
fn small_elements_are_packed_in_files_only() {
    let (_, operands) = parsed(21, "<int4[3] a = {1, -2, 3}> { y = Identity (a) }");
    let Some(Value::Tensor(array)) = &operands[0] else {
        panic!("a tensor")
    };
    assert_eq!(array.ints(), Ok(vec![1, -2, 3]));
    let tensor = array.to_tensor();
    assert_eq!(
        &tensor.data().unwrap().read_all().unwrap()[..],
        [0xe1, 0x03]
    );
}
