//! Ways to quantize a model, for people at a terminal.

use std::fmt::Write;

use super::{
    number::{estimate, percent_estimate, seconds, significant},
    text::aligned,
    words::{self, plain},
};
use crate::tune::{Measure, Report, Way};

/// What stands before a way that none other dominates.
const MARK: &str = "*";

/// A column: its title, and its number of a way.
pub(super) type Column = (&'static str, fn(&Way) -> Option<String>);

/// The numbers of ways, by what they are measured with.
pub(super) fn columns(measure: Measure) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![
        ("size", |w| Some(megabytes(w.bytes))),
        ("bits/weight", |w| {
            Some(format!("{:.2}", w.bits_per_weight?))
        }),
    ];
    match measure {
        Measure::MeanKld => columns.extend([
            (
                "mean KLD",
                (|w| Some(estimate(w.mean_kld?))) as fn(&Way) -> _,
            ),
            ("perplexity", |w| Some(estimate(w.perplexity?))),
            ("same top-1", |w| Some(percent_estimate(w.top1?))),
        ]),
        Measure::RelativeError => columns.extend([
            (
                "relative error",
                (|w| Some(significant(w.relative_error?, 3))) as fn(&Way) -> _,
            ),
            ("cosine", |w| Some(format!("{:.7}", w.cosine?))),
        ]),
    }
    columns.push(("made in", |w| Some(seconds(w.seconds))));
    columns
}

/// A size with as many digits as tell ways from one another.
pub(super) fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        size if size >= 10.0 => format!("{size:.2} MB"),
        size => format!("{size:.3} MB"),
    }
}

/// A way in one line, as soon as it is known.
pub fn way_line(way: &Way, measure: Measure) -> String {
    let columns = columns(measure).into_iter();
    let cells = columns.filter_map(|(title, cell)| Some(format!("{title} {}", cell(way)?)));
    format!(
        "{}: {}",
        plain(&way.options),
        cells.collect::<Vec<_>>().join(", ")
    )
}

/// The table that `onnxq tune` prints.
pub fn frontier_text(report: &Report) -> String {
    let mut out = String::new();
    let baseline = &report.baseline;
    let perplexity = baseline.perplexity.as_ref();
    let perplexity = perplexity.map(|p| format!(", perplexity {}", estimate(p.perplexity)));
    let _ = writeln!(
        out,
        "{}: {}{}\n{}: {}\n",
        plain(&baseline.name),
        megabytes(baseline.bytes),
        perplexity.unwrap_or_default(),
        plain(&report.input.source),
        words::input(&report.input)
    );
    let columns = columns(report.measure);
    let titles = columns.iter().map(|(title, _)| (*title).to_owned());
    let mut table = vec![
        [String::new()]
            .into_iter()
            .chain(titles)
            .collect::<Vec<_>>(),
    ];
    table[0].push("options of quantize".to_owned());
    for way in &report.ways {
        let mark = if way.frontier { MARK } else { "" };
        let mut row = vec![mark.to_owned()];
        let none = || "-".to_owned();
        row.extend(
            columns
                .iter()
                .map(|(_, cell)| cell(way).unwrap_or_else(none)),
        );
        row.push(plain(&way.options));
        table.push(row);
    }
    out += &aligned(&table);
    out += &format!("\n{MARK} none of the others is as small and nearer, or as near and smaller\n");
    for warning in &report.warnings {
        let _ = writeln!(out, "warning: {}", plain(warning));
    }
    for failed in &report.failed {
        let (options, error) = (plain(&failed.options), plain(&failed.error));
        let _ = writeln!(out, "failed: {options}: {error}");
    }
    out
}
