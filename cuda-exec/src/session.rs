//! One session: what one guest process has on the GPU. There is one per process, and it lives until the process ends.
use crate::area::Area;
use crate::calls::{Pooled, Shares, Slots};
use crate::completion::Completion;
use crate::cuda::{self, Cuda};
use crate::graphs::Graphs;
use crate::handles::{Context, Objects, forget_current};
use crate::image::Images;
use crate::journal::END;
use crate::latency::Latencies;
use crate::limits::{Charge, Limits};
use crate::memory::Memory;
use crate::output::Output;
use crate::preempt::Preempt;
use crate::ring::RingState;
use crate::suspend::{Awake, Suspension};
use crate::turn::Turn;
use crate::window::{Load, WINDOW_DEFAULT};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{
    Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError,
};
use std::time::{Duration, Instant};
use vgpu_protocol::limits::RINGS_MAX;
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::RingError;
use vgpu_protocol::virtio::Status;
use vgpu_sched_api::messages::FromExec;

/// How long the control thread is held back at most, by each thing that may hold it back. The backend waits two minutes for
/// an answer.
const CONTROL_WAIT: Duration = Duration::from_secs(30);

/// How long other threads that find the context lost leave it to the first one to end the process.
const LAST_TEXT_WAIT: Duration = Duration::from_secs(2);

/// How this process ends, as its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Exit {
    /// The backend closed the socket.
    Closed = 0,
    /// It could not start.
    Start = 1,
    /// The guest broke the rules of the wire.
    Protocol = 2,
    /// The GPU context is lost.
    Fault = 3,
    /// A bug in this program.
    Panic = 4,
    /// `vgpud` ended it.
    Ordered = 5,
}

/// Ends the process at once: no destructor of libcuda's, no exit handler. If it ends as it should, `vgpud` is told first what
/// it has not heard yet.
pub fn exit(how: Exit) -> ! {
    // Several threads may find that it is over: none ends the process while another one is telling.
    static LAST: Once = Once::new();
    if let (Exit::Closed | Exit::Ordered, Some(session)) = (how, current()) {
        LAST.call_once(|| session.latencies.tell_last(session));
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(how as i32) }
}

static SESSION: OnceLock<&'static Session> = OnceLock::new();

/// The process' session, once it has started.
pub fn current() -> Option<&'static Session> {
    SESSION.get().copied()
}

/// See the module.
pub struct Session {
    pub cuda: Cuda,
    pub memory: Memory,
    pub objects: Objects,
    pub graphs: Graphs,
    pub images: Images,
    pub area: Area,
    pub turn: Turn,
    pub completion: Completion,
    pub host_functions: Slots,
    pub output: Output,
    pub preempt: Preempt,
    pub load: Load,
    pub limits: Limits,
    pub latencies: Latencies,
    pub suspension: Suspension,
    pub pooled: Pooled,
    pub shares: Shares,
    /// Held while the turn page's counters are written, so that old numbers do not overtake new ones.
    showing: Mutex<()>,
    rings: RwLock<Vec<Option<Arc<RingState>>>>,
    home: Mutex<Home>,
    /// Captures that have begun and not ended.
    captures: AtomicU32,
    /// Held for writing while streams begin, join or end a capture, for reading while it matters whether one does.
    capturing: RwLock<()>,
    /// Operations that may be in flight per stream.
    window: AtomicU32,
    slice_us: AtomicU64,
}

/// The context that libcuda knows the guest's memory through. A context takes half a GiB of GPU memory, so the first one
/// the guest creates is this one; when the guest destroys it, what is in it goes, and it is lent again.
#[derive(Default)]
struct Home {
    context: Option<(cuda::Raw, u32)>,
    lent: bool,
}

impl Session {
    /// Starts a session in a confined process: `event` is the eventfd that wakes the guest.
    pub fn start(cuda: Cuda, memory: Memory, event: OwnedFd) -> &'static Self {
        let session: &'static Self = Box::leak(Box::new(Self {
            preempt: Preempt::new(&cuda),
            cuda,
            memory,
            objects: Objects::default(),
            graphs: Graphs::default(),
            images: Images::default(),
            area: Area::new(event),
            turn: Turn::default(),
            completion: Completion::default(),
            host_functions: Slots::default(),
            output: Output::default(),
            load: Load::default(),
            limits: Limits::default(),
            latencies: Latencies::default(),
            suspension: Suspension::default(),
            pooled: Pooled::default(),
            shares: Shares::default(),
            showing: Mutex::default(),
            rings: RwLock::new(vec![None; RINGS_MAX as usize]),
            home: Mutex::default(),
            captures: AtomicU32::new(0),
            capturing: RwLock::new(()),
            window: AtomicU32::new(WINDOW_DEFAULT),
            slice_us: AtomicU64::new(0),
        }));
        // The only place that sets it, called once.
        let _ = SESSION.set(session);
        spawn("completion", move || session.completion.run(session));
        spawn("output", move || session.output.run(session));
        spawn("turn", move || {
            session.relax_this_thread();
            session.turn.give_back(|| session.completion.computing(session))
        });
        session
    }

    /// Ends the session and the process: the guest gets `code` from every later call.
    fn end(&self, how: Exit, code: Code) -> ! {
        self.area.end(code);
        exit(how)
    }

    /// The guest broke the rules of the wire.
    pub fn broken(&self, ring: u32, error: RingError) -> ! {
        log::error!(target: END, "ring {ring}: {error}; the session ends");
        self.end(Exit::Protocol, result::UNKNOWN)
    }

    /// A bug in this program.
    pub fn panicked(&self) -> ! {
        self.end(Exit::Panic, result::UNKNOWN)
    }

    /// `vgpud` ends it: the guest's program gets `code`, or an unknown error if that is none.
    pub fn ordered_to_end(&self, code: Code, why: &str) -> ! {
        log::error!(target: END, "vgpud ends the session with CUDA error {code}: {why}");
        let code = if code == result::SUCCESS {
            result::UNKNOWN
        } else {
            code
        };
        self.end(Exit::Ordered, code)
    }

    /// What it has on the GPU is lost.
    pub fn lost(&self, code: Code, why: &str) -> ! {
        static FOUND: AtomicBool = AtomicBool::new(false);
        if FOUND.swap(true, SeqCst) {
            // Several threads may find it at once. The first one leaves the text, which no other would find any more, and
            // ends the process, unless libcuda keeps it waiting.
            std::thread::sleep(LAST_TEXT_WAIT);
        } else {
            log::error!(target: END, "{why} with CUDA error {code}; the session ends");
            if code == cuda::ASSERT {
                // libcuda says which assertion failed where it is waited for.
                let _ = self.cuda.ctx_synchronize();
            }
            self.output.leave(self);
        }
        self.end(Exit::Fault, code)
    }

    /// A call failed with that code: ends the session if the context is lost with it.
    pub fn look_at(&self, code: Code) {
        if result::is_sticky(code) {
            self.lost(code, "the GPU context is lost");
        }
    }

    /// As [`Self::look_at`] for calls of our own, which otherwise succeed or are repeated.
    pub fn survive(&self, outcome: Result<(), Code>) {
        if let Err(code) = outcome {
            self.look_at(code);
            log::debug!("a call of our own failed with CUDA error {code}");
        }
    }

    /// Operations that may be in flight per stream.
    pub fn window(&self) -> u32 {
        self.window.load(SeqCst)
    }

    /// Has `vgpud` see what was done and what is in flight. Often enough while there is any, and when there is none any
    /// longer; not with every call.
    pub fn show_load(&self) {
        let Some(page) = self.turn.page() else { return };
        let _one = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        page.show(self.load.calls(), u64::from(self.load.in_flight()));
    }

    /// The scheduler sets the window.
    pub fn set_window(&self, operations: u32) {
        self.window.store(operations.clamp(1, WINDOW_DEFAULT), SeqCst);
    }

    /// The hardware time slice that it was given last; zero before.
    pub fn slice(&self) -> Duration {
        Duration::from_micros(self.slice_us.load(SeqCst))
    }

    /// It was given another time slice.
    pub fn set_slice(&self, microseconds: u64) {
        self.slice_us.store(microseconds, SeqCst);
    }

    /// Whether any stream may be capturing.
    pub fn captures(&self) -> bool {
        self.captures.load(SeqCst) != 0
    }

    /// No stream begins, joins or ends a capture until the result is dropped. Not to be taken twice by one thread.
    pub fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.capturing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams may begin, join or end a capture until the result is dropped, and nothing is submitted meanwhile. Whoever
    /// submits may be waiting for the GPU, and that for what another one has yet to submit: so this keeps nobody out while it
    /// waits.
    pub fn changes_captures(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            match self.capturing.try_write() {
                Ok(alone) => return alone,
                Err(TryLockError::Poisoned(alone)) => return alone.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(crate::completion::FAST),
            }
        }
    }

    /// A capture began, or ended.
    pub fn count_capture(&self, began: bool) {
        if began {
            self.captures.fetch_add(1, SeqCst);
        } else {
            self.captures.fetch_sub(1, SeqCst);
        }
    }

    /// This thread's calls are our own and must not disturb captures of the guest's.
    pub fn relax_this_thread(&self) {
        crate::completion::wake_precisely();
        self.survive(self.cuda.exchange_capture_mode(cuda::CAPTURE_RELAXED).map(drop));
    }

    /// Calls of our own in a thread that has the guest's capture mode. Also where nothing is captured yet: a capture that begins
    /// meanwhile is not to be disturbed.
    pub fn relaxed<R>(&self, f: impl FnOnce() -> R) -> R {
        let mode = self.cuda.exchange_capture_mode(cuda::CAPTURE_RELAXED);
        let r = f();
        self.survive(
            mode.and_then(|mode| self.cuda.exchange_capture_mode(mode))
                .map(drop),
        );
        r
    }

    /// A question of the guest's that libcuda may refuse beside a capture, which ends that: its graph goes with it, and another ring
    /// may be adding to it otherwise.
    pub fn ask_beside_captures<R>(&self, question: impl FnOnce() -> R) -> R {
        if !self.captures() {
            return self.relaxed(question);
        }
        let _nodes = self.graphs.lock();
        question()
    }

    /// Refuses, as libcuda does, what would disturb the guest's captures, and ends them.
    pub fn refuse_in_capture(&self) -> Result<(), Code> {
        if !self.captures() {
            return Ok(());
        }
        self.ask_beside_captures(|| {
            // Of the calls that are refused then this one changes nothing: a pool keeps all that it has.
            let memories = &self.cuda.memories;
            memories.pool_trim(memories.default_pool(self.cuda.device(0)?)?, usize::MAX)
        })
    }

    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a context for the guest, with this thread's current context changed to it.
    pub fn create_context(&'static self, id: u32, flags: u32, gpu: u32) -> Result<Context, Code> {
        let mut home = self.home();
        if let (Some((raw, on)), false) = (home.context, home.lent)
            && on == gpu
        {
            home.lent = true;
            return Ok(Context::new(self, id, raw, gpu, None));
        }
        if let Some(home_context) = home.context {
            // Takes long, and waits for the resume while the session is stopped: mappings must not wait with it.
            drop(home);
            let (raw, charge) = self.new_context(flags, gpu, Some(home_context))?;
            return Ok(Context::new(self, id, raw, gpu, Some(charge)));
        }
        // What it takes stays counted, as it stays itself.
        let (raw, charge) = self.new_context(flags, gpu, None)?;
        if let Err(code) = self.register_all() {
            self.survive(self.cuda.ctx_destroy(raw));
            forget_current();
            self.limits.give(charge);
            self.memory.forget_registrations();
            return Err(code);
        }
        *home = Home {
            context: Some((raw, gpu)),
            lent: true,
        };
        Ok(Context::new(self, id, raw, gpu, None))
    }

    /// Free memory can only be asked through a context on the GPU: what the first one takes, only the driver's account says.
    fn new_context(
        &self,
        flags: u32,
        gpu: u32,
        home: Option<(cuda::Raw, u32)>,
    ) -> Result<(cuda::Raw, Charge), Code> {
        let free = || {
            let (raw, _) = home.filter(|&(_, on)| on == gpu)?;
            self.cuda.ctx_set_current(raw).ok()?;
            self.free_memory()
        };
        let create = || {
            let created = self.cuda.ctx_create(flags, gpu);
            self.preempt.refresh();
            created
        };
        let ask = || self.ask_for_account();
        let created = self.limits.make(gpu, free, ask, create, |raw| {
            self.survive(self.cuda.ctx_destroy(raw))
        });
        forget_current();
        created
    }

    /// Has `vgpud` tell what the driver accounts to this process. If it is not there, nobody tells.
    pub fn ask_for_account(&self) {
        self.turn.tell(&FromExec::MemoryWanted);
    }

    /// Free memory of the current context's GPU. Not asked for while a capture is under way, which it could disturb.
    pub fn free_memory(&self) -> Option<u64> {
        if self.captures() {
            return None;
        }
        self.cuda.mem_get_info().ok().map(|(free, _)| free)
    }

    /// The guest has destroyed the context that is home.
    pub fn home_is_free(&self) {
        self.home().lent = false;
    }

    /// Registers what was mapped before there was a context.
    fn register_all(&self) -> Result<(), Code> {
        for (addr, len) in self.memory.unregistered() {
            self.register(addr, len)?;
            self.memory.set_registered(addr);
        }
        Ok(())
    }

    /// Registers mapped memory; a context is current.
    fn register(&self, addr: u64, len: u64) -> Result<(), Code> {
        // SAFETY: the caller has mapped the range, and unmaps it after unregistering it.
        let pointer = unsafe { self.cuda.host_register(addr, len, 0) }?;
        if pointer != addr {
            log::error!("memory at {addr:#x} is at {pointer:#x} for the GPU");
            self.survive(self.cuda.host_unregister(addr));
            return Err(result::OUT_OF_MEMORY);
        }
        Ok(())
    }

    /// A mapping's pages are all there: registers them if the guest wants that, and lets it use them.
    pub fn publish(&self, addr: u64, len: u64, register: bool) -> Result<(), Status> {
        // What is registered before there is a context counts as well: it will be with the first one.
        let _awake = match register {
            true => {
                let awake = self.may_register();
                Some(awake.inspect_err(|_| self.memory.undo(addr))?)
            }
            false => None,
        };
        let home = self.home();
        let registered = match home.context {
            Some((raw, _)) if register => {
                forget_current();
                // Whether the guest may have pinned memory during a capture is its library's to say.
                let done = self.relaxed(|| {
                    self.cuda.ctx_set_current(raw)?;
                    self.register(addr, len)
                });
                if let Err(code) = done {
                    self.look_at(code);
                    log::warn!("registering {len} bytes at {addr:#x}: CUDA error {code}");
                    self.memory.undo(addr);
                    return Err(Status::Limit);
                }
                true
            }
            _ => false,
        };
        self.memory.publish(addr, registered);
        if self.area.words().is_none()
            && let Some(words) = self.memory.area()
        {
            self.area.set(words);
        }
        Ok(())
    }

    /// Waits until the control thread may register memory, which takes locks of the whole driver.
    fn may_register(&self) -> Result<Awake<'_>, Status> {
        if !self.limits.admit_driver_call(CONTROL_WAIT) {
            log::warn!("a mapping waited in vain for the limit on driver calls");
            return Err(Status::Limit);
        }
        self.awake_soon()
    }

    /// The same for taking it back. That counts and is held back, but not refused: the guest is to have its memory again.
    fn may_unregister(&self) -> Result<Awake<'_>, Status> {
        self.limits.admit_driver_call(CONTROL_WAIT);
        self.awake_soon()
    }

    fn awake_soon(&self) -> Result<Awake<'_>, Status> {
        let until = Instant::now() + CONTROL_WAIT;
        self.suspension
            .awake(self, || Instant::now() >= until)
            .map_err(|_| Status::Limit)
    }

    /// Takes a mapping back from the guest, once no work uses it.
    pub fn unmap(&self, addr: u64) -> Result<(), Status> {
        let _awake = match self.memory.is_pinned(addr) {
            true => Some(self.may_unregister()?),
            false => None,
        };
        let (len, registered) = self.memory.retire(addr)?;
        // Of a program's own memory only what was registered could be used, and libcuda has waited for that.
        if self.memory.is_in_window(addr) {
            self.completion.drain(self);
        }
        if registered {
            let home = self.home();
            if let Some((raw, _)) = home.context {
                forget_current();
                self.survive(self.cuda.ctx_set_current(raw));
            }
            self.relaxed(|| self.survive(self.cuda.host_unregister(addr)));
        }
        self.memory.release(addr, len);
        Ok(())
    }

    /// Takes the turn page and the socket to `vgpud`.
    pub fn connect(&'static self, socket: OwnedFd, page: OwnedFd) -> std::io::Result<()> {
        let orders = socket.try_clone()?;
        self.turn.connect(socket, page)?;
        crate::orders::serve(self, orders);
        Ok(())
    }

    /// Adds a ring, or takes it away.
    pub fn set_ring(&self, index: u32, ring: Option<Arc<RingState>>) {
        self.rings.write().unwrap_or_else(PoisonError::into_inner)[index as usize] = ring;
    }

    /// The ring with that index.
    pub fn ring(&self, index: u32) -> Option<Arc<RingState>> {
        self.rings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index as usize)?
            .clone()
    }

    /// Whether no ring has anything to do.
    pub fn rings_are_dry(&self) -> bool {
        let rings = self.rings.read().unwrap_or_else(PoisonError::into_inner);
        rings.iter().flatten().all(|ring| ring.is_dry())
    }
}

/// Starts a thread. A panic in it ends the session (see `main`).
pub fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(f);
    spawned.unwrap_or_else(|error| panic!("cannot start thread {name}: {error}"))
}
