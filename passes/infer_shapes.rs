//! `infer-shapes`: writes down what is inferred of the values.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    error::Result,
    infer::{Facts, Kind, SymInt},
    ir::{Def, Dim, DimSize, GraphId, Model, Str, TensorType, Type, TypeKind, ValueId, ValueInfo},
    pass::{Changed, Pass, PassContext, PassInfo, Remark},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "infer-shapes",
    summary: "write element types and extents of all values into value_info",
    doc: DOC,
    options: &[],
    build: |_| Ok(Box::new(InferShapes)),
};

const DOC: &str = "\
Infers element types and extents from the inputs on, through every operator of the table,
and writes them into `value_info`. Extents that callers choose stay names; what is computed
from them is written as an expression over these names (`past + sequence`, `2*sequence + 1`),
and equal expressions are equal extents. What the model declares already is only completed:
where an extent or type is missing, or a name turns out to be a number.

## Scope

Results of nodes in the main graph and in subgraphs, and the model's outputs. Local functions are
followed at each call, and get no entries of their own. Operators that are not known leave
their results undescribed, unless the model declares them. Where operands do not fit each
other, or a result is not what it is declared to be, there is a remark (`contradiction`), and
what is declared stays.

## Statistics

`values`: entries written or completed. `static`: values all of whose extents are numbers,
`dynamic`: values of known rank with other extents, `unknown`: values of unknown rank.

## Example

```text
y = Concat <axis = 1> (past, x)            float[batch,past,64] past, float[batch,sequence,64] x
<float[batch,past + sequence,64] y>
```
";

struct InferShapes;

impl Pass for InferShapes {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let facts = cx.facts(model);
        for conflict in facts.conflicts() {
            cx.remarks
                .push(Remark::contradiction(model, INFO.name, conflict));
        }
        let describe = Describe {
            names: model.extent_names(),
            facts,
        };
        let mut written = Vec::new();
        for graph in model.reachable_graphs() {
            if model.function_of(graph).is_none() {
                describe.graph(model, graph, &mut written);
            }
        }
        for ty in written.iter().map(|w| &w.ty) {
            let shape = ty.as_tensor().and_then(|t| t.shape.as_ref());
            let known = |dim: &Dim| matches!(dim.size, DimSize::Known(_));
            cx.count(
                "static",
                u64::from(shape.is_some_and(|s| s.iter().all(known))),
            );
            cx.count(
                "dynamic",
                u64::from(shape.is_some_and(|s| !s.iter().all(known))),
            );
            cx.count("unknown", u64::from(shape.is_none()));
        }
        written.retain(|w| w.changed);
        cx.limit(&mut written);
        cx.count("values", written.len() as u64);
        for entry in &written {
            entry.write(model);
        }
        Ok(Changed::count(written.len()))
    }
}

/// The type of a value as it will be declared.
struct Entry {
    place: Place,
    ty: Type,
    changed: bool,
}

/// Where a declared type stands.
#[derive(Clone, Copy)]
enum Place {
    Info(GraphId, ValueId),
    Output(GraphId, usize),
}

impl Entry {
    fn write(&self, model: &mut Model) {
        let info = match self.place {
            Place::Output(graph, index) => &mut model.graphs[graph].outputs[index].info,
            Place::Info(graph, value) => {
                if model.values[value].info.is_none() {
                    model.graphs[graph].value_info.push(value);
                }
                model.values[value].info.get_or_insert_default()
            }
        };
        info.ty = Some(self.ty.clone());
    }
}

struct Describe {
    facts: Arc<Facts>,
    names: BTreeSet<Str>,
}

impl Describe {
    fn graph(&self, model: &Model, graph: GraphId, out: &mut Vec<Entry>) {
        let g = &model.graphs[graph];
        let results = g
            .nodes
            .iter()
            .flat_map(|&n| model.nodes[n].outputs.iter().flatten().copied());
        let outputs: BTreeSet<ValueId> = g.outputs.iter().map(|o| o.value).collect();
        for value in results {
            let info = model.values[value].info.as_ref();
            // An output is described as such.
            if info.is_some() || !outputs.contains(&value) {
                out.extend(self.entry(Place::Info(graph, value), value, info));
            }
        }
        for (index, output) in g.outputs.iter().enumerate() {
            // What a subgraph passes on from outside is described there.
            if model.home(output.value) == graph
                && matches!(model.values[output.value].def, Def::Node(..))
            {
                out.extend(self.entry(
                    Place::Output(graph, index),
                    output.value,
                    Some(&output.info),
                ));
            }
        }
    }

    fn entry(&self, place: Place, value: ValueId, info: Option<&ValueInfo>) -> Option<Entry> {
        let declared = info.and_then(|i| i.ty.as_ref());
        let ty = match declared {
            None => self.inferred(value)?,
            Some(declared) => self.completed(declared, value),
        };
        Some(Entry {
            changed: declared != Some(&ty),
            place,
            ty,
        })
    }

    fn inferred(&self, value: ValueId) -> Option<Type> {
        let tensor = |elem| {
            let extents = self.facts.shape(value);
            let dims = |e: &[SymInt]| e.iter().map(|d| self.dim(d)).collect();
            Type::from(TensorType {
                elem: Some(elem),
                shape: extents.map(dims),
            })
        };
        let plain = |kind| Type {
            kind,
            denotation: None,
        };
        let of = |elem| {
            Box::new(Type::from(TensorType {
                elem: Some(elem),
                shape: None,
            }))
        };
        let kind = match self.facts.kind(value)? {
            Kind::Tensor(elem) => return Some(tensor(elem)),
            Kind::Sequence(elem) => TypeKind::Sequence(Some(of(elem))),
            Kind::OptionalTensor(elem) => TypeKind::Optional(Some(of(elem))),
            Kind::OptionalSequence(elem) => {
                TypeKind::Optional(Some(Box::new(plain(TypeKind::Sequence(Some(of(elem)))))))
            }
            Kind::Other => return None,
        };
        Some(plain(kind))
    }

    /// `declared` with what it leaves out.
    fn completed(&self, declared: &Type, value: ValueId) -> Type {
        let mut ty = declared.clone();
        let Some(inferred) = self.inferred(value) else {
            return ty;
        };
        if matches!(ty.kind, TypeKind::Unset) {
            ty.kind = inferred.kind;
            return ty;
        }
        let (TypeKind::Tensor(ty_tensor), TypeKind::Tensor(found)) = (&mut ty.kind, inferred.kind)
        else {
            return ty;
        };
        ty_tensor.elem = ty_tensor.elem.or(found.elem);
        match (&mut ty_tensor.shape, found.shape) {
            (shape @ None, Some(found)) => *shape = Some(found),
            (Some(dims), Some(found)) if dims.len() == found.len() => {
                for (dim, found) in dims.iter_mut().zip(found) {
                    let says_more = matches!(
                        (&dim.size, &found.size),
                        (DimSize::Unknown, DimSize::Known(_) | DimSize::Symbol(_))
                            | (DimSize::Symbol(_), DimSize::Known(_))
                    );
                    if says_more {
                        dim.size = found.size;
                    }
                }
            }
            _ => {}
        }
        ty
    }

    /// An extent as the format has it. An expression that reads like a name of the model's own
    /// gets brackets, because it need not be the same.
    fn dim(&self, extent: &SymInt) -> Dim {
        let size = match (extent.known(), extent.name()) {
            (Some(n), _) if n >= 0 => DimSize::Known(n),
            (Some(_), _) => DimSize::Unknown,
            (None, Some(name)) => DimSize::Symbol(name),
            (None, None) if !extent.is_named() => DimSize::Unknown,
            (None, None) => {
                let mut text = extent.to_string();
                while self.names.contains(text.as_str()) {
                    text = format!("({text})");
                }
                DimSize::Symbol(text.into())
            }
        };
        Dim {
            size,
            denotation: None,
        }
    }
}
