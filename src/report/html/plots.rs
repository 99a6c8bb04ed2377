//! Which charts an evaluation gives. One without numbers, or with a single one, is left out.

use maud::{Markup, html};

use super::{
    axis::Axis,
    chart::{Chart, Key, Strip, bar, dot, middle, percent, tick, whisker},
};
use crate::{
    eval::report::{Bin, Divergence, Estimate, Evaluation, ModelResult, OutputDifference},
    report::{
        Bench, Latency,
        number::{estimate, seconds, significant, thousands, typeset},
        rows::columns,
    },
};

/// How many nodes a chart has.
const NODES: usize = 20;

/// The models with the colours they have everywhere.
fn coloured(evaluation: &Evaluation) -> impl Iterator<Item = (usize, &ModelResult)> + Clone {
    let first = usize::from(evaluation.baseline.is_none());
    columns(evaluation)
        .enumerate()
        .map(move |(i, m)| (i + first, m))
}

/// What an estimate covers: one standard error to both sides.
fn interval(e: Estimate) -> (f64, f64) {
    let error = match e.standard_error.is_finite() {
        true => e.standard_error,
        false => 0.0,
    };
    (e.value - error, e.value + error)
}

/// The perplexity of the models.
pub(super) fn perplexity(evaluation: &Evaluation) -> Option<Markup> {
    let found: Vec<(usize, &ModelResult, Estimate)> = coloured(evaluation)
        .filter_map(|(i, m)| Some((i, m, m.perplexity.as_ref()?.perplexity)))
        .filter(|(_, _, p)| p.value.is_finite())
        .collect();
    if found.len() < 2 {
        return None;
    }
    let ends = found.iter().map(|(_, _, p)| interval(*p));
    let axis = Axis::linear(ends.flat_map(|(low, high)| [low, high]))?;
    let baseline = evaluation.baseline.as_ref();
    let baseline = baseline.and_then(|b| Some(b.perplexity.as_ref()?.perplexity.value));
    let mut keys = Vec::new();
    let row = |(i, m, p): &(usize, &ModelResult, Estimate)| {
        let (low, high) = interval(*p);
        let reach = baseline.zip(m.noise.as_ref().and_then(|n| n.perplexity_ratio));
        let ratio = m.perplexity.as_ref().and_then(|p| p.ratio);
        let within = ratio
            .zip(reach)
            .is_some_and(|(ratio, (_, noise))| (ratio.value - 1.0).abs() <= (noise - 1.0).abs());
        let marks = html! { (whisker(&axis, low, high)) (dot(&axis, p.value, within)) };
        Strip {
            name: m.name.clone(),
            detail: String::new(),
            value: typeset(&estimate(*p)),
            value_detail: ratio.map_or(String::new(), |r| format!("× {}", typeset(&estimate(r)))),
            colour: *i,
            noise: reach.map(|(base, ratio)| {
                let reach = base * (ratio - 1.0).abs();
                (base - reach, base + reach)
            }),
            marks: middle(&marks),
        }
    };
    let rows: Vec<Strip> = found.iter().map(row).collect();
    if rows.iter().any(|r| r.noise.is_some()) {
        let text = "baseline, and as far around it as the engine's own noise reaches";
        keys.push(Key::new("noise", text));
    }
    let lead = "Left is better. Error bars: one standard error. All models read the same text, so \
                the ratio to the baseline is known much better than each perplexity.";
    let chart = Chart {
        title: "Perplexity".into(),
        lead: lead.into(),
        unit: "perplexity",
        axis,
        rows,
        keys,
        high: false,
    };
    Some(chart.draw())
}

/// How the divergences of single distributions are spread.
pub(super) fn histogram(evaluation: &Evaluation) -> Option<Markup> {
    let found: Vec<(usize, &ModelResult, &Divergence, Vec<Bin>)> = coloured(evaluation)
        .filter_map(|(i, m)| {
            let d = m.divergence.as_ref()?;
            Some((i, m, d, bins(&d.histogram)))
        })
        .filter(|(_, _, _, bins)| !bins.is_empty())
        .collect();
    let edges = found.iter().flat_map(|(_, _, _, bins)| bins);
    let axis = Axis::logarithmic(edges.flat_map(|b| [b.from, b.to]))?;
    let row = |(i, m, d, bins): &(usize, &ModelResult, &Divergence, Vec<Bin>)| {
        let noise = m.noise.as_ref().and_then(|n| n.max_kld);
        Strip {
            name: m.name.clone(),
            detail: format!("{} distributions", thousands(d.distributions)),
            value: format!("mean {}", typeset(&significant(d.kld.mean.value, 3))),
            value_detail: format!("max {}", typeset(&significant(d.kld.max, 3))),
            colour: *i,
            noise: noise.map(|n| (0.0, n)),
            marks: columns_of(&axis, bins, d.kld.mean.value),
        }
    };
    let rows: Vec<Strip> = found.iter().map(row).collect();
    let mut keys = vec![Key::new("mean", "mean")];
    if rows.iter().any(|r| r.noise.is_some()) {
        keys.push(Key::new(
            "noise",
            "up to the largest divergence that is the engine's own noise",
        ));
    }
    let lowest = found.iter().filter_map(|(_, _, d, _)| d.histogram.first());
    if let Some(bin) = lowest.into_iter().find(|b| b.from == 0.0 && b.count > 0) {
        let to = typeset(&significant(bin.to, 1));
        keys.push(Key::new(
            "bar",
            format!("the leftmost bar has all below {to}"),
        ));
    }
    let chart = Chart {
        title: "How often distributions diverge how much".into(),
        lead: "Kullback-Leibler divergence of each next-token distribution from the baseline's, \
               on a log scale. Every row is scaled to its own highest bar."
            .into(),
        unit: "KLD (nats)",
        axis,
        rows,
        keys,
        high: true,
    };
    Some(chart.draw())
}

/// The bins from the first to the last that count any, with a lower end that a logarithmic
/// axis can show.
fn bins(histogram: &[Bin]) -> Vec<Bin> {
    let counts = |b: &Bin| b.count > 0;
    let (Some(first), Some(last)) = (
        histogram.iter().position(counts),
        histogram.iter().rposition(counts),
    ) else {
        return Vec::new();
    };
    let width = histogram
        .iter()
        .find(|b| b.from > 0.0)
        .map_or(10.0, |b| b.to / b.from);
    let shown = |b: &Bin| Bin {
        from: if b.from > 0.0 { b.from } else { b.to / width },
        ..*b
    };
    histogram[first..=last].iter().map(shown).collect()
}

/// Bars that stand on the lower edge of the strip. Their area counts, as bins may differ in
/// width.
fn columns_of(axis: &Axis, bins: &[Bin], mean: f64) -> Markup {
    let density = |b: &Bin| b.count as f64 / (b.to / b.from).log10();
    let highest = bins.iter().map(density).fold(0.0, f64::max);
    html! {
        @for b in bins.iter().filter(|b| b.count > 0) {
            @let (from, to) = (axis.at(b.from), axis.at(b.to));
            @let height = density(b) / highest * 92.0;
            rect.column x=(percent(from)) width=(percent(to - from))
                y=(percent(100.0 - height)) height=(percent(height)) {}
        }
        @if mean > 0.0 && mean.is_finite() {
            @let at = percent(axis.at(mean));
            line.mean x1=(at) x2=(at) y1="0" y2="100%" {}
        }
    }
}

/// The nodes where a model leaves the baseline.
pub(super) fn nodes(model: &ModelResult, colour: usize) -> Option<Markup> {
    let shown = &model.per_node[..model.per_node.len().min(NODES)];
    let ends = shown.iter().flat_map(|n| [n.introduced, n.accumulated]);
    let axis = Axis::linear(ends.chain([0.0])).filter(|_| !shown.is_empty())?;
    let rows = shown.iter().map(|n| {
        let marks = html! {
            (bar(&axis, n.introduced, -7.0, 6.0, false))
            (bar(&axis, n.accumulated, 1.0, 6.0, true))
        };
        Strip {
            name: n.node.clone(),
            detail: n.operator.clone(),
            value: typeset(&significant(n.introduced, 3)),
            value_detail: typeset(&significant(n.accumulated, 3)),
            colour,
            noise: None,
            marks: middle(&marks),
        }
    });
    let left = match model.per_node.len() - shown.len() {
        0 => String::new(),
        n => format!(" The worst {}; {n} more are in the JSON.", shown.len()),
    };
    let chart = Chart {
        title: format!("Where the error comes from: {}", super::name(model)),
        lead: format!(
            "Relative error of what a node computes: norm of the difference by norm of the \
             baseline's value.{left}"
        ),
        unit: "relative error",
        rows: rows.collect(),
        axis,
        keys: vec![
            Key::new(
                "bar",
                "introduced: by this node alone, fed what the baseline computes",
            ),
            Key::new("bar light", "accumulated: with all the nodes before it"),
        ],
        high: false,
    };
    Some(chart.draw())
}

/// Signal to noise of the outputs.
pub(super) fn snr(evaluation: &Evaluation) -> Option<Markup> {
    let axis = Axis::linear(
        outputs(evaluation)
            .filter_map(|(_, _, o)| o.snr_db)
            .chain([0.0]),
    );
    let axis = axis.filter(|_| {
        outputs(evaluation)
            .filter(|(_, _, o)| o.snr_db.is_some())
            .count()
            > 1
    })?;
    let rows = outputs(evaluation).map(|(i, m, o)| {
        let marks = html! {
            @if let Some(snr) = o.snr_db { (bar(&axis, snr, -6.0, 12.0, false)) }
        };
        let equal = || String::from("equal");
        Strip {
            name: o.name.clone(),
            detail: m.name.clone(),
            value: o
                .snr_db
                .map_or_else(equal, |v| typeset(&format!("{v:.1} dB"))),
            value_detail: String::new(),
            colour: i,
            noise: None,
            marks: middle(&marks),
        }
    });
    let chart = Chart {
        title: "Signal to noise".into(),
        lead: "Power of the baseline's output by power of the difference; longer is closer to the \
               baseline. 20 dB more is a tenth of the error."
            .into(),
        unit: "dB",
        rows: rows.collect(),
        axis,
        keys: Vec::new(),
        high: false,
    };
    Some(chart.draw())
}

/// Largest and mean difference of the outputs, against the engine's noise.
pub(super) fn differences(evaluation: &Evaluation) -> Option<Markup> {
    let noise = |m: &ModelResult| m.noise.as_ref().and_then(|n| n.max_difference);
    let all = outputs(evaluation);
    let values = all
        .clone()
        .flat_map(|(_, m, o)| [o.max, o.mean, noise(m).unwrap_or(0.0)]);
    let axis = Axis::logarithmic(values).filter(|_| all.clone().count() > 1)?;
    let rows = all.map(|(i, m, o)| {
        let within = o.max <= noise(m).unwrap_or(0.0);
        let marks = html! {
            (tick(&axis, o.mean, 6.0))
            (dot(&axis, o.max, within))
        };
        Strip {
            name: o.name.clone(),
            detail: m.name.clone(),
            value: typeset(&significant(o.max, 3)),
            value_detail: format!("mean {}", typeset(&significant(o.mean, 3))),
            colour: i,
            noise: noise(m).map(|n| (0.0, n)),
            marks: middle(&marks),
        }
    });
    let rows: Vec<Strip> = rows.collect();
    let mut keys = vec![Key::new("dot", "largest"), Key::new("tick", "mean")];
    if rows.iter().any(|r| r.noise.is_some()) {
        keys.push(Key::new(
            "noise",
            "noise of the engine itself; a hollow point is within it",
        ));
    }
    let chart = Chart {
        title: "Differences between numbers".into(),
        lead: "Absolute differences from the baseline's outputs, on a log scale.".into(),
        unit: "difference",
        rows,
        axis,
        keys,
        high: false,
    };
    Some(chart.draw())
}

type Output<'a> = (usize, &'a ModelResult, &'a OutputDifference);

fn outputs(evaluation: &Evaluation) -> impl Iterator<Item = Output<'_>> + Clone {
    coloured(evaluation).flat_map(|(i, m)| m.outputs.iter().map(move |o| (i, m, o)))
}

/// The colour of the model of that name where it was evaluated, too.
fn colour_of(name: &str, evaluations: &[Evaluation]) -> Option<usize> {
    let mut all = evaluations.iter().flat_map(coloured);
    all.find(|(_, m)| m.name == name).map(|(colour, _)| colour)
}

/// How long runs took.
pub(super) fn latency(bench: &Bench, evaluations: &[Evaluation]) -> Option<Markup> {
    let ends = |l: &Latency| [l.mean_ms + l.sd_ms, l.p99_ms, 0.0];
    let axis = Axis::linear(bench.models.iter().flat_map(ends))?;
    let rows = bench.models.iter().enumerate().map(|(i, l)| {
        let marks = html! {
            (bar(&axis, l.mean_ms, -7.0, 14.0, true))
            (whisker(&axis, l.mean_ms - l.sd_ms, l.mean_ms + l.sd_ms))
            (tick(&axis, l.p50_ms, 10.0))
            (tick(&axis, l.p95_ms, 8.0))
            (tick(&axis, l.p99_ms, 6.0))
        };
        let mean = Estimate {
            value: l.mean_ms,
            standard_error: l.sd_ms,
        };
        let rate = l
            .throughput
            .as_ref()
            .map(|t| format!("{} {}/s", typeset(&significant(t.per_second, 3)), t.unit));
        Strip {
            name: l.name.clone(),
            detail: format!("{} runs", thousands(l.runs)),
            value: format!("{} ms", typeset(&estimate(mean))),
            value_detail: rate.unwrap_or_default(),
            colour: colour_of(&l.name, evaluations).unwrap_or(i + 1),
            noise: None,
            marks: middle(&marks),
        }
    });
    let rows: Vec<Strip> = rows.collect();
    let chart = Chart {
        title: "Latency of a run".into(),
        lead: "Shorter is faster.".into(),
        unit: "ms",
        rows,
        axis,
        keys: vec![
            Key::new("bar light", "mean"),
            Key::new("whisker", "standard deviation"),
            Key::new("tick", "median, 95th and 99th percentile"),
        ],
        high: false,
    };
    Some(chart.draw())
}

/// The percentiles of a benchmark in a table, as the strips have no room for their numbers.
pub(super) fn latencies(bench: &Bench) -> Markup {
    let ms = |v: f64| seconds(v / 1e3);
    html! {
        table {
            caption { "Percentiles" }
            thead {
                tr {
                    th scope="col" { "Model" }
                    @for head in ["runs", "mean", "SD", "median", "p95", "p99"] {
                        th scope="col" { (head) }
                    }
                }
            }
            tbody {
                @for l in &bench.models {
                    tr {
                        th scope="row" { bdi { (crate::report::words::plain(&l.name)) } }
                        td { (thousands(l.runs)) }
                        @for v in [l.mean_ms, l.sd_ms, l.p50_ms, l.p95_ms, l.p99_ms] {
                            td { (ms(v)) }
                        }
                    }
                }
            }
        }
    }
}
