//! The objects behind the program's handles.
use crate::api::Variables;
use crate::area::Area;
use crate::host_functions::Kept;
use crate::lock;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use vgpu_protocol::ring::GpuInfo;
use vgpu_protocol::structs::graph::EdgeData;
use vgpu_protocol::words::KernelParam;

/// A number that nothing else in this process has.
pub fn serial() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// What a stream waits for beside its own work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// The context's legacy default stream: waits for all streams but non-blocking ones, and they for it.
    Legacy,
    /// A thread's default stream, run by one ring's consumer.
    PerThread,
    /// Created without flags.
    Blocking,
    /// Created with CU_STREAM_NON_BLOCKING.
    NonBlocking,
}

/// A stream.
pub struct Stream {
    /// Its fence word; also its id on the wire if the program created it.
    pub slot: u32,
    /// Its word in records.
    pub word: u64,
    /// Its context.
    pub context: u32,
    /// Its kind.
    pub kind: StreamKind,
    /// Its priority.
    pub priority: i32,
    /// What no other stream of this process ever has.
    pub serial: u64,
    /// The ring whose consumer's default stream it is.
    pub home: Option<u32>,
    /// Works as other streams of its context do: counts what was submitted to it.
    work: AtomicU64,
    /// The last fence, under the lock that also keeps their order in the rings.
    pub fenced: Mutex<Fenced>,
    /// The capture it takes part in, 0 for none.
    capture: AtomicU64,
    /// Its context is gone, and so is all of its work.
    dead: AtomicBool,
    /// The legacy stream's: all that it waits for.
    siblings: Option<Arc<Streams>>,
    /// What was told last of its part in a capture: the program may look at it until its next call.
    pub told: Mutex<(Vec<usize>, Vec<EdgeData>)>,
}

/// How much of a stream's work its last fence covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fenced {
    /// The count of work.
    pub work: u64,
    /// The fence's number; 0 before the first.
    pub sequence: u64,
    /// No other one follows, since the stream is destroyed: the host would not know it any more.
    pub is_last: bool,
}

/// A place in a stream's work: its fence word reaches a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The fence word.
    pub slot: u32,
    /// The number.
    pub sequence: u64,
}

impl Stream {
    /// A stream in whose slot `sequence` was the last number.
    pub fn new(slot: u32, word: u64, context: u32, kind: StreamKind, sequence: u64) -> Self {
        Self {
            slot,
            word,
            context,
            kind,
            priority: 0,
            serial: serial(),
            home: None,
            work: AtomicU64::new(0),
            fenced: Mutex::new(Fenced {
                sequence,
                ..Fenced::default()
            }),
            capture: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            siblings: None,
            told: Mutex::default(),
        }
    }

    /// The legacy stream that waits for `siblings`.
    pub fn with_siblings(self, siblings: Arc<Streams>) -> Self {
        Self {
            siblings: Some(siblings),
            ..self
        }
    }

    /// One of this priority.
    pub fn with_priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// The default stream of a ring's consumer.
    pub fn at_home(self, ring: u32) -> Self {
        Self {
            home: Some(ring),
            ..self
        }
    }

    /// Counts work that was submitted, once its record can be seen: a fence written after that is behind it.
    pub fn did_submit(&self) {
        if self.capture() == 0 {
            self.work.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How much was submitted that a fence here would wait for.
    pub fn work(&self) -> u64 {
        let own = self.work.load(Ordering::Acquire);
        match &self.siblings {
            Some(siblings) => own + siblings.blocking_work(),
            None => own,
        }
    }

    /// The capture it takes part in, 0 for none.
    pub fn capture(&self) -> u64 {
        self.capture.load(Ordering::Acquire)
    }

    /// Joins a capture, or leaves it (0).
    pub fn set_capture(&self, capture: u64) {
        self.capture.store(capture, Ordering::Release);
    }

    /// Whether it waits for a stream that is capturing: nothing may be submitted to it then.
    pub fn waits_for_capture(&self) -> bool {
        self.siblings.as_ref().is_some_and(|s| s.blocking_capture())
    }

    /// Whether it is blocking, seen from the legacy stream.
    pub fn is_blocking(&self) -> bool {
        matches!(self.kind, StreamKind::Blocking | StreamKind::PerThread)
    }

    /// Whether its context is gone.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The last fence, if it is behind the work up to the count `work`.
    pub fn covering(&self, work: u64) -> Option<Point> {
        let fenced = lock(&self.fenced);
        (fenced.work >= work).then_some(Point {
            slot: self.slot,
            sequence: fenced.sequence,
        })
    }

    /// The last fence that was asked for.
    pub fn last_fence(&self) -> Point {
        Point {
            slot: self.slot,
            sequence: lock(&self.fenced).sequence,
        }
    }

    /// Says that its context is gone.
    pub fn bury(&self, area: &Area) {
        self.dead.store(true, Ordering::Release);
        area.set_fence(self.slot, lock(&self.fenced).sequence);
    }
}

/// The captures that began and have not ended.
#[derive(Default)]
pub struct Captures {
    /// What is known of each, by its number.
    open: Mutex<HashMap<u64, Capture>>,
    /// How many there are.
    count: AtomicUsize,
    /// The last one's number.
    last: AtomicU64,
    /// Held while the program is given the handle of a capture's graph.
    pub naming: Mutex<()>,
}

/// A capture that began and has not ended.
pub struct Capture {
    /// The slot of the stream that it began on.
    slot: u32,
    /// What its graph needs.
    pub kept: Vec<Kept>,
    /// The handle of its graph, once the program has one.
    pub graph: Option<usize>,
}

impl Captures {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// One began on the stream with this slot, into that graph if the program has it: its number.
    pub fn began(&self, slot: u32, graph: Option<usize>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = lock(&self.open);
        let kept = Vec::new();
        open.insert(number, Capture { slot, kept, graph });
        self.count.store(open.len(), Ordering::Release);
        number
    }

    /// One has host functions in it.
    pub fn keep(&self, number: u64, functions: impl IntoIterator<Item = Kept>) {
        if let Some(capture) = lock(&self.open).get_mut(&number) {
            capture.kept.extend(functions);
        }
    }

    /// The handle of a capture's graph, if the program has one.
    pub fn graph(&self, number: u64) -> Option<usize> {
        lock(&self.open).get(&number)?.graph
    }

    /// The program has this handle of its graph now.
    pub fn set_graph(&self, number: u64, handle: usize) {
        if let Some(capture) = lock(&self.open).get_mut(&number) {
            capture.graph = Some(handle);
        }
    }

    /// One ended: what was known of it.
    pub fn ended(&self, number: u64) -> Option<Capture> {
        let mut open = lock(&self.open);
        let ended = open.remove(&number);
        self.count.store(open.len(), Ordering::Release);
        ended
    }

    /// Whether a capture began on the stream with this slot.
    pub fn began_on(&self, number: u64, slot: u32) -> bool {
        lock(&self.open)
            .get(&number)
            .is_some_and(|capture| capture.slot == slot)
    }
}

/// The streams of a context beside the legacy one.
#[derive(Default)]
pub struct Streams {
    all: Mutex<Vec<Arc<Stream>>>,
    /// Work of blocking streams that are destroyed.
    retired_work: AtomicU64,
}

impl Streams {
    /// Adds a stream.
    pub fn add(&self, stream: Arc<Stream>) {
        lock(&self.all).push(stream);
    }

    /// Takes a destroyed stream out.
    pub fn retire(&self, stream: &Arc<Stream>) {
        let mut all = lock(&self.all);
        if let Some(i) = all.iter().position(|s| Arc::ptr_eq(s, stream)) {
            all.swap_remove(i);
            if stream.is_blocking() {
                self.retired_work.fetch_add(stream.work() + 1, Ordering::AcqRel);
            }
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        lock(&self.all).clone()
    }

    /// Whether a blocking stream is capturing.
    pub fn blocking_capture(&self) -> bool {
        lock(&self.all)
            .iter()
            .any(|s| s.is_blocking() && s.capture() != 0)
    }

    fn blocking_work(&self) -> u64 {
        let all = lock(&self.all);
        let live: u64 = all.iter().filter(|s| s.is_blocking()).map(|s| s.work()).sum();
        live + self.retired_work.load(Ordering::Acquire)
    }
}

/// A context.
pub struct Context {
    /// Its number on the wire.
    pub id: u32,
    /// Its device's ordinal.
    pub device: usize,
    /// What a launch may ask for.
    pub limits: LaunchLimits,
    /// Its legacy default stream.
    pub legacy: Arc<Stream>,
    /// Its other streams.
    pub streams: Arc<Streams>,
    /// Fences behind the work of destroyed streams that the legacy stream does not wait for.
    pub retired: Mutex<Vec<Point>>,
    /// The flags it has now.
    pub flags: AtomicU32,
    /// It is its device's primary context.
    pub is_primary: bool,
    /// The priorities that its streams may have, least important first, once they were asked for.
    pub priorities: OnceLock<(i32, i32)>,
    /// What no other context of this process ever has.
    pub serial: u64,
    /// Not destroyed.
    alive: AtomicBool,
}

impl Context {
    /// A context whose legacy stream waits for `streams`.
    pub fn new(
        (id, device, info): (u32, usize, &GpuInfo),
        legacy: Arc<Stream>,
        streams: Arc<Streams>,
        flags: u32,
        is_primary: bool,
    ) -> Self {
        Self {
            id,
            device,
            limits: LaunchLimits::of(info),
            legacy,
            streams,
            retired: Mutex::new(Vec::new()),
            flags: AtomicU32::new(flags),
            is_primary,
            priorities: OnceLock::new(),
            serial: serial(),
            alive: AtomicBool::new(true),
        }
    }

    /// What stands for a primary context that does not exist: it may be current, and nothing can be done in it.
    pub fn idle(id: u32, device: usize, info: &GpuInfo) -> Self {
        let legacy = Arc::new(Stream::new(0, 0, id, StreamKind::Legacy, 0));
        let idle = Self::new((id, device, info), legacy, Arc::default(), 0, true);
        idle.end();
        idle
    }

    /// Adds a stream. If another thread destroyed the context meanwhile, which may have missed it, its work is gone, too.
    pub fn add(&self, stream: Arc<Stream>, area: &Area) {
        self.streams.add(stream.clone());
        if !self.is_alive() {
            stream.bury(area);
        }
    }

    /// Whether it is not destroyed.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Destroys it; of two callers one may.
    pub fn end(&self) -> bool {
        self.alive.swap(false, Ordering::AcqRel)
    }
}

/// What a launch may ask for, from the device's attributes.
#[derive(Clone, Copy, Debug)]
pub struct LaunchLimits {
    threads: u32,
    block: [u32; 3],
    grid: [u32; 3],
}

impl LaunchLimits {
    fn of(info: &GpuInfo) -> Self {
        // A limit that the driver does not tell is none.
        let limit = |attribute: usize| u32::try_from(info.attributes[attribute]).unwrap_or(u32::MAX);
        Self {
            threads: limit(1),
            block: [limit(2), limit(3), limit(4)],
            grid: [limit(5), limit(6), limit(7)],
        }
    }

    /// Whether a launch of this shape is possible at all.
    pub fn allow(&self, grid: [u32; 3], block: [u32; 3]) -> bool {
        let within = |size: [u32; 3], limit: [u32; 3]| size.iter().zip(limit).all(|(&s, l)| s >= 1 && s <= l);
        let threads = block.iter().map(|&n| u128::from(n)).product::<u128>();
        within(grid, self.grid) && within(block, self.block) && threads <= u128::from(self.threads)
    }
}

/// What an event stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Never recorded.
    Never,
    /// Recorded behind this.
    At(Point),
    /// Recorded in this capture.
    Captured(u64),
    /// By a graph whenever it runs, behind all work of a context, or for other processes: only the host knows when it is done.
    AtHost,
}

/// An event.
pub struct Event {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    /// CU_EVENT_DISABLE_TIMING was not given.
    pub timing: bool,
    /// Other processes may open it, or have made it: only the host knows when it is done.
    pub shared: bool,
    /// What it stands for now.
    pub recorded: Mutex<Recorded>,
}

/// A module.
pub struct Module {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    /// Handles of the functions that were asked for, by name.
    pub functions: Mutex<HashMap<Vec<u8>, usize>>,
    /// Variables that were asked for, by name: address and bytes.
    pub globals: Mutex<HashMap<Vec<u8>, (u64, u64)>>,
    /// Its managed variables, which the host does not know, if they were taken out of its code.
    pub managed: OnceLock<Arc<Variables>>,
}

/// A kernel in a module.
pub struct Function {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    /// Its module's handle.
    pub module: usize,
    /// Its name.
    pub name: CString,
    /// Its parameters.
    pub params: Box<[KernelParam]>,
    /// Bytes of the packed parameters.
    pub params_len: usize,
    /// Its code demands clusters, so that not every grid will do.
    pub clusters: bool,
    /// What was asked of it, by question.
    pub answers: Mutex<HashMap<Question, i64>>,
    /// Launches that the host is known to take.
    pub proven: Proven,
}

/// A question about a kernel whose answer stays until its attributes change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// The value of a CUfunction_attribute.
    Attribute(i32),
    /// Blocks of a multiprocessor, by threads and bytes of dynamic shared memory of a block, and flags.
    ActiveBlocks(i32, u64, u32),
    /// Bytes of shared memory that are left for a block, by blocks of a multiprocessor and threads of a block.
    AvailableShared(i32, i32),
}

/// Launches with attributes of a kernel that are remembered.
const PROVEN_MAX: usize = 1024;

/// The most threads per block and the most dynamic shared memory of a kernel with which the host has taken a launch. What it
/// takes beyond that depends on the kernel's code and the device, so such a launch is asked for an answer, and the limits follow.
#[derive(Default)]
pub struct Proven {
    threads: AtomicU32,
    shared: AtomicU32,
    /// Launches with attributes, as hashes of all but stream and parameters.
    whole: Mutex<HashSet<u64>>,
}

impl Proven {
    /// Whether a launch like this one is known to be taken.
    pub fn covers(&self, threads: u32, shared: u32) -> bool {
        threads <= self.threads.load(Ordering::Relaxed) && shared <= self.shared.load(Ordering::Relaxed)
    }

    /// Whether this very launch, attributes and all, was taken before.
    pub fn knows(&self, launch: u64) -> bool {
        lock(&self.whole).contains(&launch)
    }

    /// This launch was taken.
    pub fn learn_whole(&self, launch: u64) {
        let mut whole = lock(&self.whole);
        if whole.len() >= PROVEN_MAX {
            whole.clear();
        }
        whole.insert(launch);
    }

    /// What was taken counts no longer: the kernel's attributes changed.
    pub fn forget(&self) {
        self.threads.store(0, Ordering::Relaxed);
        self.shared.store(0, Ordering::Relaxed);
        lock(&self.whole).clear();
    }

    /// A launch like this one was taken.
    pub fn learn(&self, threads: u32, shared: u32) {
        self.threads.fetch_max(threads, Ordering::Relaxed);
        self.shared.fetch_max(shared, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legacy_stream_counts_the_work_of_blocking_streams() {
        let streams = Arc::new(Streams::default());
        let legacy = Stream::new(0, 0, 1, StreamKind::Legacy, 0).with_siblings(streams.clone());
        let blocking = Arc::new(Stream::new(1, 1, 1, StreamKind::Blocking, 0));
        let other = Arc::new(Stream::new(2, 2, 1, StreamKind::NonBlocking, 0));
        streams.add(blocking.clone());
        streams.add(other.clone());
        legacy.did_submit();
        blocking.did_submit();
        other.did_submit();
        assert_eq!((legacy.work(), blocking.work(), other.work()), (2, 1, 1));
        streams.retire(&blocking);
        streams.retire(&other);
        assert!(legacy.work() > 2, "a destroyed stream's work is still waited for");
    }

    #[test]
    fn work_in_a_capture_is_not_counted() {
        let stream = Stream::new(1, 1, 1, StreamKind::Blocking, 7);
        stream.set_capture(3);
        stream.did_submit();
        assert_eq!(stream.work(), 0);
        stream.set_capture(0);
        stream.did_submit();
        assert_eq!(stream.work(), 1);
    }

    #[test]
    fn launches_beyond_the_device_are_refused() {
        let limits = LaunchLimits {
            threads: 1024,
            block: [1024, 1024, 64],
            grid: [i32::MAX as u32, 65535, 65535],
        };
        assert!(limits.allow([1, 1, 1], [1024, 1, 1]));
        assert!(!limits.allow([1, 1, 1], [1024, 2, 1]));
        assert!(!limits.allow([0, 1, 1], [1, 1, 1]));
        assert!(!limits.allow([1, 65536, 1], [1, 1, 1]));
        assert!(!limits.allow([1, 1, 1], [1, 1, 65]));
    }
}
