//! A way to quantize: options of `quantize`, understood by `quantize` itself.

use std::{ffi::OsString, path::Path};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use onnxq::{Error, Result};

use super::words;
use crate::cli::quantize::{Dtype, QuantizeArgs};

/// What every way is tried with. Methods that need no calibration are named, since one is the default where
/// there is a calibration.
const DATA_FREE: [&str; 7] = [
    "--method rtn --symmetric --block-size 32",
    "--method rtn --symmetric --block-size 16",
    "--method mse --symmetric --block-size 16",
    "--method mse --asymmetric --block-size 32",
    "--method mse --asymmetric --block-size 16",
    "--method hqq --asymmetric --block-size 16",
    "--method rtn --bits 8 --block-size 64",
];

/// And, where there is a text to calibrate on.
const CALIBRATED: [&str; 8] = [
    "--method imatrix --asymmetric --block-size 16",
    "--method awq --asymmetric --block-size 16",
    "--method gptq --symmetric --block-size 16",
    "--method gptq --asymmetric --block-size 32",
    "--method gptq --asymmetric --block-size 16",
    "--budget 4.5bpw",
    "--budget 4.75bpw",
    "--budget 5.25bpw",
];

/// Options that say what is read, written or run, or that judge: they are the same for all ways.
const COMMON: [(&str, &str); 21] = [
    ("output", "-o"),
    ("dry_run", "--dry-run"),
    ("json", "--json"),
    ("check", "--check"),
    ("keep", "--keep"),
    ("max_mean_kld", "--max-mean-kld"),
    ("max_p99_kld", "--max-p99-kld"),
    ("min_top1", "--min-top1"),
    ("max_ppl_ratio", "--max-ppl-ratio"),
    ("max_logprob_diff", "--max-logprob-diff"),
    ("max_diff", "--max-diff"),
    ("min_snr", "--min-snr"),
    ("min_cosine", "--min-cosine"),
    ("calibration_folder", "--calibration-folder"),
    ("drop_unknown", "--drop-unknown"),
    ("verify_sha", "--verify-sha"),
    ("engine", "--engine"),
    ("ort_lib", "--ort-lib"),
    ("tokenizer", "--tokenizer"),
    ("windows", "--windows"),
    ("stride", "--stride"),
];

/// What all ways have in common.
pub(super) struct Common<'a> {
    pub(super) model: &'a Path,
    /// The dtype of those that name none.
    pub(super) dtype: Dtype,
    /// What is calibrated on, by those that are.
    pub(super) calibration: Option<Calibration<'a>>,
}

/// What is calibrated on.
#[derive(Clone, Copy)]
pub(super) struct Calibration<'a> {
    pub(super) file: &'a Path,
    /// Each where it was said.
    pub(super) windows: Option<&'a str>,
    pub(super) window: Option<usize>,
    pub(super) tokenizer: Option<&'a Path>,
}

/// A way to quantize.
#[derive(Debug)]
pub(super) struct Way {
    /// Its own options, which tell it from the others.
    pub(super) own: Vec<String>,
    /// All that `quantize` has to be told beside the model, and where things go.
    words: Vec<OsString>,
    pub(super) dtype: Dtype,
    /// Whether somebody asked for it.
    pub(super) is_asked_for: bool,
}

impl Way {
    /// The ways that `tries` say, or the usual ones.
    ///
    /// # Errors
    /// One is malformed, or has options that are not its own.
    pub(super) fn all(tries: &[String], common: &Common<'_>) -> Result<Vec<Way>> {
        let mut ways: Vec<Way> = Vec::new();
        for text in tries {
            let at = |e: Error| e.at(format!("--try '{text}'"));
            let way = Way::parse(text, common).map_err(at)?;
            if ways.iter().any(|w| w.words == way.words) {
                return Err(at(Error::input("it is given twice")));
            }
            ways.push(way);
        }
        match tries.is_empty() {
            true => Way::usual(common),
            false => Ok(ways),
        }
    }

    fn usual(common: &Common<'_>) -> Result<Vec<Way>> {
        let dtype = common.dtype.name();
        if !common.dtype.in_blocks() {
            return Err(Error::input(format!(
                "--dtype {dtype}: the usual ways are codes in blocks; expected --dtype q4f16, q4, q2f16 or q2, or \
                 what to try (--try '')"
            )));
        }
        // Two bits are not eight, nor mixed.
        let is_two = matches!(common.dtype, Dtype::Q2 | Dtype::Q2f16);
        let fits = |text: &&str| !is_two || !(text.contains("--bits") || text.contains("--budget"));
        let calibrated = CALIBRATED.iter().filter(|_| common.calibration.is_some());
        let all = DATA_FREE.iter().chain(calibrated).copied().filter(fits);
        let way = |text| {
            Ok(Way {
                is_asked_for: false,
                ..Way::parse(text, common)?
            })
        };
        all.map(way).collect()
    }

    /// The way that `text` says.
    fn parse(text: &str, common: &Common<'_>) -> Result<Way> {
        let own = words::split(text).map_err(Error::input)?;
        let calibrate = |word: &String| word == "--calibrate" || word.starts_with("--calibrate=");
        if own.iter().any(calibrate) {
            return Err(not_its_own("--calibrate"));
        }
        let mut words: Vec<OsString> = own.iter().map(OsString::from).collect();
        // Read a first time to see what it leaves out.
        let calibration = common.calibration;
        let file = calibration.map(|c| ["--calibrate".into(), c.file.into()]);
        let all: Vec<OsString> = words
            .iter()
            .cloned()
            .chain(file.into_iter().flatten())
            .collect();
        let (matches, args) = read(&all, common)?;
        let said = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        if let Some((_, option)) = COMMON.iter().find(|(id, _)| said(id)) {
            return Err(not_its_own(option));
        }
        if !said("dtype") {
            words.splice(0..0, ["--dtype", common.dtype.name()].map(OsString::from));
        }
        if let Some(calibration) = calibration.filter(|_| args.is_calibrated()) {
            words.extend(calibration.words(said("calibration_windows"), said("window")));
        }
        let dtype = read(&words, common)?.1.alone()?;
        Ok(Way {
            own,
            words,
            dtype,
            is_asked_for: true,
        })
    }

    /// The arguments of `quantize`, with others that do not change what it makes.
    pub(super) fn arguments(&self, more: &[OsString], common: &Common<'_>) -> Result<QuantizeArgs> {
        let words: Vec<OsString> = self.words.iter().chain(more).cloned().collect();
        Ok(read(&words, common)?.1)
    }

    /// [`options`](Self::options) without the budget.
    pub(super) fn without_budget(&self) -> String {
        let mut words = self.words.iter().map(|w| w.to_string_lossy());
        let mut left = Vec::new();
        while let Some(word) = words.next() {
            match &*word {
                // Its value goes with it.
                "--budget" => drop(words.next()),
                joined if joined.starts_with("--budget=") => {}
                _ => left.push(word.into_owned()),
            }
        }
        words::join(left.iter().map(String::as_str))
    }

    /// The options, as they are typed into a shell.
    pub(super) fn options(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|w| w.to_string_lossy()).collect();
        words::join(words.iter().map(|w| &**w))
    }

    /// What its output is called, without what all outputs have in common.
    pub(super) fn name(&self) -> String {
        /// File systems allow 255 bytes, and the side file and the recipe have longer names.
        const LONGEST: usize = 120;
        let words = self.own.iter().map(|w| w.trim_start_matches('-'));
        let telling =
            words.filter(|w| !["method", "budget", "dtype", self.dtype.name()].contains(w));
        let name = telling.collect::<Vec<_>>().join("-");
        let simple = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        let name: String = name.chars().map(simple).take(LONGEST).collect();
        format!("{}_{name}", self.dtype.name())
            .trim_end_matches('_')
            .to_owned()
    }
}

impl Calibration<'_> {
    /// The options for it, less what a way says itself.
    fn words(&self, has_windows: bool, has_window: bool) -> Vec<OsString> {
        let windows = self.windows.filter(|_| !has_windows);
        let window = self.window.filter(|_| !has_window);
        let options = [
            ("--calibrate", Some(self.file.into())),
            ("--calibration-windows", windows.map(OsString::from)),
            ("--window", window.map(|n| n.to_string().into())),
            ("--tokenizer", self.tokenizer.map(OsString::from)),
        ];
        let given = options
            .into_iter()
            .filter_map(|(name, value)| Some([name.into(), value?]));
        given.flatten().collect()
    }
}

fn not_its_own(option: &str) -> Error {
    Error::input(format!(
        "{option}: it is the same for all ways, and none's own; expected options that say how to quantize"
    ))
}

/// What `quantize` reads from `words` and the model.
fn read(words: &[OsString], common: &Common<'_>) -> Result<(ArgMatches, QuantizeArgs)> {
    let command = QuantizeArgs::augment_args(Command::new("quantize"))
        .no_binary_name(true)
        .disable_help_flag(true)
        .mut_arg("dtype", |dtype| dtype.default_value(common.dtype.name()));
    // First, so that it is not the one too many where `words` have another; and never like an option.
    let model = match common.model.to_string_lossy().starts_with('-') {
        true => Path::new(".").join(common.model),
        false => common.model.to_path_buf(),
    };
    let words = std::iter::once(model.into()).chain(words.iter().cloned());
    let matches = command.try_get_matches_from(words);
    let read = matches.and_then(|m| Ok((m.clone(), QuantizeArgs::from_arg_matches(&m)?)));
    read.map_err(|e| Error::input(told(&e)))
}

/// What clap says, on one line: the usage it prints below is that of `quantize`.
fn told(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage").next().unwrap_or_default();
    let message = message.split("\n\nFor more").next().unwrap_or_default();
    let lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(dtype: Dtype, calibration: Option<Calibration<'_>>) -> Common<'_> {
        Common {
            model: Path::new("m.onnx"),
            dtype,
            calibration,
        }
    }

    fn calibration() -> Calibration<'static> {
        Calibration {
            file: Path::new("my text.txt"),
            windows: Some("4"),
            window: None,
            tokenizer: None,
        }
    }

    #[test]
    fn options_are_completed() {
        let with = common(Dtype::Q4f16, Some(calibration()));
        let way = |text| Way::parse(text, &with).unwrap();
        let mse = way("--method mse --asymmetric");
        assert_eq!(mse.options(), "--dtype q4f16 --method mse --asymmetric");
        assert_eq!(mse.name(), "q4f16_mse-asymmetric");
        let gptq = way("--dtype q4 --calibration-windows 8");
        let expected = "--dtype q4 --calibration-windows 8 --calibrate 'my text.txt'";
        assert_eq!(gptq.options(), expected);
        let budget = way("--budget 5bpw");
        let expected =
            "--dtype q4f16 --budget 5bpw --calibrate 'my text.txt' --calibration-windows 4";
        assert_eq!(budget.options(), expected);
        let only = "--dtype q4f16 --calibrate 'my text.txt' --calibration-windows 4";
        assert_eq!(budget.without_budget(), only);
        assert_eq!(way("--budget=5bpw").without_budget(), only);
        assert_eq!(way("").name(), "q4f16");
        // Another dtype of all ways: int8 has no use for a calibration.
        let int8 = common(Dtype::Int8, Some(calibration()));
        assert_eq!(Way::parse("", &int8).unwrap().options(), "--dtype int8");
    }

    #[test]
    fn the_usual_ways_can_be_read() {
        for dtype in [Dtype::Q4f16, Dtype::Q4, Dtype::Q2f16] {
            let free = Way::all(&[], &common(dtype, None)).unwrap().len();
            let all = Way::all(&[], &common(dtype, Some(calibration()))).unwrap();
            assert!(all.len() > free && all.iter().all(|w| !w.is_asked_for));
        }
        assert!(Way::all(&[], &common(Dtype::Fp16, None)).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_on_one_line() {
        let cases = [
            ("--method best", "'best'"),
            ("--methid mse", "--methid"),
            ("--method 'mse", "not closed"),
            ("--budget 5bpw", "--calibrate"),
            ("other.onnx", "'other.onnx'"),
            ("-o x.onnx", "-o"),
            ("--json=x", "--json"),
            ("--calibrate x", "--calibrate"),
            ("--dtype q4,int8", "expected one"),
            ("--dtype int8 --method mse", "--method"),
            ("--engine rten", "--engine"),
        ];
        for (text, mentions) in cases {
            let error = Way::parse(text, &common(Dtype::Q4f16, None)).unwrap_err();
            let error = error.chain();
            assert!(
                error.contains(mentions) && !error.contains("Usage"),
                "{text}: {error}"
            );
        }
        let twice = ["--method mse".to_owned(), " --method  mse".to_owned()];
        let error = Way::all(&twice, &common(Dtype::Q4, None)).unwrap_err();
        assert!(error.chain().contains("twice"));
    }
}
