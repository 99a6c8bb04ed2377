//! What a model says of what made it, in its metadata.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    digest::sha256_data,
    ir::{Model, Property, SourceFile},
};

const VERSION: &str = "onnxq.version";
const PIPELINE: &str = "onnxq.pipeline";
const SOURCE_SHA256: &str = "onnxq.source_sha256";

/// What made a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// The version of onnxq.
    pub version: String,
    /// The passes that ran.
    pub pipeline: String,
    /// SHA-256 of the file that it was made from, in lower-case hexadecimal, where that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_sha256: Option<String>,
}

/// What is known of the file that a model is made from.
pub enum Origin<'a> {
    /// Nothing that is to be recorded.
    Unrecorded,
    /// Its SHA-256.
    Sha256(&'a str),
    /// The file; its SHA-256 is computed while the model is written.
    File(Arc<SourceFile>),
}

impl Provenance {
    /// What `model` says, if it does.
    pub fn of(model: &Model) -> Option<Provenance> {
        let find = |key| {
            let property = model
                .metadata
                .iter()
                .find(|p| p.key.as_deref() == Some(key));
            property?.value.as_deref().map(str::to_owned)
        };
        Some(Provenance {
            version: find(VERSION)?,
            pipeline: find(PIPELINE)?,
            source_sha256: find(SOURCE_SHA256),
        })
    }

    /// Records in `model` that this version of onnxq made it with `pipeline`, in the place of what it says so far.
    pub fn record(model: &mut Model, pipeline: &str, origin: Origin<'_>) {
        let keys = [VERSION, PIPELINE, SOURCE_SHA256].map(Some);
        model.metadata.retain(|p| !keys.contains(&p.key.as_deref()));
        let version = env!("CARGO_PKG_VERSION");
        let facts = [(VERSION, version), (PIPELINE, pipeline)];
        model
            .metadata
            .extend(facts.map(|(key, value)| Property::new(key, value)));
        match origin {
            Origin::Unrecorded => {}
            Origin::Sha256(sha) => model.metadata.push(Property::new(SOURCE_SHA256, sha)),
            Origin::File(file) => model
                .computed_metadata
                .push((SOURCE_SHA256.into(), sha256_data(file))),
        }
    }
}
