//! A host around the scheduler's core, in virtual time: GPUs that are split by time slices, VMs with programs that work
//! in their ways, executors with their turn pages, messages that take a while. There is no clock and no thread in
//! here, and equal inputs give equal outputs.
//!
//! [`run`] runs a scenario that is made from a seed, with faults, restarts and reloads, and checks after every step of
//! the core that what is promised holds. [`replay`] runs recorded arrivals under given terms and says how long they
//! waited, and [`Comparison`] what another policy changes.
mod check;
mod hardware;
mod host;
mod log;
mod percentiles;
mod program;
mod scenario;

pub use percentiles::Percentiles;
pub use scenario::{POLICIES, Scenario, Summary, Violation, run};
pub use vgpu_sched_core::{Level, Policy};
