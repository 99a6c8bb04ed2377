//! Which form the targets run.

use super::{
    Nbits,
    plan::{Addend, Step, decline},
};
use crate::{
    ir::{DataType, NodeId, ValueId},
    pass::{Look, Reason},
    target::{Form, Verdict, ZeroPoints},
    weights::MatrixView,
};

/// The first opset with integers of two and four bits, and blocks.
const QDQ_OPSET: i64 = 21;
const QDQ_2_BITS_OPSET: i64 = 25;

/// The accuracy level of int8 activations.
const INT8: i64 = 4;

/// Before it, there is no Mod.
const SPELLED_OPSET: i64 = 10;

impl Nbits {
    /// The type of activations and scales: that of the weight. Half products with int8 activations
    /// are computed in float: releases of ONNX Runtime from 1.24 on give zeros, or fail, where they
    /// cast the half scales of such a product themselves.
    pub(super) fn compute_type(&self, matrix: &MatrixView) -> DataType {
        match matrix.compute_type() {
            DataType::Float16 if !self.qdq && self.accuracy_level == INT8 => DataType::Float,
            own => own,
        }
    }

    /// The opset that the codes need.
    pub(super) fn qdq_opset(&self) -> i64 {
        match self.bits {
            2 => QDQ_2_BITS_OPSET,
            _ => QDQ_OPSET,
        }
    }

    /// Declines a product that a target does not run, or gets wrong.
    pub(super) fn linear_runs(
        &self,
        look: Look<'_>,
        node: NodeId,
        matrix: &MatrixView,
        bias: bool,
    ) -> Step<()> {
        match self.qdq {
            true => self.decode_runs(look, node, matrix),
            false => self.runs(&self.product(matrix, self.zero_points(), bias), matrix),
        }
    }

    /// What a product becomes.
    fn product(&self, matrix: &MatrixView, zero_points: ZeroPoints, bias: bool) -> Form {
        let float = self.compute_type(matrix);
        let form = Form::matmul_nbits(
            i64::from(self.bits),
            self.block as i64,
            float,
            zero_points,
            self.accuracy_level,
        )
        .sizes(matrix.k as i64, matrix.n as i64);
        match bias {
            true => form.ty("bias", float),
            false => form,
        }
    }

    /// Declines a product with zero points that are floats where a target does not run it.
    pub(super) fn float_zero_points_run(&self, matrix: &MatrixView, addend: &Addend) -> Step<()> {
        let bias = matches!(addend, Addend::Bias(_) | Addend::Row(_));
        self.runs(&self.product(matrix, ZeroPoints::Floats, bias), matrix)
    }

    /// How a table is gathered: by `GatherBlockQuantized` (`None`), or by operators of the standard,
    /// for which the rank of the indices is needed.
    pub(super) fn gather_runs(
        &self,
        look: Look<'_>,
        node: NodeId,
        matrix: &MatrixView,
        indices: ValueId,
    ) -> Step<Option<usize>> {
        if self.qdq {
            return self.decode_runs(look, node, matrix).map(|()| None);
        }
        let blocks = matrix.k.div_ceil(self.block as u64);
        let zero_points = !self.symmetric && !self.reads_zero_points_wrongly(matrix.k);
        let form = Form::gather_block_quantized(
            DataType::Uint8,
            i64::from(self.bits),
            self.block as i64,
            self.compute_type(matrix),
            zero_points,
            blocks as i64,
        );
        let Err(refused) = self.runs(&form, matrix) else {
            return Ok(None);
        };
        let opset = look.opset(node);
        let whole = matrix.k.is_multiple_of(self.block as u64);
        match look.rank(indices) {
            Some(rank) if whole && opset >= SPELLED_OPSET => Ok(Some(rank)),
            _ => Err(refused),
        }
    }

    fn zero_points(&self) -> ZeroPoints {
        match self.symmetric {
            true => ZeroPoints::Absent,
            false => ZeroPoints::Codes,
        }
    }

    fn decode_runs(&self, look: Look<'_>, node: NodeId, matrix: &MatrixView) -> Step<()> {
        let opset = look.opset(node);
        let needed = self.qdq_opset();
        if opset < needed {
            let message = format!("the model has opset {opset}, and blocked codes need {needed}");
            return decline(Reason::Opset, message, matrix.weight.bytes());
        }
        if self.bits == 2 && !matrix.n.is_multiple_of(4) {
            let message = format!(
                "{} columns of 2 bits: ONNX Runtime makes nonsense of a number that is no multiple of 4",
                matrix.n
            );
            return decline(Reason::OddWidth, message, matrix.weight.bytes());
        }
        let home = look.model.home(matrix.weight.root);
        if self.compute_type(matrix) == DataType::Float16 && home != look.model.main {
            let message =
                "a half weight inside a body: ONNX Runtime from 1.27 on makes zeros of its codes";
            return decline(Reason::Target, message, matrix.weight.bytes());
        }
        let codes = super::qdq::code_type(self.bits, self.symmetric);
        let mut form = Form::operator("", "DequantizeLinear")
            .types(&[codes, self.compute_type(matrix)])
            .opset(opset)
            .int("block_size", self.block as i64);
        if !self.symmetric {
            form = form.ty("x_zero_point", codes);
        }
        self.runs(&form, matrix)
    }

    fn runs(&self, form: &Form, matrix: &MatrixView) -> Step<()> {
        let bytes = matrix.weight.bytes();
        let message = match self.targets.verdict(form) {
            Verdict::Runs | Verdict::Slow(_) => return Ok(()),
            Verdict::Unknown(target) => {
                format!("it is not known whether {target} runs {}", form.op_type())
            }
            Verdict::Wrong(b) | Verdict::Refused(b) => format!("{}: {}", b.target, b.reason),
        };
        decline(Reason::Target, message, bytes)
    }
}
