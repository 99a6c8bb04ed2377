//! The numbers of an evaluation as a table, one row a number and one column a model. Both the
//! page and the text print it, so they cannot disagree.

use super::number::{estimate, percent, percent_estimate, ratio, seconds, significant};
use crate::{
    eval::report::{Divergence, Evaluation, ModelResult, Noise},
    inspect::bytes,
};

/// One number of every model.
pub(super) struct Row {
    pub(super) group: Group,
    pub(super) label: &'static str,
    /// What the number is, for who does not know the label.
    pub(super) help: &'static str,
    /// Whether the short form of the table has it.
    pub(super) brief: bool,
    /// As many as [`columns`].
    pub(super) cells: Vec<Option<Cell>>,
}

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Cost,
    Prediction,
    Divergence,
    Reference,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Cost => "Size and time",
            Group::Prediction => "Prediction of the text",
            Group::Divergence => "Distance from the baseline's distributions",
            Group::Reference => "Probability of the reference token, compared with the baseline",
        }
    }
}

/// One number of one model.
pub(super) struct Cell {
    pub(super) text: String,
    /// How much of it the engine makes by itself.
    pub(super) noise: Option<String>,
    /// Whether it is no more than that.
    pub(super) within: bool,
}

impl Cell {
    fn plain(text: String) -> Cell {
        Cell {
            text,
            noise: None,
            within: false,
        }
    }

    /// A number that is 0 where nothing differs.
    fn with_noise(text: String, value: f64, noise: Option<f64>) -> Cell {
        Cell {
            text,
            noise: noise.map(|n| significant(n, 2)),
            within: noise.is_some_and(|n| value.abs() <= n),
        }
    }
}

/// The baseline, if any, and the models.
pub(super) fn columns(evaluation: &Evaluation) -> impl Iterator<Item = &ModelResult> + Clone {
    evaluation.baseline.iter().chain(&evaluation.models)
}

/// The rows for which any model has a number.
pub(super) fn rows(evaluation: &Evaluation) -> Vec<Row> {
    let original = evaluation.baseline.as_ref();
    let mut out = Vec::new();
    let mut row = |group, label, help, brief, cell: &dyn Fn(&ModelResult) -> Option<Cell>| {
        let cells: Vec<Option<Cell>> = columns(evaluation).map(cell).collect();
        if cells.iter().any(Option::is_some) {
            out.push(Row {
                group,
                label,
                help,
                brief,
                cells,
            });
        }
    };
    row(Group::Cost, "size", "all its files", true, &|m| {
        (m.bytes > 0).then(|| Cell::plain(bytes(m.bytes)))
    });
    let share = |m: &ModelResult| {
        let base = original.filter(|b| !std::ptr::eq(*b, m) && b.bytes > 0 && m.bytes > 0)?;
        Some(Cell::plain(percent(m.bytes as f64 / base.bytes as f64)))
    };
    row(
        Group::Cost,
        "of baseline",
        "share of the baseline's size",
        true,
        &share,
    );
    let time = |s: f64| (s > 0.0).then(|| Cell::plain(seconds(s)));
    row(Group::Cost, "load", "time to load it", true, &|m| {
        time(m.load_seconds)
    });
    let help = "time to run it on all of the input; a latency is what bench measures";
    row(Group::Cost, "run", help, true, &|m| time(m.run_seconds));
    prediction(&mut row);
    divergence(&mut row);
    reference(&mut row);
    out
}

/// Takes the group, label, help, whether it is brief, and what gives the cell of a model.
type Push<'a> =
    dyn FnMut(Group, &'static str, &'static str, bool, &dyn Fn(&ModelResult) -> Option<Cell>) + 'a;

fn prediction(row: &mut Push<'_>) {
    let help = "exp of the mean negative log-probability of the reference tokens; lower is better";
    row(Group::Prediction, "perplexity", help, true, &|m| {
        Some(Cell::plain(estimate(m.perplexity.as_ref()?.perplexity)))
    });
    let help = "divided by the baseline's perplexity";
    row(Group::Prediction, "ratio", help, true, &|m| {
        let found = m.perplexity.as_ref()?.ratio?;
        let noise = noise(m, |n| n.perplexity_ratio);
        let text = match found.standard_error > 0.0 {
            true => estimate(found),
            false => ratio(found.value),
        };
        Some(Cell {
            text,
            noise: noise.map(ratio),
            within: noise.is_some_and(|n| (found.value - 1.0).abs() <= (n - 1.0).abs()),
        })
    });
}

fn divergence(row: &mut Push<'_>) {
    let help = "mean Kullback-Leibler divergence from the baseline, in nats";
    row(Group::Divergence, "mean KLD", help, true, &|m| {
        let mean = m.divergence.as_ref()?.kld.mean;
        let noise = noise(m, |n| n.mean_kld);
        Some(Cell::with_noise(estimate(mean), mean.value, noise))
    });
    type Percentile = (&'static str, &'static str, bool, fn(&Divergence) -> f64);
    let percentiles: [Percentile; 5] = [
        (
            "median KLD",
            "half of the distributions have less",
            true,
            |d| d.kld.median,
        ),
        ("p90 KLD", "90 % have less", false, |d| d.kld.p90),
        ("p95 KLD", "95 % have less", false, |d| d.kld.p95),
        ("p99 KLD", "99 % have less", true, |d| d.kld.p99),
        ("p99.9 KLD", "99.9 % have less", false, |d| d.kld.p999),
    ];
    for (label, help, brief, value) in percentiles {
        row(Group::Divergence, label, help, brief, &|m| {
            let found = value(m.divergence.as_ref()?);
            Some(Cell::plain(significant(found, 3)))
        });
    }
    let help = "largest divergence of a distribution";
    row(Group::Divergence, "max KLD", help, true, &|m| {
        let max = m.divergence.as_ref()?.kld.max;
        let noise = noise(m, |n| n.max_kld);
        Some(Cell::with_noise(significant(max, 3), max, noise))
    });
    let help = "distributions with the same most probable token";
    row(Group::Divergence, "same top-1", help, true, &|m| {
        Some(Cell::plain(percent_estimate(m.divergence.as_ref()?.top1)))
    });
    let help = "share of the baseline's five most probable tokens among the model's five";
    row(Group::Divergence, "same top-5", help, true, &|m| {
        Some(Cell::plain(percent(m.divergence.as_ref()?.top5)))
    });
}

fn reference(row: &mut Push<'_>) {
    let help = "mean difference; below 0 the model gives the reference tokens less";
    row(Group::Reference, "mean Δ probability", help, false, &|m| {
        let d = &m.divergence.as_ref()?.probability;
        Some(Cell::plain(estimate(d.mean)))
    });
    row(
        Group::Reference,
        "RMS Δ probability",
        "root of the mean square",
        false,
        &|m| {
            let d = &m.divergence.as_ref()?.probability;
            Some(Cell::plain(significant(d.rms, 3)))
        },
    );
    row(
        Group::Reference,
        "max |Δ probability|",
        "largest difference",
        false,
        &|m| {
            let d = &m.divergence.as_ref()?.probability;
            Some(Cell::plain(significant(d.max, 3)))
        },
    );
    row(
        Group::Reference,
        "mean Δ log-prob",
        "mean difference, in nats",
        false,
        &|m| {
            let d = &m.divergence.as_ref()?.log_prob;
            Some(Cell::plain(estimate(d.mean)))
        },
    );
    row(
        Group::Reference,
        "RMS Δ log-prob",
        "root of the mean square, in nats",
        false,
        &|m| {
            let d = &m.divergence.as_ref()?.log_prob;
            Some(Cell::plain(significant(d.rms, 3)))
        },
    );
    row(
        Group::Reference,
        "max |Δ log-prob|",
        "largest difference, in nats",
        true,
        &|m| {
            let max = m.divergence.as_ref()?.log_prob.max;
            let noise = noise(m, |n| n.max_log_prob);
            Some(Cell::with_noise(significant(max, 3), max, noise))
        },
    );
}

fn noise(model: &ModelResult, of: impl Fn(&Noise) -> Option<f64>) -> Option<f64> {
    model.noise.as_ref().and_then(of)
}
