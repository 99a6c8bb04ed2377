//! `reassociate`: constants that are added, or multiplied by, one after the other.

use std::collections::HashSet;

use crate::{
    error::Result,
    ir::{
        Data, DataType, Model, Node, NodeId, Tensor, Uses, ValueId,
        edit::{Edit, remove_unused},
    },
    pass::{Changed, Left, OptionInfo, OptionKind, Pass, PassContext, PassInfo, plan_nodes},
    weights::{float_tensor, int_elements, read_floats, small_floats, source_tensor},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "reassociate",
    summary: "add, or multiply by, one constant instead of two in a row",
    doc: DOC,
    options: &[OptionInfo {
        name: "rounded",
        kind: OptionKind::Flag,
        default: "true",
        help: "also where results differ by a rounding: floating-point numbers",
    }],
    build: |options| {
        Ok(Box::new(Reassociate {
            rounded: options.flag("rounded"),
        }))
    },
};

const DOC: &str = "\
`(x + a) + b` becomes `x + (a + b)`, and `(x * a) * b` becomes `x * (a * b)`, for constants `a` and
`b`; with `Sub` and `Div` likewise. Any number of them in a row become one.

On integers the result is the same to the bit, as they wrap around. On floating-point numbers the
constants are rounded instead of what is between: as many roundings as before, each half a unit in
the last place at most. That holds where nothing cancels and nothing leaves the range of the type, so
additions of opposite signs stay (rounding to whole numbers is written that way), and so do factors
when one of them, or their product, is zero, subnormal or not finite. What is between leaves the
range where the result does not only when one factor enlarges and the other one reduces: such
factors are merged when they are within 2^-16 to 2^16 (2^-4 to 2^4 in float16, 2^-128 to 2^128 in
double). For `x` within that factor of an end of the range the result may then be a number where it
was infinite, or have digits that were lost; not the other way round.

## Scope

`Add`, `Sub` and `Mul`, of floating-point numbers also `Div`, from opset 7 on. Constants of float,
float16 and double with up to 4096 elements, of int32 and int64 with up to 64. One of them has one
element, or both have the same extents; what has more than one is read by nothing else, so that
the file does not grow. Nothing else reads the value in between, and it is no output. In subgraphs
and local functions too.

## Statistics

`merged`: nodes removed.

## Example

```text
h = Mul (x, half)                                     float half = {0.5}, float four = {4.0}
y = Mul (h, four)
y = Mul (x, \"y/merged\")                               float \"y/merged\" = {2.0}
```
";

/// More elements of floating-point numbers than this are a weight, and not computed here.
const ELEMENTS: u64 = 4096;

struct Reassociate {
    rounded: bool,
}

/// `x op constant`.
struct Step {
    /// `Add` or `Sub`, else `Mul` or `Div`.
    adds: bool,
    /// `Sub` or `Div`.
    inverse: bool,
    x: ValueId,
    constant: ValueId,
}

/// The node that takes the place of two.
struct Plan {
    inner: NodeId,
    op_type: &'static str,
    x: ValueId,
    tensor: Tensor,
}

impl Pass for Reassociate {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let mut merged = 0;
        // Each round takes nodes away, so there is a last one.
        loop {
            let planner = Planner {
                model,
                uses: &Uses::of(model),
                rounded: self.rounded,
            };
            let plans = plan_nodes(model, INFO.name, cx, |node| planner.plan(node))?;
            if plans.is_empty() {
                break;
            }
            merged += commit(model, plans);
        }
        cx.count("merged", merged as u64);
        Ok(Changed::count(merged))
    }
}

/// Carries out the plans, except those for a node that another one of them takes away.
fn commit(model: &mut Model, plans: Vec<(NodeId, Plan)>) -> usize {
    let mut taken = HashSet::new();
    let mut left = Vec::new();
    let mut edit = Edit::new(model);
    for (node, plan) in plans {
        // Producers come first: what a node reads was there to be taken before it.
        if taken.contains(&plan.inner) {
            continue;
        }
        taken.insert(node);
        let graph = edit.model().nodes[node].graph;
        left.extend(edit.model().nodes[node].inputs.iter().flatten());
        let name = format!("{}/merged", edit.model().node_name(node));
        let constant = edit.add_constant(graph, &name, plan.tensor);
        let mut merged = Node::new(graph, "", plan.op_type);
        merged.inputs = vec![Some(plan.x), Some(constant)];
        edit.replace(node, merged);
    }
    edit.finish();
    remove_unused(model, &left);
    taken.len()
}

struct Planner<'m> {
    model: &'m Model,
    uses: &'m Uses,
    rounded: bool,
}

impl Planner<'_> {
    fn plan(&self, node: NodeId) -> Result<Plan, Left> {
        let outer = self.step(node).ok_or(Left::Ignored)?;
        let inner = self.model.producer(outer.x).ok_or(Left::Ignored)?;
        let same_graph = self.model.nodes[inner].graph == self.model.nodes[node].graph;
        if !same_graph || self.uses.only_reader(outer.x).is_none() {
            return Err(Left::Ignored);
        }
        let first = self.step(inner).ok_or(Left::Ignored)?;
        if first.adds != outer.adds || ![&first, &outer].iter().all(|s| self.may_go(s)) {
            return Err(Left::Ignored);
        }
        let dims = self.dims(&first, &outer).ok_or(Left::Ignored)?;
        let merged = match self.floats(&first, &outer, &dims)? {
            Some(merged) => Some(merged),
            None => self.ints(&first, &outer, &dims)?,
        };
        let (op_type, tensor) = merged.ok_or(Left::Ignored)?;
        Ok(Plan {
            inner,
            op_type,
            x: first.x,
            tensor,
        })
    }

    fn step(&self, node: NodeId) -> Option<Step> {
        let n = &self.model.nodes[node];
        let (adds, inverse) = match &*n.op_type {
            "Add" => (true, false),
            "Sub" => (true, true),
            "Mul" => (false, false),
            "Div" => (false, true),
            _ => return None,
        };
        // Before that, operands broadcast only on request.
        let opset = self.model.opset(n.graph, "").unwrap_or(0);
        if !n.domain().is_empty() || opset < 7 {
            return None;
        }
        let [Some(a), Some(b)] = n.inputs[..] else {
            return None;
        };
        let is_constant = |v| source_tensor(self.model, v).is_some();
        let (x, constant) = match (is_constant(a), is_constant(b)) {
            (false, true) => (a, b),
            (true, false) if !inverse => (b, a),
            _ => return None,
        };
        Some(Step {
            adds,
            inverse,
            x,
            constant,
        })
    }

    /// Whether the constant of `step` is one number, or goes with it.
    fn may_go(&self, step: &Step) -> bool {
        let count = source_tensor(self.model, step.constant).and_then(Tensor::element_count);
        count == Some(1) || self.uses.only_reader(step.constant).is_some()
    }

    /// The extents of both constants together, with as many axes as the longer has.
    fn dims(&self, first: &Step, outer: &Step) -> Option<Vec<i64>> {
        let dims = |step: &Step| Some(&source_tensor(self.model, step.constant)?.dims[..]);
        let (a, b) = (dims(first)?, dims(outer)?);
        let is_one = |dims: &[i64]| dims.iter().all(|&d| d == 1);
        let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
        let padding = vec![1; long.len() - short.len()];
        match (is_one(short), is_one(long)) {
            (true, _) => Some(long.to_vec()),
            (_, true) => Some([&padding, short].concat()),
            _ => (a == b).then(|| a.to_vec()),
        }
    }

    /// Both constants as one, when they are floating-point numbers for which that may be done.
    fn floats(
        &self,
        first: &Step,
        outer: &Step,
        dims: &[i64],
    ) -> Result<Option<(&'static str, Tensor)>> {
        let dtype = source_tensor(self.model, first.constant).map(|t| t.dtype);
        let Some(range) = dtype.and_then(FactorRange::of) else {
            return Ok(None);
        };
        let dtype = dtype.filter(|_| self.rounded);
        let numbers = |step: &Step| small_floats(self.model, step.constant, ELEMENTS);
        let (Some(dtype), Some((a, _)), Some((b, _))) = (dtype, numbers(first)?, numbers(outer)?)
        else {
            return Ok(None);
        };
        let sign = |step: &Step| if step.inverse { -1.0 } else { 1.0 };
        let (op_type, merge): (_, Box<dyn Fn(f64, f64) -> f64>) = match first.adds {
            true => {
                let (s, t) = (sign(first), sign(outer));
                ("Add", Box::new(move |a, b| s * a + t * b))
            }
            false => match (first.inverse, outer.inverse) {
                (false, false) => ("Mul", Box::new(|a, b| a * b)),
                (false, true) => ("Mul", Box::new(|a, b| a / b)),
                (true, false) => ("Mul", Box::new(|a, b| b / a)),
                (true, true) => ("Div", Box::new(|a, b| a * b)),
            },
        };
        let merged = pairs(&a, &b, &merge);
        let tensor = float_tensor(dtype, dims.to_vec(), &merged);
        // As they are rounded.
        let mut rounded = Vec::new();
        if let Some(data) = tensor.data() {
            read_floats(dtype, &data.read_all()?, |x| rounded.push(x));
        }
        let fits = match first.adds {
            true => {
                let opposite = sign(first) * sign(outer);
                let together = pairs(&a, &b, &|a, b| a * b * opposite);
                together.iter().all(|&p| p >= 0.0) && rounded.iter().all(|x| x.is_finite())
            }
            false => {
                let mut all = a.iter().chain(&b).chain(&rounded);
                let factor = |step: &Step, x: f64| if step.inverse { x.recip() } else { x };
                let keeps = |a, b| range.keeps(factor(first, a), factor(outer, b));
                let kept = pairs(&a, &b, &keeps);
                all.all(|&x| range.is_normal(x)) && kept.into_iter().all(|k| k)
            }
        };
        Ok(fits.then_some((op_type, tensor)))
    }

    /// Both constants as one, when they are integers. Sums and products wrap around.
    fn ints(
        &self,
        first: &Step,
        outer: &Step,
        dims: &[i64],
    ) -> Result<Option<(&'static str, Tensor)>> {
        let numbers = |step: &Step| int_elements(self.model, step.constant);
        let (Some(a), Some(b)) = (numbers(first)?, numbers(outer)?) else {
            return Ok(None);
        };
        let signed = |step: &Step, x: i64| if step.inverse { x.wrapping_neg() } else { x };
        let (op_type, merged) = match first.adds {
            true => {
                let add = |a, b| signed(first, a).wrapping_add(signed(outer, b));
                ("Add", pairs(&a, &b, &add))
            }
            false if !first.inverse && !outer.inverse => ("Mul", pairs(&a, &b, &i64::wrapping_mul)),
            false => return Ok(None),
        };
        let dtype = source_tensor(self.model, first.constant).map(|t| t.dtype);
        Ok(match dtype {
            Some(DataType::Int64) => Some((op_type, Tensor::from_i64(dims.to_vec(), &merged))),
            Some(DataType::Int32) => {
                let bytes: Vec<u8> = merged
                    .iter()
                    .flat_map(|&x| (x as i32).to_le_bytes())
                    .collect();
                let data = Data::Bytes(bytes.into());
                Some((op_type, Tensor::new(DataType::Int32, dims.to_vec(), data)))
            }
            _ => None,
        })
    }
}

/// Which factors may be merged.
struct FactorRange {
    /// The smallest normal number.
    smallest: f64,
    /// How much one factor may enlarge what the other one reduces: about an eighth of the
    /// exponents of the type (a quarter of the few that float16 has), far more than the
    /// scales of a network differ by.
    swing: f64,
}

impl FactorRange {
    fn of(dtype: DataType) -> Option<FactorRange> {
        let (smallest, swing) = match dtype {
            DataType::Float => (f64::from(f32::MIN_POSITIVE), 16),
            DataType::Float16 => (f64::powi(2.0, -14), 4),
            DataType::Double => (f64::MIN_POSITIVE, 128),
            _ => return None,
        };
        Some(FactorRange {
            smallest,
            swing: f64::powi(2.0, swing),
        })
    }

    fn is_normal(&self, x: f64) -> bool {
        x.is_finite() && x.abs() >= self.smallest
    }

    /// Whether a number times `a` leaves the range hardly before it does times `a` and `b`.
    fn keeps(&self, a: f64, b: f64) -> bool {
        let (a, b) = (a.abs(), b.abs());
        let near = |x: f64| (1.0 / self.swing..=self.swing).contains(&x);
        (a >= 1.0) == (b >= 1.0) || (near(a) && near(b))
    }
}

/// What `merge` makes of each pair, where one list may have one element for all of the other.
fn pairs<T: Copy, R>(a: &[T], b: &[T], merge: &dyn Fn(T, T) -> R) -> Vec<R> {
    match (a, b) {
        (&[a], b) => b.iter().map(|&b| merge(a, b)).collect(),
        (a, &[b]) => a.iter().map(|&a| merge(a, b)).collect(),
        (a, b) => a.iter().zip(b).map(|(&a, &b)| merge(a, b)).collect(),
    }
}
