//! Asking `vgpud`, for its tools.
//!
//! * [`client`]: a connection to its control socket.
//! * [`failure`]: why something was not done, for people and for programs.
//! * [`statistics`]: what each statistic is called and what it counts, and Prometheus' text of them.
//! * [`usage`]: how it is asked what VMs used by hour and by day, and a bill of it.

pub mod client;
pub mod failure;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(test)]
mod monitoring;
pub mod statistics;
pub mod usage;
