//! Reading and writing a model, judged by an independent decoder and byte by byte.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use onnx_protobuf::{Message, ModelProto};
use onnxq::{
    ErrorKind,
    onnx::{self, ExternalData, SaveOptions, side_file_name},
};

fn tinylm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tinylm/model.onnx")
}

fn parse(path: &Path) -> ModelProto {
    ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap()
}

fn save(from: &Path, to: &Path, external_data: ExternalData) {
    let model = onnxq::open(from).unwrap();
    let options = SaveOptions {
        storage: external_data.into(),
        ..SaveOptions::default()
    };
    onnx::save(&model, to, &options).unwrap();
}

#[test]
fn an_unchanged_model_is_written_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.onnx");
    save(&tinylm(), &copy, ExternalData::Auto);
    assert!(fs::read(tinylm()).unwrap() == fs::read(&copy).unwrap());
    assert!(parse(&tinylm()) == parse(&copy));
}

#[test]
fn a_side_file_and_back_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let (side, back) = (
        folder.path().join("side.onnx"),
        folder.path().join("back.onnx"),
    );
    save(&tinylm(), &side, ExternalData::Always);
    let data = folder.path().join(side_file_name(&side, 0));
    assert_eq!(data.file_name().unwrap(), "side.onnx_data");
    assert!(fs::metadata(&data).unwrap().len() > 3_000_000);
    assert!(fs::metadata(&side).unwrap().len() < 300_000);
    save(&side, &back, ExternalData::Never);
    assert!(fs::read(tinylm()).unwrap() == fs::read(&back).unwrap());
}

#[test]
fn every_weight_in_a_side_file_is_where_the_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let side = folder.path().join("side.onnx");
    save(&tinylm(), &side, ExternalData::Always);
    let data = fs::read(folder.path().join(side_file_name(&side, 0))).unwrap();
    let original = parse(&tinylm());
    let mut external = 0;
    for tensor in &parse(&side).graph.initializer {
        let source = original
            .graph
            .initializer
            .iter()
            .find(|t| t.name == tensor.name)
            .unwrap();
        if tensor.external_data.is_empty() {
            assert_eq!(tensor.raw_data, source.raw_data);
            continue;
        }
        external += 1;
        let get = |key: &str| {
            let entry = tensor.external_data.iter().find(|e| e.key == key).unwrap();
            entry.value.clone()
        };
        assert_eq!(get("location"), "side.onnx_data");
        let (offset, length): (usize, usize) = (
            get("offset").parse().unwrap(),
            get("length").parse().unwrap(),
        );
        assert!(data[offset..offset + length] == source.raw_data);
        // Large weights begin at a page, so that runtimes can map them.
        assert_eq!(offset % if length >= 64 << 10 { 4096 } else { 64 }, 0);
    }
    assert!(external > 20, "{external}");
}

#[test]
fn a_model_can_be_written_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::copy(tinylm(), &path).unwrap();
    save(&path, &path, ExternalData::Auto);
    assert!(fs::read(tinylm()).unwrap() == fs::read(&path).unwrap());
    save(&path, &path, ExternalData::Always);
    save(&path, &path, ExternalData::Always);
    save(&path, &path, ExternalData::Never);
    assert!(fs::read(tinylm()).unwrap() == fs::read(&path).unwrap());
}

#[test]
fn a_cancelled_run_leaves_the_old_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, "old").unwrap();
    let cancel = AtomicBool::new(true);
    let options = SaveOptions {
        cancel: Some(&cancel),
        ..SaveOptions::default()
    };
    let error = onnx::save(&onnxq::open(&tinylm()).unwrap(), &path, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_estimate_is_what_gets_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = onnxq::open(&tinylm()).unwrap();
    for external_data in [ExternalData::Auto, ExternalData::Always] {
        let options = SaveOptions {
            storage: external_data.into(),
            ..SaveOptions::default()
        };
        let estimate = onnx::estimate(&model, &path, external_data.into()).unwrap();
        let saved = onnx::save(&model, &path, &options).unwrap();
        assert_eq!(estimate, saved);
        for (file, len) in &saved.files {
            assert_eq!(fs::metadata(file).unwrap().len(), *len);
        }
    }
}
