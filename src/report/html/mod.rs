//! The page: one file without scripts that needs nothing from elsewhere.

mod axis;
mod chart;
mod frontier;
mod plots;
mod scatter;
mod tables;

pub use frontier::frontier_html;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    Bench,
    words::{self, plain},
};
use crate::eval::report::{Evaluation, ModelResult};

/// The style sheet, light and dark.
const STYLE: &str = include_str!("style.css");

/// `evaluations`, and `bench` where there was one, as a page of HTML that can be opened, sent and
/// printed by itself. What an evaluation has no numbers for is left out.
pub fn html(title: &str, evaluations: &[Evaluation], bench: Option<&Bench>) -> String {
    let main = html! {
        @for evaluation in evaluations { (section(evaluation)) }
        @if let Some(bench) = bench.filter(|b| !b.models.is_empty()) {
            (speed(bench, evaluations))
        }
    };
    page(title, &verdict(evaluations), &main)
}

/// A page; `verdict` stands beside its title.
fn page(title: &str, verdict: &Markup, main: &Markup) -> String {
    let title = plain(title);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Nothing is loaded, whatever a name may hold.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { bdi { (title) } }
                    (verdict)
                }
                main { (main) }
            }
        }
    };
    page.into_string()
}

fn verdict(evaluations: &[Evaluation]) -> Markup {
    let (all, missed) = words::limits(evaluations);
    html! {
        @if all > 0 {
            p.verdict { (tables::badge(missed == 0, &words::verdict((all, missed)))) }
        }
    }
}

fn section(evaluation: &Evaluation) -> Markup {
    let task = words::task(evaluation.task);
    html! {
        section {
            h2 { (task[..1].to_uppercase()) (task[1..]) }
            p.lead {
                bdi { (plain(&evaluation.input.source)) } ": " (words::input(&evaluation.input))
            }
            @for warning in &evaluation.warnings {
                p.warning { strong { "Warning: " } bdi { (plain(warning)) } }
            }
            (tables::glance(evaluation))
            (tables::limits(evaluation))
            (figures(evaluation))
            (tables::numbers(evaluation))
            @for model in &evaluation.models { (tables::outputs(model)) }
            (tables::origin(evaluation))
        }
    }
}

fn figures(evaluation: &Evaluation) -> Markup {
    let mut all = vec![
        plots::perplexity(evaluation),
        scatter::scatter(evaluation),
        plots::histogram(evaluation),
        plots::snr(evaluation),
        plots::differences(evaluation),
    ];
    let models = evaluation.models.iter().enumerate();
    all.extend(models.map(|(i, m)| plots::nodes(m, i + 1)));
    html! { @for figure in all.into_iter().flatten() { (figure) } }
}

fn speed(bench: &Bench, evaluations: &[Evaluation]) -> Markup {
    html! {
        section {
            h2 { "Speed" }
            p.lead { (plain(&bench.engine)) ": " (plain(&bench.input)) }
            @if let Some(chart) = plots::latency(bench, evaluations) { (chart) }
            div.scroll tabindex="0" role="region" aria-label="Percentiles" {
                (plots::latencies(bench))
            }
        }
    }
}

/// The name of a model, without what is no text.
fn name(model: &ModelResult) -> String {
    plain(&model.name)
}
