//! `onnxq completions`: what a shell needs to complete commands and options.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use onnxq::Result;

use super::{Cli, Cx, ExitStatus};

/// Print a script that makes a shell complete commands, options and their values
#[derive(Args)]
#[command(after_help = "Examples:\n  \
                        source <(onnxq completions bash)\n  \
                        onnxq completions bash > ~/.local/share/bash-completion/completions/onnxq\n  \
                        onnxq completions zsh > ~/.zfunc/_onnxq\n  \
                        onnxq completions fish > ~/.config/fish/completions/onnxq.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, cx: &Cx) -> Result<ExitStatus> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "onnxq", &mut script);
    cx.out(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}
