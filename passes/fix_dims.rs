//! `fix-dims`: gives extents that callers choose a number.

use crate::{
    error::{Error, Result},
    ir::{Dim, DimSize, Model, Type, TypeKind, ValueInfo},
    pass::{Changed, OptionInfo, OptionKind, Options, Pass, PassContext, PassInfo},
};

/// The registry's entry.
pub(super) static INFO: PassInfo = PassInfo {
    name: "fix-dims",
    summary: "give extents that callers choose a number",
    doc: DOC,
    options: &[OptionInfo {
        name: "dim",
        kind: OptionKind::List,
        default: "",
        help: "NAME=N for an extent with that name, or INPUT:AXIS=N for one axis of an input",
    }],
    build: |options| Ok(Box::new(FixDims::new(options)?)),
};

const DOC: &str = "\
Replaces named extents by numbers wherever the model declares a type; `const-fold` then folds
what is computed from them. An axis of an input without a name is given as `INPUT:AXIS`,
axes counted from 0; if it has a name, all axes of that name are fixed. The result takes only
inputs of these extents.

## Scope

Inputs, outputs and `value_info`, in subgraphs and local functions too. A name that no input
of the model has, an axis that does not exist, or one that is another number already, is an
error; so is a name in a second run, since it is gone by then.

## Statistics

`extents`: extents fixed.

## Example

```text
fix-dims{dim=\"batch=1\"}
int64[batch,sequence] ids
int64[1,sequence] ids
```
";

/// What is to be fixed.
enum Target {
    /// The extent of that name.
    Name(String),
    /// An axis of an input.
    Axis(String, usize),
}

struct FixDims {
    dims: Vec<(Target, String, i64)>,
}

impl FixDims {
    fn new(options: &Options) -> Result<FixDims> {
        let parse = |text: &str| {
            let parsed = text.rsplit_once('=').and_then(|(target, n)| {
                let n = n.parse().ok().filter(|n| *n >= 0)?;
                let axis = target.rsplit_once(':').and_then(|(input, axis)| {
                    Some(Target::Axis(input.to_owned(), axis.parse().ok()?))
                });
                let name = || Target::Name(target.to_owned());
                (!target.is_empty()).then(|| (axis.unwrap_or_else(name), target.to_owned(), n))
            });
            parsed.ok_or_else(|| {
                Error::input(format!(
                    "option `dim` is `{text}`; expected NAME=N or INPUT:AXIS=N, N a number of elements"
                ))
            })
        };
        let mut dims: Vec<(Target, String, i64)> = Vec::new();
        for text in options.list("dim") {
            let (target, name, n) = parse(text)?;
            match dims.iter().find(|d| d.1 == name).map(|d| d.2) {
                None => dims.push((target, name, n)),
                Some(before) if before == n => {}
                Some(before) => {
                    return Err(Error::input(format!(
                        "option `dim` gives `{name}` as {before} and as {n}"
                    )));
                }
            }
        }
        Ok(FixDims { dims })
    }
}

impl Pass for FixDims {
    fn run(&self, model: &mut Model, cx: &mut PassContext) -> Result<Changed> {
        let mut fixed = 0;
        for (target, text, n) in &self.dims {
            fixed += match target {
                // A name may have a colon in it.
                Target::Axis(input, axis) if !is_name(model, text) => {
                    fix_axis(model, input, *axis, *n)?
                }
                Target::Axis(..) => fix_name(model, text, *n),
                Target::Name(name) if is_name(model, name) => fix_name(model, name, *n),
                Target::Name(name) => return Err(unknown_name(model, name)),
            };
        }
        cx.count("extents", fixed as u64);
        Ok(Changed::count(fixed))
    }
}

fn is_name(model: &Model, name: &str) -> bool {
    model.extent_names().contains(name)
}

fn unknown_name(model: &Model, name: &str) -> Error {
    let known: Vec<String> = model
        .extent_names()
        .iter()
        .map(|n| format!("`{n}`"))
        .collect();
    Error::input(match known.is_empty() {
        true => format!(
            "no input has an extent called `{name}`: none has a name; INPUT:AXIS=N names an axis"
        ),
        false => format!(
            "no input has an extent called `{name}`; those there are: {}",
            known.join(", ")
        ),
    })
}

/// Fixes every extent called `name`; how many there were.
fn fix_name(model: &mut Model, name: &str, n: i64) -> usize {
    let mut fixed = 0;
    each_type(model, &mut |ty| {
        each_dim(ty, &mut |dim| {
            if matches!(&dim.size, DimSize::Symbol(s) if &**s == name) {
                dim.size = DimSize::Known(n);
                fixed += 1;
            }
        });
    });
    fixed
}

fn fix_axis(model: &mut Model, input: &str, axis: usize, n: i64) -> Result<usize> {
    let inputs = model.graphs[model.main].inputs.clone();
    let Some(value) = inputs
        .into_iter()
        .find(|&v| &*model.values[v].name == input)
    else {
        return Err(Error::input(format!("the model has no input `{input}`")));
    };
    let info = model.values[value].info.as_mut();
    let shape = info.and_then(|i| match &mut i.ty.as_mut()?.kind {
        TypeKind::Tensor(t) => t.shape.as_mut(),
        _ => None,
    });
    let rank = shape.as_ref().map(|s| s.len());
    let Some(dim) = shape.and_then(|s| s.get_mut(axis)) else {
        let found = rank.map_or("no declared rank".to_owned(), |r| format!("rank {r}"));
        return Err(Error::input(format!(
            "input `{input}` has {found}, so no axis {axis}"
        )));
    };
    match dim.size.clone() {
        DimSize::Known(before) if before == n => Ok(0),
        DimSize::Known(before) => Err(Error::input(format!(
            "axis {axis} of input `{input}` is {before} and cannot be {n}"
        ))),
        DimSize::Symbol(name) if !name.is_empty() => Ok(fix_name(model, &name, n)),
        DimSize::Symbol(_) | DimSize::Unknown => {
            dim.size = DimSize::Known(n);
            Ok(1)
        }
    }
}

/// Every type that the model declares of a value.
fn each_type(model: &mut Model, then: &mut impl FnMut(&mut Type)) {
    let mut visit = |info: &mut ValueInfo| info.ty.iter_mut().for_each(&mut *then);
    for graph in model.reachable_graphs() {
        let listed = model.graphs[graph].value_info.clone();
        let inputs = model.graphs[graph].inputs.clone();
        for value in inputs.into_iter().chain(listed) {
            model.values[value].info.iter_mut().for_each(&mut visit);
        }
        let g = &mut model.graphs[graph];
        let listed = g.outputs.iter_mut().chain(&mut g.repeated_value_info);
        listed.for_each(|o| visit(&mut o.info));
    }
}

fn each_dim(ty: &mut Type, then: &mut impl FnMut(&mut Dim)) {
    match &mut ty.kind {
        TypeKind::Tensor(t) | TypeKind::SparseTensor(t) => {
            t.shape.iter_mut().flatten().for_each(then);
        }
        TypeKind::Sequence(Some(inner))
        | TypeKind::Optional(Some(inner))
        | TypeKind::Map(_, Some(inner)) => {
            each_dim(inner, then);
        }
        _ => {}
    }
}
