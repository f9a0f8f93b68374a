//! The state of the process: what `cuInit` makes.

use super::abi::{Out, api};
use super::array::{Array, Mipmapped};
use super::capture::Captures;
use super::context::Context;
use super::device::Device;
use super::error::{self, CuError, Result};
use super::event::Event;
use super::graph::{Graph, GraphExec};
use super::link::Link;
use super::memory::Memory;
use super::module::{Function, Module};
use super::pool::Pools;
use super::registry::Registry;
use super::stream::Stream;
use super::texture::Object;
use super::virtual_memory::VirtualMemory;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{OnceLock, Weak};

/// Everything of the process.
pub struct Runtime {
    pub devices: Vec<Device>,
    pub memory: Memory,
    pub captures: Captures,
    pub contexts: Registry<Context>,
    pub streams: Registry<Stream>,
    pub events: Registry<Event>,
    pub modules: Registry<Module>,
    pub functions: Registry<Function>,
    pub graphs: Registry<Graph>,
    pub graph_execs: Registry<GraphExec>,
    pub pools: Pools,
    pub virtual_memory: VirtualMemory,
    /// The graph of each node.
    pub graph_nodes: Registry<Weak<Graph>>,
    pub links: Registry<Link>,
    pub arrays: Registry<Array>,
    pub mipmapped: Registry<Mipmapped>,
    /// Textures and surfaces.
    pub textures: Registry<Object>,
    /// The error that lost the process, or 0.
    lost: AtomicI32,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// Set in a child made by fork: worker threads do not come along, so nothing there would work.
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// The runtime; an error before `cuInit`.
pub(crate) fn initialised() -> Result<&'static Runtime> {
    match RUNTIME.get() {
        Some(runtime) if !FORKED.load(Ordering::Relaxed) => Ok(runtime),
        _ => Err(error::NOT_INITIALIZED),
    }
}

/// The runtime; an error before `cuInit` and once the process is lost.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    let runtime = initialised()?;
    runtime.check()?;
    Ok(runtime)
}

impl Runtime {
    /// An error once a kernel has failed.
    pub fn check(&self) -> Result {
        match self.lost.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(CuError(code)),
        }
    }

    /// A kernel failed: from now on nothing works in this process. The first error stays.
    pub fn lose(&self, error: CuError) {
        let _ = self
            .lost
            .compare_exchange(0, error.0, Ordering::AcqRel, Ordering::Acquire);
    }
}

api! { SYMBOLS;
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        if RUNTIME.get().is_none() {
            let devices = super::device::discover()?;
            let runtime = Runtime {
                devices,
                memory: Memory::default(),
                captures: Captures::default(),
                contexts: Registry::default(),
                streams: Registry::default(),
                events: Registry::default(),
                modules: Registry::default(),
                functions: Registry::default(),
                graphs: Registry::default(),
                graph_execs: Registry::default(),
                pools: Pools::default(),
                virtual_memory: VirtualMemory::default(),
                graph_nodes: Registry::default(),
                links: Registry::default(),
                arrays: Registry::default(),
                mipmapped: Registry::default(),
                textures: Registry::default(),
                lost: AtomicI32::new(0),
            };
            if RUNTIME.set(runtime).is_ok() {
                // SAFETY: the handler only stores to an atomic.
                unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            }
        }
        if initialised()?.devices.is_empty() { Err(error::NO_DEVICE) } else { Ok(()) }
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(softgpu_device::CUDA_VERSION)
    }
}
