//! The handlers of the calls, by what they are about.
//!
//! A handle that names nothing is answered with INVALID_HANDLE where the guest waits for an answer. Where it does not, its
//! library must have checked, and the session ends.
mod context;
mod event;
mod graph;
mod host_fn;
mod launch;
mod memory;
mod module;
mod stream;

pub use host_fn::Slots;

use crate::ring::Failure;
use vgpu_protocol::result;
use vgpu_protocol::ring::RingError;

/// An id that names nothing, or cannot be given to a new object, in a call that is answered.
const BAD_HANDLE: Failure = Failure::Cuda(result::INVALID_HANDLE);

/// The same in a call that is not.
fn unknown(op: u16, handle: u32) -> Failure {
    Failure::Broken(RingError::Handle {
        op,
        handle: u64::from(handle),
    })
}
