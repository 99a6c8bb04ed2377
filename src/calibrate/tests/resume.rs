//! Folders: going on after an interruption, and refusing what does not fit.

use std::{fs, path::Path, sync::atomic::AtomicBool};

use super::*;

/// A table that is tied, one that is not, a chain, and a value that is no tensor at a cut.
fn model() -> Model {
    parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (int64[N] i) => (float[N,6] y)
          <float[6,4] E = {ramp(1)}, float[4,4] A = {ramp(2)}, float[4,4] B = {ramp(3)}, float[6,4] P = {ramp(4)}> {
            e = Gather (E, i)
            p = Gather (P, i)
            n = Tanh (e)
            a = MatMul (n, A)
            b = Add (a, p)
            pair = SequenceConstruct (b, e)
            c = Tanh (b)
            d = MatMul (c, B)
            one = Constant <value = int64 {1}> ()
            s = SequenceAt (pair, one)
            h = Add (d, s)
            T = Transpose (E)
            y = MatMul (h, T)
        }",
    )
}

fn sets() -> Vec<Vec<Named>> {
    let set = |seed: usize| {
        let ids = (0..4).map(|i| ((i * 5 + seed) % 6) as i64).collect();
        named(&[("i", Array::new(vec![4], ids))])
    };
    (0..3).map(set).collect()
}

/// Runs in `folder`, killed after so many calls of the visitor.
fn run_in(
    folder: &Path,
    float_rows: bool,
    calls: Option<usize>,
) -> Result<Shown, Box<(Collect, Error)>> {
    let options = Options {
        folder: Some(folder),
        float_rows,
        ..Options::default()
    };
    let seen = Collect {
        new: Some(New::Perturbed),
        calls_left: calls,
        ..Collect::default()
    };
    run_with(&model(), &sets(), seen, options)
}

/// What a finished run leaves: the names of its files and what they hold.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    files.push((name, fs::read(&path).unwrap()));
                }
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_run_that_is_killed_anywhere_goes_on() {
    for float_rows in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let whole = run_in(folder.path(), float_rows, None).ok().unwrap();
        let expected = content(folder.path());
        let names: Vec<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(
            names,
            ["groups/0", "groups/1", "groups/2", "groups/3", "run.json"]
        );
        for calls in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let Err(stopped) = run_in(folder.path(), float_rows, Some(calls)) else {
                assert!(calls > 10);
                break;
            };
            let (seen, error) = *stopped;
            assert!(error.chain().ends_with("killed"), "{}", error.chain());
            // Twice, the second time a little later.
            let _ = run_in(folder.path(), float_rows, Some(2));
            let rest = run_in(folder.path(), float_rows, None);
            let rest = rest.unwrap_or_else(|e| panic!("{calls}: {}", e.1.chain()));
            assert_eq!(rest.seen.rows, whole.seen.rows, "{calls}");
            assert_eq!(rest.seen.order, whole.seen.order);
            assert_eq!(content(folder.path()), expected, "{calls}");
            let first = rest.seen.steps.first().map_or(0, |s| s.0);
            assert!(seen.order.len() < 4 || first > 1, "{calls}: {first}");
        }
    }
}

#[test]
fn a_finished_run_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run_in(folder.path(), false, None).ok().unwrap();
    let again = run_in(folder.path(), false, Some(0)).ok().unwrap();
    assert_eq!(again.seen.rows, whole.seen.rows);
    assert!(again.seen.steps.is_empty());
}

fn refusal(folder: &Path, model: &Model, sets: &[Vec<Named>], key: &str) -> String {
    let options = Options {
        folder: Some(folder),
        key,
        ..Options::default()
    };
    let error = run(model, sets, New::None, options).err();
    error.expect("the folder is refused").chain()
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        folder: Some(folder.path()),
        key: "gptq",
        ..Options::default()
    };
    run(&model(), &sets(), New::None, options).ok().unwrap();
    run(&model(), &sets(), New::None, options).ok().unwrap();
    let path = folder.path();
    let message = refusal(path, &perturb(&model()), &sets(), "gptq");
    assert!(message.contains("differs in the model ("), "{message}");
    assert!(!message.contains("the options"), "{message}");
    let message = refusal(path, &model(), &sets()[1..], "gptq");
    assert!(
        message.contains("differs in what the model is fed"),
        "{message}"
    );
    let message = refusal(path, &model(), &sets(), "awq");
    assert!(message.contains("the options (gptq; "), "{message}");
    assert!(message.contains("now awq; "), "{message}");
}

#[test]
fn a_folder_that_holds_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let message = refusal(folder.path(), &model(), &sets(), "");
    assert!(
        message.contains("neither empty nor the folder of"),
        "{message}"
    );
    assert_eq!(content(folder.path()).len(), 1);
    let file = folder.path().join("notes.txt");
    assert!(refusal(&file, &model(), &sets(), "").contains("notes.txt"));
    for text in ["", "{}", "{\"format\": 1}"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.json"), text).unwrap();
        let message = refusal(folder.path(), &model(), &sets(), "");
        assert!(
            message.contains("does not describe a calibration run"),
            "{message}"
        );
    }
}

#[test]
fn a_temporary_folder_goes() {
    let (model, sets) = (model(), sets());
    let items = Items::Tensors {
        sets: &sets,
        source: "",
    };
    let engine = Rten::new();
    let sites = Sites::of(&model).unwrap().sites;
    let mut sequence = Sequence::new(&engine, &model, sites, items, Options::default()).unwrap();
    let values = sequence.folder.values();
    assert!(values.is_dir());
    let mut seen = Collect {
        weights: vec![Vec::new(); 4],
        ..Collect::default()
    };
    // The visitor forgets the weights: an error, which leaves nothing either.
    let error = sequence.run(&mut seen).unwrap_err().chain();
    assert!(
        error.contains("new elements of 0 weights, expected 1"),
        "{error}"
    );
    drop(sequence);
    assert!(!values.parent().unwrap().exists());
}

#[test]
fn a_run_can_be_cancelled() {
    let cancel = AtomicBool::new(true);
    let options = Options {
        cancel: Some(&cancel),
        ..Options::default()
    };
    let error = run(&model(), &sets(), New::None, options).err().unwrap();
    assert_eq!(error.kind(), crate::ErrorKind::Cancelled);
}
