//! The `libcuda.so.1` of a guest: the CUDA driver API over command rings that an executor on the host runs.
//!
//! * [`exports`]: every symbol of the ABI, made from the call table, and `cuGetProcAddress`;
//! * [`api`]: the calls, one module per kind;
//! * [`session`]: what the process shares: transport, area, rings, objects;
//! * [`thread`]: what a calling thread has of its own: its ring and its stack of contexts;
//! * [`ring`], [`wait`], [`fence`]: writing records, waiting, completion of streams;
//! * [`library`], [`primary`], [`storage`]: what CUDA's own runtime builds on: libraries, primary contexts, context-local storage;
//! * [`managed`]: `__managed__` variables, taken out of code before it is loaded;
//! * [`export_tables`], [`integrity`]: the driver's private tables that it asks for;
//! * [`staging`], [`arena`], [`handles`], [`objects`]: copies of pageable memory, addresses, handles, their objects.
//!
//! The way to the device is crate `vgpu-transport`.
mod abi;
mod advice;
mod api;
mod area;
mod arena;
mod blocks;
mod bulk;
mod device_memory;
mod export_tables;
mod exports;
#[cfg(test)]
mod fake;
mod fence;
mod graphs;
mod handles;
mod host_functions;
mod integrity;
mod library;
mod managed;
mod objects;
mod primary;
mod registered;
mod ring;
mod session;
mod shared_file;
mod staging;
mod storage;
mod text;
mod thread;
mod trace;
mod user_objects;
mod visible;
mod wait;
mod window;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex; what a panicking holder left is still sound, since no invariant spans a panic here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
