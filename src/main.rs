//! The command `onnxq`: parses arguments, calls the library, maps errors to exit status.

mod cli;

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    match cli::run() {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            // Nowhere is left to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "onnxq: error: {}", error.chain());
            ExitCode::from(2)
        }
    }
}
