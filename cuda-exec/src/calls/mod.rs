//! The handlers of the calls, by what they are about.
//!
//! An id that names nothing fails the call, with INVALID_HANDLE mostly. The guest's library has looked its program's handle up,
//! but another thread of the program may destroy the object before the record comes here.
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

/// An id that names nothing, or cannot be given to a new object.
pub const BAD_HANDLE: Failure = Failure::Cuda(result::INVALID_HANDLE);
