//! What the programs of a host have in common.
pub mod log;
pub mod manual;
pub mod service;

use rustix::process::{Resource, getrlimit, setrlimit};
use std::process::ExitCode;

/// Has the system give this process as many descriptors as it may have: the usual soft limit is meant for programs that use
/// `select`.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        ::log::warn!("the limit of open files stays as it is: {error}");
    }
}

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
