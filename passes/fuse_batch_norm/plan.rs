//! Decides for each product what of the nodes after it becomes part of its weights.

use super::affine::{Affine, ChannelAxis};
use crate::{
    error::Result,
    infer::Facts,
    ir::{Data, DataType, Elements, Model, Node, NodeId, Tensor, Use, Uses, ValueId},
    pass::{Left, Reason},
    weights::{Channels, ScaleChannels, float_tensor, small_floats, source_tensor},
};

/// What becomes of a product.
pub(super) struct Plan {
    /// The last node that becomes part of it.
    pub last: NodeId,
    /// How many nodes do.
    pub steps: usize,
    /// The weight, when it changes, and its new elements.
    pub weight: Option<(ValueId, Data)>,
    /// The new bias, when there is one.
    pub bias: Option<Tensor>,
    /// The product is a `MatMul` and gets a bias.
    pub becomes_gemm: bool,
    /// The factor of the old bias is part of the new one.
    pub beta_done: bool,
}

pub(super) struct Planner<'m> {
    pub model: &'m Model,
    pub uses: &'m Uses,
    pub facts: &'m Facts,
}

/// A product and where its channels are.
struct Product<'m> {
    node: &'m Node,
    weight: ValueId,
    tensor: &'m Tensor,
    channels: Channels,
    axis: ChannelAxis,
}

/// The nodes after a product that become part of it.
struct Chain {
    last: NodeId,
    steps: usize,
    affine: Affine,
}

impl Planner<'_> {
    /// The plan for `node`.
    ///
    /// # Errors
    /// It stays: nothing fits. Remarks are for what a batch normalization follows; there are
    /// too many other additions and multiplications to speak of each.
    pub(super) fn plan(&self, node: NodeId) -> Result<Plan, Left> {
        let n = &self.model.nodes[node];
        let products = ["Conv", "ConvTranspose", "Gemm", "MatMul"];
        if !products.iter().any(|op| n.is(op)) {
            return Err(Left::Ignored);
        }
        let planned = self.product(n).and_then(|product| {
            let chain = self.chain(node, &product)?;
            self.weights(&product, chain)
        });
        match planned {
            Err(Left::Declined { .. }) if !self.is_normalized(n) => Err(Left::Ignored),
            other => other,
        }
    }

    /// Whether a batch normalization reads the result of `node`.
    fn is_normalized(&self, node: &Node) -> bool {
        let reads = |u: &Use| matches!(*u, Use::Operand(reader, 0) if self.model.nodes[reader].is("BatchNormalization"));
        let result = node.output(0);
        result.is_some_and(|v| self.uses.of_value(v).iter().any(reads))
    }

    fn product<'m>(&'m self, node: &'m Node) -> Result<Product<'m>, Left> {
        let weight = node.input(1).ok_or(Left::Ignored)?;
        let Some(tensor) = source_tensor(self.model, weight) else {
            return Err(match self.model.is_overridable(weight) {
                true => Left::declined(Reason::Overridable, "callers may replace the weight", 0),
                false => Left::declined(Reason::WeightNotConstant, "the weight is computed", 0),
            });
        };
        let dims: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
        let total = tensor.element_count().unwrap_or(0);
        if total == 0 {
            let message = "the weight has no elements";
            return Err(Left::declined(Reason::Empty, message, 0));
        }
        let rank = Left::declined(
            Reason::Rank,
            format!("the weight has {} axes", dims.len()),
            0,
        );
        let channels = match (&*node.op_type, &dims[..]) {
            ("Conv", &[count, _, _, ..]) => Channels {
                run: total / count,
                count,
                group: total,
            },
            ("ConvTranspose", &[inputs, count, _, ..]) => {
                let groups = groups(node, inputs)?;
                Channels {
                    run: total / inputs / count,
                    count,
                    group: total / groups,
                }
            }
            ("Gemm", &[k, n]) => match node.int("transB", 0) {
                Some(0) => columns(k, n),
                Some(_) => Channels {
                    run: n,
                    count: k,
                    group: total,
                },
                None => return Err(attribute("transB")),
            },
            ("MatMul", &[k, n]) => columns(k, n),
            _ => return Err(rank),
        };
        let count = (total / channels.group * channels.count) as usize;
        let axis = self.axis(node, dims.len(), count);
        Ok(Product {
            node,
            weight,
            tensor,
            channels,
            axis,
        })
    }

    fn axis(&self, node: &Node, weight_rank: usize, count: usize) -> ChannelAxis {
        let (from_last, rank, is_second) = match &*node.op_type {
            "Conv" | "ConvTranspose" => (weight_rank - 1, weight_rank, true),
            "Gemm" => (1, 2, true),
            // Of a result of unknown rank, that it has columns is all that is known.
            _ => match self.left_rank(node) {
                Some(rank) => (1, rank.max(1), rank == 2),
                None => (1, 1, false),
            },
        };
        ChannelAxis {
            count,
            from_last,
            rank,
            is_second,
        }
    }

    fn left_rank(&self, node: &Node) -> Option<usize> {
        Some(self.facts.shape(node.input(0)?)?.len())
    }

    /// Follows the result of `product` as long as each channel is multiplied and shifted.
    fn chain(&self, node: NodeId, product: &Product<'_>) -> Result<Chain, Left> {
        let mut chain = Chain {
            last: node,
            steps: 0,
            affine: Affine::identity(product.axis.count),
        };
        loop {
            match self.step(&chain, product) {
                Ok((last, affine)) => {
                    chain = Chain {
                        last,
                        steps: chain.steps + 1,
                        affine,
                    }
                }
                Err(Left::Failed(error)) => return Err(Left::Failed(error)),
                Err(why) if chain.steps == 0 => return Err(why),
                Err(_) => return Ok(chain),
            }
        }
    }

    /// The node after `chain` and what the chain does with it.
    fn step(&self, chain: &Chain, product: &Product<'_>) -> Result<(NodeId, Affine), Left> {
        let result = self.model.nodes[chain.last].output(0);
        let reader = result.and_then(|v| self.uses.only_reader(v));
        // A body may run many times, or not at all.
        let same_graph =
            |&(n, _): &(NodeId, usize)| self.model.nodes[n].graph == product.node.graph;
        let Some((reader, slot)) = reader.filter(same_graph) else {
            let message = "something else reads the result too";
            return Err(Left::declined(Reason::ResultRead, message, 0));
        };
        if self.model.nodes[reader].output(0).is_none() {
            return Err(Left::Ignored);
        }
        let step = Affine::of(self.model, reader, slot, product.axis)?;
        // Only a product of two matrices has a form with a bias.
        let fits = !product.node.is("MatMul") || product.axis.is_second || step.only_scales();
        let affine = chain.affine.then(&step).filter(|_| fits);
        Ok((reader, affine.ok_or(Left::Ignored)?))
    }

    fn weights(&self, product: &Product<'_>, chain: Chain) -> Result<Plan, Left> {
        let node = product.node;
        let opset = self.model.opset(node.graph, "").unwrap_or(0);
        let shifts = !chain.affine.only_scales();
        let is_matmul = node.is("MatMul");
        if is_matmul && chain.affine.only_shifts() && !self.is_normalized(node) {
            return Err(Left::Ignored);
        }
        if opset < 7 && (node.is("Gemm") || is_matmul && shifts) {
            let message = format!("Gemm broadcasts its bias from opset 7, the model has {opset}");
            return Err(Left::declined(Reason::Opset, message, 0));
        }
        Ok(Plan {
            weight: self.weight(product, &chain.affine)?,
            bias: self.bias(product, &chain.affine)?,
            becomes_gemm: is_matmul && shifts,
            beta_done: node.is("Gemm"),
            last: chain.last,
            steps: chain.steps,
        })
    }

    /// The weight's new elements, unless it stays.
    fn weight(
        &self,
        product: &Product<'_>,
        affine: &Affine,
    ) -> Result<Option<(ValueId, Data)>, Left> {
        let tensor = product.tensor;
        let bytes = tensor.byte_len();
        let left = |reason, message: String| Err(Left::declined(reason, message, bytes));
        let types = [DataType::Float, DataType::Float16, DataType::Double];
        if !types.contains(&tensor.dtype) {
            let message = format!("the weight is {}", tensor.dtype);
            return left(Reason::Dtype, message);
        }
        if affine.only_shifts() {
            return Ok(None);
        }
        if self.uses.of_value(product.weight).len() != 1 {
            return left(
                Reason::Shared,
                "something else reads the weight too".to_owned(),
            );
        }
        let Elements::Data(data) = &tensor.elements else {
            return Err(Left::Ignored);
        };
        let factors = affine.scale.clone();
        let recipe = ScaleChannels::new(data, tensor.dtype, product.channels, factors);
        let largest = recipe.largest()?;
        let scaled = largest
            .iter()
            .zip(&affine.scale)
            .map(|(x, s)| (*x, x * s.abs()));
        let range = Range::of(tensor.dtype);
        for (from, to) in scaled {
            if to > range.largest || !from.is_finite() {
                return left(
                    Reason::NonFinite,
                    format!("a scaled element would be {to:e}"),
                );
            }
            if to < range.digits_from && from >= range.digits_from && to > 0.0 {
                let message = format!("scaled elements, {to:e} at most, would lose digits");
                return left(Reason::HalfRange, message);
            }
        }
        Ok(Some((product.weight, recipe.into_data())))
    }

    /// The new bias, unless there is none or it stays.
    fn bias(&self, product: &Product<'_>, affine: &Affine) -> Result<Option<Tensor>, Left> {
        let count = product.axis.count;
        let old = match product.node.input(2) {
            None => vec![0.0; count],
            Some(value) => self.old_bias(product, value)?,
        };
        if product.node.input(2).is_none() && affine.only_scales() {
            return Ok(None);
        }
        let moved = old.iter().zip(&affine.scale).zip(&affine.shift);
        let new: Vec<f64> = moved.map(|((b, s), t)| b * s + t).collect();
        let range = Range::of(product.tensor.dtype);
        if !new.iter().all(|x| x.abs() <= range.largest) {
            let message = "an element of the bias would not be finite";
            return Err(Left::declined(Reason::NonFinite, message, 0));
        }
        let dims = vec![count as i64];
        Ok(Some(float_tensor(product.tensor.dtype, dims, &new)))
    }

    /// What is added to each channel so far.
    fn old_bias(&self, product: &Product<'_>, value: ValueId) -> Result<Vec<f64>, Left> {
        let count = product.axis.count;
        let left = |message: &str| Left::declined(Reason::WeightNotConstant, message, 0);
        let found = small_floats(self.model, value, count as u64)?;
        let (elements, dims) =
            found.ok_or_else(|| left("the bias is computed, or may be replaced"))?;
        let per_channel = dims.last() == Some(&(count as i64)) && elements.len() == count;
        let elements = match elements[..] {
            _ if per_channel => elements,
            [one] if product.node.is("Gemm") => vec![one; count],
            _ => return Err(left("the bias has no element for each channel")),
        };
        if !product.node.is("Gemm") {
            return Ok(elements);
        }
        let beta = product
            .node
            .float("beta", 1.0)
            .ok_or_else(|| attribute("beta"))?;
        Ok(elements.iter().map(|c| c * f64::from(beta)).collect())
    }
}

/// Channels that are the columns of a `[k, n]` matrix.
fn columns(k: u64, n: u64) -> Channels {
    Channels {
        run: 1,
        count: n,
        group: k * n,
    }
}

/// The groups of a `ConvTranspose` with so many input channels.
fn groups(node: &Node, inputs: u64) -> Result<u64, Left> {
    let groups = node.int("group", 1).and_then(|g| u64::try_from(g).ok());
    let fits = groups.filter(|&g| g > 0 && inputs.is_multiple_of(g));
    fits.ok_or_else(|| attribute("group"))
}

fn attribute(name: &str) -> Left {
    let message = format!("its attribute `{name}` is the caller's, or does not fit the weight");
    Left::declined(Reason::Attribute, message, 0)
}

/// The numbers of a type.
struct Range {
    /// What rounds to more than this is infinite.
    largest: f64,
    /// Below this, numbers have fewer digits, where that counts. In float and double they are
    /// too small to add to anything.
    digits_from: f64,
}

impl Range {
    fn of(dtype: DataType) -> Range {
        let (largest, digits_from) = match dtype {
            DataType::Float16 => (65504.0, f64::powi(2.0, -14)),
            DataType::Float => (f32::MAX.into(), 0.0),
            _ => (f64::MAX, 0.0),
        };
        Range {
            largest,
            digits_from,
        }
    }
}
