//! Carries out what was decided.

use crate::{
    ir::{
        Attribute, AttributeValue, Constant, DataType, Def, Elements, Model, Node, NodeId,
        SideTable, Tensor, TypeKind, Use, ValueId, ValueInfo,
        edit::{Edit, remove_unused},
    },
    pass::PassContext,
    weights::{HalfRecipes, source_tensor},
};

use super::{
    plan::{Decided, Decision, Precision},
    range::listed_floats,
};

impl Decision {
    /// The type that the value has in `precision`.
    fn dtype(&self, precision: Precision) -> DataType {
        match precision {
            Precision::Half => DataType::Float16,
            Precision::Float => self.dtype,
        }
    }

    /// What the name of the value cast to `precision` ends in.
    fn suffix(&self, precision: Precision) -> &'static str {
        match self.dtype(precision) {
            DataType::Float16 => "_f16",
            DataType::Bfloat16 => "_bf16",
            DataType::Double => "_f64",
            _ => "_f32",
        }
    }
}

/// Changes the model; how many changes were made.
pub(super) fn commit(model: &mut Model, decided: Decided, cx: &mut PassContext) -> usize {
    let mut commit = Commit {
        recipes: HalfRecipes::default(),
        weights: 0,
        bytes: 0,
        casts: 0,
        changes: 0,
    };
    let copies = commit.copies(model, &decided.decisions);
    for decision in &decided.decisions {
        commit.retype(model, decision);
    }
    commit.connect(model, &decided.decisions, copies);
    cx.count("nodes", decided.nodes);
    cx.count("weights", commit.weights);
    cx.count("bytes", commit.bytes);
    cx.count("casts", commit.casts);
    commit.changes
}

struct Commit {
    recipes: HalfRecipes,
    weights: u64,
    bytes: u64,
    casts: u64,
    changes: usize,
}

impl Commit {
    /// The half copies of constants that stay float for others.
    fn copies(
        &mut self,
        model: &Model,
        decisions: &[Decision],
    ) -> SideTable<ValueId, Option<Tensor>> {
        let mut copies = SideTable::new(None);
        for d in decisions.iter().filter(|d| d.copied) {
            let tensor = constant_tensor(model, d.value);
            copies[d.value] = tensor.map(|t| self.halved(t));
        }
        copies
    }

    /// `tensor` in half precision. One that is not of the type that the model says is left.
    fn halved(&mut self, mut tensor: Tensor) -> Tensor {
        if !tensor.dtype.is_float() || tensor.dtype == DataType::Float16 {
            return tensor;
        }
        self.weights += 1;
        self.bytes += tensor.byte_len();
        if let Elements::Data(data) = &tensor.elements {
            tensor.elements = Elements::Data(self.recipes.convert(data, tensor.dtype));
        }
        tensor.dtype = DataType::Float16;
        // In the typed field, halves would stand in a list of integers.
        tensor.wire.typed = false;
        tensor
    }

    /// Gives a value its new type: in what the model says of it, in its constant, in the
    /// attributes of the node that makes it.
    fn retype(&mut self, model: &mut Model, decision: &Decision) {
        let value = decision.value;
        for u in &decision.half {
            if let Use::Output(graph, index) = *u {
                let info = &mut model.graphs[graph].outputs[index as usize].info;
                halve(info);
            }
        }
        if decision.named == Precision::Half {
            self.changes += 1;
            if let Some(info) = &mut model.values[value].info {
                halve(info);
            }
            let home = model.home(value);
            let repeated = model.graphs[home].repeated_value_info.iter_mut();
            let same = repeated.filter(|e| e.value == value);
            same.for_each(|e| halve(&mut e.info));
        }
        if decision.made == Precision::Half {
            self.changes += 1;
            if let Some(Constant::Dense(tensor)) = &mut model.values[value].constant {
                *tensor = self.halved(tensor.clone());
            }
            if let Def::Node(node, 0) = model.values[value].def {
                self.remake(model, value, node);
            }
        }
    }

    /// Changes the attributes that give the type of what `node` makes.
    fn remake(&mut self, model: &mut Model, value: ValueId, node: NodeId) {
        let n = &model.nodes[node];
        if !n.domain().is_empty() {
            return;
        }
        match &*n.op_type {
            "Cast" => {
                let opset = model.opset(n.graph, "");
                set(
                    &mut model.nodes[node],
                    "to",
                    type_code(opset, DataType::Float16),
                );
            }
            "Constant" => {
                if let Some(tensor) = constant_tensor(model, value) {
                    let tensor = self.halved(tensor);
                    let n = &mut model.nodes[node];
                    n.attributes.retain(|a| !a.name.starts_with("value_"));
                    set(n, "value", AttributeValue::Tensor(Box::new(tensor)));
                }
            }
            "ConstantOfShape" => {
                let tensor = match n.attribute("value") {
                    Some(AttributeValue::Tensor(t)) => (**t).clone(),
                    _ => Tensor::from_f32(vec![1], &[0.0]),
                };
                let tensor = self.halved(tensor);
                set(
                    &mut model.nodes[node],
                    "value",
                    AttributeValue::Tensor(Box::new(tensor)),
                );
            }
            "RandomNormalLike" | "RandomUniformLike" | "EyeLike" | "Bernoulli" => {
                let half = AttributeValue::Int(i64::from(DataType::Float16.code()));
                set(&mut model.nodes[node], "dtype", half);
            }
            _ => {}
        }
    }

    /// Lets every use read the value in the precision it wants.
    fn connect(
        &mut self,
        model: &mut Model,
        decisions: &[Decision],
        mut copies: SideTable<ValueId, Option<Tensor>>,
    ) {
        let mut edit = Edit::new(model);
        // What each value is as its node makes it, and whether that is half.
        let mut made = SideTable::<ValueId, Option<ValueId>>::new(None);
        for d in decisions {
            let mut is = d.value;
            if d.named != d.made {
                let node = self.cast(&edit, d.value, d.dtype(d.named));
                let name = &edit.model().values[d.value].name;
                let name = format!("{name}{}", d.suffix(d.made));
                is = edit.interpose(d.value, node, &name);
            }
            made[d.value] = (d.made == Precision::Half).then_some(is);
            d.any.iter().for_each(|&u| redirect(&mut edit, u, is));
        }
        let mut bypassed = Vec::new();
        for d in decisions {
            let shortcut = d.cast_from.and_then(|s| match s.was_half {
                true => Some(s.value),
                false => made[s.value],
            });
            // It would be cast from half to half.
            if let (Some(half), Precision::Half, Precision::Half) = (shortcut, d.made, d.named) {
                let uses = d.half.iter().chain(&d.any);
                uses.for_each(|&u| redirect(&mut edit, u, half));
                bypassed.push(d.value);
                continue;
            }
            for (precision, uses) in [(Precision::Half, &d.half), (Precision::Float, &d.float)] {
                if precision == d.named || uses.is_empty() {
                    continue;
                }
                let own = edit.model().values[d.value].def;
                let form = match (precision, made[d.value]) {
                    (Precision::Half, Some(half)) => half,
                    (Precision::Half, None) if shortcut.is_some() => shortcut.unwrap_or(d.value),
                    (Precision::Half, None) if copies[d.value].is_some() => {
                        let home = edit.model().home(d.value);
                        let name = format!("{}_f16", edit.model().values[d.value].name);
                        let tensor = copies[d.value].take();
                        self.changes += 1;
                        tensor.map_or(d.value, |t| edit.add_constant(home, &name, t))
                    }
                    (Precision::Float, None) if d.named == Precision::Half => before(&edit, own),
                    _ => {
                        let mut node = self.cast(&edit, d.value, d.dtype(precision));
                        node.inputs = vec![Some(d.value)];
                        let name = &edit.model().values[d.value].name;
                        let name = format!("{name}{}", d.suffix(precision));
                        edit.insert_after(d.value, node, &name)
                    }
                };
                uses.iter().for_each(|&u| redirect(&mut edit, u, form));
            }
        }
        if self.casts > 0 {
            // A model of other domains only has no Cast yet.
            let main = edit.model().main;
            edit.import_opset(main, "", 13);
        }
        edit.finish();
        remove_unused(model, &bypassed);
    }

    /// A `Cast` of `value`, or to it, to `dtype`, without operand.
    fn cast(&mut self, edit: &Edit<'_>, value: ValueId, dtype: DataType) -> Node {
        self.casts += 1;
        self.changes += 1;
        let model = edit.model();
        let home = model.home(value);
        let mut node = Node::new(home, "", "Cast");
        node.name = Some(format!("{}/Cast", model.values[value].name).into());
        let to = type_code(model.opset(home, ""), dtype);
        node.attributes = vec![Attribute::new("to", to)];
        node
    }
}

/// What the Cast that `def` names reads.
fn before(edit: &Edit<'_>, def: Def) -> ValueId {
    let operand = match def {
        Def::Node(cast, _) => edit.model().nodes[cast].input(0),
        _ => None,
    };
    operand.expect("an output made in the other precision is the result of a Cast")
}

fn redirect(edit: &mut Edit<'_>, u: Use, to: ValueId) {
    let model = edit.model_mut();
    match u {
        Use::Operand(node, slot) => model.nodes[node].inputs[slot as usize] = Some(to),
        Use::Output(graph, index) => model.graphs[graph].outputs[index as usize].value = to,
    }
}

/// The constant `value` as a tensor.
fn constant_tensor(model: &Model, value: ValueId) -> Option<Tensor> {
    if let Some(tensor) = source_tensor(model, value) {
        return Some(tensor.clone());
    }
    let node = &model.nodes[model.producer(value)?];
    let elements = listed_floats(node)?;
    let dims = match node.attribute("value_float") {
        Some(_) => Vec::new(),
        None => vec![elements.len() as i64],
    };
    Some(Tensor::from_f32(dims, &elements))
}

/// `to` of a Cast: before opset 6 the name of the type.
fn type_code(opset: Option<i64>, dtype: DataType) -> AttributeValue {
    match opset {
        Some(..6) => AttributeValue::String(dtype.name().to_uppercase().into_bytes().into()),
        _ => AttributeValue::Int(i64::from(dtype.code())),
    }
}

fn set(node: &mut Node, name: &str, value: AttributeValue) {
    match node.attributes.iter_mut().find(|a| &*a.name == name) {
        Some(attribute) => attribute.value = value,
        None => node.attributes.push(Attribute::new(name, value)),
    }
}

fn halve(info: &mut ValueInfo) {
    if let Some(ty) = &mut info.ty
        && let TypeKind::Tensor(tensor) = &mut ty.kind
    {
        tensor.elem = Some(DataType::Float16);
    }
}
