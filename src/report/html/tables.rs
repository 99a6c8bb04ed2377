//! The tables of a page.

use maud::{Markup, html};

use super::name;
use crate::{
    eval::report::{EngineInfo, Evaluation, InputInfo, LimitResult, ModelResult, OutputDifference},
    inspect::bytes,
    report::{
        number::{percent, significant, thousands, typeset},
        rows::{Cell, Row, columns, rows},
        words::{self, plain, relation, worst},
    },
};

/// The columns of the first table: title, row of [`rows`], and the row that stands below it.
const GLANCE: [(&str, &str, &str); 4] = [
    ("Size", "size", "of baseline"),
    ("Perplexity", "perplexity", "ratio"),
    ("Mean KLD (nats)", "mean KLD", ""),
    ("Same top-1", "same top-1", ""),
];

/// The numbers that say most, one row a model.
pub(super) fn glance(evaluation: &Evaluation) -> Markup {
    let rows = rows(evaluation);
    let find = |label: &str| rows.iter().find(|r| r.label == label);
    let shown = GLANCE.into_iter();
    let shown = shown.filter_map(|(title, row, below)| Some((title, find(row)?, find(below))));
    let shown: Vec<(&str, &Row, Option<&Row>)> = shown.collect();
    let models: Vec<&ModelResult> = columns(evaluation).collect();
    let snr = models.iter().any(|m| lowest_snr(m).is_some());
    let limits = models.iter().any(|m| !m.limits.is_empty());
    let baseline = evaluation.baseline.is_some();
    html! {
        div.scroll tabindex="0" role="region" aria-label="At a glance" {
            table {
                caption { "At a glance" }
                thead {
                    tr {
                        th scope="col" { "Model" }
                        @for (title, _, _) in &shown { th scope="col" { (title) } }
                        @if snr { th scope="col" { "Lowest SNR" } }
                        @if limits { th scope="col" { "Limits" } }
                    }
                }
                tbody {
                    @for (i, model) in models.iter().enumerate() {
                        tr {
                            th scope="row" {
                                bdi { (name(model)) }
                                @if baseline && i == 0 { small { "baseline" } }
                            }
                            @for (_, row, below) in &shown {
                                td {
                                    (cell(row.cells[i].as_ref()))
                                    @if let Some(below) = below { (second(below, i)) }
                                }
                            }
                            @if snr { td { (snr_of(model)) } }
                            @if limits { td { (status_of(model)) } }
                        }
                    }
                }
            }
        }
    }
}

/// What stands below a number: the same relative to the baseline.
fn second(row: &Row, column: usize) -> Markup {
    let sign = if row.label == "ratio" { "× " } else { "" };
    html! {
        @if let Some(cell) = &row.cells[column] {
            small {
                (sign) (typeset(&cell.text))
                @if cell.within { " (within noise)" }
            }
        }
    }
}

fn lowest_snr(model: &ModelResult) -> Option<f64> {
    let all = model.outputs.iter().filter_map(|o| o.snr_db);
    all.reduce(f64::min)
}

fn snr_of(model: &ModelResult) -> String {
    match lowest_snr(model) {
        Some(snr) => typeset(&format!("{snr:.1} dB")),
        None if model.outputs.is_empty() => String::new(),
        None => "equal".into(),
    }
}

fn status_of(model: &ModelResult) -> Markup {
    let all = model.limits.len();
    let missed = model.limits.iter().filter(|l| !l.held).count();
    html! {
        @if all > 0 {
            @match missed {
                0 => (badge(true, &format!("{all} held"))),
                n => (badge(false, &format!("{n} of {all} missed"))),
            }
        }
    }
}

/// Held or missed: a sign, a colour and words.
pub(super) fn badge(held: bool, text: &str) -> Markup {
    let (class, sign) = if held {
        ("held", "✓")
    } else {
        ("missed", "✗")
    };
    html! { span.badge.(class) { span aria-hidden="true" { (sign) " " } (text) } }
}

fn cell(cell: Option<&Cell>) -> Markup {
    html! {
        @if let Some(cell) = cell {
            (typeset(&cell.text))
            @if let Some(noise) = &cell.noise {
                @let relation = if cell.within { "within noise, " } else { "noise " };
                small { (relation) (typeset(noise)) }
            }
        } @else {
            span.none aria-label="none" { "–" }
        }
    }
}

/// All numbers, one column a model.
pub(super) fn numbers(evaluation: &Evaluation) -> Markup {
    let rows = rows(evaluation);
    let baseline = evaluation.baseline.is_some();
    let span = columns(evaluation).count() + 1;
    html! {
        div.scroll tabindex="0" role="region" aria-label="All numbers" {
            table.numbers {
                caption { "All numbers" }
                thead {
                    tr {
                        td {}
                        @for (i, model) in columns(evaluation).enumerate() {
                            th scope="col" {
                                bdi { (name(model)) }
                                @if baseline && i == 0 { small { "baseline" } }
                            }
                        }
                    }
                }
                @for group in rows.chunk_by(|a, b| a.group == b.group) {
                    tbody {
                        tr { th.group scope="rowgroup" colspan=(span) { (group[0].group.title()) } }
                        @for row in group {
                            tr {
                                th scope="row" { (row.label) small { (row.help) } }
                                @for found in &row.cells { td { (cell(found.as_ref())) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The limits, missed ones first.
pub(super) fn limits(evaluation: &Evaluation) -> Markup {
    let all = evaluation.models.iter();
    let all = all.flat_map(|m| m.limits.iter().map(move |l| (m, l)));
    let (held, missed): (Vec<_>, Vec<_>) = all.partition(|(_, l)| l.held);
    let located = missed.iter().any(|(_, l)| worst(l).is_some());
    html! {
        @if held.len() + missed.len() > 0 {
            div.scroll tabindex="0" role="region" aria-label="Limits" {
                table.limits {
                    caption { "Limits" }
                    thead {
                        tr {
                            th scope="col" { "Model" }
                            @for head in ["Limit", "Status", "Found"] {
                                th scope="col" { (head) }
                            }
                            @if located { th scope="col" { "Worst at" } }
                        }
                    }
                    tbody {
                        @for (model, limit) in missed.iter().chain(&held) {
                            (limit_row(model, limit, located))
                        }
                    }
                }
            }
        }
    }
}

fn limit_row(model: &ModelResult, limit: &LimitResult, located: bool) -> Markup {
    let relation = relation(limit).replace("<=", "≤").replace(">=", "≥");
    let relation = typeset(&relation.replace(" x)", " ×)"));
    html! {
        tr {
            th scope="row" { bdi { (name(model)) } }
            td { code { (limit.name) } }
            td { (badge(limit.held, if limit.held { "held" } else { "missed" })) }
            td { (relation) }
            @if located {
                td.place { @if let Some(worst) = worst(limit) { (worst) } }
            }
        }
    }
}

/// What every output has a number for.
const OUTPUT: [&str; 5] = [
    "Elements",
    "Max difference",
    "Mean difference",
    "SNR",
    "Cosine",
];

/// The outputs of a model, as numbers.
pub(super) fn outputs(model: &ModelResult) -> Markup {
    let agreement = model.outputs.iter().any(|o| o.agreement.is_some());
    html! {
        @if !model.outputs.is_empty() {
            div.scroll tabindex="0" role="region" aria-label="Outputs" {
                table {
                    caption { "Outputs of " bdi { (name(model)) } }
                    thead {
                        tr {
                            th scope="col" { "Output" }
                            @for head in OUTPUT { th scope="col" { (head) } }
                            @if agreement { th scope="col" { "Same label" } }
                        }
                    }
                    tbody {
                        @for o in &model.outputs { (output_row(model, o, agreement)) }
                    }
                }
            }
        }
    }
}

fn output_row(model: &ModelResult, output: &OutputDifference, agreement: bool) -> Markup {
    let none = || String::from("–");
    let decibels = |v: f64| typeset(&format!("{v:.1} dB"));
    html! {
        tr {
            th scope="row" { bdi { (plain(&output.name)) } }
            td { (thousands(output.elements)) }
            td {
                (typeset(&significant(output.max, 3)))
                @if let Some(noise) = model.noise.as_ref().and_then(|n| n.max_difference) {
                    @let relation = if output.max <= noise { "within noise, " } else { "noise " };
                    small { (relation) (typeset(&significant(noise, 2))) }
                }
            }
            td { (typeset(&significant(output.mean, 3))) }
            td { (output.snr_db.map_or("equal".into(), decibels)) }
            td { (output.cosine.map_or_else(none, |v| typeset(&format!("{v:.7}")))) }
            @if agreement { td { (output.agreement.map_or_else(none, percent)) } }
        }
    }
}

/// Where the numbers come from.
pub(super) fn origin(evaluation: &Evaluation) -> Markup {
    let Evaluation { engine, input, .. } = evaluation;
    let noise = columns(evaluation).find_map(|m| m.noise.as_ref());
    html! {
        h3 { "Where this comes from" }
        (setting(engine, input, (evaluation.onnxq, evaluation.schema)))
        @if let Some(noise) = noise {
            dl {
                dt { "Noise" }
                dd { (plain(noise.method)) ", on " (words::count(noise.items, "item")) }
            }
        }
        (files(columns(evaluation)))
    }
}

/// What ran, on what, and what wrote it: version and schema.
pub(super) fn setting(
    engine: &EngineInfo,
    input: &InputInfo,
    (version, schema): (&str, &str),
) -> Markup {
    html! {
        dl {
            dt { "Engine" }
            dd {
                (plain(&engine.name)) " " (plain(&engine.version)) ", "
                (words::count(engine.threads, "thread"))
            }
            dt { "Input" }
            dd {
                bdi { (plain(&input.source)) } ", " (words::input(input))
                @if !input.sha256.is_empty() { code.sha { "SHA-256 " (plain(&input.sha256)) } }
            }
            dt { "Written by" }
            dd { "onnxq " (version) ", " (schema) }
        }
    }
}

/// The files of models.
pub(super) fn files<'a>(models: impl IntoIterator<Item = &'a ModelResult>) -> Markup {
    html! {
        dl {
            @for model in models {
                dt { bdi { (name(model)) } }
                dd {
                    @if let Some(path) = &model.path { bdi { (plain(path)) } ", " }
                    (bytes(model.bytes))
                    @if let Some(sha) = &model.sha256 { code.sha { "SHA-256 " (plain(sha)) } }
                }
            }
        }
    }
}
