//! `onnxq passes`: what passes there are.

use std::fmt::Write;

use clap::Args;
use onnxq::{Error, Result, passes::REGISTRY};

use super::{Cx, ExitStatus};

/// List the passes and pipelines, or document one
#[derive(Args)]
pub(crate) struct PassesArgs {
    /// A pass [example: onnxq passes nbits]
    name: Option<String>,
}

pub(crate) fn run(args: &PassesArgs, cx: &Cx) -> Result<ExitStatus> {
    let text = match &args.name {
        None => list(),
        Some(name) => match (REGISTRY.pass(name), REGISTRY.pipeline(name)) {
            (Some(info), _) => info.document(),
            (None, Some(p)) => format!("{}: {}\n\n{}\n", p.name, p.summary, p.text),
            (None, None) => {
                return Err(Error::input(format!(
                    "no pass or pipeline is called `{name}`; `onnxq passes` lists them"
                )));
            }
        },
    };
    cx.out(&text)?;
    Ok(ExitStatus::Done)
}

fn list() -> String {
    let mut out = "Passes:\n".to_owned();
    for pass in REGISTRY.passes {
        let _ = writeln!(out, "  {:<16} {}", pass.name, pass.summary);
    }
    out.push_str("\nPipelines:\n");
    for pipeline in REGISTRY.pipelines {
        let _ = writeln!(
            out,
            "  {:<16} {}: {}",
            pipeline.name, pipeline.summary, pipeline.text
        );
    }
    out
}
