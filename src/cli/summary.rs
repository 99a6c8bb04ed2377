//! What a run did, for people and (`--json`) for programs.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use onnxq::{
    Result,
    eval::Evaluation,
    onnx::{Opened, Saved},
    pass::{Changed, Pipeline, Report},
    report,
    target::Target,
};
use serde::Serialize;

use super::Cx;

/// The report. Its JSON form is versioned by `schema`.
#[derive(Serialize)]
pub(crate) struct Summary {
    schema: &'static str,
    version: &'static str,
    input: Vec<FileSize>,
    output: Vec<FileSize>,
    dry_run: bool,
    pipeline: String,
    passes: Vec<PassSummary>,
    weights: Vec<WeightSummary>,
    /// Over all quantized weights, scales and zero points included.
    bits_per_weight: Option<f64>,
    remarks: Vec<RemarkSummary>,
    /// The oldest release of ONNX Runtime that runs the output on the CPU, as all newer ones do.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_from: Option<Target>,
    /// What --check found; as the JSON of onnxq eval.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Evaluation>,
    /// Whether the output has its name: not when a check failed, nor on a dry run.
    published: bool,
}

/// A file that was read or written.
#[derive(Clone, Serialize)]
pub(crate) struct FileSize {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl FileSize {
    /// The files of the model that was opened at `path`, itself first.
    pub(crate) fn all_of(path: &Path, opened: &Opened) -> Vec<FileSize> {
        let file = |path: &Path, bytes| FileSize {
            path: path.to_path_buf(),
            bytes,
        };
        let beside = opened.side_files.iter().map(|f| file(f.path(), f.len()));
        std::iter::once(file(path, opened.file.len()))
            .chain(beside)
            .collect()
    }
}

#[derive(Serialize)]
struct PassSummary {
    name: &'static str,
    /// How often it ran: in a group more than once. The numbers are those of all runs.
    runs: u32,
    seconds: f64,
    rewrites: u64,
    statistics: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct WeightSummary {
    name: String,
    nodes: Vec<String>,
    n: u64,
    k: u64,
    bits: u8,
    block: usize,
    bytes_before: u64,
    bytes_after: u64,
}

#[derive(Serialize)]
struct RemarkSummary {
    pass: &'static str,
    node: String,
    op_type: String,
    reason: &'static str,
    message: String,
    bytes: u64,
}

/// What came of the run of `pipeline`.
pub(crate) struct Outcome<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) report: Report,
    /// What was written, or would be.
    pub(crate) saved: Saved,
    /// The oldest release of ONNX Runtime that runs it, if that is known.
    pub(crate) runs_from: Option<Target>,
    pub(crate) dry_run: bool,
    pub(crate) check: Option<Evaluation>,
    /// Whether the output has its name.
    pub(crate) published: bool,
}

/// What is known before anything is done: the input.
pub(crate) struct Start {
    input: Vec<FileSize>,
}

impl Start {
    /// The report of a run.
    pub(crate) fn of(&self, outcome: Outcome<'_>) -> Summary {
        let file = |(path, bytes)| FileSize { path, bytes };
        let mut summary = Summary {
            schema: "onnxq.report/1",
            version: env!("CARGO_PKG_VERSION"),
            input: self.input.clone(),
            output: outcome.saved.files.into_iter().map(file).collect(),
            dry_run: outcome.dry_run,
            pipeline: outcome.pipeline.to_string(),
            passes: Vec::new(),
            weights: Vec::new(),
            bits_per_weight: None,
            remarks: Vec::new(),
            runs_from: outcome.runs_from,
            check: outcome.check,
            published: outcome.published,
        };
        summary.report(outcome.report);
        summary
    }
}

impl Summary {
    /// Bits of a quantized element, scales and zero points included; `None` where none is quantized.
    pub(crate) fn bits_per_weight(&self) -> Option<f64> {
        self.bits_per_weight
    }

    /// The oldest release of ONNX Runtime that runs the output, if that is known.
    pub(crate) fn runs_from(&self) -> Option<Target> {
        self.runs_from
    }

    /// Whether the output has its name.
    pub(crate) fn is_published(&self) -> bool {
        self.published
    }

    pub(crate) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Bytes of the input and of the output, side files included.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let total = |files: &[FileSize]| files.iter().map(|f| f.bytes).sum();
        (total(&self.input), total(&self.output))
    }

    /// The name of the model that was read.
    pub(crate) fn input_name(&self) -> String {
        name(&self.input)
    }

    /// The name of the model that was written.
    pub(crate) fn output_name(&self) -> String {
        name(&self.output)
    }

    pub(crate) fn start(path: &Path, opened: &Opened) -> Start {
        Start {
            input: FileSize::all_of(path, opened),
        }
    }

    fn report(&mut self, report: Report) {
        let rewrites = |changed| match changed {
            Changed::No => 0,
            Changed::Yes(n) => n,
        };
        let passes = report.passes.into_iter().map(|p| PassSummary {
            name: p.name,
            runs: p.runs,
            seconds: p.time.as_secs_f64(),
            rewrites: rewrites(p.changed),
            statistics: p.statistics,
        });
        self.passes = passes.collect();
        let weights = report.quantized.into_iter().map(|w| WeightSummary {
            name: w.name,
            nodes: w.nodes,
            n: w.shape[0],
            k: w.shape[1],
            bits: w.bits,
            block: w.block,
            bytes_before: w.bytes_before,
            bytes_after: w.bytes_after,
        });
        self.weights = weights.collect();
        let elements: u64 = self.weights.iter().map(|w| w.n * w.k).sum();
        let bytes: u64 = self.weights.iter().map(|w| w.bytes_after).sum();
        self.bits_per_weight = (elements > 0).then(|| bytes as f64 * 8.0 / elements as f64);
        let remarks = report.remarks.into_iter().map(|r| RemarkSummary {
            pass: r.pass,
            node: r.name,
            op_type: r.op_type,
            reason: r.reason.code(),
            message: r.message,
            bytes: r.bytes,
        });
        self.remarks = remarks.collect();
    }

    /// Prints the reports: as JSON where asked (several as a list), and for people on standard
    /// output unless the JSON goes there.
    pub(crate) fn finish(summaries: &[Summary], cx: &Cx, json: Option<&Path>) -> Result<()> {
        if let Some(path) = json {
            match summaries {
                [one] => cx.json(path, one)?,
                several => cx.json(path, &several)?,
            }
            if path == Path::new("-") {
                return Ok(());
            }
        }
        summaries.iter().try_for_each(|s| cx.summary(&s.text()))
    }

    fn text(&self) -> String {
        let (before, after) = self.sizes();
        let mut out = String::new();
        let name = |files: &[FileSize]| {
            files
                .first()
                .map_or(String::new(), |f| f.path.display().to_string())
        };
        let verb = match (self.dry_run, self.published) {
            (true, _) => " would be",
            (false, true) => "",
            (false, false) => " not written:",
        };
        let _ = writeln!(
            out,
            "{} ({}) ->{verb} {} ({}, {:.1} %)",
            name(&self.input),
            megabytes(before),
            name(&self.output),
            megabytes(after),
            after as f64 / before.max(1) as f64 * 100.0
        );
        if let Some(bits) = self.bits_per_weight {
            let sum = |f: fn(&WeightSummary) -> u64| self.weights.iter().map(f).sum::<u64>();
            let _ = writeln!(
                out,
                "quantized {} weights: {} -> {}, {bits:.2} bits a weight",
                self.weights.len(),
                megabytes(sum(|w| w.bytes_before)),
                megabytes(sum(|w| w.bytes_after))
            );
        }
        let mut left: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for remark in &self.remarks {
            let entry = left.entry(remark.reason).or_default();
            entry.0 += 1;
            entry.1 += remark.bytes;
        }
        for (reason, (nodes, bytes)) in left {
            let _ = writeln!(
                out,
                "left {nodes:>5} nodes {:>12}  {reason}",
                megabytes(bytes)
            );
        }
        if let Some(oldest) = self.runs_from {
            let _ = writeln!(out, "runs in {oldest} and newer");
        }
        if let Some(check) = &self.check {
            out += "\n";
            out += &report::text(check);
        }
        if !self.published {
            out += "\nA limit was missed, so there is no output; --keep keeps it.\n";
        }
        out
    }
}

/// The name of the first of `files`, without its folder.
fn name(files: &[FileSize]) -> String {
    let name = files.first().and_then(|f| f.path.file_name());
    name.unwrap_or_default().to_string_lossy().into_owned()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
