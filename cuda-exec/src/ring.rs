//! One ring's consumer: a thread that stands for one guest thread. It copies each record out once, checks the copy, runs
//! it, and answers if it is asked to. The ring itself is written by the guest at any moment and decides nothing.
use crate::calls::BAD_HANDLE;
use crate::clock::now_ns;
use crate::cuda::Raw;
use crate::dispatch;
use crate::handles::{Context, Event, Stream};
use crate::recording::{To, captures};
use crate::session::Session;
use crate::shared::Shared;
use crate::spin::Spin;
use crate::window::{Started, Times, Work};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::calls;
use vgpu_protocol::limits::{
    CONTEXTS_MAX, RECORD_LEN_MAX, REPLY_LEN_MAX, RING_DATA_LEN, STREAMS_MAX, WORDS_MAX,
};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::ring::{self, GpuInfo, HEADER_LEN, RecordHeader, RecordShape, RingError, op};
use vgpu_protocol::words::handle;
use zerocopy::{FromBytes, IntoBytes};

/// Why a call was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The guest's program gets this code.
    Cuda(Code),
    /// The session ends.
    Broken(RingError),
    /// The ring was taken away while the call waited.
    Stopped,
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::Cuda(code)
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::Broken(error)
    }
}

impl From<crate::turn::Stopped> for Failure {
    fn from(_: crate::turn::Stopped) -> Self {
        Self::Stopped
    }
}

/// What other threads know of a ring.
pub struct RingState {
    /// Position up to which records were executed.
    executed: AtomicU64,
    /// Threads that wait for that position.
    waiting: AtomicU32,
    progress: (Mutex<()>, Condvar),
    stop: AtomicBool,
    dry: AtomicBool,
    doorbell: OwnedFd,
    addr: u64,
}

impl RingState {
    /// A ring at that address; the eventfd rings when the guest has written to it while its consumer slept.
    pub fn new(addr: u64, doorbell: OwnedFd) -> Self {
        Self {
            executed: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            progress: (Mutex::new(()), Condvar::new()),
            stop: AtomicBool::new(false),
            dry: AtomicBool::new(false),
            doorbell,
            addr,
        }
    }

    /// Where it lies.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Whether its consumer has found nothing to do.
    pub fn is_dry(&self) -> bool {
        self.dry.load(SeqCst)
    }

    /// Ends its consumer.
    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
        // Fails only if the counter is full, and then the consumer wakes up anyway.
        let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
        self.notify();
    }

    /// Sleeps until the doorbell rings. May return early. The eventfd is the backend's and may be a non-blocking one.
    fn await_doorbell(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        // Interrupted, rung or read by nobody: the caller looks at the ring whatever it was.
        let _ = poll(&mut [PollFd::new(&self.doorbell, PollFlags::IN)], None);
        let _ = rustix::io::read(&self.doorbell, &mut [0; 8]);
    }

    fn publish(&self, position: u64) {
        self.executed.store(position, SeqCst);
        if self.waiting.load(SeqCst) != 0 {
            self.notify();
        }
    }

    fn notify(&self) {
        drop(self.progress.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.progress.1.notify_all();
    }

    /// Waits until records up to a position were executed, or `stop` says so.
    fn wait_for(&self, position: u64, stop: impl Fn() -> bool) {
        let done = || self.executed.load(SeqCst) >= position || self.stop.load(SeqCst);
        for _ in 0..200 {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        self.waiting.fetch_add(1, SeqCst);
        let mut guard = self.progress.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !done() && !stop() {
            let waited = self.progress.1.wait_timeout(guard, Duration::from_millis(20));
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(guard);
        self.waiting.fetch_sub(1, SeqCst);
    }
}

/// One record, copied.
pub struct Record<'a> {
    pub op: u16,
    pub reply: bool,
    pub words: &'a [u64],
    pub blob: &'a [u8],
}

/// A reply being made.
#[derive(Default)]
pub struct Reply {
    pub words: [u64; WORDS_MAX],
    pub words_len: usize,
    pub blob: Vec<u8>,
}

impl Reply {
    fn clear(&mut self) {
        self.words_len = 0;
        self.blob.clear();
    }
}

/// Whether a guest thread may be waiting for what a record has the GPU do behind the work before it.
fn is_waited_for(operation: u16) -> bool {
    operation == op::FENCE || operation == calls::cuEventRecord::OP
}

/// Where a consumer stands in its ring.
struct Cursor {
    memory: Shared,
    tail: u64,
}

impl Cursor {
    /// Copies the record at the tail out, checks its header, and moves the tail behind it. Also whether that made room in
    /// a ring that was more than half full.
    fn take(&mut self, head: u64, copy: &mut [u64]) -> Result<(RecordShape, bool), RingError> {
        let at = ring::DATA + self.tail % u64::from(RING_DATA_LEN);
        let to_end = u64::from(RING_DATA_LEN) - self.tail % u64::from(RING_DATA_LEN);
        let header_words = (u64::from(HEADER_LEN).min(to_end) / 8) as usize;
        copy[..2].fill(0);
        self.memory.copy_out(at, &mut copy[..header_words]);
        let header = RecordHeader::read_from_bytes(copy[..2].as_bytes()).expect("two words are a header");
        let shape = ring::check_header(header, head, self.tail)?;
        if shape.op != op::SKIP {
            // The header in the copy is the one that was checked.
            self.memory
                .copy_out(at + u64::from(HEADER_LEN), &mut copy[2..shape.len as usize / 8]);
        }
        let half = u64::from(RING_DATA_LEN) / 2;
        let was_full = head - self.tail > half;
        self.tail += u64::from(shape.len);
        self.memory.u64(ring::TAIL).store(self.tail, SeqCst);
        Ok((shape, was_full && head - self.tail <= half))
    }
}

/// A ring's consumer.
pub struct Consumer {
    pub session: &'static Session,
    index: u32,
    state: Arc<RingState>,
    cursor: Cursor,
    /// The id of the current context: a context that is made anew has the same one, and the guest does not say it again.
    context: u32,
    /// When the record that is being carried out was taken from the ring, in nanoseconds.
    taken_ns: u64,
    /// The stream that wants a mark behind the last work that this ring submitted.
    unmarked: Cell<Option<Arc<Stream>>>,
}

impl Consumer {
    /// The consumer of a ring whose memory is held.
    pub fn new(session: &'static Session, index: u32, state: Arc<RingState>, memory: Shared) -> Self {
        Self {
            session,
            index,
            state,
            cursor: Cursor { memory, tail: 0 },
            context: handle::CONTEXT_NONE,
            taken_ns: 0,
            unmarked: Cell::new(None),
        }
    }

    /// The thread's work: until the ring is taken away.
    pub fn run(mut self) {
        crate::completion::wake_precisely();
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut spin = Spin::new(cpus);
        let mut copy = vec![0u64; RECORD_LEN_MAX as usize / 8];
        let mut reply = Reply::default();
        while let Some(head) = self.await_head(&mut spin) {
            if let Err(error) = ring::check_head(head, self.cursor.tail) {
                self.session.broken(self.index, error);
            }
            while self.cursor.tail < head && !self.stopping() {
                match self.cursor.take(head, &mut copy) {
                    Ok((shape, made_room)) => {
                        if made_room {
                            // A guest thread may sleep until there is.
                            self.session.area.wake();
                        }
                        let waited_for = is_waited_for(shape.op);
                        if !waited_for {
                            self.mark();
                        }
                        self.execute(shape, &copy, &mut reply);
                        if waited_for {
                            self.mark();
                        }
                    }
                    Err(error) => self.session.broken(self.index, error),
                }
                self.state.publish(self.cursor.tail);
            }
        }
        self.mark();
        for context in self.session.objects.contexts.all() {
            if let Some(stream) = context.take_per_thread(self.index) {
                // Not destroyed here: the session may be suspended.
                self.session.completion.bury(stream);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.state.stop.load(SeqCst)
    }

    /// Waits until there is something after the tail; `None` when the ring is taken away.
    fn await_head(&self, spin: &mut Spin) -> Option<u64> {
        let head = self.cursor.memory.u64(ring::HEAD);
        let asleep = self.cursor.memory.u32(ring::ASLEEP);
        let look = |order| Some(head.load(order)).filter(|&head| head != self.cursor.tail);
        if self.stopping() {
            return None;
        }
        if let Some(head) = look(Acquire) {
            return Some(head);
        }
        self.mark();
        self.state.dry.store(true, SeqCst);
        let found = loop {
            spin.urgency(self.session.slice());
            let start = Instant::now();
            let found = loop {
                if let Some(head) = look(Acquire) {
                    break Some(head);
                }
                if start.elapsed() >= spin.budget() || self.stopping() {
                    break None;
                }
                std::hint::spin_loop();
            };
            if let Some(head) = found {
                spin.came();
                break Some(head);
            }
            spin.none_came(start.elapsed());
            self.session.show_load();
            asleep.store(1, SeqCst);
            let sleep = Instant::now();
            if look(SeqCst).is_none() && !self.stopping() {
                self.state.await_doorbell();
                if look(Acquire).is_some() {
                    spin.came_soon(sleep.elapsed());
                }
            }
            asleep.store(0, SeqCst);
            if self.stopping() {
                break None;
            }
        };
        self.state.dry.store(false, SeqCst);
        found
    }

    /// Puts the mark that is wanted behind the last work. Not done with the work itself: what the guest waits for next goes to
    /// the GPU first.
    fn mark(&self) {
        let Some(stream) = self.unmarked.take() else {
            return;
        };
        let session = self.session;
        match session.suspension.try_awake() {
            Some(_awake) => {
                session.survive(stream.mark());
                drop(stream);
            }
            // Nothing is in flight, and a last user may not destroy the stream now.
            None => session.completion.bury(stream),
        }
    }

    fn execute(&mut self, shape: RecordShape, copy: &[u64], reply: &mut Reply) {
        let words = &copy[2..2 + shape.words];
        let blob = &copy[2 + shape.words..].as_bytes()[..shape.blob];
        reply.clear();
        let record = Record {
            op: shape.op,
            reply: shape.reply,
            words,
            blob,
        };
        let outcome = match record.op {
            op::SKIP => return,
            op::DEPS => self.deps(&record),
            op::SET_CONTEXT => self.set_context(&record),
            op::FENCE => self.fence(&record),
            op::GPU_INFO => self.gpu_info(&record, reply),
            op::TEXT => self.text(&record, reply),
            _ => self.call(&record, reply),
        };
        let code = match outcome {
            Ok(()) => result::SUCCESS,
            Err(Failure::Cuda(code)) => code,
            Err(Failure::Broken(error)) => self.session.broken(self.index, error),
            Err(Failure::Stopped) => return,
        };
        if code != result::SUCCESS {
            self.session.look_at(code);
        }
        if shape.reply {
            self.answer(code, reply);
        } else if code != result::SUCCESS {
            log::debug!(
                "ring {}: {} failed with {code}",
                self.index,
                dispatch::name(record.op)
            );
            self.session.area.context_error(self.context, code);
        }
    }

    /// Carries a call out as soon as the VM's limits let it.
    fn call(&mut self, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let session = self.session;
        let row = calls::find_op(record.op).ok_or(RingError::Op(record.op))?;
        self.taken_ns = now_ns();
        // A thread that is held back keeps nobody else from the GPU.
        let held_back = |begins| {
            self.state.dry.store(begins, SeqCst);
            session.show_load();
        };
        session
            .limits
            .admit(row, self.taken_ns, held_back, || self.stopping())?;
        let _awake = session.suspension.awake(session, || self.stopping())?;
        let page = session.turn.page();
        let number = page.map(|page| page.record(self.taken_ns / 1000, record.op, self.index as u16));
        let outcome = dispatch::call(self, record, reply);
        if let (Some(page), Some(number)) = (page, number) {
            page.record_end(number, (now_ns() - self.taken_ns) / 1000);
        }
        session.load.call_done();
        outcome
    }

    fn answer(&self, code: Code, reply: &Reply) {
        let (words, blob) = match code {
            result::SUCCESS => (&reply.words[..reply.words_len], &reply.blob[..]),
            _ => (&[][..], &[][..]),
        };
        assert!(
            8 * words.len() + blob.len() <= REPLY_LEN_MAX as usize,
            "a handler's reply is too long"
        );
        let memory = &self.cursor.memory;
        memory.copy_in(ring::REPLY, words);
        memory.copy_bytes_in(ring::REPLY + 8 * words.len() as u64, blob);
        memory.i32(ring::REPLY_STATUS).store(code, Relaxed);
        memory.u32(ring::REPLY_WORDS).store(words.len() as u32, Relaxed);
        memory.u32(ring::REPLY_BLOB).store(blob.len() as u32, Relaxed);
        memory.u64(ring::REPLY_POS).store(self.cursor.tail, SeqCst);
        self.session.area.wake();
    }

    fn deps(&self, record: &Record<'_>) -> Result<(), Failure> {
        let bad = Failure::Broken(RingError::Arguments { op: record.op });
        let pairs = <[[u64; 2]]>::ref_from_bytes(record.blob).map_err(|_| bad)?;
        if pairs.is_empty()
            || pairs.len() > vgpu_protocol::limits::DEPS_MAX
            || !record.words.is_empty()
            || record.reply
        {
            return Err(bad);
        }
        for &[index, position] in pairs {
            if index == u64::from(self.index) || index >= u64::from(vgpu_protocol::limits::RINGS_MAX) {
                return Err(bad);
            }
            // A ring that is gone runs nothing any more.
            let Some(other) = self.session.ring(index as u32) else {
                continue;
            };
            // What was written before this record and has not been executed is still in the other ring, or the one record
            // that was taken out of it.
            let written_max = u64::from(RING_DATA_LEN) + u64::from(RECORD_LEN_MAX);
            if position.saturating_sub(other.executed.load(SeqCst)) > written_max {
                return Err(bad);
            }
            other.wait_for(position, || self.stopping());
        }
        Ok(())
    }

    fn set_context(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let (&[context], false, true) = (record.words, record.reply, record.blob.is_empty()) else {
            return Err(RingError::Arguments { op: record.op }.into());
        };
        // One that was destroyed may be the thread's current one, as natively; its calls fail.
        let id = u32::try_from(context).ok().filter(|id| *id < CONTEXTS_MAX);
        self.context = id.ok_or(RingError::Arguments { op: record.op })?;
        Ok(())
    }

    fn fence(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let bad = Failure::Broken(RingError::Arguments { op: record.op });
        let &[stream, slot, sequence] = record.words else {
            return Err(bad);
        };
        let slot = u32::try_from(slot)
            .ok()
            .filter(|slot| *slot < STREAMS_MAX)
            .ok_or(bad)?;
        if record.reply || !record.blob.is_empty() {
            return Err(bad);
        }
        let _awake = self.session.suspension.awake(self.session, || self.stopping())?;
        let stream = self.stream(stream)?;
        self.write_fence(&stream, slot, sequence)
    }

    fn gpu_info(&self, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
        if !record.words.is_empty() || !record.reply || !record.blob.is_empty() {
            return Err(RingError::Arguments { op: record.op }.into());
        }
        for (number, gpu) in self.session.cuda.gpus().enumerate() {
            let (_, memory) = self.session.limits.memory(number as u32, 0, gpu.memory);
            reply
                .blob
                .extend_from_slice(GpuInfo { memory, ..*gpu }.as_bytes());
        }
        reply.words[0] = self.session.cuda.gpus().len() as u64;
        reply.words_len = 1;
        Ok(())
    }

    /// Waits for what the guest has waited for, so that libcuda writes what kernels printed, and answers with that.
    fn text(&self, record: &Record<'_>, reply: &mut Reply) -> Result<(), Failure> {
        let bad = Failure::Broken(RingError::Arguments { op: record.op });
        let (&[of, which], true, true) = (record.words, record.reply, record.blob.is_empty()) else {
            return Err(bad);
        };
        let session = self.session;
        let _awake = session.suspension.awake(session, || self.stopping())?;
        let wait: Box<dyn FnOnce() -> Result<(), Code>> = match of {
            op::TEXT_OF_NOTHING => Box::new(|| Ok(())),
            op::TEXT_OF_CONTEXT => {
                self.context()?;
                Box::new(|| session.cuda.ctx_synchronize())
            }
            op::TEXT_OF_STREAM => {
                let stream = self.stream(which)?;
                Box::new(move || session.cuda.stream_synchronize(stream.raw()?))
            }
            op::TEXT_OF_EVENT => {
                let event = self.event(u32::try_from(which).map_err(|_| bad)?)?;
                Box::new(move || session.cuda.event_synchronize(event.raw?))
            }
            _ => return Err(bad),
        };
        // In a capture waiting may be forbidden; the text comes with a later wait then.
        if !session.captures() {
            wait()?;
        }
        let ([out, error], more) = session.output.take(session, REPLY_LEN_MAX as usize - 64);
        reply.words[..3].copy_from_slice(&[out.len() as u64, error.len() as u64, u64::from(more)]);
        reply.words_len = 3;
        reply.blob.extend_from_slice(&out);
        reply.blob.extend_from_slice(&error);
        Ok(())
    }

    /// The ring's current context, made current to this thread.
    pub fn context(&self) -> Result<Arc<Context>, Code> {
        if self.context == handle::CONTEXT_NONE {
            return Err(result::INVALID_CONTEXT);
        }
        let context = self.session.objects.contexts.get(self.context);
        let context = context.filter(|context| !context.is_destroyed());
        let context = context.ok_or(result::CONTEXT_IS_DESTROYED)?;
        context.make_current()?;
        Ok(context)
    }

    /// The stream that a word names.
    pub fn stream(&self, word: u64) -> Result<Arc<Stream>, Failure> {
        match word {
            handle::STREAM_LEGACY => Ok(self.context()?.legacy()?),
            handle::STREAM_PER_THREAD => Ok(self.context()?.per_thread(self.index)?),
            _ => {
                let stream = u32::try_from(word)
                    .ok()
                    .and_then(|id| self.session.objects.streams.get(id));
                let stream = stream.ok_or(BAD_HANDLE)?;
                stream.context.make_current()?;
                Ok(stream)
            }
        }
    }

    /// The event with that id.
    pub fn event(&self, id: u32) -> Result<Arc<Event>, Failure> {
        self.session.objects.events.get(id).ok_or(BAD_HANDLE)
    }

    /// Has libcuda take one operation of a stream. What needs the compute engine waits for the turn; what a capture records
    /// needs none. `submit` is told where the operation goes, and answers with whatever must be kept until it is counted.
    pub fn submit<K>(
        &self,
        stream: &Arc<Stream>,
        work: Work,
        submit: impl FnOnce(Raw, &mut To<'_>) -> Result<K, Code>,
    ) -> Result<(), Failure> {
        let session = self.session;
        if session.captures() {
            let _still = session.still();
            if captures(session, stream)? {
                return self.record(stream, submit);
            }
        }
        if work != Work::Other {
            // One record may submit several.
            self.mark();
        }
        // Marks may be on streams of other contexts.
        stream.context.make_current()?;
        let room = self.make_room(stream)?;
        if stream.track().wants_mark_before(work) {
            stream.mark()?;
        }
        // The proof waits for all work there is; behind a wait for a value that might never end.
        let proves_first = work == Work::Value && !self.session.preempt.is_proved();
        let turn = if work == Work::Compute || proves_first {
            Some(self.session.turn.enter(|| {
                self.session.show_load();
                self.stopping()
            })?)
        } else {
            None
        };
        if turn.is_some() {
            self.session.preempt.prove_once(self.session);
        }
        let still = session.still();
        // One may have begun while there was no room, or no turn.
        if captures(session, stream)? {
            drop((room, turn));
            return self.record(stream, submit);
        }
        let kept = submit(stream.raw()?, &mut To::Gpu)?;
        let times = Times {
            taken: self.taken_ns,
            submitted: now_ns(),
        };
        let wants_mark = stream.submitted(work, times, room);
        drop(still);
        if wants_mark {
            match self.unmarked.take() {
                Some(same) if Arc::ptr_eq(&same, stream) => {}
                other => {
                    self.unmarked.set(other);
                    self.mark();
                }
            }
            self.unmarked.set(Some(stream.clone()));
        }
        drop((kept, turn));
        Ok(())
    }

    /// Has libcuda put one operation into the graph that a stream captures, and goes on capturing meanwhile.
    fn record<K>(
        &self,
        stream: &Arc<Stream>,
        submit: impl FnOnce(Raw, &mut To<'_>) -> Result<K, Code>,
    ) -> Result<(), Failure> {
        let raw = stream.raw()?;
        let mut graphs = self.session.graphs.lock();
        graphs.record(self.session, raw, |recorded| {
            submit(raw, &mut To::Graph(recorded)).map(drop)
        })?;
        Ok(())
    }

    /// Waits until less than a window of operations is in flight on a stream, and less than the session's depth over all of
    /// them.
    pub fn make_room(&self, stream: &Arc<Stream>) -> Result<Started<'static>, Failure> {
        let session = self.session;
        let try_now = || {
            let full = stream.track().full(session.window());
            if full { None } else { session.load.try_start() }
        };
        if let Some(room) = try_now() {
            return Ok(room);
        }
        let room = session.relaxed(|| {
            let mut looks = 0u32;
            loop {
                stream.mark()?;
                stream.settle()?;
                if let Some(room) = try_now() {
                    return Ok(room);
                }
                if !stream.track().full(session.window()) {
                    // What fills the depth is on other streams. Behind a host function that waits for the guest, or a wait
                    // for a value, nothing is on the GPU; they may be waiting for what this thread is to submit.
                    let streams = session.completion.streams();
                    if streams.iter().any(|stream| stream.waits_for_guest()) {
                        return Ok(session.load.start());
                    }
                    session.completion.check(session);
                }
                if self.stopping() {
                    return Err(Failure::Stopped);
                }
                looks += 1;
                if looks > 20 {
                    std::thread::sleep(crate::completion::FAST);
                }
            }
        });
        // To look at other contexts' streams, they were made current.
        stream.context.make_current()?;
        room
    }

    /// Has the GPU write a fence word behind a stream's work.
    pub fn write_fence(&self, stream: &Arc<Stream>, slot: u32, sequence: u64) -> Result<(), Failure> {
        let fence = self.fence_word(slot)?;
        self.submit(stream, Work::Other, |raw, to| match to {
            To::Gpu => fence(raw, sequence),
            // It would become a node, and come again and again.
            To::Graph(_) => Err(result::STREAM_CAPTURE_UNSUPPORTED),
        })?;
        self.session.completion.fence(slot, sequence);
        Ok(())
    }

    /// What has the GPU write a fence word behind what a stream has been given so far. The completion thread is to be told of
    /// the fence once that is submitted: before, it may find that nothing is in flight and take it for one that was written.
    pub fn fence_word(&self, slot: u32) -> Result<impl Fn(Raw, u64) -> Result<(), Code>, Code> {
        let session = self.session;
        let words = session.area.words().ok_or(result::ILLEGAL_STATE)?;
        let word = words.u64(vgpu_protocol::area::fence(slot)).as_ptr() as u64;
        Ok(move |raw, sequence| {
            // SAFETY: the session area is registered and stays so.
            unsafe { session.cuda.stream_write_value64(raw, word, sequence) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use vgpu_protocol::ring::RING_LEN;

    /// A guest that rewrites a record's header all the time: what is taken is always one of the headers that pass the check,
    /// or refused, and what is copied is as long as the header in the copy says.
    #[test]
    fn a_header_that_changes_is_taken_as_one_of_what_it_was() {
        let mut memory = vec![0u64; RING_LEN as usize / 8];
        // SAFETY: the vector outlives the threads below, and is touched through this value only.
        let shared = unsafe { Shared::new(memory.as_mut_ptr().cast(), RING_LEN) };
        let header = |len: u32, words: u16| RecordHeader {
            len,
            op: op::FENCE,
            flags: 0,
            words,
            reserved: 0,
            blob: 0,
        };
        let headers = [header(40, 3), header(24, 1), header(1 << 30, 3), header(24, 3)];
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    for header in &headers {
                        shared.copy_bytes_in(ring::DATA, header.as_bytes());
                    }
                }
            });
            let mut copy = vec![0u64; RECORD_LEN_MAX as usize / 8];
            let mut taken = 0;
            while taken < 2000 {
                let mut cursor = Cursor {
                    memory: shared,
                    tail: 0,
                };
                if let Ok((shape, _)) = cursor.take(64, &mut copy) {
                    let kept = RecordHeader::read_from_bytes(copy[..2].as_bytes()).unwrap();
                    assert_eq!((kept.len, usize::from(kept.words)), (shape.len, shape.words));
                    assert_eq!(ring::check_header(kept, 64, 0), Ok(shape));
                    assert_eq!(cursor.tail, u64::from(shape.len));
                    taken += 1;
                }
            }
            end.store(true, Relaxed);
        });
    }
}
