//! What the programs of a host have in common.
pub mod log;
pub mod manual;
pub mod service;
