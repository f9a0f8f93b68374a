//! The handlers of the calls, by what they are about.
//!
//! A handle that names nothing is answered with INVALID_HANDLE where the guest waits for an answer. Where it does not, its
//! library must have checked, and the session ends.
mod array;
mod capture;
mod context;
mod event;
mod graph;
mod host_fn;
mod host_memory;
mod ipc;
mod launch;
mod link;
mod memory;
mod module;
mod node;
mod peer;
mod pool;
mod rows;
mod shares;
mod stream;
mod stream_memory;
mod tensor_map;
mod texture;
mod virtual_memory;

pub use array::{Array, Mipmapped};
pub use host_fn::Slots;
pub use link::Link;
pub use pool::{Pool, Pooled, admit_graphs, count_graphs, settle_pools};
pub use shares::Shares;
pub use texture::TextureObjects;
pub use virtual_memory::Allocation;

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

/// In a call that is answered, a stream that does not exist is an error of the guest's program.
pub fn answered<T>(found: Result<T, Failure>) -> Result<T, Failure> {
    found.map_err(|failure| match failure {
        Failure::Broken(RingError::Handle { .. }) => BAD_HANDLE,
        other => other,
    })
}
