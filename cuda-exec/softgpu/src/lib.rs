//! A software GPU: a `libcuda.so.1` which runs PTX on the CPU, so that programs for the CUDA driver API run
//! unchanged on a machine without a GPU.
//!
//! The shared library exports the functions of `cuda.h` (CUDA 13.0) that [`driver`] has.

mod arbiter;
pub use arbiter::vgpu_softgpu_control;
pub mod driver;
pub mod ptx;
