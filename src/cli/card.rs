//! The model card of a folder: what it holds, where it comes from, and what was measured.

use std::{fmt::Write, path::Path};

use onnxq::{
    Result,
    eval::Evaluation,
    onnx::{self, OpenOptions},
    package::{Provenance, SUMS, base_and_dtype},
    report,
};

use super::{job::Done, package::Folder, summary::Summary, table::bytes};

/// The card of the models of `done`, which were written into `folder`, in Markdown.
///
/// # Errors
/// A model cannot be read again.
pub(super) fn card(done: &Done, folder: &Folder<'_>) -> Result<String> {
    let published = || done.summaries.iter().filter(|s| s.is_published());
    let mut text =
        "---\nlibrary_name: transformers.js\ntags:\n- onnx\n- quantized\n---\n".to_owned();
    let _ = writeln!(
        text,
        "# Quantized models\n\nMade by onnxq {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    text += "| file | dtype | size | of the original | bits a weight | runs in |\n|---|---|--:|--:|--:|---|\n";
    for summary in published() {
        text += &row(summary);
    }
    text += "\n## Origin\n\n| file | made from | SHA-256 of that | by |\n|---|---|---|---|\n";
    for summary in published() {
        text += &origin(summary, folder)?;
    }
    text += "\n## Measured\n\n";
    match &done.checked[..] {
        [] => text += "Nothing was: `onnxq quantize --check FILE` does that.\n",
        checked => {
            let texts: Vec<String> = checked.iter().map(measured).collect();
            text += &texts.join("\n");
        }
    }
    let _ = writeln!(
        text,
        "\n`onnxq verify .` checks the files of this folder, against {SUMS} too where that is there."
    );
    Ok(text)
}

fn row(summary: &Summary) -> String {
    let name = summary.output_name();
    let (before, after) = summary.sizes();
    let bits = summary.bits_per_weight();
    let bits = bits.map_or(String::new(), |b| format!("{b:.2}"));
    let runs = summary.runs_from();
    let runs = runs.map_or(String::new(), |t| format!("{t} and newer"));
    let (_, dtype) = base_and_dtype(name.trim_end_matches(".onnx"));
    format!(
        "| `{name}` | {dtype} | {} | {:.1} % | {bits} | {runs} |\n",
        bytes(after),
        after as f64 / before.max(1) as f64 * 100.0
    )
}

/// Where a model comes from, by its own record.
fn origin(summary: &Summary, folder: &Folder<'_>) -> Result<String> {
    let name = summary.output_name();
    let model = onnx::open(&folder.written(&name)?, OpenOptions::default())?.model;
    let sha = Provenance::of(&model).and_then(|p| p.source_sha256);
    let sha = sha.unwrap_or_default();
    let source = summary.input_name();
    let pipeline = summary.pipeline().replace('|', "\\|");
    Ok(format!(
        "| `{name}` | `{source}` | `{sha}` | `{pipeline}` |\n"
    ))
}

fn measured(evaluation: &Evaluation) -> String {
    let mut evaluation = evaluation.clone();
    // Where the text lies here is nobody's business.
    let name = Path::new(&evaluation.input.source).file_name();
    if let Some(name) = name.map(|n| n.to_string_lossy().into_owned()) {
        evaluation.input.source = name;
    }
    format!("```text\n{}```\n", report::text(&evaluation))
}
