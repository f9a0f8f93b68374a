//! The process' session, and what its threads share.
use crate::area::{Area, Shared};
use crate::arena::{ALIGN, Arena};
use crate::handles::{Entry, Table};
use crate::host_functions::HostFunctions;
use crate::objects::{Captures, Context, Event, Function, Graph, Module, Stream};
use crate::ring::{Caller, Rings};
use crate::staging::Staging;
use crate::thread::Thread;
use crate::transport::{Transport, TransportError};
use crate::wait::Seen;
use crate::{lock, window};
use std::cell::Ref;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use vgpu_protocol::calls::Wire;
use vgpu_protocol::limits::{
    AREA_LEN, ARENA_LEN, CONTEXTS_MAX, EVENTS_MAX, GPUS_MAX, OBJECTS_MAX, PAGE_LEN, STREAMS_MAX, WINDOW_LEN,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{GpuInfo, RING_LEN};
use vgpu_protocol::virtio::Status;
use zerocopy::FromBytes;

/// Pinned memory of the program.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// Bytes.
    pub len: u64,
    /// The context that it goes with.
    pub context: u32,
    /// The flags it was allocated with.
    pub flags: u32,
}

/// Memory of the device: an allocation, or a module's variable.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// Bytes.
    pub len: u64,
    /// The context that it goes with.
    pub context: u32,
    /// The module whose variable it is.
    pub module: Option<u32>,
}

/// The process' use of the GPUs.
pub struct Session {
    /// The way to the device.
    pub transport: Box<dyn Transport>,
    /// Base of the address window.
    window: u64,
    /// The session area.
    pub area: Area,
    /// Addresses for buffers.
    arena: Mutex<Arena>,
    /// Command rings.
    pub rings: Rings,
    /// Events seen so far.
    pub seen: Seen,
    /// The GPUs.
    pub gpus: Vec<GpuInfo>,
    /// Contexts.
    pub contexts: Table<Context>,
    /// Streams that the program created. Default streams take ids here, for their fences, but no entries.
    pub streams: Table<Arc<Stream>>,
    /// The last number asked for in each slot.
    pub sequences: Box<[AtomicU64]>,
    /// Events.
    pub events: Table<Event>,
    /// Modules.
    pub modules: Table<Module>,
    /// Kernels.
    pub functions: Table<Function>,
    /// Graphs.
    pub graphs: Table<Graph>,
    /// Executable graphs.
    pub graph_execs: Table<Graph>,
    /// Captures of streams.
    pub captures: Captures,
    /// Pinned memory, by address.
    pub pinned: RwLock<BTreeMap<u64, Pinned>>,
    /// Device memory, by address.
    device_memory: RwLock<BTreeMap<u64, DeviceMemory>>,
    /// Staging for pageable memory.
    pub staging: Staging,
    /// Host functions.
    pub host_functions: HostFunctions,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("{0}")]
    Transport(#[from] TransportError),
    #[error("no address range of 4 TiB is free in this process")]
    NoWindow,
    #[error("the host chose an address window that was not proposed")]
    StrangeWindow,
    #[error("the host says error {0} instead of describing its GPUs")]
    Host(Code),
    #[error("the host's description of its GPUs is malformed")]
    Malformed,
}

/// Set in a forked child: the session is the parent's.
static FORKED: AtomicBool = AtomicBool::new(false);
static SESSION: OnceLock<Option<&'static Session>> = OnceLock::new();

/// The session that `cuInit` opened.
pub fn get() -> Result<&'static Session, Code> {
    match SESSION.get() {
        Some(Some(session)) if !FORKED.load(Ordering::Relaxed) => Ok(session),
        _ => Err(result::NOT_INITIALIZED),
    }
}

/// Opens the process' session, once; says on standard error why if it cannot.
pub fn open() -> Result<&'static Session, Code> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(result::NOT_INITIALIZED);
    }
    let session = SESSION.get_or_init(|| match connect().and_then(Session::open) {
        Ok(session) => Some(session),
        Err(error) => {
            eprintln!("vgpu: no CUDA device: {error}");
            None
        }
    });
    session.ok_or(result::NO_DEVICE)
}

fn connect() -> Result<Box<dyn Transport>, OpenError> {
    use crate::transport::{device::Device, socket::Socket};
    Ok(match std::env::var_os("VGPU_SOCKET") {
        Some(path) => Box::new(Socket::connect(path.as_ref())?),
        #[cfg(test)]
        None if !std::path::Path::new("/dev/vgpu").exists() => Box::new(crate::fake::Fake::new()),
        None => Box::new(Device::open()?),
    })
}

extern "C" fn forked() {
    FORKED.store(true, Ordering::Relaxed);
}

impl Session {
    fn open(transport: Box<dyn Transport>) -> Result<&'static Self, OpenError> {
        let candidates = window::candidates();
        if candidates.is_empty() {
            return Err(OpenError::NoWindow);
        }
        let bases: Vec<u64> = candidates.iter().map(window::Reservation::base).collect();
        let window = transport.open(&bases)?;
        let chosen = candidates
            .into_iter()
            .find(|candidate| candidate.base() == window)
            .ok_or(OpenError::StrangeWindow)?;
        chosen.keep();
        window::reserve_fixed();

        transport.alloc(window, AREA_LEN, true)?;
        // SAFETY: just mapped there; it is never freed.
        let area = unsafe { Shared::new(window) };
        not_in_children(window, AREA_LEN);
        let mut session = Self {
            transport,
            window,
            area: Area::new(area),
            arena: Mutex::new(Arena::new(window + ALIGN, window + ARENA_LEN)),
            rings: Rings::new(),
            seen: Seen::default(),
            gpus: Vec::new(),
            contexts: Table::new(1, 1, CONTEXTS_MAX),
            streams: Table::new(2, 0, STREAMS_MAX),
            sequences: (0..STREAMS_MAX).map(|_| AtomicU64::new(0)).collect(),
            events: Table::new(3, 0, EVENTS_MAX),
            modules: Table::new(4, 0, OBJECTS_MAX),
            functions: Table::new(5, 0, OBJECTS_MAX),
            graphs: Table::new(6, 0, OBJECTS_MAX),
            graph_execs: Table::new(7, 0, OBJECTS_MAX),
            captures: Captures::default(),
            pinned: RwLock::new(BTreeMap::new()),
            device_memory: RwLock::new(BTreeMap::new()),
            staging: Staging::default(),
            host_functions: HostFunctions::default(),
        };
        let thread = Thread::current();
        let ring = thread.ring(&session).map_err(OpenError::Host)?.clone();
        let blob = ring.gpu_info(&session, thread).map_err(OpenError::Host)?;
        session.gpus = gpu_infos(&blob).ok_or(OpenError::Malformed)?;
        if session.gpus.is_empty() || session.gpus.len() > GPUS_MAX as usize {
            return Err(OpenError::Malformed);
        }
        // SAFETY: the handler only stores a flag, which is safe in a forked child, and stays loaded.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        // It is the process' own until the end: threads may still make calls while it exits.
        Ok(Box::leak(Box::new(session)))
    }

    /// What a transport's failure is to the program.
    pub fn code(&self, error: &TransportError) -> Code {
        if let Err(code) = self.area.status() {
            return code;
        }
        match error {
            TransportError::NoDevice(_) => result::NO_DEVICE,
            TransportError::NoMemory | TransportError::Refused(Status::Limit) => result::OUT_OF_MEMORY,
            TransportError::Refused(_) | TransportError::Gone => result::UNKNOWN,
            TransportError::Os(_) => result::OPERATING_SYSTEM,
        }
    }

    /// Allocates a buffer in the arena; with `register`, the GPU reaches it.
    pub fn alloc(&self, bytes: u64, register: bool) -> Result<u64, Code> {
        let len = page_rounded(bytes)?;
        let addr = lock(&self.arena).take(len).ok_or(result::OUT_OF_MEMORY)?;
        if let Err(error) = self.transport.alloc(addr, len, register) {
            lock(&self.arena).give(addr, len);
            return Err(self.code(&error));
        }
        not_in_children(addr, len);
        Ok(addr)
    }

    /// Frees a buffer of `bytes` bytes once the host no longer uses it.
    pub fn free(&self, addr: u64, bytes: u64) -> Result<(), Code> {
        let len = page_rounded(bytes)?;
        // A buffer that the host did not give back keeps its address, too.
        self.transport
            .free(addr, len)
            .map_err(|error| self.code(&error))?;
        lock(&self.arena).give(addr, len);
        Ok(())
    }

    /// Makes the ring with this index.
    pub fn make_ring(&self, index: u32) -> Result<Shared, Code> {
        let addr = self.alloc(RING_LEN, false)?;
        if let Err(error) = self.transport.ring_create(index, addr) {
            let code = self.code(&error);
            self.free(addr, RING_LEN)?;
            return Err(code);
        }
        // SAFETY: just mapped; rings are never freed.
        Ok(unsafe { Shared::new(addr) })
    }

    /// Whether an address is the device's.
    pub fn is_device(&self, addr: u64) -> bool {
        let device = self.window + ARENA_LEN..self.window + WINDOW_LEN;
        device.contains(&addr) || self.find_device(addr, 1).is_some()
    }

    /// Changes what is known of device memory.
    pub fn device_memory(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, DeviceMemory>> {
        self.device_memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_device(&self, addr: u64, len: u64) -> Option<DeviceMemory> {
        let memory = self.device_memory.read().unwrap_or_else(PoisonError::into_inner);
        let (&start, &found) = memory.range(..=addr).next_back()?;
        let end = addr.checked_add(len)?;
        (addr < start + found.len && end <= start + found.len).then_some(found)
    }

    /// Refuses a range that the device may not access: it is neither in device memory nor in pinned memory.
    pub fn check_device(&self, addr: u64, len: u64) -> Result<(), Code> {
        if self.find_device(addr, len).is_some() || self.find_pinned(addr, len).is_some() {
            Ok(())
        } else {
            Err(result::INVALID_VALUE)
        }
    }

    /// Whether an address lies where pinned memory does.
    pub fn is_in_arena(&self, addr: u64) -> bool {
        (self.window..self.window + ARENA_LEN).contains(&addr)
    }

    /// The pinned memory that holds the whole range: its address.
    pub fn find_pinned(&self, addr: u64, len: u64) -> Option<(u64, Pinned)> {
        if !self.is_in_arena(addr) {
            return None;
        }
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner);
        let (&start, &memory) = pinned.range(..=addr).next_back()?;
        let end = addr.checked_add(len)?;
        (addr < start + memory.len && end <= start + memory.len).then_some((start, memory))
    }

    /// Frees the pinned memory that goes with a context, whose work is done.
    pub fn free_pinned_of(&self, context: u32) {
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        let gone = pinned.extract_if(.., |_, memory| memory.context == context);
        let gone: Vec<_> = gone.collect();
        drop(pinned);
        for (addr, memory) in gone {
            // What the host does not give back stays reserved.
            let _ = self.free(addr, memory.len);
        }
    }

    /// Takes a fence slot, which also is a stream's id: one whose last fence has arrived, so that no late one of its
    /// former owner can be taken for the new one's.
    pub fn reserve_slot(&self) -> Result<(u32, u64), Code> {
        let last = |slot: u32| self.sequences[slot as usize].load(Ordering::Acquire);
        let slot = self
            .streams
            .reserve_where(|slot| self.area.fence(slot) >= last(slot))
            .ok_or(result::OUT_OF_MEMORY)?;
        Ok((slot, last(slot)))
    }
}

fn gpu_infos(blob: &[u8]) -> Option<Vec<GpuInfo>> {
    let (infos, rest) = blob.as_chunks::<{ size_of::<GpuInfo>() }>();
    if !rest.is_empty() {
        return None;
    }
    infos
        .iter()
        .map(|bytes| GpuInfo::read_from_bytes(bytes).ok())
        .collect()
}

/// Bytes of whole pages that hold `bytes`.
fn page_rounded(bytes: u64) -> Result<u64, Code> {
    bytes
        .checked_next_multiple_of(PAGE_LEN)
        .ok_or(result::OUT_OF_MEMORY)
}

/// Keeps a buffer out of forked children, which have no session: a copy there would keep the device's pages in use.
fn not_in_children(addr: u64, len: u64) {
    // SAFETY: a range that this library has mapped; the advice changes nothing in this process. If it is refused, a child
    // merely sees the pages.
    unsafe { libc::madvise(addr as *mut _, len as usize, libc::MADV_DONTFORK) };
}

/// One call: the session and the thread that makes it.
#[derive(Clone, Copy)]
pub struct Call {
    /// The session.
    pub session: &'static Session,
    /// The calling thread.
    pub thread: &'static Thread,
}

/// Which stream a null handle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullStream {
    /// The legacy default stream.
    Legacy,
    /// The calling thread's default stream.
    PerThread,
}

impl Call {
    /// A call that is answered even when the session has ended.
    pub fn local() -> Result<Self, Code> {
        let session = get()?;
        let thread = Thread::current();
        if thread.runs_host_functions.get() {
            return Err(result::NOT_PERMITTED);
        }
        Ok(Self { session, thread })
    }

    /// A call that needs the session.
    pub fn enter() -> Result<Self, Code> {
        let call = Self::local()?;
        call.session.area.status()?;
        Ok(call)
    }

    /// The thread's current context.
    pub fn context(&self) -> Result<Ref<'static, Entry<Context>>, Code> {
        let contexts = self.thread.contexts.borrow();
        let context = Ref::filter_map(contexts, |contexts| contexts.last().map(|c| &**c))
            .map_err(|_| result::INVALID_CONTEXT)?;
        if context.is_alive() {
            Ok(context)
        } else {
            Err(result::CONTEXT_IS_DESTROYED)
        }
    }

    fn caller(&self, context: u32) -> Caller {
        Caller {
            context,
            mode: Some(self.thread.mode.get()),
        }
    }

    /// Makes a call that needs no answer, in this context. While a capture is under way it is asked for one all the same:
    /// what a capture forbids is refused by the call itself.
    pub fn submit<C: Wire>(&self, context: u32, arguments: C::In) -> Result<(), Code> {
        if self.session.captures.any() {
            return self.submit_answered::<C>(context, arguments, &[]);
        }
        self.submit_with::<C>(context, arguments, 0, |_| ())
    }

    /// Makes a call that needs no answer and waits for one. What ends the session meanwhile is told by the next call, as it would
    /// be without an answer: work that was taken may fault at once.
    pub fn submit_answered<C: Wire>(&self, context: u32, arguments: C::In, blob: &[u8]) -> Result<(), Code> {
        match self.ask_with::<C>(context, arguments, blob) {
            Err(_) if self.session.area.status().is_err() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Makes a call that asks for no answer, with a blob of `blob_len` bytes, which `fill` writes.
    pub fn submit_with<C: Wire>(
        &self,
        context: u32,
        arguments: C::In,
        blob_len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Code> {
        let ring = self.thread.ring(self.session)?;
        let caller = self.caller(context);
        ring.submit_with::<C>(self.session, self.thread, caller, &arguments, blob_len, fill)
    }

    /// Makes a call and waits for its answer.
    pub fn ask<C: Wire>(&self, context: u32, arguments: C::In) -> Result<C::Out, Code> {
        self.ask_with::<C>(context, arguments, &[]).map(|(out, _)| out)
    }

    /// The same with blobs.
    pub fn ask_with<C: Wire>(
        &self,
        context: u32,
        arguments: C::In,
        blob: &[u8],
    ) -> Result<(C::Out, Vec<u8>), Code> {
        let ring = self.thread.ring(self.session)?;
        let caller = self.caller(context);
        let mut answer = Vec::new();
        let out = ring.call::<C>(self.session, self.thread, caller, &arguments, blob, &mut answer)?;
        Ok((out, answer))
    }
}
