//! The page of ways to quantize a model: size against distance, and the frontier of both.

use maud::{Markup, html};

use super::{
    axis::Axis,
    chart::{Key, head, keys, percent},
    page,
    scatter::{self, TOP, down},
    tables,
};
use crate::{
    eval::report::Estimate,
    report::{
        frontier::{columns, megabytes},
        number::{estimate, significant, typeset},
        words::{self, plain},
    },
    tune::{Measure, Report, Way},
};

/// `report` as a page of HTML that can be opened, sent and printed by itself.
pub fn frontier_html(title: &str, report: &Report) -> String {
    let task = words::task(report.task);
    let main = html! {
        section {
            h2 { (task[..1].to_uppercase()) (task[1..]) }
            p.lead { bdi { (plain(&report.input.source)) } ": " (words::input(&report.input)) }
            @for warning in &report.warnings {
                p.warning { strong { "Warning: " } bdi { (plain(warning)) } }
            }
            @if let Some(chart) = chart(report) { (chart) }
            (table(report))
            (failed(report))
            h3 { "Where this comes from" }
            (tables::setting(&report.engine, &report.input, (report.onnxq, report.schema)))
            (tables::files([&report.baseline]))
        }
    };
    page(title, &html! {}, &main)
}

/// The name of a way in the chart: its place in the table.
fn number(index: usize) -> String {
    (index + 1).to_string()
}

fn table(report: &Report) -> Markup {
    let columns = columns(report.measure);
    html! {
        div.scroll tabindex="0" role="region" aria-label="Ways" {
            table.ways {
                caption { "Ways, by size" }
                thead {
                    tr {
                        th scope="col" { "Options of " code { "onnxq quantize" } }
                        @for (title, _) in &columns { th scope="col" { (title) } }
                        th scope="col" { "Frontier" }
                    }
                }
                tbody {
                    (baseline(report))
                    @for (i, way) in report.ways.iter().enumerate() {
                        tr {
                            th scope="row" { (number(i)) ". " (options(&way.options)) }
                            @for (_, cell) in &columns {
                                td {
                                    @match cell(way) {
                                        Some(text) => (typeset(&text)),
                                        None => span.none aria-label="none" { "–" },
                                    }
                                }
                            }
                            td { @if way.frontier { (tables::badge(true, "on it")) } }
                        }
                    }
                }
            }
        }
    }
}

/// Options, which no line ends inside.
fn options(text: &str) -> Markup {
    html! { code.options { @for word in plain(text).split(' ') { span { (word) } " " } } }
}

/// The row of the model as it came: what is known of it alone.
fn baseline(report: &Report) -> Markup {
    let model = &report.baseline;
    let perplexity = model.perplexity.as_ref().map(|p| estimate(p.perplexity));
    let cell = |title: &str| match title {
        "size" => Some(megabytes(model.bytes)),
        "perplexity" => perplexity.clone(),
        _ => None,
    };
    html! {
        tr {
            th scope="row" { bdi { (plain(&model.name)) } small { "baseline" } }
            @for (title, _) in columns(report.measure) {
                td { @if let Some(text) = cell(title) { (typeset(&text)) } }
            }
            td {}
        }
    }
}

fn failed(report: &Report) -> Markup {
    html! {
        @for failed in &report.failed {
            p.warning {
                strong { "Failed: " } (options(&failed.options)) ": "
                bdi { (plain(&failed.error)) }
            }
        }
    }
}

/// A way in the chart.
struct Point<'a> {
    way: &'a Way,
    name: String,
    /// Percent from the left.
    x: f64,
    /// Pixels from above.
    y: f64,
}

impl Point<'_> {
    fn colour(&self) -> &'static str {
        if self.way.frontier { "c1" } else { "c0" }
    }
}

/// Distance against size, with the frontier; for two ways or more.
fn chart(report: &Report) -> Option<Markup> {
    let ways = report.ways.iter().enumerate();
    let known: Vec<(usize, &Way)> = ways.filter(|(_, w)| w.distance().is_finite()).collect();
    if known.len() < 2 {
        return None;
    }
    let y = Axis::logarithmic(known.iter().flat_map(|(_, way)| ends(way)))?;
    let x = Axis::linear(known.iter().map(|(_, way)| scatter::megabytes(way.bytes)))?;
    let points = known.into_iter().map(|(i, way)| Point {
        way,
        name: number(i),
        x: x.at(scatter::megabytes(way.bytes)),
        y: down(&y, way.distance()),
    });
    Some(figure(&x, &y, &points.collect::<Vec<_>>(), report.measure))
}

/// What the axis has to hold of a way: its error bar, as far as it is above 0.
fn ends(way: &Way) -> [f64; 3] {
    let (value, error) = (way.distance(), error(way));
    [value, value + error, value - error]
}

fn error(way: &Way) -> f64 {
    let error = way.mean_kld.map_or(0.0, |mean| mean.standard_error);
    if error.is_finite() { error } else { 0.0 }
}

fn figure(x: &Axis, y: &Axis, points: &[Point<'_>], measure: Measure) -> Markup {
    let (unit, long) = match measure {
        Measure::MeanKld => (
            "mean KLD (nats, log scale)",
            "Mean Kullback-Leibler divergence",
        ),
        Measure::RelativeError => (
            "relative error (log scale)",
            "Relative error of the outputs",
        ),
    };
    let lead = "Down is closer to the baseline, left is smaller; numbers are those of the table. Error bars: one \
                standard error.";
    html! {
        figure.chart {
            (head("The frontier", lead))
            svg.scatter role="img" {
                title { (long) " against size" }
                desc { @for point in points { (point.name) ": " (told(point.way)) ". " } }
                (scatter::grid(x, y, unit))
                (line(points))
                @for point in points.iter().filter(|p| !p.way.frontier) { (mark(y, point)) }
                @for point in points.iter().filter(|p| p.way.frontier) { (mark(y, point)) }
                @for point in points { (label(point)) }
            }
            (keys(&[
                Key::new("frontier", "frontier: what can be had up to a size"),
                Key::new("dot c1", "on it"),
                Key::new("dot c0", "another is as small and nearer, or as near and smaller"),
            ]))
        }
    }
}

/// The frontier as steps: up to the size of the next way, the last one is the nearest there is.
fn line(points: &[Point<'_>]) -> Markup {
    let frontier: Vec<&Point<'_>> = points.iter().filter(|p| p.way.frontier).collect();
    let step = |a: &Point<'_>, x: f64, y: f64| {
        html! {
            line.frontier x1=(percent(a.x)) x2=(percent(x)) y1=(a.y) y2=(a.y) {}
            line.frontier x1=(percent(x)) x2=(percent(x)) y1=(a.y) y2=(y) {}
        }
    };
    html! {
        @if let Some(first) = frontier.first() {
            line.frontier x1=(percent(first.x)) x2=(percent(first.x)) y1=(TOP) y2=(first.y) {}
        }
        @for pair in frontier.windows(2) { (step(pair[0], pair[1].x, pair[1].y)) }
        @if let Some(last) = frontier.last() { (step(last, 100.0, last.y)) }
    }
}

/// A way in words.
fn told(way: &Way) -> String {
    let distance = match way.mean_kld {
        Some(mean) => format!("mean KLD {}", estimate(mean)),
        None => format!("relative error {}", significant(way.distance(), 3)),
    };
    let bits = way.bits_per_weight;
    let bits = bits.map_or(String::new(), |bits| format!("{bits:.2} bits a weight, "));
    let size = megabytes(way.bytes);
    format!(
        "{}: {size}, {bits}{}",
        plain(&way.options),
        typeset(&distance)
    )
}

/// A point in a coordinate system of its own, so that what is around it can be in pixels.
fn mark(y: &Axis, point: &Point<'_>) -> Markup {
    let (value, error) = (point.way.distance(), error(point.way));
    let offset = |v: f64| down(y, v) - point.y;
    let within = point.way.noise.is_some_and(|noise| value <= noise);
    html! {
        svg.point.(point.colour()) x=(percent(point.x)) y=(point.y) {
            title { (told(point.way)) }
            @if error > 0.0 {
                @let mean = Estimate { value, standard_error: error };
                (scatter::whisker(mean, &offset))
            }
            circle.dot.hollow[within] r="5.5" {}
        }
    }
}

fn label(point: &Point<'_>) -> Markup {
    let (dx, side) = if point.x > 90.0 {
        (-9, "end")
    } else {
        (9, "start")
    };
    html! {
        svg.point x=(percent(point.x)) y=(point.y) {
            text.halo x=(dx) y="-7" text-anchor=(side) { (point.name) }
        }
    }
}
