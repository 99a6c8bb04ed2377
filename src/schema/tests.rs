use super::parse::parse;
use super::*;

/// What a malformed text is refused with.
fn refusal(text: &'static str) -> String {
    match parse(text) {
        Ok(_) => panic!("`{text}` is not well formed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn version_in_force() {
    let since = |opset| lookup("", "Softmax", opset).map(|op| op.since_version);
    let cases = [(0, None), (1, Some(1)), (10, Some(1)), (11, Some(11))];
    for (opset, expected) in cases {
        assert_eq!(since(opset), expected, "at opset {opset}");
    }
    assert_eq!(since(12), Some(11));
    assert_eq!(since(13), Some(13));
    assert_eq!(since(i64::MAX), Some(13));
    assert_eq!(since(i64::MIN), None);
}

#[test]
fn default_domain_has_two_names() {
    let short = lookup("", "Gemm", 13).unwrap();
    let long = lookup("ai.onnx", "Gemm", 13).unwrap();
    assert!(std::ptr::eq(short, long));
    assert_eq!(short.domain, "");
    assert_eq!(newest_opset(""), newest_opset("ai.onnx"));
}

#[test]
fn unknown_operator_is_not_one_too_new() {
    assert!(versions("", "NoSuchOperator").is_empty());
    assert!(versions("com.example", "MatMul").is_empty());
    assert!(lookup("", "LayerNormalization", 0).is_none());
    assert!(!versions("", "LayerNormalization").is_empty());
}

#[test]
fn beyond_table() {
    let newest = newest_opset("").unwrap();
    assert!(!is_beyond_table("", newest));
    assert!(is_beyond_table("ai.onnx", newest + 1));
    assert!(is_beyond_table("com.microsoft", 2));
    // Nothing is known of the domain, so neither is its end.
    assert!(!is_beyond_table("com.example", 1000));
    assert_eq!(newest_opset("com.example"), None);
}

#[test]
fn quantized_operators() {
    let op = lookup("com.microsoft", "MatMulNBits", 1).unwrap();
    assert_eq!(op.origin, Origin::OnnxRuntime);
    assert_eq!((op.min_inputs, op.max_inputs), (3, Some(6)));
    assert_eq!((op.min_outputs, op.max_outputs), (1, Some(1)));
    let bits = op.attribute("bits").unwrap();
    assert_eq!(bits.default, Some(AttrDefault::Int(4)));
    assert!(op.attribute("K").unwrap().required);
    let zero_points = op.input(3).unwrap();
    assert_eq!(zero_points.option, ParamOption::Optional);
    assert!(zero_points.types.has_tensor(ElementType::Uint8));
    assert!(!zero_points.types.has_tensor(ElementType::Int8));
    assert!(op.input(6).is_none());

    let gather = lookup("com.microsoft", "GatherBlockQuantized", 1).unwrap();
    let data = gather.input(0).unwrap();
    assert!(data.types.has_tensor(ElementType::Uint4));
    // No runtime has an operator of this name.
    assert!(versions("com.microsoft", "GatherNBits").is_empty());
}

#[test]
fn invented_attribute_is_unknown() {
    for op in all() {
        assert_eq!(op.attribute("hierarchy_tag"), None, "{}", op.name);
    }
}

#[test]
fn variadic_parameters() {
    let concat = lookup("", "Concat", 13).unwrap();
    assert_eq!((concat.min_inputs, concat.max_inputs), (1, None));
    let option = ParamOption::Variadic {
        min: 1,
        homogeneous: true,
    };
    assert_eq!(concat.input(7).unwrap().option, option);
    assert!(concat.output(1).is_none());

    let lp = lookup("", "Loop", 13).unwrap();
    assert_eq!((lp.min_inputs, lp.max_inputs), (2, None));
    assert!(lp.has_subgraphs());
    assert!(!concat.has_subgraphs());
}

#[test]
fn operators_outside_the_standard_in_its_domain() {
    let op = lookup("", "SimplifiedLayerNormalization", 17).unwrap();
    assert_eq!(op.origin, Origin::OnnxRuntime);
    assert_eq!(
        lookup("", "Scatter", 11).map(|op| op.deprecated),
        Some(true)
    );
}

#[test]
fn type_sets() {
    let identity = lookup("", "Identity", 16).unwrap();
    let types = &identity.input(0).unwrap().types;
    assert!(types.has_tensor(ElementType::String));
    assert!(types.others().contains(&"seq(tensor(float))"));
    assert_eq!(types, &identity.type_constraint("V").unwrap().types);
    assert_eq!(types.len(), types.tensors().count() + types.others().len());

    let reshape = lookup("", "Reshape", 13).unwrap();
    let shape = reshape.input(1).unwrap();
    assert_eq!(shape.type_str, "tensor(int64)");
    assert_eq!(
        shape.types.tensors().collect::<Vec<_>>(),
        [ElementType::Int64]
    );
}

/// What every schema must satisfy, whatever the sources say next.
#[test]
fn invariants_of_the_table() {
    for op in all() {
        let at = format!("{}::{}-{}", op.domain, op.name, op.since_version);
        assert!(newest_opset(op.domain) >= Some(op.since_version), "{at}");
        assert!(op.max_inputs.is_none_or(|max| op.min_inputs <= max), "{at}");
        assert!(
            op.max_outputs.is_none_or(|max| op.min_outputs <= max),
            "{at}"
        );
        assert!(op.attributes.is_sorted_by(|a, b| a.name < b.name), "{at}");
        for attr in &op.attributes {
            assert!(
                !(attr.required && attr.default.is_some()),
                "{at} {}",
                attr.name
            );
        }
        for param in op.inputs.iter().chain(&op.outputs) {
            assert!(!param.types.is_empty(), "{at} {}", param.name);
            assert!(param.types.others().is_sorted(), "{at} {}", param.name);
        }
        let found = lookup(op.domain, op.name, op.since_version);
        assert!(found.is_some_and(|found| std::ptr::eq(found, op)), "{at}");
    }
}

#[test]
fn codes_and_names_read_back() {
    for &element in ElementType::ALL {
        assert_eq!(ElementType::from_code(element.code()), Some(element));
        assert_eq!(ElementType::from_name(element.name()), Some(element));
    }
    for &kind in AttrKind::ALL {
        assert_eq!(AttrKind::from_code(kind.code()), Some(kind));
        assert_eq!(AttrKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(ElementType::from_code(0), None);
    assert_eq!(AttrKind::from_code(-1), None);
}

#[test]
fn defaults() {
    let text = "op d O 1\n attr a floats = [0.5,-1e-05]\n attr b ints = []\n \
                attr c strings = [\"x\",\"\"]\n attr d string = \"\"\n attr! e graph";
    let op = &parse(text).unwrap_or_else(|error| panic!("{error}")).ops[0];
    let default = |name| op.attribute(name).unwrap().default.clone();
    assert_eq!(default("a"), Some(AttrDefault::Floats(vec![0.5, -1e-5])));
    assert_eq!(default("b"), Some(AttrDefault::Ints(vec![])));
    assert_eq!(default("c"), Some(AttrDefault::Strings(vec!["x", ""])));
    assert_eq!(default("d"), Some(AttrDefault::String("")));
    assert_eq!(default("e"), None);
}

#[test]
fn malformed_text_is_refused() {
    let cases = [
        (" in X T", "line 1: expected an `op` line first"),
        ("op d O x", "line 1: expected a version"),
        (
            "op d O 1 new",
            "line 1: expected `deprecated`, `function`, `unchecked` or `ort`",
        ),
        ("op d O 2\nop d O 1", "line 2: expected operators in order"),
        (
            "domain b 1\ndomain a 1",
            "line 2: expected domains in order",
        ),
        (
            "set @1 float\nset @1 int8",
            "line 2: expected sets in order",
        ),
        ("set @1 floaty", "line 1: expected a type"),
        (
            "op d O 1\n attr a number",
            "line 2: expected the type of an attribute",
        ),
        ("op d O 1\n attr a int = 1.5", "line 2: expected an integer"),
        (
            "op d O 1\n attr a string = x",
            "line 2: expected a string in quotes",
        ),
        (
            "op d O 1\n type T @1",
            "line 2: expected the id of a `set` line above",
        ),
        (
            "op d O 1\n in X T",
            "line 2: expected a type, or the name of a `type` line above",
        ),
        (
            "op d O 1\n in*0 X tensor(int8)\n in Y tensor(int8)",
            "line 3: expected nothing after a variadic",
        ),
        (
            "op d O 1\n inn X tensor(int8)",
            "line 2: expected `?` or `*N`",
        ),
        ("words", "line 1: expected a keyword and its words"),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(text), expected, "{text:?}");
    }
}
