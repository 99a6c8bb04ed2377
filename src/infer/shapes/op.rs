//! What a rule sees of a node, and what it says of the results.

use std::collections::HashSet;

use super::super::SymInt;
use crate::ir::{AttributeValue, EntityId, Model, Node, ValueId};

/// The extents of a tensor.
pub(in crate::infer) type Shape = Vec<SymInt>;

/// What is known of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::infer) struct Fact {
    /// Its extents.
    pub(in crate::infer) shape: Option<Shape>,
    /// Its elements in row-major order, when they are few integers or truth values.
    pub(in crate::infer) elements: Option<Vec<SymInt>>,
}

/// Why a rule says nothing.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something that the results depend on is not known.
    Unknown,
    /// Nothing is known of the operator.
    NoRule,
    /// The operands do not fit each other or the operator: this is why.
    Contradiction(String),
}

/// The results of a node, in their order; missing ones are not known.
pub(super) type Outcome = Result<Vec<Fact>, Stop>;

/// A rule for an operator.
pub(super) type Rule = fn(&Op<'_>) -> Outcome;

/// A node with what is known of its operands.
pub(super) struct Op<'a> {
    pub(super) model: &'a Model,
    pub(super) node: &'a Node,
    /// The version of its domain here.
    pub(super) opset: i64,
    pub(super) operands: Vec<Option<&'a Fact>>,
    /// Expressions that are not negative, because something has that extent.
    pub(super) extents: &'a HashSet<SymInt>,
}

/// A contradiction.
pub(super) fn conflict<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Contradiction(message.into()))
}

/// `[a, b]` for messages.
pub(super) fn show(shape: &[SymInt]) -> String {
    let extents: Vec<String> = shape.iter().map(SymInt::to_string).collect();
    format!("[{}]", extents.join(", "))
}

/// The product of `extents`; `None` when it has too many terms.
pub(super) fn product<'a>(extents: impl IntoIterator<Item = &'a SymInt>) -> Option<SymInt> {
    let mut extents = extents.into_iter();
    // An empty tensor is empty whatever the other extents are.
    extents.try_fold(SymInt::from(1), |n, d| n.mul(d))
}

/// The positions in row-major order of a tensor of extents `dims` that `picked` lists for
/// each axis, as if the axes were taken in order `perm`.
pub(super) fn positions(dims: &[usize], perm: &[usize], picked: &[Vec<usize>]) -> Vec<usize> {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<usize>();
    perm.iter().fold(vec![0], |out, &axis| {
        let along = |&at: &usize| picked[axis].iter().map(move |i| at + i * stride(axis));
        out.iter().flat_map(along).collect()
    })
}

/// The extents, when all are numbers of a size that is followed.
pub(super) fn small_dims(shape: &[SymInt]) -> Option<Vec<usize>> {
    let dims: Vec<usize> = shape
        .iter()
        .map(|d| usize::try_from(d.known()?).ok())
        .collect::<Option<_>>()?;
    dims.iter().all(|&d| d <= super::ELEMENTS).then_some(dims)
}

impl Fact {
    pub(super) fn of_shape(shape: Shape) -> Fact {
        Fact {
            shape: Some(shape),
            elements: None,
        }
    }

    /// A tensor of these extents with these elements.
    pub(super) fn with_elements(shape: Shape, elements: Option<Vec<SymInt>>) -> Fact {
        let elements = elements.filter(|e| e.len() <= super::ELEMENTS);
        Fact {
            shape: Some(shape),
            elements,
        }
    }

    /// A vector of integers.
    pub(super) fn vector(elements: Vec<SymInt>) -> Fact {
        let shape = vec![SymInt::from(elements.len() as i64)];
        Fact::with_elements(shape, Some(elements))
    }
}

impl<'a> Op<'a> {
    /// Whether operand `slot` is there.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.node.input(slot).is_some()
    }

    fn fact(&self, slot: usize) -> Option<&'a Fact> {
        self.operands.get(slot).copied().flatten()
    }

    /// The extents of operand `slot`.
    pub(super) fn shape(&self, slot: usize) -> Result<&'a Shape, Stop> {
        let known = self.fact(slot).and_then(|f| f.shape.as_ref());
        known.ok_or(Stop::Unknown)
    }

    /// The elements of operand `slot`, if it is one of few integers.
    pub(super) fn elements(&self, slot: usize) -> Option<&'a [SymInt]> {
        self.fact(slot)?.elements.as_deref()
    }

    /// The elements of operand `slot`, which are all known numbers.
    pub(super) fn numbers(&self, slot: usize) -> Option<Vec<i64>> {
        self.elements(slot)?.iter().map(SymInt::known).collect()
    }

    /// The list of integers that is an attribute in older versions and an operand in newer
    /// ones: `Ok(None)` when it is absent.
    pub(super) fn list(&self, name: &str, slot: usize) -> Result<Option<Vec<i64>>, Stop> {
        if self.has(slot) {
            return self.numbers(slot).map(Some).ok_or(Stop::Unknown);
        }
        self.ints(name)
    }

    /// The attribute `name`, a list of integers; `Ok(None)` when it is absent.
    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Stop> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Ints(list)) => Ok(Some(list.clone())),
            Some(_) => Err(Stop::Unknown),
        }
    }

    /// The attribute `name`, an integer, or `default` when it is absent.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, Stop> {
        self.node.int(name, default).ok_or(Stop::Unknown)
    }

    /// The attribute `name`, a text; `Ok(None)` when it is absent.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Stop> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::String(s)) => Ok(Some(String::from_utf8_lossy(s).into_owned())),
            Some(_) => Err(Stop::Unknown),
        }
    }

    /// The extent of `axis` of result `slot`, of which nothing is known.
    pub(super) fn unknown(&self, slot: usize, axis: usize) -> SymInt {
        SymInt::extent(self.result(slot), axis)
    }

    /// `extent`, or the unknown one of that axis of result `slot`.
    pub(super) fn or_unknown(&self, extent: Option<SymInt>, slot: usize, axis: usize) -> SymInt {
        extent.unwrap_or_else(|| self.unknown(slot, axis))
    }

    /// The length of operand `slot`, a list with an entry for each axis.
    pub(super) fn listed_axes(&self, slot: usize) -> Result<usize, Stop> {
        let [count] = self.shape(slot)?.as_slice() else {
            return conflict("the list of extents is not a vector");
        };
        let count = usize::try_from(count.known().ok_or(Stop::Unknown)?);
        count
            .ok()
            .filter(|n| *n <= super::RANK)
            .ok_or(Stop::Unknown)
    }

    /// `rank` axes of result `slot`, none of a known extent.
    pub(super) fn unknown_shape(&self, slot: usize, rank: usize) -> Shape {
        (0..rank).map(|axis| self.unknown(slot, axis)).collect()
    }

    /// `element`, or the unknown one at `index` of the first result.
    pub(super) fn element(&self, element: Option<SymInt>, index: usize) -> SymInt {
        element.unwrap_or_else(|| SymInt::element(self.result(0), index))
    }

    /// What names the unknown extents of result `slot`. Nothing reads those of a result that
    /// is not wanted.
    fn result(&self, slot: usize) -> ValueId {
        let any = || self.node.outputs.iter().flatten().next().copied();
        let value = self.node.output(slot).or_else(any);
        value.unwrap_or_else(|| ValueId::from_index(0))
    }

    /// No value that `x` takes is smaller.
    pub(super) fn lower(&self, x: &SymInt) -> Option<i64> {
        match x.lower() {
            known @ Some(0..) => known,
            _ if self.extents.contains(x) => Some(0),
            known => known,
        }
    }

    /// Whether `x` is not negative.
    pub(super) fn is_extent(&self, x: &SymInt) -> bool {
        self.lower(x) >= Some(0)
    }

    /// `axis`, counted from the back when it is negative, of a tensor of this rank.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Stop> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(a) if a < rank => Ok(a),
            _ => conflict(format!("axis {axis} of a tensor of rank {rank}")),
        }
    }

    /// Several axes, each once, in order.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Stop> {
        let mut out = Vec::with_capacity(axes.len());
        for &axis in axes {
            let axis = self.axis(axis, rank)?;
            if out.contains(&axis) {
                return conflict(format!("axis {axis} is listed twice"));
            }
            out.push(axis);
        }
        out.sort_unstable();
        Ok(out)
    }

    /// The extents of the result when all these are broadcast.
    pub(super) fn broadcast(&self, shapes: &[&[SymInt]]) -> Result<Shape, Stop> {
        let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut out = vec![SymInt::from(1); rank];
        for shape in shapes {
            let first = rank - shape.len();
            for (i, extent) in shape.iter().enumerate() {
                let axis = first + i;
                out[axis] = match out[axis].broadcast(extent) {
                    Some(both) => both,
                    None if out[axis].known().is_some() && extent.known().is_some() => {
                        let all: Vec<String> = shapes.iter().map(|s| show(s)).collect();
                        return conflict(format!("{} do not broadcast", all.join(" and ")));
                    }
                    None => self.unknown(0, axis),
                };
            }
        }
        Ok(out)
    }
}
