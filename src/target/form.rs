//! What a target is asked about: one operator with all that can matter to a runtime.

use std::borrow::Cow;

use crate::{
    infer::{Facts, Kind},
    ir::{AttributeValue, DataType, Model, Node, NodeId, ValueId, element_count},
    schema::{self, AttrDefault, OpSchema},
};

/// What is known of one facet of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facet {
    /// An element type: of an input or an output.
    Type(DataType),
    /// A number: an attribute, an extent, a rank.
    Int(i64),
    /// A string attribute, or the type of what is no tensor: `seq(tensor(float))`.
    Text(String),
    /// It is there, and nothing else is known of it.
    Unknown,
}

/// One operator as a runtime meets it.
///
/// Its facets have the names of the operator's schema. An input or output is its element
/// type (`A`, `scales`, `zero_points`), and absent when the node has none. An attribute is
/// its value (`bits`, `block_size`), the schema's default when the node has none. Beyond
/// these there are
///
/// - `NAME.rank`, `NAME.elements` and `NAME.last` of an input or output: how many axes and
///   elements it has, and the extent of its last axis;
/// - `opset`, the version of the operator's domain, and `ir`, that of the model's format;
/// - `blocks`, how many blocks a row of a quantized weight has (`MatMulNBits`,
///   `GatherBlockQuantized`), and `k_rest`, how many elements are left for a last one that is
///   not full;
/// - `padded`, 1 when a convolution has padding, else 0;
/// - `rotated`, 1 when an operand of a `MatMul` is a float16 Transpose that moves the first axis to the last or
///   last but one place, cast to float, or as it is beside a constant;
/// - `NAME.differs` of a constant zero point: 1 when its elements differ, else 0, and then
///   `NAME.value`, what they all are.
///
/// A pass builds the form of what it is about to write, and says what it knows. What it
/// does not mention is absent: `bias` of a form without one is no bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    domain: Cow<'static, str>,
    op_type: Cow<'static, str>,
    facets: Vec<(Cow<'static, str>, Facet)>,
    /// Attributes that the node has, and not only the schema.
    given: Vec<Cow<'static, str>>,
}

/// What the zero points of quantized weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroPoints {
    /// None: the middle of the range.
    Absent,
    /// Codes, packed like the weight.
    Codes,
    /// Numbers of the scales' type.
    Floats,
}

impl Form {
    /// `op_type` of `domain`, nothing known of it but the defaults of its newest schema.
    pub fn operator(domain: &'static str, op_type: &'static str) -> Form {
        let mut form = Form {
            domain: Cow::Borrowed(schema::canonical_domain(domain)),
            op_type: Cow::Borrowed(op_type),
            facets: Vec::new(),
            given: Vec::new(),
        };
        if let Some(schema) = form.schema() {
            form.defaults(schema);
        }
        // A domain with one version leaves no choice.
        if schema::newest_opset(form.domain()) == Some(1) {
            form.set("opset", Facet::Int(1));
        }
        form
    }

    /// `com.microsoft::MatMulNBits` over constant weights. `float` is the type of `A` and
    /// of the scales.
    pub fn matmul_nbits(
        bits: i64,
        block_size: i64,
        float: DataType,
        zero_points: ZeroPoints,
        accuracy_level: i64,
    ) -> Form {
        Form::operator("com.microsoft", "MatMulNBits")
            .types(&[float, DataType::Uint8, float])
            .zero_points(zero_points, DataType::Uint8, float)
            .int("bits", bits)
            .int("block_size", block_size)
            .int("accuracy_level", accuracy_level)
    }

    /// Adds the sizes of a `MatMulNBits`, whose block size is said.
    pub fn sizes(self, k: i64, n: i64) -> Form {
        let mut form = self.int("K", k).int("N", n);
        super::derive::blocks(&mut form, Some(k));
        form
    }

    /// `com.microsoft::GatherBlockQuantized` of a table of `data` type with `blocks` blocks
    /// a row, gathered along axis 0 and quantized along the last one. Floating-point zero
    /// points do not exist.
    pub fn gather_block_quantized(
        data: DataType,
        bits: i64,
        block_size: i64,
        float: DataType,
        zero_points: bool,
        blocks: i64,
    ) -> Form {
        let zero_points = match zero_points {
            true => ZeroPoints::Codes,
            false => ZeroPoints::Absent,
        };
        Form::operator("com.microsoft", "GatherBlockQuantized")
            .types(&[data, DataType::Int64, float])
            .zero_points(zero_points, data, float)
            .int("bits", bits)
            .int("block_size", block_size)
            .int("blocks", blocks)
    }

    fn zero_points(self, zero_points: ZeroPoints, codes: DataType, float: DataType) -> Form {
        match zero_points {
            ZeroPoints::Absent => self,
            ZeroPoints::Codes => self.ty("zero_points", codes),
            ZeroPoints::Floats => self.ty("zero_points", float),
        }
    }

    /// The types of the first inputs, in order, under the names of the schema.
    pub fn types(mut self, types: &[DataType]) -> Form {
        if let Some(schema) = self.schema() {
            for (i, ty) in types.iter().enumerate() {
                if let Some(param) = schema.input(i) {
                    self.set(param.name, Facet::Type(*ty));
                }
            }
        }
        self
    }

    /// The type of the input or output `name`.
    pub fn ty(mut self, name: &'static str, dtype: DataType) -> Form {
        self.set(name, Facet::Type(dtype));
        self
    }

    /// The number `name`: an attribute, `NAME.rank`, or a derived facet. An attribute that has
    /// its default is taken to be left out, because older versions of an operator may lack it.
    pub fn int(mut self, name: &'static str, value: i64) -> Form {
        let attribute = self.schema().and_then(|s| s.attribute(name));
        if attribute.is_some_and(|a| a.default != Some(AttrDefault::Int(value))) {
            self.given.push(name.into());
        }
        self.set(name, Facet::Int(value));
        self
    }

    /// The version of the operator's domain.
    pub fn opset(self, opset: i64) -> Form {
        self.int("opset", opset)
    }

    /// The version of the model's format.
    pub fn ir(self, version: i64) -> Form {
        self.int("ir", version)
    }

    /// The form of `node`, which must not call a local function.
    pub fn of(model: &Model, facts: &Facts, node: NodeId) -> Form {
        let n = &model.nodes[node];
        let mut form = Form {
            domain: Cow::Owned(n.domain().to_owned()),
            op_type: Cow::Owned(n.op_type.to_string()),
            facets: Vec::new(),
            given: Vec::new(),
        };
        let opset = model.opset(n.graph, n.domain());
        form.set("opset", opset.map_or(Facet::Unknown, Facet::Int));
        let ir = model.ir_version;
        form.set("ir", ir.map_or(Facet::Unknown, Facet::Int));
        let schema = opset.and_then(|o| schema::lookup(n.domain(), &n.op_type, o));
        if let Some(schema) = schema {
            form.defaults(schema);
            form.values(facts, n, schema);
            super::derive::zero_points(&mut form, model, n, schema);
        }
        form.attributes(n);
        super::derive::derive(&mut form, model, facts, n);
        form
    }

    /// The attributes that a node has without saying so.
    fn defaults(&mut self, schema: &OpSchema) {
        for attribute in &schema.attributes {
            match &attribute.default {
                Some(AttrDefault::Int(i)) => self.set(attribute.name, Facet::Int(*i)),
                Some(AttrDefault::String(s)) => {
                    self.set(attribute.name, Facet::Text((*s).to_owned()));
                }
                _ => {}
            }
        }
    }

    fn attributes(&mut self, node: &Node) {
        for attribute in &node.attributes {
            let facet = match &attribute.value {
                AttributeValue::Int(i) => Facet::Int(*i),
                AttributeValue::String(s) => Facet::Text(String::from_utf8_lossy(s).into_owned()),
                _ => Facet::Unknown,
            };
            self.set(attribute.name.to_string(), facet);
            self.given.push(attribute.name.to_string().into());
        }
    }

    /// The attributes that the node has, and not only the schema.
    pub(super) fn given(&self) -> impl Iterator<Item = &str> {
        self.given.iter().map(|name| &**name)
    }

    /// Inputs and outputs; of a variadic one the first counts, as runtimes have it.
    fn values(&mut self, facts: &Facts, node: &Node, schema: &'static OpSchema) {
        let params = schema.inputs.iter().zip(&node.inputs);
        let results = schema.outputs.iter().zip(&node.outputs);
        for (param, value) in params.chain(results) {
            // An output that is called like an input has its type.
            if let (Some(value), None) = (*value, self.get(param.name)) {
                self.value(param.name, facts, value);
            }
        }
    }

    fn value(&mut self, name: &'static str, facts: &Facts, value: ValueId) {
        self.set(name, of_kind(facts.kind(value)));
        let int = |number: Option<i64>| number.map_or(Facet::Unknown, Facet::Int);
        let shape = facts.shape(value);
        self.set(format!("{name}.rank"), int(shape.map(|s| s.len() as i64)));
        let last = shape.and_then(|s| s.last()).and_then(|d| d.known());
        self.set(format!("{name}.last"), int(last));
        let elements = facts.dims(value).and_then(|d| element_count(&d));
        let elements = elements.and_then(|e| i64::try_from(e).ok());
        self.set(format!("{name}.elements"), int(elements));
    }

    pub(super) fn set(&mut self, name: impl Into<Cow<'static, str>>, facet: Facet) {
        let name = name.into();
        match self.facets.iter_mut().find(|f| f.0 == name) {
            Some(known) => known.1 = facet,
            None => self.facets.push((name, facet)),
        }
    }

    /// The facet `name`; `None` says that it is absent.
    pub fn get(&self, name: &str) -> Option<&Facet> {
        self.facets.iter().find(|f| f.0 == name).map(|f| &f.1)
    }

    /// The number `name`, when it is known.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Facet::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// Those of the facets `names` that are there, for a message: "`bits` 8, `A` float16".
    pub(super) fn describe(&self, names: impl IntoIterator<Item = &'static str>) -> String {
        let mut parts: Vec<String> = Vec::new();
        for name in names {
            let part = match self.get(name) {
                None => continue,
                Some(Facet::Type(dtype)) => format!("`{name}` {dtype}"),
                Some(Facet::Int(number)) => format!("`{name}` {number}"),
                Some(Facet::Text(text)) => format!("`{name}` {text:?}"),
                Some(Facet::Unknown) => format!("`{name}`"),
            };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.join(", ")
    }

    /// The domain; the default one is `""`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The operator's name.
    pub fn op_type(&self) -> &str {
        &self.op_type
    }

    /// The schema in force: of the opset when it is known, else the newest.
    pub(super) fn schema(&self) -> Option<&'static OpSchema> {
        let opset = self.number("opset").unwrap_or(i64::MAX);
        schema::lookup(&self.domain, &self.op_type, opset)
    }
}

/// The facet of a value of some kind; one that is no tensor is spelled as in the schemas.
fn of_kind(kind: Option<Kind>) -> Facet {
    let text = match kind {
        Some(Kind::Tensor(dtype)) => return Facet::Type(dtype),
        Some(Kind::Sequence(dtype)) => format!("seq(tensor({dtype}))"),
        Some(Kind::OptionalTensor(dtype)) => format!("optional(tensor({dtype}))"),
        Some(Kind::OptionalSequence(dtype)) => format!("optional(seq(tensor({dtype})))"),
        Some(_) | None => return Facet::Unknown,
    };
    Facet::Text(text)
}
