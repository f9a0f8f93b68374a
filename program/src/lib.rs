//! What the programs of a host have in common.
pub mod arguments;
pub mod log;
pub mod manual;
pub mod service;

use rustix::process::{Resource, getrlimit, setrlimit};
use std::error::Error;
use std::fmt;
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

/// The exit code of a program that cannot start as its operator's files are, which it does not help to start again: EX_CONFIG of
/// sysexits.h.
pub const MISCONFIGURED: u8 = 78;

/// What is wrong with an operator's file.
#[derive(Debug)]
pub struct Misconfigured(anyhow::Error);

impl Misconfigured {
    /// The same error, for which [`ended`] has a code of its own.
    pub fn of(error: impl Into<anyhow::Error>) -> anyhow::Error {
        Self(error.into()).into()
    }
}

impl fmt::Display for Misconfigured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Error for Misconfigured {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// How a program ends: an error is told in one line, without the backtrace that it may have. It is for who runs the program, not
/// for who wrote it.
pub fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.is::<Misconfigured>() {
                true => MISCONFIGURED.into(),
                false => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn what_is_wrong_with_a_file_is_told_as_it_is() {
        let inner = || Err::<(), _>(std::io::Error::other("no")).context("it cannot be read");
        let error = inner().map_err(Misconfigured::of).unwrap_err();
        assert_eq!(format!("{error:#}"), "it cannot be read: no");
        assert!(error.is::<Misconfigured>());
        let above = Err::<(), _>(error).context("vgpud").unwrap_err();
        assert_eq!(format!("{above:#}"), "vgpud: it cannot be read: no");
        assert!(above.is::<Misconfigured>());
        assert!(!inner().unwrap_err().is::<Misconfigured>());
    }
}
