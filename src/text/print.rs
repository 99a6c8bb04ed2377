//! Writes a model as text: the header, graphs, nodes and functions.

use std::fmt::{self, Write};

use super::{
    names::{self, key},
    print_value::{name_text, properties_text, quoted, quoted_bytes},
};
use crate::ir::{
    Data, Function, Graph, GraphId, Model, Node, OpsetImport, Property, Str, ValueId, ValueInfo,
};

/// Longer signatures get a line for each value.
const LINE: usize = 100;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrintOptions {
    /// Constants of more elements than this are printed as `{...}`, which cannot be read
    /// back.
    pub elide_above: Option<u64>,
    /// The same for constants that a recipe would have to compute.
    pub elide_computed_above: Option<u64>,
    /// Print what only onnxq reads; without it the text is what ONNX's own parser reads,
    /// as far as the model allows. See the [module](super).
    pub extensions: bool,
}

impl Default for PrintOptions {
    fn default() -> Self {
        PrintOptions {
            elide_above: None,
            // A block of codes and scales that a person can still check; computing it
            // reads a few pages at most.
            elide_computed_above: Some(4096),
            extensions: true,
        }
    }
}

/// The text of `model`.
pub fn print(model: &Model, options: &PrintOptions) -> String {
    let mut out = String::new();
    write(model, options, &mut out).expect("writing to a string succeeds");
    out
}

/// Writes the text of `model` to `out`.
///
/// # Errors
/// Those of `out`. A constant that cannot be read is printed as `{... "why"}`.
pub fn write(model: &Model, options: &PrintOptions, out: &mut dyn Write) -> fmt::Result {
    let mut printer = Printer {
        out,
        model,
        options,
        indent: 0,
    };
    printer.model()
}

pub(super) struct Printer<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) model: &'a Model,
    pub(super) options: &'a PrintOptions,
    pub(super) indent: usize,
}

impl Printer<'_> {
    /// What `print` would write, as a string.
    fn text(
        &self,
        print: impl FnOnce(&mut Printer<'_>) -> fmt::Result,
    ) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let mut printer = Printer {
            out: &mut out,
            model: self.model,
            options: self.options,
            indent: self.indent,
        };
        print(&mut printer)?;
        Ok(out)
    }

    /// A line break, and the indentation of the next line.
    pub(super) fn line(&mut self) -> fmt::Result {
        write!(self.out, "\n{:1$}", "", self.indent)
    }

    fn model(&mut self) -> fmt::Result {
        let m = self.model;
        let mut header = Vec::new();
        let int = |key: &str, value: Option<i64>| value.map(|v| format!("{key}: {v}"));
        header.extend(int("ir_version", m.ir_version));
        header.push(opsets(&m.opset_imports));
        header.extend(text_entry("producer_name", &m.producer_name));
        header.extend(text_entry("producer_version", &m.producer_version));
        header.extend(text_entry("domain", &m.domain));
        header.extend(int("model_version", m.model_version));
        header.extend(text_entry(key::DOC_STRING, &m.doc_string));
        header.extend(self.model_metadata());
        if self.options.extensions {
            header.extend(encoded(key::TRAINING_INFO, &m.training_info));
            header.extend(encoded(key::CONFIGURATION, &m.configuration));
        }
        self.header(&header)?;
        let graph = &m.graphs[m.main];
        self.out
            .write_str(&name_text(graph.name.as_deref().unwrap_or("")))?;
        self.graph(m.main)?;
        for function in &m.functions {
            self.function(function)?;
        }
        self.out.write_str("\n")
    }

    /// The computed entries come last, as in the file.
    fn model_metadata(&self) -> Option<String> {
        let m = self.model;
        let mut text = properties_text(&m.metadata);
        if !self.options.extensions || m.computed_metadata.is_empty() {
            return (!m.metadata.is_empty()).then(|| format!("{}: {text}", key::METADATA));
        }
        text.pop();
        for (i, (key, value)) in m.computed_metadata.iter().enumerate() {
            let comma = if i == 0 && m.metadata.is_empty() {
                ""
            } else {
                ", "
            };
            // The value may depend on the whole input, so only what is there is printed.
            let value = match value {
                Data::Bytes(bytes) => quoted_bytes(bytes),
                _ => "{...}".to_owned(),
            };
            text.push_str(&format!("{comma}{}: {value}", quoted(key)));
        }
        Some(format!("{}: {text}]", key::METADATA))
    }

    fn header(&mut self, entries: &[String]) -> fmt::Result {
        writeln!(self.out, "<\n   {}\n>", entries.join(",\n   "))
    }

    fn function(&mut self, f: &Function) -> fmt::Result {
        self.out.write_str("\n\n")?;
        let body = &self.model.graphs[f.body];
        let mut header = Vec::new();
        header.push(format!(
            "domain: {}",
            quoted(f.domain.as_deref().unwrap_or(""))
        ));
        header.extend(text_entry("overload", &f.overload));
        header.push(opsets(&f.opset_imports));
        header.extend(text_entry(key::DOC_STRING, &body.doc_string));
        if self.options.extensions {
            header.extend(metadata(&body.metadata));
        }
        self.header(&header)?;
        self.out.write_str(&name_text(&f.name))?;
        self.out.write_str(" ")?;
        if !f.attributes.is_empty() || !f.attribute_defaults.is_empty() {
            self.out.write_str("<")?;
            let names = f.attributes.iter();
            self.out
                .write_str(&names.map(|a| name_text(a)).collect::<Vec<_>>().join(", "))?;
            for (i, default) in f.attribute_defaults.iter().enumerate() {
                if i > 0 || !f.attributes.is_empty() {
                    self.out.write_str(", ")?;
                }
                self.attribute(default)?;
            }
            self.out.write_str("> ")?;
        }
        let name = |v: ValueId| name_text(&self.model.values[v].name);
        let inputs = body.inputs.iter().map(|&v| name(v)).collect();
        let outputs = body.outputs.iter().map(|o| name(o.value)).collect();
        self.signature(inputs, outputs)?;
        self.values(body)?;
        // The texts of the body stand in the header.
        self.nodes(body)
    }

    /// A graph, from after its name.
    pub(super) fn graph(&mut self, id: GraphId) -> fmt::Result {
        let graph = &self.model.graphs[id];
        let mut inputs = Vec::new();
        for &value in &graph.inputs {
            let default = ValueInfo::default();
            let info = self.model.values[value].info.as_ref().unwrap_or(&default);
            inputs.push(self.text(|p| p.value_info(value, info))?);
        }
        let mut outputs = Vec::new();
        for output in &graph.outputs {
            outputs.push(self.text(|p| p.value_info(output.value, &output.info))?);
        }
        self.out.write_str(" ")?;
        self.signature(inputs, outputs)?;
        self.values(graph)?;
        let encoded = encoded(key::QUANTIZATION, &graph.quantization_annotations);
        self.annotations(&graph.doc_string, &graph.metadata, encoded)?;
        self.nodes(graph)
    }

    fn signature(&mut self, inputs: Vec<String>, outputs: Vec<String>) -> fmt::Result {
        let length = |list: &[String]| list.iter().map(|s| s.len() + 2).sum::<usize>();
        let short = self.indent + length(&inputs) + length(&outputs) < LINE;
        self.parenthesized(&inputs, short)?;
        self.out.write_str(" => ")?;
        self.parenthesized(&outputs, short)
    }

    fn parenthesized(&mut self, items: &[String], short: bool) -> fmt::Result {
        if short || items.is_empty() {
            return write!(self.out, "({})", items.join(", "));
        }
        self.out.write_str("(")?;
        self.indent += 3;
        for (i, item) in items.iter().enumerate() {
            self.out.write_str(if i == 0 { "" } else { "," })?;
            self.line()?;
            self.out.write_str(item)?;
        }
        self.indent -= 3;
        self.line()?;
        self.out.write_str(")")
    }

    /// Initializers and `value_info`, a line each.
    fn values(&mut self, graph: &Graph) -> fmt::Result {
        let mut first = true;
        let mut begin = |p: &mut Self| {
            p.out.write_str(if first { " <" } else { "," })?;
            p.indent += if first { 3 } else { 0 };
            first = false;
            p.line()
        };
        for &value in graph.initializers.iter().chain(&graph.sparse_initializers) {
            begin(self)?;
            self.initializer(value)?;
        }
        for &value in &graph.value_info {
            begin(self)?;
            let default = ValueInfo::default();
            let info = self.model.values[value].info.as_ref();
            self.value_info(value, info.unwrap_or(&default))?;
        }
        for again in &graph.repeated_value_info {
            begin(self)?;
            self.value_info(again.value, &again.info)?;
        }
        if !first {
            self.indent -= 3;
            self.line()?;
            self.out.write_str(">")?;
        }
        Ok(())
    }

    fn nodes(&mut self, graph: &Graph) -> fmt::Result {
        self.out.write_str(" {")?;
        self.indent += 3;
        for &node in &graph.nodes {
            self.line()?;
            self.node(&self.model.nodes[node])?;
        }
        self.indent -= 3;
        self.line()?;
        self.out.write_str("}")
    }

    fn node(&mut self, n: &Node) -> fmt::Result {
        let names = |list: &[Option<ValueId>]| -> String {
            let name = |v: &Option<ValueId>| match v {
                Some(v) => name_text(&self.model.values[*v].name),
                None => "\"\"".to_owned(),
            };
            list.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        let (inputs, outputs) = (names(&n.inputs), names(&n.outputs));
        if let Some(name) = n.name.as_deref().filter(|s| !s.is_empty()) {
            write!(self.out, "[{}] ", name_text(name))?;
        }
        if !outputs.is_empty() {
            write!(self.out, "{outputs} ")?;
        }
        self.out.write_str("= ")?;
        if let Some(domain) = n.domain.as_deref().filter(|s| !s.is_empty()) {
            match domain.split('.').all(names::is_identifier) {
                true => write!(self.out, "{domain}.")?,
                false => write!(self.out, "{}.", quoted(domain))?,
            }
        }
        self.out.write_str(&identifier_text(&n.op_type))?;
        if let Some(overload) = n.overload.as_deref().filter(|s| !s.is_empty()) {
            write!(self.out, ":{}", identifier_text(overload))?;
        }
        let nested = n.subgraphs().next().is_some();
        if !nested && !n.attributes.is_empty() {
            self.out.write_str(" <")?;
            for (i, attribute) in n.attributes.iter().enumerate() {
                self.out.write_str(if i == 0 { "" } else { ", " })?;
                self.attribute(attribute)?;
            }
            self.out.write_str(">")?;
        }
        write!(self.out, " ({inputs})")?;
        if nested {
            self.out.write_str(" <")?;
            self.indent += 3;
            for (i, attribute) in n.attributes.iter().enumerate() {
                self.out.write_str(if i == 0 { "" } else { "," })?;
                self.line()?;
                self.attribute(attribute)?;
            }
            self.indent -= 3;
            self.line()?;
            self.out.write_str(">")?;
        }
        let encoded = encoded(key::DEVICES, &n.device_configurations);
        self.annotations(&n.doc_string, &n.metadata, encoded)
    }

    /// What hangs on an entity.
    pub(super) fn annotations(
        &mut self,
        doc_string: &Option<Str>,
        properties: &[Property],
        encoded: Option<String>,
    ) -> fmt::Result {
        let doc_string = text_entry(key::DOC_STRING, doc_string);
        let entries = doc_string.into_iter().chain(metadata(properties));
        let entries: Vec<String> = entries.chain(encoded).collect();
        match self.options.extensions && !entries.is_empty() {
            true => write!(self.out, " @{{{}}}", entries.join(", ")),
            false => Ok(()),
        }
    }
}

/// Where only an identifier can stand, words that begin a type need no quotes.
fn identifier_text(name: &str) -> String {
    match names::is_identifier(name) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

fn text_entry(key: &str, value: &Option<Str>) -> Option<String> {
    let value = value.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{key}: {}", quoted(value)))
}

fn metadata(properties: &[Property]) -> Option<String> {
    (!properties.is_empty()).then(|| format!("{}: {}", key::METADATA, properties_text(properties)))
}

fn encoded(key: &str, messages: &[bytes::Bytes]) -> Option<String> {
    let list: Vec<String> = messages.iter().map(|m| quoted_bytes(m)).collect();
    (!list.is_empty()).then(|| format!("{key}: [{}]", list.join(", ")))
}

fn opsets(imports: &[OpsetImport]) -> String {
    let opset = |o: &OpsetImport| {
        let version = o.version.map_or("?".to_owned(), |v| v.to_string());
        format!("{} : {version}", quoted(o.domain.as_deref().unwrap_or("")))
    };
    let list: Vec<String> = imports.iter().map(opset).collect();
    format!("opset_import: [{}]", list.join(", "))
}
