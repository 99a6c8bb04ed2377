//! Convolutions and pooling.

use super::{
    at::{At, int, ints},
    known::{known, refused},
    rules::Lowering,
};
use crate::{
    error::Result,
    ir::{Attribute, AttributeValue, Data, DataType, Dim, DimSize, Model, NodeId, Tensor, ValueId},
};

/// Writes out what rten does not work out itself: the attributes that follow from the shape of
/// the weight, and the padding of `auto_pad`, of which rten knows only one kind.
pub(super) fn conv(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let lower = string(model, node, "auto_pad").is_some_and(|s| s == b"SAME_LOWER");
    let weight = n.is("Conv").then(|| n.input(1)).flatten();
    // rten takes the number of axes from the one attribute for the others; pools want both.
    let complete = n.attribute("kernel_shape").is_some()
        && (weight.is_some() || n.attribute("strides").is_some());
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

/// As [`conv`], and around two faults of rten; see [`Integers::conv`].
pub(super) fn conv_integer(low: &mut Lowering<'_>, node: NodeId) -> Result<()> {
    let model = low.model();
    let n = &model.nodes[node];
    let integers = Integers::of(model, node, [0, 1, 2, 3])?;
    if n.attribute("kernel_shape").is_some() && integers.is_native() {
        return Ok(());
    }
    let mut at = low.at(node);
    let sums = integers.conv(&mut at);
    at.replace("Identity", &[sums]);
    Ok(())
}

/// A convolution of codes.
pub(super) struct Integers {
    window: Window,
    group: i64,
    x: ValueId,
    x_zero: Option<ValueId>,
    w: ValueId,
    w_zero: Option<ValueId>,
    /// Set where the zero point of the weight has to be applied apart.
    apart: Option<Apart>,
}

/// See [`Integers::conv`].
struct Apart {
    /// Whether the weight is int8.
    signed: bool,
    /// Extents of the weight that sums the input.
    ones: Vec<i64>,
}

impl Integers {
    /// The convolution of `node`; `operands` are the places of `x`, `w` and their zero points.
    ///
    /// # Errors
    /// As [`Window::of`], or an operand is missing.
    pub(super) fn of(model: &Model, node: NodeId, operands: [usize; 4]) -> Result<Integers> {
        let n = &model.nodes[node];
        let [x, w] = super::matmul::operands(model, node, [operands[0], operands[1]])?;
        let window = Window::of(model, node, Some(x), Some(w))?;
        let group = n.int("group", 1).unwrap_or(1);
        let (x_zero, w_zero) = (n.input(operands[2]), n.input(operands[3]));
        let apart = Apart::of(model, (x, w, w_zero), group, &window)?;
        Ok(Integers {
            window,
            group,
            x,
            x_zero,
            w,
            w_zero,
            apart,
        })
    }

    /// Whether rten computes it right.
    fn is_native(&self) -> bool {
        self.window.pads.iter().all(|&p| p == 0) && self.apart.is_none()
    }

    /// How many axes the kernel goes along.
    pub(super) fn axes(&self) -> usize {
        self.window.kernel.len()
    }

    /// The sums of products, int32.
    ///
    /// The input is padded beforehand: rten fills padding with 0 after it has moved the codes,
    /// not with the zero point. And for a batch it packs the weight without its zero point,
    /// which int8 has in any case once it is moved to uint8. So that is applied apart:
    /// `sum (x - a) (w - b) = sum (x - a) w - b sum (x - a)`.
    pub(super) fn conv(&self, at: &mut At<'_, '_>) -> ValueId {
        let x = self.window.pad(at, self.x, self.x_zero);
        let attributes = self.window.inner(self.group);
        let inputs = |w, w_zero| vec![Some(x), Some(w), self.x_zero, w_zero];
        let Some(apart) = &self.apart else {
            return at.op_with("ConvInteger", inputs(self.w, self.w_zero), attributes);
        };
        let shape = [vec![-1], vec![1; self.axes()]].concat();
        let shape = at.ints(&shape);
        let zero = self.w_zero.map(|zero| {
            let zero = at.cast(zero, DataType::Int32);
            at.op("Reshape", &[zero, shape])
        });
        let (mut w, mut zero) = (self.w, zero);
        if apart.signed {
            let moved = at.constant(int32(128));
            let wide = at.cast(w, DataType::Int32);
            let wide = at.op("Add", &[wide, moved]);
            w = at.cast(wide, DataType::Uint8);
            zero = Some(match zero {
                Some(zero) => at.op("Add", &[zero, moved]),
                None => moved,
            });
        }
        let sums = at.op_with("ConvInteger", inputs(w, None), attributes.clone());
        let Some(zero) = zero else { return sums };
        let count = apart.ones.iter().product::<i64>() as usize;
        let ones = Data::Bytes(vec![1; count].into());
        let ones = at.constant(Tensor::new(DataType::Uint8, apart.ones.clone(), ones));
        let inputs = at.op_with("ConvInteger", inputs(ones, None), attributes);
        let product = at.op("Mul", &[inputs, zero]);
        at.op("Sub", &[sums, product])
    }
}

impl Apart {
    fn of(
        model: &Model,
        (x, w, w_zero): (ValueId, ValueId, Option<ValueId>),
        group: i64,
        window: &Window,
    ) -> Result<Option<Apart>> {
        let Some(weight) = known(model, w)? else {
            return Ok(None);
        };
        let signed = weight.dtype == DataType::Int8;
        let zero = w_zero.map(|z| known(model, z)).transpose()?.flatten();
        let none = match &zero {
            Some(zero) => zero.data.read_all()?.iter().all(|&z| z == 0),
            None => w_zero.is_none(),
        };
        let mut ones: Vec<i64> = weight.dims.iter().map(|&d| d as i64).collect();
        let (Some(&out), Some(&inner)) = (ones.first(), ones.get(1)) else {
            return Ok(None);
        };
        // These are computed in other ways, which are right.
        let depthwise = inner == 1 && out == group;
        let pointwise = group == 1 && window.is_point();
        let ty = model.type_of(x);
        let shape = ty.as_ref().and_then(|t| t.as_tensor()?.shape.as_ref());
        let single = shape.is_some_and(|s| s.first() == Some(&Dim::known(1)));
        if !signed && none || depthwise || pointwise || single {
            return Ok(None);
        }
        if group == 1 {
            ones[0] = 1;
        }
        Ok(Some(Apart { signed, ones }))
    }
}

fn int32(x: i32) -> Tensor {
    let bytes = x.to_le_bytes().to_vec();
    Tensor::new(DataType::Int32, vec![], Data::Bytes(bytes.into()))
}

fn string<'m>(model: &'m Model, node: NodeId, name: &str) -> Option<&'m [u8]> {
    match model.nodes[node].attribute(name) {
        Some(AttributeValue::String(s)) => Some(s),
        _ => None,
    }
}

/// Where a kernel goes over its input.
struct Window {
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
    fn of(
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

    /// Whether each result comes from one element of the input, in order.
    fn is_point(&self) -> bool {
        let ones = |list: &[i64]| list.iter().all(|&n| n == 1);
        let padded = self.pads.iter().any(|&p| p != 0);
        ones(&self.kernel) && ones(&self.strides) && ones(&self.dilations) && !padded
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
    fn pad(&self, at: &mut At<'_, '_>, x: ValueId, zero: Option<ValueId>) -> ValueId {
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
    fn inner(&self, group: i64) -> Vec<Attribute> {
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
        let size = |d: &Dim| match d.size {
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
