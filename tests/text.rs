//! The textual syntax: what it rejects, what only the IR can hold, and that no text makes
//! the parser panic. That printing and parsing are inverses is also a part of every file
//! test.

use std::{ops::Range, path::Path, sync::Arc};

use onnxq::{
    error::{Error, Result},
    ir::{
        AttributeValue, Constant, Data, DataType, Def, Elements, Model, Node, Produce, Tensor,
        Value,
    },
    text::{self, PrintOptions, parse, print},
};
use proptest::prelude::*;

const HEAD: &str = "<ir_version: 10, opset_import: [\"\" : 21]>\n";

fn model(text: &str) -> Model {
    parse(&format!("{HEAD}{text}")).unwrap_or_else(|e| panic!("{text}: {}", e.chain()))
}

/// `text` and what printing it gives, without the header.
fn printed(model: &Model, options: &PrintOptions) -> String {
    let text = print(model, options);
    let (_, body) = text.split_once("\n>\n").expect("a header");
    body.to_owned()
}

#[test]
fn errors_say_where_and_what() {
    let nested = format!(
        "g () => () {{ {}{} }}",
        "= If () <b = s () => () { ".repeat(70),
        "}>".repeat(70)
    );
    let types = format!("g ({}) => () {{}}", "seq(".repeat(100_000));
    let cases = [
        (
            "",
            "1:1: expected the name of the graph, found the end of the text",
        ),
        ("<", "1:2: expected a key, found the end of the text"),
        ("<ir_version 3>", "1:13: expected `:`, found `3`"),
        ("<ir_version: 3.5>", "1:14: expected an integer"),
        (
            "<ir_version: 99999999999999999999>",
            "1:14: `99999999999999999999` does not fit in 64 bits",
        ),
        ("<colour: 3>", "1:2: unknown key `colour`"),
        (
            "<ir_version: 3",
            "1:15: expected `,` or `>`, found the end of the text",
        ),
        ("g () -> () {}", "1:6: expected `=>`, found `-`"),
        ("g () = > () {}", "1:6: expected `=>`, found `=`"),
        (
            "g (float x, float x) => () {}",
            "1:19: value `x` is defined twice",
        ),
        ("g (float \"\") => () {}", "1:10: a value has an empty name"),
        (
            "g () => (y) {}",
            "1:10: value `y` is not defined before this use",
        ),
        (
            "g (float x) => () {\n  y = Relu (z)\n}",
            "2:13: value `z` is not defined before this use",
        ),
        (
            "g (x) => () {\n  x = Relu (x)\n}",
            "2:3: value `x` is defined twice",
        ),
        (
            "g () => () { y = If () <b = s () => () { z = A () }> z = B (z) }",
            "1:61: value `z` is not defined before this use",
        ),
        (
            "g (float[2 x) => () {}",
            "1:12: expected `,` or `]`, found `x`",
        ),
        ("g (float[2.5] x) => () {}", "1:10: expected an integer"),
        (
            "g () => () <x = {1}> {}",
            "1:13: `x` has elements, but no type before it",
        ),
        (
            "g () => () <float[N] x = {1}> {}",
            "1:22: the extents of a constant are numbers",
        ),
        (
            "g () => () <float[] x = {1}> {}",
            "1:21: the extents of a constant are numbers",
        ),
        (
            "g () => () <float[-1] x = {1}> {}",
            "1:27: shape [-1] has a negative extent or is too large",
        ),
        (
            "g () => () <float[9223372036854775807,9] x = {1}> {}",
            "1:46: shape [9223372036854775807, 9] has a negative extent or is too large",
        ),
        (
            "g () => () <float[9999999999] x = {ramp(0)}> {}",
            "1:36: `ramp` makes at most 16777216 elements, not 9999999999",
        ),
        (
            "g () => () <float[9] x = {...}> {}",
            "1:26: these elements were left out when the text was printed; print without elision",
        ),
        (
            "g () => () <float[9] x = [\"location\": \"w\"]> {}",
            "1:26: data in side files cannot be read from text",
        ),
        (
            "g () => () <seq(float) x = {}> {}",
            "1:24: a constant has a tensor type, such as `float[2,2]`",
        ),
        (
            "g () => () <sparse_tensor(float[3]) x = {values: int64 {1}}> {}",
            "1:37: the values have another element type",
        ),
        (
            "g () => () { = Op <a = []> () }",
            "1:24: an empty list needs its type, such as `name: floats = []`",
        ),
        (
            "g () => () { = Op <a: float = []> () }",
            "1:31: Float is no list",
        ),
        (
            "g () => () { = Op <a: int = 1.5> () }",
            "1:29: declared as Int, but the value is Float",
        ),
        (
            "g () => () { = Op <a: whole = 1> () }",
            "1:23: `whole` is no attribute type",
        ),
        (
            "g () => () { = Op <a = [1, 2.5]> () }",
            "1:28: Float in a list that begins with Int",
        ),
        (
            "g () => () { = Op <a = 1e+> () }",
            "1:27: expected the digits of an exponent, found `>`",
        ),
        (
            "g () => () { = Op <a = \"x> () }",
            "1:24: this string has no closing `\"`",
        ),
        (
            "g () => () { = Op <a = b\"\\q\"> () }",
            "1:26: expected `\\x`, `\\\\` or `\\\"`",
        ),
        (
            "g () => () { = Op <a = $> () }",
            "1:24: expected a value, found `$`",
        ),
        (
            "g () => () { = Op () @{colour: 1} }",
            "1:24: unknown key `colour`",
        ),
        (
            "g () => () {} f () => () <float x = {1}> {}",
            "1:26: a function has no initializers; use a Constant node",
        ),
        (
            "g (x) => () {} f () => (x) {}",
            "1:25: value `x` is not defined before this use",
        ),
        (
            "<metadata_props: [\"k\": {...}]> g () => () {}",
            "1:24: this value was left out when the text was printed: it is computed while the model is written",
        ),
        (&nested, "1:1667: more than 64 levels of nesting"),
        (&types, "1:256: more than 64 levels of nesting"),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let found = parse(text).map_or_else(|e| e.chain(), |_| "no error".to_owned());
        if found != expected {
            wrong.push(format!(
                "{text:.200}\n  expected {expected}\n  found    {found}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn as_deep_as_the_limit_fits_the_stack() {
    let text = format!(
        "g () => () {{ {}{} }}",
        "= If () <b = s () => () { ".repeat(63),
        "}>".repeat(63)
    );
    let model = parse(&text).unwrap();
    assert_eq!(model.graphs.len(), 64);
    print(&model, &PrintOptions::default());
}

#[test]
fn scopes_are_those_of_the_format() {
    let m = model(
        "g (bool c, float x) => (z) <float[1] w = {1}> {
            y = If (c) <
                then_branch = t () => (a) { x = Neg (w) a = Add (x, w) },
                else_branch = e () => (x) {}
            >
            z = f.f (y)
        }
        <domain: \"f\">
        f (x) => (y) { y = Neg (x) }",
    );
    let graphs = m.reachable_graphs();
    assert_eq!(graphs.len(), 4);
    let (then, other, body) = (graphs[1], graphs[2], graphs[3]);
    let own = m.nodes[m.graphs[then].nodes[0]].outputs[0].unwrap();
    assert_eq!(m.home(own), then, "an inner `x` hides the outer one");
    let outer = m.graphs[other].outputs[0].value;
    assert_eq!(m.values[outer].def, Def::Input(m.main));
    assert_eq!(m.captures(then), [m.graphs[m.main].initializers[0]]);
    assert_eq!(m.graphs[then].owner, Some(m.graphs[m.main].nodes[0]));
    assert_eq!(m.function_of(body), Some(0));
}

#[test]
fn values_listed_more_than_once_stay_so() {
    let m = model("g (float x = {1}) => (float x) <float[] x, float y, int64 y> { y = Neg (x) }");
    let g = &m.graphs[m.main];
    assert_eq!(
        (g.inputs.len(), g.initializers.len(), g.value_info.len()),
        (1, 1, 1)
    );
    assert_eq!(g.inputs[0], g.initializers[0]);
    assert_eq!(g.repeated_value_info.len(), 2);
    let again = printed(&m, &PrintOptions::default());
    assert_eq!(printed(&model(&again), &PrintOptions::default()), again);
}

/// Counts up; fails in the last tile when `broken`.
#[derive(Debug)]
struct Count {
    len: u64,
    broken: bool,
}

impl Produce for Count {
    fn len(&self, _: usize) -> u64 {
        self.len
    }
    fn tiles(&self) -> u64 {
        2
    }
    fn range(&self, tile: u64, _: usize) -> Range<u64> {
        let middle = self.len / 2;
        if tile == 0 {
            0..middle
        } else {
            middle..self.len
        }
    }
    fn produce(&self, tile: u64, out: &mut [&mut [u8]]) -> Result<()> {
        if self.broken && tile == 1 {
            return Err(Error::input("no such \"tile\""));
        }
        for (i, b) in out[0].iter_mut().enumerate() {
            *b = (tile * self.len / 2) as u8 + i as u8;
        }
        Ok(())
    }
}

/// A model with the initializer `w`.
fn with_constant(dtype: DataType, dims: Vec<i64>, data: Data) -> Model {
    let mut m = model("g () => () {}");
    let value = m.values.push(Value {
        name: "w".into(),
        def: Def::Initializer(m.main),
        info: None,
        constant: Some(Constant::Dense(Tensor::new(dtype, dims, data))),
    });
    let main = m.main;
    m.graphs[main].initializers.push(value);
    m
}

#[test]
fn recipes_print_their_values_or_are_left_out() {
    let recipe = |len, broken| Data::Computed {
        recipe: Arc::new(Count { len, broken }),
        output: 0,
    };
    let options = PrintOptions {
        elide_computed_above: Some(6),
        ..PrintOptions::default()
    };
    let cases = [
        (6, false, "{0,1,2,3,4,5}"),
        (7, false, "{...}"),
        (6, true, "{... \"no such \\\"tile\\\"\"}"),
    ];
    for (len, broken, expected) in cases {
        let m = with_constant(DataType::Uint8, vec![len as i64], recipe(len, broken));
        let text = printed(&m, &options);
        assert!(text.contains(&format!("w = {expected}\n")), "{text}");
        assert_eq!(parse(&text).is_err(), expected.starts_with("{..."));
    }
}

#[test]
fn malformed_constants_are_printed_as_such() {
    let mut m = with_constant(DataType::Uint8, vec![2], Data::Bytes(vec![1, 2].into()));
    let value = m.graphs[m.main].initializers[0];
    for (dims, expected) in [
        (vec![3], "{... \"2 bytes\"}"),
        (vec![-1], "{... \"shape [-1] has no size\"}"),
    ] {
        let Some(Constant::Dense(tensor)) = &mut m.values[value].constant else {
            unreachable!("made above");
        };
        tensor.dims = dims;
        let text = printed(&m, &PrintOptions::default());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn computed_metadata_is_left_out() {
    let mut m = model("g () => () {}");
    m.computed_metadata = vec![
        ("there".into(), Data::Bytes("x\"y".into())),
        (
            "later".into(),
            Data::Computed {
                recipe: Arc::new(Count {
                    len: 9,
                    broken: false,
                }),
                output: 0,
            },
        ),
    ];
    let text = print(&m, &PrintOptions::default());
    let expected = r#"metadata_props: ["there": "x\"y", "later": {...}]"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn without_extensions_nothing_hangs_on_entities() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/filetests/text");
    let text = std::fs::read_to_string(folder.join("everything.onnxtxt")).unwrap();
    let (input, _) = text.split_once("----").unwrap();
    let plain = PrintOptions {
        extensions: false,
        ..PrintOptions::default()
    };
    let text = print(&parse(input).unwrap(), &plain);
    for word in [
        "@{",
        "ramp(",
        "nan(",
        "]:\"",
        "training_info",
        "configuration",
    ] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    for tensor in [
        "float16[4] h = {11878,31743,",
        "int4[3] i4 = {120,1}",
        "int64 {3}",
    ] {
        assert!(text.contains(tensor), "{tensor}: {text}");
    }
    assert_eq!(print(&parse(&text).unwrap(), &plain), text);
}

#[test]
fn only_what_is_ambiguous_declares_its_kind() {
    let mut m = model("g () => () {}");
    let main = m.main;
    let mut node = Node::new(main, "", "Op");
    for value in [
        AttributeValue::Float(1.0),
        AttributeValue::Ints(vec![1]),
        AttributeValue::Ints(Vec::new()),
        AttributeValue::Tensors(vec![Tensor::from_f32(vec![], &[1.0])]),
    ] {
        node.attributes.push(onnxq::ir::Attribute::new("a", value));
    }
    let id = m.nodes.push(node);
    m.graphs[main].nodes.push(id);
    let text = printed(&m, &PrintOptions::default());
    let expected = "= Op <a = 1.0, a = [1], a: ints = [], a: tensors = [float {1.0}]> ()";
    assert!(text.contains(expected), "{text}");
}

/// The file tests of the text itself: between them they have every construct.
fn texts() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/filetests/text");
    let files = std::fs::read_dir(folder).unwrap();
    let mut texts: Vec<String> = files
        .map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap())
        .flat_map(|t| {
            t.split("---- expected ----\n")
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    texts.sort();
    texts
}

/// Pieces that mean something to the parser.
const PIECES: [&str; 32] = [
    "<", ">", "(", ")", "[", "]", "{", "}", ",", "=", "=>", ":", "\"", "\\", "@", "@{", "?", ".",
    "-", "#", "\n", "0", "1e", "nan(0x", "b\"", "float", "seq(", "ramp(", "...", "é", "x", "\0",
];

#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize, usize),
    Insert(usize, usize),
    Copy(usize, usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>();
    prop_oneof![
        (at, 1..20usize).prop_map(|(at, n)| Mutation::Delete(at, n)),
        (at, 0..PIECES.len()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (at, 1..80usize, at).prop_map(|(from, n, to)| Mutation::Copy(from, n, to)),
    ]
}

fn mutate(text: &str, mutations: &[Mutation]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for mutation in mutations {
        let len = chars.len().max(1);
        let range = |at: usize, n: usize| at % len..(at % len + n).min(chars.len());
        match *mutation {
            Mutation::Delete(at, n) => {
                let range = range(at, n);
                chars.drain(range);
            }
            Mutation::Insert(at, piece) => {
                let at = at % len;
                chars.splice(at..at, PIECES[piece].chars());
            }
            Mutation::Copy(from, n, to) => {
                let copy = chars[range(from, n)].to_vec();
                let at = to % len;
                chars.splice(at..at, copy);
            }
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the text, the parser returns; and what it accepts prints to a text that
    /// is read back as the same.
    #[test]
    fn mutated_texts_do_not_panic(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let texts = texts();
        let text = mutate(&texts[which.index(texts.len())], &mutations);
        if let Ok(model) = parse(&text) {
            let options = PrintOptions::default();
            let first = text::print(&model, &options);
            let again = parse(&first).map_err(|e| TestCaseError::fail(format!("{}\n{first}", e.chain())))?;
            prop_assert_eq!(text::print(&again, &options), first);
        }
    }

    /// Elements of every type read back to the same bytes.
    #[test]
    fn random_elements_read_back(
        dtype in prop::sample::select(types_with_bytes()),
        bytes in prop::collection::vec(any::<u8>(), 64),
        count in 0u64..=4,
    ) {
        let len = dtype.byte_len(count).unwrap() as usize;
        let mut bytes = bytes[..len].to_vec();
        if let (6, Some(last)) = (dtype.bits(), bytes.last_mut()) {
            // The text of six-bit types does not keep the bits after the last element.
            *last &= 0xff >> (len as u64 * 8 - count * 6);
        }
        let data = Data::Bytes(bytes.clone().into());
        let m = with_constant(dtype, vec![count as i64], data);
        for extensions in [true, false] {
            let options = PrintOptions { extensions, ..PrintOptions::default() };
            let parsed = parse(&print(&m, &options)).unwrap();
            let value = parsed.graphs[parsed.main].initializers[0];
            let Elements::Data(data) = &parsed.tensor(value).unwrap().elements else {
                panic!("expected bytes");
            };
            // ONNX's syntax has no NaN payloads.
            if extensions || !has_nan(dtype, &bytes) {
                prop_assert_eq!(&data.read_all().unwrap()[..], &bytes[..]);
            }
        }
    }
}

fn types_with_bytes() -> Vec<DataType> {
    DataType::ALL.into_iter().filter(|t| t.bits() > 0).collect()
}

fn has_nan(dtype: DataType, bytes: &[u8]) -> bool {
    let four = bytes
        .as_chunks()
        .0
        .iter()
        .any(|b| f32::from_le_bytes(*b).is_nan());
    let eight = bytes
        .as_chunks()
        .0
        .iter()
        .any(|b| f64::from_le_bytes(*b).is_nan());
    match dtype {
        DataType::Float | DataType::Complex64 => four,
        DataType::Double | DataType::Complex128 => eight,
        _ => false,
    }
}
