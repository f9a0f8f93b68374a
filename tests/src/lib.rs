//! What the whole-system tests, the demo and the GPU tests share: the host's services, started together and
//! ended together.
pub mod checks;
pub mod machine;
pub mod stack;

pub use machine::{Host, Machine};
pub use stack::{Gpu, Stack, VmSpec};
