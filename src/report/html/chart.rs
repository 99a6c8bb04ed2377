//! A chart with one strip a row: name, marks along a common axis, the number itself.
//!
//! Names and numbers are text of the page: they wrap, can be selected and read aloud. Marks are
//! placed in percent of the width, so a chart follows the window while its text keeps its size.

use maud::{Markup, html};

use super::axis::Axis;
use crate::report::words::plain;

/// How many colours the style sheet has for models. Rows and points have names beside them, so
/// that a colour may come again.
const COLOURS: usize = 6;

/// A chart.
pub(super) struct Chart {
    pub(super) title: String,
    /// What it shows, and how to read it.
    pub(super) lead: String,
    /// What the numbers along the axis are.
    pub(super) unit: &'static str,
    pub(super) axis: Axis,
    pub(super) rows: Vec<Strip>,
    pub(super) keys: Vec<Key>,
    /// Whether the strips are high, for bars that stand.
    pub(super) high: bool,
}

/// A row of a chart.
pub(super) struct Strip {
    pub(super) name: String,
    /// What stands below the name.
    pub(super) detail: String,
    /// The number.
    pub(super) value: String,
    /// What stands below the number.
    pub(super) value_detail: String,
    /// Which of the colours.
    pub(super) colour: usize,
    /// From where to where the engine's noise reaches.
    pub(super) noise: Option<(f64, f64)>,
    pub(super) marks: Markup,
}

/// What a mark means.
pub(super) struct Key {
    /// Class of the sample.
    pub(super) sample: &'static str,
    pub(super) text: String,
}

impl Key {
    pub(super) fn new(sample: &'static str, text: impl Into<String>) -> Key {
        Key {
            sample,
            text: text.into(),
        }
    }
}

/// The class that has the colour of the baseline (0) or of a model (from 1).
pub(super) fn colour(index: usize) -> String {
    match index {
        0 => "c0".into(),
        i => format!("c{}", (i - 1) % COLOURS + 1),
    }
}

/// A length in percent.
pub(super) fn percent(at: f64) -> String {
    format!("{at:.2}%")
}

impl Chart {
    pub(super) fn draw(&self) -> Markup {
        html! {
            figure.chart.high[self.high] {
                (head(&self.title, &self.lead))
                div.strips {
                    @for row in &self.rows { (self.strip(row)) }
                    div.name {}
                    div.value.unit { (self.unit) }
                    div.plot.axis { (labels(&self.axis)) }
                }
                (keys(&self.keys))
            }
        }
    }

    fn strip(&self, row: &Strip) -> Markup {
        let name = plain(&row.name);
        html! {
            div.name {
                bdi { (breakable(&name)) }
                @if !row.detail.is_empty() { small { (plain(&row.detail)) } }
            }
            div.value {
                (row.value)
                @if !row.value_detail.is_empty() { small { (row.value_detail) } }
            }
            div.plot {
                svg.(colour(row.colour)) role="img" {
                    title { (name) ": " (row.value) " " (row.value_detail) }
                    @for tick in &self.axis.ticks {
                        line.grid x1=(percent(tick.at)) x2=(percent(tick.at)) y1="0" y2="100%" {}
                    }
                    @if let Some((from, to)) = row.noise { (self.band(from, to)) }
                    (row.marks)
                }
            }
        }
    }

    /// The stroke keeps a band visible that is narrower than a pixel, if it has any width.
    fn band(&self, from: f64, to: f64) -> Markup {
        let from = self.axis.at(from);
        let to = self.axis.at(to).max(from + 0.01);
        html! {
            rect.noise x=(percent(from)) width=(percent(to - from)) y="0" height="100%" {}
        }
    }
}

/// A name that may be broken where paths have their joints.
fn breakable(name: &str) -> Markup {
    html! {
        @for part in name.split_inclusive(['/', '.', '_']) { (part) wbr; }
    }
}

/// Title and lead of a figure.
pub(super) fn head(title: &str, lead: &str) -> Markup {
    html! {
        h3 { (title) }
        p.lead { (lead) }
    }
}

/// The numbers below a chart.
fn labels(axis: &Axis) -> Markup {
    html! {
        svg aria-hidden="true" {
            @for tick in &axis.ticks {
                text x=(percent(tick.at)) y="14" text-anchor=(anchor(tick.at)) { (tick.label) }
            }
        }
    }
}

/// Texts at the ends of an axis must not reach over it.
pub(super) fn anchor(at: f64) -> &'static str {
    match at {
        a if a < 2.0 => "start",
        a if a > 98.0 => "end",
        _ => "middle",
    }
}

/// What the marks of a figure mean.
pub(super) fn keys(keys: &[Key]) -> Markup {
    html! {
        @if !keys.is_empty() {
            figcaption {
                @for key in keys {
                    span.key { span.sample.(key.sample) {} (key.text) }
                }
            }
        }
    }
}

/// Marks around the middle line of a strip, in pixels up and down.
pub(super) fn middle(marks: &Markup) -> Markup {
    html! { svg.middle y="50%" { (marks) } }
}

/// A line from `low` to `high` with caps.
pub(super) fn whisker(axis: &Axis, low: f64, high: f64) -> Markup {
    let (low, high) = (percent(axis.at(low)), percent(axis.at(high)));
    html! {
        line.whisker x1=(low) x2=(high) y1="0" y2="0" {}
        line.whisker x1=(low) x2=(low) y1="-5" y2="5" {}
        line.whisker x1=(high) x2=(high) y1="-5" y2="5" {}
    }
}

/// A point; hollow when it says nothing.
pub(super) fn dot(axis: &Axis, value: f64, hollow: bool) -> Markup {
    html! { circle.dot.hollow[hollow] cx=(percent(axis.at(value))) cy="0" r="5" {} }
}

/// A short upright line.
pub(super) fn tick(axis: &Axis, value: f64, half: f64) -> Markup {
    let at = percent(axis.at(value));
    html! { line.tick x1=(at) x2=(at) y1=(-half) y2=(half) {} }
}

/// A bar from the low end of the axis.
pub(super) fn bar(axis: &Axis, value: f64, top: f64, height: f64, light: bool) -> Markup {
    let width = percent(axis.at(value));
    html! { rect.bar.light[light] x="0" width=(width) y=(top) height=(height) {} }
}
