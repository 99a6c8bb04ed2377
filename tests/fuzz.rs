//! Damaged models: whatever a file holds, it is refused with an error or goes through the
//! whole compiler, and what is then written is valid. Nothing panics.
//!
//! Seeds are fixed. `ONNXQ_FUZZ=n` runs n times as many cases, with other seeds after the
//! usual ones; a failure names its seed.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use onnxq::{
    diff::diff,
    inspect::inspect,
    ir::Model,
    onnx::{self, ExternalData, OpenOptions, SaveOptions},
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
    text::{self, PrintOptions},
    verify::verify,
};

/// Between them, everything that passes look at.
const MODELS: [&str; 6] = [
    // Linears on either side, shared and tied weights, casts and reshapes on the way.
    r#"<ir_version: 10, opset_import: ["" : 21]>
    g (float[M,32] x, int64[N] i, float[32,3] z) => (float[M,4] a, float[N,32] b, float[M,4] c, float[M,6] d, float[6,3] e) <
       float[32,4] W = {ramp(1)}, float[6,32] T = {ramp(2)}, float[4] bias = {1,2,3,4},
       int64[3] shape = {1,32,-1}, int64[1] axis = {0}, float16[6,32] H = {ramp(3)}
    > {
       [mm] a = MatMul (x, W)
       [gather] b = Gather <axis = 0> (T, i)
       [gemm] c = Gemm <alpha = 0.5, beta = 2.0, transA = 0, transB = 0> (x, W, bias)
       t = Transpose <perm = [1, 0]> (T)
       r = Reshape <allowzero = 0> (t, shape)
       s = Squeeze (r, axis)
       [tied] d = MatMul (x, s)
       h = Cast <to = 1> (H)
       [left] e = MatMul (h, z)
    }"#,
    // Graphs in graphs, captures, names that are used twice.
    r#"<ir_version: 8, opset_import: ["" : 17]>
    g (bool p, float[2,16] x, int64 n, bool more) => (float[2,16] y, float[2,16] z) <float[16,16] W = {ramp(1)}, int64[2] s = {16,16}> {
       [if] y = If (p) <
          then_branch = t () => (float[2,16] ty) <float[16,16] U = {ramp(2)}> { q = MatMul (x, U) ty = MatMul (q, W) },
          else_branch = e () => (float[2,16] ey) {
             C = Constant <value = float[16,16] {ramp(3)}> ()
             V = Reshape (C, s)
             ey = Gemm (x, V)
          }
       >
       [loop] z = Loop (n, more, x) <
          body = l (int64 i, bool c, float[2,16] h) => (bool co, float[2,16] ho) { co = Identity (c) ho = MatMul (h, W) }
       >
    }"#,
    // Functions, with attributes of the caller, and weights made twice.
    r#"<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
    g (float[2,16] x) => (float[2,8] y, float[2,8] z) <float[16,8] W = {ramp(1)}, float[16,8] V = {ramp(1)}, float[8,16] U = {ramp(4)}> {
       [f1] y = local.f <perm = [1, 0]> (x)
       [f2] q = local.f <perm = [0, 1]> (x)
       [mm1] r = MatMul (x, W)
       [mm2] w = MatMul (x, V)
       [g] u = Gemm <transB = 1> (x, U)
       z = Sum (q, r, w, u)
    }
    <opset_import: ["" : 18], domain: "local">
    f <perm> (x) => (y) {
       W = Constant <value = float[16,8] {ramp(1)}> ()
       y0 = MatMul (x, W)
       t = Transpose <perm: ints = @perm> (y0)
       y = Identity (y0)
    }"#,
    // Every initializer an input, typed elements, operators of old.
    r#"<ir_version: 3, opset_import: ["" : 11]>
    g (float[M,16] x, float[1,16,4] W, float[4] b, int64[2] i, float[5,16] T, bfloat16[16,4] B) => (float[1,M,4] y, float[2,16] e) <
       float[1,16,4] W = {ramp(1)}, float[4] b = {1,2,3,4}, float[5,16] T = {ramp(2)}, bfloat16[16,4] B = {ramp(3)}
    > {
       a = MatMul (x, W)
       y = Add (a, b)
       e = Gather (T, i)
       c = Unsqueeze <axes = [0]> (W)
       d = Squeeze <axes = [0]> (c)
       f = MatMul (x, d)
    }"#,
    // Nodes that do nothing, twice, or for nobody.
    r#"<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (bool p, float[B,2,3] x, int64 n, bool go) => (float[B,2,3] y, float[A,C] z, float[B,2,3] u, float[B,2,3] v) <
       float one = {1}, float zero = {-0.0}, int64[1] first = {0}, int64[1] axis = {1}, int64[1] rest = {-1}, int64[3] shape = {0,2,3}, float[1] twice = {2}, float[1] twin = {2}
    > {
       a = Transpose <perm = [2, 0, 1]> (x)
       b = Transpose <perm = [1, 2, 0]> (a)
       c = Mul (b, one)
       d = Add (zero, c)
       e = Unsqueeze (d, axis)
       f = Squeeze (e, axis)
       h = Cast <to = 1> (f)
       s = Shape (x)
       t = Gather (s, first)
       t2 = Slice (s, first, axis)
       k = Concat <axis = 0> (t, rest)
       k2 = Concat <axis = 0> (t2, rest)
       r = Reshape (h, k)
       r2 = Reshape (x, k2)
       z = Add (r, r2)
       q = Reshape (r, shape)
       y, unused = If (p) <
          then_branch = then () => (float[B,2,3] a1, float[B,2,3] a2) { w = Exp (q) a1 = Mul (w, twice) a2 = Identity (x) },
          else_branch = else () => (float[B,2,3] b1, float[B,2,3] b2) { w2 = Exp (h) b1 = Mul (w2, twin) b2 = Neg (h) }
       >
       o = Exp (x)
       u, last = Loop (n, go, x) <
          body = body (int64 i, bool more, float[B,2,3] o) => (bool m2, float[B,2,3] o2, float[B,2,3] o3) {
             m2 = Identity (more)
             e2 = Exp (x)
             o1 = Add (o, e2)
             o2 = Dropout (o1)
             o3 = local.twice <by = 3.0> (o)
          }
       >
       l = local.twice (o)
       v = Identity (l)
    }
    <opset_import: ["" : 21], domain: "local">
    twice <by: float = 2.0> (x) => (y) {
       k = Constant <value_float: float = @by> ()
       k2 = Constant <value_float: float = @by> ()
       m = Mul (x, k)
       w = Mul (x, k2)
       y = Add (m, w)
    }"#,
    // What the compiler writes.
    r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[M,16] x, int64[N] i) => (float[M,4] a, float[N,16] b) <
       uint8[4,1,8] W_Q4 = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,240}, float[4,1] W_scales = {1,2,3,4}, uint8[4,1] W_zero = {1,2,3,4}, int64[2] rows = {4,8}
    > {
       [mm] a = com.microsoft.MatMulNBits <K = 16, N = 4, bits = 4, block_size = 16> (x, W_Q4, W_scales, W_zero)
       r = Reshape (W_Q4, rows)
       [gather] b = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1> (r, i, W_scales)
    }"#,
];

/// Pipelines with every option that changes what is written.
const PIPELINES: [&str; 8] = [
    "clean,nbits",
    "share-weights,nbits{bits=2,block=32,asymmetric,tie=alias}",
    "nbits{bits=8,nonfinite=skip},clean",
    "strip-attrs{model},nbits{asymmetric},nbits{bits=8}",
    "share-weights,share-weights,strip-attrs,nbits{include=*,exclude=gemm}",
    "(identity,cse,dce)*",
    "inline-functions,(dce,cse,identity)*",
    "(identity,clean)*,nbits,cse,inline-functions{only=f}",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        match items.is_empty() {
            true => None,
            false => Some(items[self.below(items.len())].clone()),
        }
    }

    /// Numbers that sit at some edge.
    fn number(&mut self) -> i64 {
        let edges = [
            0,
            1,
            -1,
            2,
            3,
            4,
            7,
            8,
            10,
            11,
            15,
            16,
            17,
            32,
            64,
            100,
            255,
            256,
            1 << 20,
            1 << 31,
            1 << 32,
            1 << 61,
            1 << 62,
            i64::MAX,
            i64::MIN,
            -2,
            -16,
        ];
        self.pick(&edges).expect("not empty")
    }
}

fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => bytes.insert(at, random.next() as u8),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// Names that mean something in `graph`, and one that does not.
fn names(graph: &GraphProto) -> Vec<String> {
    let mut names: Vec<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
    names.extend(graph.initializer.iter().map(|t| t.name.clone()));
    names.extend(graph.input.iter().map(|v| v.name.clone()));
    names.extend(["", "nothing", "W", "x"].map(str::to_owned));
    names
}

fn damage_tensor(t: &mut TensorProto, random: &mut Random) {
    match random.below(7) {
        0 if !t.dims.is_empty() => {
            let at = random.below(t.dims.len());
            t.dims[at] = random.number();
        }
        1 => t.dims.push(random.number()),
        2 => t.dims.reverse(),
        3 => t.dims.insert(0, 1),
        4 => t.data_type = random.below(32) as i32 - 1,
        5 => {
            let at = random.below(t.raw_data.len());
            if let Some(b) = t.raw_data.get_mut(at) {
                *b = 0xff;
            }
        }
        _ => {
            // No elements, of any extent.
            t.dims = (0..random.below(4))
                .map(|_| random.number().max(0))
                .collect();
            t.dims.push(0);
            t.raw_data.clear();
            t.float_data.clear();
            t.int32_data.clear();
            t.int64_data.clear();
        }
    }
}

fn damage_attribute(a: &mut AttributeProto, random: &mut Random) {
    if let Some(t) = a.t.as_mut() {
        return damage_tensor(t, random);
    }
    if let Some(g) = a.g.as_mut() {
        return damage_graph(g, random);
    }
    match random.below(5) {
        0 => a.i = random.number(),
        1 if !a.ints.is_empty() => {
            let at = random.below(a.ints.len());
            a.ints[at] = random.number();
        }
        2 => a.f = [f32::NAN, 0.0, -0.0, 1e38, f32::INFINITY][random.below(5)],
        3 => a.ints.push(random.number()),
        _ => a.name = ["axis", "perm", "to", "value", ""][random.below(5)].to_owned(),
    }
}

fn damage_node(n: &mut NodeProto, names: &[String], random: &mut Random) {
    let operators = [
        "MatMul",
        "Gemm",
        "Gather",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Cast",
        "Identity",
        "Constant",
        "If",
        "MatMulNBits",
        "GatherBlockQuantized",
        "f",
    ];
    match random.below(8) {
        0 if !n.input.is_empty() => {
            let at = random.below(n.input.len());
            n.input[at] = random.pick(names).expect("not empty");
        }
        1 if !n.output.is_empty() => {
            let at = random.below(n.output.len());
            n.output[at] = random.pick(names).expect("not empty");
        }
        2 => n.op_type = random.pick(&operators).expect("not empty").to_owned(),
        3 => n.input.extend(random.pick(names)),
        4 => {
            n.input.pop();
        }
        5 => n.domain = ["", "ai.onnx", "com.microsoft", "local"][random.below(4)].to_owned(),
        6 if !n.attribute.is_empty() => {
            let at = random.below(n.attribute.len());
            n.attribute.remove(at);
        }
        _ => {
            let at = random.below(n.attribute.len());
            if let Some(a) = n.attribute.get_mut(at) {
                damage_attribute(a, random);
            }
        }
    }
}

fn damage_info(v: &mut ValueInfoProto, random: &mut Random) {
    if !v.type_.has_tensor_type() {
        return;
    }
    let tensor = v.type_.mut_or_insert_default().mut_tensor_type();
    let dims = &mut tensor.shape.mut_or_insert_default().dim;
    match random.below(5) {
        0 if !dims.is_empty() => {
            let at = random.below(dims.len());
            dims[at].set_dim_value(random.number());
        }
        1 => {
            dims.pop();
        }
        2 => dims.push(Default::default()),
        3 => tensor.elem_type = random.below(32) as i32,
        _ => tensor.shape = None.into(),
    }
}

fn damage_graph(g: &mut GraphProto, random: &mut Random) {
    let known = names(g);
    match random.below(12) {
        0..=3 if !g.node.is_empty() => {
            let at = random.below(g.node.len());
            damage_node(&mut g.node[at], &known, random);
        }
        4 | 5 if !g.initializer.is_empty() => {
            let at = random.below(g.initializer.len());
            damage_tensor(&mut g.initializer[at], random);
        }
        6 if !g.node.is_empty() => {
            let mut copy = g.node[random.below(g.node.len())].clone();
            copy.name.clear();
            for output in &mut copy.output {
                output.push_str("_again");
            }
            g.node.push(copy);
        }
        7 if !g.initializer.is_empty() => {
            let mut copy = g.initializer[random.below(g.initializer.len())].clone();
            copy.name = random.pick(&known).expect("not empty");
            g.initializer.push(copy);
        }
        8 if !g.initializer.is_empty() => {
            let at = random.below(g.initializer.len());
            g.initializer.remove(at);
        }
        9 => {
            let mut info = ValueInfoProto::new();
            info.name = random.pick(&known).expect("not empty");
            match random.below(3) {
                0 => g.input.push(info),
                1 => g.output.push(info),
                _ => g.value_info.push(info),
            }
        }
        _ => {
            let infos = [&mut g.input, &mut g.output, &mut g.value_info];
            let mut infos: Vec<_> = infos.into_iter().flatten().collect();
            let at = random.below(infos.len());
            if let Some(v) = infos.get_mut(at) {
                damage_info(v, random);
            }
        }
    }
}

fn damage_model(m: &mut ModelProto, random: &mut Random) {
    for _ in 0..=random.below(3) {
        match random.below(10) {
            0 => m.ir_version = random.below(15) as i64,
            1 => {
                let at = random.below(m.opset_import.len());
                if let Some(o) = m.opset_import.get_mut(at) {
                    o.version = [random.number(), random.below(26) as i64][random.below(2)];
                }
            }
            2 if !m.functions.is_empty() => {
                let nodes = &mut m.functions[0].node;
                let known: Vec<String> = nodes.iter().flat_map(|n| n.output.clone()).collect();
                let at = random.below(nodes.len());
                if let Some(n) = nodes.get_mut(at) {
                    damage_node(n, &known, random);
                }
            }
            _ => damage_graph(m.graph.mut_or_insert_default(), random),
        }
    }
}

/// The whole way of a file; how far it came.
fn compile(path: &Path, out: &Path, random: &mut Random) -> &'static str {
    let Ok(opened) = onnx::open(path, OpenOptions::default()) else {
        return "refused";
    };
    // These two take models that are not valid, too.
    if let Ok(inspection) = inspect(&opened, false) {
        let _ = inspection.to_string();
    }
    let mut model = opened.model;
    let difference = diff(&model, &model).unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(difference.same, "{difference}");
    if verify(&model).is_err() {
        return "invalid";
    }
    text::print(&model, &PrintOptions::default());
    let pipeline = random.pick(&PIPELINES).expect("not empty");
    let pipeline = Pipeline::parse(pipeline, REGISTRY).unwrap();
    let mut manager = PassManager::default();
    manager.instruments.verify_each = true;
    if let Err(e) = manager.run(&pipeline, &mut model) {
        let e = e.chain();
        let ours = ["left an invalid model", "changed nothing"];
        // Operands that do not fit may show only once a call or a node between is gone.
        let shown = e.contains("(contract)") && e.contains("pass `inline-functions`");
        assert!(shown || !ours.iter().any(|o| e.contains(o)), "{e}");
        return "declined";
    }
    match write(&model, out, random) {
        true => "written",
        false => "not written",
    }
}

fn write(model: &Model, out: &Path, random: &mut Random) -> bool {
    let options = SaveOptions {
        storage: [ExternalData::Auto, ExternalData::Always][random.below(2)].into(),
        ..SaveOptions::default()
    };
    if onnx::save(model, out, &options).is_err() {
        return false;
    }
    let again = onnxq::open(out).expect("what was written can be read");
    verify(&again).expect("what was written is valid");
    true
}

#[test]
fn damaged_models_are_refused_or_compiled() {
    let times: u64 = std::env::var("ONNXQ_FUZZ").map_or(1, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (
        folder.path().join("in.onnx"),
        folder.path().join("out.onnx"),
    );
    let models = MODELS.map(|source| {
        let model = text::parse(source).unwrap_or_else(|e| panic!("{}", e.chain()));
        verify(&model).unwrap();
        onnx::save(&model, &path, &SaveOptions::default()).unwrap();
        fs::read(&path).unwrap()
    });
    let mut ends = std::collections::BTreeMap::<&str, usize>::new();
    for seed in 0..times * 4000 {
        let mut random = Random(seed);
        let mut bytes = models[random.below(models.len())].clone();
        if random.below(4) == 0 {
            damage_bytes(&mut bytes, &mut random);
        } else {
            let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
            damage_model(&mut model, &mut random);
            bytes = model.write_to_bytes().unwrap();
        }
        fs::write(&path, &bytes).unwrap();
        let end = catch_unwind(AssertUnwindSafe(|| compile(&path, &out, &mut random)));
        *ends
            .entry(end.unwrap_or_else(|_| panic!("seed {seed}")))
            .or_default() += 1;
    }
    // Otherwise this would test nothing.
    for end in ["refused", "invalid", "written"] {
        assert!(ends.get(end).is_some_and(|n| *n > 100), "{ends:?}");
    }
}
