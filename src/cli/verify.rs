//! `onnxq verify`: is a model valid.

use clap::Args;
use onnxq::Result;

use super::{Cx, ExitStatus, ReadArgs};

/// Check that a model is valid
#[derive(Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &VerifyArgs, cx: &Cx) -> Result<ExitStatus> {
    let (path, _) = cx.open(&args.read)?;
    cx.summary(&format!("{}: valid\n", path.display()))?;
    Ok(ExitStatus::Done)
}
