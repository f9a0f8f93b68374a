//! What can go wrong with a virtual machine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of the launcher or of the guest. The cause, where there is one, is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {program}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{what}")]
    Io { what: String, source: io::Error },
    #[error("artifact {0} is missing: build it with `cargo xtask build`")]
    MissingArtifact(PathBuf),
    /// The virtual machine is gone; the text holds how QEMU ended and its last lines.
    #[error("{vm}: {what}")]
    Gone { vm: String, what: String },
    /// The guest's kernel has panicked.
    #[error("{vm}: the guest kernel died:\n{console}")]
    Panicked { vm: String, console: String },
    #[error("{vm}: no {what} within {after:?}; last console lines:\n{console}")]
    TimedOut {
        vm: String,
        what: String,
        after: Duration,
        console: String,
    },
    #[error("{vm}: a command ended with {status} before it printed {text:?}; it printed:\n{output}")]
    NotPrinted {
        vm: String,
        text: String,
        status: i32,
        output: String,
    },
    /// The guest was reset while the command ran.
    #[error("{vm}: the guest was reset while it ran a command")]
    Reset { vm: String },
    #[error("{vm}: QMP {command} failed: {answer}")]
    Qmp {
        vm: String,
        command: String,
        answer: String,
    },
    #[error("a guest command must be one line of at most {max} bytes", max = crate::vm::COMMAND_BYTES_MAX)]
    BadCommand,
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was being done to an I/O error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}
