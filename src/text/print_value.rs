//! Writes types, constants and attributes.

use std::fmt;

use super::{elements, names, print::Printer, ramp};
use crate::ir::{
    Attribute, AttributeValue, Constant, Data, DataType, Dim, DimSize, Elements, GraphId, Property,
    SparseTensor, Str, Tensor, TensorType, Type, TypeKind, ValueId, ValueInfo,
};

/// `text` as a string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// `bytes` as a string, or as a byte string when they are not UTF-8.
pub(super) fn quoted_bytes(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return quoted(text);
    }
    let mut out = String::from("b\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// A name, in quotes when it needs them.
pub(super) fn name_text(name: &str) -> String {
    match names::is_plain(name) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// A list of keys and values.
pub(super) fn properties_text(properties: &[Property]) -> String {
    let part = |s: &Option<Str>| quoted(s.as_deref().unwrap_or(""));
    let pair = |p: &Property| format!("{}: {}", part(&p.key), part(&p.value));
    let list: Vec<String> = properties.iter().map(pair).collect();
    format!("[{}]", list.join(", "))
}

impl Printer<'_> {
    pub(super) fn value_info(&mut self, value: ValueId, info: &ValueInfo) -> fmt::Result {
        if let Some(ty) = &info.ty {
            self.ty(ty)?;
            self.out.write_str(" ")?;
        }
        let name = name_text(&self.model.values[value].name);
        self.out.write_str(&name)?;
        self.annotations(&info.doc_string, &info.metadata, None)
    }

    pub(super) fn initializer(&mut self, value: ValueId) -> fmt::Result {
        let name = name_text(&self.model.values[value].name);
        match &self.model.values[value].constant {
            Some(Constant::Dense(tensor)) => {
                self.tensor_type(tensor)?;
                write!(self.out, " {name} = ")?;
                self.elements(tensor)
            }
            Some(Constant::Sparse(sparse)) => {
                self.sparse_type(sparse)?;
                write!(self.out, " {name} = ")?;
                self.sparse_elements(sparse)
            }
            None => unreachable!("an initializer has a constant"),
        }
    }

    fn ty(&mut self, ty: &Type) -> fmt::Result {
        let inner = |p: &mut Self, ty: &Option<Box<Type>>| match ty {
            Some(ty) => p.ty(ty),
            None => Ok(()),
        };
        match &ty.kind {
            TypeKind::Unset => self.out.write_str("?()")?,
            TypeKind::Tensor(t) => self.shaped(t)?,
            TypeKind::SparseTensor(t) => {
                self.out.write_str("sparse_tensor(")?;
                self.shaped(t)?;
                self.out.write_str(")")?;
            }
            TypeKind::Sequence(t) => {
                self.out.write_str("seq(")?;
                inner(self, t)?;
                self.out.write_str(")")?;
            }
            TypeKind::Optional(t) => {
                self.out.write_str("optional(")?;
                inner(self, t)?;
                self.out.write_str(")")?;
            }
            TypeKind::Map(key, value) => {
                write!(self.out, "map({},", element_type(*key))?;
                inner(self, value)?;
                self.out.write_str(")")?;
            }
            TypeKind::Opaque { domain, name } => {
                let present = |s: &Option<Str>| s.clone().filter(|s| !s.is_empty());
                let dotted = |s: &str| match s.split('.').all(names::is_identifier) {
                    true => s.to_owned(),
                    false => quoted(s),
                };
                match (present(domain), present(name)) {
                    (None, None) => self.out.write_str("opaque()")?,
                    (None, Some(name)) => write!(self.out, "opaque({})", dotted(&name))?,
                    (Some(domain), name) => {
                        // A dotted name after a domain is not ONNX's.
                        let name = name.as_deref().unwrap_or("");
                        let name = match names::is_identifier(name) {
                            true => name.to_owned(),
                            false => quoted(name),
                        };
                        write!(self.out, "opaque({},{name})", dotted(&domain))?;
                    }
                }
            }
        }
        match &ty.denotation {
            Some(text) if self.options.extensions && !text.is_empty() => {
                write!(self.out, ":{}", quoted(text))
            }
            _ => Ok(()),
        }
    }

    fn shaped(&mut self, t: &TensorType) -> fmt::Result {
        self.out.write_str(element_type(t.elem))?;
        match &t.shape {
            None => self.out.write_str("[]"),
            Some(dims) => self.dims(dims.iter()),
        }
    }

    fn dims<'d>(&mut self, dims: impl Iterator<Item = &'d Dim>) -> fmt::Result {
        let mut any = false;
        for dim in dims {
            self.out.write_str(if any { "," } else { "[" })?;
            any = true;
            match &dim.size {
                DimSize::Known(n) => write!(self.out, "{n}")?,
                DimSize::Unknown => self.out.write_str("?")?,
                DimSize::Symbol(s) if names::is_identifier(s) => self.out.write_str(s)?,
                DimSize::Symbol(s) => self.out.write_str(&quoted(s))?,
            }
            match &dim.denotation {
                Some(text) if self.options.extensions && !text.is_empty() => {
                    write!(self.out, ":{}", quoted(text))?;
                }
                _ => {}
            }
        }
        self.out.write_str(if any { "]" } else { "" })
    }

    fn numeric_type(&mut self, elem: Option<DataType>, dims: &[i64]) -> fmt::Result {
        self.out.write_str(element_type(elem))?;
        let dims: Vec<Dim> = dims.iter().copied().map(Dim::known).collect();
        self.dims(dims.iter())
    }

    fn tensor_type(&mut self, t: &Tensor) -> fmt::Result {
        self.numeric_type(Some(t.dtype), &t.dims)
    }

    fn sparse_type(&mut self, s: &SparseTensor) -> fmt::Result {
        self.out.write_str("sparse_tensor(")?;
        self.numeric_type(s.values.as_ref().map(|v| v.dtype), &s.dims)?;
        self.out.write_str(")")
    }

    /// A constant in an attribute.
    fn tensor(&mut self, t: &Tensor) -> fmt::Result {
        self.tensor_type(t)?;
        self.out.write_str(" ")?;
        // ONNX reads no quoted name here; nothing refers to it, so it can be left out.
        let shown =
            |name: &&str| !name.is_empty() && (self.options.extensions || names::is_plain(name));
        if let Some(name) = t.name.as_deref().filter(shown) {
            write!(self.out, "{} ", name_text(name))?;
        }
        self.elements(t)
    }

    fn sparse(&mut self, s: &SparseTensor) -> fmt::Result {
        self.sparse_type(s)?;
        self.out.write_str(" = ")?;
        self.sparse_elements(s)
    }

    fn sparse_elements(&mut self, s: &SparseTensor) -> fmt::Result {
        self.out.write_str("{")?;
        if let Some(values) = &s.values {
            self.out.write_str("values: ")?;
            self.tensor(values)?;
        }
        if let Some(indices) = &s.indices {
            let comma = if s.values.is_some() { ", " } else { "" };
            write!(self.out, "{comma}indices: ")?;
            self.tensor(indices)?;
        }
        self.out.write_str("}")
    }

    /// The elements in braces, and what hangs on the constant.
    fn elements(&mut self, t: &Tensor) -> fmt::Result {
        self.out.write_str("{")?;
        match self.element_text(t) {
            Shown::Elided => self.out.write_str("...")?,
            Shown::Unreadable(why) => write!(self.out, "... {}", quoted(&why))?,
            Shown::Ramp(seed) => write!(self.out, "ramp({seed})")?,
            Shown::Strings(strings) => {
                let list: Vec<String> = strings.iter().map(|s| quoted_bytes(s)).collect();
                self.out.write_str(&list.join(","))?;
            }
            Shown::Bytes(count, bytes) => {
                elements::write(self.out, t.dtype, count, &bytes, self.options.extensions)?;
            }
        }
        self.out.write_str("}")?;
        self.annotations(&t.doc_string, &t.metadata, None)
    }

    fn element_text<'t>(&self, t: &'t Tensor) -> Shown<'t> {
        let Some(count) = t.element_count() else {
            return Shown::Unreadable(format!("shape {:?} has no size", t.dims));
        };
        let above = |limit: Option<u64>| limit.is_some_and(|limit| count > limit);
        let data = match &t.elements {
            Elements::Strings(_) if above(self.options.elide_above) => return Shown::Elided,
            Elements::Strings(strings) => return Shown::Strings(strings),
            Elements::Data(data) => data,
        };
        if t.dtype.byte_len(count) != Some(data.len()) {
            return Shown::Unreadable(format!("{} bytes", data.len()));
        }
        let computed = matches!(data, Data::Computed { .. });
        let elide =
            above(self.options.elide_above) || computed && above(self.options.elide_computed_above);
        // A ramp is short however many elements it has.
        if elide && !(self.options.extensions && !computed && begins_as_ramp(t.dtype, count, data))
        {
            return Shown::Elided;
        }
        let bytes = match data.read_all() {
            Ok(bytes) => bytes,
            Err(error) => return Shown::Unreadable(error.chain()),
        };
        let seed = match self.options.extensions {
            true => ramp::recognize(t.dtype, count, &bytes),
            false => None,
        };
        match seed {
            Some(seed) => Shown::Ramp(seed),
            None if elide => Shown::Elided,
            None => Shown::Bytes(count, bytes),
        }
    }

    pub(super) fn attribute(&mut self, a: &Attribute) -> fmt::Result {
        use AttributeValue as V;
        let name = match names::is_identifier(&a.name) {
            true => a.name.to_string(),
            false => quoted(&a.name),
        };
        self.out.write_str(&name)?;
        let word = names::kind_word(a.value.kind());
        if let Some(word) = word.filter(|_| needs_kind(self, &a.value)) {
            write!(self.out, ": {word}")?;
        }
        self.out.write_str(" = ")?;
        let extensions = self.options.extensions;
        match &a.value {
            V::Float(x) => elements::write_f32(self.out, *x, extensions)?,
            V::Int(i) => write!(self.out, "{i}")?,
            V::String(s) => self.out.write_str(&quoted_bytes(s))?,
            V::Tensor(t) => self.tensor(t)?,
            V::Graph(g) => self.subgraph(*g)?,
            V::SparseTensor(s) => self.sparse(s)?,
            V::Type(t) => self.ty(t)?,
            V::Floats(list) => {
                self.list(list, |p, x| elements::write_f32(p.out, *x, extensions))?;
            }
            V::Ints(list) => self.list(list, |p, i| write!(p.out, "{i}"))?,
            V::Strings(list) => self.list(list, |p, s| p.out.write_str(&quoted_bytes(s)))?,
            V::Tensors(list) => self.list(list, |p, t| p.tensor(t))?,
            V::Graphs(list) => self.list(list, |p, g| p.subgraph(*g))?,
            V::SparseTensors(list) => self.list(list, |p, s| p.sparse(s))?,
            V::Types(list) => self.list(list, |p, t| p.ty(t))?,
            V::Reference { name, .. } => write!(self.out, "@{}", name_text(name))?,
        }
        self.annotations(&a.doc_string, &[], None)
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut item: impl FnMut(&mut Self, &T) -> fmt::Result,
    ) -> fmt::Result {
        self.out.write_str("[")?;
        for (i, x) in items.iter().enumerate() {
            self.out.write_str(if i == 0 { "" } else { ", " })?;
            item(self, x)?;
        }
        self.out.write_str("]")
    }

    fn subgraph(&mut self, graph: GraphId) -> fmt::Result {
        let name = self.model.graphs[graph].name.as_deref().unwrap_or("");
        self.out.write_str(&name_text(name))?;
        self.graph(graph)
    }
}

/// What stands in the braces of a constant.
enum Shown<'t> {
    Elided,
    Unreadable(String),
    Ramp(u64),
    Strings(&'t [bytes::Bytes]),
    Bytes(u64, bytes::Bytes),
}

/// Whether the first elements are those of a ramp, so that reading the rest is worth it.
fn begins_as_ramp(dtype: DataType, count: u64, data: &Data) -> bool {
    let Some(len) = dtype.byte_len(ramp::SHORTEST) else {
        return false;
    };
    let mut head = vec![0; len as usize];
    count >= ramp::SHORTEST
        && data.read_at(0, &mut head).is_ok()
        && ramp::recognize(dtype, ramp::SHORTEST, &head).is_some()
}

/// Whether the value alone does not tell its kind, to us or to ONNX's parser.
fn needs_kind(printer: &Printer<'_>, value: &AttributeValue) -> bool {
    use AttributeValue as V;
    match value {
        V::Float(_) | V::Int(_) | V::String(_) | V::Tensor(_) | V::SparseTensor(_) => false,
        V::Graph(g) => {
            let name = printer.model.graphs[*g].name.as_deref().unwrap_or("");
            !names::is_plain(name)
        }
        V::Type(_) => false,
        V::Floats(list) => list.is_empty(),
        V::Ints(list) => list.is_empty(),
        V::Strings(list) => list.is_empty(),
        V::Tensors(_) | V::Graphs(_) | V::SparseTensors(_) | V::Types(_) => true,
        V::Reference { .. } => true,
    }
}

/// The word for an element type.
fn element_type(elem: Option<DataType>) -> &'static str {
    match elem {
        None | Some(DataType::Undefined) => "?",
        Some(elem) => elem.name(),
    }
}
