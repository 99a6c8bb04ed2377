//! Runs the file tests: every `testdata/filetests/<pass>/*.onnxtxt`.
//!
//! ```text
//! # What the file shows.
//! # RUN: opt --passes 'strip-attrs,dce'
//! # OPTIONS: elide-above=64
//! <ir_version: 10, opset_import: ["" : 21]>
//! main (float[N] x) => (float[N] y) { y = Relu (x) }
//! ---- expected ----
//! the model that the pipeline makes
//! ---- remarks ----
//! reason-code node
//! ```
//!
//! Instead of `expected` there may be `error`, with the message on one line. Sections are
//! compared exactly, and `expected` or `error` must be there; `remarks` must be there when
//! the pipeline makes some. A second run over the result must change nothing. Options,
//! separated by spaces: `elide-above=N` and `elide-computed-above=N` print less;
//! `onnx` prints without extensions; `runs-once` leaves out the second run. A line
//! `# SQUARES: W columns 2x3 = 1 4 9` is what a calibration would have found of a weight of 2
//! results and 3 terms: the mean squares of what it is multiplied by.
//!
//! `ONNXQ_BLESS=1` writes what was found into the files.

use std::{fmt::Write, path::Path, sync::Arc};

use onnxq::{
    error::Error,
    ir::Model,
    pass::{PassManager, Pipeline},
    passes::REGISTRY,
    text::{self, PrintOptions},
    weights::{Calibrated, Layout, WeightKey},
};

/// What a pass said: the reason's code, and the node.
type Remark = (String, String);

/// Runs `pipeline` over `model`, verifying after every pass.
fn run_pipeline(
    mut model: Model,
    pipeline: &str,
    calibrated: Option<Arc<Calibrated>>,
) -> Result<(Model, Vec<Remark>), Error> {
    let pipeline = Pipeline::parse(pipeline, REGISTRY)?;
    let mut manager = PassManager {
        calibrated,
        ..PassManager::default()
    };
    manager.instruments.verify_each = true;
    let report = manager.run(&pipeline, &mut model)?;
    let remark = |r: &onnxq::pass::Remark| (r.reason.code().to_owned(), r.label.clone());
    Ok((model, report.remarks.iter().map(remark).collect()))
}

const SECTIONS: [&str; 3] = ["expected", "remarks", "error"];

fn separator(section: &str) -> String {
    format!("---- {section} ----")
}

/// A file test, taken apart.
struct FileTest<'t> {
    /// Everything before the first separator.
    input: &'t str,
    pipeline: String,
    print: PrintOptions,
    runs_once: bool,
    calibrated: Option<Arc<Calibrated>>,
    /// The text of each of [`SECTIONS`].
    sections: [Option<&'t str>; 3],
}

impl<'t> FileTest<'t> {
    fn parse(text: &'t str) -> Result<Self, String> {
        let mut starts = Vec::new();
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let name = line.trim_end();
            if let Some(i) = SECTIONS.iter().position(|s| separator(s) == name) {
                starts.push((i, offset, offset + line.len()));
            } else if name.starts_with("----") {
                return Err(format!("unknown section `{name}`"));
            }
            offset += line.len();
        }
        let input = &text[..starts.first().map_or(text.len(), |s| s.1)];
        let mut sections = [None; 3];
        for (n, &(i, _, start)) in starts.iter().enumerate() {
            let end = starts.get(n + 1).map_or(text.len(), |s| s.1);
            if sections[i].replace(&text[start..end]).is_some() {
                return Err(format!("section `{}` stands there twice", SECTIONS[i]));
            }
        }
        let mut test = FileTest {
            input,
            pipeline: String::new(),
            print: PrintOptions::default(),
            runs_once: false,
            calibrated: None,
            sections,
        };
        test.read_comments()?;
        Ok(test)
    }

    fn read_comments(&mut self) -> Result<(), String> {
        let mut pipelines = Vec::new();
        let mut calibrated = Calibrated::default();
        for line in self.input.lines().take_while(|l| l.starts_with('#')) {
            let line = line.trim_start_matches('#').trim();
            if let Some(command) = line.strip_prefix("RUN:") {
                let pipeline = command.trim().strip_prefix("opt --passes ").map(str::trim);
                let bare = |p: &'_ str| {
                    let inner = p.strip_prefix('\'').and_then(|p| p.strip_suffix('\''));
                    inner.unwrap_or(p).to_owned()
                };
                let expected = "expected `RUN: opt --passes 'PIPELINE'`";
                pipelines.push(pipeline.map(bare).ok_or(expected)?);
            } else if let Some(squares) = line.strip_prefix("SQUARES:") {
                let (key, squares) = squares_of(squares).ok_or("expected `W rows 2x3 = 1 4 9`")?;
                calibrated.importance.insert(key, squares);
            } else if let Some(options) = line.strip_prefix("OPTIONS:") {
                for option in options.split_whitespace() {
                    self.option(option)?;
                }
            }
        }
        self.calibrated = (!calibrated.importance.is_empty()).then(|| Arc::new(calibrated));
        match <[String; 1]>::try_from(pipelines) {
            Ok([pipeline]) => self.pipeline = pipeline,
            Err(found) => return Err(format!("expected one `RUN:` line, found {}", found.len())),
        }
        Ok(())
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || {
            let number = value.parse().map(Some);
            number.map_err(|_| format!("option `{name}`: expected a number, found `{value}`"))
        };
        match name {
            "elide-above" => self.print.elide_above = number()?,
            "elide-computed-above" => self.print.elide_computed_above = number()?,
            "onnx" => self.print.extensions = false,
            "runs-once" => self.runs_once = true,
            _ => return Err(format!("unknown option `{option}`")),
        }
        Ok(())
    }

    /// What the sections should hold, and what else is wrong.
    fn run(&self) -> Result<[Option<String>; 3], String> {
        let model = text::parse(self.input).map_err(|e| format!("input: {}", e.chain()))?;
        let run = |model| run_pipeline(model, &self.pipeline, self.calibrated.clone());
        let (model, remarks) = match run(model) {
            Ok(result) => result,
            Err(error) => return Ok([None, None, Some(format!("{}\n", error.chain()))]),
        };
        let output = text::print(&model, &self.print);
        if !self.runs_once {
            let (again, _) = run(model).map_err(|e| format!("second run: {}", e.chain()))?;
            let again = text::print(&again, &self.print);
            if again != output {
                return Err(format!(
                    "a second run changes the model:\n{}",
                    diff(&output, &again)
                ));
            }
        }
        // Every output is a test of the text itself, unless elements were left out.
        if !output.contains("{...") {
            let parsed = text::parse(&output).map_err(|e| format!("output: {}", e.chain()))?;
            let again = text::print(&parsed, &self.print);
            if again != output {
                let diff = diff(&output, &again);
                return Err(format!("the output reads back differently:\n{diff}"));
            }
        }
        let mut list = String::new();
        for (code, node) in &remarks {
            let _ = writeln!(list, "{code} {node}");
        }
        let remarks = (!remarks.is_empty()).then_some(list);
        Ok([Some(output), remarks, None])
    }
}

/// A weight, and the mean squares of what it is multiplied by.
fn squares_of(text: &str) -> Option<(WeightKey, Arc<[f32]>)> {
    let (weight, squares) = text.split_once('=')?;
    let [name, layout, extents] = weight.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let (n, k) = extents.split_once('x')?;
    let key = WeightKey {
        name: name.to_owned(),
        layout: match layout {
            "rows" => Layout::Rows,
            "columns" => Layout::Columns,
            _ => return None,
        },
        n: n.parse().ok()?,
        k: k.parse().ok()?,
    };
    let squares = squares.split_whitespace().map(str::parse);
    Some((key, squares.collect::<Result<_, _>>().ok()?))
}

/// What is wrong with the test `text`, and the text that would be right.
fn check(text: &str) -> Result<(), (String, Option<String>)> {
    let test = FileTest::parse(text).map_err(|e| (e, None))?;
    let found = test.run().map_err(|e| (e, None))?;
    let mut problems = String::new();
    let mut blessed = test.input.to_owned();
    if !blessed.ends_with('\n') {
        blessed.push('\n');
    }
    for ((section, expected), found) in SECTIONS.iter().zip(test.sections).zip(&found) {
        if let Some(found) = found {
            let _ = write!(blessed, "{}\n{found}", separator(section));
        }
        match (expected, found) {
            (Some(expected), Some(found)) if expected == found => {}
            (None, None) => {}
            (Some(expected), Some(found)) => {
                let _ = writeln!(problems, "{section} differs:\n{}", diff(expected, found));
            }
            (None, Some(found)) => {
                let _ = writeln!(problems, "section `{section}` is missing; found:\n{found}");
            }
            (Some(_), None) => {
                let _ = writeln!(problems, "section `{section}` is there, but there is none");
            }
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err((problems, Some(blessed))),
    }
}

/// The lines that differ, with `-` for expected and `+` for found, and a few around them.
fn diff(expected: &str, found: &str) -> String {
    const AROUND: usize = 2;
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    // Length of the longest common subsequence of the rest, from each pair of lines on.
    let mut common = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = match a[i] == b[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let mut out = String::new();
    let mut last = None;
    for (n, (sign, line)) in lines.iter().enumerate() {
        let near = n.saturating_sub(AROUND)..(n + AROUND + 1).min(lines.len());
        if lines[near].iter().all(|(sign, _)| *sign == ' ') {
            continue;
        }
        if last.is_some_and(|last| last + 1 != n) {
            out.push_str("    ...\n");
        }
        last = Some(n);
        let _ = writeln!(out, "  {sign} {line}");
    }
    if out.is_empty() && expected != found {
        out.push_str("  only line ends differ\n");
    }
    out
}

/// All file tests below `folder`, in order.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let entries = |path: &Path| -> Vec<_> {
        let read = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        read.map(|e| e.expect("a folder entry").path()).collect()
    };
    for pass in entries(folder) {
        for file in entries(&pass) {
            let known = file.extension().is_some_and(|e| e == "onnxtxt");
            assert!(known, "{}: not a file test", file.display());
            files.push(file);
        }
    }
    files.sort();
    files
}

#[test]
fn file_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/filetests");
    let bless = std::env::var_os("ONNXQ_BLESS").is_some_and(|v| v == "1");
    let files = files(&folder);
    assert!(!files.is_empty(), "no file tests in testdata/filetests");
    let mut failed = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&folder).unwrap_or(file).display();
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{name}: {e}"));
        match check(&text) {
            Ok(()) => {}
            Err((_, Some(blessed))) if bless => {
                std::fs::write(file, blessed).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            Err((problems, _)) => failed.push(format!("==== {name}\n{problems}")),
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} file tests fail:\n\n{}\nONNXQ_BLESS=1 accepts the new text",
        failed.len(),
        files.len(),
        failed.join("\n")
    );
}

const INPUT: &str = "# RUN: opt --passes ''\ng (float x) => (float y) { y = Relu (x) }\n";

/// [`INPUT`] with the sections it should have.
fn blessed() -> String {
    check(INPUT).unwrap_err().1.unwrap()
}

#[test]
fn a_missing_section_fails_and_blessing_adds_it() {
    let (problems, _) = check(INPUT).unwrap_err();
    assert!(
        problems.contains("section `expected` is missing"),
        "{problems}"
    );
    let blessed = blessed();
    assert!(blessed.starts_with(INPUT));
    assert_eq!(check(&blessed), Ok(()));
}

#[test]
fn any_other_text_fails() {
    let changed = blessed().replace("y = Relu (x)\n", "y = Relu (z)\n");
    let (problems, fixed) = check(&changed).unwrap_err();
    assert!(
        problems.contains("  -    y = Relu (z)\n  +    y = Relu (x)\n"),
        "{problems}"
    );
    assert_eq!(fixed, Some(blessed()));
    for extra in ["\n", "---- remarks ----\nrank y\n", "---- error ----\nno\n"] {
        assert!(check(&(blessed() + extra)).is_err(), "{extra}");
    }
}

#[test]
fn malformed_tests_are_errors() {
    let cases = [
        (
            INPUT.replace("RUN", "WALK"),
            "expected one `RUN:` line, found 0",
        ),
        (
            INPUT.replace("opt", "cat"),
            "expected `RUN: opt --passes 'PIPELINE'`",
        ),
        (
            INPUT.replace("''\n", "''\n# OPTIONS: x\n"),
            "unknown option `x`",
        ),
        (
            INPUT.replace("''\n", "''\n# OPTIONS: elide-above=x\n"),
            "expected a number",
        ),
        (
            format!("{INPUT}---- expectations ----\n"),
            "unknown section",
        ),
        (blessed() + &separator("expected"), "stands there twice"),
        (
            INPUT.replace("Relu (x)", "Relu (z)"),
            "input: 2:38: value `z` is not defined",
        ),
    ];
    for (text, expected) in cases {
        let (problem, blessed) = check(&text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(blessed, None, "{expected}");
    }
    let (problem, _) = check(&INPUT.replace("''", "'nonsense'")).unwrap_err();
    assert!(problem.contains("section `error` is missing"), "{problem}");
}
