//! Which nodes share a quantized weight, and what that weight is.

use std::collections::{HashMap, HashSet};

use super::{
    INFO, Nbits,
    plan::{Kind, Plan, Step, decline},
};
use crate::{
    ir::{DataType, Model, NodeId, ValueId, edit::Chain},
    pass::{Left, PassContext, Reason, Remark},
    quant::{BlockSpec, ScaleType},
    weights::{Layout, MatrixView},
};

/// What tells one quantized form of a weight from another. Nodes with equal keys share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) root: ValueId,
    layout: Layout,
    n: u64,
    k: u64,
    rounding: Option<DataType>,
    pub(super) compute: DataType,
    /// Bits of the factor that goes into the scales.
    pub(super) alpha: u32,
    symmetric: bool,
    /// Zero points are numbers of the scales' type.
    float_zero_points: bool,
    /// Codes of whole blocks. `MatMulNBits` needs them; `GatherBlockQuantized` needs the
    /// k elements alone, which are the same bytes when blocks divide k.
    pub(super) padded: bool,
}

/// A quantized weight and the nodes that will read it.
pub(super) struct Group {
    pub(super) key: Key,
    pub(super) matrix: MatrixView,
    pub(super) spec: BlockSpec,
    pub(super) linear: Vec<NodeId>,
    pub(super) gather: Vec<NodeId>,
    pub(super) made: Option<Made>,
}

/// The constants of a group, once they exist.
#[derive(Clone, Copy)]
pub(super) struct Made {
    /// As `[n, blocks, blob]`, for `MatMulNBits`.
    pub(super) blocked: Option<ValueId>,
    /// As `[n, bytes of a row]`, for `GatherBlockQuantized`.
    pub(super) rows: Option<ValueId>,
    /// The shape of `rows`, when it is reached from `blocked` through a `Reshape`.
    pub(super) rows_shape: Option<ValueId>,
    pub(super) scales: ValueId,
    pub(super) zero_points: Option<ValueId>,
}

impl Made {
    /// The codes as `[n, bytes of a row]`.
    pub(super) fn rows(&self, chain: &mut Chain<'_, '_>) -> ValueId {
        self.rows.unwrap_or_else(|| {
            let reshape = chain.node("", "Reshape", vec![self.blocked, self.rows_shape]);
            chain.beside(reshape)
        })
    }
}

impl Nbits {
    /// Whether zero points of this weight would be read wrongly by some runtimes.
    fn avoids_zero_points(&self, plan: &Plan) -> bool {
        let contrib = matches!(plan.kind, Kind::Gather { spelled: None, .. });
        !self.qdq && contrib && !self.symmetric && self.reads_zero_points_wrongly(plan.matrix.k)
    }

    /// Whether some runtimes gather rows of `k` elements with zero points wrongly.
    pub(super) fn reads_zero_points_wrongly(&self, k: u64) -> bool {
        self.bits == 4 && k.div_ceil(self.block as u64) % 2 == 1
    }

    /// The quantized form that a plan asks for by itself.
    fn key(&self, plan: &Plan) -> Key {
        let matrix = &plan.matrix;
        let (alpha, whole_blocks) = match &plan.kind {
            // Whoever reads the decoded weight does the rest itself.
            _ if self.qdq => (1.0, false),
            Kind::Linear(linear) => (linear.alpha, true),
            Kind::Gather { .. } => (1.0, matrix.k.is_multiple_of(self.block as u64)),
        };
        Key {
            root: matrix.weight.root,
            layout: matrix.layout,
            n: matrix.n,
            k: matrix.k,
            rounding: matrix.weight.rounding,
            compute: self.compute_type(matrix),
            alpha: alpha.to_bits(),
            symmetric: self.symmetric,
            float_zero_points: false,
            padded: whole_blocks,
        }
    }

    /// Whether a product has zero points that are floats; `key` is what it shares with tables.
    fn has_float_zero_points(&self, plan: &Plan, key: &Key, tables: &HashSet<Key>) -> Step<bool> {
        match &plan.kind {
            Kind::Linear(linear) if self.float_zero_points && !key.symmetric => {
                if tables.contains(key) {
                    let message = "the weight is a table, too: its zero points stay codes";
                    return decline(Reason::Shared, message, 0);
                }
                self.float_zero_points_run(&plan.matrix, &linear.addend)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Gathers the plans by the quantized weight they need: the groups, and the group of
    /// each plan.
    pub(super) fn group(
        &self,
        model: &Model,
        plans: &[(NodeId, Plan)],
        cx: &mut PassContext,
    ) -> (Vec<Group>, Vec<usize>) {
        let mut groups: Vec<Group> = Vec::new();
        let mut index: HashMap<Key, usize> = HashMap::new();
        let mut members = Vec::with_capacity(plans.len());
        let symmetric_tables: HashSet<Key> = plans
            .iter()
            .filter(|(_, plan)| self.avoids_zero_points(plan))
            .map(|(_, plan)| self.key(plan))
            .collect();
        let is_table = |plan: &Plan| matches!(plan.kind, Kind::Gather { .. });
        let tables = plans.iter().filter(|(_, plan)| is_table(plan));
        let tables: HashSet<Key> = tables.map(|(_, plan)| self.key(plan)).collect();
        for (node, plan) in plans {
            let mut key = self.key(plan);
            // A projection that shares the table has to share its codes, too.
            key.symmetric |= symmetric_tables.contains(&key) || self.avoids_zero_points(plan);
            if key.symmetric && !self.symmetric {
                let message = format!(
                    "{} blocks a row: ONNX Runtime before 1.27 reads 4-bit zero points of an odd \
                     number wrongly in GatherBlockQuantized; quantized symmetrically",
                    plan.matrix.k.div_ceil(self.block as u64)
                );
                let remark = Remark::new(model, INFO.name, *node, Reason::OddBlocks, message, 0);
                cx.remarks.push(remark);
            }
            match self.has_float_zero_points(plan, &key, &tables) {
                Ok(floats) => key.float_zero_points = floats,
                Err(Left::Declined {
                    reason, message, ..
                }) => {
                    let message = format!("zero points are codes: {message}");
                    cx.remarks
                        .push(Remark::new(model, INFO.name, *node, reason, message, 0));
                }
                Err(_) => {}
            }
            let matrix = &plan.matrix;
            let group = *index.entry(key.clone()).or_insert_with(|| {
                let scale = match key.compute {
                    DataType::Float16 => ScaleType::F16,
                    _ => ScaleType::F32,
                };
                let spec = BlockSpec::new(self.bits, self.block, key.symmetric, scale)
                    .expect("the declared options are what the kernels take");
                let spec = match key.float_zero_points {
                    true => spec.with_float_zero_points(),
                    false => spec,
                };
                groups.push(Group {
                    key,
                    matrix: matrix.clone(),
                    spec,
                    linear: Vec::new(),
                    gather: Vec::new(),
                    made: None,
                });
                groups.len() - 1
            });
            match is_table(plan) {
                true => groups[group].gather.push(*node),
                false => groups[group].linear.push(*node),
            }
            members.push(group);
        }
        (groups, members)
    }
}
