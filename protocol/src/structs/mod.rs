//! C structures as they stand in a record's blob: raw bytes that both sides know, in which wire ids stand in the place of handles.
mod array;
pub mod graph;
mod memory;
mod stream_memory;
mod tensor_map;

pub use array::*;
pub use memory::*;
pub use stream_memory::*;
pub use tensor_map::*;
