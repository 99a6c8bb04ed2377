//! `strip-attrs`: what no runtime reads and what makes loaders refuse a model.

use globset::GlobSet;

use crate::{
    error::Result,
    ir::{
        Attribute, AttributeValue, Callees, Constant, Model, NodeId, Property, SparseTensor, Str,
        Tensor,
    },
    pass::{
        Changed, Left, OptionInfo, OptionKind, Options, Pass, PassContext, PassInfo, plan_nodes,
    },
    schema::{self, Origin},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "strip-attrs",
    summary: "remove attributes that operators do not have, doc strings and metadata",
    doc: DOC,
    options: &[
        OptionInfo {
            name: "keep",
            kind: OptionKind::List,
            default: "",
            help: "keep attributes whose name matches this glob",
        },
        OptionInfo {
            name: "remove",
            kind: OptionKind::List,
            default: "",
            help: "of unknown attributes, remove only those whose name matches this glob; these also \
                   from operators that onnxq does not know",
        },
        OptionInfo {
            name: "doc-strings",
            kind: OptionKind::Flag,
            default: "true",
            help: "remove doc strings",
        },
        OptionInfo {
            name: "metadata",
            kind: OptionKind::Flag,
            default: "true",
            help: "remove the metadata of nodes, values, tensors, graphs and functions",
        },
        OptionInfo {
            name: "model",
            kind: OptionKind::Flag,
            default: "false",
            help: "do the same to the model's own doc string and metadata, which runtimes show to callers",
        },
    ],
    build: |options| Ok(Box::new(StripAttrs::new(options)?)),
};

const DOC: &str = "\
Removes every attribute that the schema of its operator does not define, at the opset that
the model imports. ONNX Runtime refuses a model with such an attribute; exporters leave them
(`hierarchy_tag`). Doc strings and metadata go too, except those of the model itself.

## Scope

All nodes, in subgraphs and local functions too. Calls of local functions keep what the
function declares. An operator that is not known (a custom domain, or an opset newer than
onnxq's table) keeps its attributes, except those named by `remove`.

## Statistics

`attributes`: attributes removed. `texts`: doc strings and metadata entries removed.

## Example

```text
y = Relu <hierarchy_tag = \"encoder/0\"> (x)
y = Relu (x)
```
";

/// The pass with its options.
struct StripAttrs {
    keep: GlobSet,
    remove: Option<GlobSet>,
    doc_strings: bool,
    metadata: bool,
    model: bool,
}

impl StripAttrs {
    fn new(options: &Options) -> Result<StripAttrs> {
        Ok(StripAttrs {
            keep: options.globs("keep")?,
            remove: options
                .has("remove")
                .then(|| options.globs("remove"))
                .transpose()?,
            doc_strings: options.flag("doc-strings"),
            metadata: options.flag("metadata"),
            model: options.flag("model"),
        })
    }

    /// The attributes of `node` that go.
    fn unwanted(&self, model: &Model, functions: &Callees<'_>, node: NodeId) -> Vec<usize> {
        let n = &model.nodes[node];
        let known = known_attributes(model, functions, node);
        let goes = |a: &Attribute| {
            let named = self.remove.as_ref().map(|set| set.is_match(&*a.name));
            let goes = match &known {
                Known::All => false,
                Known::These(known) => !known(&a.name) && named.unwrap_or(true),
                Known::Unknown => named.unwrap_or(false),
            };
            goes && !self.keep.is_match(&*a.name)
        };
        (0..n.attributes.len())
            .filter(|&i| goes(&n.attributes[i]))
            .collect()
    }

    /// Clears a doc string and metadata; how many there were.
    fn strip(&self, doc_string: &mut Option<Str>, metadata: &mut Vec<Property>) -> usize {
        let mut count = 0;
        if self.doc_strings {
            count += usize::from(doc_string.take().is_some());
        }
        if self.metadata {
            count += std::mem::take(metadata).len();
        }
        count
    }

    fn strip_texts(&self, model: &mut Model) -> usize {
        let mut count = 0;
        if self.model {
            count += self.strip(&mut model.doc_string, &mut model.metadata);
        }
        for graph in model.reachable_graphs() {
            // Entries of `value_info` may describe values that nothing makes.
            let listed = model.graphs[graph].value_info.clone();
            for value in model.values_of(graph).into_iter().chain(listed) {
                let value = &mut model.values[value];
                if let Some(info) = &mut value.info {
                    count += self.strip(&mut info.doc_string, &mut info.metadata);
                }
                count += match &mut value.constant {
                    Some(Constant::Dense(tensor)) => self.strip_tensor(tensor),
                    Some(Constant::Sparse(sparse)) => self.strip_sparse(sparse),
                    None => 0,
                };
            }
            for node in model.graphs[graph].nodes.clone() {
                let node = &mut model.nodes[node];
                count += self.strip(&mut node.doc_string, &mut node.metadata);
                node.attributes
                    .iter_mut()
                    .for_each(|a| count += self.strip_attribute(a));
            }
            let g = &mut model.graphs[graph];
            count += self.strip(&mut g.doc_string, &mut g.metadata);
            for listed in g.outputs.iter_mut().chain(&mut g.repeated_value_info) {
                count += self.strip(&mut listed.info.doc_string, &mut listed.info.metadata);
            }
        }
        for function in &mut model.functions {
            let defaults = function.attribute_defaults.iter_mut();
            defaults.for_each(|a| count += self.strip_attribute(a));
        }
        count
    }

    fn strip_attribute(&self, attribute: &mut Attribute) -> usize {
        let own = self.strip(&mut attribute.doc_string, &mut Vec::new());
        own + match &mut attribute.value {
            AttributeValue::Tensor(t) => self.strip_tensor(t),
            AttributeValue::Tensors(list) => list.iter_mut().map(|t| self.strip_tensor(t)).sum(),
            AttributeValue::SparseTensor(s) => self.strip_sparse(s),
            AttributeValue::SparseTensors(list) => {
                list.iter_mut().map(|s| self.strip_sparse(s)).sum()
            }
            _ => 0,
        }
    }

    fn strip_tensor(&self, tensor: &mut Tensor) -> usize {
        self.strip(&mut tensor.doc_string, &mut tensor.metadata)
    }

    fn strip_sparse(&self, sparse: &mut SparseTensor) -> usize {
        let parts = [&mut sparse.values, &mut sparse.indices];
        parts
            .into_iter()
            .flatten()
            .map(|t| self.strip_tensor(t))
            .sum()
    }
}

/// What is known of the attributes an operator takes.
enum Known<'a> {
    /// Whatever it has: the runtime that defines it does not check them.
    All,
    /// These.
    These(Box<dyn Fn(&str) -> bool + 'a>),
    /// Nothing.
    Unknown,
}

fn known_attributes<'a>(model: &'a Model, functions: &Callees<'_>, node: NodeId) -> Known<'a> {
    let n = &model.nodes[node];
    if let Some(called) = functions.called(n) {
        let function = &model.functions[called];
        return Known::These(Box::new(|name| {
            let mut defaults = function.attribute_defaults.iter().map(|a| &a.name);
            function.attributes.iter().any(|a| **a == *name) || defaults.any(|a| **a == *name)
        }));
    }
    let Some(opset) = model.opset(n.graph, n.domain()) else {
        return Known::Unknown;
    };
    match schema::lookup(n.domain(), &n.op_type, opset) {
        _ if schema::is_beyond_table(n.domain(), opset) => Known::Unknown,
        None => Known::Unknown,
        // ONNX Runtime loads its own unchecked operators with any attribute, and some read
        // what no schema lists.
        Some(s) if s.unchecked_attributes && s.origin == Origin::OnnxRuntime => Known::All,
        Some(s) => Known::These(Box::new(|name| s.attribute(name).is_some())),
    }
}

impl Pass for StripAttrs {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let functions = Callees::of(&model.functions);
        let plans = plan_nodes(model, INFO.name, cx, |node| {
            match self.unwanted(model, &functions, node) {
                list if list.is_empty() => Err(Left::Ignored),
                list => Ok(list),
            }
        })?;
        let mut removed = 0;
        for (node, unwanted) in plans {
            removed += unwanted.len();
            let mut index = 0;
            model.nodes[node].attributes.retain(|_| {
                index += 1;
                !unwanted.contains(&(index - 1))
            });
        }
        let texts = self.strip_texts(model);
        cx.count("attributes", removed as u64);
        cx.count("texts", texts as u64);
        Ok(Changed::count(removed + texts))
    }
}
