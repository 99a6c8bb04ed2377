//! What half precision cannot hold is measured once.

use std::fs;

use super::*;

fn model(factor: &str) -> Model {
    parse(&format!(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[N] x) => (float[N] y) <float[1] k = {{{factor}}}> {{
            a = Mul (x, k)
            y = Sqrt (a)
        }}"
    ))
}

fn sets(x: f32) -> [Vec<Named>; 1] {
    [named(&[("x", Array::new(vec![2], vec![1.0f32, x]))])]
}

#[test]
fn a_second_run_takes_what_the_first_has_kept() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    let run = |model: &Model, sets: &[Vec<Named>], load| {
        let items = Items::Tensors { sets, source: "" };
        let found = beyond_half(&Rten::new(), model, items, load, Some(&work)).unwrap();
        (found.values, found.kept.is_some())
    };
    let (model, large) = (model("1000000"), self::model("2000000"));
    let found = |most: f64| vec![("a".to_owned(), most)];
    assert_eq!(run(&model, &sets(3.0), load()), (found(3e6), false));
    assert_eq!(run(&model, &sets(3.0), load()), (found(3e6), true));
    // Whatever it follows from: data, model, and how the engine runs it.
    assert_eq!(run(&model, &sets(4.0), load()), (found(4e6), false));
    assert_eq!(run(&large, &sets(3.0), load()), (found(6e6), false));
    let optimized = LoadOptions {
        optimize: true,
        ..load()
    };
    assert_eq!(run(&model, &sets(3.0), optimized), (found(3e6), false));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 4);
    assert_eq!(run(&model, &sets(3.0), load()), (found(3e6), true));
}

#[test]
fn a_file_of_something_else_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let items = Items::Tensors {
            sets: &sets(3.0),
            source: "",
        };
        let found = beyond_half(
            &Rten::new(),
            &model("1e6"),
            items,
            load(),
            Some(folder.path()),
        );
        let found = found.unwrap();
        assert_eq!(found.values, [("a".to_owned(), 3e6)]);
        found.kept
    };
    assert_eq!(run(), None);
    let path = run().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let other_model = text.replacen("\"model\": \"", "\"model\": \"0", 1);
    let older = text.replacen("\"format\": 1", "\"format\": 0", 1);
    for wrong in [&text[..text.len() / 2], &other_model, &older] {
        assert_ne!(wrong, text);
        fs::write(&path, wrong).unwrap();
        assert_eq!(run(), None);
        assert_eq!(run().as_deref(), Some(&*path));
    }
}
