//! `onnxq man`: the manual, made from what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use onnxq::{Error, Result};

use super::{Cli, Cx, ExitStatus};

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "done"),
    (
        "1",
        "models differ, a limit was missed, or verify found faults",
    ),
    (
        "2",
        "it could not be done, and no model was written (except that a --json report can fail after the model \
         is in place)",
    ),
];

/// Print the manual page, or write the pages of all commands
#[derive(Args)]
#[command(
    after_help = "Examples:\n  onnxq man | man -l -\n  onnxq man ~/.local/share/man/man1\n  man onnxq-quantize"
)]
pub(crate) struct ManArgs {
    /// A folder that is there, to write onnxq.1, onnxq-quantize.1 and so on into [default: print onnxq.1]
    folder: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, cx: &Cx) -> Result<ExitStatus> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.folder else {
        cx.out(&page(&command))?;
        return Ok(ExitStatus::Done);
    };
    if !folder.is_dir() {
        return Err(Error::input(format!(
            "`{}` is not a folder; expected one that is there",
            folder.display()
        )));
    }
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let name = Man::new(command.clone()).get_filename();
        cx.file(&folder.join(name), &page(command))?;
    }
    Ok(ExitStatus::Done)
}

/// The page of one command, as roff.
fn page(command: &Command) -> String {
    // An empty date would be left out, and what follows it would take its place.
    let man = Man::new(command.clone())
        .date(" ")
        .source(format!("onnxq {}", env!("CARGO_PKG_VERSION")))
        .manual("onnxq");
    let mut out = Vec::new();
    let rendered = man
        .render_title(&mut out)
        .and_then(|()| man.render_name_section(&mut out))
        .and_then(|()| man.render_synopsis_section(&mut out))
        .and_then(|()| man.render_description_section(&mut out))
        .and_then(|()| man.render_options_section(&mut out))
        .and_then(|()| match command.has_subcommands() {
            true => man.render_subcommands_section(&mut out),
            false => Ok(()),
        })
        .and_then(|()| ending(command).to_writer(&mut out));
    rendered.expect("memory takes every write");
    String::from_utf8_lossy(&out).into_owned()
}

/// The last sections: exit status, what stands below the help, and other pages.
fn ending(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in EXIT_STATUS {
        roff.control("TP", []);
        roff.text([bold(*status)]).text([roman(*meaning)]);
    }
    if let Some(help) = command.get_after_help() {
        below(&help.to_string(), &mut roff);
    }
    roff.control("SH", ["SEE ALSO"]);
    let commands = command.get_subcommands().map(|c| c.get_name());
    let mut others: Vec<String> = commands.map(|name| format!("onnxq-{name}(1)")).collect();
    if others.is_empty() {
        others.push("onnxq(1)".to_owned());
    }
    roff.text([roman(others.join(", "))]);
    roff
}

/// The text below the help: commands, which stay a line each, and paragraphs.
fn below(help: &str, roff: &mut Roff) {
    let mut verbatim = false;
    for line in help.lines() {
        let indented = line.starts_with("  ");
        if indented != verbatim {
            roff.control(if indented { "EX" } else { "EE" }, []);
            verbatim = indented;
        }
        match line {
            "Example:" | "Examples:" => roff.control("SH", ["EXAMPLES"]),
            "" => roff.control("PP", []),
            line => roff.text([roman(line.trim_start())]),
        };
    }
    if verbatim {
        roff.control("EE", []);
    }
}
