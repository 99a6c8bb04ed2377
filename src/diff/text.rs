//! A difference for people.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use super::{Difference, FieldChange, NodeInfo, WeightInfo};
use crate::inspect::bytes;

/// How many entries of a list are shown before the rest is only counted. JSON has all.
const LISTED: usize = 20;

/// How much of a long value is shown.
const VALUE: usize = 160;

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (a, b) = self.weight_bytes;
        writeln!(f, "nodes       {} -> {}", self.nodes.0, self.nodes.1)?;
        write!(f, "weights     {} -> {}", bytes(a), bytes(b))?;
        match a {
            0 => writeln!(f)?,
            _ => writeln!(f, " ({:.1} %)", b as f64 * 100.0 / a as f64)?,
        }
        if self.same {
            return writeln!(f, "no difference");
        }
        fields(f, "model", &self.model)?;
        fields(f, "values", &self.values)?;
        list(f, "operators", &self.operators, usize::MAX, |f, o| {
            let domain = match o.domain.as_str() {
                "ai.onnx" => String::new(),
                d => format!("{d}::"),
            };
            writeln!(f, "  {domain}{}: {} -> {}", o.op_type, o.a, o.b)
        })?;
        self.node_lists(f)?;
        self.weight_lists(f)
    }
}

impl Difference {
    fn node_lists(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let node = |f: &mut Formatter<'_>, n: &NodeInfo| {
            writeln!(f, "  {}{} ({})", place(n), n.label, n.operator)
        };
        list(f, "nodes removed", &self.nodes_removed, LISTED, node)?;
        list(f, "nodes added", &self.nodes_added, LISTED, node)?;
        let changed = &self.nodes_changed;
        list(f, "nodes changed", changed, LISTED, |f, n| {
            let NodeInfo {
                label, operator, ..
            } = &n.node;
            writeln!(f, "  {}{label} ({operator})", place(&n.node))?;
            n.changes.iter().try_for_each(|c| change(f, "    ", c))
        })?;
        // Which of the fields changed, over all nodes: the list above is cut.
        let mut summary = BTreeMap::<String, usize>::new();
        for c in changed.iter().flat_map(|n| &n.changes) {
            let text = match c.field.as_str() {
                "operator" => format!("operator {} -> {}", side(&c.a), side(&c.b)),
                field => field.to_owned(),
            };
            *summary.entry(text).or_insert(0) += 1;
        }
        if changed.len() > LISTED {
            writeln!(f, "  of all:")?;
            for (text, count) in &summary {
                writeln!(f, "  {count:>6}  {text}")?;
            }
        }
        match self.nodes_reordered {
            true => writeln!(f, "\nnodes that both have come in another order"),
            false => Ok(()),
        }
    }

    fn weight_lists(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let weight = |f: &mut Formatter<'_>, w: &WeightInfo| {
            let WeightInfo {
                name, dtype, shape, ..
            } = w;
            writeln!(f, "  {name}: {dtype}{shape:?}, {}", bytes(w.bytes))
        };
        let (removed, added) = (&self.initializers_removed, &self.initializers_added);
        list(f, "initializers removed", removed, LISTED, weight)?;
        list(f, "initializers added", added, LISTED, weight)?;
        let changed = &self.initializers_changed;
        list(f, "initializers changed", changed, LISTED, |f, c| {
            let WeightInfo {
                name, dtype, shape, ..
            } = &c.a;
            match c.only_elements {
                true => writeln!(f, "  {name}: other elements of {dtype}{shape:?}"),
                false => {
                    let WeightInfo {
                        dtype: to_dtype,
                        shape: to_shape,
                        ..
                    } = &c.b;
                    writeln!(f, "  {name}: {dtype}{shape:?} -> {to_dtype}{to_shape:?}")
                }
            }
        })
    }
}

fn place(n: &NodeInfo) -> String {
    match n.place.as_str() {
        "" => String::new(),
        p => format!("{p}: "),
    }
}

fn side(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("nothing")
}

fn fields(f: &mut Formatter<'_>, title: &str, changes: &[FieldChange]) -> fmt::Result {
    list(f, title, changes, LISTED, |f, c| change(f, "  ", c))
}

fn change(f: &mut Formatter<'_>, indent: &str, c: &FieldChange) -> fmt::Result {
    writeln!(f, "{indent}{}: {} -> {}", c.field, short(&c.a), short(&c.b))
}

fn short(value: &Option<String>) -> String {
    let line = side(value).replace(['\n', '\r'], " ");
    match line.char_indices().nth(VALUE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn list<T>(
    f: &mut Formatter<'_>,
    title: &str,
    items: &[T],
    limit: usize,
    one: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title} ({})", items.len())?;
    items.iter().take(limit).try_for_each(|i| one(f, i))?;
    match items.len().checked_sub(limit) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(f, "  and {more} more"),
    }
}
