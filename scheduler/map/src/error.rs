//! What is wrong with a map.
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a text is no pool map. Reads as "FILE: line N: what is wrong and what was expected", as far as each is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", prefix(.file), line_prefix(.line))]
pub struct MapError {
    file: Option<PathBuf>,
    line: Option<usize>,
    message: String,
    /// There is no text.
    unreadable: bool,
}

fn prefix(file: &Option<PathBuf>) -> String {
    file.as_ref()
        .map(|file| format!("{}: ", file.display()))
        .unwrap_or_default()
}

fn line_prefix(line: &Option<usize>) -> String {
    line.map(|line| format!("line {line}: ")).unwrap_or_default()
}

impl MapError {
    /// Something is wrong at a place of the text.
    pub(crate) fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let before = text.bytes().take(span.start);
        Self {
            file: None,
            line: Some(before.filter(|byte| *byte == b'\n').count() + 1),
            message: message.into(),
            unreadable: false,
        }
    }

    /// What the TOML reader says.
    pub(crate) fn of_reader(text: &str, error: &toml::de::Error) -> Self {
        match error.span() {
            Some(span) => Self::at(text, span, error.message()),
            None => Self {
                file: None,
                line: None,
                message: error.message().to_owned(),
                unreadable: false,
            },
        }
    }

    /// The file cannot be read.
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self {
            file: Some(path.to_owned()),
            line: None,
            message: format!("cannot be read: {error}"),
            unreadable: true,
        }
    }

    /// The same, of that file.
    pub fn of_file(self, path: &Path) -> Self {
        Self {
            file: Some(path.to_owned()),
            ..self
        }
    }

    /// The line, from 1, if it is known.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// Whether it is the file that is wrong, of which nothing could be read.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// What is wrong and what was expected, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}
