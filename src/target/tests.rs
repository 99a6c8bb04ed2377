//! Names and versions, verdicts over several targets, and the table itself.

use super::{
    table::{Scope, table},
    *,
};
use crate::{
    infer,
    ir::DataType::{Bfloat16, Float, Float16, Int8, Uint4, Uint8},
    schema,
};

fn targets(text: &str) -> Targets {
    Targets::parse([text]).unwrap_or_else(|e| panic!("{}", e.chain()))
}

fn error(text: &str) -> String {
    match Targets::parse([text]) {
        Ok(found) => panic!("{text}: read as {found}"),
        Err(e) => e.chain(),
    }
}

#[test]
fn names_and_versions() {
    for (text, expected) in [
        ("onnxruntime@1.20", "onnxruntime@1.20"),
        ("ort@1.20.1", "onnxruntime@1.20"),
        ("onnxruntime", "onnxruntime@1.31"),
        ("webgpu", "onnxruntime-webgpu@1.31"),
        ("transformers.js", "onnxruntime-web-asyncify@1.26"),
        ("transformers.js@4.2", "onnxruntime-web-asyncify@1.26"),
        ("rten, tract,rten", "rten@0.27, tract@0.23"),
    ] {
        assert_eq!(targets(text).to_string(), expected, "{text}");
    }
    assert!(error("onnx").starts_with("unknown target `onnx`; known are onnxruntime (ort, cpu), "));
    assert!(error("webgpu@1.17").contains("unknown version `1.17` of onnxruntime-webgpu"));
    for text in [
        "ort@",
        "ort@1",
        "ort@1.20.x",
        "ort@1.20.1.1",
        "ort@1.99",
        "ort@-1.20",
    ] {
        assert!(error(text).contains("1.17, 1.18"), "{text}");
    }
    assert!(Targets::parse([]).expect("none is fine").is_empty());
}

#[test]
fn versions_are_ordered_by_number() {
    let version = |text: &str| Version::parse(text).expect("a version");
    assert!(version("1.9") < version("1.20"));
    assert!(version("0.27") < version("1.17"));
}

#[test]
fn the_worst_of_all_targets_counts() {
    let eight = Form::matmul_nbits(8, 32, Float, ZeroPoints::Absent, 4);
    assert_eq!(targets("ort@1.23").verdict(&eight), Verdict::Runs);
    let both = targets("ort@1.31,ort@1.21,ort@1.22").verdict(&eight);
    let because = both.because().expect("refused");
    assert_eq!(because.target.to_string(), "onnxruntime@1.21");
    assert_eq!(because.found, "`bits` 8");
    assert!(!both.may_emit());
    assert_eq!(Targets::default().verdict(&eight), Verdict::Runs);
}

#[test]
fn a_slow_form_may_be_emitted_and_an_unknown_one_not() {
    let slow = Form::matmul_nbits(8, 32, Float, ZeroPoints::Absent, 0);
    let verdict = targets("ort").verdict(&slow);
    assert!(matches!(verdict, Verdict::Slow(_)) && verdict.may_emit());
    let unknown = targets("rten").verdict(&Form::operator("", "Relu").opset(13));
    assert!(matches!(unknown, Verdict::Unknown(_)) && !unknown.may_emit());
}

#[test]
fn what_a_form_does_not_say_is_not_claimed() {
    // Without an opset, the kernels of any version may be meant.
    let form = Form::operator("", "ConvInteger").types(&[Uint8, Uint8]);
    let verdict = targets("ort@1.20").verdict(&form);
    assert!(matches!(verdict, Verdict::Unknown(_)));
    assert_eq!(targets("ort@1.20").verdict(&form.opset(17)), Verdict::Runs);
}

#[test]
fn an_odd_number_of_blocks() {
    let form = |data, blocks| Form::gather_block_quantized(data, 4, 32, Float, true, blocks);
    let at = targets("ort@1.26");
    assert!(matches!(at.verdict(&form(Uint8, 3)), Verdict::Wrong(_)));
    assert_eq!(at.verdict(&form(Uint8, 4)), Verdict::Runs);
    assert_eq!(at.verdict(&form(Uint4, 3)), Verdict::Runs);
    assert_eq!(targets("ort@1.27").verdict(&form(Uint8, 3)), Verdict::Runs);
}

#[test]
fn a_device_leaves_to_the_cpu_what_it_does_not_have() {
    let conv = |w| {
        Form::operator("", "ConvInteger")
            .opset(17)
            .types(&[Uint8, w])
    };
    let webgpu = targets("webgpu");
    assert!(matches!(webgpu.verdict(&conv(Int8)), Verdict::Slow(_)));
    let each = conv(Int8)
        .ty("w_zero_point", Int8)
        .int("w_zero_point.elements", 8);
    assert!(matches!(webgpu.verdict(&each), Verdict::Refused(_)));
    // What another device has a kernel for is not known when the CPU has none.
    let add = Form::operator("", "Add")
        .opset(17)
        .types(&[Bfloat16, Bfloat16]);
    assert!(matches!(targets("cuda").verdict(&add), Verdict::Unknown(_)));
    assert!(matches!(targets("ort").verdict(&add), Verdict::Refused(_)));
}

#[test]
fn types_that_an_operator_does_not_take() {
    let quantize = |t| {
        Form::operator("", "DynamicQuantizeLinear")
            .opset(17)
            .types(&[t])
    };
    assert_eq!(targets("ort").verdict(&quantize(Float)), Verdict::Runs);
    assert!(matches!(
        targets("ort").verdict(&quantize(Float16)),
        Verdict::Refused(_)
    ));
    let mixed = Form::operator("", "MatMul")
        .opset(17)
        .types(&[Float, Float16]);
    assert!(matches!(
        targets("ort").verdict(&mixed),
        Verdict::Refused(_)
    ));
}

#[test]
fn limits_are_the_least_of_all_targets() {
    assert_eq!(targets("ort@1.20,ort@1.31").max_opset(), Some(21));
    assert_eq!(targets("ort@1.20,ort@1.31").max_ir(), Some(10));
    assert_eq!(targets("rten").max_opset(), None);
    for runtime in Runtime::all().filter(|r| r.is_onnxruntime()) {
        for version in runtime.versions() {
            let target = Target { runtime, version };
            assert!(target.newest_formats().is_some(), "{target}");
        }
    }
}

#[test]
fn a_model_node_by_node() {
    let model = crate::text::parse(
        "<ir_version: 10, opset_import: [\"\" : 22, \"local\" : 1]>
        g (uint8[1,2,5,5] x, float[3] f) => (y, z, u) <int8[4,2,3,3] w = {ramp(1)}> {
            [first] y = ConvInteger (x, w)
            [second] z = ConvInteger (x, w)
            u = local.Double (f)
        }
        <domain: \"local\", opset_import: [\"\" : 22]>
        Double (a) => (b) { b = Add (a, a) }",
    )
    .unwrap_or_else(|e| panic!("{}", e.chain()));
    let found = check(&model, &infer::facts(&model), &targets("ort@1.20,ort@1.24"));
    let places: Vec<(String, &str)> = found
        .findings
        .iter()
        .map(|f| (f.because.target.version.to_string(), &*f.location))
        .collect();
    let at = |version: &str, place| (version.to_owned(), place);
    assert_eq!(
        places,
        [
            at("1.20", ""),
            at("1.20", "node `first`"),
            at("1.20", "node `second`")
        ]
    );
    assert_eq!(found.findings[0].because.found, "opset 22");
    assert_eq!(found.worst(), Effect::Refused);
}

#[test]
fn every_row_has_a_source_and_can_be_reached() {
    for row in &table().rows {
        let name = format!("{} {}: {}", row.scope(), row.operator(), row.condition);
        let mut all = Runtime::all().flat_map(|runtime| {
            let versions = runtime.versions();
            versions.map(move |version| Target { runtime, version })
        });
        assert!(all.any(|target| row.is_about(target)), "{name}");
        assert!(!row.source.is_empty(), "{name}");
        let says = !row.reason.is_empty() || row.effect == Effect::Runs;
        assert!(says, "{name}: no reason");
        let versions = schema::versions(row.domain, row.op_type);
        assert!(!versions.is_empty(), "{name}: no such operator");
        for facet in row.facets() {
            let (base, derived) = facet.split_once('.').unwrap_or((facet, ""));
            let known = versions.iter().any(|v| {
                let params = v.inputs.iter().chain(&v.outputs);
                v.attribute(base).is_some() || params.into_iter().any(|p| p.name == base)
            });
            let own = ["blocks", "k_rest", "padded", "rotated"].contains(&base);
            assert!(known || own, "{name}: no facet `{facet}`");
            let derived_known = ["", "rank", "elements", "last", "differs", "value"];
            assert!(
                derived_known.contains(&derived),
                "{name}: no facet `{facet}`"
            );
        }
    }
}

#[test]
fn no_row_is_there_twice() {
    let key = |r: &Row| {
        let scope = match r.scope {
            Scope::Only(runtime) => runtime.name(),
            other => other.name(),
        };
        (scope, r.versions(), r.operator(), r.condition)
    };
    let mut keys: Vec<_> = rows().iter().map(key).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
}
