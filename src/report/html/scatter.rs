//! Quality against size.

use maud::{Markup, html};

use super::{
    axis::Axis,
    chart::{Key, anchor, colour, head, keys, percent},
};
use crate::{
    eval::report::{Estimate, Evaluation, ModelResult},
    inspect::bytes,
    report::{
        number::{estimate, significant, typeset},
        words::{plain, shortened},
    },
};

/// Where the plot begins and ends, in pixels from above.
pub(super) const TOP: f64 = 26.0;
const BOTTOM: f64 = 300.0;

/// How far apart labels stand, in pixels.
const LINE: f64 = 16.0;

/// How many characters of a name fit beside its point in a narrow window.
const LABEL: usize = 26;

struct Point<'a> {
    model: &'a ModelResult,
    mean: Estimate,
    colour: usize,
    /// Percent from the left.
    x: f64,
    /// Pixels from above.
    y: f64,
    /// The same for its label.
    label: f64,
}

/// Mean divergence against size, for two models or more: one says nothing about a trade.
pub(super) fn scatter(evaluation: &Evaluation) -> Option<Markup> {
    let found: Vec<(usize, &ModelResult, Estimate)> = (evaluation.models.iter().enumerate())
        .filter_map(|(i, m)| Some((i, m, m.divergence.as_ref()?.kld.mean)))
        .filter(|(_, m, mean)| mean.value.is_finite() && m.bytes > 0)
        .collect();
    if found.len() < 2 {
        return None;
    }
    let noise = evaluation.models.iter().chain(&evaluation.baseline);
    let noise = noise.filter_map(|m| m.noise.as_ref()?.mean_kld);
    let noise = noise.filter(|n| *n > 0.0).reduce(f64::max);
    let baseline = evaluation.baseline.as_ref().filter(|b| b.bytes > 0);
    let y = Axis::logarithmic(
        found
            .iter()
            .flat_map(|(_, _, mean)| ends(*mean))
            .chain(noise),
    )?;
    let sizes = found.iter().map(|(_, m, _)| *m).chain(baseline);
    let x = Axis::linear(sizes.map(|m| megabytes(m.bytes)).chain([0.0]))?;
    let points = found.into_iter().map(|(i, model, mean)| {
        let at = down(&y, mean.value);
        Point {
            model,
            mean,
            colour: i + 1,
            x: x.at(megabytes(model.bytes)),
            y: at,
            label: at,
        }
    });
    let mut points: Vec<Point<'_>> = points.collect();
    spread(&mut points);
    Some(figure(&x, &y, &points, noise, baseline))
}

/// What the axis has to hold of an estimate: its error bar, as far as it is above 0.
fn ends(mean: Estimate) -> [f64; 3] {
    let Estimate {
        value,
        standard_error,
    } = mean;
    [value, value + standard_error, value - standard_error]
}

/// A size along the axis.
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Where `value` stands on the axis from below to above.
pub(super) fn down(axis: &Axis, value: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * axis.at(value) / 100.0
}

/// Whether a label stands to the left of its point.
fn left(point: &Point<'_>) -> bool {
    point.x > 55.0
}

/// Moves labels apart that would cover one another.
fn spread(points: &mut [Point<'_>]) {
    for side in [false, true] {
        let mut column: Vec<&mut Point<'_>> =
            points.iter_mut().filter(|p| left(p) == side).collect();
        column.sort_by(|a, b| a.y.total_cmp(&b.y));
        let mut free = f64::NEG_INFINITY;
        for p in &mut column {
            p.label = p.label.max(free);
            free = p.label + LINE;
        }
        // What was pushed out below goes back up, and pushes the others.
        let mut free = BOTTOM - 4.0;
        for p in column.iter_mut().rev() {
            p.label = p.label.min(free);
            free = p.label - LINE;
        }
    }
}

fn figure(
    x: &Axis,
    y: &Axis,
    points: &[Point<'_>],
    noise: Option<f64>,
    baseline: Option<&ModelResult>,
) -> Markup {
    let title = "Quality against size";
    let lead = "Down is closer to the baseline, left is smaller. Error bars: one standard error.";
    let description = points.iter().map(|p| {
        let size = bytes(p.model.bytes);
        format!(
            "{}: {size}, {}. ",
            plain(&p.model.name),
            typeset(&estimate(p.mean))
        )
    });
    let mut legend = Vec::new();
    if let Some(noise) = noise {
        let text = format!(
            "noise of the engine itself, mean {} nats; a hollow point is within its own",
            typeset(&significant(noise, 2))
        );
        legend.push(Key::new("noise", text));
    }
    html! {
        figure.chart {
            (head(title, lead))
            svg.scatter role="img" {
                title { "Mean Kullback-Leibler divergence against size" }
                desc { @for text in description { (text) } }
                (grid(x, y, "mean KLD (nats, log scale)"))
                @if let Some(noise) = noise {
                    @let top = down(y, noise);
                    rect.noise x="0" width="100%" y=(top) height=(BOTTOM - top) {}
                }
                @if let Some(baseline) = baseline { (size_of(x, baseline)) }
                @for point in points { (mark(y, point)) }
                @for point in points { (label(point, points)) }
            }
            (keys(&legend))
        }
    }
}

/// The lines and numbers of both axes; `unit` is what stands along the upright one.
pub(super) fn grid(x: &Axis, y: &Axis, unit: &str) -> Markup {
    html! {
        text x="-52" y="10" { (unit) }
        @for tick in &y.ticks {
            @let at = BOTTOM - (BOTTOM - TOP) * tick.at / 100.0;
            line.grid x1="0" x2="100%" y1=(at) y2=(at) {}
            text x="-8" y=(at + 4.0) text-anchor="end" { (tick.label) }
        }
        @for tick in &x.ticks {
            line.grid x1=(percent(tick.at)) x2=(percent(tick.at)) y1=(TOP) y2=(BOTTOM) {}
            text x=(percent(tick.at)) y=(BOTTOM + 18.0) text-anchor=(anchor(tick.at)) {
                (tick.label)
            }
        }
        text x="50%" y=(BOTTOM + 38.0) text-anchor="middle" { "size (MB)" }
    }
}

fn size_of(x: &Axis, baseline: &ModelResult) -> Markup {
    let at = x.at(megabytes(baseline.bytes));
    let (side, dx) = if at > 50.0 { ("end", -6) } else { ("start", 6) };
    html! {
        line.baseline x1=(percent(at)) x2=(percent(at)) y1=(TOP) y2=(BOTTOM) {}
        text.halo x=(percent(at)) dx=(dx) y=(TOP + 14.0) text-anchor=(side) {
            "baseline, " (bytes(baseline.bytes))
        }
    }
}

/// A point in a coordinate system of its own, so that what is around it can be in pixels.
fn mark(y: &Axis, point: &Point<'_>) -> Markup {
    let Estimate {
        value,
        standard_error,
    } = point.mean;
    let offset = |v: f64| down(y, v) - point.y;
    let noise = point.model.noise.as_ref().and_then(|n| n.mean_kld);
    let within = value <= noise.unwrap_or(0.0);
    let name = plain(&point.model.name);
    html! {
        svg.point.(colour(point.colour)) x=(percent(point.x)) y=(point.y) {
            title { (name) ": " (bytes(point.model.bytes)) ", " (typeset(&estimate(point.mean))) }
            @if standard_error > 0.0 {
                (whisker(point.mean, &offset))
            }
            circle.dot.hollow[within] r="5.5" {}
        }
    }
}

/// The error bar of a point; `offset` is how far below the point a number stands.
pub(super) fn whisker(mean: Estimate, offset: &dyn Fn(f64) -> f64) -> Markup {
    let error = mean.standard_error;
    let (low, high) = (offset(mean.value - error), offset(mean.value + error));
    html! {
        line.whisker x1="0" x2="0" y1=(low) y2=(high) {}
        line.whisker x1="-4" x2="4" y1=(low) y2=(low) {}
        line.whisker x1="-4" x2="4" y1=(high) y2=(high) {}
    }
}

/// The name beside a point, over all points.
fn label(point: &Point<'_>, points: &[Point<'_>]) -> Markup {
    let near = |p: &&Point<'_>| (p.x - point.x).abs() < 4.0 && (p.y - point.y).abs() < 24.0;
    // The point itself is near, too.
    let crowded = points.iter().filter(near).count() > 1;
    let distance = if crowded { 30.0 } else { 12.0 };
    let (dx, side) = match left(point) {
        true => (-distance, "end"),
        false => (distance, "start"),
    };
    let shift = point.label - point.y;
    html! {
        svg.point x=(percent(point.x)) y=(point.y) {
            @if crowded || shift.abs() > 5.0 {
                line.leader x1=(dx / 4.0) y1=(shift / 4.0) x2=(dx * 0.9) y2=(shift) {}
            }
            text.halo x=(dx) y=(shift + 4.0) text-anchor=(side) {
                (shortened(&plain(&point.model.name), LABEL))
                @if point.mean.value == 0.0 { " (0)" }
            }
        }
    }
}
