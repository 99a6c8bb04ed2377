//! The baseline that a float model is in half precision, made in memory.

use std::path::Path;

use onnxq::{
    Error, Result,
    eval::{OpenSubject, Subject},
    ir::Model,
    onnx::{self, ExternalData},
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
};

/// Operators that only quantized models have.
const QUANTIZED: [&str; 9] = [
    "MatMulNBits",
    "GatherBlockQuantized",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "DynamicQuantizeMatMul",
];

/// A model in half precision.
pub(crate) struct Half {
    name: String,
    model: Model,
    bytes: u64,
    sha256: String,
}

impl Half {
    /// `source` in half precision: weights and arithmetic; inputs and outputs keep their types.
    ///
    /// # Errors
    /// It is quantized already, so that it is no baseline.
    pub(crate) fn of(source: &OpenSubject) -> Result<Half> {
        let subject = source.subject();
        let graphs = source.model().reachable_graphs().into_iter();
        let nodes = graphs.flat_map(|g| &source.model().graphs[g].nodes);
        let mut ops = nodes.map(|&n| &*source.model().nodes[n].op_type);
        if let Some(op) = ops.find(|op| QUANTIZED.contains(op)) {
            return Err(Error::input(format!(
                "--baseline fp16: it is made from the first model, and `{}` is quantized (it has \
                 {op}); expected a float model",
                subject.name
            )));
        }
        let mut model = source.model().clone();
        let pipeline = Pipeline::parse("fp16", REGISTRY)?;
        PassManager::default().run(&pipeline, &mut model)?;
        let saved = onnx::estimate(&model, Path::new("fp16.onnx"), ExternalData::Auto.into())?;
        Ok(Half {
            name: format!("{} in fp16", subject.name),
            bytes: saved.bytes(),
            model,
            sha256: format!("{}+fp16", subject.sha256),
        })
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            name: self.name.clone(),
            model: &self.model,
            path: None,
            bytes: self.bytes,
            sha256: self.sha256.clone(),
        }
    }
}
