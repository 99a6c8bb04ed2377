//! An evaluation for people at a terminal.

use std::fmt::Write;

use super::{
    number::{percent, significant},
    rows::{Cell, Row, columns, rows},
    words::{self, count, plain, relation, shortened},
};
use crate::eval::report::{Evaluation, ModelResult, NodeDivergence};

/// How many characters of a model's name head a column.
const NAME: usize = 24;

/// How wide the table gets before it is continued below.
const WIDTH: usize = 100;

/// How many nodes are listed. JSON has all.
const NODES: usize = 20;

/// The summary that `onnxq eval` prints.
pub fn text(evaluation: &Evaluation) -> String {
    let mut out = head(evaluation);
    out += &numbers(evaluation);
    for model in &evaluation.models {
        out += &outputs(model);
        out += &nodes(model);
    }
    out += &limits(evaluation);
    out
}

fn head(evaluation: &Evaluation) -> String {
    let Evaluation { engine, input, .. } = evaluation;
    let mut out = String::new();
    let threads = count(engine.threads, "thread");
    let task = words::task(evaluation.task);
    let _ = writeln!(out, "{:<12}{task}", "task");
    let _ = writeln!(
        out,
        "{:<12}{} {}, {threads}",
        "engine",
        plain(&engine.name),
        plain(&engine.version)
    );
    let _ = writeln!(
        out,
        "{:<12}{}: {}",
        "input",
        plain(&input.source),
        words::input(input)
    );
    if let Some(baseline) = &evaluation.baseline {
        let _ = writeln!(out, "{:<12}{}", "baseline", plain(&baseline.name));
    }
    for warning in &evaluation.warnings {
        let _ = writeln!(out, "{:<12}{}", "warning", plain(warning));
    }
    out
}

/// The table of numbers, in as many parts as fit beside one another.
fn numbers(evaluation: &Evaluation) -> String {
    let rows: Vec<Row> = rows(evaluation).into_iter().filter(|r| r.brief).collect();
    let models: Vec<&ModelResult> = columns(evaluation).collect();
    let label = 2 + rows
        .iter()
        .map(|r| length(r.label))
        .max()
        .unwrap_or(0)
        .max(12);
    let widths: Vec<usize> = (0..models.len())
        .map(|i| 2 + width(&rows, i).max(length(&shortened(&plain(&models[i].name), NAME))))
        .collect();
    let mut out = String::new();
    let mut first = 0;
    while first < models.len() {
        let mut end = first + 1;
        let mut wide = label + widths[first];
        while end < models.len() && wide + widths[end] <= WIDTH {
            wide += widths[end];
            end += 1;
        }
        out += &part(
            &rows,
            &models[first..end],
            first,
            label,
            &widths[first..end],
        );
        first = end;
    }
    out
}

/// How wide the cells of a column are.
fn width(rows: &[Row], column: usize) -> usize {
    let cells = rows.iter().filter_map(|r| r.cells[column].as_ref());
    let widths = cells.map(|c| length(&c.text).max(length(&noise(c))));
    widths.max().unwrap_or(0)
}

/// What stands below a number about the engine's noise.
fn noise(cell: &Cell) -> String {
    match &cell.noise {
        Some(noise) if cell.within => format!("within {noise}"),
        Some(noise) => noise.clone(),
        None => String::new(),
    }
}

fn part(
    rows: &[Row],
    models: &[&ModelResult],
    first: usize,
    label: usize,
    widths: &[usize],
) -> String {
    let line = |title: &str, cells: &mut dyn Iterator<Item = String>| {
        let mut line = format!("{title:<label$}");
        for (cell, width) in cells.zip(widths) {
            let _ = write!(line, "{cell:<width$}");
        }
        format!("{}\n", line.trim_end())
    };
    let names = models.iter().map(|m| shortened(&plain(&m.name), NAME));
    let mut out = format!("\n{}", line("", &mut names.into_iter()));
    for row in rows {
        let cells = &row.cells[first..first + models.len()];
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let text = |c: &Option<Cell>| c.as_ref().map_or(String::new(), |c| c.text.clone());
        out += &line(row.label, &mut cells.iter().map(text));
        let noise = cells
            .iter()
            .map(|c| c.as_ref().map_or(String::new(), noise));
        if noise.clone().any(|n| !n.is_empty()) {
            out += &line("  noise", &mut noise.into_iter());
        }
    }
    out
}

fn outputs(model: &ModelResult) -> String {
    if model.outputs.is_empty() {
        return String::new();
    }
    let head = ["output", "max", "mean", "SNR", "cosine", "agreement"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for o in &model.outputs {
        let optional = |v: Option<String>| v.unwrap_or_else(|| "-".into());
        table.push(vec![
            plain(&o.name),
            significant(o.max, 3),
            significant(o.mean, 3),
            optional(o.snr_db.map(|v| format!("{v:.1} dB"))),
            optional(o.cosine.map(|v| format!("{v:.7}"))),
            optional(o.agreement.map(percent)),
        ]);
    }
    let noise = model.noise.as_ref().and_then(|n| n.max_difference);
    if let Some(noise) = noise {
        table.push(vec!["  noise".into(), significant(noise, 2)]);
    }
    let title = format!("\n{}: difference of outputs\n", plain(&model.name));
    title + &aligned(&table)
}

fn nodes(model: &ModelResult) -> String {
    if model.per_node.is_empty() {
        return String::new();
    }
    let mut table = vec![
        ["introduced", "accumulated", "operator", "node"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let row = |n: &NodeDivergence| {
        vec![
            significant(n.introduced, 3),
            significant(n.accumulated, 3),
            plain(&n.operator),
            plain(&n.node),
        ]
    };
    table.extend(model.per_node.iter().take(NODES).map(row));
    let title = format!("\n{}: relative error by node\n", plain(&model.name));
    let mut out = title + &aligned(&table);
    if let Some(rest) = model.per_node.len().checked_sub(NODES).filter(|n| *n > 0) {
        let _ = writeln!(out, "  and {rest} more");
    }
    out
}

fn limits(evaluation: &Evaluation) -> String {
    let mut table = Vec::new();
    for model in &evaluation.models {
        for limit in &model.limits {
            let status = if limit.held { "held" } else { "MISSED" };
            let mut found = relation(limit);
            if let Some(worst) = words::worst(limit).filter(|_| !limit.held) {
                found += &format!("; worst at {worst}");
            }
            table.push(vec![
                status.to_owned(),
                shortened(&plain(&model.name), NAME),
                limit.name.to_owned(),
                found,
            ]);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    let verdict = words::verdict(words::limits(std::slice::from_ref(evaluation)));
    format!("\nlimits: {verdict}\n{}", aligned(&table))
}

/// The lines of a table, indented, each column as wide as its widest cell.
pub(super) fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        table
            .iter()
            .filter_map(|r| r.get(i))
            .map(|c| length(c))
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "  {cell:<width$}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn length(text: &str) -> usize {
    text.chars().count()
}
