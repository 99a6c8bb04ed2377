//! The options that watch a pipeline, and what they print.

use std::{fmt::Write, sync::Arc};

use clap::Args;
use onnxq::{
    Error, Result,
    ir::Model,
    pass::{Changed, Instruments, PassManager, Pipeline, PrintIr, Report},
    weights::Calibrated,
};

use super::Cx;

#[derive(Args)]
pub(crate) struct InstrumentArgs {
    /// Print the time each pass took [example: --time-passes]
    #[arg(long, help_heading = "Watching passes")]
    time_passes: bool,
    /// Print the counters of each pass [example: --stats]
    #[arg(long, help_heading = "Watching passes")]
    stats: bool,
    /// Print the model after these passes [example: --print-ir-after nbits]
    #[arg(long, value_name = "PASS", help_heading = "Watching passes")]
    print_ir_after: Vec<String>,
    /// Print the model after every pass [example: --print-ir-after-all]
    #[arg(long, help_heading = "Watching passes")]
    print_ir_after_all: bool,
    /// Print the model after every pass that changed it [example: --print-ir-after-change]
    #[arg(long, help_heading = "Watching passes")]
    print_ir_after_change: bool,
    /// Verify the model after every pass [example: --verify-each]
    #[arg(long, help_heading = "Watching passes")]
    verify_each: bool,
    /// Stop after N rewrites: to find the one that breaks something by bisection
    /// [example: --stop-after 100]
    #[arg(long, value_name = "N", help_heading = "Watching passes")]
    stop_after: Option<u64>,
}

impl InstrumentArgs {
    /// Runs each of `pipelines` on `model` under these instruments.
    pub(crate) fn run(
        &self,
        pipelines: &[&Pipeline],
        model: Model,
        calibrated: Option<Arc<Calibrated>>,
        cx: &Cx,
    ) -> Result<Vec<(Model, Report)>> {
        for name in &self.print_ir_after {
            for pipeline in pipelines {
                if !pipeline.steps().iter().any(|s| s.info.name == name) {
                    return Err(Error::input(format!(
                        "--print-ir-after: the pipeline `{pipeline}` has no pass `{name}`"
                    )));
                }
            }
        }
        let print_ir = match () {
            () if self.print_ir_after_all => PrintIr::All,
            () if self.print_ir_after_change => PrintIr::Changed,
            () if !self.print_ir_after.is_empty() => PrintIr::After(self.print_ir_after.clone()),
            () => PrintIr::Never,
        };
        let mut print = |text: &str| cx.note(text);
        let mut manager = PassManager {
            instruments: Instruments {
                verify_each: self.verify_each,
                stop_after: self.stop_after,
                print_ir,
                print: Some(&mut print),
            },
            calibrated,
        };
        let results = manager.run_all(pipelines, model)?;
        for (_, report) in &results {
            self.tell(report, cx);
        }
        Ok(results)
    }

    fn tell(&self, report: &Report, cx: &Cx) {
        cx.note(&self.table(report));
        if cx.verbose {
            for r in &report.remarks {
                cx.note(&format!(
                    "{}: {}: {}: {} ({} bytes)\n",
                    r.pass, r.reason, r.label, r.message, r.bytes
                ));
            }
        }
    }

    fn table(&self, report: &Report) -> String {
        let mut out = String::new();
        for pass in &report.passes {
            if self.time_passes {
                let changed = match pass.changed {
                    Changed::No => "no change".to_owned(),
                    Changed::Yes(n) => format!("{n} rewrites"),
                };
                let ms = pass.time.as_secs_f64() * 1e3;
                let runs = match pass.runs {
                    1 => String::new(),
                    n => format!(", {n} runs"),
                };
                let _ = writeln!(out, "{:<16} {ms:>9.3} ms  {changed}{runs}", pass.name);
            }
            if self.stats {
                for (name, n) in &pass.statistics {
                    let _ = writeln!(out, "{:<16} {n:>12}  {name}", pass.name);
                }
            }
        }
        out
    }
}
