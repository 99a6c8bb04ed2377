//! Reads a model: the header, graphs, nodes and functions.

use std::collections::HashMap;

use bytes::Bytes;

use super::{cursor::Cursor, names::key};
use crate::{
    error::Result,
    ir::{
        Constant, Def, Function, Graph, GraphId, GraphOutput, Model, Node, NodeId, OpsetImport,
        Property, Str, TypeKind, Value, ValueId, ValueInfo,
    },
};

/// Reads the text of a model.
///
/// # Errors
/// The text is malformed, uses a value before its definition, defines one twice, or has
/// elided elements. The message begins with `line:column`.
pub fn parse(text: &str) -> Result<Model> {
    let mut parser = Parser {
        c: Cursor::new(text),
        model: Model::new(0, 0),
        scopes: Vec::new(),
    };
    parser.model()?;
    Ok(parser.model)
}

pub(super) struct Parser<'t> {
    pub(super) c: Cursor<'t>,
    pub(super) model: Model,
    /// Names visible where the parser is, innermost scope last.
    scopes: Vec<HashMap<Str, ValueId>>,
}

/// A name and where it stands.
struct Name {
    text: Str,
    place: usize,
}

/// What `@{...}` holds.
#[derive(Default)]
pub(super) struct Annotations {
    pub(super) doc_string: Option<Str>,
    pub(super) metadata: Vec<Property>,
    pub(super) encoded: Vec<Bytes>,
}

impl Parser<'_> {
    fn model(&mut self) -> Result<()> {
        self.model.ir_version = None;
        self.model.opset_imports = Vec::new();
        if self.c.eat("<") {
            self.header(Self::model_key)?;
        }
        let main = self.model.main;
        self.model.graphs[main].name = Some(self.name("the name of the graph")?.text);
        self.graph(main)?;
        while !self.c.at_end() {
            self.function()?;
        }
        Ok(())
    }

    /// Reads the keys up to `>`; `value` reads the value of one and is false for a key
    /// that it does not know.
    fn header(&mut self, mut value: impl FnMut(&mut Self, &str) -> Result<bool>) -> Result<()> {
        loop {
            let place = self.c.place();
            let key = self.c.identifier("a key")?;
            self.c.expect(":")?;
            if !value(self, key)? {
                return Err(self.c.error_at(place, format!("unknown key `{key}`")));
            }
            if self.c.eat(">") {
                return Ok(());
            }
            if !self.c.eat(",") {
                return Err(self.c.expected("`,` or `>`"));
            }
        }
    }

    fn model_key(&mut self, key: &str) -> Result<bool> {
        match key {
            "ir_version" => self.model.ir_version = Some(self.c.int()?),
            "opset_import" => {
                let opsets = self.opsets()?;
                self.model.opset_imports.extend(opsets);
            }
            "producer_name" => self.model.producer_name = Some(self.string()?),
            "producer_version" => self.model.producer_version = Some(self.string()?),
            "domain" => self.model.domain = Some(self.string()?),
            "model_version" => self.model.model_version = Some(self.c.int()?),
            key::DOC_STRING => self.model.doc_string = Some(self.string()?),
            key::METADATA => {
                let properties = self.properties()?;
                self.model.metadata.extend(properties);
            }
            key::TRAINING_INFO => self.model.training_info = self.encoded()?,
            key::CONFIGURATION => self.model.configuration = self.encoded()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn string(&mut self) -> Result<Str> {
        Ok(self.c.string()?.into())
    }

    fn name(&mut self, what: &str) -> Result<Name> {
        let place = self.c.place();
        let text = self.c.name(what)?.into();
        Ok(Name { text, place })
    }

    fn opsets(&mut self) -> Result<Vec<OpsetImport>> {
        let mut opsets = Vec::new();
        self.c.expect("[")?;
        self.c.list("]", |c| {
            let domain = Some(c.string()?.into());
            c.expect(":")?;
            let version = match c.eat("?") {
                true => None,
                false => Some(c.int()?),
            };
            opsets.push(OpsetImport { domain, version });
            Ok(())
        })?;
        Ok(opsets)
    }

    fn properties(&mut self) -> Result<Vec<Property>> {
        let mut properties = Vec::new();
        self.c.expect("[")?;
        self.c.list("]", |c| {
            let key = c.string()?;
            c.expect(":")?;
            let place = c.place();
            if c.eat("{") {
                let message = "this value was left out when the text was printed: it is computed \
                               while the model is written";
                return Err(c.error_at(place, message));
            }
            properties.push(Property::new(&key, &c.string()?));
            Ok(())
        })?;
        Ok(properties)
    }

    /// Messages that are kept encoded.
    fn encoded(&mut self) -> Result<Vec<Bytes>> {
        let mut messages = Vec::new();
        self.c.expect("[")?;
        self.c.list("]", |c| {
            messages.push(c.bytes()?.into());
            Ok(())
        })?;
        Ok(messages)
    }

    /// Reads `@{...}`, if it stands here; `encoded` is the key that this entity has
    /// besides those that all have.
    pub(super) fn annotations(&mut self, encoded: &str) -> Result<Annotations> {
        let mut out = Annotations::default();
        if !self.c.eat("@{") {
            return Ok(out);
        }
        loop {
            let place = self.c.place();
            let key = self.c.identifier("a key")?;
            self.c.expect(":")?;
            match key {
                key::DOC_STRING => out.doc_string = Some(self.string()?),
                key::METADATA => out.metadata = self.properties()?,
                _ if key == encoded => out.encoded = self.encoded()?,
                _ => return Err(self.c.error_at(place, format!("unknown key `{key}`"))),
            }
            if self.c.eat("}") {
                return Ok(out);
            }
            if !self.c.eat(",") {
                return Err(self.c.expected("`,` or `}`"));
            }
        }
    }

    /// Adds a value to the innermost scope.
    fn define(&mut self, name: &Name, def: Def) -> Result<ValueId> {
        let at = |message: String| Err(self.c.error_at(name.place, message));
        if name.text.is_empty() {
            return at("a value has an empty name".to_owned());
        }
        let scope = self.scopes.last_mut().expect("a graph is being parsed");
        if scope.contains_key(&name.text) {
            return at(format!("value `{}` is defined twice", name.text));
        }
        let id = self.model.values.push(Value {
            name: name.text.clone(),
            def,
            info: None,
            constant: None,
        });
        scope.insert(name.text.clone(), id);
        Ok(id)
    }

    fn lookup(&self, name: &Name) -> Result<ValueId> {
        let mut scopes = self.scopes.iter().rev();
        scopes
            .find_map(|s| s.get(&name.text).copied())
            .ok_or_else(|| {
                let message = format!("value `{}` is not defined before this use", name.text);
                self.c.error_at(name.place, message)
            })
    }

    /// The value of this name in the innermost scope.
    fn own(&self, name: &Name) -> Option<ValueId> {
        self.scopes.last()?.get(&name.text).copied()
    }

    /// Reads a graph from after its name.
    pub(super) fn graph(&mut self, id: GraphId) -> Result<()> {
        self.c.enter()?;
        self.scopes.push(HashMap::new());
        if self.c.eat("(") {
            self.list(")", |p| p.graph_input(id))?;
        }
        self.c.expect("=>")?;
        let mut outputs = Vec::new();
        self.c.expect("(")?;
        self.list(")", |p| {
            outputs.push(p.value_info()?);
            Ok(())
        })?;
        let infos = self.graph_values(id)?;
        let annotations = self.annotations(key::QUANTIZATION)?;
        let graph = &mut self.model.graphs[id];
        graph.doc_string = annotations.doc_string;
        graph.metadata = annotations.metadata;
        graph.quantization_annotations = annotations.encoded;
        self.nodes(id)?;
        for (name, info) in outputs {
            let value = self.lookup(&name)?;
            let output = GraphOutput { value, info };
            self.model.graphs[id].outputs.push(output);
        }
        self.value_infos(id, infos)?;
        self.scopes.pop();
        self.c.leave();
        Ok(())
    }

    /// [`Cursor::list`] for items that need the parser.
    pub(super) fn list(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if self.c.eat(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.c.eat(close) {
                return Ok(());
            }
            if !self.c.eat(",") {
                return Err(self.c.expected(&format!("`,` or `{close}`")));
            }
        }
    }

    /// A name with its type, if that is told.
    fn value_info(&mut self) -> Result<(Name, ValueInfo)> {
        let ty = match self.at_type() {
            true => Some(self.ty()?),
            false => None,
        };
        let name = self.name("a value")?;
        let Annotations {
            doc_string,
            metadata,
            ..
        } = self.annotations("")?;
        let info = ValueInfo {
            ty,
            doc_string,
            metadata,
        };
        Ok((name, info))
    }

    /// A graph input, with its default if it has one.
    fn graph_input(&mut self, graph: GraphId) -> Result<()> {
        let (name, info) = self.value_info()?;
        let value = self.define(&name, Def::Input(graph))?;
        self.model.values[value].info = Some(info.clone());
        self.model.graphs[graph].inputs.push(value);
        if self.c.eat("=") {
            self.initializer(graph, &name, &info)?;
        }
        Ok(())
    }

    /// The elements of a constant, from after `=`.
    fn initializer(&mut self, graph: GraphId, name: &Name, info: &ValueInfo) -> Result<()> {
        let Some(ty) = &info.ty else {
            let message = format!("`{}` has elements, but no type before it", name.text);
            return Err(self.c.error_at(name.place, message));
        };
        let constant = match &ty.kind {
            TypeKind::SparseTensor(t) => {
                Constant::Sparse(Box::new(self.sparse_elements(t, name.place)?))
            }
            _ => Constant::Dense(self.tensor_elements(ty, name.place)?),
        };
        let value = match self.own(name) {
            // Also listed as a graph input.
            Some(v)
                if matches!(self.model.values[v].def, Def::Input(_))
                    && self.model.values[v].constant.is_none() =>
            {
                v
            }
            _ => self.define(name, Def::Initializer(graph))?,
        };
        let graph = &mut self.model.graphs[graph];
        match constant {
            Constant::Dense(_) => graph.initializers.push(value),
            Constant::Sparse(_) => graph.sparse_initializers.push(value),
        }
        self.model.values[value].constant = Some(constant);
        Ok(())
    }

    /// Initializers are made at once; types belong to values that are yet to come.
    fn graph_values(&mut self, graph: GraphId) -> Result<Vec<(Name, ValueInfo)>> {
        let mut infos = Vec::new();
        if self.c.eat("<") {
            self.list(">", |p| {
                let (name, info) = p.value_info()?;
                match p.c.eat("=") {
                    true => p.initializer(graph, &name, &info)?,
                    false => infos.push((name, info)),
                }
                Ok(())
            })?;
        }
        Ok(infos)
    }

    fn value_infos(&mut self, id: GraphId, infos: Vec<(Name, ValueInfo)>) -> Result<()> {
        for (name, info) in infos {
            let value = match self.own(&name) {
                Some(value) if self.model.values[value].info.is_some() => {
                    let again = GraphOutput { value, info };
                    self.model.graphs[id].repeated_value_info.push(again);
                    continue;
                }
                Some(value) => value,
                None => self.define(&name, Def::Nothing(id))?,
            };
            self.model.values[value].info = Some(info);
            self.model.graphs[id].value_info.push(value);
        }
        Ok(())
    }

    fn nodes(&mut self, graph: GraphId) -> Result<()> {
        self.c.expect("{")?;
        while !self.c.eat("}") {
            self.node(graph)?;
        }
        Ok(())
    }

    fn node(&mut self, graph: GraphId) -> Result<()> {
        // Made first: graphs in its attributes refer to it.
        let id = self.model.nodes.push(Node::new(graph, "", ""));
        if self.c.eat("[") {
            let name = self.c.try_name()?.filter(|n| !n.is_empty());
            self.model.nodes[id].name = name.map(Str::from);
            self.c.expect("]")?;
        }
        let outputs = self.operands("=")?;
        let (domain, op_type) = self.operator()?;
        self.model.nodes[id].domain = domain;
        self.model.nodes[id].op_type = op_type;
        if self.c.eat(":") {
            self.model.nodes[id].overload = Some(self.name("the overload")?.text);
        }
        self.node_attributes(id)?;
        self.c.expect("(")?;
        for name in self.operands(")")? {
            let value = name.map(|n| self.lookup(&n)).transpose()?;
            self.model.nodes[id].inputs.push(value);
        }
        if self.model.nodes[id].attributes.is_empty() {
            self.node_attributes(id)?;
        }
        let annotations = self.annotations(key::DEVICES)?;
        let node = &mut self.model.nodes[id];
        node.doc_string = annotations.doc_string;
        node.metadata = annotations.metadata;
        node.device_configurations = annotations.encoded;
        for (slot, name) in outputs.into_iter().enumerate() {
            let def = Def::Node(id, slot as u32);
            let value = name.map(|n| self.define(&n, def)).transpose()?;
            self.model.nodes[id].outputs.push(value);
        }
        self.model.graphs[graph].nodes.push(id);
        Ok(())
    }

    /// Names up to `close`; `""` and nothing before a comma are absent ones. A comma after
    /// the last name does nothing.
    fn operands(&mut self, close: &str) -> Result<Vec<Option<Name>>> {
        let mut names = Vec::new();
        while !self.c.eat(close) {
            let place = self.c.place();
            let name = match self.c.try_name()? {
                Some(text) => Some(Name {
                    text: text.into(),
                    place,
                }),
                None if self.c.peek() == Some(b',') => None,
                None => return Err(self.c.expected(&format!("a value or `{close}`"))),
            };
            names.push(name.filter(|n| !n.text.is_empty()));
            if !self.c.eat(",") {
                self.c.expect(close)?;
                break;
            }
        }
        Ok(names)
    }

    /// `domain.operator`, where the domain may have points itself.
    fn operator(&mut self) -> Result<(Option<Str>, Str)> {
        let mut domain = String::new();
        let mut name = self.c.name("an operator")?;
        while self.c.eat(".") {
            if !domain.is_empty() {
                domain.push('.');
            }
            domain.push_str(&name);
            name = self.c.name("an operator")?;
        }
        let domain = (!domain.is_empty()).then(|| domain.into());
        Ok((domain, name.into()))
    }

    fn node_attributes(&mut self, node: NodeId) -> Result<()> {
        if !self.c.eat("<") {
            return Ok(());
        }
        self.list(">", |p| {
            let name = p.name("an attribute")?.text;
            let attribute = p.attribute(name, Some(node))?;
            p.model.nodes[node].attributes.push(attribute);
            Ok(())
        })
    }

    fn function(&mut self) -> Result<()> {
        let body = self.model.graphs.push(Graph::default());
        let mut f = Function {
            name: "".into(),
            domain: None,
            overload: None,
            attributes: Vec::new(),
            attribute_defaults: Vec::new(),
            opset_imports: Vec::new(),
            body,
        };
        if self.c.eat("<") {
            self.header(|p, key| {
                match key {
                    "domain" => f.domain = Some(p.string()?),
                    "overload" => f.overload = Some(p.string()?),
                    "opset_import" => f.opset_imports.extend(p.opsets()?),
                    key::DOC_STRING => p.model.graphs[body].doc_string = Some(p.string()?),
                    key::METADATA => p.model.graphs[body].metadata = p.properties()?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        f.name = self.name("the name of a function")?.text;
        if self.c.eat("<") {
            self.list(">", |p| {
                let name = p.name("an attribute")?.text;
                match p.c.peek() {
                    Some(b':' | b'=') => f.attribute_defaults.push(p.attribute(name, None)?),
                    _ => f.attributes.push(name),
                }
                Ok(())
            })?;
        }
        // A body sees nothing of the model around it.
        self.scopes.push(HashMap::new());
        let mut infos = Vec::new();
        self.c.expect("(")?;
        self.list(")", |p| {
            let (name, info) = p.value_info()?;
            let value = p.define(&name, Def::Input(body))?;
            p.model.graphs[body].inputs.push(value);
            infos.extend((info != ValueInfo::default()).then_some((name, info)));
            Ok(())
        })?;
        self.c.expect("=>")?;
        self.c.expect("(")?;
        let mut outputs = Vec::new();
        self.list(")", |p| {
            let (Name { text, place }, info) = p.value_info()?;
            let again = Name {
                text: text.clone(),
                place,
            };
            infos.extend((info != ValueInfo::default()).then_some((again, info)));
            outputs.push(Name { text, place });
            Ok(())
        })?;
        let place = self.c.place();
        infos.extend(self.graph_values(body)?);
        let graph = &self.model.graphs[body];
        if !graph.initializers.is_empty() || !graph.sparse_initializers.is_empty() {
            let message = "a function has no initializers; use a Constant node";
            return Err(self.c.error_at(place, message));
        }
        self.nodes(body)?;
        for name in outputs {
            let value = self.lookup(&name)?;
            let info = ValueInfo::default();
            let output = GraphOutput { value, info };
            self.model.graphs[body].outputs.push(output);
        }
        self.value_infos(body, infos)?;
        self.scopes.pop();
        self.model.functions.push(f);
        Ok(())
    }

    /// A new graph inside `owner`.
    pub(super) fn subgraph(&mut self, name: Str, owner: Option<NodeId>) -> Result<GraphId> {
        let id = self.model.graphs.push(Graph {
            name: Some(name),
            owner,
            ..Graph::default()
        });
        self.graph(id)?;
        Ok(id)
    }
}
