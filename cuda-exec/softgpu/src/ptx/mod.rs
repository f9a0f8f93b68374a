//! PTX on the CPU: text to tokens ([`lexer`]), tokens to declarations and statements ([`parse`]), statements
//! to a compact array of instructions with their operands in numbered slots ([`lower`], [`ir`]), and the
//! machine which runs blocks of threads over them ([`interp`]).
//!
//! Everything here is independent of the driver: memory is reached through [`interp::Memory`], and
//! [`interp::Gate`] is asked now and then whether to go on.

pub mod alu;
pub mod atomics;
pub mod convert;
pub mod interp;
pub mod ir;
pub mod lexer;
pub mod lower;
pub mod parse;
pub mod rounding;
pub mod types;

use std::fmt;

/// Why a PTX text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// The line of the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

impl PtxError {
    /// An error at `line`.
    pub fn new(line: u32, message: impl Into<String>) -> PtxError {
        PtxError {
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for PtxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for PtxError {}
