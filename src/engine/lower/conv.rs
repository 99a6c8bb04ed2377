//! Convolutions and pooling.

use super::{
    at::{At, int, ints},
    known::{known, refused},
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{Attribute, AttributeValue, DimSize, Model, NodeId, ValueId},
};

/// Writes out what rten does not work out itself: the attributes that follow from the shape of
/// the weight, and the padding of `auto_pad`, of which rten knows only one kind.
pub(super) fn conv(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let lower = string(model, node, "auto_pad").is_some_and(|s| s == b"SAME_LOWER");
    let weight = n.is("Conv").then(|| n.input(1)).flatten();
    let complete = weight.is_none() || n.attribute("kernel_shape").is_some();
    if complete && !lower {
        return Ok(());
    }
    let inputs = n.inputs.clone();
    let kept: Vec<Attribute> = n.attributes.clone();
    let op_type = n.op_type.clone();
    let window = Window::of(model, node, n.input(0), weight)?;
    let replaced = ["kernel_shape", "strides", "dilations", "pads", "auto_pad"];
    let mut attributes: Vec<Attribute> = kept
        .into_iter()
        .filter(|a| !replaced.contains(&&*a.name))
        .collect();
    attributes.extend(window.attributes(weight.is_some()));
    low.at(node).replace_with(&op_type, inputs, attributes);
    Ok(())
}

/// As [`conv`], and pads the input beforehand: rten fills padding with 0, not with the zero
/// point, after it has moved unsigned inputs to signed ones.
pub(super) fn conv_integer(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let window = Window::of(model, node, n.input(0), n.input(1))?;
    if n.attribute("kernel_shape").is_some() && window.pads.iter().all(|&p| p == 0) {
        return Ok(());
    }
    let (x, group) = (n.input(0), n.int("group", 1).unwrap_or(1));
    let (w, zero, w_zero) = (n.input(1), n.input(2), n.input(3));
    let Some(x) = x else {
        return Err(refused(model, node, "`x` is missing"));
    };
    let mut at = low.at(node);
    let padded = window.pad(&mut at, x, zero);
    at.replace_with(
        "ConvInteger",
        vec![Some(padded), w, zero, w_zero],
        window.inner(group),
    );
    Ok(())
}

fn string<'m>(model: &'m Model, node: NodeId, name: &str) -> Option<&'m [u8]> {
    match model.nodes[node].attribute(name) {
        Some(AttributeValue::String(s)) => Some(s),
        _ => None,
    }
}

/// Where a kernel goes over its input.
pub(super) struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// At the beginnings of the axes, then at their ends.
    pads: Vec<i64>,
}

impl Window {
    /// The window of `node`, which goes over `x` with the kernel `weight`.
    ///
    /// # Errors
    /// The kernel's shape is not known, or `auto_pad` needs extents that are not.
    pub(super) fn of(
        model: &Model,
        node: NodeId,
        x: Option<ValueId>,
        weight: Option<ValueId>,
    ) -> Result<Window> {
        let n = &model.nodes[node];
        let list = |name: &str| match n.attribute(name) {
            Some(AttributeValue::Ints(list)) => Some(list.clone()),
            _ => None,
        };
        let kernel = match (list("kernel_shape"), weight) {
            (Some(kernel), _) => Some(kernel),
            (None, Some(weight)) => extents(model, weight)?,
            (None, None) => None,
        };
        let Some(kernel) = kernel else {
            let why = "it has no `kernel_shape`, and its weight no known shape";
            return Err(refused(model, node, why));
        };
        let axes = kernel.len();
        let ones = || vec![1; axes];
        let mut window = Window {
            strides: list("strides").unwrap_or_else(ones),
            dilations: list("dilations").unwrap_or_else(ones),
            pads: list("pads").unwrap_or_else(|| vec![0; 2 * axes]),
            kernel,
        };
        let same_lower = match string(model, node, "auto_pad") {
            Some(b"SAME_UPPER") => false,
            Some(b"SAME_LOWER") => true,
            Some(b"VALID") => {
                window.pads = vec![0; 2 * axes];
                return Ok(window);
            }
            _ => return Ok(window),
        };
        let extents = x.map(|x| extents(model, x)).transpose()?.flatten();
        let Some(extents) = extents.filter(|e| e.len() == axes) else {
            let why = "`auto_pad` over an input whose extents are not known";
            return Err(refused(model, node, why));
        };
        window.pad_same(&extents, same_lower);
        Ok(window)
    }

    /// How many axes it goes along.
    pub(super) fn axes(&self) -> usize {
        self.kernel.len()
    }

    /// Pads so that each axis gives `ceil(extent / stride)` results; an odd element goes to
    /// the beginning with `lower`, else to the end.
    fn pad_same(&mut self, extents: &[i64], lower: bool) {
        let axes = self.kernel.len();
        for (axis, extent) in extents.iter().enumerate() {
            let stride = self.strides[axis].max(1);
            let results = (extent + stride - 1) / stride;
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let total = ((results - 1) * stride + reach - extent).max(0);
            let begin = if lower { total - total / 2 } else { total / 2 };
            self.pads[axis] = begin;
            self.pads[axes + axis] = total - begin;
        }
    }

    /// `x` padded with `zero`, the zero point of its codes.
    pub(super) fn pad(&self, at: &mut At<'_, '_>, x: ValueId, zero: Option<ValueId>) -> ValueId {
        if self.pads.iter().all(|&p| p == 0) {
            return x;
        }
        let (begin, end) = self.pads.split_at(self.kernel.len());
        // Batch and channels first.
        let pads: Vec<i64> = [&[0, 0], begin, &[0, 0], end].concat();
        let pads = at.ints(&pads);
        // rten wants a scalar; without a zero point it pads with 0.
        let zero = zero.map(|zero| super::qdq::scalar(at, zero));
        at.op_with("Pad", vec![Some(x), Some(pads), zero], vec![])
    }

    /// The attributes of a convolution of the padded input.
    pub(super) fn inner(&self, group: i64) -> Vec<Attribute> {
        vec![
            int("group", group),
            ints("kernel_shape", self.kernel.clone()),
            ints("strides", self.strides.clone()),
            ints("dilations", self.dilations.clone()),
        ]
    }

    fn attributes(&self, dilations: bool) -> Vec<Attribute> {
        let mut all = vec![
            ints("kernel_shape", self.kernel.clone()),
            ints("strides", self.strides.clone()),
            ints("pads", self.pads.clone()),
        ];
        if dilations || self.dilations.iter().any(|&d| d != 1) {
            all.push(ints("dilations", self.dilations.clone()));
        }
        all
    }
}

/// The extents of `value` after its first two axes, when all are known.
fn extents(model: &Model, value: ValueId) -> Result<Option<Vec<i64>>> {
    if let Some(known) = known(model, value)? {
        let dims: Vec<i64> = known.dims.iter().map(|&d| d as i64).collect();
        return Ok(dims.get(2..).map(<[i64]>::to_vec));
    }
    let ty = model.type_of(value);
    let shape = ty.as_ref().and_then(|t| t.as_tensor()?.shape.as_deref());
    Ok(shape.and_then(|s| s.get(2..)).and_then(|spatial| {
        let size = |d: &crate::ir::Dim| match d.size {
            DimSize::Known(n) if n >= 0 => Some(n),
            _ => None,
        };
        spatial.iter().map(size).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn same_padding() {
        let mut window = Window {
            kernel: vec![3, 2],
            strides: vec![2, 1],
            dilations: vec![1, 1],
            pads: vec![0; 4],
        };
        window.pad_same(&[6, 5], false);
        assert_eq!(window.pads, [0, 0, 1, 1]);
        window.pad_same(&[6, 5], true);
        assert_eq!(window.pads, [1, 1, 0, 0]);
        window.pad_same(&[7, 5], true);
        assert_eq!(window.pads, [1, 1, 1, 0]);
    }
}
