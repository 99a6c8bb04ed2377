//! Which of the forms the named targets run. Without a target all do.
//!
//! What a target does not run, or runs slowly (on the CPU, beside a GPU), is decoded in front of the operator
//! as it was, or gathered from rows: `Cast`, `Mul` and `Gather` are everywhere.

use super::Int8;
use crate::{
    ir::{DataType, NodeId},
    pass::Look,
    quant::ChannelSpec,
    target::{Form, Verdict},
};

const CONTRIB: &str = "com.microsoft";

/// The type of codes.
fn codes(spec: ChannelSpec) -> DataType {
    match spec.signed {
        true => DataType::Int8,
        false => DataType::Uint8,
    }
}

impl Int8 {
    fn runs(&self, form: Form) -> bool {
        matches!(self.targets.verdict(&form), Verdict::Runs)
    }

    /// `op_type` of the standard on activations and codes of `spec`, after `DynamicQuantizeLinear`.
    pub(super) fn runs_integer(
        &self,
        look: Look<'_>,
        node: NodeId,
        op_type: &'static str,
        spec: ChannelSpec,
    ) -> bool {
        let opset = look.opset(node);
        let quantize = Form::operator("", "DynamicQuantizeLinear").types(&[DataType::Float]);
        let product = Form::operator("", op_type).types(&[DataType::Uint8, codes(spec)]);
        [quantize, product]
            .into_iter()
            .all(|form| self.runs(form.opset(opset)))
    }

    /// `DynamicQuantizeMatMul` with codes of `spec`.
    pub(super) fn runs_fused(&self, spec: ChannelSpec) -> bool {
        let types = [DataType::Float, codes(spec), DataType::Float];
        self.runs(Form::operator(CONTRIB, "DynamicQuantizeMatMul").types(&types))
    }

    /// `DynamicQuantizeLSTM` with codes of `spec`.
    pub(super) fn runs_lstm(&self, spec: ChannelSpec) -> bool {
        let types = [DataType::Float, codes(spec), codes(spec)];
        self.runs(Form::operator(CONTRIB, "DynamicQuantizeLSTM").types(&types))
    }

    /// `GatherBlockQuantized` with 8-bit codes, one block a row.
    pub(super) fn runs_gather_block(&self, block: i64) -> bool {
        let form =
            Form::gather_block_quantized(DataType::Uint8, 8, block, DataType::Float, false, 1);
        self.runs(form)
    }
}
