//! What the programs of a host have in common.
pub mod log;
pub mod manual;
pub mod service;

use std::process::ExitCode;

/// How a program ends: an error is told in one line, without the backtrace that it may have. It is for who runs the program, not
/// for who wrote it.
pub fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
