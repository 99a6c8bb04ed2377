//! The same model, pipeline and version give the same bytes on any number of threads.

use std::{fs, path::Path};

use onnxq::{
    onnx::{self, ExternalData, SaveOptions},
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
};

#[test]
fn one_two_and_sixteen_threads_write_the_same_bytes() {
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tinylm/model.onnx");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.onnx");
    for (text, external_data) in [
        ("clean,nbits", ExternalData::Auto),
        (
            "clean,nbits{asymmetric=true,block=32,tie=alias}",
            ExternalData::Always,
        ),
        ("clean,nbits{bits=8,block=64}", ExternalData::Auto),
        ("(identity,cse,dce)*,share-weights", ExternalData::Auto),
    ] {
        let written: Vec<Vec<u8>> = [1, 2, 16]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    let pipeline = Pipeline::parse(text, REGISTRY).unwrap();
                    let mut model = onnxq::open(&input).unwrap();
                    PassManager::default().run(&pipeline, &mut model).unwrap();
                    let options = SaveOptions {
                        storage: external_data.into(),
                        ..SaveOptions::default()
                    };
                    let saved = onnx::save(&model, &output, &options).unwrap();
                    saved
                        .files
                        .iter()
                        .flat_map(|(f, _)| fs::read(f).unwrap())
                        .collect()
                })
            })
            .collect();
        assert!(
            written[0] == written[1] && written[0] == written[2],
            "{text}"
        );
    }
}
