//! Why a command did not do what it was to do: for people, for programs, and as an exit code.
use serde::Serialize;

/// What the exit code says. Documented in `docs/operator.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `vgpud` could not or would not.
    Failed,
    /// The arguments or a pool map are wrong.
    Usage,
    /// There is no such pool, VM or GPU.
    NotFound,
    /// Somebody else changed the pool map meanwhile.
    Conflict,
    /// `vgpud` does not answer.
    Unreachable,
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failed | Self::Conflict => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
        }
    }
}

/// The exit code of a status that is not as the pool map wants it, and of a host with something wrong.
pub const DEGRADED: u8 = 5;

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}
