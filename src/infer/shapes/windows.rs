//! Convolutions, pools, and what samples the spatial axes of `[N, C, ...]`.

use super::op::{Fact, Op, Outcome, Rule, Shape, Stop, conflict, show};
use crate::{infer::SymInt, ir::AttributeValue};

pub(super) fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "Conv" | "ConvInteger" | "DeformConv" => |op| conv(op, 1),
        "QLinearConv" => |op| conv(op, 3),
        "ConvTranspose" => conv_transpose,
        "MaxPool" | "AveragePool" | "LpPool" => pool,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => |op| {
            let shape = op.shape(0)?;
            let spatial = shape
                .iter()
                .enumerate()
                .map(|(i, d)| if i < 2 { d.clone() } else { SymInt::from(1) });
            Ok(vec![Fact::of_shape(spatial.collect())])
        },
        "RoiAlign" => |op| {
            let ([_, channels, _, _], rois) = (op.shape(0)?.as_slice(), op.shape(1)?) else {
                return conflict(format!("{} is not `[N, C, H, W]`", show(op.shape(0)?)));
            };
            let count = rois.first().ok_or(Stop::Unknown)?.clone();
            let size = [op.int("output_height", 1)?, op.int("output_width", 1)?].map(SymInt::from);
            Ok(vec![Fact::of_shape(
                [&[count, channels.clone()][..], &size].concat(),
            )])
        },
        "Resize" | "Upsample" => resize,
        "GridSample" => |op| {
            let (shape, grid) = (op.shape(0)?, op.shape(1)?);
            if shape.len() < 3 || grid.len() != shape.len() {
                return conflict(format!("{} is sampled at {}", show(shape), show(grid)));
            }
            Ok(vec![Fact::of_shape(
                [&shape[..2], &grid[1..grid.len() - 1]].concat(),
            )])
        },
        _ => return None,
    })
}

/// What slides over the spatial axes of a convolution or pool.
struct Window {
    kernel: Vec<Option<SymInt>>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    auto_pad: String,
    ceil: bool,
}

impl Window {
    fn new(op: &Op<'_>, kernel: Vec<Option<SymInt>>, ceil: bool) -> Result<Window, Stop> {
        let n = kernel.len();
        let spatial = op.shape(0)?.len().saturating_sub(2);
        if n != spatial {
            return conflict(format!("a kernel of {n} axes over {}", show(op.shape(0)?)));
        }
        let list = |name: &str, default: i64, count: usize| -> Result<Vec<i64>, Stop> {
            let list = op.ints(name)?.unwrap_or_else(|| vec![default; count]);
            match list.len() == count {
                true => Ok(list),
                false => conflict(format!(
                    "`{name}` has {} entries for {n} spatial axes",
                    list.len()
                )),
            }
        };
        Ok(Window {
            strides: list("strides", 1, n)?,
            dilations: list("dilations", 1, n)?,
            pads: list("pads", 0, 2 * n)?,
            auto_pad: op.text("auto_pad")?.unwrap_or_else(|| "NOTSET".to_owned()),
            ceil,
            kernel,
        })
    }

    /// How often the window fits on spatial axis `i`, which has this extent.
    fn output(&self, i: usize, extent: &SymInt) -> Option<SymInt> {
        let stride = SymInt::from(self.strides[i]);
        if self.strides[i] < 1 {
            return None;
        }
        if self.auto_pad.starts_with("SAME") {
            // With dilations, runtimes differ in what they pad.
            if self.dilations[i] != 1 {
                return None;
            }
            return extent
                .add(&SymInt::from(self.strides[i] - 1))?
                .floor_div(&stride);
        }
        let n = self.kernel.len();
        let pads = match &*self.auto_pad {
            "VALID" => 0,
            _ => self.pads[i].checked_add(self.pads[n + i])?,
        };
        let kernel = self.kernel[i].as_ref()?;
        let reach = kernel
            .sub(&SymInt::from(1))?
            .mul(&SymInt::from(self.dilations[i]))?;
        let room = extent
            .add(&SymInt::from(pads.checked_sub(1)?))?
            .sub(&reach)?;
        // A window that does not fit: runtimes round that otherwise.
        if room.upper().is_some_and(|most| most < 0) {
            return None;
        }
        if !self.ceil {
            return room.floor_div(&stride)?.add(&SymInt::from(1));
        }
        let count = room
            .add(&SymInt::from(self.strides[i] - 1))?
            .floor_div(&stride)?
            .add(&SymInt::from(1))?;
        // The last window has to begin inside the input or the padding before it.
        let (count, extent) = (count.known()?, extent.known()?);
        let last = (count - 1).checked_mul(self.strides[i])?;
        let begins_outside = last >= extent.checked_add(self.pads[i])?;
        Some(SymInt::from(count - i64::from(begins_outside)))
    }
}

/// The extents of a kernel: the attribute, else the spatial axes of the weight.
fn kernel(
    op: &Op<'_>,
    weight: Option<&Shape>,
    spatial: usize,
) -> Result<Vec<Option<SymInt>>, Stop> {
    if let Some(list) = op.ints("kernel_shape")? {
        return Ok(list.into_iter().map(|n| Some(SymInt::from(n))).collect());
    }
    Ok(match weight {
        Some(w) if w.len() == spatial + 2 => w[2..].iter().cloned().map(Some).collect(),
        _ => vec![None; spatial],
    })
}

fn spatial(op: &Op<'_>, shape: &Shape) -> Result<usize, Stop> {
    match shape.len().checked_sub(2) {
        Some(n) if n > 0 => Ok(n),
        _ => conflict(format!(
            "`{}` of {}: `[N, C, ...]` is expected",
            op.node.op_type,
            show(shape)
        )),
    }
}

pub(super) fn conv(op: &Op<'_>, weight: usize) -> Outcome {
    let shape = op.shape(0)?;
    let spatial = spatial(op, shape)?;
    let weight = op.shape(weight).ok();
    if let Some(w) = weight
        && w.len() != shape.len()
    {
        return conflict(format!("a weight {} for {}", show(w), show(shape)));
    }
    let group = op.int("group", 1)?;
    if let Some((c, per_group)) = weight.and_then(|w| shape[1].known().zip(w[1].known()))
        && per_group.checked_mul(group) != Some(c)
    {
        return conflict(format!(
            "{c} channels, where the weight has {per_group} in each of {group} groups"
        ));
    }
    let window = Window::new(op, kernel(op, weight, spatial)?, false)?;
    let channels = op.or_unknown(weight.map(|w| w[0].clone()), 0, 1);
    let mut out = vec![shape[0].clone(), channels];
    for i in 0..spatial {
        out.push(op.or_unknown(window.output(i, &shape[i + 2]), 0, i + 2));
    }
    Ok(vec![Fact::of_shape(out)])
}

fn conv_transpose(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let spatial = spatial(op, shape)?;
    let weight = op.shape(1).ok();
    let window = Window::new(op, kernel(op, weight, spatial)?, false)?;
    let extra = op
        .ints("output_padding")?
        .unwrap_or_else(|| vec![0; spatial]);
    let given = op.ints("output_shape")?;
    let group = SymInt::from(op.int("group", 1)?);
    let channels = weight.and_then(|w| w.get(1)?.mul(&group));
    let mut out = vec![shape[0].clone(), op.or_unknown(channels, 0, 1)];
    for i in 0..spatial {
        let length = || {
            if let Some(given) = &given {
                return given
                    .get(given.len().checked_sub(spatial)? + i)
                    .map(|n| SymInt::from(*n));
            }
            let stride = SymInt::from(window.strides[i]);
            if window.auto_pad.starts_with("SAME") {
                // A kernel shorter than the stride does not reach so far.
                let kernel = window.kernel[i].as_ref()?.known()?;
                let reaches = kernel >= window.strides[i] && window.dilations[i] == 1;
                return reaches.then(|| shape[i + 2].mul(&stride))?;
            }
            let pads = match &*window.auto_pad {
                "VALID" => 0,
                _ => window.pads[i].checked_add(window.pads[spatial + i])?,
            };
            let reach = window.kernel[i].as_ref()?.sub(&SymInt::from(1))?;
            let reach = reach.mul(&SymInt::from(window.dilations[i]))?;
            let steps = shape[i + 2].sub(&SymInt::from(1))?.mul(&stride)?;
            steps.add(&reach)?.add(&SymInt::from(
                extra.get(i)?.checked_add(1)?.checked_sub(pads)?,
            ))
        };
        out.push(op.or_unknown(length(), 0, i + 2));
    }
    Ok(vec![Fact::of_shape(out)])
}

fn pool(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let spatial = spatial(op, shape)?;
    let ceil = op.int("ceil_mode", 0)? != 0;
    let window = Window::new(op, kernel(op, None, spatial)?, ceil)?;
    let mut out = shape[..2].to_vec();
    for i in 0..spatial {
        out.push(op.or_unknown(window.output(i, &shape[i + 2]), 0, i + 2));
    }
    Ok(vec![Fact::of_shape(out.clone()), Fact::of_shape(out)])
}

/// `Resize` by sizes, or by scales that are all known.
fn resize(op: &Op<'_>) -> Outcome {
    let shape = op.shape(0)?;
    let unknown = || Ok(vec![Fact::of_shape(op.unknown_shape(0, shape.len()))]);
    if op.has(3)
        && let Some(sizes) = op.elements(3)
        && op.node.attribute("keep_aspect_ratio_policy").is_none()
    {
        let axes = match op.ints("axes")? {
            Some(axes) => axes,
            None => (0..shape.len() as i64).collect(),
        };
        if axes.len() != sizes.len() {
            // An empty list of sizes stands for an absent one.
            return unknown();
        }
        let mut out = shape.clone();
        for (axis, size) in axes.iter().zip(sizes) {
            let axis = op.axis(*axis, shape.len())?;
            out[axis] = op.or_unknown(Some(size.clone()).filter(|s| op.is_extent(s)), 0, axis);
        }
        return Ok(vec![Fact::of_shape(out)]);
    }
    let scales = match (&*op.node.op_type, op.opset) {
        ("Upsample", ..9) => match op.node.attribute("scales") {
            Some(AttributeValue::Floats(list)) => Some(list.clone()),
            _ => None,
        },
        ("Upsample", _) | ("Resize", ..11) => floats(op, 1),
        _ => floats(op, 2),
    };
    let Some(scales) =
        scales.filter(|s| s.len() == shape.len() && op.node.attribute("axes").is_none())
    else {
        return unknown();
    };
    let each = shape.iter().zip(&scales).enumerate();
    let out = each.map(|(i, (extent, &scale))| {
        let whole = (scale >= 1.0 && scale.fract() == 0.0).then(|| SymInt::from(scale as i64));
        let scaled = match extent.known() {
            Some(n) => Some(SymInt::from((n as f32 * scale).floor() as i64)),
            None => whole.and_then(|scale| extent.mul(&scale)),
        };
        op.or_unknown(scaled, 0, i)
    });
    Ok(vec![Fact::of_shape(out.collect())])
}

/// The elements of a small constant of floats.
fn floats(op: &Op<'_>, slot: usize) -> Option<Vec<f32>> {
    let tensor = crate::weights::source_tensor(op.model, op.node.input(slot)?)?;
    let few = tensor.element_count()? <= super::ELEMENTS as u64;
    few.then(|| crate::weights::float_elements(tensor).ok().flatten())
        .flatten()
}
