//! `onnxq repack`: the files of a model, or of a folder, in another form.

use std::{
    collections::HashMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use onnxq::{
    Error, Result,
    onnx::{self, OpenOptions, Opened},
    package::{LoaderConfig, Mended, mend, models},
    verify,
};
use serde::Serialize;

use super::{
    Cx, ExitStatus, ReadOptions, WriteArgs,
    context::{Inputs, at_file, is_folder, listed, note_dropped},
    package::{Folder, PackageArgs, loader_config},
    places::Places,
    summary::FileSize,
    table::bytes,
};

/// Split, merge, rename or repair the files of a model, without quantizing it again
///
/// Side files get the names that loaders look for, and the model names them so. Those that were renamed,
/// lie elsewhere than the model says, or were mixed up are recognized: by SHA256SUMS, by their names, or by their
/// sizes. Of a folder all models are taken, and what loaders read beside them comes along. Weights do not change.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    onnxq repack model.onnx -o browser/ --layout onnx --chunk-size 500MB\n  \
    onnxq repack folder -o mended/\n  \
    onnxq repack model.onnx -o one.onnx --external-data never")]
pub(crate) struct RepackArgs {
    /// An ONNX file, or a folder that holds some, itself or in its folder `onnx`
    model: PathBuf,
    #[command(flatten)]
    how: ReadOptions,
    /// Output: a file, or a folder [example: -o browser/]
    #[arg(long, short)]
    output: PathBuf,
    /// Another name for a model: OLD=NEW, without .onnx; may be repeated [example: --rename model=model_q4]
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_rename)]
    rename: Vec<(String, String)>,
    /// Say what would be done, and write nothing [example: --dry-run]
    #[arg(long)]
    dry_run: bool,
    /// Write a report; `-` is standard output [example: --json report.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    package: PackageArgs,
}

/// What became of a model.
#[derive(Serialize)]
struct Report {
    input: Vec<FileSize>,
    output: Vec<FileSize>,
    mended: Vec<MendedFile>,
}

/// A side file that is elsewhere than the model says.
#[derive(Serialize)]
struct MendedFile {
    location: String,
    path: PathBuf,
    /// How it was recognized.
    why: &'static str,
}

/// A model that is ready to be written.
struct Ready {
    opened: Opened,
    output: PathBuf,
    report: Report,
    loader: LoaderConfig,
}

pub(crate) fn run(args: &RepackArgs, cx: &Cx) -> Result<ExitStatus> {
    let models = args.models()?;
    let mut places = Places::reading(&models);
    args.json.iter().try_for_each(|json| places.write(json))?;
    let folder = args.package.folder(Some(&args.output), &models[0])?;
    let ready = models
        .iter()
        .map(|path| args.prepare(path, folder.as_ref(), cx))
        .collect::<Result<Vec<_>>>()?;
    args.check_names(&models, &ready)?;
    let mut beside = String::new();
    if !args.dry_run {
        let places = ready.iter().map(|r| match &folder {
            Some(folder) => folder.place(&r.output),
            None => Ok(r.output.clone()),
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        let pairs = ready.iter().zip(&places);
        let pairs: Vec<_> = pairs
            .map(|(r, place)| (&r.opened.model, &**place))
            .collect();
        let total = ready
            .iter()
            .flat_map(|r| &r.report.output)
            .map(|f| f.bytes)
            .sum();
        cx.save(&pairs, &args.write, total)?;
        if let Some(folder) = folder {
            let loaders: Vec<LoaderConfig> = ready.iter().map(|r| r.loader.clone()).collect();
            beside = folder.publish(&loaders, None)?;
        }
    }
    let reports: Vec<Report> = ready.into_iter().map(|r| r.report).collect();
    if let Some(json) = &args.json {
        cx.json(json, &reports)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        cx.summary(&(text(&reports, args.dry_run) + &beside))?;
    }
    Ok(ExitStatus::Done)
}

impl RepackArgs {
    /// The models to take.
    fn models(&self) -> Result<Vec<PathBuf>> {
        let models = match self.model.is_dir() {
            true => models(&self.model)?,
            false => vec![self.model.clone()],
        };
        if models.len() > 1 && !is_folder(&self.output) {
            return Err(Error::input(format!(
                "`{}` holds {} models, and -o `{}` is one file; expected a folder (`{}/`), or one of them: {}",
                self.model.display(),
                models.len(),
                self.output.display(),
                self.output.display(),
                listed(&models)
            )));
        }
        for (old, _) in &self.rename {
            if !models.iter().any(|m| stem(m) == *old) {
                let expected: Vec<String> = models.iter().map(|m| stem(m)).collect();
                return Err(Error::input(format!(
                    "--rename: there is no model `{old}`, expected {}",
                    expected.join(", ")
                )));
            }
        }
        Ok(models)
    }

    /// Opens a model, with its side files where they really are, and lays it out.
    fn prepare(&self, path: &Path, folder: Option<&Folder<'_>>, cx: &Cx) -> Result<Ready> {
        let options = OpenOptions {
            drop_unknown: self.how.drop_unknown,
        };
        self.how.check_sha(path)?;
        let mended = mend(path, options)?;
        let moved: HashMap<String, PathBuf> = mended
            .iter()
            .map(|m| (m.location.clone(), m.path.clone()))
            .collect();
        let opened = onnx::open_moved(path, options, moved)?;
        note_dropped(&opened, cx);
        verify::verify(&opened.model).map_err(|e| at_file(path)(e.into()))?;
        let name = self.name(path);
        let output = match folder {
            Some(folder) => folder.output(Path::new(&name)),
            None => self.output.clone(),
        };
        let inputs = Inputs::of(path, &opened);
        inputs.keep_from(self.json.as_deref())?;
        let planned = cx
            .plan(
                &opened.model,
                &output,
                &self.write,
                &inputs,
                self.json.as_deref(),
            )
            .map_err(at_file(path))?;
        folder.map_or(Ok(()), |f| f.check(&planned))?;
        let loader = loader_config(&opened.model, &planned);
        let report = report(path, &opened, planned.files, mended);
        Ok(Ready {
            opened,
            output,
            report,
            loader,
        })
    }

    /// The name of the file that the model at `path` becomes.
    fn name(&self, path: &Path) -> String {
        let old = stem(path);
        let new = self.rename.iter().find(|(from, _)| *from == old);
        format!("{}.onnx", new.map_or(&old, |(_, to)| to))
    }

    /// Fails when two models would have one name.
    fn check_names(&self, models: &[PathBuf], ready: &[Ready]) -> Result<()> {
        for (i, r) in ready.iter().enumerate() {
            if let Some(other) = ready[..i].iter().position(|o| o.output == r.output) {
                return Err(Error::input(format!(
                    "--rename: `{}` and `{}` would both be `{}`; expected different names",
                    models[other].display(),
                    models[i].display(),
                    r.output.display()
                )));
            }
        }
        Ok(())
    }
}

fn report(path: &Path, opened: &Opened, files: Vec<(PathBuf, u64)>, mended: Vec<Mended>) -> Report {
    let output = files
        .into_iter()
        .map(|(path, bytes)| FileSize { path, bytes });
    let mended = mended.into_iter().map(|m| MendedFile {
        location: m.location,
        path: m.path,
        why: m.why,
    });
    Report {
        input: FileSize::all_of(path, opened),
        output: output.collect(),
        mended: mended.collect(),
    }
}

fn text(reports: &[Report], dry_run: bool) -> String {
    let mut text = String::new();
    for report in reports {
        for m in &report.mended {
            let _ = writeln!(
                text,
                "side file `{}` is `{}`, {}",
                m.location,
                m.path.display(),
                m.why
            );
        }
        let files = |files: &[FileSize]| {
            let total = files.iter().map(|f| f.bytes).sum();
            let plural = if files.len() == 1 { "" } else { "s" };
            let path = files[0].path.display();
            format!("{path} ({} file{plural}, {})", files.len(), bytes(total))
        };
        let verb = if dry_run { " would be" } else { "" };
        let (from, to) = (files(&report.input), files(&report.output));
        let _ = writeln!(text, "{from} ->{verb} {to}");
    }
    text
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() && !new.contains(['/', '\\']) => {
            Ok((old.to_owned(), new.trim_end_matches(".onnx").to_owned()))
        }
        _ => Err("expected OLD=NEW, two names without folders".to_owned()),
    }
}
