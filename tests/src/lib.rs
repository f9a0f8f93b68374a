//! What the whole-system tests, the demo and the GPU tests share: the host's services, started together and
//! ended together.
pub mod stack;

pub use stack::{Gpu, Stack, VmSpec};
