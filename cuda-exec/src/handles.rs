//! The session's objects, by the ids that the guest chose. An object is destroyed when nobody uses it any more: the call
//! that destroys it takes it out of its table, and a ring that is using it at that moment keeps it alive until it is through.
use crate::calls::{Allocation, Array, Link, Mipmapped, Pool, TextureObjects};
use crate::clock::now_ns;
use crate::cuda::{self, Raw};
use crate::graphs::{Graph, GraphExec};
use crate::image::Image;
use crate::limits::{Charge, Limits};
use crate::session::Session;
use crate::window::{Started, Times, Track, Work};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use vgpu_protocol::limits::{CONTEXTS_MAX, EVENTS_MAX, LINKS_MAX, OBJECTS_MAX, POOLS_MAX, STREAMS_MAX};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::words::KernelParam;

/// Objects of one kind.
pub struct Table<T> {
    ids: std::ops::Range<u32>,
    slots: RwLock<HashMap<u32, Arc<T>>>,
}

/// An id that is out of bounds or taken, or an object whose context was destroyed while it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadId;

/// What a table has.
pub trait Listed {
    /// The context that it goes with.
    fn context(&self) -> Option<&Context>;
}

macro_rules! listed {
    ($($kind:ty: |$object:pat_param| $context:expr;)*) => {$(
        impl Listed for $kind {
            fn context(&self) -> Option<&Context> {
                let $object = self;
                $context
            }
        }
    )*};
}
listed! {
    Context: |_| None;
    Stream: |stream| Some(&stream.context);
    Event: |event| Some(&event.context);
    Module: |module| Some(&module.context);
    Function: |function| Some(&function.module.context);
    Graph: |graph| Some(&graph.context);
    GraphExec: |exec| Some(&exec.context);
    Pool: |_| None;
    Allocation: |_| None;
    Link: |link| Some(&link.context);
    Array: |array| Some(&array.context);
    Mipmapped: |array| Some(&array.context);
}

impl<T: Listed> Table<T> {
    /// Ids lie in `ids`.
    pub fn new(ids: std::ops::Range<u32>) -> Self {
        Self {
            ids,
            slots: RwLock::new(HashMap::new()),
        }
    }

    /// The object with that id.
    pub fn get(&self, id: u32) -> Option<Arc<T>> {
        self.slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Whether a new object may have that id.
    pub fn check_new(&self, id: u32) -> Result<(), BadId> {
        let free = self.ids.contains(&id)
            && !self
                .slots
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&id);
        if free { Ok(()) } else { Err(BadId) }
    }

    /// Adds an object.
    pub fn insert(&self, id: u32, object: T) -> Result<Arc<T>, BadId> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: what comes later the end of its context does not find, and the id may soon be another object's.
        let is_late = object.context().is_some_and(Context::is_destroyed);
        if is_late || !self.ids.contains(&id) || slots.contains_key(&id) {
            return Err(BadId);
        }
        let object = Arc::new(object);
        slots.insert(id, object.clone());
        Ok(object)
    }

    /// Takes an object out.
    pub fn remove(&self, id: u32) -> Option<Arc<T>> {
        self.slots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
    }

    /// The first object that `which` picks, with its id.
    pub fn find(&self, which: impl Fn(&T) -> bool) -> Option<(u32, Arc<T>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots
            .iter()
            .find(|(_, object)| which(object))
            .map(|(&id, object)| (id, object.clone()))
    }

    /// All objects now.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Takes all objects out that `which` picks.
    pub fn remove_all(&self, which: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots
            .extract_if(|_, object| which(object))
            .map(|(_, object)| object)
            .collect()
    }
}

/// All objects of a session.
pub struct Objects {
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    pub graph_execs: Table<GraphExec>,
    pub pools: Table<Pool>,
    pub allocations: Table<Allocation>,
    pub links: Table<Link>,
    pub arrays: Table<Array>,
    pub mipmapped: Table<Mipmapped>,
    pub textures: TextureObjects,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            contexts: Table::new(1..CONTEXTS_MAX),
            streams: Table::new(0..STREAMS_MAX),
            events: Table::new(0..EVENTS_MAX),
            modules: Table::new(0..OBJECTS_MAX),
            functions: Table::new(0..OBJECTS_MAX),
            graphs: Table::new(0..OBJECTS_MAX),
            graph_execs: Table::new(0..OBJECTS_MAX),
            pools: Table::new(0..POOLS_MAX),
            allocations: Table::new(0..OBJECTS_MAX),
            links: Table::new(0..LINKS_MAX),
            arrays: Table::new(0..OBJECTS_MAX),
            mipmapped: Table::new(0..OBJECTS_MAX),
            textures: TextureObjects::default(),
        }
    }
}

static SERIALS: AtomicU64 = AtomicU64::new(1);
thread_local! {
    /// Serial of the context that libcuda has as this thread's current one; 0 if that is not known.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// libcuda may have changed this thread's current context.
pub fn forget_current() {
    CURRENT.set(0);
}

/// A context.
pub struct Context {
    pub session: &'static Session,
    /// The guest's id.
    pub id: u32,
    pub raw: Raw,
    /// The GPU it is on.
    pub gpu: u32,
    /// What it takes by itself; `None` for the session's home context, which is lent to the guest and stays.
    charge: Option<Charge>,
    /// What its buffers on the device take beyond what they took at first.
    buffers: Mutex<Charge>,
    serial: u64,
    destroyed: AtomicBool,
    spare_events: Mutex<Vec<Raw>>,
    defaults: Mutex<Defaults>,
}

#[derive(Default)]
struct Defaults {
    legacy: Option<Arc<Stream>>,
    per_thread: HashMap<u32, Arc<Stream>>,
}

impl Context {
    /// `charge` is what it takes by itself; without one it is the session's home context.
    pub fn new(session: &'static Session, id: u32, raw: Raw, gpu: u32, charge: Option<Charge>) -> Self {
        Self {
            session,
            id,
            raw,
            gpu,
            charge,
            buffers: Mutex::new(Limits::nothing(gpu)),
            serial: SERIALS.fetch_add(1, SeqCst),
            destroyed: AtomicBool::new(false),
            spare_events: Mutex::default(),
            defaults: Mutex::default(),
        }
    }

    /// Makes it this thread's current context.
    pub fn make_current(&self) -> Result<(), Code> {
        if CURRENT.get() != self.serial {
            self.session.cuda.ctx_set_current(self.raw)?;
            CURRENT.set(self.serial);
        }
        Ok(())
    }

    /// Makes something of its GPU's memory; it is current, and stays so.
    pub fn make(
        &self,
        make: impl FnMut() -> Result<Raw, Code>,
        undo: impl Fn(Raw) -> Result<(), Code>,
    ) -> Result<(Raw, Charge), Code> {
        let session = self.session;
        session.pooled.let_go_now(session, Some(self))?;
        session.limits.make(
            self.gpu,
            || session.free_memory(),
            || session.ask_for_account(),
            make,
            |raw| session.survive(session.relaxed(|| undo(raw))),
        )
    }

    /// Changes the length of a buffer on the device with `change`: from `before` to `after` bytes, which must fit under the quota.
    pub fn resize_buffer(
        &self,
        before: impl FnOnce() -> Result<u64, Code>,
        after: u64,
        change: impl FnOnce() -> Result<(), Code>,
    ) -> Result<(), Code> {
        let limits = &self.session.limits;
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = before()?;
        let counted = buffers.bytes();
        if !limits.grow(&mut buffers, after.saturating_sub(before)) {
            return Err(limits.refuse());
        }
        let changed = change();
        // Longer by what it grew if it did, shorter by what it shrank, but for what it had at first.
        let now = match changed {
            Ok(()) => counted.saturating_add(after).saturating_sub(before),
            Err(_) => counted,
        };
        limits.recount(&mut buffers, now);
        changed
    }

    /// The guest has destroyed it.
    pub fn is_destroyed(&self) -> bool {
        self.destroyed.load(SeqCst)
    }

    /// The guest destroys it: nothing new starts in it. Its default streams.
    pub fn destroy(&self) -> Vec<Arc<Stream>> {
        self.destroyed.store(true, SeqCst);
        let defaults = std::mem::take(&mut *self.defaults());
        defaults
            .legacy
            .into_iter()
            .chain(defaults.per_thread.into_values())
            .collect()
    }

    fn defaults(&self) -> MutexGuard<'_, Defaults> {
        self.defaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its legacy default stream.
    pub fn legacy(self: &Arc<Self>) -> Result<Arc<Stream>, Code> {
        let mut defaults = self.defaults();
        if self.is_destroyed() {
            return Err(result::CONTEXT_IS_DESTROYED);
        }
        let legacy = defaults
            .legacy
            .get_or_insert_with(|| Arc::new(Stream::new(self.clone(), Ok(cuda::STREAM_LEGACY), false)));
        Ok(legacy.clone())
    }

    /// Its default streams that are in use.
    pub fn default_streams(&self) -> Vec<Arc<Stream>> {
        let defaults = self.defaults();
        defaults
            .legacy
            .iter()
            .chain(defaults.per_thread.values())
            .cloned()
            .collect()
    }

    /// The default stream of a ring's thread: a blocking stream like any other, so that other threads can look at it.
    pub fn per_thread(self: &Arc<Self>, ring: u32) -> Result<Arc<Stream>, Code> {
        let mut defaults = self.defaults();
        if self.is_destroyed() {
            return Err(result::CONTEXT_IS_DESTROYED);
        }
        if let Some(stream) = defaults.per_thread.get(&ring) {
            return Ok(stream.clone());
        }
        let raw = self.session.cuda.stream_create(0, 0)?;
        let stream = Arc::new(Stream::new(self.clone(), Ok(raw), true));
        defaults.per_thread.insert(ring, stream.clone());
        Ok(stream)
    }

    /// A ring is gone, and its thread's default stream is to go with it.
    pub fn take_per_thread(&self, ring: u32) -> Option<Arc<Stream>> {
        self.defaults().per_thread.remove(&ring)
    }

    fn spare_events(&self) -> MutexGuard<'_, Vec<Raw>> {
        self.spare_events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let cuda = &self.session.cuda;
        for event in self.spare_events().drain(..) {
            report(cuda.event_destroy(event), "cuEventDestroy");
        }
        match self.charge {
            // Its buffers stay as they are, and count.
            None => self.session.home_is_free(),
            Some(charge) => {
                let destroy = || cuda.ctx_destroy(self.raw);
                report(self.session.relaxed(destroy), "cuCtxDestroy");
                forget_current();
                self.session.limits.give(charge);
                let buffers = self.buffers.get_mut().unwrap_or_else(PoisonError::into_inner);
                self.session.limits.give(*buffers);
            }
        }
    }
}

/// Destroying something fails only if the context is lost, which other calls report as well.
pub fn report(outcome: Result<(), Code>, call: &str) {
    if let Err(code) = outcome {
        log::debug!("{call}: CUDA error {code}");
    }
}

/// A stream.
pub struct Stream {
    pub context: Arc<Context>,
    /// What libcuda knows it as, or why it could not be created: the guest was not told, and finds out when it uses it.
    raw: Result<Raw, Code>,
    owned: bool,
    track: Mutex<Track<Raw>>,
    /// It is in the completion thread's list.
    listed: AtomicBool,
    /// A capture began on it and has not ended.
    capturing: AtomicBool,
    /// A host function of it waits for the guest: everything before is done, and what is behind it is not on the GPU.
    parked: AtomicBool,
}

impl Stream {
    /// `owned` if it is to be destroyed.
    pub fn new(context: Arc<Context>, raw: Result<Raw, Code>, owned: bool) -> Self {
        Self {
            context,
            raw,
            owned,
            track: Mutex::default(),
            listed: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            parked: AtomicBool::new(false),
        }
    }

    pub fn raw(&self) -> Result<Raw, Code> {
        self.raw
    }

    /// What is known of its work.
    pub fn track(&self) -> MutexGuard<'_, Track<Raw>> {
        self.track.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// libcuda has taken one operation, for which there was room. Whether a mark is wanted behind it.
    pub fn submitted(self: &Arc<Self>, work: Work, times: Times, room: Started<'_>) -> bool {
        let session = self.context.session;
        let wants_mark = {
            let mut track = self.track();
            track.submit(work, times);
            room.taken();
            track.wants_mark(session.window().min(session.load.depth()))
        };
        self.list();
        wants_mark
    }

    /// As [`Self::submitted`] for a wait, while a capture may not begin or end, of a stream that is not capturing.
    pub fn submitted_wait(self: &Arc<Self>, room: Started<'_>) -> Result<(), Code> {
        let now = now_ns();
        let times = Times {
            taken: now,
            submitted: now,
        };
        self.track().submit(Work::Wait, times);
        room.taken();
        self.list();
        self.mark_before_capture()
    }

    /// Has the completion thread look at it.
    fn list(self: &Arc<Self>) {
        if !self.listed.swap(true, SeqCst) {
            self.context.session.completion.add(self.clone());
        }
    }

    /// It is about to be taken off the completion thread's list: nothing is in flight. Whether it is still so.
    pub fn unlist(&self) -> bool {
        self.listed.store(false, SeqCst);
        // Work that was submitted in between found it listed, and it stays; or it is being listed anew.
        let stays = self.track().dirty() && !self.listed.swap(true, SeqCst);
        !stays
    }

    /// Puts a mark behind the work submitted so far, unless there is one. A capturing stream takes none; it had none in
    /// flight when its capture began ([`Self::mark_before_capture`]).
    pub fn mark(&self) -> Result<(), Code> {
        let session = self.context.session;
        if !session.captures() {
            return self.mark_before_capture();
        }
        let _still = session.still();
        if session.cuda.stream_is_capturing(self.raw?)? {
            return Ok(());
        }
        self.mark_before_capture()
    }

    /// As [`Self::mark`] for a stream that is known not to be capturing.
    pub fn mark_before_capture(&self) -> Result<(), Code> {
        let raw = self.raw?;
        let cuda = &self.context.session.cuda;
        let mut track = self.track();
        if !track.unmarked() {
            return Ok(());
        }
        // An event can only be recorded on the legacy stream of the current context.
        self.context.make_current()?;
        let spare = self.context.spare_events().pop();
        let event = match spare {
            Some(event) => event,
            None => cuda.event_create_untimed()?,
        };
        if let Err(code) = cuda.event_record(event, raw) {
            self.context.spare_events().push(event);
            return Err(code);
        }
        track.mark(event);
        Ok(())
    }

    /// Looks which marks have come.
    pub fn settle(&self) -> Result<(), Code> {
        let session = self.context.session;
        let mut track = self.track();
        let mut operations = 0;
        while let Some(&event) = track.oldest() {
            if !session.cuda.event_query(event)? {
                break;
            }
            if let Some(reached) = track.reached() {
                session.load.done(reached.operations);
                self.context.spare_events().push(reached.mark);
                if let Some(times) = reached.sample {
                    session.latencies.record(times);
                }
                operations += reached.operations;
                if let Some(submitted) = reached.computed {
                    session.load.computed(submitted);
                }
            }
        }
        if operations > 0 {
            track.looked(operations, now_ns());
        }
        Ok(())
    }

    /// A host function of this stream began to wait for the guest, or ended. Takes no lock: whoever holds one may be waiting
    /// in libcuda for this very function to end.
    pub fn park(&self, parked: bool) {
        self.parked.store(parked, SeqCst);
    }

    /// Whether a host function of it waits for the guest.
    pub fn is_parked(&self) -> bool {
        self.parked.load(SeqCst)
    }

    /// Whether what holds it up may be ended by the guest, or by what the guest has yet to submit: a host function, or a
    /// wait for a value in memory.
    pub fn waits_for_guest(&self) -> bool {
        self.is_parked() || self.track().waits_for_value()
    }

    /// Whether work of it may be on the compute engine.
    pub fn computing(&self) -> bool {
        !self.is_parked() && self.track().computing()
    }

    /// When the oldest of its work that may be on the compute engine now was submitted, if there is any.
    pub fn on_engine(&self) -> Option<u64> {
        // Looked at under the lock: work that is done is no longer there, or not yet counted as done.
        let track = self.track();
        if self.is_parked() { None } else { track.on_engine() }
    }

    /// Whether work for the compute engine may be queued; `true` if that cannot be told without waiting.
    pub fn may_have_compute_work(&self) -> bool {
        self.track.try_lock().map_or(true, |track| track.computing())
    }

    /// A capture is about to begin on this stream; whether none was under way that had begun here.
    pub fn capture_began(&self) -> bool {
        let began = !self.capturing.swap(true, SeqCst);
        if began {
            self.context.session.count_capture(true);
        }
        began
    }

    /// Whether a capture is under way that began on this stream.
    pub fn captures(&self) -> bool {
        self.capturing.load(SeqCst)
    }

    /// The capture that began on this stream is over, if there was one.
    pub fn capture_ended(&self) {
        if self.capturing.swap(false, SeqCst) {
            self.context.session.count_capture(false);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.capture_ended();
        let cuda = &self.context.session.cuda;
        let mut track = self.track.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.session.load.done(track.in_flight());
        for event in track.take_marks() {
            report(cuda.event_destroy(event), "cuEventDestroy");
        }
        if let (true, Ok(raw)) = (self.owned, self.raw) {
            report(cuda.stream_destroy(raw), "cuStreamDestroy");
        }
    }
}

/// An event.
pub struct Event {
    pub context: Arc<Context>,
    /// As in [`Stream`].
    pub raw: Result<Raw, Code>,
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(raw) = self.raw {
            report(self.context.session.cuda.event_destroy(raw), "cuEventDestroy");
        }
    }
}

/// A module.
pub struct Module {
    pub context: Arc<Context>,
    pub id: u32,
    pub raw: Raw,
    /// What it takes of the GPU's memory.
    pub charge: Charge,
    /// Kept while the module is loaded, so that loading the image again finds it.
    pub _image: Arc<Image>,
}

impl Drop for Module {
    fn drop(&mut self) {
        let session = self.context.session;
        let unload = || session.cuda.module_unload(self.raw);
        let unloaded = self.context.make_current();
        report(unloaded.and_then(|()| session.relaxed(unload)), "cuModuleUnload");
        session.limits.give(self.charge);
    }
}

/// A kernel.
pub struct Function {
    pub module: Arc<Module>,
    pub raw: Raw,
    pub params: Vec<KernelParam>,
}

impl Function {
    /// Bytes of its packed parameters.
    pub fn params_len(&self) -> usize {
        self.params
            .iter()
            .map(|p| p.offset as usize + p.size as usize)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    listed! {
        (): |_| None;
        String: |_| None;
    }

    #[test]
    fn ids_are_bounded_and_unique() {
        let table = Table::new(1..4);
        assert_eq!(table.insert(0, ()).err(), Some(BadId));
        assert_eq!(table.insert(4, ()).err(), Some(BadId));
        assert!(table.insert(3, ()).is_ok());
        assert_eq!(table.check_new(3), Err(BadId));
        assert_eq!(table.insert(3, ()).err(), Some(BadId));
        assert!(table.remove(3).is_some());
        assert!(table.remove(3).is_none());
        assert!(table.insert(3, ()).is_ok());
    }

    #[test]
    fn an_object_in_use_outlives_its_id() {
        let table = Table::new(0..4);
        let object = table.insert(2, String::from("used")).unwrap();
        assert_eq!(table.remove_all(|o| o == "used").len(), 1);
        assert!(table.get(2).is_none());
        assert_eq!(*object, "used");
    }
}
