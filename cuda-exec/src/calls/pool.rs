//! Memory pools, and allocation in the order of a stream.
//!
//! A pool takes memory from the driver in pieces and keeps some of what is freed: what it counts for is what it has reserved.
//! libcuda gives what is freed back when a program waits for its work; our guests wait by themselves, so it is told to when
//! all work is done. An allocation that a graph makes has its address from the time of the capture on, and its memory, which
//! all graphs of a GPU share, when the graph runs: see [`admit_graphs`].
//!
//! A pointer is taken out of the table when its free is submitted, though work that was submitted before may use it until the
//! stream comes there. Nothing is refused by that which was to be carried out: whoever uses it in another stream has to do so
//! before an event that the freeing stream waits for, so that record was written, and had returned, before this one, and was
//! run before it (see DEPS).
//!
//! A pool that is exported, or was imported, gives nothing back before it is destroyed. It counts in each process for what libcuda
//! says that it has reserved there: in one that has imported it, for what it has of the allocations that were imported, each of
//! which is let in like one of its own. So the memory of such an allocation counts as long as any process has it.
use super::BAD_HANDLE;
use super::memory::freed;
use super::shares::{Bytes, Part, Token, What, bytes_of, token};
use crate::cuda::{PointerData, Raw};
use crate::device_memory::{GraphMemory, Owner};
use crate::dispatch::handlers_of;
use crate::handles::{Context, Stream, forget_current};
use crate::limits::{Charge, Limits};
use crate::recording::{To, captures};
use crate::ring::Failure;
use crate::session::Session;
use crate::window::Work;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vgpu_protocol::host::SHARE_LEN;
use vgpu_protocol::limits::ACCESSES_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{Access, HANDLE_TYPE_FILE, Location, PoolProps};
use zerocopy::FromBytes;

/// CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, _RESERVED_MEM_CURRENT, _USED_MEM_CURRENT.
const THRESHOLD: i32 = 4;
const RESERVED: i32 = 5;
const USED: i32 = 7;
/// CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT.
const GRAPHS_RESERVED: i32 = 2;

/// What kind of pool one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A device's default pool, which stays with it.
    Default,
    /// The guest's own.
    Own,
    /// The same, and it may be exported.
    Shareable,
    /// Another process' pool, found by that token.
    Imported(Bytes),
}

impl Kind {
    /// Whether it gives nothing back before it is destroyed.
    fn keeps_all(self) -> bool {
        matches!(self, Self::Shareable | Self::Imported(_))
    }
}

/// A pool.
pub struct Pool {
    session: &'static Session,
    raw: Raw,
    gpu: u32,
    kind: Kind,
    /// What it is imported by.
    token: Token,
    /// If it was imported.
    _part: Option<Part>,
    /// What it has reserved, as last seen. Held while memory of it is allocated.
    charge: Mutex<Charge>,
    /// What it keeps of what is freed, in bytes.
    threshold: AtomicU64,
    /// Something was freed since it was last settled.
    has_freed: AtomicBool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

impl Pool {
    fn new(session: &'static Session, raw: Raw, gpu: u32, kind: Kind) -> Self {
        Self {
            session,
            raw,
            gpu,
            kind,
            token: Token::default(),
            _part: matches!(kind, Kind::Imported(_)).then(|| session.shares.part()),
            charge: Mutex::new(Limits::nothing(gpu)),
            threshold: AtomicU64::new(0),
            has_freed: AtomicBool::new(false),
        }
    }

    fn charge(&self) -> MutexGuard<'_, Charge> {
        self.charge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attribute(&self, attribute: i32) -> Result<u64, Code> {
        let mut value = 0;
        // SAFETY: a place for the longest of the attributes, which outlives the call.
        unsafe {
            self.session
                .cuda
                .memories
                .pool_get_attribute(self.raw, attribute, &mut value)
        }?;
        Ok(value)
    }

    /// What it has and does not use.
    fn spare(&self) -> Result<u64, Code> {
        Ok(self.attribute(RESERVED)?.saturating_sub(self.attribute(USED)?))
    }

    /// Something of it is freed, or will be in the order of a stream.
    pub fn has_freed(&self) {
        self.has_freed.store(true, SeqCst);
    }

    fn recount(&self, charge: &mut Charge) {
        match self.session.relaxed(|| self.attribute(RESERVED)) {
            Ok(reserved) => self.session.limits.recount(charge, reserved),
            Err(code) => self.session.survive(Err(code)),
        }
    }

    /// Gives back what is not in use beyond `keep` bytes.
    fn trim(&self, charge: &mut Charge, keep: u64) -> Result<(), Code> {
        let session = self.session;
        let trimmed = match self.kind {
            Kind::Imported(_) => Ok(()),
            _ => session.relaxed(|| session.cuda.memories.pool_trim(self.raw, keep as usize)),
        };
        self.recount(charge);
        trimmed
    }

    /// Gives back what was freed meanwhile, as far as it does not keep it; not now, if somebody allocates of it: who does may be
    /// waiting for the GPU, and the completion thread must not wait with it.
    fn settle(&self) {
        let Ok(mut charge) = self.charge.try_lock() else {
            return;
        };
        if self.has_freed.swap(false, SeqCst) {
            let trimmed = self.trim(&mut charge, self.threshold.load(SeqCst));
            self.session.survive(trimmed);
        }
    }

    /// Allocates with `allocate`, unless that does not fit under the quota; then it is undone.
    fn allocate(
        &self,
        context: &Context,
        bytes: u64,
        allocate: impl FnOnce() -> Result<u64, Failure>,
        undo: impl FnOnce(u64) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let limits = &self.session.limits;
        let mut charge = self.charge();
        self.recount(&mut charge);
        // What it has and does not use may do, or not, if that lies in pieces. What is imported is memory of its own.
        let spare = match self.kind {
            Kind::Imported(_) => 0,
            _ => self.session.relaxed(|| self.spare())?,
        };
        let grows = bytes.saturating_sub(spare);
        if grows > 0 && !limits.grow(&mut charge, grows) {
            self.trim(&mut charge, 0)?;
            drop(charge);
            trim_all(self.session, self.gpu, Some(context));
            charge = self.charge();
            if !limits.grow(&mut charge, bytes) {
                return Err(limits.refuse().into());
            }
        }
        let allocated = allocate();
        self.recount(&mut charge);
        let pointer = allocated?;
        if limits.fits(self.gpu, 0) {
            return Ok(pointer);
        }
        undo(pointer)?;
        self.has_freed();
        self.trim(&mut charge, 0)?;
        Err(limits.refuse().into())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let charge = *self.charge();
        if self.kind == Kind::Default {
            self.session.limits.give(charge);
            return;
        }
        self.token.withdraw(&self.session.shares, What::Pool);
        // Until the last of it is free it counts.
        let (raw, keeps_all) = (self.raw, self.kind.keeps_all());
        let dying = Dying {
            raw,
            charge,
            keeps_all,
        };
        self.session.pooled.dying().push(dying);
        self.session.pooled.settle(self.session);
    }
}

/// Gives back what was freed, as far as no pool keeps it.
pub fn settle_pools(session: &Session) {
    session.pooled.settle(session);
    for pool in session.objects.pools.all() {
        pool.settle();
    }
}

/// How often to look whether libcuda has seen that all work is done.
const LOOKS: u32 = 20;

/// Whether libcuda finds all streams done, and has been made to look: what was freed in the order of a stream counts as freed once a
/// wait for the stream has found it there. A query that finds it there is not enough, but says that the wait will be none.
fn has_seen_all(session: &Session) -> bool {
    session.captures()
        || session.objects.streams.all().iter().all(|stream| {
            stream.raw().is_ok_and(|raw| {
                session.cuda.stream_query(raw).is_ok() && session.cuda.stream_synchronize(raw).is_ok()
            })
        })
}

/// Gives back what no pool of that GPU, and no graph, uses.
fn trim_all(session: &Session, gpu: u32, context: Option<&Context>) {
    session.survive(session.pooled.let_go_now(session, context));
    for pool in session.objects.pools.all().iter().filter(|pool| pool.gpu == gpu) {
        session.survive(pool.trim(&mut pool.charge(), 0));
    }
    if session.pooled.graphs.load(SeqCst)
        && let Ok(device) = session.cuda.device(gpu)
    {
        session.survive(session.relaxed(|| session.cuda.memories.graph_memory_trim(device)));
        count_graphs(session, gpu);
    }
}

/// Takes memory for an allocation; what pools keep and do not use is given back for it.
pub fn allocate(session: &Session, gpu: u32, bytes: u64, context: Option<&Context>) -> Result<Charge, Code> {
    let trim = || trim_all(session, gpu, context);
    session.limits.allocate(gpu, bytes, trim)
}

/// A pool that is destroyed and has no allocation left; streams may still have to come to where the last of it is freed.
struct Dying {
    raw: Raw,
    charge: Charge,
    /// It gives nothing back before libcuda has destroyed it, too.
    keeps_all: bool,
}

/// An allocation of no pool that is freed in the order of a stream. It counts until it is free, and nothing else says when that is.
struct Leaving {
    /// While its work is in flight the stream is there.
    stream: Weak<Stream>,
    /// How many of the stream's operations must be done.
    operations: u64,
    charge: Charge,
}

/// Memory of pools that are destroyed and still in use, of graphs, and what else is freed in the order of streams.
#[derive(Default)]
pub struct Pooled {
    dying: Mutex<Vec<Dying>>,
    leaving: Mutex<Vec<Leaving>>,
    /// There are graphs that allocate.
    graphs: AtomicBool,
    /// What the graphs on each GPU count for.
    graph_charges: Mutex<HashMap<u32, Charge>>,
    /// Allocations that graphs have made, by address, and that nobody has freed: they outlive their graphs.
    live: Mutex<HashMap<u64, Arc<GraphMemory>>>,
}

impl Pooled {
    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<GraphMemory>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A graph with these allocations is launched, which frees those addresses.
    pub fn launched(&self, memory: &[Arc<GraphMemory>], frees: &[u64]) {
        if memory.is_empty() && frees.is_empty() {
            return;
        }
        let mut live = self.live();
        live.extend(memory.iter().map(|memory| (memory.0, memory.clone())));
        for address in frees {
            live.remove(address);
        }
    }

    /// A graph's allocation is freed.
    pub fn freed(&self, address: u64) {
        self.live().remove(&address);
    }

    fn dying(&self) -> MutexGuard<'_, Vec<Dying>> {
        self.dying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An allocation of no pool is freed behind all that was submitted to a stream so far.
    fn leaves(&self, stream: &Arc<Stream>, charge: Charge) {
        let leaving = Leaving {
            stream: Arc::downgrade(stream),
            operations: stream.track().submitted(),
            charge,
        };
        self.leaving().push(leaving);
    }

    /// Whether something is still to be freed in the order of a stream.
    pub fn is_leaving(&self) -> bool {
        !self.leaving().is_empty()
    }

    /// Counts no longer what streams are known to have come to free.
    pub fn let_go(&self, session: &Session) {
        let mut streams = Vec::new();
        self.leaving().retain(|leaving| {
            let stream = leaving.stream.upgrade();
            let is_there = stream
                .as_ref()
                .is_some_and(|stream| !stream.track().is_done(leaving.operations));
            if !is_there {
                session.limits.give(leaving.charge);
            }
            streams.extend(stream);
            is_there
        });
        // The last user of one destroys it, which is not to be waited for under the lock.
        drop(streams);
    }

    /// The same, of what they have come to by now: what a program has waited for is known a little later than it. To look at other
    /// contexts' streams, they are made current; afterwards it is this one, or none.
    pub fn let_go_now(&self, session: &Session, context: Option<&Context>) -> Result<(), Code> {
        if !self.is_leaving() {
            return Ok(());
        }
        session.relaxed(|| {
            for _ in 0..LOOKS {
                session.completion.check(session);
                self.let_go(session);
                if !self.is_leaving() {
                    break;
                }
                std::thread::sleep(crate::completion::FAST);
            }
        });
        forget_current();
        context.map_or(Ok(()), Context::make_current)
    }

    /// Destroys the pools of which nothing is in use any more.
    fn settle(&self, session: &Session) {
        let memories = &session.cuda.memories;
        self.dying().retain_mut(|pool| {
            if !pool.keeps_all {
                session.survive(session.relaxed(|| memories.pool_trim(pool.raw, 0)));
            }
            let attribute = |which| {
                let mut value = 0;
                // SAFETY: a place for the longest of the attributes, which outlives the call.
                let ask = || unsafe { memories.pool_get_attribute(pool.raw, which, &mut value) };
                session.survive(session.relaxed(ask));
                value
            };
            let reserved = attribute(RESERVED);
            let left = if pool.keeps_all { attribute(USED) } else { reserved };
            if left == 0 {
                session.survive(session.relaxed(|| memories.pool_destroy(pool.raw)));
            }
            let counts = if left == 0 { 0 } else { reserved };
            session.limits.recount(&mut pool.charge, counts);
            left != 0
        });
    }
}

/// Counts what graphs have of a GPU's memory.
pub fn count_graphs(session: &Session, gpu: u32) {
    if !session.pooled.graphs.load(SeqCst) {
        return;
    }
    let charges = &session.pooled.graph_charges;
    let mut charges = charges.lock().unwrap_or_else(PoisonError::into_inner);
    match graph_bytes(session, gpu) {
        Ok(bytes) => {
            let charge = charges.entry(gpu).or_insert_with(|| Limits::nothing(gpu));
            session.limits.recount(charge, bytes);
        }
        Err(code) => session.survive(Err(code)),
    }
}

fn graph_bytes(session: &Session, gpu: u32) -> Result<u64, Code> {
    let mut bytes = 0;
    let device = session.cuda.device(gpu)?;
    // SAFETY: a place for the result that outlives the call.
    session.relaxed(|| unsafe {
        session
            .cuda
            .memories
            .graph_memory_attribute(device, GRAPHS_RESERVED, &mut bytes)
    })?;
    Ok(bytes)
}

/// Lets a graph be launched if the quota has room for all that graphs may allocate, whichever of them this one is. That may be
/// less than fits, never more.
pub fn admit_graphs(context: &Context) -> Result<(), Code> {
    let (session, gpu) = (context.session, context.gpu);
    if !session.pooled.graphs.load(SeqCst) {
        return Ok(());
    }
    let fits = || {
        let most = session.memory.graph_bytes(gpu);
        Ok::<bool, Code>(
            session
                .limits
                .fits(gpu, most.saturating_sub(graph_bytes(session, gpu)?)),
        )
    };
    if fits()? {
        return Ok(());
    }
    trim_all(session, gpu, Some(context));
    if fits()? {
        Ok(())
    } else {
        Err(session.limits.refuse())
    }
}

/// A graph on that GPU has an allocation: what it and its copies keep.
pub fn add_to_graph(session: &Session, gpu: u32, context: u32, pointer: u64, bytes: u64) -> Arc<GraphMemory> {
    session.pooled.graphs.store(true, SeqCst);
    let memory = Arc::new(GraphMemory(pointer));
    let owner = Owner::Graph(gpu, Arc::downgrade(&memory));
    session.memory.add_device(pointer, bytes, context, owner);
    memory
}

/// libcuda's name for the place that a device is.
pub fn location(device: i32) -> Location {
    Location {
        kind: Location::DEVICE,
        id: device,
    }
}

/// The descriptor that `export` has libcuda put into a place.
pub fn exported(export: impl FnOnce(*mut c_void) -> Result<(), Code>) -> Result<OwnedFd, Code> {
    let mut descriptor = -1i32;
    export((&raw mut descriptor).cast())?;
    if descriptor < 0 {
        return Err(result::UNKNOWN);
    }
    // SAFETY: libcuda has just made it, for its caller to close.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Imports an allocation of another process' pool; libcuda's address of it must lie where the guest left room.
fn import_pointer(session: &Session, pool: &Pool, handle: Bytes) -> Result<(u64, u64), Code> {
    let memories = &session.cuda.memories;
    let mut pointer = 0;
    let mut data = PointerData(handle);
    // SAFETY: two places that outlive the call. What the second holds came from libcuda, in the process that exported the pool.
    unsafe { memories.pool_import_pointer(&mut pointer, pool.raw, &mut data) }?;
    if session.memory.view().device().pooled(pointer).is_some() {
        // Who has it already goes on using it.
        return Err(result::INVALID_VALUE);
    }
    let bytes = bytes_of(session, pointer);
    let bytes = bytes.inspect_err(|_| session.survive(session.cuda.mem_free(pointer)))?;
    Ok((pointer, bytes))
}

/// The accesses in a blob, of GPUs of the session.
pub fn accesses(session: &Session, blob: &[u8]) -> Result<Vec<Access>, Code> {
    let found = <[Access]>::ref_from_bytes(blob).map_err(|_| result::INVALID_VALUE)?;
    if found.is_empty() || found.len() > ACCESSES_MAX {
        return Err(result::INVALID_VALUE);
    }
    let known = |access: &Access| {
        if access.location.kind != Location::DEVICE {
            return Err(result::NOT_SUPPORTED);
        }
        let gpu = u32::try_from(access.location.id).map_err(|_| result::INVALID_DEVICE)?;
        let id = session.cuda.device(gpu)?;
        let location = Location {
            id,
            ..access.location
        };
        Ok(Access { location, ..*access })
    };
    found.iter().map(known).collect()
}

handlers_of! {
    cuDeviceGetDefaultMemPool(ring, arguments) {
        let session = ring.session;
        let device = session.cuda.device(arguments.device)?;
        let raw = session.cuda.memories.default_pool(device)?;
        let is_known = |pool: &Arc<Pool>| pool.raw == raw;
        if session.objects.pools.all().iter().any(is_known) {
            return Err(BAD_HANDLE);
        }
        let pool = Pool::new(session, raw, arguments.device, Kind::Default);
        session.objects.pools.insert(arguments.pool, pool).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMemPoolCreate(ring, arguments) {
        let session = ring.session;
        let pools = &session.objects.pools;
        pools.check_new(arguments.pool).map_err(|_| BAD_HANDLE)?;
        let device = session.cuda.device(arguments.device)?;
        let usage = u16::try_from(arguments.usage).map_err(|_| result::INVALID_VALUE)?;
        let kind = match arguments.handle_types {
            0 => Kind::Own,
            HANDLE_TYPE_FILE => Kind::Shareable,
            _ => return Err(result::NOT_SUPPORTED.into()),
        };
        let props = PoolProps::new(location(device), arguments.most as usize, usage, arguments.handle_types);
        let mut raw = 0;
        // SAFETY: two places that outlive the call.
        unsafe { session.cuda.memories.pool_create(&mut raw, &props) }?;
        let pool = Pool::new(session, raw, arguments.device, kind);
        pools.insert(arguments.pool, pool).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    /// It goes with the last allocation of it; one that was imported stays as long as it has any.
    cuMemPoolDestroy(ring, arguments) {
        let pools = &ring.session.objects.pools;
        let pool = pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let stays = match pool.kind {
            Kind::Default => true,
            Kind::Own | Kind::Shareable => false,
            Kind::Imported(_) => ring.session.memory.view().device().has_of_pool(&pool),
        };
        if stays {
            return Err(result::INVALID_VALUE.into());
        }
        pools.remove(arguments.pool);
        Ok(Out {})
    }

    cuMemPoolTrimTo(ring, arguments) {
        let pool = ring.session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        for _ in 0..LOOKS {
            if has_seen_all(ring.session) {
                break;
            }
            std::thread::sleep(crate::completion::FAST);
        }
        pool.trim(&mut pool.charge(), arguments.keep)?;
        Ok(Out {})
    }

    cuMemPoolGetAttribute(ring, arguments) {
        let pool = ring.session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        pool.settle();
        Ok(Out { value: pool.attribute(arguments.attribute)? })
    }

    cuMemPoolSetAttribute(ring, arguments) {
        let session = ring.session;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let mut value = arguments.value;
        // SAFETY: a value as long as the longest of the attributes, which outlives the call.
        unsafe { session.cuda.memories.pool_set_attribute(pool.raw, arguments.attribute, &mut value) }?;
        if arguments.attribute == THRESHOLD {
            pool.threshold.store(arguments.value, SeqCst);
            pool.has_freed();
        }
        Ok(Out {})
    }

    cuMemPoolSetAccess(ring, arguments, blob, _reply) {
        let session = ring.session;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let accesses = accesses(session, blob)?;
        // SAFETY: the array is as long as is said and outlives the call.
        unsafe { session.cuda.memories.pool_set_access(pool.raw, accesses.as_ptr(), accesses.len()) }?;
        Ok(Out {})
    }

    cuMemPoolGetAccess(ring, arguments) {
        let session = ring.session;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let device = session.cuda.device(arguments.device)?;
        let mut flags = 0;
        let location = location(device);
        // SAFETY: two places that outlive the call.
        unsafe { session.cuda.memories.pool_get_access(&mut flags, pool.raw, &location) }?;
        Ok(Out { flags })
    }

    cuMemAllocFromPoolAsync(ring, arguments) {
        let session = ring.session;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let stream = ring.stream(arguments.stream)?;
        let bytes = usize::try_from(arguments.bytes).map_err(|_| result::OUT_OF_MEMORY)?;
        let memories = &session.cuda.memories;
        let (context, gpu) = (stream.context.id, stream.context.gpu);
        let is_graphs = Cell::new(false);
        let allocate = || {
            let mut pointer = 0;
            ring.submit(&stream, Work::Other, |raw, to| {
                let alloc = || memories.alloc_from_pool(bytes, pool.raw, raw);
                // A capture that began since it was not refused is not disturbed.
                pointer = if to.is_graph() { alloc() } else { session.relaxed(alloc) }?;
                is_graphs.set(to.is_graph());
                to.keep(&pool);
                if let To::Graph(recorded) = to {
                    let memory = add_to_graph(session, gpu, context, pointer, arguments.bytes);
                    recorded.memory.push(memory);
                } else {
                    let owner = Owner::Pool(pool.clone());
                    session.memory.add_device(pointer, arguments.bytes, context, owner);
                }
                Ok(())
            })?;
            Ok(pointer)
        };
        let captured = captures(session, &stream)?;
        if !captured {
            session.refuse_in_capture()?;
        }
        let pointer = if captured {
            if !session.limits.fits(gpu, arguments.bytes) {
                return Err(session.limits.refuse().into());
            }
            allocate()?
        } else {
            pool.allocate(&stream.context, arguments.bytes, allocate, |pointer| {
                session.memory.remove_allocation(pointer);
                let free = |raw| session.relaxed(|| memories.free_async(pointer, raw));
                ring.submit(&stream, Work::Other, |raw, _| free(raw))
            })?
        };
        if !is_graphs.get() {
            if captured {
                // The capture has ended meanwhile: what was allocated is not counted yet.
                pool.recount(&mut pool.charge());
            }
            super::memory::still_there(session, &stream.context, pointer)?;
        }
        Ok(Out { pointer })
    }

    cuMemFreeAsync(ring, arguments) {
        let session = ring.session;
        let stream = ring.stream(arguments.stream)?;
        if !captures(session, &stream)? {
            session.refuse_in_capture()?;
        }
        let device = session.memory.remove_allocation(arguments.pointer).ok_or(result::INVALID_VALUE)?;
        let free = |raw, to: &mut To<'_>| {
            let free = || session.cuda.memories.free_async(arguments.pointer, raw);
            // A capture that began since it was not refused is not disturbed.
            if to.is_graph() { free() } else { session.relaxed(free) }?;
            match to {
                To::Gpu => session.pooled.freed(arguments.pointer),
                To::Graph(recorded) => recorded.frees.push(arguments.pointer),
            }
            Ok(())
        };
        if let Err(failure) = ring.submit(&stream, Work::Other, free) {
            // libcuda still has it.
            session.memory.add_device(arguments.pointer, device.len, device.context, device.owner);
            return Err(failure);
        }
        session.shares.withdraw(arguments.pointer);
        match device.owner {
            Owner::Allocated(charge) => session.pooled.leaves(&stream, charge),
            owner => freed(session, owner),
        }
        Ok(Out {})
    }

    /// The pool must have been exported, as natively.
    cuMemPoolExportPointer(ring, arguments, _blob, reply) {
        let session = ring.session;
        let _context = ring.context();
        let pointer = arguments.pointer;
        let pooled = session.memory.view().device().pooled(pointer);
        let (bytes, pool) = pooled.ok_or(result::INVALID_VALUE)?;
        let of = pool.token.made().ok_or(result::INVALID_VALUE)?;
        let export = || {
            let mut data = PointerData([0; SHARE_LEN]);
            // SAFETY: a place that outlives the call; the pointer was just looked up, and libcuda only looks it up as well.
            unsafe { session.cuda.memories.pool_export_pointer(&mut data, pointer) }?;
            Ok(data.0)
        };
        reply.extend_from_slice(&session.shares.publish_memory(What::Pointer, pointer, bytes, of, export)?);
        Ok(Out {})
    }

    cuMemPoolExportToShareableHandle(ring, arguments, _blob, reply) {
        let session = ring.session;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        if pool.kind != Kind::Shareable {
            return Err(result::INVALID_VALUE.into());
        }
        let memories = &session.cuda.memories;
        let token = pool.token.get(&session.shares, What::Pool, 0, || {
            // SAFETY: `exported` gives a place for a descriptor that outlives the call.
            exported(|place| unsafe { memories.pool_export(place, pool.raw, HANDLE_TYPE_FILE, 0) })
        })?;
        reply.extend_from_slice(&token);
        Ok(Out {})
    }

    cuMemPoolImportFromShareableHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let memories = &session.cuda.memories;
        let pools = &session.objects.pools;
        pools.check_new(arguments.pool).map_err(|_| BAD_HANDLE)?;
        let token = token(blob)?;
        let found = session.shares.find(What::Pool, token)?;
        let raw = memories.pool_import(found.file()?.as_raw_fd() as usize, HANDLE_TYPE_FILE, 0)?;
        // A pool does not tell where it is; its memory can be accessed from there, and from nowhere else yet.
        let mut gpus = 0..session.cuda.gpus().len() as u32;
        let is_there = |gpu: &u32| {
            let mut flags = 0;
            let device = session.cuda.device(*gpu);
            let told = device.and_then(|device| {
                // SAFETY: two places that outlive the call.
                unsafe { memories.pool_get_access(&mut flags, raw, &location(device)) }
            });
            told.is_ok() && flags != 0
        };
        let Some(device) = gpus.find(is_there) else {
            session.survive(session.relaxed(|| memories.pool_destroy(raw)));
            return Err(result::INVALID_DEVICE.into());
        };
        let pool = Pool::new(session, raw, device, Kind::Imported(token));
        pools.insert(arguments.pool, pool).map_err(|_| BAD_HANDLE)?;
        Ok(Out { device })
    }

    cuMemPoolImportPointer(ring, arguments, blob, _reply) {
        let session = ring.session;
        let context = ring.context()?;
        let pool = session.objects.pools.get(arguments.pool).ok_or(BAD_HANDLE)?;
        let Kind::Imported(of) = pool.kind else {
            return Err(result::INVALID_VALUE.into());
        };
        let found = session.shares.find_part(What::Pointer, token(blob)?, of)?;
        let bytes = Cell::new(0);
        let import = || {
            let (pointer, len) = import_pointer(session, &pool, found.handle)?;
            bytes.set(len);
            session.memory.add_device(pointer, len, context.id, Owner::Pool(pool.clone()));
            Ok(pointer)
        };
        let pointer = pool.allocate(&context, found.len, import, |pointer| {
            session.memory.remove_allocation(pointer);
            Ok(session.relaxed(|| session.cuda.mem_free(pointer))?)
        })?;
        super::memory::still_there(session, &context, pointer)?;
        Ok(Out { pointer, bytes: bytes.get() })
    }
}
