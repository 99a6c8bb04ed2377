//! What segments look like, and what cannot be run.

use std::{fs, path::Path};

use super::*;
use crate::{
    calibrate::{
        flow::Flow,
        plan::segments,
        segment::{Replaced, base, extract},
    },
    ir::{Data, DataType},
};

/// Every segment of every model of the file tests is a valid model.
#[test]
fn segments_of_all_models_are_valid() {
    let mut checked = 0;
    for pass in fs::read_dir("testdata/filetests").unwrap() {
        for file in fs::read_dir(pass.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let input = text.split("\n----").next().unwrap();
            let Ok(model) = text::parse(input) else {
                continue;
            };
            if verify::verify(&model).is_ok() {
                checked += check_segments(&model, &path);
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

fn check_segments(model: &Model, path: &Path) -> usize {
    let flow = Flow::of(model, |_| false).unwrap();
    let sites = Sites::of(model).unwrap().sites;
    // In place of all weights at once; of no content, since nothing is run.
    let operand = |site: &Site| {
        let weight = &site.matrix.weight;
        let bytes = vec![0; (site.matrix.n * site.matrix.k * weight.dtype.bits() / 8) as usize];
        let dims = weight.dims.iter().map(|&d| d as i64).collect();
        let tensor = Tensor::new(weight.dtype, dims, Data::Bytes(bytes.into()));
        (site.node, (site.slot, tensor))
    };
    let replaced: Replaced = sites.iter().map(operand).collect();
    let mut targets: Vec<Vec<ValueId>> = Vec::new();
    // Every value that can be one, not only activations.
    for &node in &model.graphs[model.main].nodes {
        let outputs = model.nodes[node].outputs.iter().flatten();
        targets.extend(outputs.filter(|&&v| flow.varies(v)).map(|&v| vec![v]));
    }
    let base = base(&flow);
    let segments = segments(&flow, &targets);
    let mut stored = std::collections::BTreeSet::new();
    for segment in &segments {
        assert!(
            segment.reads.iter().all(|v| stored.contains(v)),
            "{}",
            path.display()
        );
        stored.extend(segment.keeps.iter().copied());
        segment.frees.iter().for_each(|v| assert!(stored.remove(v)));
        if segment.nodes.is_empty() {
            continue;
        }
        for replaced in [&Replaced::new(), &replaced] {
            // Engines tell what cannot be inferred.
            let unknown = |v| flow.facts.dtype(v).is_none();
            let stored = |v| unknown(v).then(|| (DataType::Float, Vec::new()));
            let extracted = extract(&flow, &base, segment, replaced, stored);
            if let Err(e) = verify::verify(&extracted) {
                let shown = text::print(&extracted, &Default::default());
                panic!("{}: {}\n{shown}", path.display(), Error::from(e).chain());
            }
        }
    }
    assert!(stored.is_empty(), "{}", path.display());
    segments.len()
}

#[test]
fn what_no_activation_depends_on_is_not_run() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,3] x, float[N,3] z) => (float[N,3] y, float[N,3] dead)
          <float[3,3] A = {ramp(1)}, float[3,3] B = {ramp(2)}> {
            a = MatMul (x, A)
            dead = Exp (z)
            b = Tanh (a)
            y = MatMul (b, B)
        }",
    );
    let flow = Flow::of(&model, |_| false).unwrap();
    let sites = Sites::of(&model).unwrap().sites;
    let targets: Vec<_> = sites
        .iter()
        .map(|s| vec![s.activation.unwrap().value])
        .collect();
    let segments = segments(&flow, &targets);
    let names = |values: &[ValueId]| -> Vec<String> {
        values
            .iter()
            .map(|&v| model.values[v].name.to_string())
            .collect()
    };
    assert!(segments[0].nodes.is_empty());
    assert_eq!(names(&segments[0].inputs), ["x"]);
    let ops: Vec<&str> = segments[1]
        .nodes
        .iter()
        .map(|&n| &*model.nodes[n].op_type)
        .collect();
    assert_eq!(ops, ["MatMul", "Tanh"]);
    assert!(segments[1].keeps.is_empty());
}

#[test]
fn activations_that_are_no_numbers_are_named() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N,2] x) => (float[N,2] y)
          <float[2,2] A = {1, 0, 0, 1}, float[2,2] B = {ramp(2)}> {
            a = MatMul (x, A)
            b = Log (a)
            y = MatMul (b, B)
        }",
    );
    let set = |x: [f32; 2]| named(&[("x", Array::new(vec![1, 2], x.to_vec()))]);
    let message = |bad: [f32; 2]| {
        let sets = [set([1.0, 2.0]), set(bad)];
        let error = run(&model, &sets, New::None, Options::default()).err();
        error.unwrap().chain()
    };
    let at = "activations `b`: item 1: ";
    assert_eq!(message([0.0, 1.0]), format!("{at}term 0 of row 0 is -inf"));
    assert_eq!(message([1.0, -1.0]), format!("{at}term 1 of row 0 is NaN"));
}

#[test]
fn tokens_that_masks_leave_out_are_not_shown() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask)
          => (float[batch,sequence,2] y)
          <float[5,2] E = {ramp(1)}, float[2,2] A = {ramp(2)}, float[2,2] B = {ramp(3)}> {
            e = Gather (E, input_ids)
            a = MatMul (e, A)
            b = Tanh (a)
            y = MatMul (b, B)
        }",
    );
    let ids = Array::new(vec![2, 2], vec![1i64, 2, 3, 4]);
    let mask = |m: &[i64]| Array::new(vec![2, 2], m.to_vec());
    let of = |m: &[i64]| {
        let set = named(&[("input_ids", ids.clone()), ("attention_mask", mask(m))]);
        let shown = run(&model, &[set], New::None, Options::default())
            .ok()
            .unwrap();
        assert_eq!(shown.seen.counts[&1], m.iter().sum::<i64>() as u64);
        shown.seen.rows
    };
    let (all, some) = (of(&[1, 1, 1, 1]), of(&[1, 0, 1, 1]));
    for group in [1, 2] {
        let rows: Vec<&[f32]> = all[&group].chunks(2).collect();
        assert_eq!(some[&group], [rows[0], rows[2], rows[3]].concat());
    }
}

#[test]
fn texts_are_fed_window_by_window() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (int64[batch,sequence] input_ids) => (float[batch,sequence,2] y)
          <float[5,2] E = {ramp(1)}, float[2,2] A = {ramp(2)}> {
            e = Gather (E, input_ids)
            y = MatMul (e, A)
        }",
    );
    let tokens = crate::eval::Tokens::from_ids(vec![1, 2, 3, 4, 0, 1, 2]);
    let items = Items::Texts {
        tokens: &tokens,
        window: 3,
        given: &[],
    };
    let engine = Rten::new();
    let sites = Sites::of(&model).unwrap().sites;
    let mut sequence = Sequence::new(&engine, &model, sites, items, Options::default()).unwrap();
    let mut seen = Collect {
        weights: sequence
            .groups()
            .iter()
            .map(|g| g.weights.iter().map(|w| w.matrix.clone()).collect())
            .collect(),
        ..Collect::default()
    };
    sequence.run(&mut seen).unwrap();
    // Two whole windows; the table has no activations.
    assert_eq!(seen.counts, BTreeMap::from([(0, 0), (1, 6)]));
}

#[test]
fn sites_of_bodies_are_refused() {
    let model = parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[2,2] x, bool c) => (float[2,2] y) <float[2,2] A = {ramp(1)}> {
            y = If (c) <
              then_branch = then () => (float[2,2] t) { t = MatMul (x, A) },
              else_branch = else () => (float[2,2] e) { e = Identity (x) }
            >
        }",
    );
    let inner = Sites::of(&model).unwrap().unreached[0];
    let site = Site::of(&model, inner).unwrap().unwrap();
    let flow = Flow::of(&model, |_| false).unwrap();
    assert!(group::groups(&flow, vec![site]).is_err());
    let twice = Sites::of(&models_chain()).unwrap().sites;
    let chain = models_chain();
    let flow = Flow::of(&chain, |_| false).unwrap();
    assert!(group::groups(&flow, [twice.clone(), twice].concat()).is_err());
}

fn models_chain() -> Model {
    parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[2,2] x) => (float[2,2] y) <float[2,2] A = {ramp(1)}> { y = MatMul (x, A) }",
    )
}
