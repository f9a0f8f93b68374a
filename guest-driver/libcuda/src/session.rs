//! The process' session, and what its threads share.
use crate::abi::CUgraph;
use crate::advice::Advices;
use crate::api::{Array, Link, Mipmapped, Objects, Pools, TensorMaps, VirtualMemory};
use crate::area::{Area, Shared};
use crate::arena::{ALIGN, Arena};
use crate::blocks::{Blocks, SLAB};
use crate::device_memory::{DeviceMemory, DeviceTable};
use crate::graphs::{Graph, GraphExec};
use crate::handles::{Entry, Table};
use crate::host_functions::HostFunctions;
use crate::library::{Kernel, Library};
use crate::objects::{Captures, Context, Event, Function, Module, Stream};
use crate::primary::Primaries;
use crate::registered::Registrations;
use crate::ring::{Caller, Rings};
use crate::staging::Staging;
use crate::storage::Storage;
use crate::thread::Thread;
use crate::user_objects::UserObject;
use crate::visible::Visible;
use crate::wait::Seen;
use crate::{lock, window};
use std::cell::Ref;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use vgpu_protocol::calls::Wire;
use vgpu_protocol::limits::{
    AREA_LEN, ARENA_LEN, CONTEXTS_MAX, EVENTS_MAX, GPUS_MAX, LINKS_MAX, OBJECTS_MAX, PAGE_LEN, STREAMS_MAX,
    WINDOW_LEN,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{GpuInfo, RING_LEN};
use vgpu_protocol::structs::graph::MemcpyNode;
use vgpu_protocol::virtio::Status;
use vgpu_transport::device::Device;
use vgpu_transport::socket::Socket;
use vgpu_transport::{Transport, TransportError};
use zerocopy::FromBytes;

/// Pinned memory of the program: in the arena, or its own that is registered.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// Bytes.
    pub len: u64,
    /// The context that it goes with.
    pub context: u32,
    /// The flags it was allocated with.
    pub flags: u32,
    /// Whether it is managed memory.
    pub managed: bool,
    /// Whether it is the program's own.
    pub registered: bool,
    /// What no other memory of this process ever has.
    pub serial: u64,
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
    /// A launch returns when its kernel has ended: `CUDA_LAUNCH_BLOCKING`.
    pub blocking_launches: bool,
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
    /// Kernels of modules.
    pub functions: Table<Function>,
    /// Libraries.
    pub libraries: Table<Library>,
    /// Kernels of libraries.
    pub kernels: Table<Kernel>,
    /// The devices' primary contexts.
    pub primaries: Primaries,
    /// What the program keeps with its contexts.
    pub storage: Storage,
    /// Graphs.
    pub graphs: Table<Graph>,
    /// Executable graphs.
    pub graph_execs: Table<GraphExec>,
    /// Links.
    pub links: Table<Link>,
    /// The handles of the graphs that a node has, by node, for those that the program has.
    pub node_parts: Mutex<HashMap<u32, Box<[CUgraph]>>>,
    /// Pinned memory that graphs' copies have given back.
    pub blocks: Blocks,
    /// Nodes that are copies from or to pageable memory, with their graph's context and what the program said of them.
    pub graph_copies: Mutex<HashMap<u32, (u32, MemcpyNode)>>,
    /// Arrays.
    pub arrays: Table<Array>,
    /// Arrays of several levels.
    pub mipmapped: Table<Mipmapped>,
    /// User objects.
    pub user_objects: Table<UserObject>,
    /// Textures.
    pub textures: Objects,
    /// Surfaces.
    pub surfaces: Objects,
    /// Captures of streams.
    pub captures: Captures,
    /// Pinned memory, by address.
    pub pinned: RwLock<BTreeMap<u64, Pinned>>,
    /// The program's own memory among it, and the pages that are mapped for that.
    registrations: Mutex<Registrations>,
    /// How many of these ranges there are: while there are none, nothing outside the arena is pinned.
    registered: AtomicUsize,
    /// Device memory, by address.
    device_memory: RwLock<DeviceTable>,
    /// Memory pools.
    pub pools: Pools,
    /// Reserved addresses, and memory that is mapped there.
    pub virtual_memory: VirtualMemory,
    /// What was advised of managed memory.
    pub advice: Mutex<Advices>,
    /// Staging for pageable memory.
    pub staging: Staging,
    /// Host functions.
    pub host_functions: HostFunctions,
    /// Tensor maps that were computed.
    pub tensor_maps: TensorMaps,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Transport(#[from] TransportError),
    #[error("no address range of 4 TiB is free in this process{0}")]
    NoWindow(&'static str),
    #[error("the host chose an address window that was not proposed")]
    StrangeWindow,
    #[error("the session was opened, and its first call failed with error {0}")]
    Host(Code),
    #[error("the host's description of its GPUs is malformed")]
    Malformed,
    #[error("CUDA_VISIBLE_DEVICES hides all GPUs")]
    Hidden,
    #[error("CUDA_VISIBLE_DEVICES names a GPU twice")]
    NamedTwice,
}

/// The process of which a session is there, or is being opened; 0 if there is none.
static STARTED: AtomicI32 = AtomicI32::new(0);
/// Set in a forked child: the session is the parent's.
static FORKED: AtomicBool = AtomicBool::new(false);
static SESSION: OnceLock<Result<&'static Session, Code>> = OnceLock::new();

/// The session that `cuInit` opened.
pub fn get() -> Result<&'static Session, Code> {
    match SESSION.get() {
        Some(Ok(session)) if !FORKED.load(Ordering::Relaxed) => Ok(session),
        _ => Err(result::NOT_INITIALIZED),
    }
}

/// Opens the process' session, once; says on standard error why if it cannot.
pub fn open() -> Result<&'static Session, Code> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(result::NOT_INITIALIZED);
    }
    // Not `Once`: a child that is forked meanwhile would wait for ever for a thread that it has not. Two threads may both do it.
    static HANDLED: AtomicBool = AtomicBool::new(false);
    if !HANDLED.load(Ordering::Relaxed) {
        // SAFETY: the handler only stores a flag, which is safe in a forked child, and stays loaded.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        HANDLED.store(true, Ordering::Relaxed);
    }
    // For the same reason this is said before, and looked at by whoever might wait.
    let this = std::process::id() as i32;
    let by = STARTED.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed);
    if by.is_err_and(|by| by != this) {
        return Err(result::NOT_INITIALIZED);
    }
    *SESSION.get_or_init(|| {
        Session::open().map_err(|error| {
            // Who hides the GPUs knows why there is none, and NVIDIA's library says nothing.
            if !matches!(error, OpenError::Hidden | OpenError::NamedTwice) {
                let line = format!("vgpu: no CUDA device: {error}\n");
                // At once, so that it stays one line; a program without a standard error goes without it.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            STARTED.store(0, Ordering::Relaxed);
            error.code()
        })
    })
}

impl OpenError {
    /// What `cuInit` returns.
    fn code(&self) -> Code {
        match self {
            // The device may be there: this process has not what it takes.
            Self::NoWindow(_) | Self::Transport(TransportError::NoMemory) => result::OUT_OF_MEMORY,
            Self::Host(result::OUT_OF_MEMORY) => result::OUT_OF_MEMORY,
            Self::Transport(TransportError::Os(_)) => result::OPERATING_SYSTEM,
            Self::NamedTwice => result::INVALID_DEVICE,
            _ => result::NO_DEVICE,
        }
    }
}

fn connect() -> Result<Box<dyn Transport>, OpenError> {
    Ok(match vgpu_transport::socket_path() {
        Some(path) => Box::new(Socket::connect(&path)?),
        #[cfg(test)]
        None if !std::path::Path::new("/dev/vgpu").exists() => Box::new(crate::fake::Fake::new()),
        None => Box::new(Device::open()?),
    })
}

extern "C" fn forked() {
    if STARTED.load(Ordering::Relaxed) != 0 {
        FORKED.store(true, Ordering::Relaxed);
    }
}

impl Session {
    fn open() -> Result<&'static Self, OpenError> {
        let visible = Visible::from_environment();
        if visible.as_ref().is_some_and(Visible::is_nothing) {
            return Err(OpenError::Hidden);
        }
        // First, since a process without addresses has none for what connecting takes either.
        let candidates = window::candidates();
        if candidates.is_empty() {
            return Err(OpenError::NoWindow(window::limit()));
        }
        let transport = connect()?;
        let bases: Vec<u64> = candidates.iter().map(window::Reservation::base).collect();
        let window = match visible {
            None => transport.open(&bases, &[])?,
            Some(visible) => visible.open(&*transport, &bases)?,
        };
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
            blocking_launches: std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|wish| wish == "1"),
            seen: Seen::default(),
            gpus: Vec::new(),
            contexts: Table::new(1, 1, CONTEXTS_MAX),
            streams: Table::new(2, 0, STREAMS_MAX),
            sequences: (0..STREAMS_MAX).map(|_| AtomicU64::new(0)).collect(),
            events: Table::new(3, 0, EVENTS_MAX),
            modules: Table::new(4, 0, OBJECTS_MAX),
            functions: Table::new(5, 0, OBJECTS_MAX),
            libraries: Table::new(8, 0, OBJECTS_MAX),
            kernels: Table::new(9, 0, OBJECTS_MAX),
            primaries: Primaries::default(),
            storage: Storage::default(),
            graphs: Table::new(6, 0, OBJECTS_MAX),
            graph_execs: Table::new(7, 0, OBJECTS_MAX),
            links: Table::new(14, 0, LINKS_MAX),
            node_parts: Mutex::default(),
            blocks: Blocks::default(),
            graph_copies: Mutex::default(),
            arrays: Table::new(12, 0, OBJECTS_MAX),
            mipmapped: Table::new(13, 0, OBJECTS_MAX),
            user_objects: Table::new(15, 0, OBJECTS_MAX),
            textures: Objects::default(),
            surfaces: Objects::default(),
            captures: Captures::default(),
            pinned: RwLock::new(BTreeMap::new()),
            registrations: Mutex::default(),
            registered: AtomicUsize::new(0),
            device_memory: RwLock::default(),
            pools: Pools::default(),
            virtual_memory: VirtualMemory::default(),
            advice: Mutex::default(),
            staging: Staging::default(),
            host_functions: HostFunctions::default(),
            tensor_maps: TensorMaps::default(),
        };
        let thread = Thread::current();
        let ring = thread.ring(&session).map_err(OpenError::Host)?.clone();
        let blob = ring.gpu_info(&session, thread).map_err(OpenError::Host)?;
        session.gpus = gpu_infos(&blob).ok_or(OpenError::Malformed)?;
        if session.gpus.is_empty() || session.gpus.len() > GPUS_MAX as usize {
            return Err(OpenError::Malformed);
        }
        // It is the process' own until the end: threads may still make calls while it exits.
        Ok(Box::leak(Box::new(session)))
    }

    /// What a transport's failure is to the program.
    pub fn code(&self, error: &TransportError) -> Code {
        if let Err(code) = self.area.status() {
            return code;
        }
        match error {
            TransportError::NoDevice(_) | TransportError::Quarantined(_) => result::NO_DEVICE,
            TransportError::NoMemory | TransportError::Refused(Status::Limit) => result::OUT_OF_MEMORY,
            // Memory that the program may well use, but not register.
            TransportError::Refused(Status::Taken) | TransportError::Unsupported => result::NOT_SUPPORTED,
            TransportError::NotItsOwn => result::INVALID_VALUE,
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
    pub fn device_memory(&self) -> RwLockWriteGuard<'_, DeviceTable> {
        self.device_memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device memory that holds a whole range, and its address: of mappings side by side, the first.
    pub fn find_device(&self, addr: u64, len: u64) -> Option<(u64, DeviceMemory)> {
        let memory = self.device_memory.read().unwrap_or_else(PoisonError::into_inner);
        memory.holding(addr, len)
    }

    /// Refuses a range that the device may not access: it is neither in device memory nor in pinned memory.
    pub fn check_device(&self, addr: u64, len: u64) -> Result<(), Code> {
        if self.find_device(addr, len).is_some() || self.find_pinned(addr, len).is_some() {
            Ok(())
        } else {
            Err(result::INVALID_VALUE)
        }
    }

    /// Has the host map the pages of a range of the program's own memory, which ends inside the address space.
    pub fn map_own(&self, addr: u64, len: u64) -> Result<(), Code> {
        let map = |at, len| self.transport.pin(at, len).map_err(|error| self.code(&error));
        lock(&self.registrations).add(addr, len, map, |at, len| self.unmap_pages(at, len))
    }

    /// Undoes that, once the host's library has forgotten the range.
    pub fn unmap_own(&self, addr: u64) {
        lock(&self.registrations).remove(addr, |at, len| self.unmap_pages(at, len));
    }

    fn unmap_pages(&self, at: u64, len: u64) -> Result<(), Code> {
        self.transport.unpin(at, len).map_err(|error| self.code(&error))
    }

    /// Pinned memory of the program starts there from now on.
    pub fn add_pinned(&self, addr: u64, memory: Pinned) {
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        pinned.insert(addr, memory);
        // Under the lock: who finds that there is some looks there.
        self.registered
            .fetch_add(memory.registered.into(), Ordering::Release);
    }

    /// Takes pinned memory that starts there and is as wanted out of what is known.
    pub fn take_pinned(&self, addr: u64, wanted: impl FnOnce(&Pinned) -> bool) -> Option<Pinned> {
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        pinned.get(&addr).filter(|memory| wanted(memory))?;
        let memory = pinned.remove(&addr)?;
        self.registered
            .fetch_sub(memory.registered.into(), Ordering::Release);
        Some(memory)
    }

    /// Whether any of a range is pinned memory.
    pub fn touches_pinned(&self, addr: u64, end: u64) -> bool {
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner);
        let below = pinned.range(..end).next_back();
        below.is_some_and(|(start, memory)| start + memory.len > addr)
    }

    /// Whether any of a range lies in the window.
    pub fn touches_window(&self, addr: u64, end: u64) -> bool {
        addr < self.window + WINDOW_LEN && end > self.window
    }

    /// Whether an address is the host's and the device reaches it.
    pub fn is_reached_host(&self, addr: u64) -> bool {
        self.is_in_arena(addr) || self.find_pinned(addr, 1).is_some()
    }

    /// Whether an address lies where pinned memory is allocated.
    pub fn is_in_arena(&self, addr: u64) -> bool {
        (self.window..self.window + ARENA_LEN).contains(&addr)
    }

    /// The pinned memory that holds the whole range: its address.
    pub fn find_pinned(&self, addr: u64, len: u64) -> Option<(u64, Pinned)> {
        if !self.is_in_arena(addr) && self.registered.load(Ordering::Acquire) == 0 {
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
        let registered = gone.iter().filter(|(_, memory)| memory.registered).count();
        self.registered.fetch_sub(registered, Ordering::Release);
        drop(pinned);
        for (addr, memory) in gone {
            if memory.registered {
                // The host's library forgot it with the context.
                self.unmap_own(addr);
            } else {
                // What the host does not give back stays reserved.
                let _ = self.free(addr, memory.len);
            }
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
            return Ok(context);
        }
        // A primary context that was reset and is in use again has the same handle.
        let again = context
            .is_primary
            .then(|| self.session.contexts.get(context.handle()));
        let again = again.flatten().map(|found| Arc::clone(&*found));
        let again = again.filter(|again| again.is_alive());
        drop(context);
        let again = again.ok_or(result::CONTEXT_IS_DESTROYED)?;
        // Another thread may reset it while this one's call has the former one still.
        let contexts = self.thread.contexts.try_borrow_mut();
        let mut contexts = contexts.map_err(|_| result::CONTEXT_IS_DESTROYED)?;
        if let Some(top) = contexts.last_mut() {
            *top = again;
        }
        drop(contexts);
        self.context()
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

    /// Runs `f` with a buffer of `len` bytes that the host can reach, and its address. Short ones are kept for the next time: to map
    /// memory, and to unmap it, each take as long as a call that is answered.
    pub fn with_buffer<T>(
        &self,
        len: u64,
        f: impl FnOnce(&mut [u8], u64) -> Result<T, Code>,
    ) -> Result<T, Code> {
        let session = self.session;
        // SAFETY: at least this much memory, which nothing else uses but the host while it is asked to.
        let buffer = |addr| unsafe { std::slice::from_raw_parts_mut(addr as *mut u8, len as usize) };
        if len <= SLAB {
            let block = session.take_block(len)?;
            let done = f(buffer(block.addr), block.addr);
            session.give_block(block);
            return done;
        }
        let addr = session.alloc(len, false)?;
        let done = f(buffer(addr), addr);
        let freed = session.free(addr, len);
        let done = done?;
        freed.map(|()| done)
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
