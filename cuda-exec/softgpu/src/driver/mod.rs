//! The driver API: what `cuda.h` declares, over the interpreter and the arbiter.

pub mod abi;
pub mod capture;
pub mod checkpoint;
pub mod context;
pub mod device;
pub mod error;
pub mod event;
pub mod export;
pub mod fatbin;
pub mod graph;
pub mod launch;
pub mod memory;
pub mod module;
pub mod registry;
pub mod runtime;
pub mod stream;
pub mod transfer;
pub mod work;
