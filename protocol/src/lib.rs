//! The wire between a guest and the host.
//!
//! Both sides of the VM boundary use this crate, and nothing in it does I/O. It holds
//!
//! * [`limits`]: every limit, the only list of them;
//! * [`virtio`]: the device's configuration space and the messages on its three queues;
//! * [`area`]: the session area, the page of words in guest RAM that both sides look at;
//! * [`ring`]: the layout of a command ring and of the records and replies in it;
//! * [`calls`]: the one table of CUDA calls, and the words each call puts into its record and reply;
//! * [`structs`]: C structures in records' blobs;
//! * [`gpus`]: what a VM may know of its GPUs without a session;
//! * [`host`]: the messages between a backend and its executors (they never leave the host).
//!
//! Everything is little-endian with natural alignment. Decoding never panics, whatever the bytes.
#![forbid(unsafe_code)]

pub mod area;
pub mod calls;
pub mod gpus;
pub mod host;
pub mod limits;
pub mod result;
pub mod ring;
pub mod structs;
pub mod virtio;
pub mod words;
