//! A software GPU: a `libcuda.so.1` which runs PTX on the CPU, so that programs for the CUDA driver API run
//! unchanged on a machine without a GPU. It imitates what matters of an H100: streams that are really
//! asynchronous, faults that lose the process, contexts of several processes that take turns in time slices,
//! and kernels that can be stopped and resumed.
//!
//! - [`ptx`]: from PTX text to a machine that runs it.
//! - [`driver`]: the functions of `cuda.h` (CUDA 13.0), exported under their C names.
//! - `arbiter`: whose kernels run when.
//!
//! # Environment
//! The variables of [`softgpu_device`], which say how many devices there are, and:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CUDA_VISIBLE_DEVICES` | as for the real library: numbers, or UUIDs as `GPU-...` or `MIG-...` |
//!
//! # Control
//! One function is exported beside those of CUDA, [`vgpu_softgpu_control`]: what an owner of channels can do
//! with the driver of real hardware, stop and resume its kernels and set its time slice.
//!
//! # What differs from hardware
//! - Device memory is memory of the process: the host can read and write it at its device address.
//! - Denormals are never flushed, approximations are exact to the last place, and `%clock64` counts half
//!   nanoseconds.
//! - An instruction that is not known is found when the module is loaded, not by the compiler: the module is
//!   refused with `CUDA_ERROR_INVALID_PTX`; standard error and the error log of the load say which line.
//! - Of a fat binary the PTX is loaded, be it compressed or not. Machine code (cubin), alone or in a fat binary without
//!   PTX, is refused with `CUDA_ERROR_NO_BINARY_FOR_GPU`.
//! - `malloc` of a kernel is refused.

mod arbiter;
pub mod driver;
mod fifo;
pub mod ptx;

pub use arbiter::vgpu_softgpu_control;
