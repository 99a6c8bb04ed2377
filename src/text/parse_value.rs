//! Reads types, constants and attributes.

use super::{
    cursor::Literal,
    elements,
    names::{self, begins_type},
    parse::Parser,
};
use crate::{
    error::Result,
    ir::{
        Attribute, AttributeKind, AttributeValue, AttributeWire, DataType, Dim, DimSize, NodeId,
        SparseTensor, Str, Tensor, TensorType, TensorWire, Type, TypeKind,
    },
};

impl Parser<'_> {
    /// Whether a type stands here.
    pub(super) fn at_type(&mut self) -> bool {
        self.c.peek() == Some(b'?') || self.c.peek_identifier().is_some_and(begins_type)
    }

    /// Reads a type.
    pub(super) fn ty(&mut self) -> Result<Type> {
        self.c.enter()?;
        let kind = self.type_kind()?;
        self.c.leave();
        Ok(Type {
            kind,
            denotation: self.denotation()?,
        })
    }

    fn denotation(&mut self) -> Result<Option<Str>> {
        match self.c.eat(":") {
            true => Ok(Some(self.string()?)),
            false => Ok(None),
        }
    }

    fn type_kind(&mut self) -> Result<TypeKind> {
        let place = self.c.place();
        if self.c.eat("?") {
            if self.c.eat("(") {
                self.c.expect(")")?;
                return Ok(TypeKind::Unset);
            }
            return Ok(TypeKind::Tensor(self.tensor_type(None)?));
        }
        let word = self.c.identifier("a type")?;
        if let Some(elem) = names::data_type(word) {
            return Ok(TypeKind::Tensor(self.tensor_type(Some(elem))?));
        }
        if !begins_type(word) {
            return Err(self.c.error_at(place, format!("`{word}` is no type")));
        }
        self.c.expect("(")?;
        let kind = match word {
            "seq" => TypeKind::Sequence(self.inner_type()?),
            "optional" => TypeKind::Optional(self.inner_type()?),
            "map" => {
                let key = self.element_type()?;
                self.c.expect(",")?;
                TypeKind::Map(key, self.inner_type()?)
            }
            "sparse_tensor" => {
                let elem = self.element_type()?;
                TypeKind::SparseTensor(self.tensor_type(elem)?)
            }
            _ => self.opaque()?,
        };
        self.c.expect(")")?;
        Ok(kind)
    }

    /// The type in parentheses, if there is one.
    fn inner_type(&mut self) -> Result<Option<Box<Type>>> {
        match self.c.peek() == Some(b')') {
            true => Ok(None),
            false => Ok(Some(Box::new(self.ty()?))),
        }
    }

    fn element_type(&mut self) -> Result<Option<DataType>> {
        if self.c.eat("?") {
            return Ok(None);
        }
        match self.c.peek_identifier().and_then(names::data_type) {
            None => Err(self.c.expected("an element type")),
            elem => {
                self.c.try_identifier();
                Ok(elem)
            }
        }
    }

    /// A type from after its element type. No brackets mean a scalar, empty ones that the
    /// rank is unknown.
    fn tensor_type(&mut self, elem: Option<DataType>) -> Result<TensorType> {
        let mut shape = Vec::new();
        if self.c.eat("[") {
            if self.c.eat("]") {
                return Ok(TensorType { elem, shape: None });
            }
            self.list("]", |p| {
                shape.push(p.dim()?);
                Ok(())
            })?;
        }
        let shape = Some(shape);
        Ok(TensorType { elem, shape })
    }

    fn dim(&mut self) -> Result<Dim> {
        let size = if self.c.eat("?") {
            DimSize::Unknown
        } else if let Some(name) = self.c.try_name()? {
            DimSize::Symbol(name.into())
        } else {
            DimSize::Known(self.c.int()?)
        };
        let denotation = self.denotation()?;
        Ok(Dim { size, denotation })
    }

    fn opaque(&mut self) -> Result<TypeKind> {
        let (mut domain, mut name) = (None, None);
        if self.c.peek() != Some(b')') {
            let mut first = self.c.name("a name")?;
            while self.c.eat(".") {
                first.push('.');
                first.push_str(&self.c.name("a name")?);
            }
            name = Some(Str::from(first));
            if self.c.eat(",") {
                domain = name;
                name = Some(self.c.name("a name")?.into()).filter(|n: &Str| !n.is_empty());
            }
        }
        Ok(TypeKind::Opaque { domain, name })
    }

    /// The constant of type `ty`, which stands at `place`; the elements come next.
    pub(super) fn tensor_elements(&mut self, ty: &Type, place: usize) -> Result<Tensor> {
        let TypeKind::Tensor(t) = &ty.kind else {
            let message = "a constant has a tensor type, such as `float[2,2]`";
            return Err(self.c.error_at(place, message));
        };
        let dims = self.numeric_dims(t, place)?;
        let dtype = t.elem.unwrap_or(DataType::Undefined);
        let elements = elements::read(&mut self.c, dtype, &dims)?;
        let annotations = self.annotations("")?;
        Ok(Tensor {
            name: None,
            dtype,
            dims,
            elements,
            doc_string: annotations.doc_string,
            metadata: annotations.metadata,
            wire: TensorWire::default(),
        })
    }

    fn numeric_dims(&mut self, t: &TensorType, place: usize) -> Result<Vec<i64>> {
        let known = |d: &Dim| match d.size {
            DimSize::Known(n) => Some(n),
            _ => None,
        };
        let dims = t.shape.as_ref().map(|s| s.iter().map(known).collect());
        let dims: Option<Option<Vec<i64>>> = dims;
        dims.flatten().ok_or_else(|| {
            let message = "the extents of a constant are numbers";
            self.c.error_at(place, message)
        })
    }

    /// The sparse constant of type `ty`, which stands at `place`; the elements come next.
    pub(super) fn sparse_elements(
        &mut self,
        ty: &TensorType,
        place: usize,
    ) -> Result<SparseTensor> {
        let mut sparse = SparseTensor {
            values: None,
            indices: None,
            dims: self.numeric_dims(ty, place)?,
        };
        self.c.expect("{")?;
        self.list("}", |p| {
            let place = p.c.place();
            let key = p.c.identifier("`values` or `indices`")?;
            p.c.expect(":")?;
            let part = match key {
                "values" => &mut sparse.values,
                "indices" => &mut sparse.indices,
                _ => return Err(p.c.error_at(place, "expected `values` or `indices`")),
            };
            let place = p.c.place();
            let ty = p.ty()?;
            *part = Some(p.named_tensor(&ty, place)?);
            Ok(())
        })?;
        let elem = sparse.values.as_ref().map(|v| v.dtype);
        let elem = elem.filter(|e| *e != DataType::Undefined);
        match elem == ty.elem {
            true => Ok(sparse),
            false => Err(self
                .c
                .error_at(place, "the values have another element type")),
        }
    }

    /// A constant in an attribute, from after its type.
    fn named_tensor(&mut self, ty: &Type, place: usize) -> Result<Tensor> {
        let name = self.c.try_name()?.filter(|n| !n.is_empty());
        self.c.eat("=");
        let mut tensor = self.tensor_elements(ty, place)?;
        tensor.name = name.map(Str::from);
        Ok(tensor)
    }

    /// An attribute, from after its name.
    pub(super) fn attribute(&mut self, name: Str, owner: Option<NodeId>) -> Result<Attribute> {
        let mut declared = None;
        if self.c.eat(":") {
            let place = self.c.place();
            let word = self.c.identifier("an attribute type")?;
            let kind = names::kind_of_word(word);
            let unknown = || format!("`{word}` is no attribute type");
            declared = Some(kind.ok_or_else(|| self.c.error_at(place, unknown()))?);
        }
        self.c.expect("=")?;
        let place = self.c.place();
        let value = if self.c.eat("@") {
            AttributeValue::Reference {
                name: self.c.name("an attribute of the function")?.into(),
                kind: declared.unwrap_or(AttributeKind::Undefined),
            }
        } else if self.c.eat("[") {
            let mut items = Vec::new();
            self.list("]", |p| {
                let place = p.c.place();
                let value = p.single_value(declared == Some(AttributeKind::Floats), owner)?;
                items.push((place, value));
                Ok(())
            })?;
            self.list_value(place, declared, items)?
        } else {
            self.single_value(declared == Some(AttributeKind::Float), owner)?
        };
        let kind = value.kind();
        if let Some(declared) = declared.filter(|d| *d != kind) {
            let message = format!("declared as {declared:?}, but the value is {kind:?}");
            return Err(self.c.error_at(place, message));
        }
        Ok(Attribute {
            name,
            value,
            doc_string: self.annotations("")?.doc_string,
            wire: AttributeWire::default(),
        })
    }

    /// A value that is no list; `float`: an integer is a float too.
    fn single_value(&mut self, float: bool, owner: Option<NodeId>) -> Result<AttributeValue> {
        use AttributeValue as V;
        let place = self.c.place();
        if self.c.at_bytes() {
            let bytes = self.c.bytes()?;
            if self.c.peek() != Some(b'(') {
                return Ok(V::String(bytes.into()));
            }
            let name = String::from_utf8(bytes)
                .map_err(|_| self.c.error_at(place, "the name of a graph is not UTF-8"))?;
            return Ok(V::Graph(self.subgraph(name.into(), owner)?));
        }
        if self.c.at_number() {
            let literal = self.c.literal()?;
            let Literal::Int(text) = literal else {
                return Ok(V::Float(elements::f32_of(&self.c, place, &literal)?));
            };
            if float {
                return Ok(V::Float(elements::f32_of(&self.c, place, &literal)?));
            }
            let int = text.parse().map_err(|_| {
                let message = format!("`{text}` does not fit in 64 bits");
                self.c.error_at(place, message)
            })?;
            return Ok(V::Int(int));
        }
        if self.at_type() {
            let ty = self.ty()?;
            let elements = matches!(self.c.peek(), Some(b'{' | b'=' | b'"'))
                || self.c.peek_identifier().is_some();
            return Ok(match &ty.kind {
                _ if !elements => V::Type(Box::new(ty)),
                TypeKind::SparseTensor(t) => {
                    self.c.eat("=");
                    V::SparseTensor(Box::new(self.sparse_elements(t, place)?))
                }
                _ => V::Tensor(Box::new(self.named_tensor(&ty, place)?)),
            });
        }
        match self.c.try_identifier() {
            Some(name) => Ok(V::Graph(self.subgraph(name.into(), owner)?)),
            None => Err(self.c.expected("a value")),
        }
    }

    /// The list of `items`, which begins at `place`.
    fn list_value(
        &mut self,
        place: usize,
        declared: Option<AttributeKind>,
        items: Vec<(usize, AttributeValue)>,
    ) -> Result<AttributeValue> {
        use AttributeKind as K;
        use AttributeValue as V;
        let Some((_, first)) = items.first() else {
            return match declared {
                Some(K::Floats) => Ok(V::Floats(Vec::new())),
                Some(K::Ints) => Ok(V::Ints(Vec::new())),
                Some(K::Strings) => Ok(V::Strings(Vec::new())),
                Some(K::Tensors) => Ok(V::Tensors(Vec::new())),
                Some(K::Graphs) => Ok(V::Graphs(Vec::new())),
                Some(K::SparseTensors) => Ok(V::SparseTensors(Vec::new())),
                Some(K::Types) => Ok(V::Types(Vec::new())),
                Some(kind) => Err(self.c.error_at(place, format!("{kind:?} is no list"))),
                None => Err(self.c.error_at(
                    place,
                    "an empty list needs its type, such as `name: floats = []`",
                )),
            };
        };
        let kind = first.kind();
        let mut list = match kind {
            K::Float => V::Floats(Vec::new()),
            K::Int => V::Ints(Vec::new()),
            K::String => V::Strings(Vec::new()),
            K::Tensor => V::Tensors(Vec::new()),
            K::Graph => V::Graphs(Vec::new()),
            K::SparseTensor => V::SparseTensors(Vec::new()),
            _ => V::Types(Vec::new()),
        };
        for (place, item) in items {
            let found = item.kind();
            match (&mut list, item) {
                (V::Floats(list), V::Float(x)) => list.push(x),
                (V::Ints(list), V::Int(x)) => list.push(x),
                (V::Strings(list), V::String(x)) => list.push(x),
                (V::Tensors(list), V::Tensor(x)) => list.push(*x),
                (V::Graphs(list), V::Graph(x)) => list.push(x),
                (V::SparseTensors(list), V::SparseTensor(x)) => list.push(*x),
                (V::Types(list), V::Type(x)) => list.push(*x),
                _ => {
                    let message = format!("{found:?} in a list that begins with {kind:?}");
                    return Err(self.c.error_at(place, message));
                }
            }
        }
        Ok(list)
    }
}
